//! The gateway's whole route table.
//!
//! As with Go's routers, unknown paths are 404 and wrong methods 405 before any credentials are looked at.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, any, get, on};
use hyperfaas_http::auth::{self, BasicAuth};

use hyperfaas_protocol::names::DEFAULT_NAMESPACE;

use crate::config::GatewayConfig;
use crate::metrics::Metrics;
use crate::upstream::Upstream;
use crate::{error, invoke, metrics, system};

/// What the handlers share.
pub(crate) struct Gateway {
    pub(crate) provider: Upstream,
    pub(crate) logs: Upstream,
    pub(crate) auth: Option<BasicAuth>,
    pub(crate) upstream_timeout: Option<Duration>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a gateway serves.
#[derive(Debug)]
pub struct Routers {
    /// Function calls, the `/system` API and health; for the gateway's port.
    pub api: Router,
    /// `/metrics` and `/healthz` of the gateway itself, without credentials; for a port of its own.
    pub metrics: Router,
}

/// The API of a gateway in front of `provider`, see [`routers`]; its metrics are counted but not served.
pub fn router(config: GatewayConfig, provider: Upstream, logs: Option<Upstream>) -> Router {
    routers(config, provider, logs, DEFAULT_NAMESPACE).api
}

/// A gateway in front of `provider`; logs come from `logs`, which mostly is the provider too.
///
/// `namespace` is that of functions which are called without one; metrics and counts name it.
///
/// With [`Upstream::Local`] gateway and provider run in one process. A provider that checks basic auth itself must have the
/// same credentials as the gateway.
pub fn routers(
    config: GatewayConfig,
    provider: Upstream,
    logs: Option<Upstream>,
    namespace: &str,
) -> Routers {
    let GatewayConfig { auth, upstream_timeout } = config;
    let logs = logs.unwrap_or_else(|| provider.clone());
    let metrics = Arc::new(Metrics::new(namespace));
    let gateway =
        Arc::new(Gateway { provider, logs, auth: auth.clone(), upstream_timeout, metrics });
    Routers { api: api(Arc::clone(&gateway), &auth), metrics: metrics_routes(gateway) }
}

fn metrics_routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/metrics", any(metrics::scrape))
        .route("/healthz", get(async || "OK"))
        .fallback(async || error::not_found())
        .with_state(gateway)
}

fn api(gateway: Arc<Gateway>, auth: &Option<BasicAuth>) -> Router {
    let secured = |route: MethodRouter<Arc<Gateway>>| {
        route.route_layer(from_fn_with_state(auth.clone(), auth::require))
    };
    let pass_on = |methods| secured(on(methods, system::pass_on));

    let (read, create) = (MethodFilter::GET, MethodFilter::POST);
    let write = create.or(MethodFilter::PUT).or(MethodFilter::DELETE);
    let all = read.or(write);
    Router::new()
        .route("/", get(system::welcome))
        .route("/healthz", get(system::health))
        .route("/function/{*call}", any(invoke::invoke))
        .route("/system/functions", pass_on(write).merge(secured(on(read, system::list))))
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
