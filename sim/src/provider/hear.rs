//! What the provider makes of what it hears, as `cluster` and `link` do.

use hyperfaas_protocol::control::{Level, OwnerState, Watermark, WorkerState};
use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::scheduler::{Failure, GuestView, LoadView, Phase};

use super::Provider;
use crate::measure::Outcome;
use crate::queue::Nanos;
use crate::site::{LoadTold, Notice, Site};
use crate::slab::Id;

/// A container that ends sooner than this after it was ready counts as a failed start, as in `cluster::cell`.
const STABLE_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

/// A report covers at most this, as in `cluster::cell`.
const REPORT_MOST: std::time::Duration = std::time::Duration::from_millis(2500);

impl Provider {
    /// Takes in one notice.
    pub(crate) fn hear(&mut self, notice: Notice, site: &mut Site, now: Moment, at: Nanos) {
        match notice {
            Notice::Answered(request) => self.over(request, Outcome::Answered, site, now, at),
            Notice::Lost(request) => self.over(request, Outcome::Lost, site, now, at),
            Notice::Bounced(request) => self.bounced(request, site, at),
            Notice::Started(id) => self.started(id, site, now),
            Notice::StartFailed(id) => self.start_failed(id, site, now, at),
            Notice::Owner(id, state) => self.owner(id, state, site, now, at),
            Notice::Worker(id, worker, epoch, state) => {
                self.worker(id, (worker, epoch, state), site, now, at);
            }
            Notice::Marked(id, mark) => self.marked(id, mark),
            Notice::Load(id, load) => self.load(id, load, now),
            Notice::Died(id) => self.died(id, site, now, at),
            Notice::Removed(id) => self.removed(id, site, at),
        }
    }

    /// The function that owns the container.
    pub(super) fn owner_of(&self, id: Id) -> Option<u32> {
        self.owners
            .get(id.place() as usize)
            .copied()
            .flatten()
            .filter(|index| self.functions[*index as usize].index_of(id).is_some())
    }

    fn started(&mut self, id: Id, site: &Site, now: Moment) {
        if self.is_standby(id) {
            return; // it is on offer when its workers are
        }
        self.starting = self.starting.saturating_sub(1);
        let Some(index) = self.owner_of(id) else { return };
        let has_second = site.profiles()[index as usize].has_second;
        if let Some(replica) = self.functions[index as usize].replica(id)
            && replica.phase == Phase::Ordered
        {
            (replica.phase, replica.since, replica.has_second_own) =
                (Phase::Starting, now, has_second);
            replica.hosts_guests = Some(true);
        }
        self.touch(index);
    }

    fn start_failed(&mut self, id: Id, site: &mut Site, now: Moment, at: Nanos) {
        if self.is_standby(id) {
            return self.pool_lost(id, site, at);
        }
        self.starting = self.starting.saturating_sub(1);
        if let Some(index) = self.owner_of(id) {
            self.forget(index, id);
            self.fail(index, now);
            self.touch(index);
        }
    }

    pub(super) fn fail(&mut self, index: u32, now: Moment) {
        let view = &mut self.functions[index as usize].view;
        let count = view.failure.map_or(0, |failure| failure.count) + 1;
        view.failure = Some(Failure { count, last: now });
    }

    fn owner(&mut self, id: Id, state: OwnerState, site: &mut Site, now: Moment, at: Nanos) {
        let Some(index) = self.owner_of(id) else { return };
        let function = &mut self.functions[index as usize];
        let Some(replica) = function.replica(id).filter(|replica| replica.phase.is_live()) else {
            return;
        };
        let phase = match state {
            OwnerState::Ready => Phase::Ready,
            OwnerState::Crashed => Phase::Crashed,
            OwnerState::Starting | OwnerState::Draining => Phase::Starting,
        };
        if replica.phase == phase {
            return; // told twice
        }
        (replica.phase, replica.since) = (phase, now);
        replica.workers[0].state =
            if phase == Phase::Ready { WorkerState::Ready } else { WorkerState::Specialising };
        if phase == Phase::Ready {
            function.view.failure = None;
        }
        function.seat();
        self.touch(index);
        self.release(index, site, at);
    }

    fn worker(
        &mut self,
        id: Id,
        told: (u8, u64, WorkerState),
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let (worker, epoch, state) = told;
        if state == WorkerState::Specialising {
            return; // that is so since the order
        }
        let concerned = self.concerned(id, worker, epoch);
        let is_news = !concerned.is_empty();
        if is_news {
            self.specialising.remove(&(id, worker));
        }
        for index in concerned {
            let function = &mut self.functions[index as usize];
            if let Some(guest) = function.guest(id, worker) {
                (guest.state, guest.since) = (state, now);
                if state == WorkerState::Generic {
                    function.view.guests.retain(|g| {
                        g.epoch != epoch || super::books::container_of(&g.host) != Some(id)
                    });
                }
            } else if let Some(replica) = function.replica(id) {
                let view = &mut replica.workers[usize::from(worker)];
                (view.state, view.since) = (state, now);
                if state == WorkerState::Generic {
                    view.is_guest = false;
                }
            }
            function.seat();
            self.touch(index);
            self.release(index, site, at);
        }
        if state == WorkerState::Generic && (is_news || self.is_standby(id)) {
            self.vacated((id, worker, epoch), site, at);
        }
    }

    /// The functions whose books have this worker at this epoch: its owner's, and its guest's.
    fn concerned(&self, id: Id, worker: u8, epoch: u64) -> Vec<u32> {
        let owner = self.owner_of(id).filter(|index| {
            let function = &self.functions[*index as usize];
            let replica = function.index_of(id).map(|at| &function.view.replicas[at]);
            replica.is_some_and(|replica| replica.workers[usize::from(worker)].epoch == epoch)
        });
        let guest = self.guests.get(&(id, worker)).copied().filter(|index| {
            let mut guests = self.functions[*index as usize].view.guests.iter();
            let is_this = |guest: &GuestView| {
                (guest.epoch, guest.worker) == (epoch, worker)
                    && super::books::container_of(&guest.host) == Some(id)
            };
            guests.any(is_this)
        });
        owner.into_iter().chain(guest).collect()
    }

    fn marked(&mut self, id: Id, mark: Watermark) {
        let Some(index) = self.owner_of(id) else { return };
        if let Some(replica) = self.functions[index as usize].replica(id) {
            replica.pressure = (mark.level == Level::High).then_some(mark.reason).flatten();
        }
        self.touch(index);
    }

    fn load(&mut self, id: Id, load: LoadTold, now: Moment) {
        let Some(index) = self.owner_of(id) else { return };
        let function = &mut self.functions[index as usize];
        let Some(place) = function.index_of(id) else { return };
        let cpu = u32::try_from(load.cpu_millicores).unwrap_or(u32::MAX);
        let last = function.served[place].replace((load.served, load.cpu_us, now));
        // As `cluster::cell` reckons: what is used in a long gap, or before a sum that begins anew, is no request's.
        if let Some((served, before_us, since)) = last
            && now.since(since) <= REPORT_MOST
            && let Some(served) = load.served.checked_sub(served)
            && let Some(used_us) = load.cpu_us.checked_sub(before_us)
        {
            function.view.traffic.used(used_us as f64, served);
        }
        let replica = &mut function.view.replicas[place];
        replica.load = Some(LoadView { cpu: Some(cpu), memory: Some(load.memory_bytes), at: now });
        self.touch(index);
    }

    fn died(&mut self, id: Id, site: &mut Site, now: Moment, at: Nanos) {
        self.guest_lost(id);
        if self.is_standby(id) {
            site.stop(id, at);
            return self.pool_lost(id, site, at);
        }
        let Some(index) = self.owner_of(id) else { return };
        let function = &mut self.functions[index as usize];
        if let Some(replica) = function.replica(id) {
            let was_unstable = replica.phase.is_live()
                && (replica.phase != Phase::Ready || now.since(replica.since) < STABLE_AFTER);
            (replica.phase, replica.since) = (Phase::Ended, now);
            replica.workers.iter_mut().for_each(|worker| worker.in_flight = 0);
            function.seat();
            if was_unstable {
                self.fail(index, now);
            }
        }
        self.touch(index);
    }

    fn removed(&mut self, id: Id, site: &mut Site, at: Nanos) {
        self.guest_lost(id);
        self.pool_lost(id, site, at);
        if let Some(index) = self.owner_of(id) {
            self.forget(index, id);
            self.touch(index);
        }
    }

    /// The container of a guest is no more.
    fn guest_lost(&mut self, id: Id) {
        for worker in [0, 1] {
            self.specialising.remove(&(id, worker));
            let Some(index) = self.guests.remove(&(id, worker)) else { continue };
            let function = &mut self.functions[index as usize];
            function.view.guests.retain(|g| super::books::container_of(&g.host) != Some(id));
            function.seat();
            self.touch(index);
        }
    }

    /// The container is no more.
    fn forget(&mut self, index: u32, id: Id) {
        let Some(gone) = self.functions[index as usize].remove(id) else { return };
        self.nodes.leave(usize::from(gone.node.0));
        self.owners[id.place() as usize] = None;
    }
}
