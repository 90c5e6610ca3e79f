//! One function's replicas under one lock: who serves it, who waits, what is measured.
//!
//! The scheduler's view is kept here as it is and lent out under the lock, so that a plan copies nothing.

mod events;
mod seats;
mod sight;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

pub(super) use self::events::spent;
use super::Context;
use super::Setback;
use super::decisions::{Decision, Refused, Ring};
use super::guests::GuestSide;
use super::queue::{Parked, Queue, Waiter};
use super::replica::{Route, Side, Ticket, WorkerRef};
use crate::engine::{ContainerId, Image, ReplicaId};
use crate::scheduler::{
    Action, Budget, Failure, FunctionPlan, FunctionView, Grant, ImageState, NodeId, Phase, Policy,
    ReplicaView, Rule, Seats, Wanted, Why, is_pressed, is_unserved, plan_function,
};

/// A replica that ends sooner than this after its last change counts as a failed start, so that one which keeps ending is
/// not started in a tight loop.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// After so many failed starts in a row a request is refused at once; before, it waits for the next try, about three seconds.
const HOPELESS_AFTER: u32 = 3;
/// How soon after a look at the pressure of arrivals the next one is worth its cost.
const PRESSURE_PAUSE: Duration = Duration::from_millis(5);

/// How an attempt to place a request ended.
#[derive(Debug)]
pub enum Acquired {
    /// Counted in on this replica.
    Placed(Ticket),
    /// There is no room, some may come.
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

/// How an attempt to wait for a place ended.
#[derive(Debug)]
pub enum Parking {
    /// There was one by then.
    Placed(Ticket),
    /// It waits.
    Parked(Parked),
    /// Too many wait already.
    Full,
}

/// One function's replicas.
#[derive(Debug)]
pub(super) struct Cell {
    state: Mutex<State>,
    changed: Notify,
    context: Arc<Context>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) view: FunctionView,
    /// Beside the view's replicas, in the same order.
    pub(super) sides: Vec<Side>,
    /// Beside the view's guests, in the same order.
    pub(super) guests: Vec<GuestSide>,
    seats: Seats,
    queue: Queue,
    /// Requests of the queue that have their place and do not know yet: they wait for nothing that could be planned.
    handed: HashSet<u64>,
    image: Prepared,
    trouble: Option<Trouble>,
    turn: usize,
    next_host: u64,
    looked_at: Moment,
    decisions: Ring,
    refused: Refused,
    /// Whether the interpreter of this revision can wait before it runs the function, where that is known.
    can_wait: Option<(u64, bool)>,
    /// What the function adds to its node's use: millicores, bytes.
    pub(super) counted: (u32, u64),
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

/// Places that were found for waiting requests, to be handed over once the lock is free.
type Released = Vec<(oneshot::Sender<Ticket>, Ticket)>;

impl Cell {
    pub(super) fn new(key: FunctionKey, context: Arc<Context>) -> Self {
        let state = State {
            view: FunctionView::new(key),
            sides: Vec::new(),
            guests: Vec::new(),
            seats: Seats::default(),
            queue: Queue::default(),
            handed: HashSet::new(),
            image: Prepared::No,
            trouble: None,
            turn: 0,
            next_host: 0,
            looked_at: Moment::ZERO,
            decisions: Ring::default(),
            refused: Refused::default(),
            can_wait: None,
            counted: (0, 0),
        };
        Self { state: Mutex::new(state), changed: Notify::new(), context }
    }

    pub(super) fn now(&self) -> Moment {
        self.context.clock.now()
    }

    /// Whether places are limited by what a worker takes at once.
    pub(super) fn uses_limits(&self) -> bool {
        self.context.uses_limits
    }

    pub(super) fn available(&self) -> u32 {
        let ready = self.lock().view.ready().count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// Whether it is served in a container that is not its own.
    pub(super) fn has_guest(&self) -> bool {
        self.lock().view.guests.iter().any(|guest| guest.state == WorkerState::Ready)
    }

    /// Whether it could be.
    pub(super) fn may_visit(&self) -> bool {
        let state = self.lock();
        state.visitable(&self.context).is_ok() && state.view.visit_failure.is_none()
    }

    /// When it was last called, and the revision, if nothing serves it and its interpreter can wait, which `can_wait` says of a
    /// revision and its image.
    pub(super) fn may_wait(&self, can_wait: impl Fn(u64, &Image) -> bool) -> Option<(Moment, u64)> {
        let mut state = self.lock();
        let (view, revision) = (&state.view, state.view.revision());
        let is_at_zero = view.scale.desired == 0
            && view.parked == 0
            && view.guests.is_empty()
            && !view.replicas.iter().any(|replica| replica.phase.is_live());
        let called = view.traffic.last_busy();
        if !is_at_zero || called == Moment::ZERO || state.visitable(&self.context).is_err() {
            return None;
        }
        let Prepared::Yes { image, .. } = &state.image else { return None };
        let known = state.can_wait.filter(|(of, _)| *of == revision).map(|(_, can)| can);
        let can = known.unwrap_or_else(|| can_wait(revision, image));
        state.can_wait = Some((revision, can));
        can.then_some((called, revision))
    }

    /// Whether `revision` is the one that should run and can be a guest.
    pub(super) fn is_visitable(&self, revision: u64) -> bool {
        let state = self.lock();
        state.view.revision() == revision && state.visitable(&self.context).is_ok()
    }

    /// Its interpreter waits in `host`, or why it does not, after which it is not tried again with this revision.
    pub(super) fn held(
        &self,
        host: &ReplicaId,
        revision: u64,
        trouble: Option<String>,
        now: Moment,
    ) {
        let mut state = self.lock();
        if trouble.is_some() {
            state.can_wait = Some((revision, false));
        }
        let why = Why::of(Rule::LikelyNext, &state.view, 0.0, now);
        state.decisions_push(Some(Decision::held(host, trouble, why)));
    }

    /// Whether a guest can be made of its image.
    ///
    /// # Errors
    /// What is in the way, for people.
    pub(super) fn visitable(&self) -> Result<(), &'static str> {
        self.lock().visitable(&self.context)
    }

    /// Whether one request waits and no other.
    pub(super) fn is_first_waiting(&self) -> bool {
        self.lock().view.parked == 1
    }

    /// Replicas that should be, unless the catalog has heard of a scale call that has not been planned yet.
    pub(super) fn desired(&self, call: u64) -> Option<u32> {
        let scale = self.lock().view.scale;
        (scale.call == call).then_some(scale.desired)
    }

    pub(super) fn containers(&self) -> Vec<(ReplicaId, ContainerId)> {
        let state = self.lock();
        let both = state.view.replicas.iter().zip(&state.sides);
        both.filter_map(|(view, side)| Some((view.id.clone(), side.container.clone()?))).collect()
    }

    /// Whether requests wait and nothing serves them, nor is about to in a place it does not own.
    pub(super) fn is_unserved(&self) -> bool {
        is_unserved(&self.lock().view)
    }

    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.view.replicas.is_empty() && state.view.parked == 0 && state.view.guests.is_empty()
    }

    /// A request came; whether the function should be planned at once.
    pub(super) fn arrived(&self, policy: &Policy, now: Moment) -> bool {
        let mut state = self.lock();
        state.view.traffic.arrived(now);
        if !policy.mode.has_up() || now.since(state.looked_at) < PRESSURE_PAUSE {
            return false;
        }
        state.looked_at = now;
        is_pressed(&state.view, policy, now)
    }

    pub(super) fn acquire(
        self: &Arc<Self>,
        revision: u64,
        bounced: &[u64],
        now: Moment,
    ) -> Acquired {
        let mut state = self.lock();
        let has_turn = state.queue.is_empty() || !bounced.is_empty();
        match has_turn.then(|| state.take_seat(bounced)).flatten() {
            Some((route, worker)) => {
                Acquired::Placed(Ticket::new(route, worker, Arc::clone(self), now))
            }
            None => state.standing(revision),
        }
    }

    /// Waits for a place in the queue; one that was sent back, before all others.
    pub(super) fn park(
        self: &Arc<Self>,
        deadline: Moment,
        bounced: &[u64],
        now: Moment,
    ) -> Parking {
        let mut state = self.lock();
        let has_turn = state.queue.is_empty() || !bounced.is_empty();
        if let Some((route, worker)) = has_turn.then(|| state.take_seat(bounced)).flatten() {
            return Parking::Placed(Ticket::new(route, worker, Arc::clone(self), now));
        }
        if !self.context.total.enter(state.view.parked as usize, self.context.bounds) {
            return Parking::Full;
        }
        state.view.parked += 1;
        let (id, receiver) = state.queue.push(deadline, bounced.to_vec(), !bounced.is_empty());
        drop(state);
        Parking::Parked(Parked { cell: Arc::clone(self), id, receiver, since: now })
    }

    /// Counts as waiting, outside the queue.
    pub(super) fn hold(self: &Arc<Self>, now: Moment) -> Option<Parked> {
        let mut state = self.lock();
        if !self.context.total.enter(state.view.parked as usize, self.context.bounds) {
            return None;
        }
        state.view.parked += 1;
        let (_, receiver) = oneshot::channel(); // nothing will come; no request in the queue has this number
        Some(Parked { cell: Arc::clone(self), id: 0, receiver, since: now })
    }

    pub(super) fn unpark(&self, id: u64, since: Moment) {
        let mut state = self.lock();
        state.queue.remove(id);
        if !state.handed.remove(&id) {
            state.view.parked -= 1;
        }
        drop(state);
        self.context.total.leave();
        self.context.counters.park_seconds(self.now().since(since));
    }

    /// A ticket was dropped: the place goes to whoever has waited longest.
    pub(super) fn left(self: &Arc<Self>, worker: WorkerRef, took: Option<Duration>, now: Moment) {
        let mut state = self.lock();
        state.leave_seat(worker);
        if let Some(took) = took {
            state.view.traffic.answered(took, now);
        }
        self.hand_over(state, now);
    }

    /// Resolves at the next change of how matters stand. Enable it before looking, so that none is missed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn standing(&self, revision: u64) -> Acquired {
        self.lock().standing(revision)
    }

    pub(super) fn forgive(&self) {
        self.lock().trouble = None;
    }

    /// Plans the function as it stands, and keeps what the next plan must remember. `None` when there is nothing of it (any
    /// more).
    pub(super) fn plan(
        &self,
        wanted: Option<Wanted>,
        budget: &mut Budget,
        policy: &Policy,
        now: Moment,
    ) -> Option<FunctionPlan> {
        let mut state = self.lock();
        state.set_wanted(wanted, self.context.uses_limits);
        if !budget.offers.is_empty() || state.view.parked > 0 {
            state.view.may_visit = state.visitable(&self.context).is_ok();
        }
        let view = &state.view;
        if view.wanted.is_none() && view.replicas.is_empty() && view.guests.is_empty() {
            return None;
        }
        let plan = plan_function(view, budget, policy, now);
        state.view.scale = plan.scale;
        Some(plan)
    }

    /// The function as the scheduler sees it.
    #[cfg(test)]
    pub(super) fn view(&self) -> FunctionView {
        self.lock().view.clone()
    }

    #[cfg(test)]
    pub(super) fn want(&self, wanted: Option<Wanted>) {
        let uses_limits = self.context.uses_limits;
        self.lock().set_wanted(wanted, uses_limits);
    }

    /// What the function adds to the use of its node by now: millicores, bytes; and what it had added before.
    pub(super) fn recount(&self, now: Moment) -> ((u32, u64), (u32, u64)) {
        let mut state = self.lock();
        let new = state.expected_use(now);
        let old = std::mem::replace(&mut state.counted, new);
        (new, old)
    }

    pub(super) fn decisions(&self) -> Vec<Decision> {
        self.lock().decisions.list()
    }

    pub(super) fn begin(
        &self,
        action: &Action,
        new_replica: Option<(ReplicaId, Grant)>,
        now: Moment,
    ) {
        let mut state = self.lock();
        let name = new_replica.as_ref().map(|(id, _)| id.0.as_str());
        state.decisions_push(Decision::of(action, name));
        match action {
            Action::Prepare { revision, .. } => {
                state.image = Prepared::Asking { revision: *revision };
            }
            Action::Start { revision, .. } => {
                if let Some((id, grant)) = new_replica {
                    state.add(ReplicaView::ordered(id, *revision, grant, now));
                }
            }
            Action::Drain { replica, .. } | Action::Clear { replica, .. } => {
                state.leave(replica, now);
            }
            Action::GiveUp { replica, .. } => {
                let trouble = state.find(replica).map(|(view, side)| {
                    let late = || "it did not start to listen in time".into();
                    (view.revision, side.trouble.clone().unwrap_or_else(late))
                });
                if let Some((revision, reason)) = trouble {
                    state.fail(revision, reason, true, now);
                }
                state.leave(replica, now);
            }
            Action::Resize { replica, grant, .. } => {
                if let Some((view, side)) = state.find(replica) {
                    view.grant = *grant;
                    view.granted_at = now;
                    view.is_resizing = true;
                    side.is_grant_known = true;
                }
            }
            Action::Specialise { .. } | Action::Release { .. } => {
                state.begin_order(action, now);
            }
        }
        self.settle(state);
    }

    /// A change of a grant is through, or came to nothing: then `kept` holds.
    pub(super) fn resized(&self, id: &ReplicaId, kept: Option<Grant>) {
        let mut state = self.lock();
        if let Some((view, side)) = state.find(id) {
            view.is_resizing = false;
            if let Some(kept) = kept {
                view.grant = kept;
                side.is_grant_known = false;
            }
        }
    }

    pub(super) fn image(&self, wanted: u64) -> Option<Arc<Image>> {
        match &self.lock().image {
            Prepared::Yes { revision, image } if *revision == wanted => Some(Arc::clone(image)),
            _ => None,
        }
    }

    pub(super) fn leaving(&self, id: &ReplicaId) -> Option<(ContainerId, Option<Arc<Route>>)> {
        let mut state = self.lock();
        let (_, side) = state.find(id)?;
        Some((side.container.clone()?, side.route().cloned()))
    }

    pub(super) fn container(&self, id: &ReplicaId) -> Option<(ContainerId, NodeId)> {
        let mut state = self.lock();
        let (view, side) = state.find(id)?;
        Some((side.container.clone()?, view.node))
    }

    pub(super) fn revisions(&self) -> Vec<u64> {
        self.lock().view.replicas.iter().map(|r| r.revision).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change: new seats, places for those who wait, and a word to those for whom matters have got worse.
    pub(super) fn settle(&self, mut state: MutexGuard<'_, State>) {
        state.reseat(self.context.uses_limits);
        let is_worse = state.view.parked > 0
            && !matches!(state.standing(state.view.revision()), Acquired::Wait);
        drop(state);
        if is_worse {
            self.changed.notify_waiters();
        }
    }

    /// As [`Cell::settle`], where places may have come free.
    pub(super) fn settle_free(self: &Arc<Self>, state: MutexGuard<'_, State>, now: Moment) {
        self.settle(state);
        let state = self.lock();
        self.hand_over(state, now);
    }

    /// Gives free places to those who wait, outside the lock.
    ///
    /// A worker whose limit nobody knows gets only so many while others are coming, who are to have their share; once none is,
    /// holding back would only make requests late that it could serve, as a function that mostly waits can.
    fn hand_over(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Moment) {
        if state.queue.is_empty() {
            return;
        }
        let mut released: Released = Vec::new();
        let most = if state.is_more_coming() { self.context.release_most } else { u32::MAX };
        while !state.queue.is_empty() && state.has_room(most) {
            let Some((waiter, (route, worker))) = state.next_waiter(now) else { break };
            released.push((waiter.sender, Ticket::new(route, worker, Arc::clone(self), now)));
        }
        drop(state);
        for (sender, ticket) in released {
            // Whoever left meanwhile gives it back by dropping the ticket.
            if let Err(ticket) = sender.send(ticket) {
                ticket.bounced();
            }
        }
    }
}

impl State {
    pub(super) fn find(&mut self, id: &ReplicaId) -> Option<(&mut ReplicaView, &mut Side)> {
        let index = self.view.replicas.iter().position(|replica| replica.id == *id)?;
        Some((&mut self.view.replicas[index], &mut self.sides[index]))
    }

    /// Whether a replica is on its way that could serve some of those who wait.
    fn is_more_coming(&self) -> bool {
        let is_coming = |r: &ReplicaView| matches!(r.phase, Phase::Ordered | Phase::Starting);
        self.view.replicas.iter().any(is_coming)
    }

    pub(super) fn new_host(&mut self) -> u64 {
        self.next_host += 1;
        self.next_host
    }

    /// Whether its image's root is there, and a guest can be made of it.
    fn visitable(&self, context: &Context) -> Result<(), &'static str> {
        match &self.image {
            Prepared::Yes { revision, image } if *revision == self.view.revision() => {
                context.has_root(image)
            }
            _ => Err("its image is not known yet"),
        }
    }

    pub(super) fn refuse(
        &mut self,
        host: Option<ReplicaId>,
        reason: &'static str,
        why: Why,
        now: Moment,
    ) {
        let told = self.refused.tell(host, reason, why, now);
        self.decisions_push(told);
    }

    pub(super) fn add(&mut self, replica: ReplicaView) -> usize {
        let host = self.new_host();
        self.view.replicas.push(replica);
        self.sides.push(Side::new(host));
        self.sides.len() - 1
    }

    fn remove_at(&mut self, index: usize) -> ReplicaView {
        self.sides.remove(index);
        self.view.replicas.remove(index)
    }

    /// The first of the waiting that there is a place for.
    fn next_waiter(&mut self, now: Moment) -> Option<(Waiter, (Arc<Route>, WorkerRef))> {
        let mut queue = std::mem::take(&mut self.queue);
        let next = queue.pop(now, |bounced| self.take_seat(bounced));
        self.queue = queue;
        if let Some((waiter, _)) = &next {
            self.handed.insert(waiter.id);
            self.view.parked -= 1;
        }
        next
    }

    /// Takes over what the catalog asks for now, and what follows from it.
    pub(super) fn set_wanted(&mut self, wanted: Option<Wanted>, uses_limits: bool) {
        let is_new_limit = wanted.as_ref().map(|w| w.scaling.in_flight_max)
            != self.view.wanted.as_ref().map(|w| w.scaling.in_flight_max);
        self.view.wanted = wanted;
        let revision = self.view.revision();
        self.view.image = match &self.image {
            Prepared::Asking { revision: r } if *r == revision => ImageState::Preparing,
            Prepared::Yes { revision: r, .. } if *r == revision => ImageState::Present,
            _ => ImageState::Unknown,
        };
        let trouble = self.trouble.as_ref().filter(|trouble| trouble.revision == revision);
        self.view.failure = trouble.map(|trouble| trouble.failure);
        if is_new_limit {
            self.reseat(uses_limits);
        }
    }

    pub(super) fn decisions_push(&mut self, decision: Option<Decision>) {
        decision.into_iter().for_each(|decision| self.decisions.push(decision));
    }

    fn leave(&mut self, id: &ReplicaId, now: Moment) {
        if let Some((view, _)) = self.find(id) {
            enter(view, Phase::Draining, now);
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

    /// How matters stand when no replica has room.
    fn standing(&self, revision: u64) -> Acquired {
        let is_coming =
            |r: &ReplicaView| matches!(r.phase, Phase::Ordered | Phase::Starting | Phase::Ready);
        let is_guest_coming = self
            .view
            .guests
            .iter()
            .any(|guest| matches!(guest.state, WorkerState::Specialising | WorkerState::Ready));
        if self.view.replicas.iter().any(is_coming)
            || is_guest_coming
            || matches!(self.image, Prepared::Asking { .. })
        {
            return Acquired::Wait;
        }
        let crashed = self.view.replicas.iter().position(|r| r.phase == Phase::Crashed);
        if let Some(index) = crashed {
            return Acquired::Crashing {
                reason: self.sides[index].trouble.clone().unwrap_or_default(),
            };
        }
        match &self.trouble {
            Some(trouble) if trouble.revision == revision && trouble.is_hopeless() => {
                Acquired::Hopeless { reason: trouble.reason.clone() }
            }
            _ => Acquired::Wait,
        }
    }
}

/// Lets `replica` enter `phase`.
pub(super) fn enter(replica: &mut ReplicaView, phase: Phase, now: Moment) {
    if replica.phase != phase {
        replica.phase = phase;
        replica.since = now;
    }
}
