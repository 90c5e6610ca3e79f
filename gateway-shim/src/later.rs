//! `/async-function/…`: a call that is kept now and made later.
//!
//! In: a POST with a bounded body. Out: 202 once the call is on disk.
//! Always: a call that was answered with 202 is delivered or becomes a dead letter; one that was not is not kept. Bodies
//! being read take at most [`MEMORY`] together, are read for at most [`BODY_TIMEOUT`], and are never logged.
//! Source: headers and statuses of the OpenFaaS gateway, except that too long a body is 413 here, not 500.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyperfaas_http::error::{empty, plain};
use hyperfaas_http::headers::{add_forwarded, strip_hop_by_hop};
use hyperfaas_http::target::function_path;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::callback::CallbackUrl;
use crate::error::not_found;
use crate::invoke::Call;
use crate::queue::message::{Head, Message};
use crate::queue::{Queue, QueueError, now_ms};
use crate::routes::Gateway;

/// Path prefix of asynchronous calls.
const PREFIX: &str = "/async-function/";
/// Where the answer is to go.
const X_CALLBACK_URL: &str = "x-callback-url";
/// Time for the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What all bodies that are being read or written to the disk may take together, in units of [`UNIT`]: 128 MiB.
const MEMORY: usize = 128 << 10;
/// One unit of that: 1 KiB.
const UNIT: usize = 1 << 10;
/// Longest headers and target that are kept with a call, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// A body that is too long is read on up to this, as a client that is still writing would not see the answer.
const DRAIN_MAX: usize = 16 << 20;

static BODIES: Semaphore = Semaphore::const_new(MEMORY);

/// Why a call is not accepted.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("request body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("request body did not arrive within {BODY_TIMEOUT:?}")]
    Slow,
    #[error("the request body broke off or is malformed")]
    Broken,
    #[error("headers and path take more than {HEAD_MAX} bytes")]
    Head,
    #[error("too many asynchronous calls at the same time")]
    Busy,
    #[error("{0}")]
    Callback(#[from] crate::callback::CallbackError),
    #[error("{0}")]
    Queue(#[from] QueueError),
}

/// Keeps a call for later.
pub(crate) async fn accept(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let call = Call::begin(request.headers(), Timestamp::now());
    let Some(queue) = &gateway.queue else { return call.mark_response(not_found()) };
    let path = function_path(request.uri().path(), PREFIX);
    let Some(function) = path.map(|path| gateway.metrics.full_name(path.reference)) else {
        return call.mark_response(not_found());
    };
    let answer = match keep(&gateway, queue, function, &call, request).await {
        Ok(()) => {
            gateway.metrics.queue.accepted("accepted");
            empty(StatusCode::ACCEPTED)
        }
        Err(refusal) => {
            gateway.metrics.queue.accepted("refused");
            answer(&refusal)
        }
    };
    call.mark_response(answer)
}

/// The one place where a refusal becomes a status.
fn answer(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Slow => StatusCode::REQUEST_TIMEOUT,
        Refusal::Broken | Refusal::Callback(_) => StatusCode::BAD_REQUEST,
        Refusal::Head => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Refusal::Queue(QueueError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Queue(QueueError::Name) => StatusCode::NOT_FOUND,
        Refusal::Busy | Refusal::Queue(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = plain(status, refusal.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn keep(
    gateway: &Gateway,
    queue: &Queue,
    function: String,
    call: &Call,
    mut request: Request,
) -> Result<(), Refusal> {
    let callback = callback(gateway, request.headers())?;
    let target = target(&request);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let limit = queue.settings.body_max;
    let waits_for_leave = request.headers().contains_key(EXPECT);
    let headers = request.headers_mut();
    call.mark_request(headers);
    add_forwarded(headers, peer);
    strip_hop_by_hop(headers);
    for name in [CONTENT_LENGTH, EXPECT, HOST] {
        headers.remove(name);
    }
    let headers = std::mem::take(headers);
    if target.len() + size(&headers) > HEAD_MAX {
        return Err(Refusal::Head);
    }
    let body = read(request.into_body(), limit, waits_for_leave);
    let (body, _memory) = timeout(BODY_TIMEOUT, body).await.map_err(|_| Refusal::Slow)??;
    let head = Head {
        function,
        target,
        headers,
        callback,
        call_id: call.id.to_str().unwrap_or_default().to_owned(),
        accepted_ms: now_ms(),
        attempts: 0,
        death: None,
    };
    Ok(queue.put(Message { head, body }).await?)
}

/// The checked callback URL, as it was written.
fn callback(gateway: &Gateway, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(X_CALLBACK_URL).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| crate::callback::CallbackError::Malformed)?;
    CallbackUrl::parse(text, gateway.callbacks)?;
    Ok(Some(text.to_owned()))
}

/// The target of the later call: the same bytes under the other prefix.
fn target(request: &Request) -> String {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    format!("/function/{}", target.strip_prefix(PREFIX).unwrap_or_default())
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// A body of at most `limit` bytes, with the part of the memory that it takes.
async fn read(
    mut body: Body,
    limit: usize,
    waits_for_leave: bool,
) -> Result<(Bytes, Vec<SemaphorePermit<'static>>), Refusal> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit && (waits_for_leave || announced > DRAIN_MAX) {
        return Err(Refusal::TooLarge(limit));
    }
    let (mut bytes, mut memory, mut seen) = (BytesMut::new(), Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > DRAIN_MAX.max(limit) {
            break;
        }
        if seen <= limit {
            let units = u32::try_from(data.len().div_ceil(UNIT)).map_err(|_| Refusal::Busy)?;
            memory.push(BODIES.try_acquire_many(units).map_err(|_| Refusal::Busy)?);
            bytes.extend_from_slice(&data);
        }
    }
    if seen > limit { Err(Refusal::TooLarge(limit)) } else { Ok((bytes.freeze(), memory)) }
}
