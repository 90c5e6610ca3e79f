//! Asynchronous calls: kept on disk before they are accepted, delivered later.
//!
//! [`Queue::put`] returns once the call is on disk; whatever happens to the process after that, the call is delivered: exactly
//! once by a process that lives, at least once when it is killed between a function's answer and the note of it.
//! [`message`], [`retry`] and [`lanes`] are pure; [`disk`] or [`nats`] keeps what waits, [`pump`] delivers.
//! Always: memory grows with what is in flight, not with what waits; the number of messages, their bytes, the functions
//! that have some, and the dead letters are bounded.

mod disk;
pub(crate) mod lanes;
pub(crate) mod message;
mod nats;
pub(crate) mod pump;
pub(crate) mod retry;
mod store;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::disk::Disk;
use self::lanes::{LaneView, Lanes};
use self::message::Message;
use self::nats::{Nats, StreamLimits};
use self::store::{Change, DeadLetter, DeadLimits, Effect, Fetched, NewMessage, Totals};

pub use self::nats::NatsSettings;
pub use self::store::StoreError;

/// Functions that may have messages at the same time: bounds memory against calls to made-up names.
const FUNCTIONS_MAX: usize = 10_000;
/// Bytes of all dead letters.
const DEAD_BYTES: u64 = 1 << 30;

/// How the queue is set up.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Where it is kept on disk; belongs to one process alone. Not used with `nats`.
    pub directory: PathBuf,
    /// The servers that keep it instead, for several gateways together.
    pub nats: Option<NatsSettings>,
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
            nats: None,
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
    /// The disk, or the NATS server, refused.
    #[error("the call could not be kept")]
    Store,
    /// The disk, or what is on it, cannot be read.
    #[error("the queue cannot be read")]
    Read,
    /// The NATS server does not answer.
    #[error("the queue cannot be reached")]
    Away,
    /// The NATS server takes no message of this size.
    #[error("the call is larger than the queue takes")]
    TooLarge,
    /// No function can have so long a name.
    #[error("no function has so long a name")]
    Name,
    /// The process is ending.
    #[error("the gateway is stopping")]
    Stopping,
}

/// What keeps the messages.
#[derive(Debug)]
enum Backing {
    /// An embedded database, of one gateway.
    Disk(Disk),
    /// Streams of NATS JetStream, of any number of gateways.
    Nats(Box<Nats>),
}

/// The queue of one gateway, or its part in a shared one; shared by all who use it.
pub struct Queue {
    pub(crate) settings: QueueSettings,
    backing: Backing,
    lanes: Mutex<Lanes>,
    totals: Mutex<Totals>,
    /// Told when a delivery may have become possible.
    wake: Notify,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens the queue; one on disk finds what waits in it now, one in NATS once a server answers.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be used, or another process uses it.
    pub fn open(settings: QueueSettings) -> Result<Self, StoreError> {
        let dead = DeadLimits { count: settings.dead_max, bytes: DEAD_BYTES };
        let mut lanes = Lanes::new(settings.workers.max(1));
        let mut totals = Totals::default();
        let backing = if let Some(nats) = settings.nats.clone() {
            let limits =
                StreamLimits { messages: settings.depth_max, bytes: settings.bytes_max, dead };
            Backing::Nats(Box::new(Nats::new(nats, limits)))
        } else {
            let (disk, functions);
            (disk, functions, totals) = Disk::open(&settings.directory, dead)?;
            for (function, count, due_ms) in functions {
                lanes.kept(&function, due_ms, count);
            }
            info!(
                waiting = totals.messages,
                dead = totals.dead,
                "queue of asynchronous calls opened"
            );
            Backing::Disk(disk)
        };
        let (lanes, totals) = (Mutex::new(lanes), Mutex::new(totals));
        Ok(Self { settings, backing, lanes, totals, wake: Notify::new() })
    }

    /// Keeps `message`; when this returns, it is on disk, or acknowledged by NATS.
    ///
    /// # Errors
    /// [`QueueError`]; then it is not kept.
    pub(crate) async fn put(&self, message: Message) -> Result<(), QueueError> {
        // NATS itself refuses what is too much: it alone knows what other gateways have put there.
        if matches!(self.backing, Backing::Disk(_)) {
            let totals = self.totals();
            let bytes = u64::try_from(message.body.len()).unwrap_or(u64::MAX);
            if totals.messages >= self.settings.depth_max
                || totals.bytes.saturating_add(bytes) > self.settings.bytes_max
            {
                return Err(QueueError::Full);
            }
        }
        let has_room = {
            let lanes = self.lanes();
            lanes.functions() < FUNCTIONS_MAX || lanes.has(&message.head.function)
        };
        if !has_room {
            return Err(QueueError::Functions);
        }
        self.change(Change::Put(NewMessage::from(&message))).await.map(|_| ())
    }

    /// Lets a dead letter wait again, as if it were new; whether there was one.
    ///
    /// # Errors
    /// [`QueueError`] when the store refuses.
    pub(crate) async fn redrive(&self, id: u64) -> Result<bool, QueueError> {
        let change = Change::Redrive { id, now_ms: now_ms() };
        Ok(self.change(change).await? != Effect::Nothing)
    }

    /// Forgets a dead letter; whether there was one.
    ///
    /// # Errors
    /// [`QueueError`] when the store refuses.
    pub(crate) async fn remove_dead(&self, id: u64) -> Result<bool, QueueError> {
        Ok(self.change(Change::RemoveDead(id)).await? != Effect::Nothing)
    }

    async fn change(&self, change: Change) -> Result<Effect, QueueError> {
        match &self.backing {
            // Its writer notes the effects of a whole batch at once.
            Backing::Disk(disk) => disk.change(change).await,
            Backing::Nats(nats) => {
                let effect = nats.change(change).await?;
                self.note(std::slice::from_ref(&effect));
                Ok(effect)
            }
        }
    }

    /// Brings what is known of a shared queue up to date; whether that worked. One on disk always is.
    pub(crate) async fn refresh(&self) -> bool {
        match &self.backing {
            Backing::Disk(_) => true,
            Backing::Nats(nats) => nats.observe(self).await,
        }
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
        match &self.backing {
            Backing::Disk(disk) => disk.oldest(functions).await,
            Backing::Nats(nats) => nats.oldest(functions).await,
        }
    }

    /// Up to `limit` dead letters with numbers above `after`, of `function` if given, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Read`] or [`QueueError::Away`].
    pub(crate) async fn dead(
        &self,
        after: u64,
        function: Option<String>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        match &self.backing {
            Backing::Disk(disk) => disk.dead(after, function, limit).await.ok_or(QueueError::Read),
            Backing::Nats(nats) => nats.dead(after, function.as_deref(), limit).await,
        }
    }

    /// A dead letter; `None` when there is none of that number.
    ///
    /// # Errors
    /// [`QueueError::Read`] or [`QueueError::Away`].
    pub(crate) async fn dead_letter(&self, id: u64) -> Result<Option<Message>, QueueError> {
        match &self.backing {
            Backing::Disk(disk) => disk.dead_letter(id).await.ok_or(QueueError::Read),
            Backing::Nats(nats) => nats.dead_letter(id).await,
        }
    }

    async fn fetch(
        &self,
        function: Arc<str>,
        taken: HashSet<u64>,
        limit: usize,
    ) -> Option<Fetched> {
        match &self.backing {
            Backing::Disk(disk) => disk.fetch(function, taken, limit).await,
            Backing::Nats(nats) => nats.fetch(&function, limit).await,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the store's own work until `end`, and then what was ordered before it.
    ///
    /// Has to run for as long as anybody uses the queue; only the first call does anything.
    pub(crate) async fn write(&self, end: CancellationToken) {
        match &self.backing {
            Backing::Disk(disk) => disk.write(self, end).await,
            Backing::Nats(nats) => nats.run(self, end).await,
        }
    }

    /// Notes what changes did, so that deliveries follow.
    fn note(&self, effects: &[Effect]) {
        {
            let mut lanes = self.lanes();
            for effect in effects {
                match effect {
                    Effect::Waits(place) => lanes.kept(&place.function, place.due_ms, 1),
                    Effect::Settled(place, due_ms) => lanes.settled(place, *due_ms),
                    Effect::Removed | Effect::Nothing => {}
                }
            }
        }
        self.wake.notify_one();
    }

    /// Notes what all functions have waiting.
    fn count(&self, totals: Totals) {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
    }

    /// Notes how many messages each function has in a shared queue: others put and take, too.
    fn observed(&self, depths: &[(Arc<str>, u64)], totals: Totals) {
        self.count(totals);
        self.lanes().observed(depths, now_ms());
        self.wake.notify_one();
    }
}

/// The wall time in Unix milliseconds: what is stored has to mean the same after a restart.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}
