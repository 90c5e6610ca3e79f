//! Requests whose head somebody here has to read: a process a request, the files of a directory, or a server that gets whole
//! bodies only.
//!
//! In: a head as data, then the body's frames. Out: the answer's head as data, then its body's frames.
//! Always: the mode's own code serves it, as on port 8080; both bodies flow at the same time; an answer that cannot be completed
//! ends in `Failed`, never as if it were whole.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http_body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, Uri};
use hyperfaas_protocol::lane::{Flags, HEAD_MAX, Head, Header, Kind, write_answer};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::frames::{Inlet, send};
use super::{After, Lanes, bounce};
use crate::body::Body;
use crate::inbound::{Fault, Inbound};
use crate::worker::Running;

/// A body up to this size is held whole, in bytes; a longer one flows.
const WHOLE_MAX: u32 = 64 << 10;
/// Most bytes of an answer's body that go out with its head.
const TOGETHER_MAX: usize = 16 << 10;
/// Most bytes of a body in one frame.
const FRAME_MAX: usize = 1 << 20;

impl Lanes {
    pub(super) async fn described(
        &self,
        stream: &TcpStream,
        inlet: &mut Inlet,
        header: &Header,
        running: Arc<Running>,
    ) -> io::Result<After> {
        let entered = running.enter().await;
        if inlet.is_gone(stream) {
            return Ok(After::Close);
        }
        let claim = match entered {
            Ok((claim, _)) => claim,
            Err((reason, crowd)) => {
                bounce(stream, header.id, reason, crowd).await?;
                inlet.skip(stream, header.length).await?;
                return Ok(After::Next);
            }
        };
        let head = inlet.exactly(stream, header.head).await?;
        let mut request = parse(&head).ok_or(ErrorKind::InvalidData)?;
        // No other protocol fits into frames with a head; whoever is asked for one may answer as if it were not.
        request.headers_mut().remove(UPGRADE);
        if header.flags.has(Flags::WAITS) {
            send(stream, &Header::new(Kind::Admitted, header.id), &[]).await?;
        }
        let rest = header.length - header.head;
        let is_whole = header.flags.has(Flags::ENDS) && rest <= WHOLE_MAX;
        let (sender, body) = if is_whole {
            let body = inlet.exactly(stream, rest).await?;
            (None, if body.is_empty() { Inbound::empty() } else { Inbound::whole(body.into()) })
        } else {
            let (sender, receiver) = mpsc::channel(1);
            let length = request.headers().get(CONTENT_LENGTH);
            let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
            (Some(sender), Inbound::channel(receiver, length))
        };
        let request = request.map(|()| body);
        let mut exchange = self.books.open(&request);
        exchange.hold(claim);
        let is_received = AtomicBool::new(is_whole);
        let peer = stream.peer_addr()?.ip();
        let is_head = request.method() == Method::HEAD;
        let answer = async {
            let response = running.mode.clone().serve_described(request, peer, exchange).await;
            answer(stream, header.id, response, is_head).await
        };
        let first = if is_whole { 0 } else { rest };
        let feed = feed(stream, inlet, (header, first), sender, &is_received);
        tokio::select! {
            biased;
            answered = answer => answered?,
            gone = feed => return Err(gone),
        }
        // What is left of a body nobody wanted is still on its way.
        Ok(if is_received.load(Relaxed) { After::Next } else { After::Close })
    }
}

fn parse(bytes: &[u8]) -> Option<Request<()>> {
    let head = Head::decode(bytes).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.target).ok()?;
    let headers: &mut HeaderMap = request.headers_mut();
    for (name, value) in head.fields.iter() {
        headers
            .try_append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?)
            .ok()?;
    }
    Some(request)
}

/// Hands the body's frames to the worker, then watches whether the provider is still there; ends only when it is not.
async fn feed(
    stream: &TcpStream,
    inlet: &mut Inlet,
    (request, first): (&Header, u32),
    sender: Option<mpsc::Sender<Result<Bytes, Fault>>>,
    is_received: &AtomicBool,
) -> io::Error {
    match fed(stream, inlet, (request, first), sender, is_received).await {
        Ok(()) => ErrorKind::UnexpectedEof.into(),
        Err(error) => error,
    }
}

async fn fed(
    stream: &TcpStream,
    inlet: &mut Inlet,
    (request, first): (&Header, u32),
    mut sender: Option<mpsc::Sender<Result<Bytes, Fault>>>,
    is_received: &AtomicBool,
) -> io::Result<()> {
    let (mut left, mut is_last) = (first, request.flags.has(Flags::ENDS));
    loop {
        while left > 0 {
            let piece = Bytes::copy_from_slice(inlet.piece(stream, &mut left).await?);
            if let Some(sender) = &sender {
                // Who does not want it does not get it.
                let _ = sender.send(Ok(piece)).await;
            }
        }
        if is_last {
            is_received.store(true, Relaxed);
            sender = None;
        }
        let Some(next) = inlet.header(stream).await? else { return Ok(()) };
        match next.kind {
            Kind::Data | Kind::End if next.id == request.id && !is_received.load(Relaxed) => {
                left = next.length;
                is_last = next.kind == Kind::End || next.flags.has(Flags::ENDS);
            }
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

async fn answer(
    stream: &TcpStream,
    id: u64,
    response: Response<Body>,
    is_head: bool,
) -> io::Result<()> {
    let (mut parts, mut body) = response.into_parts();
    if let Some(length) = body.size_hint().exact()
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !(is_head && length == 0)
        && !parts.status.is_informational()
    {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut head = Vec::with_capacity(256);
    let fields =
        parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    if !write_answer(&mut head, fields) || head.len() > HEAD_MAX as usize {
        return failed(stream, id, "answer's head too long").await;
    }
    let is_empty = is_head || body.is_end_stream();
    let flags = Flags::NONE.with_if(Flags::ENDS, is_empty);
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    let status = parts.status.as_u16();
    let header = Header { flags, status, length, ..Header::new(Kind::Answer, id) };
    if is_empty {
        return send(stream, &header, &head).await;
    }
    let mut piece = next(&mut body).await;
    // A short answer is one write.
    if let Some(Ok(first)) = &piece
        && first.len() <= TOGETHER_MAX
    {
        let data = Header { length: count(first), ..Header::new(Kind::Data, id) };
        let data = Header { flags: Flags::NONE.with_if(Flags::ENDS, body.is_end_stream()), ..data };
        head.extend_from_slice(&data.encode());
        head.extend_from_slice(first);
        send(stream, &header, &head).await?;
        if body.is_end_stream() {
            return Ok(());
        }
        piece = next(&mut body).await;
    } else {
        send(stream, &header, &head).await?;
    }
    loop {
        match piece {
            Some(Ok(bytes)) => {
                for part in bytes.chunks(FRAME_MAX) {
                    let header = Header { length: count(part), ..Header::new(Kind::Data, id) };
                    send(stream, &header, part).await?;
                }
            }
            Some(Err(cut)) => return failed(stream, id, &cut.to_string()).await,
            None => return send(stream, &Header::new(Kind::End, id), &[]).await,
        }
        piece = next(&mut body).await;
    }
}

fn count(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

async fn failed(stream: &TcpStream, id: u64, text: &str) -> io::Result<()> {
    let text = text.as_bytes();
    let text = &text[..text.len().min(512)];
    let header = Header { length: count(text), status: 500, ..Header::new(Kind::Failed, id) };
    send(stream, &header, text).await
}

/// The body's next bytes.
async fn next(body: &mut Body) -> Option<Result<Bytes, crate::body::Cut>> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        match frame {
            Err(cut) => return Some(Err(cut)),
            Ok(frame) => {
                if let Ok(bytes) = frame.into_data() {
                    return Some(Ok(bytes));
                }
            }
        }
    }
}
