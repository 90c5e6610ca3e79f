//! Functions in containers that are not their own: how a visit begins, stands, fails and ends.
//!
//! In: the scheduler's orders, what the hosts' watchdogs report. Out: seats of the function, its guests' log lines, reasons.
//! Always: requests go to a guest only while its worker is ready under exactly the order's epoch; a visit that fails takes only
//! itself out, so that those who wait go on waiting for what comes next; failures back off.

use std::sync::Arc;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Load, LogLine, WorkerReport, WorkerState};
use hyperfaas_protocol::moment::Moment;
use tracing::warn;

use super::Cluster;
use super::cell::{Cell, State, spent};
use super::decisions::Decision;
use super::load::Used;
use super::replica::Route;
use super::standby::Host;
use crate::engine::ReplicaId;
use crate::scheduler::{Action, Failure, GuestView, PlaceKind, Rule, Why};

/// What no decision looks at; beside its [`GuestView`].
#[derive(Debug)]
pub(super) struct GuestSide {
    /// Number of the container within the function, as a replica's.
    pub(super) host: u64,
    pub(super) route: Arc<Route>,
    /// The watchdog's last report; the first of a guest is about its start as well, so it is compared with nothing.
    load: Option<(Load, Moment)>,
    /// What it uses of a container that another function owns.
    used: Option<(Used, Moment)>,
}

/// A place where a function is a guest, and what is known of its use there.
#[derive(Debug)]
pub(super) struct VisitUsed {
    pub(super) host: ReplicaId,
    pub(super) is_standby: bool,
    /// What was told last, and when; of containers that another function owns.
    pub(super) used: Option<(Used, Moment)>,
}

impl Cluster {
    /// Counts a [`Action::Specialise`] in a container that is not the function's own as begun, before it runs; `None` when that
    /// container has gone meanwhile.
    pub fn begin_visit(&self, action: &Action, now: Moment) -> Option<Host> {
        let Action::Specialise { function, place, .. } = action else { return None };
        let host = match place.kind {
            PlaceKind::Guest => self.lend(place, function, now)?,
            PlaceKind::Own | PlaceKind::Zygote | PlaceKind::Standby => {
                self.take_standby(place, function, now)?
            }
        };
        self.context.counters.began(action);
        self.cell(function).begin_visit(action, Arc::clone(&host.route), now);
        self.moved(function);
        Some(host)
    }

    /// Where the visit of `key` to `host` stands; `None` when it is over.
    pub fn visit(&self, key: &FunctionKey, host: &ReplicaId) -> Option<WorkerState> {
        let cell = self.find(key)?;
        let state = cell.lock();
        state.view.guests.iter().find(|guest| guest.host == *host).map(|guest| guest.state)
    }

    /// A visit came to nothing, or ended unasked; its container is ended, or has its worker back where a function owns it.
    pub fn visit_failed(&self, key: &FunctionKey, host: &ReplicaId, reason: String, now: Moment) {
        warn!(function = %key, host = %host.0, reason, "visit failed");
        self.context.counters.visits_failed.inc();
        if let Some(cell) = self.find(key) {
            cell.visit_failed(host, reason, now);
        }
        self.dismiss_standby(host);
        self.end_loan(host, key, now);
        self.moved(key);
    }

    /// A visit is over and its container gone.
    pub fn visit_ended(&self, host: &ReplicaId) {
        for (key, cell) in self.cells() {
            if cell.guest_gone(host) {
                return self.moved(&key);
            }
        }
    }

    pub(super) fn guest_reported(
        &self,
        key: &FunctionKey,
        host: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) {
        let Some(cell) = self.find(key) else { return };
        match cell.guest_reported(host, report, now) {
            Ok(()) => {
                if report.state == WorkerState::Ready {
                    self.guest_serves(host, now);
                }
                self.moved(key);
            }
            Err(reason) => self.visit_failed(key, host, reason, now),
        }
    }

    /// Keeps a guest's line for whoever reads the function's log.
    pub(super) fn guest_said(&self, host: &ReplicaId, line: LogLine) {
        let Some(key) = self.guest_of(host) else { return };
        self.guest_logs.push(&key, host, line);
    }
}

impl Cell {
    fn begin_visit(&self, action: &Action, route: Arc<Route>, now: Moment) {
        let Action::Specialise { place, .. } = action else { return };
        let mut state = self.lock();
        let host = state.new_host();
        state.decisions_push(Decision::of(action, None));
        let revision = state.view.revision();
        state.view.guests.push(GuestView {
            host: place.host.clone(),
            worker: place.worker,
            epoch: place.epoch,
            revision,
            state: WorkerState::Specialising,
            in_flight: 0,
            limit: 0,
            is_standby: place.kind != PlaceKind::Guest,
            since: now,
        });
        state.guests.push(GuestSide { host, route, load: None, used: None });
        self.settle(state);
    }

    /// # Errors
    /// Why the visit is over.
    fn guest_reported(
        self: &Arc<Self>,
        host: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) -> Result<(), String> {
        let mut state = self.lock();
        let Some((guest, _)) = state.find_guest(host) else { return Ok(()) };
        // One that has not heard of its order yet says an older epoch.
        if report.worker != guest.worker || report.epoch != guest.epoch {
            return Ok(());
        }
        match report.state {
            WorkerState::Ready if guest.state == WorkerState::Specialising => {
                guest.state = WorkerState::Ready;
                guest.since = now;
                state.view.visit_failure = None;
                self.settle_free(state, now);
            }
            WorkerState::Crashed | WorkerState::Generic if guest.state != WorkerState::Draining => {
                let ended = || "its process ended".to_owned();
                return Err(report.reason.clone().unwrap_or_else(ended));
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts what requests have cost in a container where the guest is alone.
    pub(super) fn guest_cost(&self, host: &ReplicaId, load: &Load, now: Moment) {
        let mut state = self.lock();
        let Some((_, side)) = state.find_guest(host) else { return };
        let before = side.load.replace((*load, now));
        if let Some((cpu_us, served)) = spent(before, load, now) {
            state.view.traffic.used(cpu_us, served);
        }
    }

    /// Notes what the guest in `host` uses of a container that another function owns.
    pub(super) fn guest_used(&self, host: &ReplicaId, used: Used, now: Moment) {
        if let Some((_, side)) = self.lock().find_guest(host) {
            side.used = Some((used, now));
        }
    }

    /// Its places in containers that it does not own: their names, and what it uses there where another function owns them.
    pub(super) fn visits_used(&self) -> Vec<VisitUsed> {
        let state = self.lock();
        let both = state.view.guests.iter().zip(&state.guests);
        let one = |(view, side): (&GuestView, &GuestSide)| VisitUsed {
            host: view.host.clone(),
            is_standby: view.is_standby,
            used: side.used,
        };
        both.map(one).collect()
    }

    pub(super) fn guest_limit(self: &Arc<Self>, host: &ReplicaId, limit: u32, now: Moment) {
        let mut state = self.lock();
        if let Some((guest, _)) = state.find_guest(host) {
            guest.limit = limit;
            self.settle_free(state, now);
        }
    }

    fn visit_failed(&self, host: &ReplicaId, reason: String, now: Moment) {
        let mut state = self.lock();
        let Some((guest, _)) = state.find_guest(host) else { return };
        let kind = if guest.is_standby { PlaceKind::Standby } else { PlaceKind::Guest };
        state.remove_guest(host);
        let count = state.view.visit_failure.map_or(0, |failure| failure.count);
        state.view.visit_failure = Some(Failure { count: count + 1, last: now });
        let why = Why::of(Rule::Waiting, &state.view, 0.0, now);
        state.decisions_push(Some(Decision::failed_visit(host, kind, reason, why)));
        self.settle(state);
    }

    pub(super) fn guest_gone(&self, host: &ReplicaId) -> bool {
        let mut state = self.lock();
        let was_there = state.remove_guest(host);
        self.settle(state);
        was_there
    }
}

impl State {
    pub(super) fn find_guest(
        &mut self,
        host: &ReplicaId,
    ) -> Option<(&mut GuestView, &mut GuestSide)> {
        let index = self.view.guests.iter().position(|guest| guest.host == *host)?;
        Some((&mut self.view.guests[index], &mut self.guests[index]))
    }

    /// The guest in the container with this number.
    pub(super) fn guest_at(&self, host: u64) -> Option<usize> {
        self.guests.iter().position(|guest| guest.host == host)
    }

    fn remove_guest(&mut self, host: &ReplicaId) -> bool {
        let Some(index) = self.view.guests.iter().position(|guest| guest.host == *host) else {
            return false;
        };
        self.view.guests.remove(index);
        self.guests.remove(index);
        true
    }
}

#[cfg(test)]
mod tests;
