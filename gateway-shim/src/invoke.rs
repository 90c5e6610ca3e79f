//! `/function/…`: a call to a function.
//!
//! In: any method, target and body. Out: the function's answer with the call's headers.
//! Always: every answer under `/function/` carries `X-Call-Id`, `X-Start-Time` and `X-Served-By`, refusals included;
//! `Authorization` belongs to the function and passes untouched.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyperfaas_http::target::function_path;
use hyperfaas_http::{ForwardError, hold};
use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

use crate::error::{chain, not_found, refusal};
use crate::routes::Gateway;
use crate::trace::{Kind, Span};

/// Path prefix of invocations.
const PREFIX: &str = "/function/";
/// Identifies one call from end to end.
const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
/// When the gateway took the call: Unix time in nanoseconds.
const X_START_TIME: HeaderName = HeaderName::from_static("x-start-time");
/// Who answered.
const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// Tells retrying clients that the answer is not the function's own.
const X_OPENFAAS_INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");
const SERVED_BY: HeaderValue =
    HeaderValue::from_static(concat!("hyperfaas/", env!("CARGO_PKG_VERSION")));

/// Passes a call on to its function.
pub(crate) async fn invoke(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let call = Call::begin(request.headers(), Timestamp::now());
    call.mark_request(request.headers_mut());
    let Some(function) =
        function_path(request.uri().path(), PREFIX).map(|path| path.reference.to_owned())
    else {
        return call.mark_response(not_found());
    };
    let mut invocation = gateway.metrics.begin(&function);
    let mut span = Span::begin(&gateway, &mut request, &function, Kind::Server);
    let answer = send(&gateway, request, invocation.function()).await;
    let response = answer.unwrap_or_else(|error| refuse(&error, &function, &call));
    invocation.answered(response.status());
    span.answered(response.status());
    call.mark_response(response.map(|body| hold(body, (invocation, span))))
}

/// Sends a call to the provider; the time its function asks for by label goes before the gateway's own.
async fn send(
    gateway: &Arc<Gateway>,
    request: Request,
    function: &str,
) -> Result<Response, ForwardError> {
    match gateway.look_up_soon(function).await.settings().timeout {
        Some(limit) => gateway.provider.call_within(request, Some(limit)).await,
        None => gateway.provider.call(request, gateway.upstream_timeout).await,
    }
}

fn refuse(error: &ForwardError, function: &str, call: &Call) -> Response {
    let call_id = call.id.to_str().unwrap_or_default();
    warn!(function, call_id, error = chain(error), "call failed");
    let mut response = refusal(error);
    response.headers_mut().insert(X_OPENFAAS_INTERNAL, HeaderValue::from_static("gateway"));
    response
}

/// Whether an answer is not the function's own.
pub(crate) fn is_internal(headers: &HeaderMap) -> bool {
    headers.contains_key(X_OPENFAAS_INTERNAL)
}

/// What identifies one call.
pub(crate) struct Call {
    pub(crate) id: HeaderValue,
    start_time: HeaderValue,
}

impl Call {
    /// The call that arrived with `headers`; one without an id gets a random one.
    pub(crate) fn begin(headers: &HeaderMap, now: Timestamp) -> Self {
        let given = headers.get(X_CALL_ID).filter(|id| !id.is_empty()).cloned();
        let id = given.unwrap_or_else(|| ascii(Uuid::new_v4().to_string()));
        Self { id, start_time: ascii(now.as_nanosecond().to_string()) }
    }

    /// A caller's own start time stays in front of ours, as in the OpenFaaS gateway.
    pub(crate) fn mark_request(&self, headers: &mut HeaderMap) {
        headers.insert(X_CALL_ID, self.id.clone());
        headers.append(X_START_TIME, self.start_time.clone());
    }

    /// Adds the call's headers; what the function set itself stays.
    pub(crate) fn mark_response(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        for (name, value) in
            [(X_CALL_ID, &self.id), (X_START_TIME, &self.start_time), (X_SERVED_BY, &SERVED_BY)]
        {
            if let Entry::Vacant(place) = headers.entry(name) {
                place.insert(value.clone());
            }
        }
        response
    }
}

pub(crate) fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ids and numbers are header characters")
}
