//! A provider that answers with what it was asked, gateways in front of it, and a plain client.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_body_util::BodyExt;
use hyperfaas_gateway::{Backends, CallbackPolicy, GatewayConfig, Queue, Upstream, router};
use hyperfaas_http::auth::BasicAuth;
use hyperfaas_http::{Pool, PoolSettings, ServeLimits, listen, serve};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The credentials of every gateway that has some.
pub(crate) const USER: (&str, &str) = ("admin", "secret");

/// A server that stops accepting when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _running: Option<DropGuard>,
}

impl Server {
    /// One that somebody else runs.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, _running: None }
    }
}

pub(crate) fn start(router: Router) -> Server {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, router, ServeLimits::default(), shutdown.clone()));
    Server { address, _running: Some(shutdown.drop_guard()) }
}

/// A provider whose answer is the request: method, target, sorted headers, then the body.
pub(crate) fn provider() -> Router {
    Router::new()
        .route("/system/info", axum::routing::get(info))
        .route("/system/functions", axum::routing::any(mirror))
        .fallback(mirror)
}

async fn info() -> impl IntoResponse {
    let body =
        r#"{"provider":"fake","version":{"release":"9.9","sha":"abc"},"orchestration":"test"}"#;
    ([("content-type", "application/json")], body)
}

async fn mirror(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut lines: Vec<_> =
        parts.headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    let body = body.collect().await.unwrap().to_bytes();
    let target = parts.uri.path_and_query().unwrap();
    let text = format!(
        "{} {target}\n{}\n\n{}",
        parts.method,
        lines.join("\n"),
        String::from_utf8_lossy(&body)
    );
    (StatusCode::ACCEPTED, text).into_response()
}

pub(crate) fn config(auth: bool) -> GatewayConfig {
    GatewayConfig {
        auth: auth.then(|| BasicAuth::new(USER.0, USER.1)),
        users: None,
        traces: None,
        cron: false,
        upstream_timeout: Some(Duration::from_secs(20)),
        callbacks: CallbackPolicy { allows_loopback: true },
    }
}

pub(crate) fn over_http(address: SocketAddr) -> Upstream {
    Upstream::from_url(&format!("http://{address}/"), PoolSettings::default()).unwrap()
}

/// What a gateway in front of `provider` keeps.
pub(crate) fn backends(provider: Upstream, namespace: &str, queue: Option<Queue>) -> Backends {
    Backends { provider, logs: None, namespace: namespace.to_owned(), queue, prometheus: None }
}

/// A gateway over HTTP and one in the provider's process, both in front of `provider`.
pub(crate) struct Pair {
    pub(crate) gateways: [Server; 2],
    _provider: Server,
}

pub(crate) fn pair(provider: Router, auth: bool) -> Pair {
    let server = start(provider.clone());
    let http = start(router(config(auth), over_http(server.address), None));
    let local = start(router(config(auth), Upstream::Local(provider), None));
    Pair { gateways: [http, local], _provider: server }
}

/// What a client gets.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) async fn ask(server: &Server, request: http::request::Builder, body: &str) -> Answer {
    let body = if body.is_empty() { Body::empty() } else { Body::from(body.to_owned()) };
    let request = request.header("host", "gateway.example").body(body).unwrap();
    let response = Pool::new(server.address, PoolSettings::default()).send(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}
