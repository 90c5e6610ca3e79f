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
    let us = (duration.as_nanos() + 500) / 1000;
    HeaderValue::try_from(format!("{}.{:06}", us / 1_000_000, us % 1_000_000))
        .expect("digits and a point are a header value")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_have_six_decimals_rounded_as_go_rounds() {
        for (ns, text) in [
            (0, "0.000000"),
            (499, "0.000000"),
            (500, "0.000001"),
            (1_234_567_899, "1.234568"),
            (999_999_999, "1.000000"),
        ] {
            assert_eq!(seconds(Duration::from_nanos(ns)), text);
        }
    }
}
