//! The provider's process: settings, wiring, signals.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyperfaas_gateway::{Upstream, routers};
use hyperfaas_http::config::{EXIT_SETTINGS, SettingsError, lookup};
use hyperfaas_http::serve::{ServeLimits, listen, raise_open_files, serve};
use hyperfaas_http::telemetry;
use hyperfaas_protocol::moment::SystemClock;
use hyperfaas_provider::api::{Api, router_until};
use hyperfaas_provider::catalog::Catalog;
use hyperfaas_provider::cluster::Cluster;
use hyperfaas_provider::config::Config;
use hyperfaas_provider::dispatch::Dispatch;
use hyperfaas_provider::engine::Engine;
use hyperfaas_provider::engine::docker::DockerEngine;
use hyperfaas_provider::node::HostNode;
use hyperfaas_provider::node::cgroup::Cgroups;
use hyperfaas_provider::reconcile::Reconciler;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

/// How long the end waits for engine calls that have begun; what outlasts it is found by the next start.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let (config, logging) = match settings() {
        Ok(settings) => settings,
        Err(mistakes) => {
            for line in mistakes.0 {
                eprintln!("hyperfaas-provider: {line}");
            }
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    if let Err(error) = logging {
        eprintln!("hyperfaas-provider: {error}");
        return ExitCode::from(EXIT_SETTINGS);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn settings() -> Result<(Config, Result<(), telemetry::TelemetryError>), SettingsError> {
    let lookup = lookup()?;
    Ok((Config::from_vars(&lookup)?, telemetry::init(&lookup)))
}

/// Runs until SIGTERM or SIGINT. Function containers are left running: the next start takes them over.
async fn run(config: Config) -> Result<(), String> {
    raise_open_files();
    let listener = bind(config.address, config.port)?;
    let gateway = config.gateway_port.map(|port| bind(config.address, port)).transpose()?;
    let gateway_metrics =
        config.gateway_metrics_port.map(|port| bind(config.address, port)).transpose()?;
    let catalog = Arc::new(Catalog::open(&config.catalog()).map_err(|error| error.to_string())?);
    let docker = DockerEngine::new(config.docker()).map_err(|error| error.to_string())?;
    let engine: Arc<dyn Engine> = Arc::new(docker.clone());
    let clock = Arc::new(SystemClock::start());
    let cluster = Arc::new(Cluster::new(clock, config.policy(), config.parking()));
    let dispatch =
        Arc::new(Dispatch::new(Arc::clone(&catalog), Arc::clone(&cluster), config.dispatch()));

    let serving = CancellationToken::new();
    let acting = CancellationToken::new();
    let tasks = TaskTracker::new();
    let cgroups = Cgroups::at(config.cgroup_root());
    info!(
        mode = config.policy().mode.name(),
        grants = if cgroups.is_some() { "cgroup" } else { "engine" },
        "scaling"
    );
    let node = HostNode::new(cgroups, Arc::clone(&engine), tasks.clone(), acting.clone());
    let reconciler = Reconciler {
        catalog: Arc::clone(&catalog),
        cluster: Arc::clone(&cluster),
        engine: Arc::clone(&engine),
        node: Arc::new(node),
        settings: config.reconcile(),
        tasks: tasks.clone(),
        shutdown: acting.clone(),
    };
    let reconciling = tokio::spawn(reconciler.run());

    let api = Api { catalog, cluster, dispatch, engine, settings: config.api() };
    let auth = config.auth().map_err(|error| error.to_string())?;
    let provider = router_until(Arc::new(api), auth.clone(), serving.clone());
    let mut servers = TaskTracker::new();
    start(&mut servers, "provider", listener, provider.clone(), &serving);
    if let Some(listener) = gateway {
        let namespace = config.catalog().default_namespace;
        let routers =
            routers(config.gateway(auth), Upstream::Local(provider), None, namespace.as_str());
        start(&mut servers, "gateway", listener, routers.api, &serving);
        if let Some(listener) = gateway_metrics {
            start(&mut servers, "gateway metrics", listener, routers.metrics, &serving);
        }
    }
    wait_for_signal().await?;
    info!("shutting down; function containers stay");
    serving.cancel();
    servers.close();
    servers.wait().await;
    acting.cancel();
    tasks.close();
    tasks.wait().await;
    if tokio::time::timeout(SETTLE_TIMEOUT, docker.settle()).await.is_err() {
        info!("engine calls still running; the next start sees what they did");
    }
    reconciling.await.map_err(|error| error.to_string())
}

fn bind(address: std::net::IpAddr, port: u16) -> Result<TcpListener, String> {
    let address = std::net::SocketAddr::new(address, port);
    listen(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}

fn start(
    servers: &mut TaskTracker,
    what: &'static str,
    listener: TcpListener,
    router: Router,
    stop: &CancellationToken,
) {
    match listener.local_addr() {
        Ok(address) => info!(%address, "{what} listening"),
        Err(error) => error!(%error, "{what} listening, address unknown"),
    }
    servers.spawn(serve(listener, router, ServeLimits::default(), stop.clone()));
}

async fn wait_for_signal() -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
