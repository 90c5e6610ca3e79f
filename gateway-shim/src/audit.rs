//! A line in the log for each change: who, what, from where, and how it ended.
//!
//! In: a request that changes something, and who sent it. Out: the answer to it.
//! Always: of a body only the names of function, secret and namespace are logged; it passes on unchanged and unbuffered.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::Uri;
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde_json::{Map, Value};
use tracing::info;

use crate::scope::pairs;

/// Of a body this much is looked at for names; the rest just passes.
const PEEK_MAX: usize = 64 << 10;

/// Carries out a change and leaves its line in the log.
pub(crate) async fn change(who: &str, request: Request, next: Next) -> Response {
    let (method, target) = (request.method().clone(), request.uri().clone());
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let peek = Arc::clone(&seen);
    let request = request.map(|body| Body::new(Peeked { body, seen: peek }));
    let response = next.run(request).await;
    let (name, namespace) = named(&seen.lock().unwrap_or_else(PoisonError::into_inner), &target);
    let from = from.map_or_else(String::new, |ip: IpAddr| ip.to_canonical().to_string());
    info!(
        target: "audit",
        who,
        what = %format_args!("{method} {}", target.path()),
        name,
        namespace,
        from,
        status = response.status().as_u16(),
        "change"
    );
    response
}

/// The function, secret or namespace that a change is about, and the namespace it is in; empty when not told.
fn named(body: &[u8], target: &Uri) -> (String, String) {
    let object = serde_json::from_slice::<Map<String, Value>>(body).unwrap_or_default();
    let text = |keys: &[&str]| {
        let value = object.iter().find(|(key, _)| keys.iter().any(|k| key.eq_ignore_ascii_case(k)));
        // Names are short; what is longer is none and does not belong into a log.
        value
            .and_then(|(_, value)| value.as_str())
            .filter(|text| text.len() <= 253)
            .unwrap_or_default()
            .to_owned()
    };
    let namespace =
        Some(text(&["namespace"])).filter(|text| !text.is_empty()).unwrap_or_else(|| {
            pairs(target)
                .find(|(key, _)| *key == "namespace")
                .map_or_else(String::new, |(_, value)| value.to_owned())
        });
    (text(&["service", "functionName", "serviceName", "name"]), namespace)
}

/// A body that passes on while its beginning is kept.
struct Peeked {
    body: Body,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl HttpBody for Peeked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let room = PEEK_MAX.saturating_sub(seen.len()).min(data.len());
            seen.extend_from_slice(&data[..room]);
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
