//! The provider's process: settings, wiring, signals.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyperfaas_gateway::{Backends, Queue, Upstream, routers};
use hyperfaas_http::config::{EXIT_SETTINGS, SettingsError, lookup};
use hyperfaas_http::serve::{ServeLimits, listen, raise_open_files, serve_with};
use hyperfaas_http::{Tls, telemetry};
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
use hyperfaas_provider::node::keeper::Keeper;
use hyperfaas_provider::node::rights::{self, Ability};
use hyperfaas_provider::node::rootfs::{RootId, Roots};
use hyperfaas_provider::node::slot::Slots;
use hyperfaas_provider::node::view::NodeView;
use hyperfaas_provider::node::visit::Users;
use hyperfaas_provider::reconcile::{Guests, Reconciler};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

/// How long the end waits for engine calls that have begun; what outlasts it is found by the next start.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long asynchronous calls that run may take at the end; those cut are made again by the next start.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

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
    let cluster = Arc::new(Cluster::new(clock.clone(), config.policy(), config.parking()));
    let dispatch =
        Arc::new(Dispatch::new(Arc::clone(&catalog), Arc::clone(&cluster), config.dispatch()));

    let serving = CancellationToken::new();
    let acting = CancellationToken::new();
    let tasks = TaskTracker::new();
    let cgroups = Cgroups::at(config.cgroup_root());
    let grants = cgroups.is_some();
    info!(
        mode = config.policy().mode.name(),
        grants = if grants { "cgroup" } else { "engine" },
        "scaling"
    );
    let (view, slots) = abilities(&config, grants).await;
    let guests = match (view.roots.clone(), &slots) {
        (Some(roots), Some(slots)) => {
            let users = Arc::new(Users::begin(uuid::Uuid::new_v4().as_fields().0));
            Some(Guests { roots, slots: slots.clone(), users, naming: Arc::default() })
        }
        _ => None,
    };
    if let Some(guests) = &guests {
        let roots = guests.roots.clone();
        let can_visit = move |image: &str| {
            RootId::parse(image).map_or(Err("its image has no id"), |id| roots.can_visit(&id))
        };
        if view.has("standby") {
            cluster.open_pool(config.standby(), can_visit.clone());
            cluster.hold_zygotes(config.zygotes());
        }
        if view.has("sharing") {
            cluster.open_sharing(config.reconcile().drain_timeout, can_visit);
        }
    }
    let node = HostNode::new(cgroups, Arc::clone(&engine), tasks.clone(), acting.clone());
    let reconciler = Reconciler {
        catalog: Arc::clone(&catalog),
        cluster: Arc::clone(&cluster),
        engine: Arc::clone(&engine),
        node: Arc::new(node),
        guests,
        share: config.share().cloned(),
        settings: config.reconcile(),
        tasks: tasks.clone(),
        shutdown: acting.clone(),
    };
    let reconciling = tokio::spawn(reconciler.run());

    if let (Some(roots), Some(slots)) = (view.roots.clone(), slots) {
        let (catalog, cluster) = (Arc::clone(&catalog), Arc::clone(&cluster));
        let engine = Arc::clone(&engine);
        let keeper = Keeper { catalog, cluster, engine, clock, roots, slots };
        tasks.spawn(keeper.run(acting.clone()));
    }

    let api = Api { catalog, cluster, dispatch, engine, node: view, settings: config.api() };
    let auth = config.auth().map_err(|error| error.to_string())?;
    if let (Some(auth), None) = (&auth, &gateway) {
        // A gateway in this process watches the credentials for both.
        let (auth, stop) = (auth.clone(), serving.clone());
        tasks.spawn(async move { auth.watch(stop).await });
    }
    let provider = router_until(Arc::new(api), auth.clone(), serving.clone());
    let mut servers = TaskTracker::new();
    start(&mut servers, "provider", (listener, None), provider.clone(), &serving);
    let served = CancellationToken::new();
    let mut work = None;
    if let Some(listener) = gateway {
        let queue = config.gateway_queue().map(Queue::open).transpose();
        let backends = Backends {
            provider: Upstream::Local(provider),
            logs: None,
            namespace: config.catalog().default_namespace.as_str().to_owned(),
            queue: queue.map_err(|error| error.to_string())?,
            prometheus: config.gateway_prometheus.clone(),
        };
        let routers = routers(config.gateway(auth), backends);
        work = Some(tokio::spawn(routers.work.run(serving.clone(), served.clone(), DRAIN_TIMEOUT)));
        if let Some(tls) = config.gateway_tls.clone() {
            let stop = serving.clone();
            servers.spawn(async move { tls.watch(stop).await });
        }
        start(
            &mut servers,
            "gateway",
            (listener, config.gateway_tls.clone()),
            routers.api,
            &serving,
        );
        if let Some(listener) = gateway_metrics {
            start(&mut servers, "gateway metrics", (listener, None), routers.metrics, &serving);
        }
    }
    wait_for_signal().await?;
    info!("shutting down; function containers stay");
    serving.cancel();
    servers.close();
    servers.wait().await;
    served.cancel();
    if let Some(work) = work {
        work.await.map_err(|error| error.to_string())?;
    }
    acting.cancel();
    tasks.close();
    tasks.wait().await;
    if tokio::time::timeout(SETTLE_TIMEOUT, docker.settle()).await.is_err() {
        info!("engine calls still running; the next start sees what they did");
    }
    reconciling.await.map_err(|error| error.to_string())
}

/// Finds out what this provider may do to containers on its host, beside what the engine does for it; says so in one line.
async fn abilities(config: &Config, has_cgroups: bool) -> (NodeView, Option<Slots>) {
    let mut view = NodeView::default();
    let (slots, ability) = match config.roots().map(|(path, budget)| Roots::open(&path, budget)) {
        None => (None, Ability::off(vec!["HYPERFAAS_SLOTS is not true".to_owned()])),
        Some(Err(error)) => (None, Ability::off(vec![error.to_string()])),
        Some(Ok(roots)) => {
            let (slots, ability) = rights::slots(&roots).await;
            // Without slots nothing uses a root.
            view.roots = slots.is_some().then_some(roots);
            (slots, ability)
        }
    };
    let standby = standby_ability(config, slots.is_some());
    let sharing = sharing_ability(config, slots.is_some());
    let zygotes = zygotes_ability(config, &standby);
    info!(slots = %ability, standby = %standby, sharing = %sharing, zygotes = %zygotes, "abilities on this host");
    view.abilities.insert("slots", ability);
    view.abilities.insert("standby", standby);
    view.abilities.insert("sharing", sharing);
    view.abilities.insert("zygotes", zygotes);
    let cgroups = if has_cgroups {
        Ability::ON
    } else {
        let path = config.cgroup_root().display().to_string();
        Ability::off(vec![format!("cgroups to write at {path} (limits change through the engine)")])
    };
    view.abilities.insert("cgroups", cgroups);
    (view, slots)
}

/// Whether functions can be guests of standby containers.
fn standby_ability(config: &Config, has_slots: bool) -> Ability {
    let mut missing = missing_for_guests(config, has_slots);
    if config.standby().is_off() {
        missing.push("HYPERFAAS_STANDBY_MAX is 0".to_owned());
    }
    Ability::unless(missing)
}

/// Whether functions that agreed to can be guests of each other.
fn sharing_ability(config: &Config, has_slots: bool) -> Ability {
    Ability::unless(missing_for_guests(config, has_slots))
}

/// Whether interpreters wait in standby containers.
fn zygotes_ability(config: &Config, standby: &Ability) -> Ability {
    let mut missing = Vec::new();
    if !standby.on {
        missing.push("standby".to_owned());
    }
    if config.zygotes() == 0 {
        missing.push("HYPERFAAS_ZYGOTES is 0".to_owned());
    }
    Ability::unless(missing)
}

fn missing_for_guests(config: &Config, has_slots: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if !has_slots {
        missing.push("slots".to_owned());
    }
    if !config.policy().mode.has_multiplex() {
        missing.push("HYPERFAAS_SCALING is not full".to_owned());
    }
    missing
}

fn bind(address: std::net::IpAddr, port: u16) -> Result<TcpListener, String> {
    let address = std::net::SocketAddr::new(address, port);
    listen(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}

fn start(
    servers: &mut TaskTracker,
    what: &'static str,
    (listener, tls): (TcpListener, Option<Tls>),
    router: Router,
    stop: &CancellationToken,
) {
    match listener.local_addr() {
        Ok(address) => info!(%address, "{what} listening"),
        Err(error) => error!(%error, "{what} listening, address unknown"),
    }
    servers.spawn(serve_with(listener, router, ServeLimits::default(), tls, stop.clone()));
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
