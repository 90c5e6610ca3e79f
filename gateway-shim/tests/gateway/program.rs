//! The program itself: settings, start, stop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use http::{Request, StatusCode};

use hyperfaas_http::serve::raise_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, ask, provider, start};

/// What an idle connection may take, in KiB: 10,000 of them under 100 MiB.
const IDLE_MAX: f64 = 10.0;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperfaas-gateway"));
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The program, serving in front of a provider; killed if a test ends early.
pub(crate) struct Program {
    pub(crate) gateway: Server,
    /// What it logs after it has begun to listen.
    pub(crate) lines: mpsc::Receiver<String>,
    child: Running,
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Program {
    /// Starts the program on free ports with the settings of `more`, and waits until it listens.
    pub(crate) fn start(provider: std::net::SocketAddr, more: &[(&str, &str)]) -> Self {
        let mut command = program();
        command
            .env("functions_provider_url", format!("http://{provider}/"))
            .env("bind_address", "127.0.0.1")
            .env("port", "0")
            .env("metrics_port", "0")
            .env("HYPERFAAS_LOG_FORMAT", "json")
            .env("HYPERFAAS_ASYNC_DIR", "off");
        let mut child = Running(command.envs(more.iter().copied()).spawn().unwrap());
        let mut log = BufReader::new(child.0.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it listened");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "gateway listening" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            log.lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        Self { gateway: Server::at(address), lines, child }
    }

    /// The next line of the log that holds `text`.
    pub(crate) fn logged(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Resident memory in KiB.
    fn resident(&self) -> u32 {
        let status = format!("/proc/{}/status", self.child.0.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Asks it to stop; whether it ended well.
    pub(crate) fn stop(mut self) -> bool {
        let stopped = Command::new("kill").arg(self.child.0.id().to_string()).status().unwrap();
        stopped.success() && self.child.0.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn wrong_settings_are_all_named_and_end_with_64() {
    let output = program()
        .env("port", "x")
        .env("basic_auth", "true")
        .env("secret_mount_path", "/nowhere")
        .output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    for name in ["port", "basic_auth", "functions_provider_url"] {
        assert!(text.contains(&format!("hyperfaas-gateway: {name}: ")), "{text}");
    }
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(program().arg("serve").output().unwrap().status.code(), Some(64));
}

#[tokio::test]
async fn it_serves_until_it_is_asked_to_stop() {
    let provider = start(provider());
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("basic-auth-user"), "admin\n").unwrap();
    std::fs::write(secrets.path().join("basic-auth-password"), "secret\n").unwrap();
    let program = Program::start(
        provider.address,
        &[("basic_auth", "true"), ("secret_mount_path", secrets.path().to_str().unwrap())],
    );
    let gateway = &program.gateway;
    assert_eq!(ask(gateway, Request::get("/function/f"), "").await.status, StatusCode::ACCEPTED);
    assert_eq!(
        ask(gateway, Request::get("/system/functions"), "").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert!(program.stop());
}

/// `IDLE_CONNECTIONS=10000` for as many as docs/verification.md tells of.
#[tokio::test]
async fn idle_connections_take_little_memory() {
    raise_open_files();
    let count = std::env::var("IDLE_CONNECTIONS").ok().and_then(|count| count.parse().ok());
    let count: u16 = count.unwrap_or(2000);
    let provider = start(provider());
    for has_asked in [false, true] {
        let program = Program::start(provider.address, &[("read_timeout", "10m")]);
        let before = program.resident();
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(TcpStream::connect(program.gateway.address).await.unwrap());
        }
        if has_asked {
            for connection in &mut connections {
                redirected(connection).await;
            }
        }
        // The last is served, so that all have been accepted.
        redirected(&mut connections[usize::from(count) - 1]).await;
        let at_once = each(before, program.resident(), count);
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let later = loop {
            let now = each(before, program.resident(), count);
            if now < IDLE_MAX {
                break now;
            }
            assert!(tokio::time::Instant::now() < end, "{now:.1} KiB a connection");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await; // nothing announces it
        };
        eprintln!(
            "{count} connections, asked: {has_asked}; KiB each: {at_once:.1} at once, {later:.1} later; {before} KiB without"
        );
        for connection in connections.iter_mut().step_by(100) {
            redirected(connection).await;
        }
        program.kill();
    }
}

/// KiB for each of `count`.
fn each(before: u32, now: u32, count: u16) -> f64 {
    f64::from(now.saturating_sub(before)) / f64::from(count)
}

/// Asks for what the gateway answers by itself, and reads the answer.
async fn redirected(connection: &mut TcpStream) {
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 307"));
}
