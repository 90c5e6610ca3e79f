//! The usual request, whose body is here, and its usual answer, whose head says how long it is: moved to the function's server and
//! back by the task that serves the request, without a client's own task and channels in between.
//!
//! In: a request with its whole body. Out: the answer's head and a [`Plain`] body, or what has been read of an answer of any other
//! kind, which [`Replay`] lets a full client read again.
//! Always: an answer is taken for a plain one only if it is HTTP/1.1 and has exactly one length, in digits; what is in doubt is
//! the full client's to judge. A connection is kept only after an answer that was read to its end with nothing behind it.
//! Source: RFC 9112, 6.3.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Frame;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::sockets::Sockets;

/// Longest body of a request that goes this way, in bytes.
pub(super) const BODY_MAX: u64 = 16 << 10;
/// Most header lines of a plain answer; one with more goes to the full client.
const LINES_MAX: usize = 64;
/// Read at once, in bytes; the larger one in the middle of a large answer.
const CHUNKS: (usize, usize) = (8 << 10, 64 << 10);
/// Longest head of a plain answer, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// A connection to the function's server, and where it is kept.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) socket: TcpStream,
    pub(super) generation: u64,
    pub(super) sockets: Arc<Sockets>,
}

/// What the server said.
#[derive(Debug)]
pub(super) enum Heard {
    Plain(Response<()>, Plain),
    /// Something else, or nothing; what has been read of it.
    Other(Line, Bytes),
}

/// The body of a plain answer.
#[derive(Debug)]
pub(crate) struct Plain {
    /// Read and not yet sent on.
    ahead: Bytes,
    /// Bytes of the body not yet sent on.
    left: u64,
    /// `None` once the answer has been read to its end.
    line: Option<Line>,
    /// Whether the server keeps the connection.
    is_kept: bool,
    /// Why nothing more will come.
    broken: Option<io::Error>,
}

/// The request as bytes; `body` is all there is of it.
pub(super) fn compose(parts: &Parts, body: &[u8]) -> Vec<u8> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut bytes = Vec::with_capacity(512 + body.len());
    bytes.extend_from_slice(parts.method.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(target.as_bytes());
    bytes.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        let start = bytes.len();
        bytes.extend_from_slice(name.as_str().as_bytes());
        capitalise(&mut bytes[start..]);
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() && !parts.headers.contains_key(CONTENT_LENGTH) {
        // It came in chunks and was held until it was whole.
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Spells a header's name as Go does.
fn capitalise(name: &mut [u8]) {
    let mut is_first = true;
    for byte in name {
        if is_first {
            byte.make_ascii_uppercase();
        }
        is_first = *byte == b'-';
    }
}

/// Sends `request`; `false` when not a byte of it can have been received.
pub(super) async fn send(socket: &TcpStream, request: &[u8]) -> bool {
    let mut rest = request;
    while !rest.is_empty() {
        match socket.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if socket.writable().await.is_err() {
                    break;
                }
            }
            // A server may answer without reading everything.
            Err(_) => break,
        }
    }
    rest.len() < request.len()
}

/// Waits for the head of the answer.
pub(super) async fn hear(line: Line) -> Heard {
    let mut bytes = BytesMut::new();
    while bytes.len() < HEAD_MAX {
        let read = async {
            loop {
                line.socket.readable().await?;
                bytes.reserve(CHUNKS.0);
                match line.socket.try_read_buf(&mut bytes) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    read => return read,
                }
            }
        };
        if !matches!(read.await, Ok(count) if count > 0) {
            break;
        }
        match read_head(&mut bytes) {
            Head::Partial => {}
            Head::Plain(response, length, is_kept) => {
                return Heard::Plain(response, Plain::new(line, &bytes.freeze(), length, is_kept));
            }
            Head::Other => break,
        }
    }
    Heard::Other(line, bytes.freeze())
}

/// What some bytes begin with.
enum Head {
    Partial,
    /// A plain answer's head, the length of its body, and whether the server keeps the connection.
    Plain(Response<()>, u64, bool),
    Other,
}

/// Takes the head of a plain answer from `bytes`, which else stay as they are.
fn read_head(bytes: &mut BytesMut) -> Head {
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; LINES_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let size = match config.parse_response_with_uninit_headers(&mut answer, bytes, &mut lines) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Other,
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let Some(status) = status.filter(|status| is_usual(*status) && answer.version == Some(1))
    else {
        return Head::Other;
    };
    let base = bytes.as_ptr().addr();
    let mut places = [(0, 0, 0, 0); LINES_MAX];
    let count = answer.headers.len();
    for (place, line) in places.iter_mut().zip(answer.headers.iter()) {
        let (name, value) = (line.name.as_ptr().addr() - base, line.value.as_ptr().addr() - base);
        *place = (name, name + line.name.len(), value, value + line.value.len());
    }
    let head = Bytes::copy_from_slice(&bytes[..size]);
    let mut headers = HeaderMap::with_capacity(count + 3);
    for (name, name_end, value, value_end) in places.into_iter().take(count) {
        let Ok(name) = HeaderName::from_bytes(&head[name..name_end]) else { return Head::Other };
        let Ok(value) = HeaderValue::from_maybe_shared(head.slice(value..value_end)) else {
            return Head::Other;
        };
        headers.append(name, value);
    }
    let Some(length) = length(&headers, status) else { return Head::Other };
    let is_kept = !headers.get_all(CONNECTION).iter().any(says_close);
    bytes.advance(size);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Head::Plain(response, length, is_kept)
}

/// Whether nothing about an answer depends on its status.
fn is_usual(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NOT_MODIFIED
}

/// The length of the body, where there is no doubt about it.
fn length(headers: &HeaderMap, status: StatusCode) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => (status == StatusCode::NO_CONTENT).then_some(0),
        (Some(length), None) if status != StatusCode::NO_CONTENT => {
            let text = length.to_str().ok()?;
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        }
        _ => None,
    }
}

fn says_close(value: &HeaderValue) -> bool {
    // In doubt it does.
    value.to_str().map_or(true, |value| {
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case("close"))
    })
}

impl Plain {
    fn new(line: Line, bytes: &Bytes, length: u64, is_kept: bool) -> Self {
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        // What is behind the answer nobody asked for.
        let is_kept = is_kept && bytes.len() == count;
        let mut plain = Self {
            ahead: bytes.slice(..count),
            left: length,
            line: Some(line),
            is_kept,
            broken: None,
        };
        plain.rest();
        plain
    }

    /// The next piece; `None` at the end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ahead.is_empty() {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if let Err(error) = ready!(self.poll_fill(cx)) {
                // Told at the next look: what has come before goes out first, and the client sees that it was cut.
                (self.line, self.broken) = (None, Some(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let piece = std::mem::take(&mut self.ahead);
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(line) = &self.line else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut bytes = loop {
            ready!(line.socket.poll_read_ready(cx))?;
            // Not before there is something: who waits for a slow server needs no memory.
            let size = left.min(if left > CHUNKS.1 { CHUNKS.1 } else { CHUNKS.0 });
            let mut bytes = BytesMut::with_capacity(size).limit(size);
            match line.socket.try_read_buf(&mut bytes) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(_) => break bytes.into_inner(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        self.ahead = bytes.split().freeze();
        self.rest();
        Poll::Ready(Ok(()))
    }

    /// Lets the next request have the connection once everything has been read.
    fn rest(&mut self) {
        if self.left == self.ahead.len() as u64
            && let Some(Line { socket, generation, sockets }) = self.line.take()
            && self.is_kept
        {
            sockets.keep(socket, generation);
        }
    }
}

/// A connection whose request has been sent, for a client that does not know: it writes the request into the void, then reads
/// the answer from its beginning. What it writes after that is sent.
#[derive(Debug)]
pub(super) struct Replay {
    ahead: Bytes,
    socket: TcpStream,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client has not written its request; who waits for bytes meanwhile.
    Waits(Option<Waker>),
    /// It has begun to.
    Writes,
    /// It has begun to read.
    Reads,
}

impl Replay {
    pub(super) const fn new(socket: TcpStream, ahead: Bytes) -> Self {
        Self { ahead, socket, state: State::Waits(None) }
    }

    /// Whether what is written has been sent already.
    fn swallows(&mut self) -> bool {
        match &mut self.state {
            State::Waits(waker) => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
                self.state = State::Writes;
                true
            }
            State::Writes => true,
            State::Reads => false,
        }
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let State::Waits(waker) = &mut self.state {
            // A client takes an answer before its request for nonsense.
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.state = State::Reads;
        if self.ahead.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.swallows() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.swallows() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Methods whose answers may be plain: neither HEAD, whose answers have no body whatever they say, nor CONNECT.
pub(super) fn may_be(method: &Method) -> bool {
    *method != Method::HEAD && *method != Method::CONNECT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Option<(u16, u64, bool)> {
        let mut bytes = BytesMut::from(text);
        match read_head(&mut bytes) {
            Head::Plain(response, length, is_kept) => {
                assert_eq!(&bytes[..], b"rest", "the head alone is taken");
                Some((response.status().as_u16(), length, is_kept))
            }
            Head::Partial => panic!("{text} is whole"),
            Head::Other => {
                assert_eq!(&bytes[..], text.as_bytes(), "untouched");
                None
            }
        }
    }

    #[test]
    fn only_what_is_beyond_doubt_is_plain() {
        for (lines, expected) in [
            ("200 OK\r\nContent-Length: 5", Some((200, 5, true))),
            ("500 No\r\ncontent-length: 0\r\nConnection: x, Close", Some((500, 0, false))),
            ("200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", Some((200, 5, true))),
            ("204 No Content\r\nA: b", Some((204, 0, true))),
            ("204 No Content\r\nContent-Length: 5", None),
            ("304 Not Modified\r\nContent-Length: 5", None),
            ("100 Continue\r\nContent-Length: 5", None),
            ("101 Switching Protocols\r\nUpgrade: x", None),
            ("200 OK\r\nA: b", None),
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5", None),
            ("200 OK\r\nContent-Length: +5", None),
            ("200 OK\r\nContent-Length: 5, 5", None),
            ("200 OK\r\nContent-Length: 99999999999999999999", None),
            ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", None),
            ("200 OK\r\nTransfer-Encoding: chunked", None),
            ("99 x\r\nContent-Length: 5", None),
        ] {
            assert_eq!(head(&format!("HTTP/1.1 {lines}\r\n\r\nrest")), expected, "{lines}");
        }
        assert_eq!(head("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nrest"), None);
        assert_eq!(head("nonsense\r\n\r\nrest"), None);
        let many = "a: b\r\n".repeat(LINES_MAX);
        assert_eq!(head(&format!("HTTP/1.1 204 x\r\n{many}\r\nrest")), Some((204, 0, true)));
        assert_eq!(head(&format!("HTTP/1.1 204 x\r\nc: d\r\n{many}\r\nrest")), None);
    }

    #[test]
    fn a_request_is_written_as_go_spells_it() {
        let request =
            hyper::Request::post("/a%20b?q=1").header("host", "h").header("x-call-id", "7");
        let parts = request.header("content-length", "2").body(()).unwrap().into_parts().0;
        let expected =
            "POST /a%20b?q=1 HTTP/1.1\r\nHost: h\r\nX-Call-Id: 7\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(String::from_utf8(compose(&parts, b"hi")).unwrap(), expected);
    }
}
