//! What the provider counts, under the names that OpenFaaS uses.
//!
//! In: one observation a management request. Out: Prometheus' text format.
//! Always: every label has few values: `path` is a route, `method` one of the standard ones or `OTHER`.
//! Source: faas-provider's `provider_http_*`; invocations are the gateway's to count.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::time::Instant;

const LABELS: [&str; 3] = ["code", "method", "path"];

/// The provider's metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
}

/// The metrics of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics {
    metrics: Metrics,
    path: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Fresh metrics in a registry of their own.
    pub fn new() -> Self {
        let requests = Opts::new("provider_http_requests_total", "Management requests answered.");
        let seconds = HistogramOpts::new(
            "provider_http_request_duration_seconds",
            "Time from a management request to its answer's head.",
        );
        let requests =
            IntCounterVec::new(requests, &LABELS).expect("the names are constant and valid");
        let seconds =
            HistogramVec::new(seconds, &LABELS).expect("the names are constant and valid");
        let registry = Registry::new();
        registry.register(Box::new(requests.clone())).expect("the registry is new");
        registry.register(Box::new(seconds.clone())).expect("the names differ");
        Self(Arc::new(Inner { registry, requests, seconds }))
    }

    /// Shows what `collector` counts on this page too; its name must be no other's.
    pub fn add(&self, collector: impl Collector + 'static) {
        self.0.registry.register(Box::new(collector)).expect("the names are constant and differ");
    }

    /// The metrics of the route `path`.
    pub fn route(&self, path: &'static str) -> RouteMetrics {
        RouteMetrics { metrics: self.clone(), path }
    }

    /// Everything counted so far, in Prometheus' text format.
    ///
    /// # Errors
    /// Prometheus' own, for families it cannot write.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }
}

/// Middleware for `axum::middleware::from_fn_with_state`: counts a request, refused ones included.
pub async fn count(State(route): State<RouteMetrics>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = label(request.method());
    let response = next.run(request).await;
    let inner = &route.metrics.0;
    let status = response.status();
    let labels = [status.as_str(), method, route.path];
    inner.requests.with_label_values(&labels).inc();
    inner.seconds.with_label_values(&labels).observe(start.elapsed().as_secs_f64());
    response
}

/// A method's label; callers can invent methods, labels must not grow with them.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}
