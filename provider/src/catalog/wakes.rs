//! Functions at zero that a request asks to have replicas again.
//!
//! In: keys, in any number and at any time. Out: the same functions with their initial replicas, as after a scale call.
//! Always: a wake that has begun goes on without whoever began it, so a request that is served meanwhile waits for no disk;
//! all that come while one is written are written together, in one transaction: many functions that wake at once cost two.
//! Touches: the store, through the catalog's one writer.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyperfaas_protocol::FunctionKey;
use tokio::sync::oneshot;
use tracing::info;

use super::{Catalog, CatalogError, Function, Inner};

/// How a wake ended: whoever waits for it is told the same.
type Outcome = Result<(), Arc<CatalogError>>;

/// Wakes that have begun and are not being written yet.
#[derive(Debug, Default)]
pub(super) struct Wakes(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    waiting: BTreeMap<FunctionKey, Vec<oneshot::Sender<Outcome>>>,
    /// Whether a task is at it.
    is_begun: bool,
}

/// A wake that has begun; dropping it changes nothing about that.
#[derive(Debug)]
pub struct Waking {
    /// Whether nobody had asked for the same function before this was written.
    pub is_first: bool,
    outcome: oneshot::Receiver<Outcome>,
}

impl Waking {
    /// Waits until it is durable.
    ///
    /// # Errors
    /// Why it is not: the function is gone, or the disk failed.
    pub async fn ended(self) -> Result<(), Arc<CatalogError>> {
        self.outcome.await.unwrap_or_else(|_| Err(Arc::new(CatalogError::Stopping)))
    }
}

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    /// Begins to give `key`, a function at zero, its initial replicas again; one that has replicas stays as it is.
    pub fn wake(&self, key: &FunctionKey) -> Waking {
        let (sender, outcome) = oneshot::channel();
        let mut pending = self.inner.wakes.lock();
        let waiting = pending.waiting.entry(key.clone()).or_default();
        let is_first = waiting.is_empty();
        waiting.push(sender);
        if !std::mem::replace(&mut pending.is_begun, true) {
            let (inner, writer) = (Arc::clone(&self.inner), Arc::clone(&self.writer));
            self.tasks.spawn(async move {
                while let Ok(permit) = Arc::clone(&writer).acquire_owned().await {
                    let inner = Arc::clone(&inner);
                    let write = move || {
                        let is_over = inner.write_wakes();
                        drop(permit);
                        is_over
                    };
                    if tokio::task::spawn_blocking(write).await.unwrap_or(true) {
                        return;
                    }
                }
            });
        }
        drop(pending);
        Waking { is_first, outcome }
    }

    /// Waits until nothing is being written that nobody waits for.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Inner {
    /// Writes what has begun until now; whether nothing more has begun meanwhile.
    fn write_wakes(&self) -> bool {
        let all = std::mem::take(&mut self.wakes.lock().waiting);
        let current = self.current();
        let (mut known, mut gone) = (Vec::new(), Vec::new());
        let (mut functions, mut woken) = (Vec::new(), Vec::new());
        for (key, waiting) in all {
            match current.get(&key) {
                None => gone.push((key, waiting)),
                Some(function) => {
                    if function.replicas == 0 {
                        let max = function.spec.max_replicas(self.settings.max_replicas);
                        let replicas = function.spec.initial_replicas().min(max);
                        let call = self.next_call();
                        functions.push(Function { replicas, call, ..Function::clone(function) });
                        woken.push((key.clone(), replicas));
                    }
                    known.push(waiting);
                }
            }
        }
        let kept = self.keep_all(functions, self.revision.load(Ordering::Relaxed));
        let outcome = kept.map_err(|error| Arc::new(CatalogError::from(error)));
        if outcome.is_ok() {
            for (function, replicas) in woken {
                info!(%function, replicas, "function woken");
            }
        }
        for waiting in known.into_iter().flatten() {
            let _ = waiting.send(outcome.clone()); // whoever asked may be served by now
        }
        for (key, waiting) in gone {
            let error = Arc::new(CatalogError::FunctionUnknown(key));
            for one in waiting {
                let _ = one.send(Err(Arc::clone(&error)));
            }
        }
        let mut pending = self.wakes.lock();
        let is_over = pending.waiting.is_empty();
        pending.is_begun = !is_over;
        is_over
    }
}
