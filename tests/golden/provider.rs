//! A provider without sockets: its router, on a catalog that vanishes and an engine in memory.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_http::auth::BasicAuth;
use hyperfaas_protocol::control::{CONTROL_PORT, OwnerState};
use hyperfaas_protocol::moment::{Moment, SystemClock};
use hyperfaas_protocol::{FunctionKey, Namespace};
use hyperfaas_provider::api::{Api, ApiSettings, router_until};
use hyperfaas_provider::catalog::{Catalog, CatalogSettings};
use hyperfaas_provider::cluster::{Cluster, ParkingBounds};
use hyperfaas_provider::dispatch::{Dispatch, DispatchSettings};
use hyperfaas_provider::engine::sim::{SimEngine, SimHost};
use hyperfaas_provider::engine::{ContainerId, Observed, ReplicaId};
use hyperfaas_provider::node::view::NodeView;
use hyperfaas_provider::scheduler::{Grant, Policy};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest body a management request may take its time with in these tests.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_millis(300);
/// How long an invocation waits for a replica in these tests.
const COLD_START_TIMEOUT: Duration = Duration::from_millis(100);

/// A provider under test.
pub(super) struct Provider {
    pub(super) router: Router,
    pub(super) auth: BasicAuth,
    /// Ends what would never end by itself.
    pub(super) stopping: CancellationToken,
    pub(super) catalog: Arc<Catalog>,
    cluster: Arc<Cluster>,
    _state: TempDir,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as text.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("answers are UTF-8")
    }

    /// A header's text; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }
}

impl Provider {
    /// A fresh one, with basic auth on.
    pub(super) fn new() -> Self {
        let state = TempDir::new().expect("a directory");
        let settings = CatalogSettings {
            state_dir: state.path().to_owned(),
            default_namespace: Namespace::parse("openfaas-fn").expect("valid"),
            max_replicas: 100,
        };
        let catalog = Arc::new(Catalog::open(&settings).expect("a fresh catalog"));
        let bounds = ParkingBounds { one: 10, all: 1000 };
        let clock = Arc::new(SystemClock::start());
        let cluster = Arc::new(Cluster::new(clock, Policy::default(), bounds));
        let dispatch = DispatchSettings {
            head_timeout: Some(Duration::from_secs(10)),
            cold_start_timeout: COLD_START_TIMEOUT,
        };
        let api = Api {
            node: NodeView::default(),
            catalog: Arc::clone(&catalog),
            cluster: Arc::clone(&cluster),
            dispatch: Arc::new(Dispatch::new(Arc::clone(&catalog), Arc::clone(&cluster), dispatch)),
            engine: Arc::new(SimEngine::new(&SimHost::default(), "golden")),
            settings: ApiSettings { body_timeout: BODY_TIMEOUT },
        };
        let auth = BasicAuth::new("admin", "secret");
        let stopping = CancellationToken::new();
        Self {
            router: router_until(Arc::new(api), Some(auth.clone()), stopping.clone()),
            auth,
            stopping,
            catalog,
            cluster,
            _state: state,
        }
    }

    /// Sends a request as it is.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("routers always answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the body ends well").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request with the right credentials.
    pub(super) async fn call(&self, method: &str, target: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("authorization", self.auth.header());
        self.send(request.body(body.into()).expect("a valid request")).await
    }

    /// Gives the function one ready replica, answered for at `port` of the loopback address.
    pub(super) fn make_ready(&self, function: &str, port: u16) {
        let key = FunctionKey::parse_reference(function, self.catalog.default_namespace())
            .expect("a valid reference");
        let revision = self.catalog.function(&key).expect("a deployed function").revision;
        let replica = ReplicaId(format!("{}.{}.{revision}", key.namespace, key.name));
        let observed = Observed {
            container: ContainerId(replica.0.clone()),
            replica: replica.clone(),
            function: key.clone(),
            revision,
            http_port: port,
            control_port: CONTROL_PORT,
            is_running: true,
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        self.cluster.adopt(&observed, Grant::default(), Moment::ZERO);
        self.cluster.reported(&key, &replica, OwnerState::Ready, None, Moment::ZERO);
    }
}
