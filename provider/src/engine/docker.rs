//! [`Engine`] on a real Docker engine, over its API alone: no host path, no `docker` program, nothing shared but the socket.
//!
//! In: orders. Out: containers made as `docs/engine.md` says, events, logs, usage. The only place that names bollard.
//! Always: what is made carries our labels; a call that was begun is finished even when its caller has left, so nothing
//! half-made stays behind; each call ends by itself, with or without the engine.
//! Touches: the engine's socket, the watchdog's file, the user's docker config.
//! Tests: `tests/contract/engine.rs`, on this and on [`super::sim`] alike.

mod connection;
mod create;
mod events;
mod export;
mod image;
mod labels;
mod login;
mod logs;
mod prepare;
mod replica;
mod secrets;
mod standby;
mod usage;
mod volume;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyperfaas_protocol::FunctionKey;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    Bounds, Call, ContainerId, ContainerUsage, Engine, EngineError, EngineEvent, EngineFacts,
    Image, LogLine, LogQuery, Observed, PullPolicy, ReplicaId, Standby, StandbyOrder, StartOrder,
};
use connection::Connection;
use image::Pulls;
use labels::{Labels, RUN};
use secrets::Secrets;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Processes and threads a container may have; a fork bomb stays its own.
pub const DEFAULT_PIDS_LIMIT: u32 = 4096;
/// Size of `/tmp` where the root is read-only, bytes; it counts against the memory limit.
pub const DEFAULT_TMP_BYTES: u64 = 1 << 30;
/// Size of one log file, KiB, and how many are kept for each container.
pub const DEFAULT_LOGS: (u32, u32) = (10 << 10, 3);

/// What a [`DockerEngine`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// The engine, as `DOCKER_HOST` spells it: `unix:///path` or `tcp://host:port`.
    pub host: String,
    /// The network functions are on; made when missing.
    pub network: String,
    /// Tells this provider's containers from those of others on the same engine.
    pub installation: String,
    /// The static watchdog program that is put into every container.
    pub watchdog: PathBuf,
    /// A docker `config.json` with registry logins; `None` is the user's own.
    pub login_file: Option<PathBuf>,
    /// See [`DEFAULT_PIDS_LIMIT`].
    pub pids_limit: u32,
    /// See [`DEFAULT_TMP_BYTES`].
    pub tmp_bytes: u64,
    /// Size of one log file of a container, KiB.
    pub log_file_kib: u32,
    /// How many log files of a container are kept, at least 1.
    pub log_files: u32,
}

impl DockerConfig {
    /// A configuration with every limit at its default.
    pub fn new(host: &str, network: &str, installation: &str, watchdog: PathBuf) -> Self {
        Self {
            host: host.to_owned(),
            network: network.to_owned(),
            installation: installation.to_owned(),
            watchdog,
            login_file: None,
            pids_limit: DEFAULT_PIDS_LIMIT,
            tmp_bytes: DEFAULT_TMP_BYTES,
            log_file_kib: DEFAULT_LOGS.0,
            log_files: DEFAULT_LOGS.1,
        }
    }
}

/// A Docker engine. Cloning shares it.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: DockerConfig,
    connection: Connection,
    /// Names this run of the provider on what lives only as long as it.
    run: String,
    preparing: tokio::sync::Mutex<()>,
    ready: Mutex<Option<Arc<Ready>>>,
    pulls: Pulls,
    secrets: Secrets,
    tasks: TaskTracker,
}

/// What [`Engine::prepare`] found and made.
#[derive(Debug)]
struct Ready {
    facts: EngineFacts,
    watchdog_volume: String,
}

impl DockerEngine {
    /// An engine that is reached at the first call; it may be away now.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when the watchdog's file is no static program, or the host is of an unknown kind.
    pub fn new(config: DockerConfig) -> Result<Self, EngineError> {
        let connection = Connection::new(&config.host)?;
        prepare::check_watchdog(&config.watchdog, &std::fs::read(&config.watchdog))?;
        let inner = Inner {
            config,
            connection,
            run: Uuid::new_v4().simple().to_string(),
            preparing: tokio::sync::Mutex::default(),
            ready: Mutex::default(),
            pulls: Pulls::default(),
            secrets: Secrets::default(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits for the calls that are still under way although nobody waits for them any more; for an orderly shutdown.
    pub async fn settle(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.tasks.reopen();
    }

    /// Runs `work` to its end even when the returned future is dropped.
    fn finish<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Call<'static, T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let task = inner.tasks.spawn(work(Arc::clone(&inner)));
            task.await.unwrap_or_else(|_| Err(EngineError::Unavailable("shutting down".into())))
        })
    }
}

impl Inner {
    /// Labels of a container that only carries files.
    fn helper_labels(&self) -> Labels {
        let mut labels = labels::ours(labels::FILL, Some(&self.config.installation));
        labels.insert(RUN.to_owned(), self.run.clone());
        labels
    }
}

impl Engine for DockerEngine {
    fn prepare(&self) -> Call<'_, EngineFacts> {
        self.finish(|inner| async move { inner.prepare().await.map(|ready| ready.facts.clone()) })
    }

    fn image<'a>(&'a self, reference: &'a str, policy: PullPolicy) -> Call<'a, Image> {
        Box::pin(self.inner.image(reference, policy))
    }

    fn start(&self, order: StartOrder) -> Call<'_, Observed> {
        self.finish(|inner| async move { inner.start(order).await })
    }

    fn stop<'a>(&'a self, container: &'a ContainerId, grace: Duration) -> Call<'a, ()> {
        let container = container.clone();
        self.finish(move |inner| async move { inner.stop(container, grace).await })
    }

    fn list(&self) -> Call<'_, Vec<Observed>> {
        Box::pin(self.inner.list())
    }

    fn start_standby(&self, order: StandbyOrder) -> Call<'_, Standby> {
        self.finish(|inner| async move { inner.start_standby(order).await })
    }

    fn list_standby(&self) -> Call<'_, Vec<Standby>> {
        Box::pin(self.inner.list_standby())
    }

    fn rename<'a>(&'a self, container: &'a ContainerId, name: &'a ReplicaId) -> Call<'a, ()> {
        Box::pin(self.inner.rename(container, name))
    }

    fn process<'a>(&'a self, container: &'a ContainerId) -> Call<'a, u32> {
        Box::pin(self.inner.process(container))
    }

    fn export(&self, image: &Image) -> BoxStream<'static, Result<Bytes, EngineError>> {
        export::stream(&self.inner, image)
    }

    fn events(&self) -> BoxStream<'static, EngineEvent> {
        events::stream(Arc::clone(&self.inner))
    }

    fn logs(
        &self,
        container: &ContainerId,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogLine, EngineError>> {
        logs::stream(self.inner.connection.docker(), container, query)
    }

    fn update<'a>(&'a self, container: &'a ContainerId, bounds: Bounds) -> Call<'a, ()> {
        let container = container.clone();
        self.finish(move |inner| async move { inner.update(container, bounds).await })
    }

    fn usage<'a>(&'a self, container: &'a ContainerId) -> Call<'a, ContainerUsage> {
        Box::pin(async move { usage::usage(&self.inner.connection.docker()?, container).await })
    }

    fn collect_secrets<'a>(&'a self, live: &'a [(FunctionKey, u64)]) -> Call<'a, ()> {
        let live = live.iter().cloned().collect();
        self.finish(move |inner| async move { inner.secrets.collect(&inner, &live).await })
    }
}
