//! What happens to a function's replicas: the engine's answers and the control links' reports.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{
    Abilities, Level, Load, OwnerState, Pressure, WORKERS, Watermark, WorkerReport, WorkerState,
};
use hyperfaas_protocol::moment::Moment;

use super::super::Setback;
use super::super::replica::Route;
use super::{Cell, Prepared, STABLE_AFTER, State, enter};
use crate::engine::{ContainerId, Image, Observed, ReplicaId};
use crate::scheduler::{Grant, LoadView, Phase, ReplicaView, expected_use};

/// How long after a change of a grant a report may still be about the one before.
const GRANT_SETTLES: Duration = Duration::from_millis(1500);
/// A report covers at most this: watchdogs report every second while busy.
const REPORT_MOST: Duration = Duration::from_millis(2500);

impl Cell {
    pub(in super::super) fn prepared(
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
        self.settle(state);
    }

    pub(in super::super) fn started(&self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        let mut state = self.lock();
        let (view, side) = state.find(&observed.replica)?;
        let route = side.settle(observed);
        enter(view, if route.is_some() { Phase::Starting } else { Phase::Ended }, now);
        if route.is_none() {
            state.fail(observed.revision, "its container ended at once".into(), false, now);
        }
        self.settle(state);
        route
    }

    pub(in super::super) fn adopt(
        &self,
        observed: &Observed,
        grant: Grant,
        now: Moment,
    ) -> Option<Arc<Route>> {
        let mut state = self.lock();
        let route = match state.find(&observed.replica) {
            Some((view, side)) => {
                if !observed.is_running && side.container.is_some() && view.phase.is_live() {
                    side.close();
                    enter(view, Phase::Ended, now);
                }
                None
            }
            None => {
                let (id, revision) = (observed.replica.clone(), observed.revision);
                let index = state.add(ReplicaView::ordered(id, revision, grant, now));
                let side = &mut state.sides[index];
                side.is_grant_known = false;
                let route = side.settle(observed);
                let phase = if route.is_some() { Phase::Starting } else { Phase::Ended };
                enter(&mut state.view.replicas[index], phase, now);
                route
            }
        };
        self.settle(state);
        route
    }

    pub(in super::super) fn start_failed(&self, id: &ReplicaId, setback: Setback, now: Moment) {
        let mut state = self.lock();
        if let Some(index) = state.view.replicas.iter().position(|r| r.id == *id) {
            let replica = state.remove_at(index);
            state.image = Prepared::No; // it may have been removed meanwhile: look again before the next try
            state.set_back(replica.revision, setback, now);
        }
        self.settle(state);
    }

    pub(in super::super) fn reported(
        self: &Arc<Self>,
        id: &ReplicaId,
        owner: OwnerState,
        reason: Option<&str>,
        now: Moment,
    ) {
        let mut state = self.lock();
        let Some((view, side)) = state.find(id).filter(|(_, side)| side.route().is_some()) else {
            return;
        };
        if !view.phase.is_live() {
            return; // leaving already: what its process does no longer matters
        }
        match owner {
            OwnerState::Ready => {
                enter(view, Phase::Ready, now);
                side.was_ready = true;
                let revision = view.revision;
                if state.trouble.as_ref().is_some_and(|t| t.revision <= revision) {
                    state.trouble = None;
                }
            }
            OwnerState::Crashed => {
                side.trouble = Some(reason.unwrap_or("its process ended").into());
                enter(view, Phase::Crashed, now);
            }
            // A crashed one that starts again stays `Crashed` until it is ready: it must not look like a fresh start.
            OwnerState::Starting if view.phase == Phase::Crashed => {}
            OwnerState::Starting | OwnerState::Draining => enter(view, Phase::Starting, now),
        }
        self.settle_free(state, now);
    }

    /// What the watchdog of a replica can do.
    pub(in super::super) fn able(&self, id: &ReplicaId, abilities: Abilities) {
        let mut state = self.lock();
        if let Some((view, side)) = state.find(id).filter(|(_, side)| side.route().is_some()) {
            let has_workers = usize::from(abilities.workers) >= WORKERS;
            view.has_second_own = abilities.second_own && has_workers;
            // Whether it does it tells with what its second worker runs, which comes next.
            side.is_able = abilities.guests && has_workers && abilities.lanes > 0;
        }
    }

    /// A worker entered a state. What is about an older order than the newest is over.
    pub(in super::super) fn worker(
        self: &Arc<Self>,
        id: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) {
        let mut state = self.lock();
        let Some((view, side)) = state.find(id).filter(|(_, side)| side.route().is_some()) else {
            return;
        };
        if report.worker == 1 {
            view.hosts_guests = Some(side.is_able);
        }
        let Some(worker) = view.workers.get_mut(usize::from(report.worker)) else { return };
        // The owner's worker is spoken of by `State`; and a worker that has not heard of an order yet says an older epoch.
        if report.worker == 0 || report.epoch < worker.epoch {
            return;
        }
        if report.epoch > worker.epoch {
            worker.epoch = report.epoch; // a provider before this one gave that order
            worker.in_flight = 0;
        }
        worker.is_guest |= report.guest.is_some();
        if worker.state != report.state {
            worker.state = report.state;
            worker.since = now;
        }
        if report.state == WorkerState::Generic {
            worker.in_flight = 0;
            worker.is_guest = false;
        }
        self.settle_free(state, now);
    }

    /// An order was refused: the worker is what it was.
    pub(in super::super) fn refused(
        &self,
        id: &ReplicaId,
        (worker, epoch): (u8, u64),
        was_lent: bool,
        now: Moment,
    ) {
        let mut state = self.lock();
        if let Some((view, _)) = state.find(id)
            && let Some(worker) = view.workers.get_mut(usize::from(worker))
            && worker.epoch == epoch
            && matches!(worker.state, WorkerState::Specialising | WorkerState::Draining)
        {
            worker.state = WorkerState::Generic;
            worker.since = now;
            worker.is_guest = false;
            // Asked once, refused: not again in this container; what a guest is refused for is not the owner's.
            view.has_second_own &= was_lent;
        }
        self.settle(state);
    }

    /// What was known of its watermark before; `None` when there is no such replica any more.
    pub(in super::super) fn marked(
        &self,
        id: &ReplicaId,
        mark: Watermark,
    ) -> Option<Option<Watermark>> {
        let mut state = self.lock();
        let (view, side) = state.find(id).filter(|(_, side)| side.route().is_some())?;
        view.pressure = match mark.level {
            Level::High => Some(mark.reason.unwrap_or(Pressure::Unknown)),
            Level::Low => None,
        };
        Some(side.watermark.replace(mark))
    }

    pub(in super::super) fn loaded(self: &Arc<Self>, id: &ReplicaId, load: Load, now: Moment) {
        let mut state = self.lock();
        let Some((view, side)) = state.find(id).filter(|(_, side)| side.route().is_some()) else {
            return;
        };
        let before = side.load.replace((load, now));
        if before.is_some_and(|(before, _)| before == load && load.in_flight == 0) {
            return; // said again after a break, or twice
        }
        let millis = |value: Option<u64>| value.map(|v| u32::try_from(v).unwrap_or(u32::MAX));
        let cpu = millis(load.cpu_millicores).map(|cpu| owners_part(cpu, view.has_guest(), &load));
        view.load = Some(LoadView { cpu, memory: load.memory_bytes, at: now });
        if !side.is_grant_known && now.since(view.granted_at) >= GRANT_SETTLES {
            side.is_grant_known = true;
            view.grant = Grant {
                cpu: millis(load.cpu_max_millicores).or(view.grant.cpu),
                memory: load.memory_max_bytes.or(view.grant.memory),
            };
        }
        take_limits(view, &load);
        // With a guest there, what it used is in the same sum: it says nothing of the owner's requests.
        let is_all_own = !view.has_guest();
        if let Some((cpu_us, served)) = spent(before, &load, now).filter(|_| is_all_own) {
            state.view.traffic.used(cpu_us, served);
        }
        self.settle_free(state, now);
    }

    pub(in super::super) fn died(
        &self,
        container: &ContainerId,
        exit_code: i64,
        now: Moment,
    ) -> bool {
        let mut state = self.lock();
        let found = state.sides.iter().position(|side| side.container.as_ref() == Some(container));
        let Some(index) = found else { return false };
        let State { view, sides, .. } = &mut *state;
        let (view, side) = (&mut view.replicas[index], &mut sides[index]);
        side.close();
        if view.phase.is_live() {
            let was_unstable = !side.was_ready || now.since(view.since) < STABLE_AFTER;
            let reason = match side.trouble.take() {
                Some(trouble) => trouble,
                None => format!("its container exited with status {exit_code}"),
            };
            let revision = view.revision;
            enter(view, Phase::Ended, now);
            if was_unstable {
                state.fail(revision, reason, false, now);
            }
        }
        self.settle(state);
        true
    }

    pub(in super::super) fn removed(&self, container: &ContainerId) -> bool {
        let mut state = self.lock();
        let found = state.sides.iter().position(|side| side.container.as_ref() == Some(container));
        if let Some(index) = found {
            state.remove_at(index);
        }
        self.settle(state);
        found.is_some()
    }

    /// Forgets replicas whose container does not exist; whether there were any.
    pub(in super::super) fn retain(&self, exists: impl Fn(&ContainerId) -> bool) -> bool {
        let mut state = self.lock();
        let before = state.sides.len();
        let is_gone = |state: &State, index: usize| {
            state.sides[index].container.as_ref().is_some_and(|container| !exists(container))
        };
        for index in (0..before).rev() {
            if is_gone(&state, index) {
                state.remove_at(index);
            }
        }
        let is_changed = state.sides.len() < before;
        self.settle(state);
        is_changed
    }
}

impl State {
    /// What the function is expected to use on its node: millicores, bytes.
    pub(super) fn expected_use(&self, now: Moment) -> (u32, u64) {
        let loads = self.view.replicas.iter().filter_map(|replica| replica.load);
        let memory = loads.filter_map(|load| load.memory).sum();
        let cpu = expected_use(&self.view, now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the range"
        )]
        let cpu = cpu.clamp(0.0, f64::from(u32::MAX)) as u32;
        (cpu, memory)
    }
}

/// Takes over what the watchdog says of how much its workers take at once.
fn take_limits(view: &mut ReplicaView, load: &Load) {
    let count = |most: Option<u64>| most.map_or(0, |most| u32::try_from(most).unwrap_or(u32::MAX));
    view.in_flight_max = count(load.in_flight_max);
    for (index, worker) in view.workers.iter_mut().enumerate() {
        let own = load.workers.map(|workers| workers[index]).filter(|w| w.epoch == worker.epoch);
        worker.limit = count(own.and_then(|own| own.in_flight_max).or(load.in_flight_max));
    }
}

/// What of a container's `cpu` its owner is taken to use: where there is a guest, by the requests both work on. The watchdog
/// measures the container, not its processes.
fn owners_part(cpu: u32, has_guest: bool, load: &Load) -> u32 {
    let Some([own, guests]) = load.workers.filter(|_| has_guest) else { return cpu };
    let [own, guests] = [own, guests].map(|worker| u128::from(worker.in_flight));
    let part = u128::from(cpu) * own / (own + guests).max(1);
    u32::try_from(part).unwrap_or(cpu)
}

/// CPU time, in microseconds, and requests that `load` is about; `None` where it does not say.
///
/// CPU time is the difference of two sums. An older watchdog tells only what was used while it was busy, which over an idle gap
/// is too much. One that started anew counts from zero, and what is used in a long gap may be nobody's: neither says what a
/// request costs.
pub(in super::super) fn spent(
    before: Option<(Load, Moment)>,
    load: &Load,
    now: Moment,
) -> Option<(f64, u64)> {
    let (before, at) = before?;
    let span = now.since(at);
    if span > REPORT_MOST || before.served > load.served {
        return None;
    }
    let refused = load.refused.saturating_sub(before.refused);
    let served = (load.served - before.served).saturating_sub(refused);
    #[expect(clippy::cast_precision_loss, reason = "what one container uses in seconds")]
    let used_us = match before.cpu_us.zip(load.cpu_us) {
        Some((before, now)) => now.checked_sub(before)? as f64,
        None => load.cpu_millicores? as f64 * 1000.0 * span.as_secs_f64(),
    };
    Some((used_us, served))
}
