//! Containers from the order to their end.

use hyperfaas_protocol::control::{OwnerState, WorkerState};

use super::container::{Container, Role, Stage};
use super::{Allowance, Event, LINK, Notice, Site};
use crate::chance::nanos;
use crate::cpu::{Group, Quota};
use crate::queue::{MS, Nanos};
use crate::slab::Id;

/// What a container without workers' functions holds, bytes: the watchdog and a generic worker.
const WATCHDOG_MEMORY: u64 = 4 << 20;

impl Site {
    /// Orders a container; the engine answers later.
    pub fn start(&mut self, role: Role, node: usize, allowance: Allowance, now: Nanos) -> Id {
        let group = Group::new(allowance.quota, now);
        let mut container = Container::new(role, node, group, now);
        container.memory_limit = allowance.memory;
        let id = self.containers.insert(container);
        self.starts[node] += 1;
        self.books.advance(now);
        self.books.now.containers += 1.0;
        self.books.now.cpus += allowance.quota.map_or(0.0, |quota| quota.cpus());
        // Starts on one engine hinder one another: eight at once take about five times as long each (docs/simulation.md).
        let crowd = 1.0 + 0.55 * f64::from(self.starts[node] - 1);
        let takes = nanos(self.chance.quantile(&self.costs.start) * 1e6 * crowd);
        self.events.push(now + takes, Event::Started(id));
        id
    }

    /// Another quota, soon.
    pub fn set_quota(&mut self, id: Id, quota: Option<Quota>, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let before = container.group.running();
        let granted = container.cpu_quota().unwrap_or_default();
        container.group.set_quota(quota, now);
        self.books.advance(now);
        self.books.now.cpus += quota.map_or(0.0, |quota| quota.cpus()) - granted;
        self.settle(id, before, now);
    }

    /// Another memory limit.
    pub fn set_memory(&mut self, id: Id, limit: Option<u64>) {
        if let Some(container) = self.containers.at_mut(id) {
            container.memory_limit = limit;
        }
    }

    /// Ends and removes a container; whatever still runs in it is lost.
    pub fn stop(&mut self, id: Id, now: Nanos) {
        self.end(id, Stage::Leaving, now);
        let takes = self.chance.around(self.costs.remove);
        self.events.push(now + takes, Event::Removed(id));
    }

    /// Its main process ends unasked.
    pub fn kill(&mut self, id: Id, now: Nanos) {
        if self.containers.at(id).is_some_and(Container::is_running) {
            self.end(id, Stage::Ended, now);
            self.tell(now + LINK, Notice::Died(id));
        }
    }

    fn end(&mut self, id: Id, stage: Stage, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let before = container.group.running();
        container.stage = stage;
        container.group.clear(now);
        let workers = container.workers.iter_mut();
        let lost: Vec<Id> =
            workers.flat_map(|w| w.running.drain(..).chain(w.queued.drain(..))).collect();
        self.settle(id, before, now);
        for request in lost {
            self.tell(now, Notice::Lost(request));
        }
    }

    pub(super) fn started(&mut self, id: Id, now: Nanos) {
        let fails = self.start_failures;
        let Some(container) = self.containers.at_mut(id) else { return };
        self.starts[container.node] -= 1;
        if self.chance.happens(fails) {
            self.forget(id, now);
            return self.tell(now, Notice::StartFailed(id));
        }
        if container.stage != Stage::Starting {
            return; // stopped meanwhile; it is being removed
        }
        container.stage = Stage::Running;
        self.hold_memory(id, now);
        self.tell(now, Notice::Started(id));
        let Some(container) = self.containers.at(id) else { return };
        match container.role {
            Role::Owned(function) => {
                let boot = self.chance.around(self.profiles[function as usize].boot);
                self.events.push(now + boot, Event::Booted(id, 0, 0));
            }
            Role::Standby => {
                let generic = Notice::Worker(id, 0, 0, WorkerState::Generic);
                self.tell(now + 5 * MS, generic);
            }
        }
    }

    pub(super) fn removed(&mut self, id: Id, now: Nanos) {
        self.forget(id, now);
        self.tell(now, Notice::Removed(id));
    }

    fn forget(&mut self, id: Id, now: Nanos) {
        let Some(gone) = self.containers.remove(id) else { return };
        self.used_by_the_gone += gone.group.used_total(now);
        self.nodes[gone.node].memory -= gone.memory;
        self.books.advance(now);
        self.books.now.containers -= 1.0;
        self.books.now.cpus -= gone.cpu_quota().unwrap_or_default();
        self.books.now.memory -= gone.memory as f64;
    }

    /// Gives `worker` a function.
    pub fn specialise(&mut self, id: Id, worker: u8, epoch: u64, function: u32, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let place = &mut container.workers[usize::from(worker)];
        if !matches!(place.state, WorkerState::Generic) || place.epoch >= epoch {
            return;
        }
        (place.state, place.function, place.epoch) =
            (WorkerState::Specialising, Some(function), epoch);
        let boot = self.chance.around(self.profiles[function as usize].boot);
        self.tell(now + LINK, Notice::Worker(id, worker, epoch, WorkerState::Specialising));
        self.events.push(now + self.costs.specialise + boot, Event::Booted(id, worker, epoch));
        self.hold_memory(id, now);
    }

    /// Takes its function from `worker`: what runs ends first.
    pub fn release(&mut self, id: Id, worker: u8, epoch: u64, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let place = &mut container.workers[usize::from(worker)];
        if place.epoch != epoch || place.state == WorkerState::Generic {
            return;
        }
        place.state = WorkerState::Draining;
        let waiting: Vec<Id> = place.queued.drain(..).collect();
        let is_empty = place.in_flight() == 0;
        for request in waiting {
            self.tell(now, Notice::Bounced(request));
        }
        self.tell(now + LINK, Notice::Worker(id, worker, epoch, WorkerState::Draining));
        if is_empty {
            self.events.push(now + MS, Event::Vacated(id, worker, epoch));
        }
    }

    pub(super) fn booted(&mut self, id: Id, worker: u8, epoch: u64, now: Nanos) {
        let Some(container) = self.containers.at_mut(id).filter(|c| c.is_running()) else { return };
        let is_owned = container.role != Role::Standby;
        let place = &mut container.workers[usize::from(worker)];
        if place.epoch != epoch || place.state != WorkerState::Specialising {
            return;
        }
        place.state = WorkerState::Ready;
        let notice = if is_owned && worker == 0 && epoch == 0 {
            Notice::Owner(id, OwnerState::Ready)
        } else {
            Notice::Worker(id, worker, epoch, WorkerState::Ready)
        };
        self.tell(now + LINK, notice);
    }

    pub(super) fn vacated(&mut self, id: Id, worker: u8, epoch: u64, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let place = &mut container.workers[usize::from(worker)];
        if place.epoch != epoch || place.state != WorkerState::Draining {
            return;
        }
        (place.state, place.function) = (WorkerState::Generic, None);
        self.hold_memory(id, now);
        self.tell(now + LINK, Notice::Worker(id, worker, epoch, WorkerState::Generic));
    }

    /// Counts what its workers hold.
    fn hold_memory(&mut self, id: Id, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let functions = container.workers.iter().filter_map(|worker| worker.function);
        let held: u64 =
            functions.map(|function| self.profiles[function as usize].memory_idle).sum();
        let node = &mut self.nodes[container.node].memory;
        *node = *node - container.memory + held + WATCHDOG_MEMORY;
        self.books.advance(now);
        self.books.now.memory += (held + WATCHDOG_MEMORY) as f64 - container.memory as f64;
        container.memory = held + WATCHDOG_MEMORY;
    }
}
