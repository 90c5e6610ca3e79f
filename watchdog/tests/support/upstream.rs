//! A function's own HTTP server, inside the test: it shows what it was asked and answers what the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::PATIENCE;

/// A server on a port of its own; its thread ends with the test process.
pub(crate) struct Upstream {
    port: u16,
    seen: Receiver<Seen>,
}

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Request line and headers as sent.
    pub(crate) lines: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// Which connection it came over, counted from 0.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|seen| seen == line)
    }

    pub(crate) fn has_name(&self, name: &str) -> bool {
        let prefix = format!("{}:", name.to_ascii_lowercase());
        self.lines.iter().any(|line| line.to_ascii_lowercase().starts_with(&prefix))
    }
}

impl Upstream {
    /// Answers every request with these bytes, on a connection that stays open.
    pub(crate) fn fixed(answer: &'static str) -> Self {
        Self::new(move |_, stream| stream.write_all(answer.as_bytes()).is_ok())
    }

    /// Answers by `reply`, which tells whether the connection stays open.
    pub(crate) fn new(
        reply: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), reply)
    }

    pub(crate) fn on(
        listener: TcpListener,
        reply: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (sender, seen) = channel();
        let reply = Arc::new(reply);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (sender, reply) = (sender.clone(), reply.clone());
                std::thread::spawn(move || serve(stream, connection, &sender, &*reply));
            }
        });
        Self { port, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next request.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("a request at the upstream")
    }

    pub(crate) fn nothing_more_seen(&self) -> bool {
        self.seen.try_recv().is_err()
    }
}

fn serve(
    stream: TcpStream,
    connection: usize,
    sender: &Sender<Seen>,
    reply: &dyn Fn(&Seen, &mut TcpStream) -> bool,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    // What is written is there, and not held back until the other side has spoken.
    writer.set_nodelay(true).unwrap();
    while let Some(seen) = read_request(&mut reader, connection) {
        let is_kept = reply(&seen, &mut writer);
        let _ = sender.send(seen);
        if !is_kept {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let value = |name: &str| {
        lines.iter().find_map(|line| {
            line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
        })
    };
    let mut body = Vec::new();
    if value("transfer-encoding").is_some() {
        read_chunks(reader, &mut body)?;
    } else if let Some(length) = value("content-length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(Seen { lines, body, connection })
}

fn read_chunks(reader: &mut BufReader<TcpStream>, into: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        into.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Some(());
        }
    }
}
