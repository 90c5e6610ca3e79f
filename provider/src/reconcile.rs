//! Makes what exists become what the catalog asks for: the loop snapshot → plan → engine → event.
//!
//! The only writer of the engine. Each action is counted as begun in the cluster, then runs in a task of its own; its outcome
//! returns to the cluster as an event, which wakes the loop. Nothing here decides: [`crate::scheduler`] does.
//! On shutdown tasks are dropped where they stand; what they left half done is seen in the engine's list by the next start.

mod actions;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::catalog::Catalog;
use crate::cluster::Cluster;
use crate::engine::{Engine, PullPolicy};
use crate::scheduler::{Policy, plan};

/// What the loop works with.
#[derive(Clone)]
pub struct Reconciler {
    /// What should exist.
    pub catalog: Arc<Catalog>,
    /// What exists.
    pub cluster: Arc<Cluster>,
    /// What makes it exist.
    pub engine: Arc<dyn Engine>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Thresholds and times.
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

/// Thresholds and times of the loop.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What the scheduler decides by.
    pub policy: Policy,
    /// When to ask registries.
    pub pull: PullPolicy,
    /// How long a draining replica may finish what it serves before it is told to stop.
    pub drain_timeout: Duration,
    /// How long a replica told to stop may take before it is killed.
    pub stop_grace: Duration,
}

impl Reconciler {
    /// Runs until shutdown; engine events are taken in by a task beside the loop.
    pub async fn run(self) {
        let this = Arc::new(self);
        this.spawn(Self::take_in_events);
        let mut catalog_changed = this.catalog.subscribe();
        let mut cluster_changed = this.cluster.subscribe();
        loop {
            catalog_changed.mark_unchanged();
            cluster_changed.mark_unchanged();
            let wake_at = this.step();
            let timer = this.sleep_until(wake_at);
            tokio::select! {
                () = this.shutdown.cancelled() => return,
                // Both senders live as long as `this`.
                _ = catalog_changed.changed() => {}
                _ = cluster_changed.changed() => {}
                () = timer => {}
            }
        }
    }

    /// Plans once and sets everything planned going; the moment to look again at the latest.
    fn step(self: &Arc<Self>) -> Option<Moment> {
        let snapshot = self.cluster.snapshot(&self.catalog.snapshot());
        let plan = plan(&snapshot, &self.settings.policy, self.clock.now());
        for action in &plan.actions {
            debug!(?action, "action begun");
            self.begin(action);
        }
        plan.wake_at
    }

    async fn sleep_until(&self, wake_at: Option<Moment>) {
        match wake_at {
            Some(at) => tokio::time::sleep(at.since(self.clock.now())).await,
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
