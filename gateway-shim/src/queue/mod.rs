//! Asynchronous calls: kept on disk before they are accepted, delivered later.
//!
//! [`Queue::put`] returns once the call is on disk; whatever happens to the process after that, the call is delivered: exactly
//! once by a process that lives, at least once when it is killed between a function's answer and the note of it.
//! [`message`], [`retry`] and [`lanes`] are pure; [`store`] holds the disk, [`pump`] delivers.
//! Always: many callers share one disk write (group commit); memory grows with what is in flight, not with what waits;
//! the number of messages, their bytes, the functions that have some, and the dead letters are bounded.

pub(crate) mod lanes;
pub(crate) mod message;
pub(crate) mod pump;
pub(crate) mod retry;
mod store;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::lanes::{LaneView, Lanes};
use self::message::Message;
use self::store::{Change, DeadLetter, DeadLimits, Effect, Fetched, Store, Totals};

pub use self::store::StoreError;

/// Changes waiting for the disk; further ones wait for a place.
const CHANGES_MAX: usize = 1024;
/// Functions that may have messages at the same time: bounds memory against calls to made-up names.
const FUNCTIONS_MAX: usize = 10_000;
/// Bytes of all dead letters.
const DEAD_BYTES: u64 = 1 << 30;

/// How the queue is set up.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Where it is kept; belongs to one process alone.
    pub directory: PathBuf,
    /// Most calls that may wait.
    pub depth_max: u64,
    /// Most bytes that they may take.
    pub bytes_max: u64,
    /// Largest body of a call, in bytes.
    pub body_max: usize,
    /// Most calls delivered at a time.
    pub workers: usize,
    /// Most calls of one function delivered at a time, unless its label says otherwise.
    pub concurrency: usize,
    /// Dead letters kept.
    pub dead_max: u64,
}

impl QueueSettings {
    /// Defaults, kept in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            depth_max: 1_000_000,
            bytes_max: 16 << 30,
            // OpenFaaS' own limit.
            body_max: 256_000,
            workers: 256,
            concurrency: 32,
            dead_max: 10_000,
        }
    }
}

/// Why a call was not accepted, or a change not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// As much waits as may wait.
    #[error("the queue is full")]
    Full,
    /// Too many different functions have messages.
    #[error("calls to too many functions are waiting")]
    Functions,
    /// The disk refused.
    #[error("the call could not be kept")]
    Store,
    /// The process is ending.
    #[error("the gateway is stopping")]
    Stopping,
}

struct Order {
    change: Change,
    reply: oneshot::Sender<Result<Effect, QueueError>>,
}

/// The queue of one gateway; shared by all who use it.
pub struct Queue {
    pub(crate) settings: QueueSettings,
    store: Arc<Store>,
    lanes: Mutex<Lanes>,
    totals: Mutex<Totals>,
    /// Told when a delivery may have become possible.
    wake: Notify,
    orders: mpsc::Sender<Order>,
    inbox: Mutex<Option<mpsc::Receiver<Order>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens the queue and finds what waits in it.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be used, or another process uses it.
    pub fn open(settings: QueueSettings) -> Result<Self, StoreError> {
        let dead = DeadLimits { count: settings.dead_max, bytes: DEAD_BYTES };
        let store = Arc::new(Store::open(&settings.directory, dead)?);
        let (functions, totals) = store.load()?;
        let mut lanes = Lanes::new(settings.workers.max(1));
        for (function, count, due_ms) in functions {
            lanes.kept(&function, due_ms, count);
        }
        info!(waiting = totals.messages, dead = totals.dead, "queue of asynchronous calls opened");
        let (orders, inbox) = mpsc::channel(CHANGES_MAX);
        Ok(Self {
            settings,
            store,
            lanes: Mutex::new(lanes),
            totals: Mutex::new(totals),
            wake: Notify::new(),
            orders,
            inbox: Mutex::new(Some(inbox)),
        })
    }

    /// Keeps `message`; when this returns, it is on disk.
    ///
    /// # Errors
    /// [`QueueError`]; then it is not kept.
    pub(crate) async fn put(&self, message: Message) -> Result<(), QueueError> {
        let totals = self.totals();
        let bytes = u64::try_from(message.body.len()).unwrap_or(u64::MAX);
        if totals.messages >= self.settings.depth_max
            || totals.bytes.saturating_add(bytes) > self.settings.bytes_max
        {
            return Err(QueueError::Full);
        }
        let has_room = {
            let lanes = self.lanes();
            lanes.functions() < FUNCTIONS_MAX || lanes.has(&message.head.function)
        };
        if !has_room {
            return Err(QueueError::Functions);
        }
        self.change(Change::Put(Box::new(message))).await.map(|_| ())
    }

    /// Lets a dead letter wait again, as if it were new; whether there was one.
    ///
    /// # Errors
    /// [`QueueError`] when the disk refuses.
    pub(crate) async fn redrive(&self, id: u64) -> Result<bool, QueueError> {
        let change = Change::Redrive { id, now_ms: now_ms() };
        Ok(self.change(change).await? != Effect::Nothing)
    }

    /// Forgets a dead letter; whether there was one.
    ///
    /// # Errors
    /// [`QueueError`] when the disk refuses.
    pub(crate) async fn remove_dead(&self, id: u64) -> Result<bool, QueueError> {
        Ok(self.change(Change::RemoveDead(id)).await? != Effect::Nothing)
    }

    async fn change(&self, change: Change) -> Result<Effect, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { change, reply }).await.map_err(|_| QueueError::Stopping)?;
        answer.await.map_err(|_| QueueError::Stopping)?
    }

    /// What waits altogether.
    pub(crate) fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deliveries under way.
    pub(crate) fn running(&self) -> usize {
        self.lanes().running()
    }

    /// All functions with messages, by name.
    pub(crate) fn views(&self) -> Vec<(Arc<str>, LaneView)> {
        let mut views = self.lanes().views();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        views
    }

    /// When the oldest message of each of `functions` was accepted, in Unix milliseconds.
    pub(crate) async fn oldest(&self, functions: Vec<Arc<str>>) -> Vec<Option<u64>> {
        let oldest = self.read(move |store| {
            functions.iter().map(|function| store.oldest(function)).collect::<Result<_, _>>()
        });
        oldest.await.unwrap_or_default()
    }

    /// Up to `limit` dead letters with numbers above `after`, of `function` if given, oldest first.
    pub(crate) async fn dead(
        &self,
        after: u64,
        function: Option<String>,
        limit: usize,
    ) -> Option<Vec<DeadLetter>> {
        self.read(move |store| store.dead(after, function.as_deref(), limit)).await
    }

    /// A dead letter; `None` when there is none of that number.
    pub(crate) async fn dead_letter(&self, id: u64) -> Option<Message> {
        self.read(move |store| store.dead_letter(id)).await.flatten()
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

    async fn fetch(
        &self,
        function: Arc<str>,
        taken: HashSet<u64>,
        limit: usize,
    ) -> Option<Fetched> {
        self.read(move |store| store.fetch(&function, &taken, limit, now_ms())).await
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes changes to the disk, many at a time, until `end`, and then what was ordered before it.
    ///
    /// Has to run for as long as anybody uses the queue; only the first call does anything.
    pub(crate) async fn write(&self, end: CancellationToken) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut orders = Vec::new();
        loop {
            tokio::select! {
                count = inbox.recv_many(&mut orders, CHANGES_MAX) => if count == 0 { return },
                () = end.cancelled(), if !inbox.is_closed() => inbox.close(),
            }
            if !orders.is_empty() {
                self.commit(std::mem::take(&mut orders)).await;
            }
        }
    }

    async fn commit(&self, orders: Vec<Order>) {
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
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        {
            let mut lanes = self.lanes();
            for effect in &effects {
                match effect {
                    Effect::Waits(place) => lanes.kept(&place.function, place.due_ms, 1),
                    Effect::Settled(place, due_ms) => lanes.settled(place, *due_ms),
                    Effect::Removed | Effect::Nothing => {}
                }
            }
        }
        self.wake.notify_one();
        for (effect, reply) in effects.into_iter().zip(replies) {
            let _ = reply.send(Ok(effect));
        }
    }
}

/// The wall time in Unix milliseconds: what is stored has to mean the same after a restart.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}
