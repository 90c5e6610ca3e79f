//! The body of an upstream's answer on its way to the client.
//!
//! In: the upstream's body, read by a client or plain. Out: the same frames, at once.
//! Always: the connection goes back to the pool only when the body was read to its end; a body that is dropped earlier or
//! outlives its deadline takes the connection with it, which tells the function that nobody listens.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::plain::Plain;
use super::pool::Lease;
use crate::body::Cut;

/// An answer being relayed.
pub(crate) struct Relayed {
    /// Read before the head was sent, to guess its type.
    first: Option<Bytes>,
    flow: Flow,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where the answer comes from.
#[derive(Debug)]
pub(super) enum Flow {
    Client { incoming: Incoming, lease: Option<Lease> },
    Plain(Plain),
}

impl Flow {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (incoming, lease) = match self {
            Self::Client { incoming, lease } => (incoming, lease),
            Self::Plain(plain) => {
                return plain
                    .poll_frame(cx)
                    .map(|frame| frame.map(|read| read.map_err(Cut::Worker)));
            }
        };
        let frame = std::task::ready!(Pin::new(incoming).poll_frame(cx));
        match &frame {
            None => give_back(lease),
            Some(Err(_)) => *lease = None,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|read| read.map_err(Cut::Upstream)))
    }

    /// Bytes that are still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Client { incoming, .. } => incoming.size_hint().exact(),
            Self::Plain(plain) => Some(plain.left()),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Client { incoming, .. } => incoming.is_end_stream(),
            Self::Plain(plain) => plain.left() == 0,
        }
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}

impl Relayed {
    pub(super) fn new(flow: Flow, deadline: Option<Sleep>) -> Self {
        Self { first: None, flow, deadline: deadline.map(Box::pin) }
    }

    /// The first bytes, which stay to be sent; `None` when there are none.
    ///
    /// # Errors
    /// As reading the answer gives.
    pub(super) async fn peek(&mut self) -> Result<Option<&[u8]>, Cut> {
        if self.first.is_none() {
            let frame = std::future::poll_fn(|cx| self.poll_frame(cx)).await.transpose()?;
            self.first = frame.and_then(|frame| frame.into_data().ok());
        }
        Ok(self.first.as_deref())
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Poll::Ready(frame) = self.flow.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let is_late =
            self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_late { Poll::Ready(Some(Err(Cut::Deadline))) } else { Poll::Pending }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.flow.is_over()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match self.flow.left() {
            Some(rest) => SizeHint::with_exact(rest + first),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Relayed {
    /// A server stops polling a body of known length once it is written, so the end shows here.
    fn drop(&mut self) {
        if self.is_end_stream()
            && let Flow::Client { lease, .. } = &mut self.flow
        {
            give_back(lease);
        }
    }
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relayed").field("flow", &self.flow).finish_non_exhaustive()
    }
}
