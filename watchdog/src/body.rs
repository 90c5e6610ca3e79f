//! The bodies of answers, all of one type, each carrying its request's [`Exchange`] until the last byte is out.
//!
//! In: what a worker produces. Out: frames for the server.
//! Always: a body that cannot be completed ends in an error, which cuts the connection; it never looks complete.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::exchange::Exchange;
use crate::worker::{Pieces, Relayed};

/// The body of one answer.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    /// Only held: dropping it closes the books of the request.
    _exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Full(Bytes),
    /// Chunks of a process's output; `Err` cuts the answer.
    Pipe {
        first: Option<Bytes>,
        rest: mpsc::Receiver<Result<Bytes, Cut>>,
    },
    Upstream(Box<Relayed>),
    File(Box<Pieces>),
}

/// Why an answer ends before it is complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("deadline passed while the answer was being sent")]
    Deadline,
    #[error("upstream: {0}")]
    Upstream(#[from] hyper::Error),
    #[error("upstream: {0}")]
    Worker(std::io::Error),
    #[error("file: {0}")]
    File(#[from] std::io::Error),
}

impl Body {
    pub(crate) const fn empty() -> Self {
        Self { source: Source::Empty, _exchange: None }
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            source: if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) },
            _exchange: None,
        }
    }

    /// `first`, then whatever comes through `rest` until its sender is gone.
    pub(crate) const fn pipe(first: Bytes, rest: mpsc::Receiver<Result<Bytes, Cut>>) -> Self {
        Self { source: Source::Pipe { first: Some(first), rest }, _exchange: None }
    }

    pub(crate) fn relayed(relayed: Relayed) -> Self {
        Self { source: Source::Upstream(Box::new(relayed)), _exchange: None }
    }

    pub(crate) fn pieces(pieces: Pieces) -> Self {
        Self { source: Source::File(Box::new(pieces)), _exchange: None }
    }

    /// Lets the body close the books of its request.
    #[must_use]
    pub(crate) fn with(mut self, exchange: Exchange) -> Self {
        self._exchange = Some(exchange);
        self
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Pipe { first, rest } => match first.take() {
                Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
                None => rest.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
            },
            Source::Upstream(relayed) => relayed.poll_frame(cx),
            Source::File(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(_) | Source::Pipe { .. } => false,
            Source::Upstream(relayed) => relayed.is_end_stream(),
            Source::File(pieces) => pieces.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Pipe { .. } => SizeHint::default(),
            Source::Upstream(relayed) => relayed.size_hint(),
            Source::File(pieces) => pieces.size_hint(),
        }
    }
}
