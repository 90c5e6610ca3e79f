//! Makes what exists become what the catalog asks for and the load needs: the loop change → plan → engine, node, link → event.
//!
//! The only writer of all three. Only functions that something happened to are planned, or whose time has come. Each action is
//! counted as begun in the cluster, then runs in a task of its own; its outcome returns to the cluster as an event, which wakes
//! the loop. Nothing here decides: [`crate::scheduler`] does.
//! On shutdown tasks are dropped where they stand; what they left half done is seen in the engine's list by the next start.

mod actions;
mod agenda;
mod loans;
mod standby;
mod sync;
mod visit;
mod zygote;

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::moment::Moment;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use self::agenda::{Agenda, Room};
use crate::catalog::{Catalog, Function};
use crate::cluster::Cluster;
use crate::engine::{Engine, PullPolicy};
use crate::node::Node;
use crate::node::rootfs::Roots;
use crate::node::slot::Slots;
use crate::node::visit::Users;
use crate::scheduler::{Action, FunctionPlan, Missing, Wanted, share_starts};

/// What the loop works with.
#[derive(Clone)]
pub struct Reconciler {
    /// What should exist.
    pub catalog: Arc<Catalog>,
    /// What exists, and the clock and the thresholds of all decisions on it.
    pub cluster: Arc<Cluster>,
    /// What makes it exist.
    pub engine: Arc<dyn Engine>,
    /// What is done to containers on their hosts.
    pub node: Arc<dyn Node>,
    /// What visits to containers that are not a function's own are made with; `None` where this host cannot have any.
    pub guests: Option<Guests>,
    /// The share group of functions that name none; `None`: they share with nobody.
    pub share: Option<Arc<str>>,
    /// Times.
    pub settings: Settings,
    /// Tasks of actions and links; owned by whoever runs the loop.
    pub tasks: TaskTracker,
    /// Ends the loop and every task.
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Times of the loop.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// When to ask registries.
    pub pull: PullPolicy,
    /// How long a draining replica may finish what it serves before it is told to stop.
    pub drain_timeout: Duration,
    /// How long a replica told to stop may take before it is killed.
    pub stop_grace: Duration,
}

/// What visits are made with.
#[derive(Debug, Clone)]
pub struct Guests {
    /// Images' root file systems.
    pub roots: Roots,
    /// What puts them into running containers.
    pub slots: Slots,
    /// Users that nobody else has.
    pub users: Arc<Users>,
    /// Held while the engine is told whom a standby container serves.
    pub naming: Arc<Mutex<()>>,
}

impl Reconciler {
    /// Runs until shutdown; engine events are taken in by a task beside the loop.
    pub async fn run(self) {
        let this = Arc::new(self);
        this.spawn(Self::take_in_events);
        this.spawn(Self::tend_standby);
        this.spawn(Self::tend_loans);
        let mut catalog_changed = this.catalog.subscribe();
        let mut agenda = Agenda::default();
        loop {
            catalog_changed.mark_unchanged();
            let wake_at = this.step(&mut agenda);
            let timer = this.sleep_until(wake_at);
            tokio::select! {
                () = this.shutdown.cancelled() => return,
                // The sender lives as long as `this`.
                _ = catalog_changed.changed() => {}
                () = this.cluster.changed() => {}
                () = timer => {}
            }
        }
    }

    /// Plans everything that is due and sets what is planned going; the moment to look again at the latest.
    fn step(self: &Arc<Self>, agenda: &mut Agenda) -> Option<Moment> {
        let now = self.now();
        let functions = self.catalog.snapshot();
        self.cluster.set_busy(self.node.busy(now));
        let mut budget = self.cluster.budget();
        let room = Room {
            starts: budget.starts,
            visits: budget.specialisations.min(budget.offers.len()),
            lookups: budget.lookups.unwrap_or(0),
        };
        let mut due = agenda.due(&functions, self.cluster.take_dirty(), room, now);
        if due.len() > 1 && room.visits > 0 {
            // Those that nothing serves first, otherwise in the order in which they came.
            due.sort_by_cached_key(|key| !self.cluster.is_unserved(key));
        }
        budget.is_reserved = agenda.has_unserved();
        let mut missing = Vec::new();
        let (mut lacking, mut has_begun) = (0, false);
        for key in &due {
            let share = self.share.as_ref();
            let wanted = functions.get(key).map(|function| wanted(function, share));
            let revision = wanted.as_ref().map_or(0, |wanted| wanted.revision);
            let Some(planned) = self.cluster.plan(key, wanted, &mut budget, now) else { continue };
            let FunctionPlan { plan, missing: count, missing_why, lacks, .. } = planned;
            has_begun |=
                plan.actions.iter().any(|action| matches!(action, Action::Specialise { .. }));
            if lacks.place {
                lacking += 1;
                agenda.wait_for_place(key, self.cluster.is_unserved(key));
            }
            if lacks.lookup {
                agenda.wait_for_lookup(key);
            }
            plan.wake_at.into_iter().for_each(|at| agenda.look_at(key, at));
            plan.actions.iter().for_each(|action| self.begin(action));
            missing.extend(missing_why.map(|why| Missing { key, revision, count, why }));
        }
        let mut starts = Vec::new();
        // Counted anew: visits that have just begun go before all starts.
        let starts_left = self.cluster.starts_left(now);
        share_starts(&mut missing, starts_left, &mut starts);
        starts.iter().for_each(|action| self.begin(action));
        missing.iter().filter(|one| one.count > 0).for_each(|one| agenda.wait_for_start(one.key));
        if !due.is_empty() {
            debug!(functions = due.len(), starts = starts.len(), "planned");
        }
        // Starts that wait for visits are looked at again when these have had their time, and so are those for whom others' visits
        // left no room. Places are left for others than who was tried: these are tried at once if anybody could take one.
        let is_left = budget.specialisations > 0 && !budget.offers.is_empty();
        let is_full = budget.specialisations == 0 && !budget.offers.is_empty();
        let later = now.after(self.cluster.policy().answer_first_for);
        let again = match agenda.waiting_for_places() {
            waiting if waiting > lacking && is_left => Some(if has_begun { now } else { later }),
            1.. if is_full => Some(later),
            _ => None,
        };
        // Those who had waited for a start and need none any more leave it to the next in turn.
        let in_turn = (starts.len() < starts_left && agenda.is_anyone_starved()).then_some(now);
        let at = [agenda.next(), self.cluster.tend_at(now), again, in_turn];
        at.into_iter().flatten().min()
    }

    /// The present moment, as all decisions have it.
    fn now(&self) -> Moment {
        self.cluster.clock().now()
    }

    async fn sleep_until(&self, wake_at: Option<Moment>) {
        match wake_at {
            Some(at) => tokio::time::sleep(at.since(self.now())).await,
            None => std::future::pending().await,
        }
    }

    /// Runs `task` on a clone of this until it ends or shutdown.
    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(Arc::clone(self));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled_owned(task).await;
        });
    }
}

/// What the catalog asks for, as the scheduler reads it.
fn wanted(function: &Function, share: Option<&Arc<str>>) -> Wanted {
    Wanted {
        revision: function.revision,
        replicas: function.replicas,
        call: function.call,
        scaling: function.spec.scaling.sharing_by_default(share),
    }
}
