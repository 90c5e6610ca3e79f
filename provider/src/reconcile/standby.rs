//! Keeps the pool of standby containers as large as it should be, and ends those that have served.
//!
//! In: what the cluster says is to be tended. Out: containers started, followed, ended.
//! Always: one that an earlier run of this provider has left is taken over when it still has its first name and both its workers
//! turn out to be generic; any other is ended: whoever it served is gone with that run.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{Boot, Order};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use super::Reconciler;
use super::actions::{STOP_RETRY_FIRST, STOP_RETRY_MOST};
use crate::cluster::{Host, Tending};
use crate::engine::{Bounds, ContainerId, EngineError, ReplicaId, Standby, StandbyOrder};
use crate::link::replica_key;
use crate::node::slot::SlotName;
use crate::scheduler::Grant;

/// Before the random part of a standby container's first name.
const NAME: &str = "standby.";
/// How often the pool is looked at when nothing happens: it shrinks with time.
const TICK: Duration = Duration::from_secs(5);
/// The same where interpreters wait: who was called last changes.
const ZYGOTES_TICK: Duration = Duration::from_secs(1);
/// How long one without a function may take to end: it has nothing to finish.
const GRACE: Duration = Duration::from_secs(1);
/// How long the end of a guest's processes may take until its container is ended instead.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

impl Reconciler {
    /// Starts and ends standby containers until shutdown.
    pub(super) async fn tend_standby(self: Arc<Self>) {
        loop {
            let can_wait = |key: &_, revision, image: &_| self.can_wait(key, revision, image);
            for one in self.cluster.tend(new_name, can_wait, self.now()) {
                match one {
                    Tending::Hold(name, host, of, epoch) => self.spawn(|this| {
                        let span = info_span!("hold", function = %of.0, standby = %name.0);
                        async move { this.hold(&name, &host, of, epoch).await }.instrument(span)
                    }),
                    Tending::Start(name) => self.spawn(|this| {
                        let span = info_span!("start standby", standby = %name.0);
                        async move { this.start_standby(name).await }.instrument(span)
                    }),
                    Tending::End(name, host) => self.spawn(|this| {
                        let span = info_span!("end standby", standby = %name.0);
                        async move { this.end_standby(&name, host).await }.instrument(span)
                    }),
                    Tending::Return(name, host, place) => self.spawn(|this| {
                        let span = info_span!("return standby", standby = %name.0);
                        async move { this.return_standby(&name, host, place).await }
                            .instrument(span)
                    }),
                }
            }
            let now = self.now();
            let tick = if self.cluster.has_zygotes() { ZYGOTES_TICK } else { TICK };
            let wait = self.cluster.tend_at(now).map_or(tick, |at| at.since(now).min(tick));
            // Whichever comes first; a word that came meanwhile is not lost.
            let _ = timeout(wait, self.cluster.pool_changed()).await;
        }
    }

    async fn start_standby(self: &Arc<Self>, name: ReplicaId) {
        let key = replica_key(self.catalog.master_key(), &name);
        let order = StandbyOrder {
            name: name.clone(),
            boot: Boot::standby(key),
            limits: Bounds::default(),
        };
        if let Err(error) = self.try_start_standby(&name, order).await {
            warn!(%error, "standby container not started");
            self.cluster.standby_failed(&name, self.now());
        }
    }

    async fn try_start_standby(
        self: &Arc<Self>,
        name: &ReplicaId,
        order: StandbyOrder,
    ) -> Result<(), EngineError> {
        let standby = self.engine.start_standby(order).await?;
        match self.take_on(name, &standby).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.discard(&standby.container).await;
                Err(error)
            }
        }
    }

    /// Follows a running standby container.
    async fn take_on(
        self: &Arc<Self>,
        name: &ReplicaId,
        standby: &Standby,
    ) -> Result<(), EngineError> {
        let pid = self.engine.process(&standby.container).await?;
        let route = self.cluster.standby_started(name, standby, pid);
        let ended = || EngineError::Refused("its container ended at once".into());
        self.follow(route.ok_or_else(ended)?);
        Ok(())
    }

    /// Lets one finish what it serves, and has it wait again; ends it when anything of its guest may be left.
    async fn return_standby(&self, name: &ReplicaId, host: Host, place: (u8, u64)) {
        if timeout(self.settings.drain_timeout, host.route.idle()).await.is_err() {
            return self.end_standby(name, host).await;
        }
        self.cluster.visit_ended(name);
        match self.empty(name, &host, place).await {
            Ok(()) if self.cluster.standby_returned(name) => {
                info!(epoch = place.1, "standby container waits again");
            }
            Ok(()) => self.end_standby(name, host).await,
            Err(reason) => {
                warn!(reason, "standby container cannot wait again");
                self.end_standby(name, host).await;
            }
        }
    }

    /// Makes a container what it was before its guest.
    ///
    /// # Errors
    /// What may be left.
    async fn empty(
        &self,
        name: &ReplicaId,
        host: &Host,
        (worker, epoch): (u8, u64),
    ) -> Result<(), String> {
        let guests = self.guests.as_ref().ok_or("this host cannot have guests")?;
        let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
        let release = Order::Release { worker, epoch, grace_ms };
        host.route.orders.send_replace(Some(release));
        match timeout(EMPTY_TIMEOUT, self.emptied(name)).await {
            Ok(true) => {}
            Ok(false) => return Err("its container ended".into()),
            Err(_) => return Err("its processes do not end".into()),
        }
        let target = self.target(host).await.map_err(|error| error.to_string())?;
        let removed = guests.slots.remove(&target, &SlotName::of(worker, epoch)).await;
        removed.map_err(|error| error.to_string())?;
        // The next guest may have no limits; a cgroup keeps those it has.
        let all = self.cluster.nodes().first().map(|node| (node.cpu, node.memory));
        let (cpu, memory) = all.filter(|all| all.0 > 0 && all.1 > 0).ok_or("its limits stay")?;
        let grant = Grant { cpu: Some(cpu), memory: Some(memory) };
        let resized = self.node.resize(&host.container, grant).await;
        resized.map_err(|error| format!("its limits stay: {error}"))?;
        let renamed = self.engine.rename(&host.container, name).await;
        renamed.map_err(|error| format!("it keeps its guest's name: {error}"))
    }

    /// Waits until the worker of a container that has been given back is generic; `false` when the container has ended.
    async fn emptied(&self, name: &ReplicaId) -> bool {
        let mut changes = self.cluster.subscribe();
        loop {
            changes.mark_unchanged();
            match self.cluster.is_empty_again(name) {
                Some(false) => {
                    if changes.changed().await.is_err() {
                        return false;
                    }
                }
                other => return other.is_some(),
            }
        }
    }

    /// Lets one finish what it serves, and ends it.
    async fn end_standby(&self, name: &ReplicaId, host: Host) {
        let (drain, route) = (self.settings.drain_timeout, &host.route);
        if timeout(drain, route.idle()).await.is_err() {
            warn!(in_flight = route.in_flight(), "requests still running at the drain deadline");
        }
        self.discard(&host.container).await;
        self.cluster.visit_ended(name);
        self.cluster.standby_ended(&host.container);
        debug!("standby container removed");
    }

    /// Ends a container and what is known of its slots; tries again until the engine has done it.
    pub(super) async fn discard(&self, container: &ContainerId) {
        let mut wait = STOP_RETRY_FIRST;
        while let Err(error) = self.engine.stop(container, GRACE).await {
            warn!(%error, "container not stopped yet");
            sleep(wait).await;
            wait = (wait * 2).min(STOP_RETRY_MOST);
        }
        if let Some(guests) = &self.guests {
            guests.slots.forget(container);
        }
    }

    /// Takes over the standby containers of an earlier run that wait, and ends the others.
    pub(super) async fn adopt_standby(self: &Arc<Self>) -> Result<(), EngineError> {
        let found = self.engine.list_standby().await?;
        self.cluster.retain_standby(&found, self.now());
        for standby in found {
            if self.cluster.knows_standby(&standby.container) {
                continue;
            }
            let is_fresh = standby.is_running && is_first_name(&standby.name);
            let is_of_use = is_fresh && self.guests.is_some();
            if is_of_use && self.take_on(&standby.name, &standby).await.is_ok() {
                info!(standby = standby.name.0, "standby container taken over");
                continue;
            }
            info!(standby = standby.name.0, "standby container of an earlier run is ended");
            self.spawn(|this| async move { this.discard(&standby.container).await });
        }
        Ok(())
    }
}

/// A name that no standby container ever had.
fn new_name() -> ReplicaId {
    let random = Uuid::new_v4().simple().to_string();
    ReplicaId(format!("{NAME}{}", &random[..12]))
}

/// Whether a container still has the name that it was made with: nothing has been served there, as far as one can tell.
fn is_first_name(name: &ReplicaId) -> bool {
    name.0.strip_prefix(NAME).is_some_and(|random| !random.contains('.'))
}

/// What a standby container is called while it serves `function`, in the engine's own list.
pub(super) fn name_with(function: &hyperfaas_protocol::FunctionKey, name: &ReplicaId) -> ReplicaId {
    ReplicaId(format!("{}.{}.{}", function.namespace, function.name, name.0))
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};

    use super::*;

    #[test]
    fn a_name_tells_whether_anything_was_served_there() {
        let name = new_name();
        assert!(is_first_name(&name));
        let function = FunctionKey {
            namespace: Namespace::parse("standby").unwrap(),
            name: FunctionName::parse("f").unwrap(),
        };
        let taken = name_with(&function, &name);
        assert!(!is_first_name(&taken), "{}", taken.0);
        assert!(taken.0.starts_with("standby.f.standby."));
    }
}
