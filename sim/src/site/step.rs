//! Requests in their workers, and what happens by itself.

use hyperfaas_protocol::control::{OwnerState, WorkerState};

use super::gauge::REPORT;
use super::{Container, Event, LINK, LoadTold, Notice, Role, SAMPLE, Site};
use crate::queue::Nanos;
use crate::slab::Id;

impl Site {
    /// Sends a request to a worker, which admits or bounces it.
    pub fn send(&mut self, request: Id, to: (Id, u8, u64), now: Nanos) {
        let Some(found) = self.requests.at_mut(request) else { return };
        (found.sent, found.sent_at) = (Some(to), now);
        let (id, worker, epoch) = to;
        let Some(container) = self.containers.at_mut(id) else {
            return self.tell(now, Notice::Bounced(request));
        };
        let is_running = container.is_running();
        let place = &mut container.workers[usize::from(worker)];
        let serves = place.state == WorkerState::Ready
            && place.epoch == epoch
            && place.function == Some(found.function);
        if !is_running || !serves {
            return self.tell(now + LINK, Notice::Bounced(request));
        }
        let threads = self.profiles[found.function as usize].threads;
        if threads.is_some_and(|most| place.running.len() >= most as usize) {
            place.queued.push_back(request);
        } else {
            self.run(id, worker, request, now);
        }
        self.note_work(id, now);
    }

    fn run(&mut self, id: Id, worker: u8, request: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let Some(found) = self.requests.at_mut(request) else { return };
        let before = container.group.running();
        let running = &mut container.workers[usize::from(worker)].running;
        found.spot = running.len();
        running.push(request);
        container.group.add(request.place(), found.work.cpu, now);
        if let Some(look_at) = container.gauge.resume(now) {
            self.events.push(look_at, Event::Look(id));
        }
        self.settle(id, before, now);
    }

    /// Begins to report when an idle container gets something to do.
    fn note_work(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        container.gauge.busy_at = now;
        if container.gauge.reported.is_none() {
            container.gauge.reported = Some((container.group.used_total(now), now));
            self.events.push_in_line(now + REPORT, Event::Report(id));
        }
    }

    /// Takes in the next event by itself; what a provider hears of it is in the notices afterwards.
    pub fn happen(&mut self, event: Event, now: Nanos) {
        match event {
            Event::Cpu(id) => self.cpu(id, now),
            Event::Waited(request) => self.answered(request, now),
            Event::Started(id) => self.started(id, now),
            Event::Booted(id, worker, epoch) => self.booted(id, worker, epoch, now),
            Event::Vacated(id, worker, epoch) => self.vacated(id, worker, epoch, now),
            Event::Removed(id) => self.removed(id, now),
            Event::Look(id) => self.look(id, now),
            Event::Report(id) => self.report(id, now),
        }
    }

    fn cpu(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        if container.due.is_some_and(|due| due > now) {
            return; // an earlier one has taken its place
        }
        container.due = None;
        let before = container.group.running();
        container.group.turn(now);
        let mut done = std::mem::take(&mut self.done);
        while let Some(job) = container.group.take_done(now) {
            done.push(job);
        }
        let raised = {
            let (share, stopped) = (container.group.used_share(), container.group.is_throttled());
            container.gauge.raise(share, stopped)
        };
        if raised {
            let mark = container.gauge.mark;
            let (used, throttled) =
                (container.group.used_total(now), container.group.throttled_periods());
            let look_at = container.gauge.watch(used, throttled, now);
            let told = now + self.chance.up_to(SAMPLE) + LINK;
            self.tell(told, Notice::Marked(id, mark));
            self.events.push(look_at, Event::Look(id));
        }
        self.settle(id, before, now);
        for job in done.drain(..) {
            let Some(request) = self.requests.id(job) else { continue };
            let wait = self.requests.at(request).map_or(0, |found| found.work.wait);
            if wait == 0 {
                self.answered(request, now);
            } else {
                self.events.push(now + wait, Event::Waited(request));
            }
        }
        self.done = done;
    }

    fn answered(&mut self, request: Id, now: Nanos) {
        let Some(found) = self.requests.at(request) else { return };
        let Some((id, worker, _)) = found.sent else { return };
        let spot = found.spot;
        let threads = self.profiles[found.function as usize].threads;
        let Some(container) = self.containers.at_mut(id) else { return };
        let place = &mut container.workers[usize::from(worker)];
        if place.running.get(spot) != Some(&request) {
            return; // it was lost with what worked on it
        }
        place.running.swap_remove(spot);
        if let Some(moved) = place.running.get(spot)
            && let Some(moved) = self.requests.at_mut(*moved)
        {
            moved.spot = spot;
        }
        let next = threads
            .is_none_or(|most| place.running.len() < most as usize)
            .then(|| place.queued.pop_front())
            .flatten();
        let is_vacant = place.state == WorkerState::Draining && place.in_flight() == 0;
        let epoch = place.epoch;
        container.gauge.served += 1;
        container.gauge.busy_at = now;
        self.tell(now, Notice::Answered(request));
        if let Some(next) = next {
            self.run(id, worker, next, now);
        }
        if is_vacant {
            self.events.push(now, Event::Vacated(id, worker, epoch));
        }
    }

    /// A control link begins anew: what holds by now is told, as `watchdog/src/control.rs` does.
    pub fn retell(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at(id).filter(|c| c.is_running()) else { return };
        let mut told = vec![Notice::Marked(id, container.gauge.mark)];
        for (index, worker) in (0_u8..).zip(&container.workers) {
            let is_owner = index == 0 && container.role != Role::Standby;
            told.push(match (is_owner, worker.state) {
                (true, WorkerState::Ready) => Notice::Owner(id, OwnerState::Ready),
                (true, _) => Notice::Owner(id, OwnerState::Starting),
                (false, state) => Notice::Worker(id, index, worker.epoch, state),
            });
        }
        for notice in told {
            self.tell(now + LINK, notice);
        }
    }

    fn look(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id).filter(|c| c.is_running()) else { return };
        if !container.gauge.is_due(now) {
            return;
        }
        let (used, throttled) =
            (container.group.used_total(now), container.group.throttled_periods());
        let allowed = container.cpu_quota();
        if container.gauge.lower(used, throttled, allowed, now) {
            let mark = container.gauge.mark;
            self.tell(now + LINK, Notice::Marked(id, mark));
        } else {
            let next = container.gauge.look_again(!container.group.is_busy());
            self.events.push(next, Event::Look(id));
        }
    }

    fn report(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id).filter(|c| c.is_running()) else { return };
        let load = load(container, now);
        let is_idle = container.in_flight() == 0 && now - container.gauge.busy_at >= REPORT;
        container.gauge.reported = (!is_idle).then(|| (container.group.used_total(now), now));
        if !is_idle {
            self.events.push_in_line(now + REPORT, Event::Report(id));
        }
        self.tell(now + LINK, Notice::Load(id, load));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates far below 2^63, never negative"
)]
fn load(container: &Container, now: Nanos) -> LoadTold {
    let used = container.group.used_total(now);
    let (before, since) = container.gauge.reported.unwrap_or((used, now));
    let span = now.saturating_sub(since).max(1) as f64;
    LoadTold {
        served: container.gauge.served,
        cpu_millicores: ((used - before) / span * 1000.0) as u64,
        cpu_us: (used / 1e3) as u64,
        memory_bytes: container.memory,
    }
}
