//! The body of an answer as it comes over a lane.
//!
//! In: frames. Out: the body's pieces, at once; and the word to the watchdog when it is over.
//! Always: a body that cannot be completed ends in an error and never looks whole; the lane goes back to its pool only when both
//! messages are over, and a body dropped before closes it, which tells the function that nobody waits any more.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::header::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame as Piece, SizeHint};
use hyperfaas_protocol::lane::{Flags, Summary};
use tokio::task::AbortHandle;

use super::chunks::{Chunk, Decoder};
use super::connection::{Frame, Lane};
use super::wire::Length;

/// How the end of a body is known.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes are missing.
    Exact(u64),
    Chunked(Decoder),
    /// The worker's server closes its connection.
    Close,
    /// The watchdog says so; the length if it is known.
    Described(Option<u64>),
}

impl From<Length> for Framing {
    fn from(length: Length) -> Self {
        match length {
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Decoder::default()),
            Length::Close => Self::Close,
        }
    }
}

/// What the watchdog is told at the end.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) call_id: Vec<u8>,
    pub(super) status: u16,
    pub(super) content_length: i64,
    pub(super) is_logged: bool,
}

/// A large body of a request on its way; dropping it stops that.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) task: AbortHandle,
    pub(super) is_over: Arc<AtomicBool>,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A lane while an answer comes over it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) lane: Lane,
    pub(super) pump: Option<Pump>,
}

impl Live {
    /// Whether nothing of the request is still to be sent.
    fn is_sent(&self) -> bool {
        self.pump.as_ref().is_none_or(|pump| pump.is_over.load(Ordering::Acquire))
    }

    /// Ends a request to a server of its own. `is_certain`: where its answer ends is beyond doubt.
    pub(super) fn finish(self, is_certain: bool, flags: Flags, note: &Note) {
        if !self.is_sent() {
            return;
        }
        let flags = flags
            .with_if(Flags::REUSABLE, is_certain)
            .with_if(Flags::LOGGED, note.is_logged && !flags.has(Flags::UNANSWERED));
        let summary = Summary {
            method: note.method.as_bytes(),
            target: note.target.as_bytes(),
            call_id: &note.call_id,
            content_length: note.content_length,
        };
        if self.lane.done(flags, note.status, &summary) {
            self.lane.give_back();
        }
    }

    /// Ends a request that the watchdog itself has answered.
    pub(super) fn release(self) {
        if self.is_sent() {
            self.lane.give_back();
        }
    }
}

/// An answer's body.
#[derive(Debug)]
pub(super) struct LaneBody {
    /// Bytes that have come and are not yet decoded.
    pub(super) piece: Bytes,
    /// A decoded piece that was looked at.
    peeked: Option<Bytes>,
    framing: Framing,
    is_kept: bool,
    /// `None` once it is over.
    live: Option<Live>,
    note: Note,
}

impl LaneBody {
    pub(super) fn new(
        live: Live,
        framing: Framing,
        piece: Bytes,
        is_kept: bool,
        note: Note,
    ) -> Self {
        let mut body = Self { piece, peeked: None, framing, is_kept, live: Some(live), note };
        if matches!(body.framing, Framing::Exact(0) | Framing::Described(Some(0))) {
            body.end(true);
        }
        body
    }

    /// The first bytes, which stay to be read; `None` if there are none.
    ///
    /// # Errors
    /// As reading the body would give.
    pub(super) async fn peek(&mut self) -> io::Result<Option<Bytes>> {
        if self.peeked.is_none() {
            match std::future::poll_fn(|cx| self.poll_decoded(cx)).await {
                Some(Ok(piece)) => self.peeked = piece.into_data().ok(),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        Ok(self.peeked.clone())
    }

    /// The whole rest, if it has come already and is over.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        if self.live.is_some() {
            return None;
        }
        Some(self.peeked.take().unwrap_or_default())
    }

    /// Nothing more comes. `is_whole`: as it should be.
    fn end(&mut self, is_whole: bool) {
        let Some(live) = self.live.take() else { return };
        match self.framing {
            Framing::Described(_) => live.release(),
            _ => {
                let is_certain = is_whole && self.is_kept && self.piece.is_empty();
                live.finish(is_certain, Flags::NONE, &self.note);
            }
        }
        self.piece = Bytes::new();
    }

    fn cut(&mut self, text: &str) -> Poll<Option<io::Result<Piece<Bytes>>>> {
        self.end(false);
        Poll::Ready(Some(Err(io::Error::new(ErrorKind::UnexpectedEof, text.to_owned()))))
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Piece<Bytes>>>> {
        loop {
            if self.live.is_none() {
                return Poll::Ready(None);
            }
            match self.decode() {
                Ok(Decoded::Data(bytes)) => return Poll::Ready(Some(Ok(Piece::data(bytes)))),
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Piece::trailers(trailers))));
                }
                Ok(Decoded::Over) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(text) => return self.cut(text),
            }
            let Some(live) = &mut self.live else { return Poll::Ready(None) };
            match ready!(live.lane.poll_frame(cx)) {
                Ok(Frame::Data(bytes, is_last)) => {
                    self.piece = bytes;
                    if is_last && matches!(self.framing, Framing::Described(_)) {
                        let bytes = std::mem::take(&mut self.piece);
                        self.end(true);
                        return Poll::Ready(Some(Ok(Piece::data(bytes))));
                    }
                }
                Ok(Frame::End) => match self.framing {
                    Framing::Close | Framing::Described(_) => {
                        self.end(true);
                        return Poll::Ready(None);
                    }
                    _ => return self.cut("the function closed its connection within its answer"),
                },
                Ok(Frame::Failed(_, text)) => {
                    // The watchdog has closed its books already.
                    if let Some(live) = self.live.take() {
                        live.release();
                    }
                    return Poll::Ready(Some(Err(io::Error::other(text))));
                }
                Ok(frame) => {
                    self.live = None;
                    let text = format!("unexpected frame {frame:?}");
                    return Poll::Ready(Some(Err(io::Error::new(ErrorKind::InvalidData, text))));
                }
                Err(error) => {
                    self.live = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Takes what there is from the present piece.
    fn decode(&mut self) -> Result<Decoded, &'static str> {
        let decoded = match &mut self.framing {
            Framing::Chunked(decoder) => match decoder.next(&mut self.piece) {
                Ok(Chunk::Data(bytes)) => Decoded::Data(bytes),
                Ok(Chunk::More) => Decoded::More,
                Ok(Chunk::End(trailers)) => {
                    self.end(true);
                    trailers.map_or(Decoded::Over, Decoded::Trailers)
                }
                Err(_) => return Err("the function's answer is malformed"),
            },
            _ if self.piece.is_empty() => Decoded::More,
            Framing::Exact(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.piece.len());
                *left -= count as u64;
                let is_over = *left == 0;
                let bytes = self.piece.split_to(count);
                if is_over {
                    self.end(true);
                }
                Decoded::Data(bytes)
            }
            Framing::Close => Decoded::Data(std::mem::take(&mut self.piece)),
            Framing::Described(left) => {
                let bytes = std::mem::take(&mut self.piece);
                *left = left.map(|left| left.saturating_sub(bytes.len() as u64));
                Decoded::Data(bytes)
            }
        };
        Ok(decoded)
    }
}

enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    Over,
    More,
}

impl Body for LaneBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece<Bytes>>>> {
        if let Some(bytes) = self.peeked.take() {
            return Poll::Ready(Some(Ok(Piece::data(bytes))));
        }
        self.poll_decoded(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.live.is_none() && self.peeked.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let peeked = self.peeked.as_ref().map_or(0, |bytes| bytes.len() as u64);
        match (&self.framing, &self.live) {
            (Framing::Exact(left), _) => SizeHint::with_exact(left + peeked),
            (Framing::Described(Some(left)), _) => SizeHint::with_exact(left + peeked),
            _ => SizeHint::default(),
        }
    }
}
