//! [`Engine`] in memory, for tests and simulations: the same promises, scripted faults, virtual time.
//!
//! In: orders, and a script ([`SimHost`]) of what images exist, what programs do, and what fails. Out: as on a real engine.
//! Time: `tokio::time` alone, so a test that pauses it waits for nothing; log times count from a fixed moment.
//! Always: same script, same orders, same answers; ids count up.
//! A replica's address is one where no connection can be made, unless its [`Program`] says where it is answered for.
//! Tests: `tests/contract/engine.rs`, on this and on [`super::docker`] alike.

mod calls;
mod host;
mod program;
mod standby;
mod world;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use hyperfaas_protocol::FunctionKey;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{
    Bounds, Call, ContainerId, ContainerUsage, Engine, EngineError, EngineEvent, EngineFacts,
    Image, LogLine, LogQuery, Observed, PullPolicy, ReplicaId, Standby, StandbyOrder, StartOrder,
};
use host::Signal;
pub use host::SimHost;
pub use program::{Exit, Place, Program, Terminates};

/// One provider's view of a [`SimHost`].
#[derive(Debug, Clone)]
pub struct SimEngine {
    host: SimHost,
    installation: Arc<str>,
}

impl SimEngine {
    /// The engine of `host` for one installation.
    pub fn new(host: &SimHost, installation: &str) -> Self {
        Self { host: host.clone(), installation: installation.into() }
    }
}

impl Engine for SimEngine {
    fn prepare(&self) -> Call<'_, EngineFacts> {
        Box::pin(async { self.host.facts() })
    }

    fn image<'a>(&'a self, reference: &'a str, policy: PullPolicy) -> Call<'a, Image> {
        Box::pin(async move { self.host.image(reference, policy) })
    }

    fn start(&self, order: StartOrder) -> Call<'_, Observed> {
        Box::pin(async move {
            let (host, installation) = (self.host.clone(), Arc::clone(&self.installation));
            // Finished even when the caller leaves, as on a real engine.
            let task = tokio::spawn(async move {
                tokio::time::sleep(host.start_delay()).await;
                host.start(&installation, &order)
            });
            task.await.unwrap_or_else(|_| Err(EngineError::Unavailable("shutting down".into())))
        })
    }

    fn stop<'a>(&'a self, container: &'a ContainerId, grace: Duration) -> Call<'a, ()> {
        Box::pin(async move {
            let (host, container) = (self.host.clone(), container.clone());
            let task = tokio::spawn(async move {
                if let Some((takes, exit_code)) = host.terminate(&container, grace)? {
                    tokio::time::sleep(takes).await;
                    host.exit(&container, exit_code);
                }
                host.remove(&container);
                Ok(())
            });
            task.await.unwrap_or_else(|_| Err(EngineError::Unavailable("shutting down".into())))
        })
    }

    fn list(&self) -> Call<'_, Vec<Observed>> {
        Box::pin(async { self.host.list(&self.installation) })
    }

    fn start_standby(&self, order: StandbyOrder) -> Call<'_, Standby> {
        Box::pin(async move {
            let (host, installation) = (self.host.clone(), Arc::clone(&self.installation));
            let task = tokio::spawn(async move {
                tokio::time::sleep(host.start_delay()).await;
                host.start_standby(&installation, &order)
            });
            task.await.unwrap_or_else(|_| Err(EngineError::Unavailable("shutting down".into())))
        })
    }

    fn list_standby(&self) -> Call<'_, Vec<Standby>> {
        Box::pin(async { self.host.list_standby(&self.installation) })
    }

    fn rename<'a>(&'a self, container: &'a ContainerId, name: &'a ReplicaId) -> Call<'a, ()> {
        Box::pin(async move { self.host.rename(container, name) })
    }

    fn process<'a>(&'a self, container: &'a ContainerId) -> Call<'a, u32> {
        Box::pin(async move { self.host.process(container) })
    }

    fn export(&self, image: &Image) -> BoxStream<'static, Result<Bytes, EngineError>> {
        let pieces = match self.host.archive(image) {
            Ok(archive) => {
                archive.chunks(64 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces).boxed()
    }

    fn events(&self) -> BoxStream<'static, EngineEvent> {
        let (host, installation) = (self.host.clone(), Arc::clone(&self.installation));
        let (first, signals) = host.subscribe();
        let rest = stream::unfold(
            (host, installation, signals),
            |(host, installation, mut signals)| async move {
                let event = next_event(&host, &installation, &mut signals).await;
                Some((event, (host, installation, signals)))
            },
        );
        stream::iter([first]).chain(rest).boxed()
    }

    fn logs(
        &self,
        container: &ContainerId,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogLine, EngineError>> {
        let log = match self.host.log(container) {
            Ok(log) => log,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let changes = self.host.changes();
        let at = log.lock().expect("no panic while held").start(query.tail);
        let lines = stream::unfold((log, changes, at), move |(log, mut changes, at)| async move {
            loop {
                changes.mark_unchanged();
                let (next, has_ended) = {
                    let log = log.lock().expect("no panic while held");
                    (log.line(at), log.has_ended)
                };
                match next {
                    Some((line, at)) => return Some((line, (log, changes, at))),
                    None if !query.follow || has_ended => return None,
                    None => changes.changed().await.ok()?,
                }
            }
        });
        let is_wanted =
            move |line: &LogLine| query.since.is_none_or(|since| line.timestamp >= since);
        lines.filter(move |line| std::future::ready(is_wanted(line))).map(Ok).boxed()
    }

    fn update<'a>(&'a self, container: &'a ContainerId, bounds: Bounds) -> Call<'a, ()> {
        Box::pin(async move { self.host.update(container, bounds) })
    }

    fn usage<'a>(&'a self, container: &'a ContainerId) -> Call<'a, ContainerUsage> {
        Box::pin(async move { self.host.usage(container) })
    }

    fn collect_secrets<'a>(&'a self, live: &'a [(FunctionKey, u64)]) -> Call<'a, ()> {
        Box::pin(async move { self.host.collect_secrets(&self.installation, live) })
    }
}

/// The next thing that concerns `installation`.
async fn next_event(
    host: &SimHost,
    installation: &str,
    signals: &mut Receiver<Signal>,
) -> EngineEvent {
    loop {
        match signals.recv().await {
            Ok(Signal::Lost(reason)) => return EngineEvent::Lost { reason },
            Ok(Signal::Back) => return EngineEvent::Connected,
            Ok(Signal::Happened(of, event)) if *of == *installation => return event,
            Ok(Signal::Happened(..)) => {}
            // The reader fell behind: it must list anew, as after an absence.
            Err(RecvError::Lagged(_)) => return EngineEvent::Connected,
            Err(RecvError::Closed) => {
                // `host` holds the sender, so this cannot be; waiting keeps the promise that the stream never ends.
                let _keep = host;
                std::future::pending::<()>().await;
            }
        }
    }
}
