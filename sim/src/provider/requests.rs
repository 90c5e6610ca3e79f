//! The request path: place, park, try elsewhere what was bounced, as `dispatch` does.

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::scheduler::{Seat, is_pressed};

use super::Provider;
use super::books::{Function, Parked};
use crate::measure::Outcome;
use crate::queue::Nanos;
use crate::site::Site;
use crate::slab::Id;

/// So many containers may send one request back before it waits for a change.
const BOUNCES_MAX: usize = 3;
/// How soon after a look at the pressure of arrivals the next one is worth its cost, as in `cluster::cell`.
const PRESSURE_PAUSE: Duration = Duration::from_millis(5);
/// Waiting requests are let go to a worker without a limit until it has so many, as in `cluster`.
const RELEASE_MOST: u32 = 100;

impl Provider {
    /// A request has come; whether it waits.
    pub(crate) fn arrive(&mut self, request: Id, site: &mut Site, now: Moment, at: Nanos) -> bool {
        let Some(index) = site.request(request).map(|found| found.function) else { return false };
        let function = &mut self.functions[index as usize];
        function.view.traffic.arrived(now);
        let may_go = function.parked.is_empty();
        if self.policy.mode.has_up() && now.since(function.looked_at) >= PRESSURE_PAUSE {
            function.looked_at = now;
            if is_pressed(&function.view, &self.policy, now) {
                self.touch(index);
            }
        }
        if may_go && self.try_place(index, request, &[], site, at) {
            return false;
        }
        self.park(index, Parked { request, bounced: Vec::new() })
    }

    fn park(&mut self, index: u32, parked: Parked) -> bool {
        let own = self.functions[index as usize].parked.len();
        if !self.may_park(own) {
            self.verdicts.push((parked.request, Outcome::Full));
            return false;
        }
        self.decisions.parked += 1;
        let function = &mut self.functions[index as usize];
        self.decisions.cold += u64::from(!function.seats().iter().any(|seat| seat.is_open));
        if parked.bounced.is_empty() {
            function.parked.push_back(parked);
        } else {
            function.parked.push_front(parked); // it had a place already
        }
        self.waiting += 1;
        function.view.parked = count(function.parked.len());
        self.touch(index);
        true
    }

    /// A request has waited for as long as it may.
    pub(crate) fn expire(&mut self, request: Id, site: &Site) {
        let Some(index) = site.request(request).map(|found| found.function) else { return };
        let function = &mut self.functions[index as usize];
        let before = function.parked.len();
        function.parked.retain(|parked| parked.request != request);
        if function.parked.len() < before {
            function.view.parked -= 1;
            self.waiting -= 1;
            self.verdicts.push((request, Outcome::Late));
        }
    }

    fn try_place(
        &mut self,
        index: u32,
        request: Id,
        bounced: &[u64],
        site: &mut Site,
        at: Nanos,
    ) -> bool {
        let function = &mut self.functions[index as usize];
        function.turn = function.turn.wrapping_add(1);
        let Some(chosen) = function.seats.place(bounced, function.turn) else { return false };
        let Seat { host, worker, in_flight, .. } = function.seats()[chosen];
        function.seats.set_in_flight(chosen, in_flight + 1);
        let container = Id::from_serial(host);
        let epoch = function.reserve(container, worker);
        site.send(request, (container, worker, epoch), at);
        true
    }

    /// Whether one of the waiting could be let go.
    pub(crate) fn has_room(&self, function: &Function) -> bool {
        function.seats.has_room(self.release_most())
    }

    fn release_most(&self) -> u32 {
        if self.policy.mode.has_out() { RELEASE_MOST } else { u32::MAX }
    }

    /// Sends on what waits while there is room; first come, first served.
    pub(crate) fn release(&mut self, index: u32, site: &mut Site, at: Nanos) {
        let most = self.release_most();
        while let Some(parked) = self.functions[index as usize].parked.front().cloned() {
            if !self.functions[index as usize].seats.has_room(most) {
                return;
            }
            if !self.try_place(index, parked.request, &parked.bounced, site, at) {
                // Everyone with room has bounced it: they are asked again when something has changed.
                if let Some(front) = self.functions[index as usize].parked.front_mut() {
                    front.bounced.clear();
                }
                return;
            }
            let function = &mut self.functions[index as usize];
            function.parked.pop_front();
            self.waiting -= 1;
            function.view.parked = count(function.parked.len());
        }
    }

    /// The answer's last byte has passed, or the connection has broken.
    pub(super) fn over(
        &mut self,
        request: Id,
        outcome: Outcome,
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let Some((index, took)) = self.give_back(request, site, at) else { return };
        if outcome == Outcome::Answered {
            let took = Duration::from_nanos(took);
            self.functions[index as usize].view.traffic.answered(took, now);
        }
        let bounces = &mut self.functions[index as usize].bounces;
        if !bounces.is_empty() {
            bounces.remove(&request);
        }
        self.verdicts.push((request, outcome));
        self.release(index, site, at);
    }

    /// The watchdog has not taken it: it may go elsewhere.
    pub(super) fn bounced(&mut self, request: Id, site: &mut Site, at: Nanos) {
        let Some(from) = site.request(request).and_then(|found| found.sent) else { return };
        let Some((index, _)) = self.give_back(request, site, at) else { return };
        self.decisions.bounced += 1;
        let mut bounced =
            self.functions[index as usize].bounces.remove(&request).unwrap_or_default();
        bounced.push(from.0.serial());
        if bounced.len() < BOUNCES_MAX && self.try_place(index, request, &bounced, site, at) {
            self.functions[index as usize].bounces.insert(request, bounced);
            return;
        }
        self.park(index, Parked { request, bounced });
    }

    /// Frees the place of a request; its function, and how long it had it.
    fn give_back(&mut self, request: Id, site: &Site, at: Nanos) -> Option<(u32, Nanos)> {
        let found = site.request(request)?;
        let (container, worker, epoch) = found.sent?;
        let function = &mut self.functions[found.function as usize];
        let mut seats = function.seats().iter();
        let place = seats.position(|s| s.host == container.serial() && s.worker == worker);
        if let Some(at) = place {
            let in_flight = function.seats()[at].in_flight;
            function.seats.set_in_flight(at, in_flight.saturating_sub(1));
        }
        function.unreserve(container, worker, epoch);
        if function.is_drained(container) {
            self.emptied.push(container);
        }
        Some((found.function, at - found.sent_at))
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}
