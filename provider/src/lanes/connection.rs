//! One lane: frames in and out of a connection.
//!
//! In: the bytes of a watchdog. Out: [`Frame`]s about the present request.
//! Always: what is still under way about an earlier request is passed over; a frame is bounded before anything is reserved for it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use bytes::{Buf, Bytes, BytesMut};
use hyperfaas_protocol::lane::{Crowd, Flags, HEADER_LEN, Header, Kind, NOTE_MAX, Reason, Summary};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::pool::LanePool;

/// Read at once, in bytes; the larger one in the middle of a large frame.
const CHUNKS: (usize, usize) = (8 << 10, 64 << 10);

/// What a watchdog says about the present request.
#[derive(Debug)]
pub(super) enum Frame {
    /// Bytes of the answer; whether they are the last.
    Data(Bytes, bool),
    /// There will be no more bytes.
    End,
    /// The request runs.
    Admitted,
    /// Status and headers of the answer, as data; whether it has no body.
    Answer(StatusCode, Bytes, bool),
    /// It did not run.
    Bounce(Reason, Crowd),
    /// There is no answer, or no more of it.
    Failed(StatusCode, String),
}

/// A lane in use.
#[derive(Debug)]
pub(super) struct Lane {
    /// Shared with whoever writes a large body.
    pub(super) stream: Arc<TcpStream>,
    inlet: Inlet,
    /// The present request.
    pub(super) id: u64,
    /// Whether the worker wants heads as data.
    pub(super) is_described: bool,
    /// Status of answers that the worker's server does not give.
    pub(super) unanswered: StatusCode,
    pub(super) pool: LanePool,
    _room: OwnedSemaphorePermit,
}

impl Lane {
    /// Opens a lane to where `pool` leads.
    ///
    /// # Errors
    /// Of the connection; a bounce is `WouldBlock` with its reason.
    pub(super) async fn open(pool: &LanePool, room: OwnedSemaphorePermit) -> io::Result<Self> {
        let stream = TcpStream::connect(pool.address()).await?;
        stream.set_nodelay(true)?;
        let mut lane = Self {
            stream: Arc::new(stream),
            inlet: Inlet::default(),
            id: 0,
            is_described: false,
            unanswered: StatusCode::BAD_GATEWAY,
            pool: pool.clone(),
            _room: room,
        };
        write_all(&lane.stream, &pool.greeting().encode()).await?;
        let header = std::future::poll_fn(|cx| lane.inlet.poll_header(&lane.stream, cx)).await?;
        match header.kind {
            Kind::Welcome => {
                lane.is_described = header.flags.has(Flags::DESCRIBED);
                lane.unanswered =
                    StatusCode::from_u16(header.status).unwrap_or(StatusCode::BAD_GATEWAY);
                Ok(lane)
            }
            Kind::Bounce => {
                let reason = Reason::from_code(header.code).name();
                Err(io::Error::new(ErrorKind::WouldBlock, reason))
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// Whether the watchdog has not hung up meanwhile. What it said of earlier requests stays to be passed over.
    pub(super) fn is_alive(&mut self) -> bool {
        match self.stream.try_read_buf(&mut self.inlet.buffer) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Begins the next request.
    pub(super) fn begin(&mut self) {
        self.id += 1;
        self.inlet.heard = 0;
    }

    /// The next frame about the present request.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        self.inlet.poll_frame(&self.stream, self.id, cx)
    }

    /// The same, for who can wait.
    ///
    /// # Errors
    /// Of the connection, or when frames cannot be understood.
    pub(super) async fn frame(&mut self) -> io::Result<Frame> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Says that the present request is over; `false` when that could not be said at once, and the lane is of no use.
    pub(super) fn done(&self, flags: Flags, status: u16, summary: &Summary<'_>) -> bool {
        let mut frame = vec![0; HEADER_LEN];
        summary.write(&mut frame);
        let length = u32::try_from(frame.len() - HEADER_LEN).unwrap_or(NOTE_MAX);
        let heard = self.inlet.heard;
        let header = Header { flags, status, length, heard, ..Header::new(Kind::Done, self.id) };
        frame[..HEADER_LEN].copy_from_slice(&header.encode());
        // The kernel has room for that unless the watchdog has stopped to read.
        self.stream.try_write(&frame).is_ok_and(|count| count == frame.len())
    }

    /// Lets the next request use it.
    pub(super) fn give_back(self) {
        let pool = self.pool.clone();
        pool.keep(self);
    }
}

/// What has come and was not yet used.
#[derive(Debug, Default)]
struct Inlet {
    buffer: BytesMut,
    /// The frame whose bytes come, and how many are missing.
    now: Option<(Header, usize)>,
    /// Bytes of the present answer so far, modulo 2³².
    heard: u32,
}

impl Inlet {
    fn poll_frame(
        &mut self,
        stream: &TcpStream,
        id: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Frame>> {
        loop {
            let Some((header, left)) = self.now else {
                let header = ready!(self.poll_header(stream, cx))?;
                self.now = Some((header, usize::try_from(header.length).unwrap_or(usize::MAX)));
                continue;
            };
            let is_stale = header.id != id;
            if is_stale || header.kind == Kind::Data {
                if left > 0 && self.buffer.is_empty() {
                    ready!(self.poll_fill(stream, left, cx))?;
                }
                let count = left.min(self.buffer.len());
                let bytes = self.buffer.split_to(count).freeze();
                self.now = (left > count).then_some((header, left - count));
                if is_stale {
                    continue;
                }
                self.heard = self.heard.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
                let is_last = self.now.is_none() && header.flags.has(Flags::ENDS);
                return Poll::Ready(Ok(Frame::Data(bytes, is_last)));
            }
            while self.buffer.len() < left {
                ready!(self.poll_fill(stream, left, cx))?;
            }
            self.now = None;
            let payload = self.buffer.split_to(left).freeze();
            return Poll::Ready(
                frame(&header, payload).ok_or_else(|| ErrorKind::InvalidData.into()),
            );
        }
    }

    fn poll_header(
        &mut self,
        stream: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Header>> {
        loop {
            if let Some(bytes) = self.buffer.first_chunk::<HEADER_LEN>() {
                let header =
                    Header::decode(bytes).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
                self.buffer.advance(HEADER_LEN);
                return Poll::Ready(Ok(header));
            }
            ready!(self.poll_fill(stream, 0, cx))?;
        }
    }

    /// Reads what there is, at least a byte.
    fn poll_fill(
        &mut self,
        stream: &TcpStream,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            self.buffer.reserve(if wanted > CHUNKS.0 { CHUNKS.1 } else { CHUNKS.0 });
            match stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// What a whole frame other than data says; `None` for one that a watchdog does not send.
fn frame(header: &Header, payload: Bytes) -> Option<Frame> {
    let status = StatusCode::from_u16(header.status);
    match header.kind {
        Kind::End => Some(Frame::End),
        Kind::Admitted => Some(Frame::Admitted),
        Kind::Answer => Some(Frame::Answer(status.ok()?, payload, header.flags.has(Flags::ENDS))),
        Kind::Bounce => {
            let crowd = Crowd::decode(&payload)?;
            Some(Frame::Bounce(Reason::from_code(header.code), crowd))
        }
        Kind::Failed => {
            let text = String::from_utf8_lossy(&payload).into_owned();
            Some(Frame::Failed(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text))
        }
        Kind::Request | Kind::Data | Kind::Done | Kind::Welcome => None,
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// Of the connection.
pub(super) async fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
