//! What exists: every replica, where it stands, and what it is serving.
//!
//! In: events (an action begun, the engine's answers, the control links' reports). Out: tickets for requests, and snapshots
//! for the scheduler. State changes here and nowhere else; each function has a lock of its own, held for microseconds and never
//! over an await, so a snapshot copies one function at a time and a request touches only its own function.
//! Always: a request in flight is counted from before it is sent until its answer's last byte; a replica that is not `Ready`
//! gets no new request.

mod cell;
mod load;
mod replica;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::Moment;
use tokio::sync::futures::Notified;
use tokio::sync::watch;

use crate::catalog::Functions;
use crate::engine::{ContainerId, Image, Observed, ReplicaId};
use crate::scheduler::{Action, Snapshot, Wanted};

pub use cell::Acquired;
use cell::Cell;
use load::Crossings;
pub use load::ReplicaLoad;
pub use replica::{Route, Ticket};

/// Every replica of every function.
#[derive(Debug)]
pub struct Cluster {
    cells: RwLock<HashMap<FunctionKey, Arc<Cell>>>,
    is_engine_up: AtomicBool,
    version: watch::Sender<u64>,
    /// Containers whose end was heard of before the engine had answered their start.
    early_deaths: Mutex<VecDeque<(ContainerId, i64)>>,
    crossings: Crossings,
}

/// More starts than this are never under way together.
const EARLY_DEATHS_MAX: usize = 256;

impl Default for Cluster {
    fn default() -> Self {
        Self {
            cells: RwLock::default(),
            is_engine_up: AtomicBool::new(false),
            version: watch::Sender::new(0),
            early_deaths: Mutex::default(),
            crossings: Crossings::default(),
        }
    }
}

impl Cluster {
    /// Replicas of `key` that can answer now.
    pub fn available(&self, key: &FunctionKey) -> u32 {
        self.find(key).map_or(0, |cell| cell.available())
    }

    /// Replicas of `key` that have a running container, oldest first.
    pub fn replicas(&self, key: &FunctionKey) -> Vec<(ReplicaId, ContainerId)> {
        self.find(key).map_or_else(Vec::new, |cell| cell.containers())
    }

    /// Grows by one after every change of any replica's phase.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Whether the engine answers.
    pub fn is_engine_up(&self) -> bool {
        self.is_engine_up.load(Ordering::Acquire)
    }

    /// Notes that the engine answers, or has stopped answering.
    pub fn set_engine_up(&self, is_up: bool) {
        self.is_engine_up.store(is_up, Ordering::Release);
        self.bump();
    }

    /// A place for one request on a ready replica of `key`, or how the matter stands with `revision`, the wanted one;
    /// `tried` are left out.
    pub fn acquire(&self, key: &FunctionKey, revision: u64, tried: &[ReplicaId]) -> Acquired {
        self.find(key).map_or(Acquired::Wait, |cell| cell.acquire(revision, tried))
    }

    /// Forgets earlier failures of `key`, so that it is tried again at once: somebody asked for it anew.
    pub fn forgive(&self, key: &FunctionKey) {
        if let Some(cell) = self.find(key) {
            cell.forgive();
            self.bump();
        }
    }

    /// Where requests for `key` wait; counted against the function's bound by [`Parking::enter`].
    pub fn parking(&self, key: &FunctionKey) -> Parking {
        Parking { cell: self.cell(key) }
    }

    /// Everything the scheduler needs, for the functions in `wanted` and those that still have replicas.
    ///
    /// Functions that are neither wanted nor have replicas are forgotten.
    pub fn snapshot(&self, wanted: &Functions) -> Snapshot {
        for key in wanted.keys() {
            self.cell(key);
        }
        let mut cells: Vec<_> =
            self.read().iter().map(|(key, cell)| (key.clone(), Arc::clone(cell))).collect();
        cells.sort_by(|a, b| a.0.cmp(&b.0));
        let mut functions = Vec::with_capacity(cells.len());
        for (key, cell) in cells {
            let function =
                wanted.get(&key).map(|f| Wanted { revision: f.revision, replicas: f.replicas });
            match cell.view(&key, function) {
                Some(view) => functions.push(view),
                None => self.forget(&key),
            }
        }
        Snapshot { is_engine_up: self.is_engine_up(), functions }
    }

    /// Counts `action` as begun, before it runs. The new replica's name is needed for a start.
    pub fn begin(&self, action: &Action, new_replica: Option<ReplicaId>, now: Moment) {
        let (Action::Prepare { function, .. }
        | Action::Start { function, .. }
        | Action::Drain { function, .. }
        | Action::GiveUp { function, .. }
        | Action::Clear { function, .. }) = action;
        self.cell(function).begin(action, new_replica, now);
        self.bump();
    }

    /// The image of `revision` is present, or could not be had.
    pub fn prepared(
        &self,
        key: &FunctionKey,
        revision: u64,
        outcome: Result<Arc<Image>, Setback>,
        now: Moment,
    ) {
        self.cell(key).prepared(revision, outcome, now);
        self.bump();
    }

    /// The prepared image of `revision`.
    pub fn image(&self, key: &FunctionKey, revision: u64) -> Option<Arc<Image>> {
        self.find(key).and_then(|cell| cell.image(revision))
    }

    /// A replica that was ordered now has a container. Its route is returned, so that its control link can be followed.
    pub fn started(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        let cell = self.cell(&observed.function);
        let route = cell.started(observed, now);
        if let Some(exit_code) = self.take_early_death(&observed.container) {
            cell.died(&observed.container, exit_code, now);
        }
        self.bump();
        route
    }

    /// A container that this process did not start, or already knows: a new one is taken over, a known one that has ended
    /// meanwhile is noted. The route to a container taken over is returned.
    pub fn adopt(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        let route = self.cell(&observed.function).adopt(observed, now);
        self.bump();
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
        self.cell(key).start_failed(replica, setback, now);
        self.bump();
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
            self.bump();
        }
    }

    /// A container's main process ended.
    pub fn died(&self, container: &ContainerId, exit_code: i64, now: Moment) {
        if self.cells().iter().any(|cell| cell.died(container, exit_code, now)) {
            return self.bump();
        }
        let mut early = self.lock_early_deaths();
        if early.len() == EARLY_DEATHS_MAX {
            early.pop_front();
        }
        early.push_back((container.clone(), exit_code));
    }

    /// A container no longer exists.
    pub fn removed(&self, container: &ContainerId) {
        if self.cells().iter().any(|cell| cell.removed(container)) {
            self.bump();
        }
    }

    /// The engine's own list: replicas that are not on it are gone.
    pub fn retain(&self, observed: &[Observed]) {
        for cell in self.cells() {
            cell.retain(|container| observed.iter().any(|o| o.container == *container));
        }
        self.bump();
    }

    /// Where a draining or ended replica's requests and container are, so that it can be stopped.
    pub fn leaving(
        &self,
        key: &FunctionKey,
        replica: &ReplicaId,
    ) -> Option<(ContainerId, Option<Arc<Route>>)> {
        self.find(key).and_then(|cell| cell.leaving(replica))
    }

    /// Whether `route` still leads to a replica of `key`.
    pub fn is_current(&self, key: &FunctionKey, route: &Arc<Route>) -> bool {
        self.find(key).is_some_and(|cell| cell.has_route(route))
    }

    /// The revisions that replicas, whatever their phase, were started from; a revision may appear more than once.
    pub fn revisions(&self) -> Vec<(FunctionKey, u64)> {
        let cells: Vec<_> =
            self.read().iter().map(|(key, cell)| (key.clone(), Arc::clone(cell))).collect();
        cells
            .iter()
            .flat_map(|(key, cell)| cell.revisions().into_iter().map(|r| (key.clone(), r)))
            .collect()
    }

    fn forget(&self, key: &FunctionKey) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        if cells.get(key).is_some_and(|cell| cell.is_idle()) {
            cells.remove(key);
        }
    }

    fn cells(&self) -> Vec<Arc<Cell>> {
        self.read().values().cloned().collect()
    }

    fn find(&self, key: &FunctionKey) -> Option<Arc<Cell>> {
        self.read().get(key).cloned()
    }

    fn cell(&self, key: &FunctionKey) -> Arc<Cell> {
        if let Some(cell) = self.find(key) {
            return cell;
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cells.entry(key.clone()).or_default())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<FunctionKey, Arc<Cell>>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_early_death(&self, container: &ContainerId) -> Option<i64> {
        let mut early = self.lock_early_deaths();
        let index = early.iter().position(|(id, _)| id == container)?;
        early.remove(index).map(|(_, exit_code)| exit_code)
    }

    fn lock_early_deaths(&self) -> MutexGuard<'_, VecDeque<(ContainerId, i64)>> {
        self.early_deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
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

/// Where requests of one function wait for a replica.
#[derive(Debug)]
pub struct Parking {
    cell: Arc<Cell>,
}

impl Parking {
    /// Takes a place; `None` when `most` requests wait already. Dropping the guard gives it back.
    pub fn enter(&self, most: usize) -> Option<ParkedGuard> {
        self.cell.park(most).then(|| ParkedGuard { cell: Arc::clone(&self.cell) })
    }

    /// Resolves at the next change that may let a request go on. Enable it before looking, so that none is missed.
    pub fn changed(&self) -> Notified<'_> {
        self.cell.changed()
    }
}

/// A place in the parking; freed on drop.
#[derive(Debug)]
pub struct ParkedGuard {
    cell: Arc<Cell>,
}

impl Drop for ParkedGuard {
    fn drop(&mut self) {
        self.cell.unpark();
    }
}
