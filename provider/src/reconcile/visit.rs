//! Carries out a visit: a function as a guest in a container that is not its own.
//!
//! In: the scheduler's order. Out: a slot in that container, an order to its watchdog; or a reason.
//! Always: everything of the guest is made from what its own container would be started with; a visit that does not come about
//! leaves nothing: its container is ended, slot and all.

use std::sync::Arc;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{ORDER_MAX, Order, Work, WorkerState};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, info, info_span, warn};

use super::{Guests, Reconciler, standby};
use crate::cluster::{Host, Setback};
use crate::engine::ReplicaId;
use crate::node::rootfs::RootId;
use crate::node::slot::Target;
use crate::node::visit::visit;
use crate::scheduler::{Action, Why, WorkerPlace};

impl Reconciler {
    /// Counts a visit as begun and sets it going.
    pub(super) fn begin_visit(
        self: &Arc<Self>,
        action: &Action,
        function: &FunctionKey,
        place: &WorkerPlace,
        why: &Why,
    ) {
        let Some(host) = self.cluster.begin_visit(action, self.now()) else { return };
        let reason = why.rule.name();
        let span = info_span!("visit", %function, standby = %place.host.0, reason);
        let (function, place) = (function.clone(), place.clone());
        self.spawn(|this| {
            async move { this.visit(&function, &place, host).await }.instrument(span)
        });
    }

    async fn visit(&self, function: &FunctionKey, place: &WorkerPlace, host: Host) {
        let begun = self.now();
        if let Err(reason) = self.try_visit(function, place, &host).await {
            return self.cluster.visit_failed(function, &place.host, reason, self.now());
        }
        let ordered_us = self.now().since(begun).as_micros();
        match timeout(self.cluster.policy().start_timeout, self.settled(function, &place.host))
            .await
        {
            Ok(Some(WorkerState::Ready)) => {
                let ready_us = self.now().since(begun).as_micros();
                info!(ordered_us, ready_us, "guest is ready");
                // Its first answers go before its name in the engine's list.
                sleep(self.cluster.policy().answer_first_for).await;
                let name = standby::name_with(function, &place.host);
                if let Err(error) = self.engine.rename(&host.container, &name).await {
                    warn!(%error, "standby container keeps its name");
                }
            }
            Ok(_) => {} // over already, for a reason that was told
            Err(_) => {
                let reason = "it did not get ready in time".to_owned();
                self.cluster.visit_failed(function, &place.host, reason, self.now());
            }
        }
    }

    /// # Errors
    /// Why the function cannot be served there.
    async fn try_visit(
        &self,
        function: &FunctionKey,
        place: &WorkerPlace,
        host: &Host,
    ) -> Result<(), String> {
        let Guests { roots, slots, users } =
            self.guests.as_ref().ok_or("this host cannot have guests")?;
        let wanted = self.catalog.function(function).ok_or("the function was deleted")?;
        let order = match self.order(function, wanted.revision, &place.host).await {
            Ok(order) => order,
            Err(Setback::Failed { reason, .. }) => return Err(reason),
            Err(Setback::EngineAway) => return Err("a newer revision is wanted by now".into()),
        };
        let root = RootId::parse(&order.image.id).and_then(|id| roots.hold(&id));
        let root = root.ok_or("its image's root file system is not ready")?;
        let visit = visit(&order, root, (place.worker, place.epoch), users.next())
            .map_err(|error| error.to_string())?;
        let work = Work::Guest(Box::new(visit.guest));
        let order = Order::Specialise { worker: place.worker, epoch: place.epoch, work };
        if serde_json::to_vec(&order).map_or(0, |line| line.len()) >= ORDER_MAX {
            return Err("its environment is too large for a guest".into());
        }
        let target = Target { container: host.container.clone(), pid: host.pid };
        let grant = wanted.spec.scaling.initial;
        let (prepared, resized) = tokio::join!(
            slots.prepare(&target, visit.slot),
            self.node.resize(&host.container, grant)
        );
        prepared.map_err(|error| error.to_string())?;
        resized.map_err(|error| format!("its limits could not be set: {error}"))?;
        host.route.orders.send_replace(Some(order));
        Ok(())
    }

    /// Waits until a visit is no longer about to begin; where it stands then, `None` when it is over.
    async fn settled(&self, function: &FunctionKey, host: &ReplicaId) -> Option<WorkerState> {
        let mut changes = self.cluster.subscribe();
        loop {
            changes.mark_unchanged();
            match self.cluster.visit(function, host) {
                Some(WorkerState::Specialising) => changes.changed().await.ok()?,
                other => return other,
            }
        }
    }
}
