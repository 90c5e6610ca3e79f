//! An HTTP/1.1 client that sends exactly what it is told and reads exactly what comes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Whether the last chunked body ended as it should.
    has_last_chunk: bool,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As on the wire, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the connection ended before the answer was complete.
    pub(crate) is_cut: bool,
}

impl Answer {
    /// The first value of the header spelled exactly `name`.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), has_last_chunk: false }
    }

    /// Sends a whole request, with `Host` and, for a body, `Content-Length` unless `headers` say otherwise.
    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !has("host") {
            head += "Host: fn.example:99\r\n";
        }
        if !body.is_empty() && !has("transfer-encoding") && !has("content-length") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.raw(format!("{head}\r\n").as_bytes());
        self.raw(body);
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// A second handle, to write while another thread reads.
    pub(crate) fn second(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), buffer: Vec::new(), has_last_chunk: false }
    }

    /// Reads one complete answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head().expect("an answer");
        let length = answer.header("Content-Length").and_then(|n| n.parse().ok());
        let is_chunked = answer.header("Transfer-Encoding") == Some("chunked");
        if matches!(answer.status, 101 | 204 | 304) {
            return answer;
        }
        answer.is_cut = match length {
            Some(length) => !self.read_to(length, &mut answer.body),
            None if is_chunked => !self.read_chunks(&mut answer.body),
            None => {
                while self.fill() {}
                answer.body = std::mem::take(&mut self.buffer);
                false
            }
        };
        answer
    }

    /// Reads the head only; `None` when the connection ended without a byte.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "half a head: {}", self.buffer.escape_ascii());
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())))
            .collect();
        Some(Answer { status, headers, body: Vec::new(), is_cut: false })
    }

    /// The next chunk of a chunked body; `None` at its end or when the connection is cut.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut chunk = Vec::new();
        let size = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let size =
                    usize::from_str_radix(std::str::from_utf8(&self.buffer[..end]).unwrap(), 16)
                        .unwrap();
                self.buffer.drain(..end + 2);
                break size;
            }
            if !self.fill() {
                return None;
            }
        };
        let is_whole = self.read_to(size + 2, &mut chunk);
        self.has_last_chunk = is_whole && size == 0;
        chunk.truncate(size);
        (is_whole && size > 0).then_some(chunk)
    }

    /// Exactly `length` raw bytes.
    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(self.read_to(length, &mut bytes));
        bytes
    }

    /// Whether the other side has closed without sending anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }

    fn read_chunks(&mut self, into: &mut Vec<u8>) -> bool {
        while let Some(chunk) = self.chunk() {
            into.extend_from_slice(&chunk);
        }
        self.has_last_chunk
    }

    fn read_to(&mut self, length: usize, into: &mut Vec<u8>) -> bool {
        while self.buffer.len() < length {
            if !self.fill() {
                into.append(&mut self.buffer);
                return false;
            }
        }
        into.extend(self.buffer.drain(..length));
        true
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("reading: {error}"),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
