//! The workers that may serve the function, as a dense list that placing goes through.
//!
//! Always: sorted by container and worker; each in-flight number equals the view's.

use std::sync::Arc;

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;

use super::super::guests::GuestSide;
use super::super::replica::{Route, Side, WorkerRef};
use super::State;
use crate::scheduler::{
    Action, FunctionView, Phase, PlaceKind, ReplicaView, Seat, WorkerView, comfort,
};

impl State {
    /// Brings the list up to date after a change of any replica.
    pub(super) fn reseat(&mut self, uses_limits: bool) {
        let Self { view, sides, guests, seats, .. } = self;
        let own = own_seats(view, sides, uses_limits);
        if guests.is_empty() {
            return seats.refill(own);
        }
        let mut all: Vec<_> = own.chain(guest_seats(view, guests, uses_limits)).collect();
        all.sort_unstable_by_key(|seat| (seat.host, seat.worker));
        seats.refill(all);
    }

    /// Reserves a place on the best worker.
    pub(super) fn take_seat(&mut self, bounced: &[u64]) -> Option<(Arc<Route>, WorkerRef)> {
        self.turn = self.turn.wrapping_add(1);
        let at = self.seats.place(bounced, self.turn)?;
        let Seat { host, worker, in_flight, .. } = self.seats.list()[at];
        self.seats.set_in_flight(at, in_flight + 1);
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
        let seats = self.seats.list();
        if let Ok(at) = seats.binary_search_by_key(&place, |seat| (seat.host, seat.worker)) {
            self.seats.set_in_flight(at, in_flight);
        }
    }

    /// Whether one of the waiting could be let go, with at most `most` at once on a worker whose limit is unknown.
    pub(super) fn has_room(&self, most: u32) -> bool {
        self.seats.has_room(most)
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

/// The workers of its own containers, in their order.
fn own_seats(view: &FunctionView, sides: &[Side], uses_limits: bool) -> impl Iterator<Item = Seat> {
    let configured = view.wanted.as_ref().and_then(|wanted| wanted.scaling.in_flight_max);
    let both = view.replicas.iter().zip(sides);
    let ready =
        both.filter(|(replica, side)| replica.phase == Phase::Ready && side.route().is_some());
    let mut known = (None, comfort(view, None));
    ready.flat_map(move |(replica, side)| {
        if known.0 != replica.grant.cpu {
            known = (replica.grant.cpu, comfort(view, replica.grant.cpu));
        }
        let workers = (0_u8..).zip(&replica.workers);
        workers.filter(move |(index, _)| serves_owner(replica, *index)).map(
            move |(index, worker)| Seat {
                host: side.host,
                in_flight: worker.in_flight,
                limit: if uses_limits { limit(worker, configured) } else { 0 },
                comfort: known.1,
                worker: index,
                is_open: true,
                is_guest: false,
            },
        )
    })
}

/// The workers of containers that are not its own.
fn guest_seats(
    view: &FunctionView,
    sides: &[GuestSide],
    uses_limits: bool,
) -> impl Iterator<Item = Seat> {
    let scaling = view.wanted.as_ref().map(|wanted| &wanted.scaling);
    let configured = scaling.and_then(|scaling| scaling.in_flight_max);
    // A guest is taken to bring as much as one replica has at its ceiling, as phase 2 reckons.
    let comfort = comfort(view, scaling.and_then(|scaling| scaling.ceiling.cpu));
    let both = view.guests.iter().zip(sides);
    both.filter(|(guest, _)| guest.state == WorkerState::Ready).map(move |(guest, side)| {
        let limit = if guest.limit > 0 { guest.limit } else { configured.unwrap_or(0) };
        Seat {
            host: side.host,
            in_flight: guest.in_flight,
            limit: if uses_limits { limit } else { 0 },
            comfort,
            worker: guest.worker,
            is_open: true,
            is_guest: true,
        }
    })
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
