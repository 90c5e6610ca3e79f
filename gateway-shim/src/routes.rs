//! The gateway's whole route table.
//!
//! As with Go's routers, unknown paths are 404 and wrong methods 405 before any credentials are looked at.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, any, get, on};
use hyperfaas_http::auth::{self, BasicAuth};

use crate::config::GatewayConfig;
use crate::upstream::Upstream;
use crate::{error, invoke, system};

/// What the handlers share.
pub(crate) struct Gateway {
    pub(crate) provider: Upstream,
    pub(crate) logs: Upstream,
    pub(crate) auth: Option<BasicAuth>,
    pub(crate) upstream_timeout: Option<Duration>,
}

/// A gateway in front of `provider`; logs come from `logs`, which mostly is the provider too.
///
/// With [`Upstream::Local`] gateway and provider run in one process. A provider that checks basic auth itself must have the
/// same credentials as the gateway.
pub fn router(config: GatewayConfig, provider: Upstream, logs: Option<Upstream>) -> Router {
    let GatewayConfig { auth, upstream_timeout } = config;
    let logs = logs.unwrap_or_else(|| provider.clone());
    let gateway = Arc::new(Gateway { provider, logs, auth: auth.clone(), upstream_timeout });
    let secured = |route: MethodRouter<Arc<Gateway>>| {
        route.route_layer(from_fn_with_state(auth.clone(), auth::require))
    };
    let pass_on = |methods| secured(on(methods, system::pass_on));

    let (read, create) = (MethodFilter::GET, MethodFilter::POST);
    let all = read.or(create).or(MethodFilter::PUT).or(MethodFilter::DELETE);
    Router::new()
        .route("/", get(system::welcome))
        .route("/healthz", get(system::health))
        .route("/function/{*call}", any(invoke::invoke))
        .route("/system/functions", pass_on(all))
        .route("/system/function/{name}", pass_on(read))
        .route("/system/scale-function/{name}", pass_on(create))
        .route("/system/secrets", pass_on(all))
        .route("/system/namespaces", pass_on(read))
        .route("/system/namespaces/{name}", pass_on(all))
        .route("/system/namespace/", pass_on(all))
        .route("/system/namespace/{name}", pass_on(all))
        .route("/system/telemetry", pass_on(read))
        .route("/system/logs", secured(on(read, system::logs)))
        .route("/system/info", secured(on(read, system::info)))
        .fallback(async || error::not_found())
        .with_state(gateway)
}
