//! Takes in what the engine says happened, and its list whenever it is reached (again).

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tracing::{error, info, warn};

use super::Reconciler;
use crate::cluster::Route;
use crate::engine::{EngineError, EngineEvent};
use crate::link;
use crate::scheduler::Grant;

/// The first wait before reaching for the engine again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before reaching for the engine again.
const RETRY_MOST: Duration = Duration::from_secs(5);

impl Reconciler {
    /// Feeds the engine's events to the cluster.
    pub(super) async fn take_in_events(self: Arc<Self>) {
        let mut events = self.engine.events();
        while let Some(event) = events.next().await {
            match event {
                EngineEvent::Connected => self.catch_up().await,
                EngineEvent::Lost { reason } => {
                    error!(reason, "container engine lost; waiting for it");
                    self.cluster.set_engine_up(false);
                }
                // An order of a run that was killed came to pass after the list was made: nobody will ever use it.
                EngineEvent::Created { container, name, function }
                    if !self.cluster.knows(&name, function.as_ref()) =>
                {
                    info!(
                        replica = name.0,
                        "container that nobody of this run has ordered is removed"
                    );
                    self.spawn(|this| async move { this.discard(&container).await });
                }
                EngineEvent::Created { .. } => {}
                EngineEvent::Died { container, exit_code } => {
                    self.cluster.died(&container, exit_code, self.now());
                }
                EngineEvent::Removed { container } => self.cluster.removed(&container),
            }
        }
    }

    /// Takes over what runs and clears what has gone, then lets the planning begin.
    async fn catch_up(self: &Arc<Self>) {
        let mut wait = RETRY_FIRST;
        while let Err(error) = self.try_catch_up().await {
            warn!(%error, "container engine reached, but not usable yet");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    async fn try_catch_up(self: &Arc<Self>) -> Result<(), EngineError> {
        let observed = self.engine.list().await?;
        self.cluster.retain(&observed);
        let mut adopted = 0_usize;
        for replica in &observed {
            // What it may use by now its watchdog will say; until then, what it was created with.
            let function = self.catalog.function(&replica.function);
            let grant = function.map_or_else(Grant::default, |f| f.spec.scaling.initial);
            if let Some(route) = self.cluster.adopt(replica, grant, self.now()) {
                adopted += 1;
                self.follow(route);
            }
        }
        self.adopt_standby().await?;
        let facts = self.engine.prepare().await?;
        self.cluster.set_host(&facts);
        info!(version = facts.version, api = facts.api_version, adopted, "container engine ready");
        self.cluster.set_engine_up(true);
        self.collect_secrets().await;
        Ok(())
    }

    /// Follows the control link of a replica until the replica is gone.
    pub(super) fn follow(self: &Arc<Self>, route: Arc<Route>) {
        let key = link::replica_key(self.catalog.master_key(), &route.replica);
        let cluster = Arc::clone(&self.cluster);
        self.spawn(|_| link::follow(cluster, route, key));
    }

    /// Lets the engine remove the secrets of revisions that are no longer wanted or running.
    pub(super) async fn collect_secrets(&self) {
        let functions = self.catalog.snapshot();
        let mut live: Vec<_> =
            functions.iter().map(|(key, function)| (key.clone(), function.revision)).collect();
        live.extend(self.cluster.revisions());
        if let Err(error) = self.engine.collect_secrets(&live).await {
            warn!(%error, "unused secrets not removed; tried again after the next removal");
        }
    }
}
