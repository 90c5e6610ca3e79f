//! A function's own server that does what its path says, good and bad; and a watchdog in front of it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::support::stack::binary;

pub(super) const KEY: &str = "open sesame";
/// Longest any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("nothing happened")
}

/// See the module.
pub(super) struct Function {
    listener: std::net::TcpListener,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) served: Arc<AtomicUsize>,
    /// Lets `/events` go on.
    pub(super) next: Arc<Notify>,
    /// Whoever waited for `/endless` or `/never` has gone.
    pub(super) gone: Arc<Notify>,
}

impl Function {
    pub(super) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (connections, served) = (Arc::default(), Arc::default());
        Self { listener, connections, served, next: Arc::default(), gone: Arc::default() }
    }

    fn serve(self) -> u16 {
        let port = self.listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let listener = TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
            let function = Arc::new(self);
            while let Ok((stream, _)) = listener.accept().await {
                function.connections.fetch_add(1, Ordering::SeqCst);
                let function = Arc::clone(&function);
                tokio::spawn(async move { function.connection(stream).await });
            }
        });
        port
    }

    async fn connection(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (line, headers) = head(&mut stream).await?;
            let body = body(&mut stream, &headers).await?;
            let path = line.split(' ').nth(1)?.split('?').next()?.to_owned();
            let is_head = line.starts_with("HEAD ");
            self.served.fetch_add(1, Ordering::SeqCst);
            if !self.answer(&mut stream, &path, is_head, (&headers, &body)).await? {
                return Some(());
            }
        }
    }

    /// Answers by `path`; whether the connection stays open.
    async fn answer(
        &self,
        stream: &mut BufReader<TcpStream>,
        path: &str,
        is_head: bool,
        (headers, body): (&HashMap<String, String>, &[u8]),
    ) -> Option<bool> {
        let typed = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
        let cut = |text: &str| {
            if is_head {
                text[..text.find("\r\n\r\n").unwrap() + 4].to_owned()
            } else {
                text.to_owned()
            }
        };
        let (text, is_kept) = match path {
            "/plain" => (cut(&format!("{typed}Content-Length: 5\r\n\r\nplain")), true),
            "/untyped" => (cut("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), true),
            "/json" => (
                cut(
                    "HTTP/1.1 201 Made\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n{}",
                ),
                true,
            ),
            "/chunked" => (
                cut(&format!(
                    "{typed}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                )),
                true,
            ),
            "/trailers" => (
                cut(&format!(
                    "{typed}Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
                )),
                true,
            ),
            "/close" => (cut(&format!("{typed}Connection: close\r\n\r\nuntil the end")), false),
            "/old" => (cut("HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nold"), false),
            "/empty" => ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), true),
            "/none" => ("HTTP/1.1 204 No Content\r\n\r\n".into(), true),
            "/headers" => {
                let mut names: Vec<_> =
                    headers.iter().filter(|(name, _)| !matches!(name.as_str(), "host")).collect();
                names.sort();
                let text = format!("{names:?}");
                (cut(&format!("{typed}Content-Length: {}\r\n\r\n{text}", text.len())), true)
            }
            "/interim" => {
                let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
                let last = cut(&format!("{typed}Content-Length: 2\r\n\r\nok"));
                (format!("{hints}{last}"), true)
            }
            "/garbage" => ("\0\u{1} no http at all\n\n".into(), false),
            "/hangup" => (String::new(), false),
            "/half" => (cut(&format!("{typed}Content-Length: 10\r\n\r\nhalf")), false),
            "/twice" => (
                cut(&format!(
                    "{typed}Content-Length: 2\r\n\r\nok{typed}Content-Length: 6\r\n\r\npoison"
                )),
                true,
            ),
            "/both-lengths" => {
                (cut(&format!("{typed}Content-Length: 2\r\nContent-Length: 3\r\n\r\nok")), false)
            }
            "/echo" => {
                let head = format!("{typed}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(body).await.ok()?;
                return Some(true);
            }
            "/events" => return self.events(stream).await,
            "/endless" => {
                stream.write_all(format!("{typed}\r\nbegun").as_bytes()).await.ok()?;
                return self.wait_for_end(stream).await;
            }
            "/never" => return self.wait_for_end(stream).await,
            "/switch" => return super::switch::echo(stream).await,
            _ => {
                let status = path.strip_prefix("/status/").unwrap_or("404");
                (
                    format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
                    ),
                    true,
                )
            }
        };
        stream.write_all(text.as_bytes()).await.ok()?;
        Some(is_kept)
    }

    async fn events(&self, stream: &mut BufReader<TcpStream>) -> Option<bool> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        for number in 0..3 {
            stream.write_all(format!("data: {number}\n\n").as_bytes()).await.ok()?;
            self.next.notified().await;
        }
        Some(false)
    }

    async fn wait_for_end(&self, stream: &mut BufReader<TcpStream>) -> Option<bool> {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte).await, Ok(1)) {
            self.gone.notify_one();
        }
        Some(false)
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> Option<(String, HashMap<String, String>)> {
    let (mut first, mut headers) = (None, HashMap::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        match (&first, line) {
            (Some(_), "") => return Some((first?, headers)),
            (None, line) => first = Some(line.to_owned()),
            (Some(_), line) => {
                let (name, value) = line.split_once(": ")?;
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
        }
    }
}

async fn body(
    stream: &mut BufReader<TcpStream>,
    headers: &HashMap<String, String>,
) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    Some(body)
}

/// A watchdog as a provider starts it; ended when dropped.
pub(super) struct Watchdog {
    _child: Child,
    pub(super) control: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Watchdog {
    /// In front of `function`, which is ready.
    pub(super) async fn relaying(function: Function) -> Self {
        Self::relaying_with(function, &[]).await
    }

    pub(super) async fn relaying_with(function: Function, more: &[(&str, &str)]) -> Self {
        let url = format!("http://127.0.0.1:{}", function.serve());
        let mut vars = vec![("mode", "http"), ("fprocess", "sleep 1000"), ("upstream_url", &url)];
        vars.extend(more);
        Self::start(&vars).await
    }

    pub(super) async fn start(vars: &[(&str, &str)]) -> Self {
        let boot = format!(
            r#"{{"version":1,"key":"{KEY}","control_port":0,"http_port":0,"kind":"watchdog"}}"#
        );
        let mut child = Command::new(binary("fwatchdog"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TMPDIR", std::env::temp_dir())
            .env("suppress_lock", "true")
            .env("HYPERFAAS_METRICS_PORT", "off")
            .env("HYPERFAAS_BOOT", boot)
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut http, mut control) = (None, None);
        while let (None, _) | (_, None) = (http, control) {
            let line = patiently(lines.next_line()).await.unwrap().expect("the watchdog lives");
            let port = || line.rsplit(' ').next().and_then(|port| port.parse().ok());
            if line.contains("Control link listening on port") {
                control = port();
            } else if line.contains("Listening on port") {
                http = port();
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let at = |port: Option<u16>| SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        let watchdog = Self { _child: child, control: at(control), http: at(http) };
        watchdog.ready().await;
        watchdog
    }

    /// Waits until the function can answer: its first answer over plain HTTP.
    async fn ready(&self) {
        let text = "GET /plain HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        patiently(stream.read_to_end(&mut answer)).await.unwrap();
    }
}
