//! One function's replicas under one lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::Moment;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Setback;
use super::replica::{Replica, Route, Ticket};
use crate::engine::{ContainerId, Image, Observed, ReplicaId};
use crate::scheduler::{
    Action, Candidate, Failure, FunctionView, ImageState, Phase, ReplicaView, Wanted, place,
};

/// A replica that ends sooner than this after its last change counts as a failed start, so that one which keeps ending is
/// not started in a tight loop.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// After so many failed starts in a row a request is refused at once; before, it waits for the next try, about three seconds.
const HOPELESS_AFTER: u32 = 3;

/// How an attempt to place a request ended.
#[derive(Debug)]
pub enum Acquired {
    /// Counted in on this replica.
    Placed(Ticket),
    /// No replica is ready, one may become so.
    Wait,
    /// None is ready, the last start failed, and nothing is under way.
    Hopeless {
        /// Why the last start failed, one line.
        reason: String,
    },
    /// The function's process keeps ending; the watchdog is starting it again.
    Crashing {
        /// How it ended, one line.
        reason: String,
    },
}

/// One function's replicas.
#[derive(Debug, Default)]
pub(super) struct Cell {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) replicas: Vec<Replica>,
    image: Prepared,
    trouble: Option<Trouble>,
    parked: usize,
    turn: usize,
}

#[derive(Debug, Default)]
enum Prepared {
    #[default]
    No,
    Asking {
        revision: u64,
    },
    Yes {
        revision: u64,
        image: Arc<Image>,
    },
}

/// Starts of one revision that failed in a row.
#[derive(Debug)]
struct Trouble {
    revision: u64,
    failure: Failure,
    reason: String,
    is_final: bool,
}

impl Trouble {
    /// Whether nobody should wait for the next try.
    fn is_hopeless(&self) -> bool {
        self.is_final || self.failure.count >= HOPELESS_AFTER
    }
}

impl Cell {
    pub(super) fn available(&self) -> u32 {
        let ready = self.lock().replicas.iter().filter(|r| r.phase == Phase::Ready).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    pub(super) fn containers(&self) -> Vec<(ReplicaId, ContainerId)> {
        let state = self.lock();
        state.replicas.iter().filter_map(|r| Some((r.id.clone(), r.container.clone()?))).collect()
    }

    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.replicas.is_empty() && state.parked == 0
    }

    pub(super) fn acquire(&self, revision: u64, tried: &[ReplicaId]) -> Acquired {
        let mut state = self.lock();
        state.turn = state.turn.wrapping_add(1);
        let candidates = state.replicas.iter().map(|replica| Candidate {
            in_flight: replica.in_flight(),
            is_eligible: replica.phase == Phase::Ready && !tried.contains(&replica.id),
        });
        match place(candidates, state.turn).and_then(|index| state.replicas[index].route.as_ref()) {
            Some(route) => Acquired::Placed(route.enter()),
            None => state.standing(revision),
        }
    }

    pub(super) fn park(&self, most: usize) -> bool {
        let mut state = self.lock();
        let has_room = state.parked < most;
        state.parked += usize::from(has_room);
        has_room
    }

    pub(super) fn unpark(&self) {
        self.lock().parked -= 1;
    }

    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn forgive(&self) {
        self.lock().trouble = None;
    }

    /// What the scheduler sees; `None` when there is nothing to see.
    pub(super) fn view(&self, key: &FunctionKey, wanted: Option<Wanted>) -> Option<FunctionView> {
        let state = self.lock();
        if wanted.is_none() && state.replicas.is_empty() {
            return None;
        }
        let revision = wanted.map_or(0, |w| w.revision);
        let image = match &state.image {
            Prepared::Asking { revision: r } if *r == revision => ImageState::Preparing,
            Prepared::Yes { revision: r, .. } if *r == revision => ImageState::Present,
            _ => ImageState::Unknown,
        };
        let replicas = state.replicas.iter().map(|r| ReplicaView {
            id: r.id.clone(),
            revision: r.revision,
            phase: r.phase,
            since: r.since,
            in_flight: r.in_flight(),
        });
        let failure = state.trouble.as_ref().filter(|t| t.revision == revision).map(|t| t.failure);
        Some(FunctionView {
            key: key.clone(),
            wanted,
            image,
            replicas: replicas.collect(),
            failure,
        })
    }

    pub(super) fn begin(&self, action: &Action, new_replica: Option<ReplicaId>, now: Moment) {
        let mut state = self.lock();
        match action {
            Action::Prepare { revision, .. } => {
                state.image = Prepared::Asking { revision: *revision }
            }
            Action::Start { revision, .. } => {
                let replica = new_replica.map(|id| Replica::ordered(id, *revision, now));
                state.replicas.extend(replica);
            }
            Action::Drain { replica, .. } | Action::Clear { replica, .. } => {
                state.leave(replica, now);
            }
            Action::GiveUp { replica, .. } => {
                let trouble = state.find(replica).map(|r| {
                    let reason = r
                        .trouble
                        .clone()
                        .unwrap_or_else(|| "it did not start to listen in time".into());
                    (r.revision, reason)
                });
                if let Some((revision, reason)) = trouble {
                    state.fail(revision, reason, true, now);
                }
                state.leave(replica, now);
            }
        }
        self.wake(state);
    }

    pub(super) fn prepared(
        &self,
        revision: u64,
        outcome: Result<Arc<Image>, Setback>,
        now: Moment,
    ) {
        let mut state = self.lock();
        if !matches!(state.image, Prepared::Asking { revision: asked } if asked == revision) {
            return; // a newer revision has been asked for meanwhile
        }
        match outcome {
            Ok(image) => state.image = Prepared::Yes { revision, image },
            Err(setback) => {
                state.image = Prepared::No;
                state.set_back(revision, setback, now);
            }
        }
        self.wake(state);
    }

    pub(super) fn image(&self, wanted: u64) -> Option<Arc<Image>> {
        match &self.lock().image {
            Prepared::Yes { revision, image } if *revision == wanted => Some(Arc::clone(image)),
            _ => None,
        }
    }

    pub(super) fn started(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        let mut state = self.lock();
        let replica = state.find(&observed.replica)?;
        let route = replica.settle(observed, now);
        if route.is_none() {
            state.fail(observed.revision, "its container ended at once".into(), false, now);
        }
        self.wake(state);
        route
    }

    pub(super) fn adopt(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        let mut state = self.lock();
        let route = match state.find(&observed.replica) {
            Some(known) => {
                if !observed.is_running && known.container.is_some() && known.phase.is_live() {
                    known.route = None;
                    known.enter(Phase::Ended, now);
                }
                None
            }
            None => {
                let mut replica =
                    Replica::ordered(observed.replica.clone(), observed.revision, now);
                let route = replica.settle(observed, now);
                state.replicas.push(replica);
                route
            }
        };
        self.wake(state);
        route
    }

    pub(super) fn start_failed(&self, id: &ReplicaId, setback: Setback, now: Moment) {
        let mut state = self.lock();
        if let Some(index) = state.replicas.iter().position(|r| r.id == *id) {
            let replica = state.replicas.remove(index);
            state.image = Prepared::No; // it may have been removed meanwhile: look again before the next try
            state.set_back(replica.revision, setback, now);
        }
        self.wake(state);
    }

    pub(super) fn reported(
        &self,
        id: &ReplicaId,
        owner: OwnerState,
        reason: Option<&str>,
        now: Moment,
    ) {
        let mut state = self.lock();
        let Some(replica) = state.replicas.iter_mut().find(|r| r.id == *id && r.route.is_some())
        else {
            return;
        };
        if !replica.phase.is_live() {
            return; // leaving already: what its process does no longer matters
        }
        match owner {
            OwnerState::Ready => {
                replica.enter(Phase::Ready, now);
                replica.was_ready = true;
                let revision = replica.revision;
                if state.trouble.as_ref().is_some_and(|t| t.revision <= revision) {
                    state.trouble = None;
                }
            }
            OwnerState::Crashed => {
                replica.trouble = Some(reason.unwrap_or("its process ended").into());
                replica.enter(Phase::Crashed, now);
            }
            // A crashed one that starts again stays `Crashed` until it is ready: it must not look like a fresh start.
            OwnerState::Starting if replica.phase == Phase::Crashed => {}
            OwnerState::Starting | OwnerState::Draining => replica.enter(Phase::Starting, now),
        }
        self.wake(state);
    }

    pub(super) fn died(&self, container: &ContainerId, exit_code: i64, now: Moment) -> bool {
        let mut state = self.lock();
        let Some(replica) =
            state.replicas.iter_mut().find(|r| r.container.as_ref() == Some(container))
        else {
            return false;
        };
        replica.route = None;
        if replica.phase.is_live() {
            let was_unstable = !replica.was_ready || now.since(replica.since) < STABLE_AFTER;
            let reason = match replica.trouble.take() {
                Some(trouble) => trouble,
                None => format!("its container exited with status {exit_code}"),
            };
            let revision = replica.revision;
            replica.enter(Phase::Ended, now);
            if was_unstable {
                state.fail(revision, reason, false, now);
            }
        }
        self.wake(state);
        true
    }

    pub(super) fn removed(&self, container: &ContainerId) -> bool {
        let mut state = self.lock();
        let before = state.replicas.len();
        state.replicas.retain(|r| r.container.as_ref() != Some(container));
        let is_mine = state.replicas.len() < before;
        self.wake(state);
        is_mine
    }

    pub(super) fn retain(&self, exists: impl Fn(&ContainerId) -> bool) {
        let mut state = self.lock();
        state.replicas.retain(|r| r.container.as_ref().is_none_or(&exists));
        self.wake(state);
    }

    pub(super) fn leaving(&self, id: &ReplicaId) -> Option<(ContainerId, Option<Arc<Route>>)> {
        let mut state = self.lock();
        let replica = state.find(id)?;
        Some((replica.container.clone()?, replica.route.clone()))
    }

    pub(super) fn has_route(&self, route: &Arc<Route>) -> bool {
        self.lock()
            .replicas
            .iter()
            .any(|r| r.route.as_ref().is_some_and(|own| Arc::ptr_eq(own, route)))
    }

    pub(super) fn revisions(&self) -> Vec<u64> {
        self.lock().replicas.iter().map(|r| r.revision).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks, then lets every parked request look again.
    fn wake(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    pub(super) fn find(&mut self, id: &ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|r| r.id == *id)
    }

    fn leave(&mut self, id: &ReplicaId, now: Moment) {
        if let Some(replica) = self.find(id) {
            replica.enter(Phase::Draining, now);
        }
    }

    fn set_back(&mut self, revision: u64, setback: Setback, now: Moment) {
        if let Setback::Failed { reason, is_final } = setback {
            self.fail(revision, reason, is_final, now);
        }
    }

    fn fail(&mut self, revision: u64, reason: String, is_final: bool, now: Moment) {
        let count =
            self.trouble.as_ref().filter(|t| t.revision == revision).map_or(0, |t| t.failure.count);
        let failure = Failure { count: count + 1, last: now };
        self.trouble = Some(Trouble { revision, failure, reason, is_final });
    }

    /// How matters stand when no replica is ready.
    fn standing(&self, revision: u64) -> Acquired {
        let is_coming =
            |r: &Replica| matches!(r.phase, Phase::Ordered | Phase::Starting | Phase::Ready);
        if self.replicas.iter().any(is_coming) || matches!(self.image, Prepared::Asking { .. }) {
            return Acquired::Wait;
        }
        if let Some(crashed) = self.replicas.iter().find(|r| r.phase == Phase::Crashed) {
            return Acquired::Crashing { reason: crashed.trouble.clone().unwrap_or_default() };
        }
        match &self.trouble {
            Some(trouble) if trouble.revision == revision && trouble.is_hopeless() => {
                Acquired::Hopeless { reason: trouble.reason.clone() }
            }
            _ => Acquired::Wait,
        }
    }
}
