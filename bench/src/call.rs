//! One HTTP/1.1 connection, or a lane, that makes one call at a time, at the least cost in CPU that a loader can have.
//!
//! In: the bytes of a whole request. Out: an [`Answer`] or a [`Fault`]; bodies are counted and thrown away.
//! Always: a connection is used again only when the answer's end was certain and nothing followed it.
//! Touches: one socket. No TLS, no redirects, no proxies: what is measured is on this machine or next to it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chunked::{Chunked, Step};
use crate::lane::Lane;

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
    /// The watchdog of a lane has sent it back; it can be sent again.
    Bounced,
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
            Self::Bounced => "bounced",
            Self::Overrun => "never sent",
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    buffer: Box<[u8]>,
    filled: usize,
}

/// What brings the bytes there and back.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Lane(Lane),
}

impl Wire {
    /// A request, or its head alone.
    async fn send(&mut self, request: &[u8], is_whole: bool) -> Result<(), Fault> {
        match self {
            Self::Plain(stream) => stream.write_all(request).await.map_err(|_| Fault::Closed),
            Self::Lane(lane) => lane.send(request, is_whole).await,
        }
    }

    /// A piece of a body; over a lane a frame of its own.
    async fn send_piece(&mut self, piece: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Plain(stream) => stream.write_all(piece).await.map_err(|_| Fault::Closed),
            Self::Lane(lane) => lane.send_piece(piece).await,
        }
    }

    /// 0 at the end.
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        match self {
            Self::Plain(stream) => stream.read(into).await.map_err(|_| Fault::Cut),
            Self::Lane(lane) => lane.read(into).await,
        }
    }
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await.map_err(|_| Fault::Connect)?;
        stream.set_nodelay(true).map_err(|_| Fault::Connect)?;
        Ok(Self::over(Wire::Plain(stream)))
    }

    /// Opens a lane with `key`.
    pub(crate) async fn open_lane(address: SocketAddr, key: &str) -> Result<Self, Fault> {
        Ok(Self::over(Wire::Lane(Lane::open(address, key).await?)))
    }

    fn over(wire: Wire) -> Self {
        Self { wire, buffer: vec![0; BUFFER].into(), filled: 0 }
    }

    /// Sends `request`, over a lane again as long as it bounces, and reads the whole answer. After a fault the connection is of no use.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Answer, Fault> {
        loop {
            self.wire.send(request, true).await?;
            match self.answer().await {
                Err(Fault::Bounced) => tokio::task::yield_now().await,
                end => return end,
            }
        }
    }

    /// Sends `head` and a body of `size` bytes in pieces of the length of `piece`, and reads the whole answer.
    pub(crate) async fn upload(
        &mut self,
        head: &[u8],
        size: u64,
        piece: &[u8],
    ) -> Result<Answer, Fault> {
        self.wire.send(head, false).await?;
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            self.wire.send_piece(&piece[..length]).await?;
            left -= length as u64;
        }
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, Fault> {
        self.filled = 0;
        let head = loop {
            let head = self.head().await?;
            // 1xx announce an answer, they are none.
            if head.status >= 200 {
                break head;
            }
            self.buffer.copy_within(head.length..self.filled, 0);
            self.filled -= head.length;
        };
        let is_reusable = self.body(&head).await? && !head.closes;
        if let Wire::Lane(lane) = &mut self.wire {
            lane.done(head.status, is_reusable).await?;
        }
        Ok(Answer { status: head.status, is_reusable })
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
            let read = self.wire.read(&mut self.buffer[self.filled..]).await;
            match read {
                Err(fault @ (Fault::Garbage | Fault::Bounced)) => return Err(fault),
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
                while self.wire.read(&mut self.buffer).await? > 0 {}
                Ok(false)
            }
        }
    }

    async fn more(&mut self) -> Result<(), Fault> {
        match self.wire.read(&mut self.buffer).await? {
            0 => Err(Fault::Cut),
            n => {
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
