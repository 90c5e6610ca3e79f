//! What is done to a container on its own host: what it may use, without a restart; and slots, in which it serves functions
//! that are not its own.
//!
//! In: a container and what it may use. Out: done, on its host at once and in the engine's records soon after.
//! Always: the engine's record follows the host, so neither an engine that restarts nor somebody's `docker update` of another
//! limit brings an older value back.
//! Beside [`crate::engine`], since with several hosts one engine decides what runs where, and each host does this for its own.

mod busy;
pub mod cgroup;
pub mod keeper;
pub mod rights;
pub mod rootfs;
pub mod slot;
pub mod standby;
mod sys;
pub mod view;
pub mod visit;
pub mod zygote;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::engine::{Bounds, ContainerId, Engine, EngineError};
use crate::scheduler::Grant;
use busy::Busy;
use cgroup::{CgroupError, Cgroups};

/// How long a grant must stand before the engine is told: it takes 12 ms of the engine's time, the host's own file 0.02 ms.
const SETTLES: Duration = Duration::from_secs(2);

/// Why a container could not be given what it was to have.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The host of containers.
pub trait Node: Send + Sync + 'static {
    /// Lets `container` use `grant` from now on. What is `None` stays as it is.
    fn resize<'a>(
        &'a self,
        container: &'a ContainerId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), NodeError>>;

    /// Parts per thousand of the host's CPUs in use about `now`, by whatever runs there; `None` where that is not known.
    fn busy(&self, now: Moment) -> Option<u32>;
}

/// The host that this process runs on, or whose cgroup tree it can see; else through the engine alone.
#[derive(Clone)]
pub struct HostNode {
    inner: Arc<Inner>,
}

struct Inner {
    cgroups: Option<Cgroups>,
    engine: Arc<dyn Engine>,
    /// Grants that the engine has not been told, by container.
    untold: Mutex<HashMap<ContainerId, Grant>>,
    busy: Mutex<Busy>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for HostNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostNode").field("cgroups", &self.inner.cgroups).finish_non_exhaustive()
    }
}

impl HostNode {
    /// Over `engine` and, where they can be written, the host's own cgroups. Tasks end with `shutdown`.
    pub fn new(
        cgroups: Option<Cgroups>,
        engine: Arc<dyn Engine>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (untold, busy) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { cgroups, engine, untold, busy, tasks, shutdown }) }
    }
}

impl Node for HostNode {
    fn resize<'a>(
        &'a self,
        container: &'a ContainerId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), NodeError>> {
        Box::pin(async move {
            match self.inner.write(container, grant).await {
                Ok(true) => {
                    self.inner.tell_later(container, grant);
                    Ok(())
                }
                Ok(false) => Ok(self.inner.engine.update(container, bounds(grant)).await?),
                Err(error) => {
                    debug!(container = container.0, %error, "cgroup not written, asking the engine");
                    Ok(self.inner.engine.update(container, bounds(grant)).await?)
                }
            }
        })
    }

    fn busy(&self, now: Moment) -> Option<u32> {
        // Without its cgroups it need not be the engine's host.
        self.inner.cgroups.as_ref().and_then(|_| self.inner.busy(now))
    }
}

impl Inner {
    /// Looks at the host's CPUs, at most once a second: 0.05 ms.
    fn busy(&self, now: Moment) -> Option<u32> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.is_due(now)
            && let Ok(text) = std::fs::read_to_string(busy::FILE)
        {
            busy.see(&text, now);
        }
        busy.permille()
    }

    /// Writes the container's cgroup; `false` where this process has no access to any.
    async fn write(&self, container: &ContainerId, grant: Grant) -> Result<bool, CgroupError> {
        let Some(cgroups) = self.cgroups.clone() else { return Ok(false) };
        let container = container.clone();
        let write = tokio::task::spawn_blocking(move || cgroups.write(&container.0, grant));
        write.await.unwrap_or(Err(CgroupError::Stopping)).map(|()| true)
    }

    /// Tells the engine once the grant has stood for a while; of several only the last.
    fn tell_later(self: &Arc<Self>, container: &ContainerId, grant: Grant) {
        let is_first = match self.untold().entry(container.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(grant);
                true
            }
            Entry::Occupied(mut entry) => {
                entry.insert(grant);
                false
            }
        };
        if is_first {
            let (this, container) = (Arc::clone(self), container.clone());
            let shutdown = self.shutdown.clone();
            self.tasks.spawn(async move {
                shutdown.run_until_cancelled(this.tell(container)).await;
            });
        }
    }

    async fn tell(&self, container: ContainerId) {
        let mut standing = None;
        loop {
            tokio::time::sleep(SETTLES).await;
            let Some(grant) = self.untold().get(&container).copied() else { return };
            if standing != Some(grant) {
                standing = Some(grant); // changed meanwhile: it must stand for a whole while
                continue;
            }
            match self.engine.update(&container, bounds(grant)).await {
                Ok(()) | Err(EngineError::NotFound) => {}
                Err(error) => warn!(container = container.0, %error, "engine not told of a grant"),
            }
            let newest = self.untold().get(&container).copied();
            if newest == Some(grant) {
                self.untold().remove(&container);
                return;
            }
            // The engine has just written the older one over it.
            if let Some(newest) = newest
                && let Err(error) = self.write(&container, newest).await
            {
                debug!(container = container.0, %error, "cgroup not written");
            }
        }
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<ContainerId, Grant>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A grant in the engine's units.
fn bounds(grant: Grant) -> Bounds {
    Bounds {
        cpu: grant.cpu.map(|cpu| Cpu(u64::from(cpu) * 1_000_000)),
        memory: grant.memory.map(Memory),
    }
}
