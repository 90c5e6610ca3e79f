//! The body of an upstream's answer on its way to the client.
//!
//! In: the upstream's body. Out: the same frames, at once.
//! Always: the connection goes back to the pool only when the body was read to its end; a body that is dropped earlier or
//! outlives its deadline takes the connection with it, which tells the function that nobody listens.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::pool::Lease;
use crate::body::Cut;

/// An answer being relayed.
pub(crate) struct Relayed {
    /// Read before the head was sent, to guess its type.
    first: Option<Bytes>,
    incoming: Incoming,
    lease: Option<Lease>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Relayed {
    pub(super) fn new(
        first: Option<Bytes>,
        incoming: Incoming,
        lease: Lease,
        deadline: Option<Sleep>,
    ) -> Self {
        Self { first, incoming, lease: Some(lease), deadline: deadline.map(Box::pin) }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map_err(|error| {
                self.lease = None;
                Cut::Upstream(error)
            }))),
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let is_late = self
                    .deadline
                    .as_mut()
                    .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if is_late { Poll::Ready(Some(Err(Cut::Deadline))) } else { Poll::Pending }
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest + first),
            None => SizeHint::default(),
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Drop for Relayed {
    /// A server stops polling a body of known length once it is written, so the end shows here.
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.give_back();
        }
    }
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relayed").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}
