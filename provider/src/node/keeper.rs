//! Keeps the roots of what is deployed: made in the background as soon as an image is there, removed when nothing uses it.
//!
//! In: catalog and cluster, whose changes wake it. Out: roots, one being made at a time, so that neither disk nor engine has
//! two of them to do while requests are served.
//! Always: before anything is removed, the slots of every container that runs have been found, and hold their roots.
//! Nobody waits for this: without a root a function is served from its own containers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::rootfs::{RootId, Roots, Status};
use super::slot::{SlotError, Slots, Target};
use crate::catalog::Catalog;
use crate::cluster::Cluster;
use crate::engine::{ContainerId, Engine, EngineError, Image};

/// Between two looks at all functions: the cluster changes with every request that starts something.
const PAUSE: Duration = Duration::from_secs(1);
/// First and longest wait before a failed root is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// What it works with.
pub struct Keeper {
    /// What should exist.
    pub catalog: Arc<Catalog>,
    /// What exists; knows images.
    pub cluster: Arc<Cluster>,
    /// Where images come from.
    pub engine: Arc<dyn Engine>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What it keeps.
    pub roots: Roots,
    /// Who uses it.
    pub slots: Slots,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// What is known of the images that functions use now.
struct Wanted {
    images: Vec<Arc<Image>>,
    /// Whether every function's image is among them.
    is_complete: bool,
}

impl Keeper {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut catalog_changed = self.catalog.subscribe();
        let mut cluster_changed = self.cluster.subscribe();
        let mut failures: HashMap<RootId, Failure> = HashMap::new();
        let mut has_adopted = false;
        loop {
            catalog_changed.mark_unchanged();
            cluster_changed.mark_unchanged();
            if self.cluster.is_engine_up() {
                has_adopted = has_adopted || self.adopt().await;
                let wanted = self.wanted();
                self.make(&wanted.images, &mut failures).await;
                if has_adopted && wanted.is_complete {
                    self.collect(&wanted.images).await;
                }
            }
            let retry_at = failures.values().map(|failure| failure.retry_at).min();
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                // Both senders live as long as `self`.
                _ = catalog_changed.changed() => {}
                _ = cluster_changed.changed() => {}
                () = self.sleep_until(retry_at) => {}
            }
        }
    }

    async fn sleep_until(&self, at: Option<Moment>) {
        match at {
            Some(at) => tokio::time::sleep(at.since(self.clock.now())).await,
            None => std::future::pending().await,
        }
    }

    fn wanted(&self) -> Wanted {
        let functions = self.catalog.snapshot();
        let image = |(key, function): (&_, &Arc<crate::catalog::Function>)| {
            self.cluster.image(key, function.revision)
        };
        let images: Vec<_> = functions.iter().filter_map(image).collect();
        Wanted { is_complete: images.len() == functions.len(), images }
    }

    async fn make(&self, images: &[Arc<Image>], failures: &mut HashMap<RootId, Failure>) {
        let ids: HashSet<_> = images.iter().filter_map(|image| RootId::parse(&image.id)).collect();
        failures.retain(|id, _| ids.contains(id));
        for image in images {
            let Some(id) = RootId::parse(&image.id) else { continue };
            let is_due =
                failures.get(&id).is_none_or(|failure| failure.retry_at <= self.clock.now());
            if matches!(self.roots.status(&id), Status::Ready { .. }) || !is_due {
                continue;
            }
            match self.roots.ensure(image, &self.engine).await {
                Ok(_) => drop(failures.remove(&id)),
                Err(error) => {
                    warn!(image = image.reference, %error, "no root file system; its function cannot be a guest");
                    let wait = failures
                        .get(&id)
                        .map_or(RETRY.0, |failure| (failure.wait * 2).min(RETRY.1));
                    let retry_at = self.clock.now().after(wait);
                    failures.insert(id, Failure { wait, retry_at });
                }
            }
        }
    }

    async fn collect(&self, images: &[Arc<Image>]) {
        let live = images.iter().filter_map(|image| RootId::parse(&image.id)).collect();
        let count = self.roots.collect(live).await;
        if count > 0 {
            info!(count, bytes = self.roots.bytes(), "unused root file systems removed");
        }
    }

    /// Finds the slots that an earlier run has left in running containers; whether all were looked at.
    async fn adopt(&self) -> bool {
        match self.try_adopt().await {
            Ok(0) => true,
            Ok(count) => {
                info!(count, "slots of an earlier run found");
                true
            }
            Err(error) => {
                warn!(%error, "slots of an earlier run not looked for yet");
                false
            }
        }
    }

    async fn try_adopt(&self) -> Result<usize, EngineError> {
        let mut running: Vec<ContainerId> = Vec::new();
        let replicas = self.engine.list().await?;
        running.extend(replicas.into_iter().filter(|c| c.is_running).map(|c| c.container));
        let standby = self.engine.list_standby().await?;
        running.extend(standby.into_iter().filter(|c| c.is_running).map(|c| c.container));
        let mut count = 0;
        for container in running {
            // One that has ended meanwhile has no slots.
            let Ok(pid) = self.engine.process(&container).await else { continue };
            match self.slots.adopt(&Target { container, pid }, &self.roots).await {
                Ok(found) => count += found.len(),
                Err(SlotError::Gone(_)) => {}
                Err(error) => return Err(EngineError::Refused(error.to_string())),
            }
        }
        Ok(count)
    }
}

/// A root that could not be made.
struct Failure {
    wait: Duration,
    retry_at: Moment,
}
