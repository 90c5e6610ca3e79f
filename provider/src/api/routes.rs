//! The whole route table.
//!
//! Names in paths are checked before anything else, so that what no function can be called is a router's 404 also without
//! credentials; then requests are counted; then credentials are checked.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any, get, on, post};
use axum::{Extension, Router};
use hyperfaas_http::auth::{BasicAuth, require};
use hyperfaas_protocol::names::is_route_name;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::{Api, functions, invoke, last_segment, live, logs, namespaces, secrets, system};
use crate::metrics::{Metrics, count};

/// The provider's API; with `auth`, all of `/system` asks for these credentials.
pub fn router(api: Arc<Api>, auth: Option<BasicAuth>) -> Router {
    router_until(api, auth, CancellationToken::new())
}

/// As [`router`]; once `stopping` is cancelled, answers that would never end by themselves do so.
pub fn router_until(api: Arc<Api>, auth: Option<BasicAuth>, stopping: CancellationToken) -> Router {
    let metrics = Metrics::new();
    api.cluster.counters().register(&metrics);
    let counted = metrics.clone();
    let system = move |label: &'static str, methods: MethodRouter<Arc<Api>>| {
        let methods = methods.route_layer(from_fn_with_state(auth.clone(), require));
        methods.route_layer(from_fn_with_state(counted.route(label), count))
    };
    let named = |label, methods| system(label, methods).route_layer(from_fn(check_name));
    let namespace = || {
        get(namespaces::read)
            .post(namespaces::create)
            .put(namespaces::update)
            .delete(namespaces::delete)
    };

    Router::new()
        .route(
            "/system/functions",
            system(
                "/system/functions",
                get(functions::list)
                    .post(functions::create)
                    .put(functions::update)
                    .delete(functions::delete),
            ),
        )
        .route("/system/function/{name}", named("/system/function", get(functions::status)))
        .route(
            "/system/scale-function/{name}",
            named("/system/scale-function", post(functions::scale)),
        )
        .route(
            "/system/hyperfaas/functions/{name}/decisions",
            system("/system/hyperfaas/decisions", get(functions::decisions)),
        )
        .route(
            "/system/hyperfaas/live",
            system("/system/hyperfaas/live", get(live::stream))
                .layer(Extension(live::Watchers::new(stopping.clone()))),
        )
        .route("/system/info", system("/system/info", get(system::info)))
        .route(
            "/system/secrets",
            system(
                "/system/secrets",
                get(secrets::list)
                    .post(secrets::create)
                    .put(secrets::update)
                    .delete(secrets::delete),
            ),
        )
        .route("/system/logs", system("/system/logs", get(logs::stream)).layer(Extension(stopping)))
        .route("/system/namespaces", system("/system/namespaces", get(namespaces::list)))
        .route("/system/namespace/", system("/system/namespace", namespace()))
        .route("/system/namespace/{name}", named("/system/namespace", namespace()))
        .route("/system/namespaces/", system("/system/namespace", namespace()))
        .route("/system/namespaces/{name}", named("/system/namespace", namespace()))
        .route("/function/{name}", invocation())
        .route("/function/{name}/", invocation())
        .route("/function/{name}/{*rest}", invocation())
        .route("/healthz", get(system::health))
        .with_state(api)
        .route("/metrics", any(system::metrics).with_state(metrics))
        .fallback(no_route)
}

/// The methods that functions may be called with; others are 405.
fn invocation() -> MethodRouter<Arc<Api>> {
    let methods = MethodFilter::GET
        .or(MethodFilter::HEAD)
        .or(MethodFilter::POST)
        .or(MethodFilter::PUT)
        .or(MethodFilter::PATCH)
        .or(MethodFilter::DELETE)
        .or(MethodFilter::OPTIONS);
    on(methods, invoke::invoke)
}

/// Lets requests through whose last segment matches OpenFaaS' route pattern.
async fn check_name(request: Request, next: Next) -> Response {
    if is_route_name(last_segment(request.uri().path())) {
        next.run(request).await
    } else {
        no_route().await
    }
}

async fn no_route() -> Response {
    ApiError::NoRoute.into_response()
}
