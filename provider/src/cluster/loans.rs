//! Second workers that functions' own containers lend to guests of their share group.
//!
//! In: who shares with whom, the scheduler's orders, what the owners' watchdogs report. Out: places on offer, orders to those
//! watchdogs, and slots to be taken out.
//! Always: a worker is lent to one guest at a time, and again only when its watchdog has said that nothing of the last one is
//! left and its slot is out; a guest whose loan nobody here knows, such as one of an earlier run, is sent away and never spoken to.
//! A lock of its own, never held together with a function's. Orders are given under it, so that none overtakes another.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyperfaas_protocol::control::{Load, LogLine, Order, WorkerReport, WorkerState};
use hyperfaas_protocol::moment::Moment;
use hyperfaas_protocol::{FunctionKey, Namespace};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Cluster;
use super::cell::Cell;
use super::decisions::{Decision, Refusals};
use super::load::Used;
use super::replica::Route;
use super::standby::Host;
use crate::engine::{ContainerId, ReplicaId};
use crate::scheduler::{
    Offer, PlaceKind, Policy, Rule, Unlent, Wanted, Why, WorkerPlace, lends, wants_places,
};

/// The worker that a container lends.
const WORKER: u8 = 1;
/// Places of one kind that one plan sees: it takes at most a few.
const OFFERS_MAX: usize = 8;
/// How long a guest of an earlier run may take: whoever called it has gone with that run.
const STRANGERS_GRACE_MS: u64 = 1000;

type Group = (Namespace, Arc<str>);

/// Who shares with whom, and what is lent.
#[derive(Debug, Default)]
pub(super) struct Loans {
    books: Mutex<Books>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Books {
    /// How long a guest may finish what it serves; `None`: nothing is lent.
    grace: Option<Duration>,
    groups: HashMap<Group, BTreeSet<FunctionKey>>,
    group_of: HashMap<FunctionKey, Group>,
    loans: HashMap<ReplicaId, Loan>,
}

#[derive(Debug)]
struct Loan {
    owner: FunctionKey,
    guest: FunctionKey,
    epoch: u64,
    host: Host,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The guest is about to come; its watchdog has heard nothing.
    Begun,
    /// Its watchdog has been told to take it on.
    Ordered,
    /// Its watchdog has been told to let it go.
    Releasing,
    /// Nothing of it runs; its slot is to be taken out. Whether somebody is at it.
    Over { is_begun: bool },
}

/// A loan that is over but for its slot.
#[derive(Debug, Clone)]
pub struct LoanOver {
    /// Whose container.
    pub owner: FunctionKey,
    /// The container.
    pub name: ReplicaId,
    /// The way to it.
    pub host: Host,
    /// Worker and epoch, which name the slot.
    pub place: (u8, u64),
}

impl Cluster {
    /// Lends workers from now on; a guest may take `grace` to finish what it serves. `has_root` as in [`Cluster::open_pool`].
    pub fn open_sharing(
        &self,
        grace: Duration,
        has_root: impl Fn(&str) -> Result<(), &'static str> + Send + Sync + 'static,
    ) {
        self.context.open_visits(Box::new(has_root));
        self.loans.lock().grace = Some(grace);
    }

    /// Resolves once a loan may be over.
    pub async fn loans_changed(&self) {
        self.loans.changed.notified().await;
    }

    /// Loans whose slots are to be taken out; each is told once.
    pub fn loans_over(&self) -> Vec<LoanOver> {
        let mut books = self.loans.lock();
        let mut over = Vec::new();
        for (name, loan) in &mut books.loans {
            if loan.stage == (Stage::Over { is_begun: false }) {
                loan.stage = Stage::Over { is_begun: true };
                let (owner, host) = (loan.owner.clone(), loan.host.clone());
                over.push(LoanOver {
                    owner,
                    name: name.clone(),
                    host,
                    place: (WORKER, loan.epoch),
                });
            }
        }
        over
    }

    /// The slot of a loan that was over is out: the worker may be lent again.
    pub fn loan_cleared(&self, name: &ReplicaId) {
        let Some(loan) = self.loans.lock().loans.remove(name) else { return };
        let is_its = |order: &Option<Order>| match order {
            Some(Order::Specialise { epoch, .. } | Order::Release { epoch, .. }) => {
                *epoch == loan.epoch
            }
            _ => false,
        };
        loan.host.route.orders.send_if_modified(|order| is_its(order) && order.take().is_some());
        if let Some(cell) = self.find(&loan.guest) {
            cell.guest_gone(name);
            self.moved(&loan.guest);
        }
        self.loans_moved();
        self.touch(&loan.owner);
    }

    /// Gives `order` to the container that a visit is to; `false` when the visit was called off meanwhile.
    pub fn order_guest(&self, host: &Host, place: &WorkerPlace, order: Order) -> bool {
        if place.kind != PlaceKind::Guest {
            host.route.orders.send_replace(Some(order));
            return true;
        }
        let mut books = self.loans.lock();
        let loan = books
            .loans
            .get_mut(&place.host)
            .filter(|loan| loan.epoch == place.epoch && loan.stage == Stage::Begun);
        let Some(loan) = loan else { return false };
        loan.stage = Stage::Ordered;
        host.route.orders.send_replace(Some(order));
        true
    }

    /// Keeps track of who shares with whom.
    pub(super) fn enrol(&self, key: &FunctionKey, wanted: Option<&Wanted>) {
        let share = wanted.and_then(|wanted| wanted.scaling.share.clone());
        let group = share.map(|share| (key.namespace.clone(), share));
        let mut books = self.loans.lock();
        if books.grace.is_none() || books.group_of.get(key) == group.as_ref() {
            return;
        }
        if let Some(old) = books.group_of.remove(key)
            && let Some(members) = books.groups.get_mut(&old)
        {
            members.remove(key);
            if members.is_empty() {
                books.groups.remove(&old);
            }
        }
        if let Some(group) = group {
            books.groups.entry(group.clone()).or_default().insert(key.clone());
            books.group_of.insert(key.clone(), group);
        }
    }

    /// Workers that `key` could take in containers of its share group, and why the others do not lend theirs; nothing where it
    /// needs none.
    pub(super) fn lendable(
        &self,
        key: &FunctionKey,
        cell: &Cell,
        wanted: Option<&Wanted>,
        now: Moment,
    ) -> (Vec<Offer>, Refusals) {
        let (mut offers, mut refusals) = (Vec::new(), Refusals::new());
        let Some(wanted) = wanted.filter(|wanted| wanted.scaling.share.is_some()) else {
            return (offers, refusals);
        };
        if !self.policy.mode.has_multiplex() || !cell.wants_places(wanted, &self.policy, now) {
            return (offers, refusals);
        }
        let others: Vec<_> = {
            let books = self.loans.lock();
            let Some(group) = books.group_of.get(key).filter(|_| books.grace.is_some()) else {
                return (offers, refusals);
            };
            let members = books.groups.get(group).into_iter().flatten();
            members.filter(|member| *member != key).cloned().collect()
        };
        if let Err(reason) = cell.visitable() {
            refusals.push((None, reason));
            return (offers, refusals);
        }
        for owner in others {
            let Some(cell) = self.find(&owner) else { continue };
            for (id, offer) in cell.lending(&self.policy) {
                match offer {
                    Ok(_) if self.loans.lock().loans.contains_key(&id) => {
                        refusals.push((Some(id), Unlent::Taken.reason()));
                    }
                    Ok(offer) => offers.push(offer),
                    Err(reason) => refusals.push((Some(id), reason)),
                }
            }
            if offers.len() >= OFFERS_MAX {
                break;
            }
        }
        if offers.is_empty() && refusals.is_empty() {
            refusals.push((None, "no other function of its share group has a container"));
        }
        (offers, refusals)
    }

    /// Lends a worker to `guest`; `None` when it is not to be had any more.
    pub(super) fn lend(
        &self,
        place: &WorkerPlace,
        guest: &FunctionKey,
        now: Moment,
    ) -> Option<Host> {
        let members: Vec<_> = {
            let books = self.loans.lock();
            if books.loans.contains_key(&place.host) {
                return None;
            }
            let group = books.group_of.get(guest)?;
            books.groups.get(group)?.iter().filter(|one| *one != guest).cloned().collect()
        };
        let (owner, host) = members.into_iter().find_map(|owner| {
            let host = self.find(&owner)?.lend(place, now)?;
            Some((owner, host))
        })?;
        let loan = Loan {
            owner: owner.clone(),
            guest: guest.clone(),
            epoch: place.epoch,
            host: host.clone(),
            stage: Stage::Begun,
        };
        self.loans.lock().loans.insert(place.host.clone(), loan);
        self.loans_moved();
        self.touch(&owner);
        Some(host)
    }

    /// Sends the guest of `host` away, if it has one; `by` is who asked for it.
    pub(super) fn end_loan(&self, host: &ReplicaId, by: &FunctionKey, now: Moment) {
        let (guest, owner, epoch, was_ordered) = {
            let mut books = self.loans.lock();
            let grace = books.grace.unwrap_or_default();
            let Some(loan) = books.loans.get_mut(host) else { return };
            let was_ordered = match loan.stage {
                Stage::Begun => false,
                Stage::Ordered => true,
                Stage::Releasing | Stage::Over { .. } => return,
            };
            if was_ordered {
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                let order = Order::Release { worker: WORKER, epoch: loan.epoch, grace_ms };
                loan.host.route.orders.send_replace(Some(order));
                loan.stage = Stage::Releasing;
            } else {
                loan.stage = Stage::Over { is_begun: false };
            }
            (loan.guest.clone(), loan.owner.clone(), loan.epoch, was_ordered)
        };
        info!(%guest, replica = host.0, epoch, "guest is sent away");
        if let Some(cell) = self.find(&guest) {
            cell.guest_leaves(host, *by != guest, now);
            self.moved(&guest);
        }
        if let Some(cell) = self.find(&owner) {
            let state = if was_ordered { WorkerState::Draining } else { WorkerState::Generic };
            cell.lent_worker(host, epoch, state, now);
            self.touch(&owner);
        }
        self.loans.changed.notify_one();
    }

    /// A worker of `owner`'s container entered a state: news of the guest it is lent to, if it is.
    pub(super) fn lent_reported(
        &self,
        owner: &FunctionKey,
        host: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) {
        if report.worker != WORKER {
            return;
        }
        let guest = {
            let mut books = self.loans.lock();
            match books.loans.get_mut(host) {
                Some(loan) if loan.epoch == report.epoch => {
                    let is_over = report.state == WorkerState::Generic;
                    if is_over && matches!(loan.stage, Stage::Ordered | Stage::Releasing) {
                        loan.stage = Stage::Over { is_begun: false };
                    }
                    Some(loan.guest.clone())
                }
                Some(_) => return, // of an order before this one
                None => None,
            }
        };
        match (guest, &report.guest) {
            (Some(guest), _) => {
                self.guest_reported(&guest, host, report, now);
                self.loans.changed.notify_one();
            }
            (None, Some(stranger)) => self.send_away(owner, host, (report, stranger), now),
            (None, None) => {}
        }
    }

    /// A guest that nobody here has ordered: its provider has ended. It goes, and its slot with it.
    fn send_away(
        &self,
        owner: &FunctionKey,
        host: &ReplicaId,
        (report, stranger): (&WorkerReport, &str),
        now: Moment,
    ) {
        let Some((container, Some(route))) = self.leaving(owner, host) else { return };
        let guest = FunctionKey::parse_reference(stranger, &owner.namespace);
        let guest = guest.unwrap_or_else(|_| owner.clone());
        info!(%guest, replica = host.0, epoch = report.epoch, "guest of an earlier run is sent away");
        let order =
            Order::Release { worker: WORKER, epoch: report.epoch, grace_ms: STRANGERS_GRACE_MS };
        let loan = Loan {
            owner: owner.clone(),
            guest,
            epoch: report.epoch,
            host: Host { container, route: Arc::clone(&route) },
            stage: Stage::Releasing,
        };
        {
            let mut books = self.loans.lock();
            books.loans.insert(host.clone(), loan);
            route.orders.send_replace(Some(order));
        }
        self.loans_moved();
        if let Some(cell) = self.find(owner) {
            cell.lent_worker(host, report.epoch, WorkerState::Draining, now);
        }
    }

    /// An order for a lent worker was refused; whether it was one.
    pub(super) fn lent_refused(
        &self,
        host: &ReplicaId,
        (worker, epoch): (u8, u64),
        reason: &str,
        now: Moment,
    ) -> bool {
        let guest = {
            let mut books = self.loans.lock();
            let loan = books.loans.get_mut(host).filter(|l| worker == WORKER && l.epoch == epoch);
            let Some(loan) = loan else { return false };
            let before = std::mem::replace(&mut loan.stage, Stage::Over { is_begun: false });
            if matches!(before, Stage::Over { .. }) {
                loan.stage = before;
            }
            (before == Stage::Ordered).then(|| loan.guest.clone())
        };
        if let Some(guest) = guest {
            self.visit_failed(&guest, host, format!("order refused: {reason}"), now);
        }
        self.loans.changed.notify_one();
        true
    }

    /// What a lent worker's guest takes at once, as its watchdog measured it.
    pub(super) fn lent_loaded(&self, host: &ReplicaId, load: &Load, now: Moment) {
        let known = |loan: &Loan| (loan.guest.clone(), loan.epoch);
        let Some((guest, epoch)) = self.loans.lock().loans.get(host).map(known) else { return };
        let own = load.workers.map(|workers| workers[usize::from(WORKER)]);
        let own = own.filter(|worker| worker.epoch == epoch);
        let limit = own.and_then(|own| own.in_flight_max);
        if let (Some(used), Some(cell)) = (own.and_then(|own| Used::of(&own)), self.find(&guest)) {
            cell.guest_used(host, used, now);
        }
        if let (Some(limit), Some(cell)) = (limit, self.find(&guest)) {
            cell.guest_limit(host, u32::try_from(limit).unwrap_or(u32::MAX), now);
        }
    }

    /// Keeps the line of a guest of a function's container, as its own; the watchdog says whose it is.
    pub fn lent_said(&self, owner: &FunctionKey, host: &ReplicaId, line: LogLine) {
        match FunctionKey::parse_reference(&line.function, &owner.namespace) {
            Ok(guest) if guest != *owner => self.guest_logs.push(&guest, host, line),
            _ => warn!(replica = host.0, "line of nobody's log dropped"),
        }
    }

    /// Containers have ended, and with them whatever was a guest there.
    pub(super) fn lose_loans(&self, is_lost: impl Fn(&ContainerId) -> bool, now: Moment) {
        let lost: Vec<_> = {
            let mut books = self.loans.lock();
            let lost = books.loans.iter_mut().filter(|(_, loan)| is_lost(&loan.host.container));
            lost.filter_map(|(name, loan)| {
                let is_over = matches!(loan.stage, Stage::Over { .. });
                loan.stage = if is_over { loan.stage } else { Stage::Over { is_begun: false } };
                (!is_over).then(|| (name.clone(), loan.guest.clone()))
            })
            .collect()
        };
        for (name, guest) in lost {
            if !matches!(self.visit(&guest, &name), None | Some(WorkerState::Draining)) {
                self.visit_failed(&guest, &name, "its container ended".into(), now);
            }
            self.loans.changed.notify_one();
        }
    }

    fn loans_moved(&self) {
        let count = self.loans.lock().loans.len();
        self.context.counters.lent(count);
        self.loans.changed.notify_one();
    }
}

impl Cell {
    /// Whether it needs places in containers it does not own.
    fn wants_places(&self, wanted: &Wanted, policy: &Policy, now: Moment) -> bool {
        let mut state = self.lock();
        state.set_wanted(Some(wanted.clone()), self.uses_limits());
        wants_places(&state.view, &wanted.scaling, policy, now)
    }

    /// What each of its containers says to a guest: a place, or why there is none.
    fn lending(&self, policy: &Policy) -> Vec<(ReplicaId, Result<Offer, &'static str>)> {
        let owners_image = self.visitable();
        let state = self.lock();
        let share = state.view.wanted.as_ref().and_then(|wanted| wanted.scaling.share.clone());
        let replicas = state.view.replicas.iter().filter(|replica| replica.phase.is_live());
        let offers = replicas.map(|replica| {
            let second = &replica.workers[usize::from(WORKER)];
            let offer = || Offer {
                is_zygote: false,
                host: replica.id.clone(),
                worker: WORKER,
                epoch: second.epoch + 1,
                node: replica.node,
                owner: Some(state.view.key.clone()),
                share: share.clone(),
                owner_in_flight: replica.own_in_flight(),
            };
            let may = lends(&state.view, replica, policy).map_err(Unlent::reason);
            // An owner that is root could reach into its guest.
            let may = may.and_then(|()| owners_image.map_err(|_| OWNERS_IMAGE));
            (replica.id.clone(), may.map(|()| offer()))
        });
        offers.collect()
    }

    /// Marks a worker as lent; `None` when it is not as it was on offer.
    fn lend(&self, place: &WorkerPlace, now: Moment) -> Option<Host> {
        let mut state = self.lock();
        let (view, side) = state.find(&place.host)?;
        let second = view.workers.get_mut(usize::from(place.worker))?;
        let is_free = second.state == WorkerState::Generic && second.epoch + 1 == place.epoch;
        if !is_free || view.phase != crate::scheduler::Phase::Ready {
            return None;
        }
        let route: Arc<Route> = Arc::clone(side.route()?);
        let host = Host { container: side.container.clone()?, route };
        second.epoch = place.epoch;
        second.is_guest = true;
        (second.state, second.since, second.in_flight) = (WorkerState::Specialising, now, 0);
        Some(host)
    }

    /// A lent worker enters a state that its watchdog will not tell, or not yet.
    fn lent_worker(&self, id: &ReplicaId, epoch: u64, to: WorkerState, now: Moment) {
        let mut state = self.lock();
        if let Some((view, _)) = state.find(id) {
            let second = &mut view.workers[usize::from(WORKER)];
            if second.epoch == epoch && second.is_guest && second.state != WorkerState::Generic {
                second.is_guest = to != WorkerState::Generic;
                (second.state, second.since) = (to, now);
            }
        }
        self.settle(state);
    }

    /// Its place in `host` is taken from it: no new request goes there.
    fn guest_leaves(&self, host: &ReplicaId, is_unasked: bool, now: Moment) {
        let mut state = self.lock();
        let Some((guest, _)) = state.find_guest(host) else { return };
        (guest.state, guest.since) = (WorkerState::Draining, now);
        if is_unasked {
            let why = Why::of(Rule::OwnerNeeds, &state.view, 0.0, now);
            state.decisions_push(Some(Decision::sent_away(host, why)));
        }
        self.settle(state);
    }

    /// Shows why it was not given a place, unless that was said a moment ago.
    pub(super) fn refuse_places(&self, refusals: Refusals, now: Moment) {
        let mut state = self.lock();
        let why = Why::of(Rule::Waiting, &state.view, 0.0, now);
        for (host, reason) in refusals {
            state.refuse(host, reason, why, now);
        }
    }
}

/// Why the container of an owner whose image could not be a guest's does not lend.
const OWNERS_IMAGE: &str = "its owner's image is not known to run as an ordinary user";

impl Loans {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
