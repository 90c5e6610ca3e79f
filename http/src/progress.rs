//! How far a request's body has got: a caller that still sends is not given up.
//!
//! In: a body. Out: the same body, and the moment of its last piece.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// How far a request's body has got; shared between the body and the timeout.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// Milliseconds from `start` to the last chunk.
    last_ms: AtomicU64,
    has_failed: AtomicBool,
}

impl Progress {
    /// Nothing has been sent yet.
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Something has been sent.
    pub fn note(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// The caller's body broke off.
    pub fn fail(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Whether the caller's body broke off.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }
}

/// Returns once `limit` has passed without progress.
pub async fn stalled(progress: &Progress, limit: Duration) {
    loop {
        let deadline = progress.last() + limit;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

/// Lets the body of `request` report its progress; an empty one has none to report.
pub fn watch(request: Request<Body>) -> (Request<Body>, Arc<Progress>) {
    let progress = Arc::new(Progress::begin());
    if request.body().is_end_stream() {
        return (request, progress);
    }
    let watched =
        request.map(|body| Body::new(WatchedBody { body, progress: Arc::clone(&progress) }));
    (watched, progress)
}

struct WatchedBody {
    body: Body,
    progress: Arc<Progress>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.note();
        if let Some(Err(_)) = &frame {
            self.progress.fail();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
