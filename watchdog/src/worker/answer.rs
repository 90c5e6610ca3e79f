//! The small answers workers give by themselves.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::body::Body;
use hyperfaas_protocol::sniff;

/// Seconds the request took, with six decimals.
pub(crate) const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
/// Which part of OpenFaaS an error comes from, if not from the function.
pub(crate) const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

/// `status` with nothing in the body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// `status` with `body`, its type guessed from its bytes as Go does.
pub(crate) fn sniffed(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    let kind = (!body.is_empty()).then(|| HeaderValue::from_static(sniff::content_type(&body)));
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

/// A number of seconds as OpenFaaS writes it in headers.
pub(crate) fn seconds(duration: std::time::Duration) -> HeaderValue {
    HeaderValue::try_from(format!("{:.6}", duration.as_secs_f64()))
        .expect("digits and a point are a header value")
}
