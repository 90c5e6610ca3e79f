//! What exists: every replica, where it stands, and what it is serving.
//!
//! In: events (an action begun, the engine's answers, the control links' reports). Out: tickets for requests, and plans made by
//! the scheduler on the state as it is. State changes here and nowhere else; each function has a lock of its own, held for
//! microseconds and never over an await, so a request or an event touches only its own function. A change marks its function
//! as dirty, and only dirty functions are planned.
//! Always: a request in flight is counted from before it is sent until its answer's last byte; a replica that is not `Ready`
//! gets no new request.

mod cell;
mod counters;
mod decisions;
mod guestlogs;
mod guests;
mod load;
mod loans;
mod queue;
mod replica;
mod sight;
mod standby;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Abilities, OwnerState, WorkerReport};
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::sync::{Notify, watch};

use crate::engine::{ContainerId, EngineFacts, Image, Observed, ReplicaId};
use crate::scheduler::{
    Action, Budget, FunctionPlan, Grant, Hosts, NodeId, NodeView, Phase, PlaceKind, Policy, Wanted,
};

use cell::Cell;
pub use cell::{Acquired, Parking};
pub use counters::Counters;
pub use decisions::Decision;
pub use load::{Elsewhere, ReplicaLoad, Used};
pub use loans::LoanOver;
pub use queue::{Parked, ParkingBounds};
pub use replica::{Route, Ticket, WorkerRef};
pub use sight::{ContainerSight, FunctionSight, Role, Seen, StandbySight, VisitSight, WorkerSight};
pub use standby::{GUESTS_WORKER, Host, PoolCounts, Tending};

/// More starts than this are never under way together.
const EARLY_DEATHS_MAX: usize = 256;
/// Waiting requests that are let go at once to a worker whose limit nobody knows: enough for what waits on others, and no
/// stampede for what computes.
const RELEASE_MOST: u32 = 100;
/// Images that are looked up at the same time before anybody needs them: the engine is to have time for whoever does.
const LOOKUPS_AT_ONCE: usize = 2;
/// Requests of one function, and of all, that may wait where nothing else is set.
const BOUNDS: ParkingBounds = ParkingBounds { one: 1000, all: 10_000 };

/// Every replica of every function.
#[derive(Debug)]
pub struct Cluster {
    cells: RwLock<HashMap<FunctionKey, Arc<Cell>>>,
    is_engine_up: AtomicBool,
    dirty: Mutex<HashSet<FunctionKey>>,
    version: watch::Sender<u64>,
    /// Told when something is dirty.
    changed: Notify,
    /// Starts that the engine has not answered.
    starting: AtomicUsize,
    /// Images that the engine has been asked for and has not told of.
    asking: AtomicUsize,
    nodes: Mutex<Vec<NodeView>>,
    /// Containers whose end was heard of before the engine had answered their start.
    early_deaths: Mutex<VecDeque<(ContainerId, i64)>>,
    standbys: standby::Standbys,
    loans: loans::Loans,
    guest_logs: guestlogs::GuestLogs,
    policy: Policy,
    context: Arc<Context>,
}

/// What all cells share.
struct Context {
    clock: Arc<dyn Clock>,
    bounds: ParkingBounds,
    total: queue::Total,
    counters: Counters,
    /// Whether places are limited by what a worker takes at once; else every ready one has room.
    uses_limits: bool,
    release_most: u32,
    /// Whether a guest can be made of an image, by its id; nobody is one while this is not set.
    has_root: OnceLock<HasRoot>,
}

/// Tells of an image, by its id, whether a guest can be made of it; else what is in the way.
type HasRoot = Box<dyn Fn(&str) -> Result<(), &'static str> + Send + Sync>;

impl Context {
    fn open_visits(&self, has_root: HasRoot) {
        // The first one stays: there is one pool a process.
        let _ = self.has_root.set(has_root);
    }

    fn has_root(&self, image: &Image) -> Result<(), &'static str> {
        self.has_root.get().map_or(Err("this host has no slots"), |has_root| has_root(&image.id))
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::start()), Policy::default(), BOUNDS)
    }
}

impl Cluster {
    /// An empty cluster that decides by `policy`; all moments are `clock`'s.
    pub fn new(clock: Arc<dyn Clock>, policy: Policy, bounds: ParkingBounds) -> Self {
        let has_out = policy.mode.has_out();
        let context = Context {
            clock,
            bounds,
            total: queue::Total::default(),
            counters: Counters::new(),
            uses_limits: has_out,
            release_most: if has_out { RELEASE_MOST } else { u32::MAX },
            has_root: OnceLock::new(),
        };
        Self {
            cells: RwLock::default(),
            is_engine_up: AtomicBool::new(false),
            dirty: Mutex::default(),
            version: watch::Sender::new(0),
            changed: Notify::new(),
            starting: AtomicUsize::new(0),
            asking: AtomicUsize::new(0),
            nodes: Mutex::new(vec![NodeView::default()]),
            early_deaths: Mutex::default(),
            standbys: standby::Standbys::default(),
            loans: loans::Loans::default(),
            guest_logs: guestlogs::GuestLogs::default(),
            policy,
            context: Arc::new(context),
        }
    }

    /// The clock of all its moments.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.context.clock
    }

    /// What it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What it counts, for the metrics page; clones share it.
    pub fn counters(&self) -> &Counters {
        &self.context.counters
    }

    /// Requests that wait, over all functions.
    pub fn parked(&self) -> usize {
        self.context.total.count()
    }

    /// Replicas of `key` that can answer now; where none can but a guest does, or could at once, that counts as one.
    pub fn available(&self, key: &FunctionKey) -> u32 {
        let Some(cell) = self.find(key) else { return 0 };
        match cell.available() {
            0 => u32::from(cell.has_guest() || (cell.may_visit() && self.has_offer(key))),
            own => own,
        }
    }

    /// Replicas that `key` should have under the scale call `call`; `None` while that has not been planned yet.
    pub fn desired(&self, key: &FunctionKey, call: u64) -> Option<u32> {
        self.find(key).and_then(|cell| cell.desired(call))
    }

    /// Replicas of `key` that have a running container, oldest first.
    pub fn replicas(&self, key: &FunctionKey) -> Vec<(ReplicaId, ContainerId)> {
        self.find(key).map_or_else(Vec::new, |cell| cell.containers())
    }

    /// The last decisions on `key`, oldest first.
    pub fn decisions(&self, key: &FunctionKey) -> Vec<Decision> {
        self.find(key).map_or_else(Vec::new, |cell| cell.decisions())
    }

    /// Grows by one after every change of any replica's phase.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Resolves once something is dirty, at once if something is.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The functions to be planned, each once; they count as clean from now on.
    pub fn take_dirty(&self) -> HashSet<FunctionKey> {
        std::mem::take(&mut *self.lock_dirty())
    }

    /// Whether the engine answers.
    pub fn is_engine_up(&self) -> bool {
        self.is_engine_up.load(Ordering::Acquire)
    }

    /// Notes that the engine answers, or has stopped answering.
    pub fn set_engine_up(&self, is_up: bool) {
        self.is_engine_up.store(is_up, Ordering::Release);
        let all: Vec<_> = self.read().keys().cloned().collect();
        self.lock_dirty().extend(all);
        self.changed.notify_one();
        self.tend_again();
    }

    /// Notes how large the engine's host is.
    pub fn set_host(&self, facts: &EngineFacts) {
        let mut nodes = self.lock_nodes();
        nodes[0].cpu = u32::try_from(facts.cpu.0 / 1_000_000).unwrap_or(u32::MAX);
        nodes[0].memory = facts.memory.0;
    }

    /// Notes how much of the host's CPU is in use by whatever runs there, in parts per thousand; `None` where nobody knows.
    pub fn set_busy(&self, permille: Option<u32>) {
        let node = &mut self.lock_nodes()[0];
        let busy = u64::from(node.cpu) * u64::from(permille.unwrap_or(0)) / 1000;
        node.cpu_busy = u32::try_from(busy).unwrap_or(u32::MAX);
    }

    /// The hosts as they are used now.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.lock_nodes().clone()
    }

    /// A request for `key` came; the function is planned at once if it needs more than it has.
    pub fn arrived(&self, key: &FunctionKey) {
        let now = self.context.clock.now();
        if self.cell(key).arrived(&self.policy, now) {
            self.touch(key);
        }
    }

    /// A place for one request on a worker of `key`, or how the matter stands with `revision`, the wanted one; containers in
    /// `bounced` are left out.
    pub fn acquire(&self, key: &FunctionKey, revision: u64, bounced: &[u64]) -> Acquired {
        let now = self.context.clock.now();
        let acquired = self.cell(key).acquire(revision, bounced, now);
        if !matches!(acquired, Acquired::Placed(_)) {
            self.touch(key);
        }
        acquired
    }

    /// Waits for a place until `deadline`, in order; see [`Cluster::acquire`].
    pub fn park(&self, key: &FunctionKey, deadline: Moment, bounced: &[u64]) -> Parking {
        let parking = self.cell(key).park(deadline, bounced, self.context.clock.now());
        match parking {
            Parking::Parked(_) => {
                self.context.counters.parked.inc();
                let cell = self.cell(key);
                if cell.available() == 0 && !cell.has_guest() {
                    self.context.counters.cold_starts.inc();
                    if cell.is_first_waiting() && !self.has_offer(key) {
                        self.missed_standby(self.context.clock.now());
                    }
                }
                self.touch(key);
            }
            Parking::Full => self.context.counters.refused.inc(),
            Parking::Placed(_) => {}
        }
        parking
    }

    /// Counts one more request of `key` as waiting, outside the queue; `None` when too many wait.
    pub fn hold(&self, key: &FunctionKey) -> Option<Parked> {
        let held = self.cell(key).hold(self.context.clock.now());
        self.touch(key);
        held
    }

    /// How the matter stands with `revision` of `key` for those who wait.
    pub fn standing_of(&self, key: &FunctionKey, revision: u64) -> Acquired {
        self.find(key).map_or(Acquired::Wait, |cell| cell.standing(revision))
    }

    /// Where to hear that matters have got worse for those who wait for `key`.
    pub fn standing(&self, key: &FunctionKey) -> Standing {
        Standing { cell: self.cell(key) }
    }

    /// Forgets earlier failures of `key`, so that it is tried again at once: somebody asked for it anew.
    pub fn forgive(&self, key: &FunctionKey) {
        if let Some(cell) = self.find(key) {
            cell.forgive();
            self.touch(key);
        }
    }

    /// Container starts that may begin at `now`.
    pub fn starts_left(&self, now: Moment) -> usize {
        // Visits take milliseconds, also of others' functions, if the engine leaves them the processor.
        let go_first = self.tend_at(now).is_some();
        let starts = if go_first { 0 } else { self.policy.starts_at_once };
        starts.saturating_sub(self.starting.load(Ordering::Acquire))
    }

    /// What all functions share, as far as it is left now.
    pub fn budget(&self) -> Budget {
        Budget {
            starts: self.starts_left(self.context.clock.now()),
            specialisations: self
                .policy
                .specialisations_at_once
                .saturating_sub(self.visits_beginning()),
            hosts: Hosts::new(self.nodes()),
            offers: self.offers(),
            is_reserved: false,
            lookups: self
                .context
                .has_root
                .get()
                .map(|_| LOOKUPS_AT_ONCE.saturating_sub(self.asking.load(Ordering::Acquire))),
        }
    }

    /// Whether requests for `key` wait and nothing serves them, nor is about to in a place it does not own.
    pub fn is_unserved(&self, key: &FunctionKey) -> bool {
        self.find(key).is_some_and(|cell| cell.is_unserved())
    }

    /// Plans `key` as it is now, towards `wanted`; forgets a function that is neither wanted nor has replicas.
    pub fn plan(
        &self,
        key: &FunctionKey,
        wanted: Option<Wanted>,
        budget: &mut Budget,
        now: Moment,
    ) -> Option<FunctionPlan> {
        let cell = match &wanted {
            Some(_) => self.cell(key),
            None => self.find(key)?,
        };
        if !self.is_engine_up() {
            return None;
        }
        self.recount(&cell, &mut budget.hosts, now);
        self.enrol(key, wanted.as_ref());
        let (lent, refusals) = self.lendable(key, &cell, wanted.as_ref(), now);
        budget.offers.extend(lent);
        budget.offers.extend(self.zygote_of(key, wanted.as_ref()));
        let plan = cell.plan(wanted, budget, &self.policy, now);
        // What is on offer to this one is not to all.
        budget.offers.retain(|offer| offer.owner.is_none() && !offer.is_zygote);
        match &plan {
            Some(plan) if !plan.takes_place() => cell.refuse_places(refusals, now),
            Some(_) => {}
            None => self.forget(key),
        }
        plan
    }

    /// Counts `action` as begun, before it runs. The new replica's name, and what it may use, are needed for a start.
    pub fn begin(&self, action: &Action, new_replica: Option<(ReplicaId, Grant)>, now: Moment) {
        self.context.counters.began(action);
        match action {
            Action::Start { .. } => drop(self.starting.fetch_add(1, Ordering::AcqRel)),
            Action::Prepare { .. } => drop(self.asking.fetch_add(1, Ordering::AcqRel)),
            _ => {}
        }
        self.cell(action.function()).begin(action, new_replica, now);
        match action {
            Action::Release { place, .. } if place.kind == PlaceKind::Standby => {
                self.release_standby(&place.host);
            }
            Action::Release { place, .. } if place.kind == PlaceKind::Guest => {
                self.end_loan(&place.host, action.function(), now);
            }
            Action::Drain { replica, .. }
            | Action::GiveUp { replica, .. }
            | Action::Clear { replica, .. } => self.end_loan(replica, action.function(), now),
            _ => {}
        }
        if let Action::Prepare { .. } | Action::Start { .. } = action {
            return; // nothing to be planned follows from it before the engine has answered
        }
        self.moved(action.function());
    }

    /// The image of `revision` is present, or could not be had.
    pub fn prepared(
        &self,
        key: &FunctionKey,
        revision: u64,
        outcome: Result<Arc<Image>, Setback>,
        now: Moment,
    ) {
        let less = |count: usize| Some(count.saturating_sub(1));
        let _ = self.asking.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.cell(key).prepared(revision, outcome, now);
        self.moved(key);
    }

    /// The prepared image of `revision`.
    pub fn image(&self, key: &FunctionKey, revision: u64) -> Option<Arc<Image>> {
        self.find(key).and_then(|cell| cell.image(revision))
    }

    /// A replica that was ordered now has a container. Its route is returned, so that its control link can be followed.
    pub fn started(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        self.start_answered();
        let cell = self.cell(&observed.function);
        let route = cell.started(observed, now);
        if let Some(exit_code) = self.take_early_death(&observed.container) {
            cell.died(&observed.container, exit_code, now);
        }
        self.moved(&observed.function);
        route
    }

    /// A container that this process did not start, or already knows: a new one is taken over with `grant`, as far as is known,
    /// a known one that has ended meanwhile is noted. The route to a container taken over is returned.
    pub fn adopt(&self, observed: &Observed, grant: Grant, now: Moment) -> Option<Arc<Route>> {
        let route = self.cell(&observed.function).adopt(observed, grant, now);
        self.moved(&observed.function);
        route
    }

    /// A replica could not be started.
    pub fn start_failed(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
        setback: Setback,
        now: Moment,
    ) {
        self.start_answered();
        self.cell(key).start_failed(replica, setback, now);
        self.moved(key);
    }

    /// A change of `replica`'s grant is through; where it failed, `kept` is what it has instead.
    pub fn resized(&self, key: &FunctionKey, replica: &ReplicaId, kept: Option<Grant>) {
        if let Some(cell) = self.find(key) {
            cell.resized(replica, kept);
            self.touch(key);
        }
    }

    /// The watchdog of `replica` reported a state.
    pub fn reported(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
        state: OwnerState,
        reason: Option<&str>,
        now: Moment,
    ) {
        if let Some(cell) = self.find(key) {
            cell.reported(replica, state, reason, now);
            self.moved(key);
        }
    }

    /// The watchdog of `replica` said what it can do.
    pub fn able(&self, key: &FunctionKey, replica: &ReplicaId, abilities: Abilities) {
        if let Some(cell) = self.find(key) {
            cell.able(replica, abilities);
            self.touch(key);
        }
    }

    /// A worker of `replica` entered a state.
    pub fn worker(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) {
        if let Some(cell) = self.find(key) {
            cell.worker(replica, report, now);
            self.moved(key);
            self.lent_reported(key, replica, report, now);
        }
    }

    /// The watchdog of `replica` refused an order.
    pub fn refused(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
        (worker, epoch): (u8, u64),
        reason: &str,
        now: Moment,
    ) {
        let was_lent = self.lent_refused(replica, (worker, epoch), reason, now);
        if let Some(cell) = self.find(key) {
            cell.refused(replica, (worker, epoch), was_lent, now);
            self.touch(key);
        }
    }

    /// A container's main process ended.
    pub fn died(&self, container: &ContainerId, exit_code: i64, now: Moment) {
        if self.standby_died(container, now) {
            return;
        }
        self.lose_loans(|lent| lent == container, now);
        if let Some((key, _)) =
            self.cells().iter().find(|(_, cell)| cell.died(container, exit_code, now))
        {
            return self.moved(key);
        }
        let mut early = self.lock_early_deaths();
        if early.len() == EARLY_DEATHS_MAX {
            early.pop_front();
        }
        early.push_back((container.clone(), exit_code));
    }

    /// Whether a container of this name is one that this run of the provider has ordered or taken over.
    pub fn knows(&self, name: &ReplicaId, function: Option<&FunctionKey>) -> bool {
        match function {
            Some(key) => self.find(key).is_some_and(|cell| cell.lock().find(name).is_some()),
            None => self.knows_standby_named(name),
        }
    }

    /// A container no longer exists.
    pub fn removed(&self, container: &ContainerId) {
        if self.standby_ended(container) {
            return;
        }
        self.lose_loans(|lent| lent == container, self.context.clock.now());
        if let Some((key, _)) = self.cells().iter().find(|(_, cell)| cell.removed(container)) {
            self.moved(key);
        }
    }

    /// The engine's own list: replicas that are not on it are gone.
    pub fn retain(&self, observed: &[Observed]) {
        let existing: HashSet<_> = observed.iter().map(|o| &o.container).collect();
        self.lose_loans(|lent| !existing.contains(lent), self.context.clock.now());
        for (key, cell) in self.cells() {
            if cell.retain(|container| existing.contains(container)) {
                self.moved(&key);
            }
        }
    }

    /// Where a draining or ended replica's requests and container are, so that it can be stopped.
    pub fn leaving(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
    ) -> Option<(ContainerId, Option<Arc<Route>>)> {
        self.find(key).and_then(|cell| cell.leaving(replica))
    }

    /// What a replica may use.
    pub fn grant(&self, key: &FunctionKey, replica: &ReplicaId) -> Grant {
        let grant = |cell: Arc<Cell>| cell.lock().find(replica).map(|(view, _)| view.grant);
        self.find(key).and_then(grant).unwrap_or_default()
    }

    /// The memory, in bytes, that the container of `route` may use; the largest number where it has no limit.
    pub fn memory_of(&self, route: &Route) -> u64 {
        let grant = route.owner.as_ref().map(|owner| self.grant(owner, &route.replica));
        grant.and_then(|grant| grant.memory).unwrap_or(u64::MAX)
    }

    /// A replica's container and host.
    pub fn container(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
    ) -> Option<(ContainerId, NodeId)> {
        self.find(key).and_then(|cell| cell.container(replica))
    }

    /// The revisions that replicas, whatever their phase, were started from; a revision may appear more than once.
    pub fn revisions(&self) -> Vec<(FunctionKey, u64)> {
        let revisions = self.cells().into_iter().map(|(key, cell)| (key, cell.revisions()));
        revisions.flat_map(|(key, all)| all.into_iter().map(move |r| (key.clone(), r))).collect()
    }

    /// The phases of `key`'s replicas, oldest first.
    pub fn phases(&self, key: &FunctionKey) -> Vec<Phase> {
        let phases = |cell: Arc<Cell>| cell.lock().view.replicas.iter().map(|r| r.phase).collect();
        self.find(key).map_or_else(Vec::new, phases)
    }

    /// A phase changed.
    fn moved(&self, key: &FunctionKey) {
        self.touch(key);
        self.version.send_modify(|version| *version += 1);
    }

    /// Has `key` planned soon.
    pub fn touch(&self, key: &FunctionKey) {
        if self.lock_dirty().insert(key.clone()) {
            self.changed.notify_one();
        }
    }

    fn start_answered(&self) {
        let less = |count: usize| Some(count.saturating_sub(1));
        // `adopt` may know a replica that this process never started; then nothing was counted.
        let _ = self.starting.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Brings the use of the cell's host up to date, here and in the budget at hand.
    fn recount(&self, cell: &Cell, budget: &mut Hosts, now: Moment) {
        let (new, old) = cell.recount(now);
        if new != old {
            let recount = |node: &mut NodeView| {
                node.cpu_used = node.cpu_used.saturating_sub(old.0).saturating_add(new.0);
                node.memory_used = node.memory_used.saturating_sub(old.1).saturating_add(new.1);
            };
            recount(&mut self.lock_nodes()[0]);
            budget.change(NodeId::default(), recount);
        }
    }

    fn forget(&self, key: &FunctionKey) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        if cells.get(key).is_some_and(|cell| cell.is_idle()) {
            cells.remove(key);
        }
    }

    fn cells(&self) -> Vec<(FunctionKey, Arc<Cell>)> {
        self.read().iter().map(|(key, cell)| (key.clone(), Arc::clone(cell))).collect()
    }

    fn find(&self, key: &FunctionKey) -> Option<Arc<Cell>> {
        self.read().get(key).cloned()
    }

    fn cell(&self, key: &FunctionKey) -> Arc<Cell> {
        if let Some(cell) = self.find(key) {
            return cell;
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Cell::new(key.clone(), Arc::clone(&self.context)));
        Arc::clone(cells.entry(key.clone()).or_insert_with(new))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<FunctionKey, Arc<Cell>>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_dirty(&self) -> MutexGuard<'_, HashSet<FunctionKey>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_nodes(&self) -> MutexGuard<'_, Vec<NodeView>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_early_death(&self, container: &ContainerId) -> Option<i64> {
        let mut early = self.lock_early_deaths();
        let index = early.iter().position(|(id, _)| id == container)?;
        early.remove(index).map(|(_, exit_code)| exit_code)
    }

    fn lock_early_deaths(&self) -> MutexGuard<'_, VecDeque<(ContainerId, i64)>> {
        self.early_deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an image could not be had or a replica not be started.
#[derive(Debug, Clone)]
pub enum Setback {
    /// The function's own fault, or its image's: counts towards the back-off.
    Failed {
        /// One line for callers.
        reason: String,
        /// Whether trying again soon would be in vain, so that nobody should wait for it.
        is_final: bool,
    },
    /// The engine was away: try again as soon as it is back.
    EngineAway,
}

/// How matters stand with a function, for those who wait for it.
#[derive(Debug)]
pub struct Standing {
    cell: Arc<Cell>,
}

impl Standing {
    /// Resolves when matters have got worse. Enable it before looking, so that nothing is missed.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.cell.changed()
    }
}
