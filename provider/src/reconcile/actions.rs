//! Carries out one action each.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{
    Boot, CONTROL_PORT, FUNCTION_PORT, LINK_VERSION, Order, RELAY_PORT, Work,
};
use hyperfaas_protocol::image::{FunctionKind, kind};
use tracing::{Instrument, debug, error, info, info_span, warn};
use uuid::Uuid;

use super::Reconciler;
use crate::catalog::Function;
use crate::cluster::Setback;
use crate::engine::{EngineError, Image, ReplicaId, StartOrder};
use crate::link::replica_key;
use crate::scheduler::{Action, Grant, PlaceKind, Why, WorkerPlace};

/// The first wait before stopping a replica is tried again.
pub(super) const STOP_RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait before stopping a replica is tried again.
pub(super) const STOP_RETRY_MOST: Duration = Duration::from_secs(30);

/// The pause before a container that could not be resized is looked at again.
const RESIZE_PAUSE: Duration = Duration::from_secs(1);

/// The pause before an action that found the engine away may be planned again.
const ENGINE_AWAY_PAUSE: Duration = Duration::from_millis(500);

impl Reconciler {
    /// Counts `action` as begun and sets it going.
    pub(super) fn begin(self: &Arc<Self>, action: &Action) {
        let now = self.now();
        match action {
            Action::Prepare { function, revision } => {
                let revision = *revision;
                self.cluster.begin(action, None, now);
                let span = info_span!("prepare", %function, revision);
                let function = function.clone();
                self.spawn(|this| {
                    async move { this.prepare(&function, revision).await }.instrument(span)
                });
            }
            Action::Start { function, revision, why } => {
                let revision = *revision;
                let replica = new_replica_id(function);
                let wanted = self.wanted(function, revision);
                let grant = wanted.map_or_else(Grant::default, |f| f.spec.scaling.initial);
                self.cluster.begin(action, Some((replica.clone(), grant)), now);
                let reason = why.rule.name();
                let span = info_span!("start", %function, revision, replica = %replica.0, reason);
                let function = function.clone();
                self.spawn(|this| {
                    async move { this.start(&function, revision, replica).await }.instrument(span)
                });
            }
            Action::Drain { function, replica, why } => {
                let reason = why.rule.name();
                let span = info_span!("drain", %function, replica = %replica.0, reason);
                self.begin_removal(action, function.clone(), replica.clone(), span);
            }
            Action::GiveUp { function, replica } => {
                let span = info_span!("give up", %function, replica = %replica.0);
                span.in_scope(|| warn!("replica did not become ready in time"));
                self.begin_removal(action, function.clone(), replica.clone(), span);
            }
            Action::Clear { function, replica } => {
                let span = info_span!("clear", %function, replica = %replica.0);
                self.begin_removal(action, function.clone(), replica.clone(), span);
            }
            Action::Resize { function, replica, grant, why } => {
                self.begin_resize(action, (function, replica), *grant, why);
            }
            Action::Specialise { function, place, why } if place.kind != PlaceKind::Own => {
                self.begin_visit(action, function, place, why);
            }
            Action::Specialise { function, place, why } => {
                let order =
                    Order::Specialise { worker: place.worker, epoch: place.epoch, work: Work::Own };
                self.begin_order(action, (function, place), order, why);
            }
            Action::Release { function, place, why } if place.kind != PlaceKind::Own => {
                let (host, reason) = (&place.host.0, why.rule.name());
                info!(%function, host, reason, "visit is over");
                // A standby container is ended once it has finished what it serves, see `tend_standby`; another function's
                // watchdog has its order by now, see `tend_loans`.
                self.cluster.begin(action, None, now);
            }
            Action::Release { function, place, why } => {
                let grace = self.settings.drain_timeout.as_millis();
                let grace_ms = u64::try_from(grace).unwrap_or(u64::MAX);
                let order = Order::Release { worker: place.worker, epoch: place.epoch, grace_ms };
                self.begin_order(action, (function, place), order, why);
            }
        }
    }

    /// Phase 1: more for a container, or less.
    fn begin_resize(
        self: &Arc<Self>,
        action: &Action,
        (function, replica): (&FunctionKey, &ReplicaId),
        grant: Grant,
        why: &Why,
    ) {
        let before = self.cluster.grant(function, replica);
        self.cluster.begin(action, None, self.now());
        let (cpu, memory, reason) = (grant.cpu, grant.memory, why.rule.name());
        let span = info_span!("resize", %function, replica = %replica.0, cpu, memory, reason);
        let (function, replica) = (function.clone(), replica.clone());
        self.spawn(|this| {
            let resize = async move { this.resize(&function, &replica, (before, grant)).await };
            resize.instrument(span)
        });
    }

    async fn resize(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
        (before, grant): (Grant, Grant),
    ) {
        let Some((container, _)) = self.cluster.container(key, replica) else { return };
        match self.node.resize(&container, grant).await {
            Ok(()) => {
                debug!("container resized");
                let more = grant.cpu.unwrap_or(0).saturating_sub(before.cpu.unwrap_or(0));
                self.cluster.counters().granted.inc_by(more.into());
                self.cluster.resized(key, replica, None);
            }
            Err(error) => {
                warn!(%error, "container not resized");
                tokio::time::sleep(RESIZE_PAUSE).await;
                self.cluster.resized(key, replica, Some(before));
            }
        }
    }

    /// An order to a watchdog of one of the function's own containers.
    fn begin_order(
        &self,
        action: &Action,
        (function, place): (&FunctionKey, &WorkerPlace),
        order: Order,
        why: &Why,
    ) {
        self.cluster.begin(action, None, self.now());
        let Some((_, Some(route))) = self.cluster.leaving(function, &place.host) else { return };
        info!(
            %function,
            replica = place.host.0,
            worker = place.worker,
            epoch = place.epoch,
            action = action.name(),
            reason = why.rule.name(),
            "worker ordered"
        );
        route.orders.send_replace(Some(order));
    }

    fn begin_removal(
        self: &Arc<Self>,
        action: &Action,
        function: FunctionKey,
        replica: ReplicaId,
        span: tracing::Span,
    ) {
        self.cluster.begin(action, None, self.now());
        self.spawn(|this| async move { this.remove(&function, &replica).await }.instrument(span));
    }

    /// Makes the image of the wanted revision present.
    async fn prepare(&self, key: &FunctionKey, revision: u64) {
        let Some(function) = self.wanted(key, revision) else {
            let superseded = Err(Setback::EngineAway); // nobody's fault: the next plan sees what is wanted now
            return self.cluster.prepared(key, revision, superseded, self.now());
        };
        let outcome = self.engine.image(&function.spec.deployment.image, self.settings.pull).await;
        let outcome = match outcome {
            Ok(image) => Ok(Arc::new(image)),
            Err(error) => Err(setback(&error, "image not available").await),
        };
        if let Ok(image) = &outcome {
            info!(image = image.reference, id = image.id, digest = image.digest, "image present");
        }
        self.cluster.prepared(key, revision, outcome, self.now());
    }

    async fn start(self: &Arc<Self>, key: &FunctionKey, revision: u64, replica: ReplicaId) {
        let started = match self.order(key, revision, &replica).await {
            Ok(order) => match self.engine.start(order).await {
                Ok(observed) => Ok(observed),
                Err(error) => Err(setback(&error, "replica not started").await),
            },
            Err(setback) => Err(setback),
        };
        match started {
            Ok(observed) => {
                info!("replica started");
                if let Some(route) = self.cluster.started(&observed, self.now()) {
                    self.follow(route);
                }
            }
            Err(setback) => self.cluster.start_failed(key, &replica, setback, self.now()),
        }
    }

    /// What the engine would start or is to start; an error when the revision has been superseded or its secrets cannot be read.
    pub(super) async fn order(
        &self,
        key: &FunctionKey,
        revision: u64,
        replica: &ReplicaId,
    ) -> Result<StartOrder, Setback> {
        let (Some(function), Some(image)) =
            (self.wanted(key, revision), self.cluster.image(key, revision))
        else {
            return Err(Setback::EngineAway); // superseded while waiting: the next plan sees what is wanted now
        };
        let secrets = self.catalog.secret_files(&function.spec).await.map_err(|error| {
            error!(%error, "secrets not readable");
            Setback::Failed { reason: error.to_string(), is_final: true }
        })?;
        let key = replica_key(self.catalog.master_key(), replica);
        Ok(start_order(&function, &image, replica.clone(), key, secrets))
    }

    fn wanted(&self, key: &FunctionKey, revision: u64) -> Option<Arc<Function>> {
        self.catalog.function(key).filter(|function| function.revision == revision)
    }

    /// Lets a replica finish what it serves, then stops it; tries again until the engine has done it.
    async fn remove(self: Arc<Self>, key: &FunctionKey, replica: &ReplicaId) {
        let Some((container, route)) = self.cluster.leaving(key, replica) else { return };
        if let Some(route) = route
            && tokio::time::timeout(self.settings.drain_timeout, route.idle()).await.is_err()
        {
            warn!(in_flight = route.in_flight(), "requests still running at the drain deadline");
        }
        let mut wait = STOP_RETRY_FIRST;
        while let Err(error) = self.engine.stop(&container, self.settings.stop_grace).await {
            warn!(%error, "replica not stopped yet");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(STOP_RETRY_MOST);
        }
        info!("replica removed");
        self.cluster.removed(&container);
        self.collect_secrets().await;
    }
}

/// What `error` means for the function. After an absent engine the answer is delayed, so that nobody asks again at once.
async fn setback(error: &EngineError, what: &'static str) -> Setback {
    match error {
        EngineError::Unavailable(_) => {
            tokio::time::sleep(ENGINE_AWAY_PAUSE).await;
            Setback::EngineAway
        }
        _ => {
            warn!(%error, "{what}");
            let is_final = matches!(error, EngineError::ImageUnavailable { .. });
            Setback::Failed { reason: error.to_string(), is_final }
        }
    }
}

/// A name that no replica ever had.
fn new_replica_id(function: &FunctionKey) -> ReplicaId {
    let random = Uuid::new_v4().simple().to_string();
    ReplicaId(format!("{}.{}.{}", function.namespace, function.name, &random[..8]))
}

/// The deployment's variables, `fprocess` and the function's own name among them; they win over the image's.
pub(super) fn environment(function: &Function) -> Vec<(String, String)> {
    let deployment = &function.spec.deployment;
    let key = &function.spec.key;
    let mut env = vec![
        ("OPENFAAS_NAME".to_owned(), key.name.to_string()),
        ("OPENFAAS_NAMESPACE".to_owned(), key.namespace.to_string()),
    ];
    env.extend(deployment.env_vars.iter().map(|(name, value)| (name.clone(), value.clone())));
    if !deployment.env_process.is_empty() {
        env.retain(|(name, _)| name != "fprocess");
        env.push(("fprocess".to_owned(), deployment.env_process.clone()));
    }
    env
}

/// The value of a variable for a function: that of its deployment, which has `env`, else its image's.
pub(super) fn variable<'a>(
    name: &str,
    env: &'a [(String, String)],
    image: &'a Image,
) -> Option<&'a str> {
    let find = |list: &'a [(String, String)]| list.iter().rfind(|(known, _)| known == name);
    find(env).or_else(|| find(&image.env)).map(|(_, value)| value.as_str())
}

/// How a function is run whose deployment has `env`.
pub(super) fn kind_of(env: &[(String, String)], image: &Image) -> FunctionKind {
    kind(|name| variable(name, env, image), &image.entrypoint, &image.command)
}

fn start_order(
    function: &Function,
    image: &Image,
    replica: ReplicaId,
    key: String,
    secrets: Vec<crate::engine::SecretFile>,
) -> StartOrder {
    let env = environment(function);
    let kind = kind_of(&env, image);
    let boot = Boot {
        version: LINK_VERSION,
        key,
        control_port: CONTROL_PORT,
        http_port: if kind == FunctionKind::Server { RELAY_PORT } else { FUNCTION_PORT },
        kind,
        entrypoint: image.entrypoint.clone(),
        command: image.command.clone(),
        user: image.user.clone(),
        has_home: variable("HOME", &env, image).is_some(),
        is_standby: false,
        in_flight_max: function.spec.scaling.in_flight_max,
    };
    StartOrder {
        replica,
        function: function.spec.key.clone(),
        revision: function.revision,
        image: image.clone(),
        kind,
        boot,
        limits: function.spec.limits,
        requests: function.spec.requests,
        read_only_root: function.spec.deployment.read_only_root_filesystem,
        secrets,
        env,
    }
}
