//! Requests for a worker with an HTTP server of its own: its bytes are moved, and nobody here reads them.
//!
//! In: frames with HTTP/1.1 in them. Out: the same bytes on a connection to the worker, and its bytes in frames.
//! Always: both ways at the same time; a request has a connection to itself, and the connection serves another one only when
//! the provider, which has read the answer, says that its end is certain, and nothing has come behind it. A provider that
//! hangs up, or a deadline, closes the connection to the worker, which so learns that nobody waits any more.
//! Source of deadlines and log lines: of-watchdog's http mode, as in `worker::relay`.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hyper::Method;
use hyperfaas_protocol::lane::{Crowd, Flags, Header, Kind, Reason, Summary};
use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::duct::Duct;
use super::frames::{Inlet, pass, send, write_all};
use super::{After, Lanes, bounce};
use crate::exchange::{Access, Exchange};
use crate::log::line;
use crate::worker::{Claim, Running};

/// Longest wait for a worker that is ready by all we know to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// Read from a worker at once, in bytes; the larger one in the middle of a large answer.
const CHUNKS: (usize, usize) = (16 << 10, 64 << 10);
/// Bytes still to come of a frame from which on they are not copied.
const SPLICED_MIN: u32 = 64 << 10;
/// Longest request that is kept to be sent again, in bytes: a head without a body.
const COPY_MAX: u32 = 16 << 10;

/// A connection to the worker while a request uses it.
struct Line {
    socket: TcpStream,
    generation: u64,
    is_reused: bool,
}

/// A request that is being served.
struct Call<'a> {
    stream: &'a TcpStream,
    request: &'a Header,
    running: Arc<Running>,
    /// Its bytes as long as they may be needed again.
    copy: Option<Vec<u8>>,
    /// Whether a frame is half out.
    in_frame: AtomicBool,
    /// Bytes of the worker's that the provider has been sent, modulo 2³².
    sent: AtomicU32,
}

/// How a request ended.
enum End {
    /// The provider says so.
    Done(Header),
    Late,
    /// It met a connection that the worker had just closed, and may be sent again.
    Again,
}

impl Lanes {
    pub(super) async fn raw(
        &self,
        stream: &TcpStream,
        inlet: &mut Inlet,
        request: &Header,
        running: Arc<Running>,
    ) -> io::Result<After> {
        let entered = enter(&running).await;
        if inlet.is_gone(stream) {
            // It waited, and its caller did not: the place goes to the next.
            return Ok(After::Close);
        }
        let (claim, line) = match entered {
            Ok(entered) => entered,
            Err((reason, crowd)) => {
                bounce(stream, request.id, reason, crowd).await?;
                inlet.skip(stream, request.length).await?;
                return Ok(After::Next);
            }
        };
        let mut exchange = self.books.open_unnamed();
        exchange.hold(claim);
        if request.flags.has(Flags::WAITS) {
            send(stream, &Header::new(Kind::Admitted, request.id), &[]).await?;
        }
        let is_kept = line.is_reused
            && request.flags.has(Flags::REPEATABLE.with(Flags::ENDS))
            && request.length <= COPY_MAX;
        let copy = if is_kept { Some(inlet.exactly(stream, request.length).await?) } else { None };
        let (in_frame, sent) = (AtomicBool::new(false), AtomicU32::new(0));
        let call = Call { stream, request, running, copy, in_frame, sent };
        let limit = limit(&call.running, request);
        let (end, line) = call.run(inlet, line, limit.map(|(at, _)| at)).await?;
        if call.in_frame.load(Relaxed) {
            // Half a frame is out: neither the lane nor the connection is of use.
            return Ok(After::Close);
        }
        match end {
            End::Done(done) => {
                finish(stream, inlet, &done, exchange, &call.running).await?;
                // What the provider did not wait for is no part of its answer, and has passed it by.
                let is_silent = done.heard == call.sent.load(Relaxed);
                if let Some(relay) = call.running.mode.relay()
                    && done.flags.has(Flags::REUSABLE)
                    && is_silent
                {
                    relay.sockets.keep(line.socket, line.generation);
                }
            }
            End::Late | End::Again => fail(stream, request.id, limit, exchange).await?,
        }
        Ok(After::Next)
    }
}

/// A place in the worker and a connection to it.
async fn enter(running: &Arc<Running>) -> Result<(Claim, Line), (Reason, Crowd)> {
    let (claim, _) = running.enter().await?;
    let generation = running.generation();
    let kept = running.mode.relay().and_then(|relay| relay.sockets.take(generation));
    if let Some(socket) = kept {
        return Ok((claim, Line { socket, generation, is_reused: true }));
    }
    match connect(running).await {
        Some(line) => Ok((claim, line)),
        None => Err(running.bounce(Reason::NotReady)),
    }
}

async fn connect(running: &Running) -> Option<Line> {
    let connected = tokio::time::timeout(CONNECT_PATIENCE, running.connect()).await.ok()?;
    let (socket, generation) = connected.ok()?;
    Some(Line { socket, generation, is_reused: false })
}

impl Call<'_> {
    /// Moves everything there is to move; how that ended, and the connection it ended on.
    async fn run(
        &self,
        inlet: &mut Inlet,
        mut line: Line,
        limit: Option<Instant>,
    ) -> io::Result<(End, Line)> {
        loop {
            let end = {
                let (up, down) = (self.up(inlet, &line.socket), self.down(&line));
                tokio::select! {
                    biased;
                    done = up => End::Done(done?),
                    ended = down => ended.map(|()| End::Again)?,
                    () = late(limit) => End::Late,
                }
            };
            match end {
                // Where nobody listens any more, the end stands as the worker's answer.
                End::Again => {
                    line =
                        connect(&self.running).await.unwrap_or(Line { is_reused: false, ..line });
                }
                end => return Ok((end, line)),
            }
        }
    }

    /// Moves the request to the worker; ends when the provider says that all is done.
    async fn up(&self, inlet: &mut Inlet, worker: &TcpStream) -> io::Result<Header> {
        let mut left = self.request.length;
        let mut duct = None;
        // A worker may answer without reading everything; its answer still counts.
        let mut is_broken = false;
        if let Some(copy) = &self.copy {
            is_broken = write_all(worker, copy).await.is_err();
            left = 0;
        }
        loop {
            while left > 0 {
                if left >= SPLICED_MIN && inlet.is_empty() && !is_broken {
                    // Where no pipe is to be had it is copied.
                    duct = duct.or_else(|| Duct::new().ok());
                }
                if let Some(pipe) = duct.as_ref().filter(|_| inlet.is_empty() && !is_broken) {
                    let count = pass(pipe, self.stream, &mut left).await?;
                    is_broken = pipe.drain(worker, count).await.is_err();
                    continue;
                }
                let piece = inlet.piece(self.stream, &mut left).await?;
                is_broken = is_broken || write_all(worker, piece).await.is_err();
            }
            let next = inlet.header(self.stream).await?.ok_or(ErrorKind::UnexpectedEof)?;
            match next.kind {
                _ if next.id != self.request.id => return Err(ErrorKind::InvalidData.into()),
                Kind::Data => left = next.length,
                Kind::End => drop(rustix::net::shutdown(worker, Shutdown::Write)),
                Kind::Done => return Ok(next),
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Moves the worker's bytes to the provider, and then the news that there will be no more; ends when that fails, or well
    /// when the request should be sent again.
    async fn down(&self, line: &Line) -> io::Result<()> {
        let mut buffer = Vec::new();
        let (mut size, mut is_first, mut duct) = (CHUNKS.0, true, None);
        loop {
            // A connection that is cut has an end like any other.
            let count = match &duct {
                Some(duct) => Duct::fill(duct, &line.socket, usize::MAX).await.unwrap_or(0),
                None => read(&line.socket, &mut buffer, size).await.unwrap_or(0),
            };
            if count == 0 && is_first && line.is_reused && self.copy.is_some() {
                return Ok(());
            }
            is_first = false;
            let kind = if count == 0 { Kind::End } else { Kind::Data };
            let length = u32::try_from(count).unwrap_or(u32::MAX);
            let header = Header { length, ..Header::new(kind, self.request.id) };
            self.in_frame.store(true, Relaxed);
            self.sent.fetch_add(length, Relaxed);
            match &duct {
                Some(duct) => {
                    send(self.stream, &header, &[]).await?;
                    duct.drain(self.stream, count).await?;
                }
                None => send(self.stream, &header, &buffer[..count]).await?,
            }
            self.in_frame.store(false, Relaxed);
            if count == 0 {
                std::future::pending::<()>().await;
            }
            if duct.is_none() && count >= CHUNKS.1 {
                // Where no pipe is to be had it goes on as before.
                duct = Duct::new().ok();
            } else if count >= size {
                size = CHUNKS.1;
            }
        }
    }
}

/// Reads into the emptied `buffer`, at most `size` bytes.
async fn read(socket: &TcpStream, buffer: &mut Vec<u8>, size: usize) -> io::Result<usize> {
    buffer.clear();
    loop {
        socket.readable().await?;
        buffer.reserve_exact(size);
        match socket.try_read_buf(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// When the request must be over, and the run time that means; the shorter of the two limits that apply.
fn limit(running: &Running, header: &Header) -> Option<(Instant, Option<Duration>)> {
    let timeouts = &running.config.timeouts;
    let asked =
        Some(Duration::from_millis(header.deadline_ms.into())).filter(|asked| !asked.is_zero());
    let is_stream = header.flags.has(Flags::STREAM);
    let exec = timeouts.exec.positive().filter(|_| !is_stream);
    let exec = exec.map(|exec| asked.map_or(exec, |asked| asked.min(exec)));
    let limit = [timeouts.write.positive(), exec].into_iter().flatten().min()?;
    Some((Instant::now() + limit, exec))
}

async fn late(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Closes the books with what the provider says.
async fn finish(
    stream: &TcpStream,
    inlet: &mut Inlet,
    done: &Header,
    mut exchange: Exchange,
    running: &Running,
) -> io::Result<()> {
    let text = inlet.exactly(stream, done.length).await?;
    let invalid = |_| ErrorKind::InvalidData;
    let summary = Summary::decode(&text).map_err(invalid)?;
    let method = Method::from_bytes(summary.method).map_err(|_| ErrorKind::InvalidData)?;
    exchange.name(method, String::from_utf8_lossy(summary.target).into_owned());
    // A change of protocol counts as what it was asked for, as on port 8080.
    exchange.answered(if done.status == 101 { 200 } else { done.status });
    if done.flags.has(Flags::UNANSWERED) {
        line!("Upstream HTTP request error: no valid answer");
    }
    if done.flags.has(Flags::LOGGED) {
        let status = hyper::StatusCode::from_u16(done.status).ok();
        let reason = status.and_then(|status| status.canonical_reason());
        let status = match reason {
            Some(reason) => format!("{} {reason}", done.status),
            None => done.status.to_string(),
        };
        let wants_id = running.mode.relay().is_some_and(|relay| relay.logs_call_id());
        let call_id = wants_id.then(|| match summary.call_id {
            b"" => "none".into(),
            id => String::from_utf8_lossy(id).into_owned(),
        });
        exchange.log_at_end(Access { status, length: summary.content_length, call_id });
    }
    Ok(())
}

/// Says that there is no answer in time.
async fn fail(
    stream: &TcpStream,
    id: u64,
    limit: Option<(Instant, Option<Duration>)>,
    mut exchange: Exchange,
) -> io::Result<()> {
    let text = "deadline exceeded";
    line!("Upstream HTTP request error: {text}");
    if let Some((_, Some(exec))) = limit {
        line!("Upstream HTTP killed due to exec_timeout: {exec:?}");
    }
    exchange.answered(504);
    drop(exchange);
    let length = u32::try_from(text.len()).unwrap_or(0);
    let header = Header { status: 504, length, ..Header::new(Kind::Failed, id) };
    send(stream, &header, text.as_bytes()).await
}
