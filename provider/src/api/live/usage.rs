//! What containers use that have not told it themselves: watchdogs report while they are busy, so the engine is asked for the rest.
//!
//! Always: one container at a time is asked, the one whose answer is oldest, and none more often than every [`FRESH`]; an answer
//! that does not come holds up nothing. Touches: the engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::{ContainerSight, FunctionSight};
use crate::engine::{ContainerId, ContainerUsage, Engine};

/// How old an answer may get before it is asked for again.
const FRESH: Duration = Duration::from_secs(10);
/// Between two questions; the engine has more important things to do.
const PAUSE: Duration = Duration::from_millis(100);

/// The last answers; dropping it ends the asking.
pub(super) struct Usage {
    shared: Arc<Mutex<Known>>,
    asking: AbortHandle,
}

#[derive(Default)]
struct Known {
    /// Of containers that somebody wants to know about: the last answer, and when it was asked for.
    containers: HashMap<ContainerId, (Option<ContainerUsage>, Option<Instant>)>,
}

impl Usage {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        let shared = Arc::new(Mutex::new(Known::default()));
        let asking = tokio::spawn(ask(engine, Arc::clone(&shared))).abort_handle();
        Self { shared, asking }
    }

    /// Fills in what is known, and notes whose usage is not; forgets containers that are gone.
    pub(super) fn fill<'a>(&self, functions: impl Iterator<Item = &'a mut FunctionSight>) {
        let mut known = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut known.containers);
        for function in functions {
            for container in &mut function.containers {
                let Some(id) = container.container.clone() else { continue };
                if container.memory_bytes.is_some() {
                    continue;
                }
                let entry = before.remove(&id).unwrap_or_default();
                if let Some(usage) = entry.0 {
                    take(container, usage);
                }
                known.containers.insert(id, entry);
            }
            let all = &function.containers;
            function.cpu_milli = all.iter().filter_map(|c| c.cpu_milli).reduce(u32::saturating_add);
            function.memory_bytes =
                all.iter().filter_map(|c| c.memory_bytes).reduce(u64::saturating_add);
        }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

fn take(container: &mut ContainerSight, usage: ContainerUsage) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest number that fits"
    )]
    let milli = usage.cpu_milli.round() as u32;
    container.cpu_milli = Some(milli);
    container.memory_bytes = Some(usage.memory_bytes);
}

async fn ask(engine: Arc<dyn Engine>, shared: Arc<Mutex<Known>>) {
    loop {
        sleep(PAUSE).await;
        let Some(id) = next(&mut shared.lock().unwrap_or_else(PoisonError::into_inner)) else {
            continue;
        };
        let answer = engine.usage(&id).await.ok();
        let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((usage, _)), Some(answer)) = (known.containers.get_mut(&id), answer) {
            *usage = Some(answer);
        }
    }
}

/// The container to ask about next, which counts as asked from now on.
fn next(known: &mut Known) -> Option<ContainerId> {
    let now = Instant::now();
    let is_due = |at: &Option<Instant>| at.is_none_or(|at| now.duration_since(at) >= FRESH);
    let due = known.containers.iter_mut().filter(|(_, (_, at))| is_due(at));
    let (id, (_, at)) = due.min_by_key(|(_, (_, at))| *at)?;
    *at = Some(now);
    Some(id.clone())
}
