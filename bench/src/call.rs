//! One HTTP/1.1 connection that makes one call at a time, at the least cost in CPU that a loader can have.
//!
//! In: the bytes of a whole request. Out: an [`Answer`] or a [`Fault`]; bodies are counted and thrown away.
//! Always: a connection is used again only when the answer's end was certain and nothing followed it.
//! Touches: one socket. No TLS, no redirects, no proxies: what is measured is on this machine or next to it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chunked::{Chunked, Step};

/// Largest head of an answer, and the size of reads, in bytes.
const BUFFER: usize = 16 * 1024;
/// Most headers of an answer.
const HEADERS: usize = 64;

/// An answer that arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Whether the connection may be used again.
    pub(crate) is_reusable: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// No connection.
    Connect,
    /// The connection ended before the first byte of an answer.
    Closed,
    /// The connection ended within an answer.
    Cut,
    /// Not HTTP, or beyond the bounds.
    Garbage,
    /// Took longer than allowed.
    Timeout,
    /// Never sent: too many were waiting already.
    Overrun,
}

impl Fault {
    /// As tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "no connection",
            Self::Closed => "closed without an answer",
            Self::Cut => "answer cut off",
            Self::Garbage => "not HTTP",
            Self::Timeout => "timeout",
            Self::Overrun => "never sent",
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await.map_err(|_| Fault::Connect)?;
        stream.set_nodelay(true).map_err(|_| Fault::Connect)?;
        Ok(Self { stream, buffer: vec![0; BUFFER].into(), filled: 0 })
    }

    /// Sends `request` and reads the whole answer. After a fault the connection is of no use.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Answer, Fault> {
        self.filled = 0;
        self.stream.write_all(request).await.map_err(|_| Fault::Closed)?;
        let head = loop {
            let head = self.head().await?;
            // 1xx announce an answer, they are none.
            if head.status >= 200 {
                break head;
            }
            self.buffer.copy_within(head.length..self.filled, 0);
            self.filled -= head.length;
        };
        let is_whole = self.body(&head).await?;
        Ok(Answer { status: head.status, is_reusable: is_whole && !head.closes })
    }

    async fn head(&mut self) -> Result<Head, Fault> {
        loop {
            if self.filled > 0
                && let Some(head) = Head::parse(&self.buffer[..self.filled])?
            {
                return Ok(head);
            }
            if self.filled == self.buffer.len() {
                return Err(Fault::Garbage);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).await;
            match read {
                Ok(0) | Err(_) if self.filled == 0 => return Err(Fault::Closed),
                Ok(0) | Err(_) => return Err(Fault::Cut),
                Ok(n) => self.filled += n,
            }
        }
    }

    /// Reads the body; returns whether its end left the connection usable.
    async fn body(&mut self, head: &Head) -> Result<bool, Fault> {
        let mut from = head.length;
        match head.body {
            Body::Length(length) => {
                let mut left = length;
                loop {
                    let here = (self.filled - from) as u64;
                    if here >= left {
                        return Ok(here == left);
                    }
                    left -= here;
                    from = 0;
                    self.more().await?;
                }
            }
            Body::Chunked => {
                let mut chunked = Chunked::default();
                loop {
                    match chunked.feed(&self.buffer[from..self.filled]) {
                        Step::More => {}
                        Step::End(used) => return Ok(from + used == self.filled),
                        Step::Garbage => return Err(Fault::Garbage),
                    }
                    from = 0;
                    self.more().await?;
                }
            }
            Body::UntilClose => {
                while self.stream.read(&mut self.buffer).await.map_err(|_| Fault::Cut)? > 0 {}
                Ok(false)
            }
        }
    }

    async fn more(&mut self) -> Result<(), Fault> {
        match self.stream.read(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Fault::Cut),
            Ok(n) => {
                self.filled = n;
                Ok(())
            }
        }
    }
}

enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    /// Bytes, the empty line included.
    length: usize,
    body: Body,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Fault::Garbage),
        };
        let status = response.code.ok_or(Fault::Garbage)?;
        let mut head =
            Self { status, length, body: Body::UntilClose, closes: response.version == Some(0) };
        for header in response.headers.iter() {
            let value = std::str::from_utf8(header.value).map_err(|_| Fault::Garbage)?.trim();
            if header.name.eq_ignore_ascii_case("content-length") {
                head.body = Body::Length(value.parse().map_err(|_| Fault::Garbage)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Body::Chunked;
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.closes |= value.eq_ignore_ascii_case("close");
            }
        }
        if status < 200 || matches!(status, 204 | 304) {
            head.body = Body::Length(0);
        }
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// What calls to a server see that answers each request with the next of `answers`, then closes.
    async fn calls(answers: &'static [&'static str]) -> Vec<Result<Answer, Fault>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = [0; 1024];
                assert!(peer.read(&mut request).await.unwrap() > 0);
                peer.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut connection = Connection::open(address).await.unwrap();
        let mut seen = Vec::new();
        for _ in answers {
            seen.push(connection.call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await);
        }
        seen
    }

    fn ok(status: u16, is_reusable: bool) -> Result<Answer, Fault> {
        Ok(Answer { status, is_reusable })
    }

    #[tokio::test]
    async fn answers_of_every_framing_are_read_to_their_end() {
        let seen = calls(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        ])
        .await;
        assert_eq!(
            seen,
            [
                ok(200, true),
                ok(200, true),
                ok(503, true),
                ok(204, true),
                ok(200, false),
                ok(200, false)
            ]
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_fault_of_its_kind() {
        assert_eq!(calls(&["SSH-2.0\r\n\r\n"]).await, [Err(Fault::Garbage)]);
        assert_eq!(calls(&[""]).await, [Err(Fault::Closed)]);
        assert_eq!(calls(&["HTTP/1.1 200"]).await, [Err(Fault::Cut)]);
        const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello";
        assert_eq!(calls(&[CUT]).await, [Err(Fault::Cut)]);
        const MORE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhello";
        assert_eq!(calls(&[MORE]).await, [ok(200, false)]);
        const CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(calls(&[CHUNK]).await, [Err(Fault::Garbage)]);
    }
}
