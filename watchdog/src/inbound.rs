//! The body of a request on its way to the function, with the read deadline on it.
//!
//! In: the server's body. Out: the same frames, or a [`Fault`] that also stays visible after the body is gone, since an
//! upstream connection reports only that it failed, not that the client was to blame.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Reserved at once for a body of known length that is read whole, in bytes; the rest grows as it arrives.
const RESERVE_MAX: u64 = 1 << 20;

/// What went wrong with a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("request body timed out")]
    Late,
    #[error("unexpected EOF")]
    Short,
    #[error("malformed chunked encoding")]
    Malformed,
}

/// Tells afterwards what went wrong with a body, if anything did.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultCell(Option<Arc<Mutex<Option<Fault>>>>);

impl FaultCell {
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.0.as_ref().and_then(|cell| *cell.lock().expect("no holder of this lock panics"))
    }
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Read and given back; comes before what `source` has.
    ahead: Bytes,
    source: Source,
    deadline: Option<Pin<Box<Sleep>>>,
    cell: FaultCell,
}

#[derive(Debug)]
enum Source {
    Empty,
    Stream(Incoming),
    Whole(Bytes),
    /// From a lane; `left` is what is still to come of a body of known length.
    Lane {
        pieces: mpsc::Receiver<Result<Bytes, Fault>>,
        left: Option<u64>,
    },
}

impl Inbound {
    /// Takes over `incoming`, which must be complete within `patience` from now.
    pub(crate) fn new(incoming: Incoming, patience: Option<Duration>) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let cell = FaultCell(Some(Arc::default()));
        let deadline = patience.map(|patience| Box::pin(tokio::time::sleep(patience)));
        Self { ahead: Bytes::new(), source: Source::Stream(incoming), deadline, cell }
    }

    pub(crate) const fn empty() -> Self {
        Self::of(Source::Empty)
    }

    /// A body that has already been read.
    pub(crate) const fn whole(bytes: Bytes) -> Self {
        Self::of(Source::Whole(bytes))
    }

    /// A body that comes through `pieces`, of `length` bytes if that is known.
    pub(crate) const fn channel(
        pieces: mpsc::Receiver<Result<Bytes, Fault>>,
        length: Option<u64>,
    ) -> Self {
        Self::of(Source::Lane { pieces, left: length })
    }

    const fn of(source: Source) -> Self {
        Self { ahead: Bytes::new(), source, deadline: None, cell: FaultCell(None) }
    }

    /// Its length as the client declared it; `None` for a chunked one.
    pub(crate) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.ahead.is_empty() && matches!(self.source, Source::Empty)
    }

    /// A view of what went wrong that outlives the body.
    pub(crate) fn fault_cell(&self) -> FaultCell {
        self.cell.clone()
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {
                None => return Ok(None),
                Some(Err(fault)) => return Err(fault),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// All of it, if it is of known length, at most `max` bytes, and here already; else nothing is taken away.
    ///
    /// # Errors
    /// A [`Fault`] that has shown by now.
    pub(crate) async fn whole_if_here(&mut self, max: u64) -> Result<Option<Bytes>, Fault> {
        let Some(length) = self.length().filter(|length| *length <= max) else { return Ok(None) };
        let mut whole = Bytes::new();
        while (whole.len() as u64) < length {
            let piece = std::future::poll_fn(|cx| match Pin::new(&mut *self).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(frame),
                Poll::Pending => Poll::Ready(None),
            });
            match piece.await.transpose()?.map(Frame::into_data) {
                Some(Ok(piece)) if whole.is_empty() => whole = piece,
                Some(Ok(piece)) => whole = [whole, piece].concat().into(),
                Some(Err(_)) => {}
                None => {
                    self.ahead = whole;
                    return Ok(None);
                }
            }
        }
        self.source = Source::Empty;
        Ok(Some(whole))
    }

    /// Reads everything into memory, as the modes that promise the whole body to the process must.
    pub(crate) async fn read_whole(mut self) -> Result<Bytes, Fault> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let expected = self.size_hint().exact().unwrap_or(0).min(RESERVE_MAX);
        if expected == 0 && self.is_end_stream() {
            return Ok(first);
        }
        let mut whole = Vec::with_capacity(first.len() + usize::try_from(expected).unwrap_or(0));
        whole.extend_from_slice(&first);
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.source = Source::Empty;
        if let Some(cell) = &self.cell.0 {
            *cell.lock().expect("no holder of this lock panics") = Some(fault);
        }
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.ahead)))));
        }
        let incoming = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Source::Lane { pieces, left } => {
                let piece = std::task::ready!(pieces.poll_recv(cx));
                return match piece {
                    Some(Ok(bytes)) => {
                        let length = bytes.len() as u64;
                        *left = left.map(|left| left.saturating_sub(length));
                        Poll::Ready(Some(Ok(Frame::data(bytes))))
                    }
                    Some(Err(fault)) => self.fail(fault),
                    None => Poll::Ready(None),
                };
            }
            Source::Stream(incoming) => incoming,
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                let fault = if is_short(&error) { Fault::Short } else { Fault::Malformed };
                self.fail(fault)
            }
            Poll::Ready(frame) => {
                Poll::Ready(frame.map(|frame| frame.map_err(|_| Fault::Malformed)))
            }
            Poll::Pending => {
                let is_late = self
                    .deadline
                    .as_mut()
                    .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if is_late { self.fail(Fault::Late) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if !self.ahead.is_empty() {
            return false;
        }
        match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Stream(incoming) => incoming.is_end_stream(),
            Source::Lane { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.source {
            Source::Empty => Some(0),
            Source::Whole(bytes) => Some(bytes.len() as u64),
            Source::Stream(incoming) => incoming.size_hint().exact(),
            Source::Lane { left, .. } => *left,
        };
        let ahead = self.ahead.len() as u64;
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + ahead))
    }
}

/// Whether the client stopped sending, in contrast to sending nonsense.
fn is_short(error: &hyper::Error) -> bool {
    let io =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_incomplete_message()
        || io.is_none_or(|io| {
            io.kind() != std::io::ErrorKind::InvalidInput
                && io.kind() != std::io::ErrorKind::InvalidData
        })
}
