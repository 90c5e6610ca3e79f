//! The one place where a mistake becomes a status and a line.
//!
//! In: every error a handler can meet. Out: a plain-text answer; 5xx are logged with their whole chain, the client gets one line.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyperfaas_http::error::plain;
use hyperfaas_protocol::names::NameError;
use tracing::error;

use super::body::BodyError;
use crate::catalog::CatalogError;
use crate::dispatch::InvokeError;
use crate::logs::LogError;
use crate::secrets::SecretValueError;
use crate::spec::SpecError;

/// Marks answers that come from the proxy and not from a function; queue workers retry on it.
const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");
/// When a caller may try again after a full queue, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Every way a request can fail.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No such route, as Go's router words it.
    #[error("404 page not found")]
    NoRoute,
    /// A path names a function that cannot exist or does not.
    #[error("function {0} not found")]
    NoFunction(String),
    /// The body.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A name in body or query.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field that must be given.
    #[error("{0} is required")]
    Missing(&'static str),
    /// Path and body name different namespaces.
    #[error("namespace {path} in the path and {body} in the body differ")]
    NamespaceDiffers {
        /// The path's.
        path: String,
        /// The body's.
        body: String,
    },
    /// The deployment.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A secret's value.
    #[error(transparent)]
    SecretValue(#[from] SecretValueError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A query that is no log query.
    #[error("could not parse the log request")]
    LogQuery,
    /// More are watching than there is room for.
    #[error("too many are watching already")]
    TooManyWatchers,
    /// The logs.
    #[error("function log request failed")]
    Logs(#[from] LogError),
    /// Metrics that cannot be written.
    #[error("metrics cannot be encoded")]
    Metrics(#[from] prometheus::Error),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute | Self::NoFunction(_) => StatusCode::NOT_FOUND,
            Self::Body(error) => body_status(error),
            Self::Name(_) | Self::Missing(_) | Self::NamespaceDiffers { .. } | Self::Spec(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::SecretValue(SecretValueError::Base64) => StatusCode::BAD_REQUEST,
            Self::SecretValue(SecretValueError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Catalog(error) => catalog_status(error),
            Self::TooManyWatchers => StatusCode::SERVICE_UNAVAILABLE,
            Self::LogQuery => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Logs(_) | Self::Metrics(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::Decode(_) | BodyError::DecodeSecret | BodyError::Broken => {
            StatusCode::BAD_REQUEST
        }
        BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Slow(_) => StatusCode::REQUEST_TIMEOUT,
        BodyError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn catalog_status(error: &CatalogError) -> StatusCode {
    match error {
        CatalogError::FunctionUnknown(_)
        | CatalogError::NamespaceNotFound(_)
        | CatalogError::SecretNotFound { .. } => StatusCode::NOT_FOUND,
        CatalogError::NamespaceUnknown(_)
        | CatalogError::NamespaceIsDefault(_)
        | CatalogError::NamespaceIsReserved(_)
        | CatalogError::NamespaceTooLarge(_)
        | CatalogError::SecretUnknown(_) => StatusCode::BAD_REQUEST,
        CatalogError::FunctionExists(_)
        | CatalogError::NamespaceExists(_)
        | CatalogError::NamespaceNotEmpty { .. }
        | CatalogError::SecretExists { .. } => StatusCode::CONFLICT,
        CatalogError::Store(_) | CatalogError::SecretFiles(_) => StatusCode::INTERNAL_SERVER_ERROR,
        CatalogError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            error!(error = chain(&self), "request failed");
        }
        plain(status, self.to_string())
    }
}

/// The answer to an invocation of `name` that no function gave; never a 2xx.
pub(super) fn invoke_failed(name: &str, error: &InvokeError) -> Response {
    let (status, text) = match error {
        InvokeError::UnknownFunction => {
            (StatusCode::NOT_FOUND, format!("function {name} not found"))
        }
        InvokeError::Unavailable { reason } => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("No endpoints available for: {name}. {reason}"),
        ),
        InvokeError::QueueFull => {
            (StatusCode::TOO_MANY_REQUESTS, format!("too many requests are waiting for: {name}"))
        }
        InvokeError::ColdStartTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            format!("No endpoints available for: {name}. No replica became ready in time"),
        ),
        InvokeError::Lost(_) => {
            (StatusCode::BAD_GATEWAY, format!("Can't reach service for: {name}."))
        }
        InvokeError::Timeout => {
            (StatusCode::GATEWAY_TIMEOUT, format!("{name} did not answer in time"))
        }
        InvokeError::BrokenRequest => {
            (StatusCode::BAD_REQUEST, "request body broke off".to_owned())
        }
    };
    let mut response = plain(status, text);
    response.headers_mut().insert(INTERNAL, HeaderValue::from_static("proxy"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}

/// An error with all its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
