//! Identity, health and metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyperfaas_protocol::openfaas::{ProviderInfo, VersionInfo};
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use crate::metrics::Metrics;
use crate::node::view::NodeReport;

/// OpenFaaS' answer, and what only this provider knows; OpenFaaS' clients read what they know and leave the rest.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    #[serde(flatten)]
    provider: ProviderInfo,
    hyperfaas: NodeReport,
}

/// `GET /system/info`
pub(super) async fn info(State(api): State<Arc<Api>>) -> Json<Info> {
    let version = VersionInfo {
        commit_message: String::new(),
        sha: hyperfaas_gateway::SHA.to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let provider = ProviderInfo {
        provider: "hyperfaas".to_owned(),
        version,
        orchestration: "docker".to_owned(),
    };
    Json(Info { provider, hyperfaas: api.node.report() })
}

/// `GET /healthz`: the process serves. An engine that is away is waited for, so it is no reason to restart us.
pub(super) async fn health() {}

/// `/metrics`
pub(super) async fn metrics(State(metrics): State<Metrics>) -> Result<Response, ApiError> {
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.encode()?).into_response())
}
