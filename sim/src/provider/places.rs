//! Places for guests: a pool of standby containers, and second workers of containers that share.
//!
//! The pool here keeps a number of standby containers on each node ready; one that has taken a guest is replaced. Always: what is
//! on offer is a generic worker of a container that runs, is not lent already, and whose owner is below its watermark: else a
//! guest that its owner has just sent away would come straight back.

use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::scheduler::{NodeId, Offer, lends, wants_places};

use super::Provider;
use super::books::name;
use crate::queue::Nanos;
use crate::site::{Allowance, Role, Site};
use crate::slab::Id;

/// Offers of one kind that one plan sees: it takes at most a few.
const OFFERS_MAX: usize = 8;

/// One standby container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standby {
    pub(crate) id: Id,
    node: usize,
    epoch: u64,
    state: Pool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Starting,
    Free,
    Lent,
    Leaving,
}

impl Provider {
    /// Starts what the pool of a node lacks, stops what it has too much.
    pub(super) fn fill_pool(&mut self, node: usize, site: &mut Site, at: Nanos) {
        let of_node =
            |s: &&Standby| s.node == node && matches!(s.state, Pool::Starting | Pool::Free);
        let have = self.pool.iter().filter(of_node).count();
        for _ in have..self.standby {
            let none = Allowance { quota: None, memory: None };
            let id = site.start(Role::Standby, node, none, at);
            self.own(id, None);
            self.pool.push(Standby { id, node, epoch: 0, state: Pool::Starting });
        }
        let surplus = have.saturating_sub(self.standby);
        let free = self.pool.iter_mut().filter(|s| s.node == node && s.state == Pool::Free);
        for standby in free.take(surplus) {
            standby.state = Pool::Leaving;
            site.stop(standby.id, at);
        }
    }

    /// A worker of a container has become generic, at first or after this epoch's function.
    pub(super) fn vacated(
        &mut self,
        (id, worker, epoch): (Id, u8, u64),
        site: &mut Site,
        at: Nanos,
    ) {
        let standby = self.pool.iter_mut().find(|standby| standby.id == id);
        match standby {
            Some(standby) if worker == 0 && standby.epoch == epoch => {
                standby.state = Pool::Free;
                let node = standby.node;
                self.guests.remove(&(id, worker));
                self.fill_pool(node, site, at);
            }
            Some(_) => {} // its other worker, or news of an order before the last
            None => {
                self.guests.remove(&(id, worker));
            }
        }
    }

    /// A standby container has ended or is gone.
    pub(super) fn pool_lost(&mut self, id: Id, site: &mut Site, at: Nanos) {
        if let Some(index) = self.pool.iter().position(|standby| standby.id == id) {
            let gone = self.pool.swap_remove(index);
            self.fill_pool(gone.node, site, at);
        }
    }

    /// Whether it is a standby container.
    pub(super) fn is_standby(&self, id: Id) -> bool {
        self.pool.iter().any(|standby| standby.id == id)
    }

    /// A place has been given to function `index`; another standby container takes its turn.
    pub(super) fn lend(&mut self, (id, worker): (Id, u8), index: u32, site: &mut Site, at: Nanos) {
        self.guests.insert((id, worker), index);
        if let Some(standby) = self.pool.iter_mut().find(|standby| standby.id == id) {
            (standby.state, standby.epoch) = (Pool::Lent, standby.epoch + 1);
            let node = standby.node;
            self.fill_pool(node, site, at);
        }
    }

    /// Places that function `index` may take, where it needs some.
    pub(super) fn offers(&self, index: u32, now: Moment) -> Vec<Offer> {
        let view = &self.functions[index as usize].view;
        let Some(wanted) = view.wanted.as_ref().filter(|_| self.policy.mode.has_multiplex()) else {
            return Vec::new();
        };
        if !wants_places(view, &wanted.scaling, &self.policy, now) {
            return Vec::new();
        }
        let free = self.pool.iter().filter(|standby| standby.state == Pool::Free);
        let pool = free.take(OFFERS_MAX).map(|standby| Offer {
            is_zygote: false,
            host: name(standby.id),
            worker: 0,
            epoch: standby.epoch + 1,
            node: NodeId(u16::try_from(standby.node).unwrap_or(u16::MAX)),
            owner: None,
            share: None,
            owner_in_flight: 0,
        });
        let shared = self.shared(index).take(OFFERS_MAX);
        pool.chain(shared).collect()
    }

    /// Second workers of containers of the same share group.
    fn shared(&self, index: u32) -> impl Iterator<Item = Offer> {
        let group = self.groups.get(&index);
        let others = group.into_iter().flat_map(|group| group.iter()).filter(move |o| **o != index);
        others.flat_map(|other| {
            let function = &self.functions[*other as usize];
            let wanted = function.view.wanted.as_ref();
            let share = wanted.and_then(|wanted| wanted.scaling.share.clone());
            let view = &function.view;
            let replicas = view.replicas.iter();
            let lending = replicas.filter(|replica| lends(view, replica, &self.policy).is_ok());
            lending.map(move |replica| Offer {
                is_zygote: false,
                host: replica.id.clone(),
                worker: 1,
                epoch: replica.workers[1].epoch + 1,
                node: replica.node,
                owner: Some(function.view.key.clone()),
                share: share.clone(),
                owner_in_flight: replica.own_in_flight(),
            })
        })
    }
}
