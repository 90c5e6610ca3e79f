//! Carries out a visit: a function as a guest in a container that is not its own.
//!
//! In: the scheduler's order. Out: a slot in that container, an order to its watchdog; or a reason.
//! Always: everything of the guest is made from what its own container would be started with; a visit that does not come about
//! leaves nothing: its container is ended, slot and all.

use std::sync::Arc;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Guest, ORDER_MAX, Order, Work, WorkerState};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, info, info_span, warn};

use super::{Guests, Reconciler, standby};
use crate::cluster::{Host, Setback};
use crate::engine::{EngineError, ReplicaId};
use crate::node::rootfs::RootId;
use crate::node::slot::{SlotError, SlotOrder, Slots, Target};
use crate::node::visit::visit;
use crate::scheduler::{Action, Grant, PlaceKind, Why, WorkerPlace};

/// What part of its owner's memory limit a guest's files may take at most: they count against it.
const OWNERS_MEMORY: u64 = 4;
/// A slot is never smaller, in bytes.
const LEAST_SLOT: u64 = 1 << 20;

/// What a visit is made of.
struct Prepared {
    slot: SlotOrder,
    /// For the watchdog, once the slot is there.
    order: Order,
    /// What a container that nobody owns may use while it serves the function.
    grant: Grant,
}

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
        let kind = place.kind.name();
        let span = info_span!("visit", %function, host = %place.host.0, kind, reason);
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
                if place.kind == PlaceKind::Guest {
                    return; // its container goes by its owner's name
                }
                self.name(function, &place.host, &host).await;
            }
            Ok(_) => {} // over already, for a reason that was told
            Err(_) => {
                let reason = "it did not get ready in time".to_owned();
                self.cluster.visit_failed(function, &place.host, reason, self.now());
            }
        }
    }

    /// Gives a standby container its function's name in the engine's list. First answers and other visits go before: that takes
    /// the engine milliseconds of the processor.
    async fn name(&self, function: &FunctionKey, standby: &ReplicaId, host: &Host) {
        let Some(guests) = &self.guests else { return };
        sleep(self.cluster.policy().answer_first_for).await;
        let _one_at_a_time = guests.naming.lock().await;
        while let Some(until) = self.cluster.tend_at(self.now()) {
            sleep(until.since(self.now())).await;
        }
        if self.cluster.visit(function, standby) != Some(WorkerState::Ready) {
            return; // over meanwhile
        }
        let name = standby::name_with(function, standby);
        if let Err(error) = self.engine.rename(&host.container, &name).await {
            warn!(%error, "standby container keeps its name");
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
        let Guests { slots, .. } = self.guests.as_ref().ok_or("this host cannot have guests")?;
        let order = match place.kind {
            // All of it is there.
            PlaceKind::Zygote => Order::Proceed { worker: place.worker, epoch: place.epoch },
            PlaceKind::Guest => {
                let Prepared { slot, order, .. } = self.prepared(function, place, false).await?;
                let target = self.target(host).await.map_err(|error| error.to_string())?;
                // The container's limits are its owner's, and bound both.
                let most = self.cluster.memory_of(&host.route) / OWNERS_MEMORY;
                let size_bytes = slot.size_bytes.min(most.max(LEAST_SLOT));
                let slot = SlotOrder { size_bytes, ..slot };
                prepare_anew(slots, &target, slot).await.map_err(|error| error.to_string())?;
                order
            }
            PlaceKind::Own | PlaceKind::Standby => {
                self.furnish(function, place, host, false).await?
            }
        };
        if self.cluster.order_guest(host, place, order) {
            Ok(())
        } else {
            Err("the place was taken back".into())
        }
    }

    /// Makes a standby container ready for a function: its slot and its limits. What is to be ordered of its watchdog; with
    /// `is_held` that the function's interpreter waits.
    ///
    /// # Errors
    /// Why the function cannot be served there.
    pub(super) async fn furnish(
        &self,
        function: &FunctionKey,
        place: &WorkerPlace,
        host: &Host,
        is_held: bool,
    ) -> Result<Order, String> {
        let Guests { slots, .. } = self.guests.as_ref().ok_or("this host cannot have guests")?;
        let Prepared { slot, order, grant } = self.prepared(function, place, is_held).await?;
        let target = self.target(host).await.map_err(|error| error.to_string())?;
        let (made, resized) =
            tokio::join!(slots.prepare(&target, slot), self.node.resize(&host.container, grant));
        made.map_err(|error| error.to_string())?;
        resized.map_err(|error| format!("its limits could not be set: {error}"))?;
        Ok(order)
    }

    /// # Errors
    /// Why the function cannot be a guest.
    async fn prepared(
        &self,
        function: &FunctionKey,
        place: &WorkerPlace,
        is_held: bool,
    ) -> Result<Prepared, String> {
        let Guests { roots, users, .. } =
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
        let work = Work::Guest(Box::new(Guest { is_held, ..visit.guest }));
        let order = Order::Specialise { worker: place.worker, epoch: place.epoch, work };
        if serde_json::to_vec(&order).map_or(0, |line| line.len()) >= ORDER_MAX {
            return Err("its environment is too large for a guest".into());
        }
        Ok(Prepared { slot: visit.slot, order, grant: wanted.spec.scaling.initial })
    }

    /// A container as the slots know it.
    ///
    /// # Errors
    /// The engine's.
    pub(super) async fn target(&self, host: &Host) -> Result<Target, EngineError> {
        let known = host.route.process.get().copied();
        let pid = match known {
            Some(pid) => pid,
            None => self.engine.process(&host.container).await?,
        };
        let _ = host.route.process.set(pid); // the container's for as long as it runs
        Ok(Target { container: host.container.clone(), pid })
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

/// Makes a slot in a function's own container; one of the same name is an earlier run's, which ended before it gave the order.
async fn prepare_anew(slots: &Slots, target: &Target, order: SlotOrder) -> Result<(), SlotError> {
    match slots.prepare(target, order.clone()).await {
        Err(SlotError::Taken(name)) => {
            slots.remove(target, &name).await?;
            slots.prepare(target, order).await
        }
        other => other,
    }
}
