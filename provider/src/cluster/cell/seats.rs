//! The workers that may serve the function, as a dense list that placing goes through.
//!
//! Always: sorted by container and worker; each in-flight number equals the view's.

use std::sync::Arc;

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;

use super::super::replica::{Route, WorkerRef};
use super::State;
use crate::scheduler::{
    Action, Phase, PlaceKind, ReplicaView, Seat, WorkerView, comfort, place, room,
};

impl State {
    /// Makes the list anew after a change of any replica.
    pub(super) fn reseat(&mut self, uses_limits: bool) {
        let configured = self.view.wanted.as_ref().and_then(|wanted| wanted.scaling.in_flight_max);
        self.seats.clear();
        for (replica, side) in self.view.replicas.iter().zip(&self.sides) {
            if replica.phase != Phase::Ready || side.route().is_none() {
                continue;
            }
            for (index, worker) in (0_u8..).zip(&replica.workers) {
                if serves_owner(replica, index) {
                    self.seats.push(Seat {
                        host: side.host,
                        in_flight: worker.in_flight,
                        limit: if uses_limits { limit(worker, configured) } else { 0 },
                        comfort: comfort(&self.view, replica.grant.cpu),
                        worker: index,
                        is_open: true,
                        is_guest: false,
                    });
                }
            }
        }
        self.seat_guests(uses_limits);
    }

    /// Adds the workers of containers that are not its own.
    fn seat_guests(&mut self, uses_limits: bool) {
        let scaling = self.view.wanted.as_ref().map(|wanted| &wanted.scaling);
        let configured = scaling.and_then(|scaling| scaling.in_flight_max);
        // A guest is taken to bring as much as one replica has at its ceiling, as phase 2 reckons.
        let comfort = comfort(&self.view, scaling.and_then(|scaling| scaling.ceiling.cpu));
        for (guest, side) in self.view.guests.iter().zip(&self.guests) {
            if guest.state == WorkerState::Ready {
                let limit = if guest.limit > 0 { guest.limit } else { configured.unwrap_or(0) };
                self.seats.push(Seat {
                    host: side.host,
                    in_flight: guest.in_flight,
                    limit: if uses_limits { limit } else { 0 },
                    comfort,
                    worker: guest.worker,
                    is_open: true,
                    is_guest: true,
                });
            }
        }
        if !self.guests.is_empty() {
            self.seats.sort_unstable_by_key(|seat| (seat.host, seat.worker));
        }
    }

    /// Reserves a place on the best worker.
    pub(super) fn take_seat(&mut self, bounced: &[u64]) -> Option<(Arc<Route>, WorkerRef)> {
        self.turn = self.turn.wrapping_add(1);
        let at = place(&self.seats, bounced, self.turn)?;
        let seat = &mut self.seats[at];
        seat.in_flight += 1;
        let (host, worker) = (seat.host, seat.worker);
        let Ok(index) = self.sides.binary_search_by_key(&host, |side| side.host) else {
            let index = self.guest_at(host)?;
            let guest = &mut self.view.guests[index];
            guest.in_flight += 1;
            let route = Arc::clone(&self.guests[index].route);
            return Some((route, WorkerRef { host, worker, epoch: guest.epoch }));
        };
        let route = Arc::clone(self.sides[index].route()?);
        let view = &mut self.view.replicas[index].workers[usize::from(worker)];
        view.in_flight += 1;
        Some((route, WorkerRef { host, worker, epoch: view.epoch }))
    }

    /// Gives a place back; one of an earlier epoch is on nobody's account any more.
    pub(super) fn leave_seat(&mut self, worker: WorkerRef) {
        let Ok(index) = self.sides.binary_search_by_key(&worker.host, |side| side.host) else {
            return self.leave_guest(worker);
        };
        let view = &mut self.view.replicas[index].workers[usize::from(worker.worker)];
        if view.epoch != worker.epoch {
            return;
        }
        view.in_flight = view.in_flight.saturating_sub(1);
        let in_flight = view.in_flight;
        self.note_seat(worker, in_flight);
    }

    fn leave_guest(&mut self, worker: WorkerRef) {
        let Some(index) = self.guest_at(worker.host) else { return };
        let guest = &mut self.view.guests[index];
        guest.in_flight = guest.in_flight.saturating_sub(1);
        let in_flight = guest.in_flight;
        self.note_seat(worker, in_flight);
    }

    fn note_seat(&mut self, worker: WorkerRef, in_flight: u32) {
        let place = (worker.host, worker.worker);
        if let Ok(at) = self.seats.binary_search_by_key(&place, |seat| (seat.host, seat.worker)) {
            self.seats[at].in_flight = in_flight;
        }
    }

    /// Whether one of the waiting could be let go, with at most `most` at once on a worker whose limit is unknown.
    pub(super) fn has_room(&self, most: u32) -> bool {
        room(&self.seats, most) > 0
    }

    /// Notes an order to a worker as under way.
    pub(super) fn begin_order(&mut self, action: &Action, now: Moment) {
        let (Action::Specialise { place, .. } | Action::Release { place, .. }) = action else {
            return;
        };
        if let (Action::Release { .. }, Some((guest, _))) = (action, self.find_guest(&place.host)) {
            guest.state = WorkerState::Draining;
            guest.since = now;
            return;
        }
        let Some((view, _)) = self.find(&place.host) else { return };
        let worker = &mut view.workers[usize::from(place.worker)];
        match action {
            Action::Specialise { .. } => {
                *worker = WorkerView {
                    state: WorkerState::Specialising,
                    epoch: place.epoch,
                    is_guest: place.kind != PlaceKind::Own,
                    since: now,
                    ..WorkerView::default()
                };
            }
            _ if worker.epoch == place.epoch => {
                worker.state = WorkerState::Draining;
                worker.since = now;
            }
            _ => {}
        }
    }
}

/// Whether worker `index` of a ready replica takes requests of the replica's owner.
fn serves_owner(replica: &ReplicaView, index: u8) -> bool {
    let worker = &replica.workers[usize::from(index)];
    // The first worker's state is the replica's phase.
    index == 0 || (!worker.is_guest && worker.state == WorkerState::Ready)
}

/// Most requests that a worker takes at once, 0 without limit: what it says itself counts before what is configured.
fn limit(worker: &WorkerView, configured: Option<u32>) -> u32 {
    if worker.limit > 0 { worker.limit } else { configured.unwrap_or(0) }
}
