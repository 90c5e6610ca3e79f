//! Containers without an owner: those that wait to be given a function, and those that have one as their guest.
//!
//! `zygotes` has those in which a function's interpreter waits.
//! In: what the engine and the control links say of them. Out: places on offer for the scheduler, and what is to be started
//! or ended so that the pool stays as large as it should be.
//! Always: a container is on offer only while its watchdog can seal guests and its worker is generic; it is given to
//! one function at a time, and ended after its guest, or waits again where the policy says so and nothing is left of the guest;
//! each order to it has a greater epoch than the one before; one that nobody knows the state of is ended.
//! A lock of its own, never held together with a function's.

mod zygotes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Abilities, Load, Report, WORKERS, WorkerReport, WorkerState};
use hyperfaas_protocol::moment::Moment;
use serde::Serialize;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::Cluster;
use super::replica::Route;
use super::sight::StandbySight;
use crate::engine::{ContainerId, Image, ReplicaId, Standby};
use crate::node::standby::{Demand, Pool, Refill, StandbyPolicy, refill};
use crate::scheduler::{Failure, NodeId, Offer, PlaceKind, WorkerPlace};

/// The worker of a standby container that is given a function; the other one stays as it is.
pub const GUESTS_WORKER: u8 = 1;

/// A running container that a function visits.
#[derive(Debug, Clone)]
pub struct Host {
    /// The engine's id.
    pub container: ContainerId,
    /// The way to it.
    pub route: Arc<Route>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PoolCounts {
    /// Ready to be given a function.
    pub ready: usize,
    /// Being started.
    pub starting: usize,
    /// Holding the interpreter of a function, or about to.
    pub held: usize,
    /// Having a function.
    pub taken: usize,
    /// On their way out.
    pub leaving: usize,
}

/// Something to be done about the pool.
#[derive(Debug)]
pub enum Tending {
    /// Start one of this name.
    Start(ReplicaId),
    /// Have this revision of a function wait in it, in this epoch.
    Hold(ReplicaId, Host, (FunctionKey, u64), u64),
    /// Let it finish what it serves, and end it.
    End(ReplicaId, Host),
    /// Let it finish what it serves, end what served there, in this worker and epoch, and have it wait again.
    Return(ReplicaId, Host, (u8, u64)),
}

/// Where one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// The engine has been told to start it.
    Ordered,
    /// It runs; its watchdog has not said everything yet.
    Starting,
    /// On offer.
    Ready,
    /// The interpreter of a function waits in it.
    Held {
        function: FunctionKey,
        revision: u64,
        /// Whether its watchdog has said that it follows the order.
        is_ordered: bool,
    },
    /// It has a function.
    Taken(FunctionKey),
    /// To be ended; whether somebody is at it.
    Leaving { is_begun: bool },
}

#[derive(Debug)]
struct Entry {
    /// The name it was made with, which its key comes from.
    name: ReplicaId,
    host: Option<Host>,
    stand: Stand,
    is_able: bool,
    /// Whether its watchdog can have an interpreter wait.
    can_hold: bool,
    is_generic: bool,
    /// Of the newest order to its worker; 0 before the first.
    epoch: u64,
    /// Whether its guest has left as guests should, so that it may wait again.
    may_return: bool,
    /// Until when the pool is not refilled for its sake: the engine would take the processor from a visit that begins.
    goes_first: Moment,
    /// Until when its visit counts as one that begins; past once its guest is ready.
    begins_until: Moment,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: there is no pool, and what is found is ended.
    policy: Option<StandbyPolicy>,
    /// Most interpreters that wait.
    zygotes_max: usize,
    /// When it was last looked who should.
    zygotes_at: Option<Moment>,
    entries: Vec<Entry>,
    demand: Demand,
    failure: Option<Failure>,
}

/// The pool and those that have left it.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    state: Mutex<State>,
    changed: Notify,
}

impl Cluster {
    /// Keeps a pool from now on, as `policy` says. `has_root` tells of an image, by its id, whether a guest can be made of it.
    pub fn open_pool(
        &self,
        policy: StandbyPolicy,
        has_root: impl Fn(&str) -> Result<(), &'static str> + Send + Sync + 'static,
    ) {
        self.context.open_visits(Box::new(has_root));
        self.standbys.lock().policy = Some(policy);
        self.standbys.changed.notify_one();
    }

    /// Has the interpreters of at most `most` functions at zero wait in standby containers from now on.
    pub fn hold_zygotes(&self, most: usize) {
        self.standbys.lock().zygotes_max = most;
    }

    /// Whether there may be any.
    pub fn has_zygotes(&self) -> bool {
        self.standbys.lock().zygotes_max > 0
    }

    /// How many standby containers there are.
    pub fn pool(&self) -> PoolCounts {
        self.standbys.lock().counts()
    }

    /// Every standby container as it is shown, in the order in which they were ordered or found.
    pub fn standbys(&self) -> Vec<StandbySight> {
        self.standbys.lock().entries.iter().map(Entry::sight).collect()
    }

    /// Resolves once there may be something to tend.
    pub async fn pool_changed(&self) {
        self.standbys.changed.notified().await;
    }

    /// What is to be done about the pool at `now`; each thing is told once. New containers get their names from `name`.
    ///
    /// `can_wait` says of a function's revision and its image whether its interpreter could wait.
    pub fn tend(
        &self,
        name: impl Fn() -> ReplicaId,
        can_wait: impl Fn(&FunctionKey, u64, &Image) -> bool,
        now: Moment,
    ) -> Vec<Tending> {
        if !self.is_engine_up() {
            return Vec::new();
        }
        let mut todo = self.tend_zygotes(can_wait, now);
        todo.extend(self.standbys.lock().refill(self.policy.backoff_first, name, now));
        todo
    }

    /// When to tend the pool again at the latest: visits that begin go first until then.
    pub fn tend_at(&self, now: Moment) -> Option<Moment> {
        self.standbys.lock().goes_first(now)
    }

    /// A standby container runs: one that was ordered, or one that an earlier run has left. The route to it is returned, so
    /// that its control link can be followed.
    pub fn standby_started(
        &self,
        name: &ReplicaId,
        standby: &Standby,
        pid: u32,
    ) -> Option<Arc<Route>> {
        let route = Route::to_standby(name, standby)?;
        let container = standby.container.clone();
        let _ = route.process.set(pid);
        let host = Host { container, route: Arc::clone(&route) };
        let mut state = self.standbys.lock();
        match state.find(name) {
            Some(entry) if entry.host.is_some() => return None,
            Some(entry) => {
                entry.host = Some(host);
                if entry.stand == Stand::Ordered {
                    entry.stand = Stand::Starting;
                }
            }
            None => state.entries.push(Entry {
                host: Some(host),
                stand: Stand::Starting,
                ..Entry::ordered(name.clone())
            }),
        }
        state.failure = None;
        Some(route)
    }

    /// Whether a standby container is known by its engine's id.
    pub fn knows_standby(&self, container: &ContainerId) -> bool {
        let is_it = |entry: &Entry| entry.is(container);
        self.standbys.lock().entries.iter().any(is_it)
    }

    /// Whether a standby container is known by the name it was made with.
    pub(super) fn knows_standby_named(&self, name: &ReplicaId) -> bool {
        self.standbys.lock().entries.iter().any(|entry| entry.name == *name)
    }

    /// A standby container could not be started.
    pub fn standby_failed(&self, name: &ReplicaId, now: Moment) {
        let mut state = self.standbys.lock();
        state.entries.retain(|entry| entry.name != *name);
        let count = state.failure.map_or(0, |failure| failure.count);
        state.failure = Some(Failure { count: count + 1, last: now });
        drop(state);
        self.pool_moved();
    }

    /// The watchdog of a standby container said something.
    pub fn standby_reported(&self, name: &ReplicaId, report: Report, now: Moment) {
        match report {
            Report::Abilities(abilities) => self.standby_able(name, abilities),
            Report::Worker(report) => self.standby_worker(name, &report, now),
            Report::Refused { worker, epoch, reason } => {
                warn!(standby = %name.0, worker, epoch, reason, "order refused");
                let reason = format!("order refused: {reason}");
                match self.guest_of(name) {
                    Some(function) => self.visit_failed(&function, name, reason, now),
                    None => self.hold_failed(name, reason, now),
                }
            }
            Report::Load(load) => self.guest_loaded(name, &load, now),
            // Of an earlier guest, and late: its function is not known any more.
            Report::Log(line) if Some(line.epoch) != self.epoch_of(name) => {}
            Report::Log(line) => self.guest_said(name, line),
            Report::State { .. } | Report::Watermark(_) | Report::Unknown => {}
        }
    }

    fn standby_able(&self, name: &ReplicaId, abilities: Abilities) {
        let is_able =
            abilities.guests && usize::from(abilities.workers) >= WORKERS && abilities.lanes > 0;
        if !is_able {
            warn!(standby = %name.0, ?abilities, "its watchdog cannot keep guests apart here: no standby containers");
            let mut state = self.standbys.lock();
            state.policy = None;
            state.entries.iter_mut().for_each(Entry::leave_unless_taken);
            drop(state);
            return self.pool_moved();
        }
        self.standbys.with(name, |entry| {
            entry.is_able = true;
            entry.can_hold = abilities.holds;
            entry.settle();
        });
        self.pool_moved();
    }

    fn standby_worker(&self, name: &ReplicaId, report: &WorkerReport, now: Moment) {
        if report.worker != GUESTS_WORKER {
            return;
        }
        if let Some(function) = self.guest_of(name) {
            return self.guest_reported(&function, name, report, now);
        }
        if self.zygote_reported(name, report, now) {
            return;
        }
        self.standbys.with(name, |entry| {
            if matches!(entry.stand, Stand::Leaving { .. }) {
                entry.is_generic =
                    report.epoch == entry.epoch && report.state == WorkerState::Generic;
            } else if report.epoch == 0 && report.state == WorkerState::Generic {
                entry.is_generic = true;
                entry.settle();
            } else if entry.stand == Stand::Starting {
                // An earlier run has given it a function, and nobody knows any more what became of it.
                entry.stand = Stand::Leaving { is_begun: false };
            }
        });
        self.version.send_modify(|version| *version += 1);
        self.pool_moved();
    }

    /// Whether the worker of a container that has been given back is generic again; `None` when the container has ended.
    pub fn is_empty_again(&self, name: &ReplicaId) -> Option<bool> {
        let mut state = self.standbys.lock();
        let entry = state.find(name)?;
        let is_there = entry.host.as_ref().is_some_and(|host| !host.route.gone.is_cancelled());
        is_there.then_some(entry.is_generic)
    }

    /// A container that has been given back is as it was before its guest, and waits again; whether it does.
    pub fn standby_returned(&self, name: &ReplicaId) -> bool {
        if self.is_empty_again(name) != Some(true) {
            return false;
        }
        self.standbys.with(name, |entry| {
            entry.may_return = false;
            entry.stand = Stand::Ready;
        });
        self.pool_moved();
        true
    }

    /// The epoch of the newest order to a container's worker.
    fn epoch_of(&self, name: &ReplicaId) -> Option<u64> {
        self.standbys.lock().find(name).map(|entry| entry.epoch)
    }

    /// Says what a guest costs and how much it takes at once, as its watchdog measured it.
    fn guest_loaded(&self, name: &ReplicaId, load: &Load, now: Moment) {
        let Some(cell) = self.guest_of(name).and_then(|function| self.find(&function)) else {
            return;
        };
        // A guest is alone in a standby container: all that is used there is its own.
        cell.guest_cost(name, load, now);
        let own = load.workers.map(|workers| workers[usize::from(GUESTS_WORKER)]);
        let own = own.filter(|worker| Some(worker.epoch) == self.epoch_of(name));
        if let Some(limit) = own.and_then(|worker| worker.in_flight_max) {
            cell.guest_limit(name, u32::try_from(limit).unwrap_or(u32::MAX), now);
        }
    }

    /// The engine's own list of standby containers: those that are not on it are gone.
    pub fn retain_standby(&self, existing: &[Standby], now: Moment) {
        let exists = |entry: &Entry| {
            entry.host.as_ref().is_none_or(|host| {
                existing.iter().any(|one| one.container == host.container && one.is_running)
            })
        };
        let gone: Vec<_> = {
            let state = self.standbys.lock();
            let gone = state.entries.iter().filter(|entry| !exists(entry));
            gone.filter_map(|entry| Some(entry.host.as_ref()?.container.clone())).collect()
        };
        for container in gone {
            self.standby_died(&container, now);
        }
        self.pool_moved();
    }

    /// A container's main process ended; whether it was a standby container's.
    pub(super) fn standby_died(&self, container: &ContainerId, now: Moment) -> bool {
        let mut state = self.standbys.lock();
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.is(container)) else {
            return false;
        };
        if let Some(host) = &entry.host {
            host.route.gone.cancel();
        }
        let name = entry.name.clone();
        let before = std::mem::replace(&mut entry.stand, Stand::Leaving { is_begun: false });
        if let Stand::Leaving { is_begun } = before {
            entry.stand = Stand::Leaving { is_begun };
        }
        drop(state);
        if let Stand::Taken(function) = before {
            self.visit_failed(&function, &name, "its container ended".into(), now);
        }
        self.pool_moved();
        true
    }

    /// A standby container no longer exists; whether it was one.
    pub fn standby_ended(&self, container: &ContainerId) -> bool {
        let mut state = self.standbys.lock();
        let Some(index) = state.entries.iter().position(|entry| entry.is(container)) else {
            return false;
        };
        let entry = state.entries.remove(index);
        drop(state);
        if let Some(host) = entry.host {
            host.route.gone.cancel();
        }
        self.pool_moved();
        true
    }

    /// The workers that could take on a guest now.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let state = self.standbys.lock();
        let ready = state.entries.iter().filter(|entry| entry.stand == Stand::Ready);
        ready.map(Entry::offer).collect()
    }

    /// Whether one could take on `function` now.
    pub(super) fn has_offer(&self, function: &FunctionKey) -> bool {
        let is_free = |entry: &Entry| entry.stand == Stand::Ready || entry.holds(function);
        self.standbys.lock().entries.iter().any(is_free)
    }

    /// Gives a waiting container to `function`; `None` when it has gone meanwhile.
    pub(super) fn take_standby(
        &self,
        place: &WorkerPlace,
        function: &FunctionKey,
        now: Moment,
    ) -> Option<Host> {
        let processors = self.lock_nodes()[0].cpu;
        let mut state = self.standbys.lock();
        if place.kind != PlaceKind::Zygote {
            state.demand.take(now);
        }
        let together = state.beginning(now) + 1;
        let entry = state.find(&place.host)?;
        let is_free = match place.kind {
            PlaceKind::Zygote => entry.holds(function),
            _ => entry.stand == Stand::Ready,
        };
        let host = entry.host.clone().filter(|_| is_free)?;
        entry.stand = Stand::Taken(function.clone());
        entry.is_generic = false;
        if place.kind != PlaceKind::Zygote {
            entry.epoch += 1;
        }
        entry.goes_first = now.after(self.policy.visit_keeps_off_for(together, processors));
        entry.begins_until = now.after(self.policy.visit_first_for);
        drop(state);
        self.pool_moved();
        Some(host)
    }

    /// The guest of a container is ready: its first answers go before the refill of the pool, and no more than these.
    pub(super) fn guest_serves(&self, name: &ReplicaId, now: Moment) {
        let until = now.after(self.policy.answer_first_for);
        self.standbys.with(name, |entry| {
            entry.goes_first = entry.goes_first.min(until);
            entry.begins_until = now;
        });
        self.standbys.changed.notify_one();
    }

    /// Visits under way to their first answer; one that takes long to get ready keeps no other from beginning.
    pub(super) fn visits_beginning(&self) -> usize {
        self.standbys.lock().beginning(self.context.clock.now())
    }

    /// Nothing was on offer when one was wanted.
    pub(super) fn missed_standby(&self, now: Moment) {
        let mut state = self.standbys.lock();
        if state.policy.is_some() {
            state.demand.take(now);
            drop(state);
            self.standbys.changed.notify_one();
        }
    }

    /// The guest of a container is to leave, since its function needs it no more: the container may wait for another one.
    pub(super) fn release_standby(&self, name: &ReplicaId) {
        self.standbys.with(name, |entry| entry.may_return = true);
        self.dismiss_standby(name);
    }

    /// A container has done what it was taken for, or cannot: it is to be ended.
    pub(super) fn dismiss_standby(&self, name: &ReplicaId) {
        self.standbys.with(name, |entry| {
            if !matches!(entry.stand, Stand::Leaving { .. }) {
                entry.stand = Stand::Leaving { is_begun: false };
            }
        });
        self.pool_moved();
    }

    /// The function that a container has been given.
    pub(super) fn guest_of(&self, name: &ReplicaId) -> Option<FunctionKey> {
        match &self.standbys.lock().find(name)?.stand {
            Stand::Taken(function) => Some(function.clone()),
            _ => None,
        }
    }

    /// The engine's name for a standby container, while it runs.
    pub(super) fn standby_container(&self, name: &ReplicaId) -> Option<ContainerId> {
        self.standbys.lock().find(name)?.host.as_ref().map(|host| host.container.clone())
    }

    /// Has the pool looked at.
    pub(super) fn tend_again(&self) {
        self.standbys.changed.notify_one();
    }

    fn pool_moved(&self) {
        let counts = self.pool();
        self.context.counters.pool(counts);
        debug!(?counts, "standby containers");
        self.standbys.changed.notify_one();
        if counts.ready > 0 {
            self.changed.notify_one(); // somebody may wait for it
        }
    }
}

impl Standbys {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, name: &ReplicaId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().find(name) {
            change(entry);
        }
    }
}

impl State {
    fn find(&mut self, name: &ReplicaId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.name == *name)
    }

    /// See [`Cluster::visits_beginning`].
    fn beginning(&self, now: Moment) -> usize {
        self.entries.iter().filter(|entry| entry.begins_until > now).count()
    }

    fn counts(&self) -> PoolCounts {
        let mut counts = PoolCounts::default();
        for entry in &self.entries {
            *match entry.stand {
                Stand::Ordered | Stand::Starting => &mut counts.starting,
                Stand::Ready => &mut counts.ready,
                Stand::Held { .. } => &mut counts.held,
                Stand::Taken(_) => &mut counts.taken,
                Stand::Leaving { .. } => &mut counts.leaving,
            } += 1;
        }
        counts
    }

    /// Orders what is missing, lets go what is too many, and says whom to end.
    fn refill(
        &mut self,
        pause: std::time::Duration,
        name: impl Fn() -> ReplicaId,
        now: Moment,
    ) -> Vec<Tending> {
        let mut todo = Vec::new();
        match self.policy {
            Some(policy) => {
                self.demand.forget(&policy, now);
                let counts = self.counts();
                let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                let pool = Pool { ready: small(counts.ready), starting: small(counts.starting) };
                let may_start = self.failure.is_none_or(|failure| {
                    now >= failure.last.after(pause.saturating_mul(failure.count.min(60)))
                });
                let may_start = may_start && self.goes_first(now).is_none();
                match refill(&self.demand, &policy, pool, now) {
                    Refill::Start(count) if may_start => {
                        todo.extend((0..count).map(|_| Tending::Start(self.order(name()))));
                    }
                    Refill::Stop(count) => self.let_go(count),
                    Refill::Keep | Refill::Start(_) => {}
                }
            }
            None => self.entries.iter_mut().for_each(Entry::leave_unless_taken),
        }
        for entry in &mut self.entries {
            if let (Stand::Leaving { is_begun }, Some(host)) = (&mut entry.stand, &entry.host)
                && !std::mem::replace(is_begun, true)
            {
                let (name, host) = (entry.name.clone(), host.clone());
                let returns = self.policy.is_some_and(|policy| policy.is_returning());
                todo.push(if returns && entry.may_return {
                    Tending::Return(name, host, (GUESTS_WORKER, entry.epoch))
                } else {
                    Tending::End(name, host)
                });
            }
        }
        todo
    }

    /// Until when visits that begin go before the pool. Nothing is starved by it: they take what is there, and then there are no
    /// more of them.
    fn goes_first(&self, now: Moment) -> Option<Moment> {
        let taken = self.entries.iter().filter(|entry| matches!(entry.stand, Stand::Taken(_)));
        taken.map(|entry| entry.goes_first).max().filter(|until| *until > now)
    }

    fn order(&mut self, name: ReplicaId) -> ReplicaId {
        self.entries.push(Entry::ordered(name.clone()));
        name
    }

    fn let_go(&mut self, count: u32) {
        let ready = self.entries.iter_mut().filter(|entry| entry.stand == Stand::Ready);
        for entry in ready.take(usize::try_from(count).unwrap_or(usize::MAX)) {
            info!(standby = %entry.name.0, "one standby container less is enough");
            entry.stand = Stand::Leaving { is_begun: false };
        }
    }
}

impl Entry {
    /// One that the engine is to start.
    fn ordered(name: ReplicaId) -> Self {
        Self {
            name,
            host: None,
            stand: Stand::Ordered,
            is_able: false,
            can_hold: false,
            is_generic: false,
            epoch: 0,
            may_return: false,
            goes_first: Moment::ZERO,
            begins_until: Moment::ZERO,
        }
    }

    fn is(&self, container: &ContainerId) -> bool {
        self.host.as_ref().is_some_and(|host| host.container == *container)
    }

    /// On offer once everything is known of it.
    fn settle(&mut self) {
        if self.stand == Stand::Starting && self.is_able && self.is_generic {
            self.stand = Stand::Ready;
        }
    }

    fn leave_unless_taken(&mut self) {
        if matches!(self.stand, Stand::Starting | Stand::Ready | Stand::Held { .. }) {
            self.stand = Stand::Leaving { is_begun: false };
        }
    }

    fn sight(&self) -> StandbySight {
        let (state, function) = match &self.stand {
            Stand::Ordered | Stand::Starting => ("starting", None),
            Stand::Ready => ("ready", None),
            Stand::Held { function, .. } => ("held", Some(function.to_string())),
            Stand::Taken(function) => ("taken", Some(function.to_string())),
            Stand::Leaving { .. } => ("leaving", None),
        };
        StandbySight { id: self.name.0.clone(), state, function }
    }

    fn offer(&self) -> Offer {
        Offer {
            host: self.name.clone(),
            worker: GUESTS_WORKER,
            epoch: self.epoch + 1,
            node: NodeId::default(),
            owner: None,
            share: None,
            owner_in_flight: 0,
            is_zygote: false,
        }
    }
}
