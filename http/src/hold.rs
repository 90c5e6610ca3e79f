//! Response bodies that keep something until they are over: a place on a replica, an open measurement.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// `body`, keeping `guard` until it was sent, broke off, or nobody wants it any more; the guard is dropped then.
pub fn hold<G: Send + Unpin + 'static>(body: Body, guard: G) -> Body {
    Body::new(Held::new(body, guard))
}

/// What [`hold`] makes, of any body.
#[derive(Debug)]
pub(crate) struct Held<B, G> {
    body: B,
    _guard: G,
}

impl<B, G> Held<B, G> {
    pub(crate) fn new(body: B, guard: G) -> Self {
        Self { body, _guard: guard }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin, G: Unpin> HttpBody for Held<B, G> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn the_guard_lives_as_long_as_the_body() {
        let guard = Arc::new(());
        let read = hold(Body::from("text"), Arc::clone(&guard));
        let unread = hold(Body::from("text"), Arc::clone(&guard));
        assert_eq!(Arc::strong_count(&guard), 3);
        assert_eq!(read.collect().await.unwrap().to_bytes(), "text");
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(unread);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
