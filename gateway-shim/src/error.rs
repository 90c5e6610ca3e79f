//! The one place where a failed call to the provider becomes an HTTP status.
//!
//! Clients get one short line; the log gets the chain of causes.

use std::error::Error;

use axum::body::Body;
use http::{Response, StatusCode};
use hyperfaas_http::ForwardError;
use hyperfaas_http::error::plain;

/// The answer to a call that `error` ended.
pub(crate) fn refusal(error: &ForwardError) -> Response<Body> {
    match error {
        ForwardError::Unsent { .. } => {
            plain(StatusCode::BAD_GATEWAY, "the provider cannot be reached")
        }
        ForwardError::Lost(_) | ForwardError::UnexpectedUpgrade => {
            plain(StatusCode::BAD_GATEWAY, "the provider gave no valid answer")
        }
        ForwardError::BrokenRequest => {
            plain(StatusCode::BAD_REQUEST, "the request body broke off or is malformed")
        }
        ForwardError::Timeout(limit) => {
            plain(StatusCode::GATEWAY_TIMEOUT, format!("no answer within {limit:?}"))
        }
    }
}

/// Go's router answer for paths it does not know.
pub(crate) fn not_found() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "404 page not found")
}

/// `error` and all its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
