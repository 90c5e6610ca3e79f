//! The queue on disk: changes of many callers become one transaction each time (group commit).
//!
//! In: [`Change`]s. Out: what they did, once they are durable; messages read back.
//! Always: changes are applied in the order in which they came; a caller is answered after its change is on disk.
//! Touches: [`Store`], off the async threads.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::message::Message;
use super::store::{
    Change, DeadLetter, DeadLimits, Effect, Fetched, Store, StoreError, Totals, Waiting,
};
use super::{Queue, QueueError, now_ms};

/// Changes waiting for the disk; further ones wait for a place.
const CHANGES_MAX: usize = 1024;

#[derive(Debug)]
struct Order {
    change: Change,
    reply: oneshot::Sender<Result<Effect, QueueError>>,
}

/// An embedded database and the way to its one writer.
#[derive(Debug)]
pub(super) struct Disk {
    store: Arc<Store>,
    orders: mpsc::Sender<Order>,
    inbox: Mutex<Option<mpsc::Receiver<Order>>>,
}

impl Disk {
    /// Opens the database; also what waits in it.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be used, or another process uses it.
    pub(super) fn open(
        directory: &Path,
        dead: DeadLimits,
    ) -> Result<(Self, Vec<Waiting>, Totals), StoreError> {
        let store = Arc::new(Store::open(directory, dead)?);
        let (functions, totals) = store.load()?;
        let (orders, inbox) = mpsc::channel(CHANGES_MAX);
        Ok((Self { store, orders, inbox: Mutex::new(Some(inbox)) }, functions, totals))
    }

    /// Makes `change` durable.
    ///
    /// # Errors
    /// [`QueueError`]; then it was not made.
    pub(super) async fn change(&self, change: Change) -> Result<Effect, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { change, reply }).await.map_err(|_| QueueError::Stopping)?;
        answer.await.map_err(|_| QueueError::Stopping)?
    }

    /// As [`Queue::oldest`].
    pub(super) async fn oldest(&self, functions: Vec<Arc<str>>) -> Vec<Option<u64>> {
        let oldest = self.read(move |store| {
            functions.iter().map(|function| store.oldest(function)).collect::<Result<_, _>>()
        });
        oldest.await.unwrap_or_default()
    }

    /// As [`Queue::dead`]; `None` when the database fails.
    pub(super) async fn dead(
        &self,
        after: u64,
        function: Option<String>,
        limit: usize,
    ) -> Option<Vec<DeadLetter>> {
        self.read(move |store| store.dead(after, function.as_deref(), limit)).await
    }

    /// As [`Queue::dead_letter`]; the outer `None` when the database fails.
    pub(super) async fn dead_letter(&self, id: u64) -> Option<Option<Message>> {
        self.read(move |store| store.dead_letter(id)).await
    }

    /// Due messages of `function` that are not `taken`, at most `limit`; `None` when the database fails.
    pub(super) async fn fetch(
        &self,
        function: Arc<str>,
        taken: HashSet<u64>,
        limit: usize,
    ) -> Option<Fetched> {
        self.read(move |store| store.fetch(&function, &taken, limit, now_ms())).await
    }

    /// Reads off the async threads; a failure is logged and `None`.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let store = Arc::clone(&self.store);
        let result = tokio::task::spawn_blocking(move || read(&store)).await.ok()?;
        result.inspect_err(|error| error!(%error, "queue cannot be read")).ok()
    }

    /// Writes changes, many at a time, until `end`, and then what was ordered before it.
    pub(super) async fn write(&self, queue: &Queue, end: CancellationToken) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut orders = Vec::new();
        loop {
            tokio::select! {
                count = inbox.recv_many(&mut orders, CHANGES_MAX) => if count == 0 { return },
                () = end.cancelled(), if !inbox.is_closed() => inbox.close(),
            }
            if !orders.is_empty() {
                self.commit(queue, std::mem::take(&mut orders)).await;
            }
        }
    }

    async fn commit(&self, queue: &Queue, orders: Vec<Order>) {
        let (changes, replies): (Vec<_>, Vec<_>) =
            orders.into_iter().map(|order| (order.change, order.reply)).unzip();
        let store = Arc::clone(&self.store);
        let applied = tokio::task::spawn_blocking(move || store.apply(&changes)).await;
        let applied = applied.map_err(|error| error!(%error, "queue writer failed")).ok();
        let done = applied.and_then(|result| {
            result.inspect_err(|error| error!(%error, "queue cannot be written")).ok()
        });
        let Some((effects, totals)) = done else {
            for reply in replies {
                // Whoever does not wait any more needs no answer.
                let _ = reply.send(Err(QueueError::Store));
            }
            return;
        };
        queue.count(totals);
        queue.note(&effects);
        for (effect, reply) in effects.into_iter().zip(replies) {
            let _ = reply.send(Ok(effect));
        }
    }
}
