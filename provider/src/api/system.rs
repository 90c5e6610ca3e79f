//! Identity, health and metrics.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyperfaas_protocol::openfaas::{ProviderInfo, VersionInfo};

use super::error::ApiError;
use crate::metrics::Metrics;

/// `GET /system/info`
pub(super) async fn info() -> Json<ProviderInfo> {
    let version = VersionInfo {
        commit_message: String::new(),
        sha: hyperfaas_gateway::SHA.to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Json(ProviderInfo {
        provider: "hyperfaas".to_owned(),
        version,
        orchestration: "docker".to_owned(),
    })
}

/// `GET /healthz`: the process serves. An engine that is away is waited for, so it is no reason to restart us.
pub(super) async fn health() {}

/// `/metrics`
pub(super) async fn metrics(State(metrics): State<Metrics>) -> Result<Response, ApiError> {
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.encode()?).into_response())
}
