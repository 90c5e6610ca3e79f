//! The scheduler's plans, and what becomes of them: counted in the views first, then done on the site, as `reconcile` does.

use std::collections::HashMap;

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::engine::ReplicaId;
use hyperfaas_provider::scheduler::{
    Action, Grant, GuestView, Hosts, ImageState, Missing, NodeId, Phase, PlaceKind, ReplicaView,
    Why, WorkerPlace, plan_function, share_starts,
};

use super::books::{container_of, millicores, name};
use super::{Provider, What};
use crate::cpu::Quota;
use crate::queue::Nanos;
use crate::site::{Allowance, Role, Site};
use crate::slab::Id;

impl Provider {
    /// Plans for everything that is due and carries it out; starts are shared out last.
    pub(super) fn plan(&mut self, due: &[u32], site: &mut Site, now: Moment, at: Nanos) {
        self.shown = now;
        self.share_out();
        let mut budget = std::mem::take(&mut self.budget);
        let mut missing = Vec::new();
        for index in due {
            self.decisions.plans += 1;
            // As `cluster` does: what the function itself is counted with is to be what its plan takes it to use.
            self.recount(*index, &mut budget.hosts, now);
            budget.offers = self.offers(*index, now);
            let function = &mut self.functions[*index as usize];
            let planned = plan_function(&function.view, &mut budget, &self.policy, now);
            function.view.scale = planned.scale;
            function.wake_at = planned.plan.wake_at;
            if !planned.plan.actions.is_empty() {
                self.planned_use = millicores(function.used_each(now));
            }
            planned.plan.wake_at.into_iter().for_each(|at| self.look_at(*index, at));
            for action in planned.plan.actions {
                self.carry_out(*index, action, site, now, at);
            }
            missing.extend(planned.missing_why.map(|why| (*index, planned.missing, why)));
        }
        let starts = budget.starts;
        self.budget = budget;
        if !missing.is_empty() {
            self.share(&missing, starts, site, now, at);
        }
    }

    /// Counts anew what a function uses of its nodes, in the books and in the round's.
    fn recount(&mut self, index: u32, hosts: &mut Hosts, now: Moment) {
        let function = &mut self.functions[index as usize];
        if function.uses(now).eq(function.counted.iter().copied()) {
            return;
        }
        let mut counted = std::mem::take(&mut function.counted);
        for used in counted.drain(..) {
            used.leave(&mut self.nodes.hosts);
            used.leave(hosts);
        }
        counted.extend(function.uses(now));
        for used in &counted {
            used.join(&mut self.nodes.hosts);
            used.join(hosts);
        }
        function.counted = counted;
    }

    /// Starts what is missing, as far as `starts` goes; who got less than he misses waits for the next start to end.
    fn share(
        &mut self,
        missing: &[(u32, usize, Why)],
        starts: usize,
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let keys: Vec<_> =
            missing.iter().map(|one| self.functions[one.0 as usize].view.key.clone()).collect();
        let mut all: Vec<_> = missing
            .iter()
            .zip(&keys)
            .map(|((_, count, why), key)| Missing { key, revision: 1, count: *count, why: *why })
            .collect();
        let mut actions = Vec::new();
        share_starts(&mut all, starts, &mut actions);
        let by_key: HashMap<_, _> =
            keys.iter().zip(missing).map(|(key, one)| (key, one.0)).collect();
        for one in all.iter().filter(|one| one.count > 0) {
            let index = by_key[one.key];
            if !std::mem::replace(&mut self.functions[index as usize].is_hungry, true) {
                self.hungry.push_back(index);
            }
        }
        for action in actions {
            let index = by_key[action.function()];
            self.note(index, What::Start, action.why(), at);
            self.start(index, site, now, at);
        }
    }

    /// What the functions of one round share.
    fn share_out(&mut self) {
        self.budget.starts = self.starts_max.saturating_sub(self.starting);
        let most = self.policy.specialisations_at_once;
        self.budget.specialisations = most.saturating_sub(self.specialising.len());
        // A hundred hosts are too many to copy for each event, of which few promise anything.
        if std::mem::take(&mut self.has_promised) {
            self.budget.hosts.copy_from(&self.nodes.hosts);
        }
    }

    fn start(&mut self, index: u32, site: &mut Site, now: Moment, at: Nanos) {
        let function = &mut self.functions[index as usize];
        let own: Vec<_> = function.view.replicas.iter().map(|replica| replica.node).collect();
        let node = self.nodes.choose(&own);
        let (revision, grant) = (
            function.view.revision(),
            function.view.wanted.as_ref().map_or_else(Grant::default, |w| w.scaling.initial),
        );
        let allowance = Allowance { quota: quota(grant, self.period), memory: grant.memory };
        let container = site.start(Role::Owned(index), node, allowance, at);
        let mut replica = ReplicaView::ordered(name(container), revision, grant, now);
        replica.node = NodeId(u16::try_from(node).unwrap_or(u16::MAX));
        function.add(replica, container);
        self.own(container, Some(index));
        self.starting += 1;
        self.decisions.starts += 1;
    }

    /// Notes whose container it is.
    pub(super) fn own(&mut self, container: Id, owner: Option<u32>) {
        let place = container.place() as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
        }
        self.owners[place] = owner;
    }

    fn carry_out(&mut self, index: u32, action: Action, site: &mut Site, now: Moment, at: Nanos) {
        self.note_action(index, &action, at);
        match action {
            Action::Prepare { .. } => {
                self.functions[index as usize].view.image = ImageState::Present;
            }
            Action::Start { .. } => self.start(index, site, now, at),
            Action::Drain { replica, .. } => {
                self.decisions.drains += 1;
                self.leave(index, container_of(&replica), site, now, at);
            }
            Action::GiveUp { replica, .. } => {
                self.fail(index, now);
                self.leave(index, container_of(&replica), site, now, at);
            }
            Action::Clear { replica, .. } => {
                self.leave(index, container_of(&replica), site, now, at);
            }
            Action::Resize { replica, grant, .. } => {
                self.has_promised = true;
                self.resize(index, &replica, grant, site, at);
            }
            Action::Specialise { place, .. } => self.specialise(index, &place, site, now, at),
            Action::Release { place, .. } => self.take_back(index, &place, site, now, at),
        }
    }

    fn note_action(&mut self, index: u32, action: &Action, at: Nanos) {
        let what = match action {
            Action::Drain { .. } => What::Drain,
            Action::Resize { replica, grant, .. } => {
                let replicas = &self.functions[index as usize].view.replicas;
                let before = replicas.iter().find(|view| view.id == *replica);
                let before = before.and_then(|view| view.grant.cpu);
                What::Resize(before.unwrap_or(0), grant.cpu.unwrap_or(0))
            }
            Action::Specialise { .. } => What::Specialise,
            Action::Release { .. } => What::Release,
            _ => return,
        };
        self.note(index, what, action.why(), at);
    }

    fn resize(
        &mut self,
        index: u32,
        replica: &ReplicaId,
        grant: Grant,
        site: &mut Site,
        at: Nanos,
    ) {
        let Some(id) = container_of(replica) else { return };
        let function = &mut self.functions[index as usize];
        let Some(view) = function.replica(id) else { return };
        let before = std::mem::replace(&mut view.grant, grant);
        view.granted_at = self.shown;
        let node = self.nodes.hosts.view(view.node).copied().unwrap_or_default();
        let (from, to) = (before.cpu.unwrap_or(0), grant.cpu.unwrap_or(0));
        let most = node.cpu_beside(self.planned_use);
        if to > from && to > most {
            self.offence = Some(format!("{from}m were raised to {to}m where {most}m are left"));
        }
        self.decisions.resizes += 1;
        site.set_quota(id, quota(grant, self.period), at);
        site.set_memory(id, grant.memory);
    }

    fn leave(
        &mut self,
        index: u32,
        container: Option<Id>,
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let Some(id) = container else { return };
        let function = &mut self.functions[index as usize];
        let Some(replica) = function.replica(id) else { return };
        (replica.phase, replica.since) = (Phase::Draining, now);
        function.seat();
        self.dismiss_guest(id, site, at);
        if self.functions[index as usize].is_drained(id) {
            site.stop(id, at);
        }
    }

    /// A container that leaves takes no guest with it.
    fn dismiss_guest(&mut self, id: Id, site: &mut Site, at: Nanos) {
        let Some(guest) = self.guests.get(&(id, 1)).copied() else { return };
        let function = &mut self.functions[guest as usize];
        if let Some(view) = function.guest(id, 1) {
            view.state = WorkerState::Draining;
            site.release(id, 1, view.epoch, at);
        }
        function.seat();
    }

    fn specialise(
        &mut self,
        index: u32,
        place: &WorkerPlace,
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let Some(id) = container_of(&place.host) else { return };
        self.decisions.specialised += 1;
        self.specialising.insert((id, place.worker));
        let worker = usize::from(place.worker);
        // The host's own books first: it must not lend the place twice.
        if let Some(owner) = self.owner_of(id)
            && let Some(replica) = self.functions[owner as usize].replica(id)
        {
            let view = &mut replica.workers[worker];
            (view.state, view.epoch, view.since) = (WorkerState::Specialising, place.epoch, now);
            view.is_guest = place.kind != PlaceKind::Own;
            view.in_flight = 0;
        }
        if place.kind != PlaceKind::Own {
            self.lend((id, place.worker), index, site, at);
            let view = &mut self.functions[index as usize].view;
            let revision = view.revision();
            view.guests.push(GuestView {
                host: place.host.clone(),
                worker: place.worker,
                epoch: place.epoch,
                revision,
                limit: 0,
                state: WorkerState::Specialising,
                in_flight: 0,
                is_standby: place.kind == PlaceKind::Standby,
                since: now,
            });
        }
        self.functions[index as usize].seat();
        site.specialise(id, place.worker, place.epoch, index, at);
    }

    fn take_back(
        &mut self,
        index: u32,
        place: &WorkerPlace,
        site: &mut Site,
        now: Moment,
        at: Nanos,
    ) {
        let Some(id) = container_of(&place.host) else { return };
        self.decisions.released += 1;
        let guest = self.guests.get(&(id, place.worker)).copied();
        let owner = self.owner_of(id);
        for books in owner.into_iter().chain(guest).chain([index]) {
            let function = &mut self.functions[books as usize];
            if let Some(view) = function.guest(id, place.worker) {
                (view.state, view.since) = (WorkerState::Draining, now);
            }
            if let Some(replica) = function.replica(id) {
                let view = &mut replica.workers[usize::from(place.worker)];
                (view.state, view.since) = (WorkerState::Draining, now);
            }
            function.seat();
        }
        site.release(id, place.worker, place.epoch, at);
    }
}

/// The kernel's form of a grant.
pub(super) fn quota(grant: Grant, period: Nanos) -> Option<Quota> {
    grant.cpu.map(|millicores| Quota::from_millicores(f64::from(millicores.max(1)), period))
}
