//! What should exist: functions with their revisions and desired replicas, namespaces, secrets.
//!
//! In: valid specifications and counts. Out: shared, immutable views of them, by key.
//! Always: a change is durable before it is visible, visible before subscribers hear of it, and only then acknowledged;
//! changes happen one after another; a revision number is never given out twice, also for a name that was deleted since.
//! Touches: the [`crate::store`] and the secrets' files, off the async threads. Reading touches neither: it takes a lock for
//! the time of one reference count.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hyperfaas_protocol::openfaas::FunctionNamespace;
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::info;

pub use self::error::CatalogError;
use crate::secrets::SecretFiles;
use crate::spec::FunctionSpec;
use crate::store::{Store, StoreError};

mod error;
mod namespaces;
mod secrets;
#[cfg(test)]
mod tests;
mod wakes;

pub use self::wakes::Waking;

/// A function as it should be.
#[derive(Debug, Clone)]
pub struct Function {
    /// What to run.
    pub spec: Arc<FunctionSpec>,
    /// Grows with every create and update, over all functions.
    pub revision: u64,
    /// Desired replicas, as the deployment or the last scale call said.
    pub replicas: u32,
    /// Number of that call, growing over all functions while this process runs; not kept.
    pub call: u64,
    /// When it was created; updates keep it.
    pub created_at: Timestamp,
    /// When its specification last changed.
    pub updated_at: Timestamp,
}

/// The call that everything found at start counts as.
pub(crate) const FIRST_CALL: u64 = 1;

/// All functions by key, at one moment.
pub type Functions = BTreeMap<FunctionKey, Arc<Function>>;
/// All namespaces by name, at one moment.
pub(crate) type Namespaces = BTreeMap<Namespace, Arc<FunctionNamespace>>;

/// What the catalog must be told.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// The directory to keep everything in; one process at a time.
    pub state_dir: PathBuf,
    /// The namespace of those who name none; always exists.
    pub default_namespace: Namespace,
    /// The most replicas any function may have.
    pub max_replicas: u32,
}

/// The catalog; cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Catalog {
    inner: Arc<Inner>,
    /// One permit: writers queue here and not on blocked threads.
    writer: Arc<Semaphore>,
    /// Writes that nobody waits for.
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Inner {
    settings: CatalogSettings,
    functions: RwLock<Arc<Functions>>,
    namespaces: RwLock<Arc<Namespaces>>,
    store: Store,
    secrets: SecretFiles,
    /// The last revision given out; only the writer changes it.
    revision: AtomicU64,
    /// The last number of a call; only the writer changes it.
    calls: AtomicU64,
    master_key: [u8; 32],
    changes: watch::Sender<u64>,
    wakes: wakes::Wakes,
}

impl Catalog {
    /// Opens the catalog kept in the state directory, making it where it is missing. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be used, another process uses it, or its contents cannot be read.
    pub fn open(settings: &CatalogSettings) -> Result<Self, StoreError> {
        let state = settings.state_dir.as_path();
        let store = Store::open(state)?;
        let secrets = SecretFiles::open(state)
            .map_err(|error| StoreError::Directory { path: state.join("secrets"), error })?;
        let kept = store.load()?;
        let mut namespaces = kept.namespaces;
        namespaces
            .entry(settings.default_namespace.clone())
            .or_insert_with_key(|name| Arc::new(bare_namespace(name)));
        let inner = Inner {
            settings: settings.clone(),
            functions: RwLock::new(Arc::new(kept.functions)),
            namespaces: RwLock::new(Arc::new(namespaces)),
            store,
            secrets,
            revision: AtomicU64::new(kept.revision),
            calls: AtomicU64::new(FIRST_CALL),
            master_key: kept.master_key,
            changes: watch::Sender::new(0),
            wakes: wakes::Wakes::default(),
        };
        let writer = Arc::new(Semaphore::new(1));
        Ok(Self { inner: Arc::new(inner), writer, tasks: TaskTracker::new() })
    }

    /// The namespace of those who name none.
    pub fn default_namespace(&self) -> &Namespace {
        &self.inner.settings.default_namespace
    }

    /// 32 secret bytes, made at the first start and the same ever since; keys of containers are derived from them.
    pub fn master_key(&self) -> &[u8; 32] {
        &self.inner.master_key
    }

    /// The most replicas `spec` may have here.
    pub fn max_replicas(&self, spec: &FunctionSpec) -> u32 {
        spec.max_replicas(self.inner.settings.max_replicas)
    }

    /// A counter that moves after each change of functions, namespaces or secrets.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// All functions at this moment.
    pub fn snapshot(&self) -> Arc<Functions> {
        Arc::clone(&self.inner.functions.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One function.
    pub fn function(&self, key: &FunctionKey) -> Option<Arc<Function>> {
        self.inner.functions.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// A namespace's functions, by name.
    pub fn functions(&self, namespace: &Namespace) -> Vec<Arc<Function>> {
        functions_in(&self.snapshot(), namespace).cloned().collect()
    }

    /// Creates the function with its initial number of replicas.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceUnknown`], [`CatalogError::FunctionExists`], [`CatalogError::SecretUnknown`], or the disk's.
    pub async fn create(&self, spec: FunctionSpec) -> Result<Arc<Function>, CatalogError> {
        self.write(move |inner| {
            inner.check_namespace(&spec.key.namespace)?;
            if inner.current().contains_key(&spec.key) {
                return Err(CatalogError::FunctionExists(spec.key));
            }
            let now = Timestamp::now();
            let asked = (spec.initial_replicas(), inner.next_call());
            inner.deploy(spec, asked, now, now)
        })
        .await
    }

    /// Replaces the function's specification as a whole and gives it a new revision, also when nothing differs, so that a
    /// moved tag or a changed secret is picked up. Desired replicas stay unless the new one carries a minimum.
    ///
    /// # Errors
    /// [`CatalogError::FunctionUnknown`] before all others, [`CatalogError::SecretUnknown`], or the disk's.
    pub async fn update(&self, spec: FunctionSpec) -> Result<Arc<Function>, CatalogError> {
        self.write(move |inner| {
            let old = inner.existing(&spec.key)?;
            let asked = match spec.scale_min {
                Some(min) => (min, inner.next_call()),
                None => (old.replicas, old.call),
            };
            inner.deploy(spec, asked, old.created_at, Timestamp::now())
        })
        .await
    }

    /// Deletes the function; its name is free when this returns.
    ///
    /// # Errors
    /// [`CatalogError::FunctionUnknown`], or the disk's.
    pub async fn delete(&self, key: FunctionKey) -> Result<(), CatalogError> {
        self.write(move |inner| {
            inner.existing(&key)?;
            inner.store.remove_function(&key)?;
            inner.publish(|functions| drop(functions.remove(&key)));
            info!(function = %key, "function deleted");
            Ok(())
        })
        .await
    }

    /// Sets the desired replicas, at most the function's maximum; the number that holds now.
    ///
    /// # Errors
    /// [`CatalogError::FunctionUnknown`], or the disk's.
    pub async fn scale(&self, key: FunctionKey, replicas: u64) -> Result<u32, CatalogError> {
        self.write(move |inner| {
            let old = inner.existing(&key)?;
            let max = old.spec.max_replicas(inner.settings.max_replicas);
            let replicas = u32::try_from(replicas).unwrap_or(u32::MAX).min(max);
            let call = inner.next_call();
            let function = Function { replicas, call, ..Function::clone(&old) };
            if replicas == old.replicas {
                // Asked for anew: it holds from now on, which nobody needs to know after a restart.
                inner.publish(|functions| drop(functions.insert(key, Arc::new(function))));
            } else {
                inner.keep(function, inner.revision.load(Ordering::Relaxed))?;
                info!(function = %key, replicas, "function scaled");
            }
            Ok(replicas)
        })
        .await
    }

    /// Runs one change after the ones before it. Dropping the future after it began gives up waiting, not the change.
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Inner) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let permit =
            Arc::clone(&self.writer).acquire_owned().await.map_err(|_| CatalogError::Stopping)?;
        let inner = Arc::clone(&self.inner);
        let change = move || {
            let _permit = permit;
            change(&inner)
        };
        tokio::task::spawn_blocking(change).await.map_err(|_| CatalogError::Stopping)?
    }

    /// Runs something that reads the disk, off the async threads, beside any writer.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Inner) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || look(&inner))
            .await
            .map_err(|_| CatalogError::Stopping)?
    }
}

impl Inner {
    fn current(&self) -> Arc<Functions> {
        Arc::clone(&self.functions.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn existing(&self, key: &FunctionKey) -> Result<Arc<Function>, CatalogError> {
        self.check_namespace(&key.namespace)?;
        self.current().get(key).cloned().ok_or_else(|| CatalogError::FunctionUnknown(key.clone()))
    }

    /// Stores `spec` under the next revision, once its secrets are known to exist.
    fn deploy(
        &self,
        spec: FunctionSpec,
        (replicas, call): (u32, u64),
        created_at: Timestamp,
        updated_at: Timestamp,
    ) -> Result<Arc<Function>, CatalogError> {
        let namespace = &spec.key.namespace;
        if let Some(name) = spec.secrets.iter().find(|name| !self.secrets.has(namespace, name)) {
            return Err(CatalogError::SecretUnknown(name.clone()));
        }
        let revision = self.revision.load(Ordering::Relaxed) + 1;
        let replicas = replicas.min(spec.max_replicas(self.settings.max_replicas));
        let function =
            Function { spec: Arc::new(spec), revision, replicas, call, created_at, updated_at };
        let function = self.keep(function, revision)?;
        info!(function = %function.spec.key, revision, replicas, "function deployed");
        Ok(function)
    }

    fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Durable, then in memory, then told.
    fn keep(&self, function: Function, revision: u64) -> Result<Arc<Function>, CatalogError> {
        let key = function.spec.key.clone();
        self.keep_all(vec![function], revision)?;
        self.current().get(&key).cloned().ok_or(CatalogError::FunctionUnknown(key))
    }

    /// The same for many: all of them, or none.
    fn keep_all(&self, changed: Vec<Function>, revision: u64) -> Result<(), StoreError> {
        if changed.is_empty() {
            return Ok(());
        }
        self.store.put_functions(&changed, revision)?;
        self.revision.store(revision, Ordering::Relaxed);
        self.publish(|functions| {
            functions.extend(changed.into_iter().map(|one| (one.spec.key.clone(), Arc::new(one))));
        });
        Ok(())
    }

    /// Puts a changed copy of the functions in place; readers keep the one they hold.
    fn publish(&self, change: impl FnOnce(&mut Functions)) {
        let mut functions = Functions::clone(&self.current());
        change(&mut functions);
        *self.functions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(functions);
        self.tell();
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// A namespace's part of `functions`, by name.
fn functions_in<'a>(
    functions: &'a Functions,
    namespace: &'a Namespace,
) -> impl Iterator<Item = &'a Arc<Function>> {
    let first = FunctionName::parse("0")
        .expect("a digit is a valid name, and no valid name sorts before it");
    let from = FunctionKey { namespace: namespace.clone(), name: first };
    functions
        .range(from..)
        .map(|(_, function)| function)
        .take_while(|f| f.spec.key.namespace == *namespace)
}

fn bare_namespace(name: &Namespace) -> FunctionNamespace {
    FunctionNamespace { name: name.to_string(), ..FunctionNamespace::default() }
}
