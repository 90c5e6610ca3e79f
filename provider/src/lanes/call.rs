//! One request over a lane: sent, admitted or bounced, answered.
//!
//! In: a request whose target is the one to send. Out: the response, streaming, or a [`LaneError`].
//! Always: a body up to [`KEEP_MAX`] is held until there is an answer, so that a bounce loses nothing; of a longer one the first
//! byte is asked for when the watchdog has admitted the request. Dropping the future, or the response's body, closes the lane.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyperfaas_http::forward::{ForwardOptions, Kept, prepare};
use hyperfaas_http::headers::X_FORWARDED_FOR;
use hyperfaas_http::progress::{Progress, stalled};
use hyperfaas_protocol::duration::GoDuration;
use hyperfaas_protocol::lane::{
    Crowd, Flags, HEAD_MAX, HEADER_LEN, Header, Kind, Reason, write_request,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::{self, Heard};
use super::body::{Live, Pump};
use super::connection::{Frame, Lane, write_all};
use super::pool::LanePool;
use super::{LaneError, chunks, wire};

/// Longest body that is kept to be sent elsewhere, in bytes.
const KEEP_MAX: u64 = 64 << 10;
/// Most bytes of a body in one frame.
const FRAME_MAX: usize = 256 << 10;

const X_TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// A request as it is sent, and everything its answer's treatment depends on.
pub(super) struct Call<'a> {
    pub(super) parts: Parts,
    pub(super) options: &'a ForwardOptions,
    /// The request's own type, for answers without one.
    pub(super) content_type: Option<HeaderValue>,
    pub(super) is_stream: bool,
    /// Where the caller's connection goes when protocols are switched.
    pub(super) caller: Option<OnUpgrade>,
    pub(super) start: Instant,
    /// For streams, who calls the watchdog, as port 8080 would append it.
    own_address: Option<HeaderValue>,
    body: Outgoing,
}

/// A request's body.
enum Outgoing {
    Whole(Bytes),
    Flowing(Body),
}

/// Sends `request` over a lane of `pool`; `host` is what an upstream's own host is.
///
/// # Errors
/// See [`LaneError`]; `NoLane` and `Bounced` give the request back.
pub async fn call(
    pool: &LanePool,
    request: Request<Body>,
    options: &ForwardOptions,
    host: &HeaderValue,
) -> Result<Response<Body>, LaneError> {
    let lane = match pool.lane().await {
        Ok(lane) => lane,
        Err(cause) => return Err(LaneError::NoLane { request: Box::new(request), cause }),
    };
    let call = Call::new(request, options, host).await?;
    let limit = options.head_timeout.filter(|_| !call.is_stream);
    let progress = Arc::new(Progress::begin());
    match limit {
        None => call.run(lane, &progress).await,
        Some(limit) => tokio::select! {
            answered = call.run(lane, &progress) => answered,
            () = stalled(&progress, limit) => Err(LaneError::Timeout(limit)),
        },
    }
}

impl<'a> Call<'a> {
    async fn new(
        mut request: Request<Body>,
        options: &'a ForwardOptions,
        host: &HeaderValue,
    ) -> Result<Self, LaneError> {
        let Kept { is_stream, content_type, caller } = prepare(&mut request, options, host);
        // A stream keeps its caller's, and a caller of HTTP/1.0 may have named none.
        request.headers_mut().entry(HOST).or_insert_with(|| host.clone());
        let (parts, body) = request.into_parts();
        let body = settle(body, options.head_timeout).await?;
        Ok(Self {
            parts,
            options,
            content_type,
            is_stream,
            caller,
            start: Instant::now(),
            own_address: None,
            body,
        })
    }

    async fn run(
        mut self,
        mut lane: Lane,
        progress: &Arc<Progress>,
    ) -> Result<Response<Body>, LaneError> {
        if self.is_stream && !lane.is_described {
            self.own_address = lane.stream.local_addr().ok().and_then(|address| {
                HeaderValue::try_from(address.ip().to_canonical().to_string()).ok()
            });
        }
        lane.begin();
        let Some(frame) = self.frame(&lane) else {
            let cause = "its head is too long for a lane".to_owned();
            lane.give_back();
            return Err(LaneError::NoLane { request: Box::new(self.unsent()), cause });
        };
        if let Err(error) = write_all(&lane.stream, &frame).await {
            return Err(lost(&error));
        }
        let mut pump = None;
        if let Outgoing::Flowing(_) = self.body {
            match lane.frame().await.map_err(|error| lost(&error))? {
                Frame::Admitted => pump = Some(self.pump(&lane, progress)),
                Frame::Bounce(reason, crowd) => return Err(self.bounced(lane, reason, crowd)),
                frame => return Err(LaneError::Lost(format!("unexpected frame {frame:?}"))),
            }
        }
        let live = Live { lane, pump };
        match answer::hear(&mut self, live).await {
            Ok(Heard::Answer(response)) => Ok(response),
            Ok(Heard::Bounce(lane, reason, crowd)) => Err(self.bounced(lane, reason, crowd)),
            Err(_) if progress.has_failed() => Err(LaneError::BrokenRequest),
            Err(error) => Err(error),
        }
    }

    /// The request's frame, with all of a small body in it; `None` if its head is too long.
    fn frame(&self, lane: &Lane) -> Option<Vec<u8>> {
        let (body, length): (&[u8], _) = match &self.body {
            Outgoing::Whole(bytes) => (bytes, Some(bytes.len() as u64)),
            Outgoing::Flowing(body) => (&[], body.size_hint().exact()),
        };
        let is_whole = matches!(self.body, Outgoing::Whole(_));
        let mut frame = Vec::with_capacity(HEADER_LEN + 1024 + body.len());
        frame.resize(HEADER_LEN, 0);
        if lane.is_described {
            if !self.describe(&mut frame, length) {
                return None;
            }
        } else {
            match &self.own_address {
                Some(address) => {
                    let mut parts = self.parts.clone();
                    append_forwarded(&mut parts.headers, address);
                    wire::write_head(&mut frame, &parts, length);
                }
                None => wire::write_head(&mut frame, &self.parts, length),
            }
        }
        let head = u32::try_from(frame.len() - HEADER_LEN).ok().filter(|head| *head <= HEAD_MAX)?;
        frame.extend_from_slice(body);
        let is_repeatable = is_whole
            && body.is_empty()
            && matches!(
                self.parts.method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
            );
        let flags = Flags::NONE
            .with_if(Flags::DESCRIBED, lane.is_described)
            .with_if(Flags::ENDS, is_whole)
            .with_if(Flags::WAITS, !is_whole)
            .with_if(Flags::STREAM, self.is_stream)
            .with_if(Flags::REPEATABLE, is_repeatable);
        let (worker, epoch) = lane.pool.worker();
        let header = Header {
            flags,
            worker,
            epoch,
            length: u32::try_from(frame.len() - HEADER_LEN).ok()?,
            head: if lane.is_described { head } else { 0 },
            deadline_ms: asked_ms(&self.parts.headers),
            ..Header::new(Kind::Request, lane.id)
        };
        frame[..HEADER_LEN].copy_from_slice(&header.encode());
        Some(frame)
    }

    /// Appends the head as data, with the framing that it would have as HTTP.
    fn describe(&self, into: &mut Vec<u8>, length: Option<u64>) -> bool {
        let target = self.parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let number = length.map(|length| length.to_string());
        let framing: Option<(&[u8], &[u8])> = match &number {
            Some(number) if number != "0" || wire::has_body(&self.parts) => {
                Some((b"content-length", number.as_bytes()))
            }
            Some(_) => None,
            None => Some((b"transfer-encoding", b"chunked")),
        };
        let fields = self.parts.headers.iter();
        let fields =
            fields.filter(|(name, _)| **name != CONTENT_LENGTH && **name != TRANSFER_ENCODING);
        let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        write_request(into, self.parts.method.as_str(), target, fields.chain(framing))
    }

    /// Begins to send a large body, in the background.
    fn pump(&mut self, lane: &Lane, progress: &Arc<Progress>) -> Pump {
        let whole = Outgoing::Whole(Bytes::new());
        let Outgoing::Flowing(body) = std::mem::replace(&mut self.body, whole) else {
            unreachable!("only a large body is pumped")
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let (stream, is_described, id) = (Arc::clone(&lane.stream), lane.is_described, lane.id);
        let (over, progress) = (Arc::clone(&is_over), Arc::clone(progress));
        let task = tokio::spawn(async move {
            match send_body(&stream, body, (is_described, id), &progress).await {
                Ok(()) => over.store(true, Ordering::Release),
                // Nobody can use the lane any more; whoever waits for the answer learns it by that.
                Err(_) => drop(rustix::net::shutdown(&*stream, rustix::net::Shutdown::Both)),
            }
        });
        Pump { task: task.abort_handle(), is_over }
    }

    fn bounced(self, lane: Lane, reason: Reason, crowd: Crowd) -> LaneError {
        lane.give_back();
        LaneError::Bounced { request: Box::new(self.unsent()), reason, crowd }
    }

    /// The request again, as whole as it came.
    fn unsent(self) -> Request<Body> {
        let body = match self.body {
            Outgoing::Whole(bytes) => Body::from(bytes),
            Outgoing::Flowing(body) => body,
        };
        let mut request = Request::from_parts(self.parts, body);
        if let Some(caller) = self.caller {
            request.extensions_mut().insert(caller);
        }
        request
    }
}

pub(super) fn lost(error: &io::Error) -> LaneError {
    LaneError::Lost(format!("lane broke: {error}"))
}

/// Reads a small body whole.
async fn settle(body: Body, patience: Option<Duration>) -> Result<Outgoing, LaneError> {
    let mut body = body;
    match body.size_hint().exact() {
        Some(0) => return Ok(Outgoing::Whole(Bytes::new())),
        Some(length) if length <= KEEP_MAX => {}
        _ => return Ok(Outgoing::Flowing(body)),
    }
    let mut whole = BytesMut::new();
    loop {
        let frame = match patience {
            Some(patience) => {
                timeout(patience, body.frame()).await.map_err(|_| LaneError::Timeout(patience))?
            }
            None => body.frame().await,
        };
        match frame {
            None => return Ok(Outgoing::Whole(whole.freeze())),
            Some(Err(_)) => return Err(LaneError::BrokenRequest),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if whole.is_empty() && body.is_end_stream() {
                    return Ok(Outgoing::Whole(data));
                }
                whole.extend_from_slice(&data);
            }
        }
    }
}

async fn send_body(
    stream: &TcpStream,
    mut body: Body,
    (is_described, id): (bool, u64),
    progress: &Progress,
) -> io::Result<()> {
    let is_chunked = !is_described && body.size_hint().exact().is_none();
    let mut frame = Vec::new();
    while let Some(piece) = body.frame().await {
        progress.note();
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                progress.fail();
                return Err(io::Error::other(error));
            }
        };
        match piece.into_data() {
            Ok(data) => {
                for part in data.chunks(FRAME_MAX) {
                    frame.clear();
                    frame.resize(HEADER_LEN, 0);
                    if is_chunked {
                        chunks::write_chunk(&mut frame, part);
                    } else {
                        frame.extend_from_slice(part);
                    }
                    send(stream, &mut frame, id).await?;
                }
            }
            Err(piece) if is_chunked => {
                let trailers = piece.into_trailers().ok();
                return end_chunks(stream, &mut frame, id, trailers.as_ref()).await;
            }
            Err(_) => {}
        }
    }
    if is_described {
        return write_all(stream, &Header::new(Kind::End, id).encode()).await;
    }
    if is_chunked { end_chunks(stream, &mut frame, id, None).await } else { Ok(()) }
}

async fn end_chunks(
    stream: &TcpStream,
    frame: &mut Vec<u8>,
    id: u64,
    trailers: Option<&HeaderMap>,
) -> io::Result<()> {
    frame.clear();
    frame.resize(HEADER_LEN, 0);
    chunks::write_end(frame, trailers);
    send(stream, frame, id).await
}

/// Sends `frame`, whose first bytes are room for the header.
pub(super) async fn send(stream: &TcpStream, frame: &mut [u8], id: u64) -> io::Result<()> {
    let length = u32::try_from(frame.len() - HEADER_LEN).unwrap_or(u32::MAX);
    let header = Header { length, ..Header::new(Kind::Data, id) };
    frame[..HEADER_LEN].copy_from_slice(&header.encode());
    write_all(stream, frame).await
}

/// The caller's own limit on the run time in milliseconds, rounded up; 0 for none.
fn asked_ms(headers: &HeaderMap) -> u32 {
    let asked =
        headers.get(X_TIMEOUT).and_then(|value| value.to_str().ok()).and_then(GoDuration::parse);
    let asked = asked.and_then(GoDuration::positive);
    asked.map_or(0, |asked| u32::try_from(asked.as_micros().div_ceil(1000)).unwrap_or(u32::MAX))
}

/// Appends `address` to those that the request has come from.
fn append_forwarded(headers: &mut HeaderMap, address: &HeaderValue) {
    let mut list = Vec::new();
    for known in headers.get_all(X_FORWARDED_FOR) {
        list.extend_from_slice(known.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(address.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}
