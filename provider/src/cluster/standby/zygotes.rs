//! Standby containers in which the interpreter of a function at zero waits, with everything loaded but the function itself.
//!
//! In: the functions at zero, what the watchdogs say. Out: whom to hold next; places on offer to one function each.
//! Always: one is on offer only once its watchdog has said that it follows the order, so that the order to go on never overtakes it;
//! one that fails is not tried again with the same revision; no visit that begins is kept waiting by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Order, WorkerReport, WorkerState};
use hyperfaas_protocol::moment::Moment;
use tracing::{info, warn};

use super::{Entry, Stand, Standbys, Tending};
use crate::cluster::Cluster;
use crate::cluster::cell::Cell;
use crate::engine::{Image, ReplicaId};
use crate::node::zygote::{Candidate, Step, Zygote, steps};
use crate::scheduler::{Offer, Wanted};

/// How often it is looked who should wait: all functions are asked.
const LOOK: Duration = Duration::from_secs(1);

/// A container in which an interpreter waits, whose, and of which revision.
type Waiting = (ReplicaId, FunctionKey, u64);

impl Cluster {
    /// Whom to hold at `now`; whoever is to be let go is told as leaving.
    pub(super) fn tend_zygotes(
        &self,
        can_wait: impl Fn(&FunctionKey, u64, &Image) -> bool,
        now: Moment,
    ) -> Vec<Tending> {
        let Some((most, held)) = self.zygotes_due(now) else { return Vec::new() };
        let at_zero = self.cells().into_iter().filter_map(|(key, cell): (_, Arc<Cell>)| {
            let (called, revision) = cell.may_wait(|of, image| can_wait(&key, of, image))?;
            Some((Candidate { key: key.clone(), called }, (key, revision)))
        });
        let (candidates, revisions): (Vec<_>, HashMap<_, _>) = at_zero.unzip();
        let zygotes: Vec<_> = held
            .into_iter()
            .map(|(host, key, revision)| {
                let cell = self.find(&key);
                let is_stale = !cell.is_some_and(|cell| cell.is_visitable(revision));
                Zygote { host, key, is_stale }
            })
            .collect();
        let mut todo = Vec::new();
        for step in steps(most, candidates, &zygotes) {
            match step {
                Step::LetGo(host) if self.standbys.is_ordered(&host) => {
                    info!(standby = %host.0, "no interpreter waits here any more");
                    self.release_standby(&host);
                }
                Step::LetGo(_) => {} // once its slot is whole, which can be taken out then
                Step::Hold(key) => {
                    let revision = revisions.get(&key).copied().unwrap_or_default();
                    todo.extend(self.standbys.hold((key, revision), now));
                }
            }
        }
        if !todo.is_empty() {
            self.pool_moved();
        }
        todo
    }

    /// How many there may be, and those that there are; `None` where there is nothing to be looked at now.
    fn zygotes_due(&self, now: Moment) -> Option<(usize, Vec<Waiting>)> {
        let mut state = self.standbys.lock();
        let is_due = state.zygotes_at.is_none_or(|at| now.since(at) >= LOOK);
        // Visits that begin have the processors, and take the containers that wait.
        if state.zygotes_max == 0 || state.policy.is_none() || !is_due || state.beginning(now) > 0 {
            return None;
        }
        state.zygotes_at = Some(now);
        let held = state.entries.iter().filter_map(|entry| match &entry.stand {
            Stand::Held { function, revision, .. } => {
                Some((entry.name.clone(), function.clone(), *revision))
            }
            _ => None,
        });
        let held = held.collect();
        Some((state.zygotes_max, held))
    }

    /// Gives `order` to the container in which an interpreter is to wait; `false` when that was called off meanwhile.
    pub fn order_zygote(&self, name: &ReplicaId, epoch: u64, order: Order, now: Moment) -> bool {
        let mut state = self.standbys.lock();
        let Some(entry) = state.find(name).filter(|entry| entry.epoch == epoch) else {
            return false;
        };
        let Stand::Held { function, revision, .. } = &entry.stand else { return false };
        let (function, revision) = (function.clone(), *revision);
        let Some(host) = &entry.host else { return false };
        host.route.orders.send_replace(Some(order));
        drop(state);
        if let Some(cell) = self.find(&function) {
            cell.held(name, revision, None, now);
        }
        true
    }

    /// Nobody's interpreter waits in `name` after all.
    pub fn hold_failed(&self, name: &ReplicaId, reason: String, now: Moment) {
        let Some((function, revision)) = self.standbys.drop_zygote(name) else { return };
        warn!(%function, standby = %name.0, reason, "its interpreter does not wait");
        if let Some(cell) = self.find(&function) {
            cell.held(name, revision, Some(reason), now);
        }
        self.pool_moved();
    }

    /// Takes in what the worker of a container says in which an interpreter waits; whether it is one.
    pub(super) fn zygote_reported(
        &self,
        name: &ReplicaId,
        report: &WorkerReport,
        now: Moment,
    ) -> bool {
        let mut state = self.standbys.lock();
        let Some(entry) = state.find(name) else { return false };
        let epoch = entry.epoch;
        let Stand::Held { is_ordered, .. } = &mut entry.stand else { return false };
        if report.epoch != epoch {
            return true; // it has not heard of its order yet
        }
        match report.state {
            WorkerState::Specialising => *is_ordered = true,
            // It runs though nobody has called it, has ended, or has been taken away.
            WorkerState::Ready
            | WorkerState::Crashed
            | WorkerState::Generic
            | WorkerState::Draining => {
                drop(state);
                let ended = || "it does not wait".to_owned();
                self.hold_failed(name, report.reason.clone().unwrap_or_else(ended), now);
                return true;
            }
        }
        drop(state);
        self.pool_moved();
        true
    }

    /// The place where the interpreter of `function` waits, if it is of the revision that should run.
    pub(in crate::cluster) fn zygote_of(
        &self,
        function: &FunctionKey,
        wanted: Option<&Wanted>,
    ) -> Option<Offer> {
        let revision = wanted?.revision;
        let state = self.standbys.lock();
        let is_it = |entry: &&Entry| {
            entry.holds(function)
                && matches!(entry.stand, Stand::Held { revision: of, .. } if of == revision)
        };
        let entry = state.entries.iter().find(is_it)?;
        Some(Offer { epoch: entry.epoch, is_zygote: true, ..entry.offer() })
    }
}

impl Standbys {
    /// Whether the watchdog of a container has said that an interpreter is to wait there.
    fn is_ordered(&self, name: &ReplicaId) -> bool {
        let mut state = self.lock();
        let stand = state.find(name).map(|entry| &entry.stand);
        matches!(stand, Some(Stand::Held { is_ordered: true, .. }))
    }

    /// Gives a container that waits to the interpreter of `function`'s revision; `None` where there is none.
    fn hold(&self, (function, revision): (FunctionKey, u64), now: Moment) -> Option<Tending> {
        let mut state = self.lock();
        if state.goes_first(now).is_some() {
            return None;
        }
        let is_free = |entry: &&mut Entry| entry.stand == Stand::Ready && entry.can_hold;
        let entry = state.entries.iter_mut().find(is_free)?;
        let host = entry.host.clone()?;
        entry.epoch += 1;
        entry.is_generic = false;
        let of = (function.clone(), revision);
        entry.stand = Stand::Held { function, revision, is_ordered: false };
        Some(Tending::Hold(entry.name.clone(), host, of, entry.epoch))
    }

    /// A container in which an interpreter waited is to be ended; whose it was.
    fn drop_zygote(&self, name: &ReplicaId) -> Option<(FunctionKey, u64)> {
        let mut state = self.lock();
        let entry = state.find(name)?;
        let Stand::Held { function, revision, .. } = &entry.stand else { return None };
        let of = (function.clone(), *revision);
        entry.stand = Stand::Leaving { is_begun: false };
        Some(of)
    }
}

impl Entry {
    /// Whether the interpreter of `function` waits in it and may be told to go on.
    pub(super) fn holds(&self, function: &FunctionKey) -> bool {
        let Stand::Held { function: of, is_ordered, .. } = &self.stand else { return false };
        *is_ordered && of == function
    }
}
