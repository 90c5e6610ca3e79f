//! A provider whose containers are simulated and whose replicas answer on loopback, each only while its container runs.

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyperfaas_protocol::moment::SystemClock;
use hyperfaas_protocol::openfaas::FunctionDeployment;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};
use hyperfaas_provider::catalog::{Catalog, CatalogSettings};
use hyperfaas_provider::cluster::{Cluster, ParkingBounds};
use hyperfaas_provider::dispatch::{Dispatch, DispatchSettings, InvokeError};
use hyperfaas_provider::engine::sim::{Place, Program, SimEngine, SimHost};
use hyperfaas_provider::engine::{Engine, Image, Observed, PullPolicy, ReplicaId, StartOrder};
use hyperfaas_provider::node::HostNode;
use hyperfaas_provider::reconcile::{Reconciler, Settings};
use hyperfaas_provider::scheduler::Policy;
use hyperfaas_provider::spec::FunctionSpec;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The image every function of the world runs.
pub(super) const IMAGE: &str = "example/f:1";
/// The installation's name on the simulated host.
const INSTALLATION: &str = "sim";

/// A provider at work.
pub(super) struct World {
    pub(super) host: SimHost,
    pub(super) engine: SimEngine,
    pub(super) catalog: Arc<Catalog>,
    run: Run,
    _state: TempDir,
}

/// What of a provider ends with its process.
struct Run {
    cluster: Arc<Cluster>,
    dispatch: Arc<Dispatch>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl World {
    pub(super) fn start() -> Self {
        let host = SimHost::new(Cpu(2_000_000_000), Memory(8 << 30));
        host.add_image(Image {
            reference: IMAGE.into(),
            id: "sha256:1".into(),
            digest: None,
            env: Vec::new(),
            entrypoint: vec!["/f".into()],
            command: Vec::new(),
            user: "1000".into(),
            directory: String::new(),
        });
        let engine = SimEngine::new(&host, INSTALLATION);
        let runtime = Handle::current();
        let answering = engine.clone();
        host.run_programs(move |order| program(order, &answering, &runtime));

        let state = tempfile::tempdir().unwrap();
        let settings = CatalogSettings {
            state_dir: state.path().to_owned(),
            default_namespace: Namespace::parse("openfaas-fn").unwrap(),
            max_replicas: 10,
        };
        let catalog = Arc::new(Catalog::open(&settings).unwrap());
        let run = Run::start(&engine, &catalog);
        Self { host, engine, catalog, run, _state: state }
    }

    /// The provider is killed, and another takes its place; what the engine was told to do goes on.
    pub(super) async fn restart(&mut self) {
        self.run.shutdown.cancel();
        self.run.tasks.close();
        self.run.tasks.wait().await;
        self.run = Run::start(&self.engine, &self.catalog);
    }

    /// Resolves once a replica of `key` is being started.
    pub(super) async fn has_ordered(&self, key: &FunctionKey) {
        let mut changes = self.run.cluster.subscribe();
        while self.run.cluster.phases(key).is_empty() {
            changes.changed().await.expect("the cluster is there");
        }
    }

    /// Somebody who calls functions.
    pub(super) fn caller(&self) -> Caller {
        Caller { dispatch: Arc::clone(&self.run.dispatch) }
    }

    /// Every container there is.
    pub(super) async fn containers(&self) -> Vec<Observed> {
        self.engine.list().await.unwrap_or_default()
    }

    /// Resolves once exactly what is wanted runs.
    pub(super) async fn settled(&self) {
        while !self.has_settled().await {
            tokio::time::sleep(Duration::from_millis(5)).await; // polls a condition that nothing announces
        }
    }

    /// Whether exactly the wanted replicas of the wanted revisions run, and nothing else exists.
    async fn has_settled(&self) -> bool {
        let containers = self.containers().await;
        let wanted = self.catalog.snapshot();
        let is_right = |function: &hyperfaas_provider::catalog::Function| {
            let key = &function.spec.key;
            let own: Vec<_> = containers.iter().filter(|c| c.function == *key).collect();
            own.len() == function.replicas as usize
                && own.iter().all(|c| c.is_running && c.revision == function.revision)
        };
        let strays = containers.iter().filter(|c| !wanted.contains_key(&c.function)).count();
        strays == 0 && wanted.values().all(|function| is_right(function))
    }
}

impl Run {
    fn start(engine: &SimEngine, catalog: &Arc<Catalog>) -> Self {
        let policy = Policy {
            backoff_first: Duration::from_millis(5),
            backoff_most: Duration::from_millis(20),
            ..Policy::default()
        };
        let bounds = ParkingBounds { one: 1000, all: 10_000 };
        let clock = Arc::new(SystemClock::start());
        let cluster = Arc::new(Cluster::new(clock, policy, bounds));
        let dispatch = Dispatch::new(
            Arc::clone(catalog),
            Arc::clone(&cluster),
            DispatchSettings {
                head_timeout: Some(Duration::from_secs(10)),
                cold_start_timeout: Duration::from_secs(10),
            },
        );
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let node = HostNode::new(None, Arc::new(engine.clone()), tasks.clone(), shutdown.clone());
        let reconciler = Reconciler {
            catalog: Arc::clone(catalog),
            cluster: Arc::clone(&cluster),
            engine: Arc::new(engine.clone()),
            node: Arc::new(node),
            guests: None,
            share: None,
            settings: Settings {
                pull: PullPolicy::Missing,
                drain_timeout: Duration::from_secs(5),
                stop_grace: Duration::from_secs(1),
            },
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        tokio::spawn(reconciler.run());
        Self { cluster, dispatch: Arc::new(dispatch), tasks, shutdown }
    }
}

/// Calls functions through the provider's request path.
pub(super) struct Caller {
    dispatch: Arc<Dispatch>,
}

impl Caller {
    /// One call.
    pub(super) async fn call(&self, key: &FunctionKey) -> Result<Response<Body>, InvokeError> {
        let request = Request::get("/").body(Body::empty()).unwrap();
        self.dispatch.invoke(key, "/".parse().unwrap(), request).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.shutdown.cancel();
    }
}

/// The function `name` of the default namespace.
pub(super) fn key(name: &str) -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("openfaas-fn").unwrap(),
        name: FunctionName::parse(name).unwrap(),
    }
}

/// A specification of `key`.
pub(super) fn spec(key: &FunctionKey) -> FunctionSpec {
    let deployment = FunctionDeployment {
        service: key.name.to_string(),
        image: IMAGE.into(),
        ..FunctionDeployment::default()
    };
    FunctionSpec::parse(deployment, &key.namespace).unwrap()
}

/// A replica's two servers, on free ports of the loopback address.
fn program(order: &StartOrder, engine: &SimEngine, runtime: &Handle) -> Program {
    let listen = || {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    };
    let ((http, http_port), (control, control_port)) = (listen(), listen());
    let (engine, replica) = (engine.clone(), order.replica.clone());
    runtime.spawn(async move {
        let app = Router::new().fallback(move || answer(engine.clone(), replica.clone()));
        axum::serve(TcpListener::from_std(http).unwrap(), app).await
    });
    runtime.spawn(report_ready(control));
    let place = Place { address: Ipv4Addr::LOCALHOST.into(), http_port, control_port };
    Program { place: Some(place), ..Program::default() }
}

/// 200 while the replica's container runs; 410 for a request that went to one that does not.
async fn answer(engine: SimEngine, replica: ReplicaId) -> StatusCode {
    match engine.list().await {
        Ok(list) if list.iter().any(|c| c.replica == replica && c.is_running) => StatusCode::OK,
        Ok(_) => StatusCode::GONE,
        Err(_) => StatusCode::OK, // the engine is away, containers go on
    }
}

/// A watchdog's side of the control link: whoever greets is told that the function is ready.
async fn report_ready(control: StdListener) {
    let listener = TcpListener::from_std(control).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut hello = String::new();
            if stream.read_line(&mut hello).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"{\"event\":\"state\",\"state\":\"ready\"}\n").await;
                let _ = stream.read_u8().await; // until the provider hangs up
            }
        });
    }
}
