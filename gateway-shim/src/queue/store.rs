//! The queue's durable form: one embedded database.
//!
//! In: batches of [`Change`]s, each batch one durable transaction. Out: what they did, and messages read back.
//! Always: when [`Store::apply`] returns, the whole batch is on disk; when it fails, nothing of it is. One process at a
//! time; directory and file belong to their owner alone. Reads do not wait for writes.
//! Units: times are Unix milliseconds.
//! Touches: `async.redb` in the queue's directory. Calls block on the disk.

use std::collections::{BTreeMap, HashSet};
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
};
use tracing::warn;

use super::lanes::Place;
use super::message::{Death, Head, Message};

/// The database's file name.
const FILE: &str = "async.redb";
/// What this code writes; a newer number means a newer gateway wrote the file.
const FORMAT: u64 = 1;
/// Memory the database may keep pages in; reads are mostly of the oldest messages and so of few pages.
const CACHE_BYTES: usize = 16 << 20;

type WaitingKey = (&'static str, u64, u64);
/// (function, due, id) → message.
const WAITING: TableDefinition<'static, WaitingKey, &[u8]> = TableDefinition::new("waiting");
/// Id → message with its death; ids grow, so the first is the oldest.
const DEAD: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("dead");
/// Function → (messages, their bytes).
const COUNTS: TableDefinition<'static, &str, (u64, u64)> = TableDefinition::new("counts");
/// `format`, `next_id`, `dead_bytes`.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// Why the queue could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the database.
    #[error("another gateway is running on {0}: only one may use a queue directory")]
    InUse(PathBuf),
    /// The directory or file cannot be used.
    #[error("cannot use queue directory {path}: {error}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A newer gateway wrote the file.
    #[error(
        "the queue has format {0}, this gateway reads up to {FORMAT}: install the newer gateway"
    )]
    Format(u64),
    /// The database failed.
    #[error("queue database: {0}")]
    Database(#[source] Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// How much is kept of what was given up; the oldest goes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadLimits {
    /// Dead letters.
    pub(crate) count: u64,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
}

/// A new message as it is kept: encoded by whoever brings it, as a store may have one writer for all.
#[derive(Debug, Clone)]
pub(crate) struct NewMessage {
    /// Whose it is.
    pub(crate) function: Arc<str>,
    /// When it was accepted, and is due.
    pub(crate) accepted_ms: u64,
    /// What [`Message::encode`] made of it.
    pub(crate) bytes: Bytes,
}

impl From<&Message> for NewMessage {
    fn from(message: &Message) -> Self {
        let Head { function, accepted_ms, .. } = &message.head;
        let (function, accepted_ms) = (function.as_str().into(), *accepted_ms);
        Self { function, accepted_ms, bytes: message.encode() }
    }
}

/// One change of what is kept.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Keep a new message, due when it was accepted.
    Put(NewMessage),
    /// Forget a delivered one.
    Done(Place),
    /// Keep it for another attempt.
    Retry {
        /// Where it is.
        place: Place,
        /// Attempts that have ended.
        attempts: u32,
        /// When it is due again.
        due_ms: u64,
    },
    /// Make it a dead letter.
    Bury {
        /// Where it is.
        place: Place,
        /// Attempts that have ended.
        attempts: u32,
        /// Why.
        death: Death,
    },
    /// Let a dead letter wait again as if it were new.
    Redrive {
        /// Which one.
        id: u64,
        /// The present.
        now_ms: u64,
    },
    /// Forget a dead letter.
    RemoveDead(u64),
}

/// What a change did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A message now waits here.
    Waits(Place),
    /// A message waits no more, or waits elsewhere from the given time.
    Settled(Place, Option<u64>),
    /// A dead letter is gone.
    Removed,
    /// There was nothing to change.
    Nothing,
}

/// What all functions have waiting.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Messages.
    pub(crate) messages: u64,
    /// Their bytes, heads included.
    pub(crate) bytes: u64,
    /// Dead letters.
    pub(crate) dead: u64,
}

/// A function with messages: how many, and when the first is due.
pub(crate) type Waiting = (Arc<str>, u64, u64);

/// What a fetch found.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    /// Due messages, earliest first.
    pub(crate) messages: Vec<(Place, Message)>,
    /// When the first of those left is due.
    pub(crate) next_ms: Option<u64>,
    /// Messages that cannot be read.
    pub(crate) damaged: Vec<Place>,
}

/// A dead letter in a list: its number, its head, the length of its body.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) id: u64,
    pub(crate) head: Head,
    pub(crate) body_bytes: usize,
}

/// The database; one that has failed is opened anew by the next change.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    dead: DeadLimits,
    database: RwLock<Option<Arc<Database>>>,
}

impl Store {
    /// Opens the database in `directory`, making both where they are missing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::InUse`] when another process has it open.
    pub(crate) fn open(directory: &Path, dead: DeadLimits) -> Result<Self, StoreError> {
        let database = open(directory)?;
        let write = database.begin_write()?;
        {
            write.open_table(WAITING)?;
            write.open_table(DEAD)?;
            write.open_table(COUNTS)?;
            let mut meta = write.open_table(META)?;
            let format = number(&meta, "format")?.unwrap_or(FORMAT);
            if format > FORMAT {
                return Err(StoreError::Format(format));
            }
            meta.insert("format", FORMAT)?;
        }
        write.commit()?;
        let database = RwLock::new(Some(Arc::new(database)));
        Ok(Self { directory: directory.to_owned(), dead, database })
    }

    /// Carries out `changes` in order as one durable transaction; what each did, and the totals then.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; then none of them was done.
    pub(crate) fn apply(&self, changes: &[Change]) -> Result<(Vec<Effect>, Totals), StoreError> {
        let result = self.database().and_then(|database| self.try_apply(&database, changes));
        if result.is_err() {
            // A database that once met a full disk refuses everything until it is opened anew.
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    fn try_apply(
        &self,
        database: &Database,
        changes: &[Change],
    ) -> Result<(Vec<Effect>, Totals), StoreError> {
        let write = database.begin_write()?;
        let mut effects = Vec::with_capacity(changes.len());
        let totals;
        {
            let meta = write.open_table(META)?;
            let next_id = number(&meta, "next_id")?.unwrap_or(1);
            let mut batch = Batch {
                waiting: write.open_table(WAITING)?,
                dead: write.open_table(DEAD)?,
                counts: write.open_table(COUNTS)?,
                meta,
                next_id,
                deltas: BTreeMap::new(),
            };
            for change in changes {
                effects.push(batch.carry_out(change)?);
            }
            batch.count()?;
            batch.bound_dead(self.dead)?;
            totals = batch.totals()?;
        }
        write.commit()?;
        Ok((effects, totals))
    }

    /// Every function with messages: how many, and when the first is due.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn load(&self) -> Result<(Vec<Waiting>, Totals), StoreError> {
        let read = self.database()?.begin_read()?;
        let (counts, waiting) = (read.open_table(COUNTS)?, read.open_table(WAITING)?);
        let mut functions = Vec::new();
        let mut totals = Totals { dead: read.open_table(DEAD)?.len()?, ..Totals::default() };
        for row in counts.iter()? {
            let (function, count) = row?;
            let (messages, bytes) = count.value();
            totals.messages += messages;
            totals.bytes += bytes;
            let function: Arc<str> = function.value().into();
            if let Some((key, _)) = waiting.range(range(&function))?.next().transpose()? {
                functions.push((Arc::clone(&function), messages, key.value().1));
            }
        }
        Ok((functions, totals))
    }

    /// Up to `limit` messages of `function` that are due at `now_ms` and not in `taken`.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn fetch(
        &self,
        function: &Arc<str>,
        taken: &HashSet<u64>,
        limit: usize,
        now_ms: u64,
    ) -> Result<Fetched, StoreError> {
        let read = self.database()?.begin_read()?;
        let waiting = read.open_table(WAITING)?;
        let mut fetched = Fetched::default();
        for row in waiting.range(range(function))? {
            let (key, bytes) = row?;
            let (_, due_ms, id) = key.value();
            if taken.contains(&id) {
                continue;
            }
            if due_ms > now_ms || fetched.messages.len() + fetched.damaged.len() >= limit {
                fetched.next_ms = Some(due_ms);
                break;
            }
            let place = Place { function: Arc::clone(function), due_ms, id };
            match Message::decode(bytes.value()) {
                Ok(message) => fetched.messages.push((place, message)),
                Err(_) => fetched.damaged.push(place),
            }
        }
        Ok(fetched)
    }

    /// When the message of `function` that is due first was accepted.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn oldest(&self, function: &str) -> Result<Option<u64>, StoreError> {
        let read = self.database()?.begin_read()?;
        let first = read.open_table(WAITING)?.range(range(function))?.next().transpose()?;
        Ok(first.and_then(|(_, bytes)| Some(Head::decode(bytes.value()).ok()?.0.accepted_ms)))
    }

    /// Up to `limit` dead letters with numbers above `after`, of `function` if given, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn dead(
        &self,
        after: u64,
        function: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let read = self.database()?.begin_read()?;
        let dead = read.open_table(DEAD)?;
        let mut letters = Vec::new();
        for row in dead.range(after.saturating_add(1)..)? {
            let (id, bytes) = row?;
            let Ok((head, body_bytes)) = Head::decode(bytes.value()) else { continue };
            if function.is_none_or(|function| head.function == function) {
                letters.push(DeadLetter { id: id.value(), head, body_bytes });
            }
            if letters.len() >= limit {
                break;
            }
        }
        Ok(letters)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn dead_letter(&self, id: u64) -> Result<Option<Message>, StoreError> {
        let read = self.database()?.begin_read()?;
        let bytes = read.open_table(DEAD)?.get(id)?;
        Ok(bytes.and_then(|bytes| Message::decode(bytes.value()).ok()))
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        if let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(database));
        }
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => Arc::new(open(&self.directory)?),
        };
        *slot = Some(Arc::clone(&database));
        Ok(database)
    }
}

/// One transaction's tables.
struct Batch<'t> {
    waiting: Table<'t, WaitingKey, &'static [u8]>,
    dead: Table<'t, u64, &'static [u8]>,
    counts: Table<'t, &'static str, (u64, u64)>,
    meta: Table<'t, &'static str, u64>,
    /// The next new message's number; written once for the whole batch.
    next_id: u64,
    /// Change of messages and bytes by function.
    deltas: BTreeMap<Arc<str>, (i64, i64)>,
}

impl Batch<'_> {
    fn carry_out(&mut self, change: &Change) -> Result<Effect, StoreError> {
        match change {
            Change::Put(message) => self.put(message).map(Effect::Waits),
            Change::Done(place) => {
                self.take(place)?;
                Ok(Effect::Settled(place.clone(), None))
            }
            Change::Retry { place, attempts, due_ms } => {
                let Some(mut message) = self.take(place)? else {
                    return Ok(Effect::Settled(place.clone(), None));
                };
                message.head.attempts = *attempts;
                self.insert(&Place { due_ms: *due_ms, ..place.clone() }, &message.encode())?;
                Ok(Effect::Settled(place.clone(), Some(*due_ms)))
            }
            Change::Bury { place, attempts, death } => {
                if let Some(mut message) = self.take(place)? {
                    message.head.attempts = *attempts;
                    message.head.death = Some(death.clone());
                    let bytes = message.encode();
                    self.dead.insert(place.id, &*bytes)?;
                    self.add_dead_bytes(signed(bytes.len()))?;
                }
                Ok(Effect::Settled(place.clone(), None))
            }
            Change::Redrive { id, now_ms } => self.redrive(*id, *now_ms),
            Change::RemoveDead(id) => {
                Ok(if self.take_dead(*id)?.is_some() { Effect::Removed } else { Effect::Nothing })
            }
        }
    }

    fn put(&mut self, message: &NewMessage) -> Result<Place, StoreError> {
        let NewMessage { function, accepted_ms: due_ms, bytes } = message;
        let place = Place { function: Arc::clone(function), due_ms: *due_ms, id: self.next_id };
        self.next_id += 1;
        self.insert(&place, bytes)?;
        Ok(place)
    }

    fn insert(&mut self, place: &Place, bytes: &[u8]) -> Result<(), StoreError> {
        self.waiting.insert((&*place.function, place.due_ms, place.id), bytes)?;
        self.note(&place.function, 1, signed(bytes.len()));
        Ok(())
    }

    /// Takes a message out of the waiting ones; one that is damaged just goes.
    fn take(&mut self, place: &Place) -> Result<Option<Message>, StoreError> {
        let key = (&*place.function, place.due_ms, place.id);
        let (length, message) = match self.waiting.remove(key)? {
            Some(bytes) => (signed(bytes.value().len()), Message::decode(bytes.value()).ok()),
            None => return Ok(None),
        };
        self.note(&place.function, -1, -length);
        Ok(message)
    }

    fn redrive(&mut self, id: u64, now_ms: u64) -> Result<Effect, StoreError> {
        let Some(mut message) = self.take_dead(id)? else { return Ok(Effect::Nothing) };
        message.head.attempts = 0;
        message.head.accepted_ms = now_ms;
        message.head.death = None;
        self.put(&NewMessage::from(&message)).map(Effect::Waits)
    }

    fn take_dead(&mut self, id: u64) -> Result<Option<Message>, StoreError> {
        let (length, message) = match self.dead.remove(id)? {
            Some(bytes) => (signed(bytes.value().len()), Message::decode(bytes.value()).ok()),
            None => return Ok(None),
        };
        self.add_dead_bytes(-length)?;
        Ok(message)
    }

    fn add_dead_bytes(&mut self, bytes: i64) -> Result<(), StoreError> {
        let sum = number(&self.meta, "dead_bytes")?.unwrap_or(0).saturating_add_signed(bytes);
        self.meta.insert("dead_bytes", sum)?;
        Ok(())
    }

    fn note(&mut self, function: &Arc<str>, messages: i64, bytes: i64) {
        let delta = self.deltas.entry(Arc::clone(function)).or_default();
        delta.0 += messages;
        delta.1 += bytes;
    }

    /// Writes the functions' new counts, and which number is next.
    fn count(&mut self) -> Result<(), StoreError> {
        self.meta.insert("next_id", self.next_id)?;
        for (function, (messages, bytes)) in std::mem::take(&mut self.deltas) {
            let old = self.counts.get(&*function)?.map_or((0, 0), |count| count.value());
            let messages_now = old.0.saturating_add_signed(messages);
            let bytes_now = old.1.saturating_add_signed(bytes);
            if messages_now == 0 {
                self.counts.remove(&*function)?;
            } else {
                self.counts.insert(&*function, (messages_now, bytes_now))?;
            }
            let total =
                number(&self.meta, "messages")?.unwrap_or(0).saturating_add_signed(messages);
            self.meta.insert("messages", total)?;
            let total = number(&self.meta, "bytes")?.unwrap_or(0).saturating_add_signed(bytes);
            self.meta.insert("bytes", total)?;
        }
        Ok(())
    }

    /// Drops the oldest dead letters while there are too many.
    fn bound_dead(&mut self, limits: DeadLimits) -> Result<(), StoreError> {
        loop {
            let bytes = number(&self.meta, "dead_bytes")?.unwrap_or(0);
            if self.dead.len()? <= limits.count && bytes <= limits.bytes {
                return Ok(());
            }
            let Some(first) = self.dead.first()?.map(|(id, _)| id.value()) else { return Ok(()) };
            if let Some(message) = self.take_dead(first)? {
                let Head { function, call_id, .. } = message.head;
                warn!(function, call_id, "too many dead letters, the oldest is dropped");
            }
        }
    }

    fn totals(&self) -> Result<Totals, StoreError> {
        Ok(Totals {
            messages: number(&self.meta, "messages")?.unwrap_or(0),
            bytes: number(&self.meta, "bytes")?.unwrap_or(0),
            dead: self.dead.len()?,
        })
    }
}

/// The keys of all messages of `function`.
fn range(function: &str) -> std::ops::RangeInclusive<(&str, u64, u64)> {
    (function, 0, 0)..=(function, u64::MAX, u64::MAX)
}

fn number(
    meta: &impl ReadableTable<&'static str, u64>,
    key: &str,
) -> Result<Option<u64>, StoreError> {
    Ok(meta.get(key)?.map(|value| value.value()))
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn open(directory: &Path) -> Result<Database, StoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| StoreError::Directory { path, error }
    };
    make_private(directory).map_err(at(directory))?;
    let path = directory.join(FILE);
    let created = Database::builder().set_cache_size(CACHE_BYTES).create(&path);
    let database = created.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(directory.to_owned()),
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => at(&path)(error),
        other => other.into(),
    })?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(at(&path))?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(at(directory))?;
    Ok(database)
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::message;
    use super::super::retry::Reason;
    use super::*;

    const LIMITS: DeadLimits = DeadLimits { count: 3, bytes: 10_000 };

    fn death() -> Death {
        Death { at_ms: 50, reason: Reason::Attempts, status: Some(503) }
    }

    fn put(store: &Store, function: &str, at_ms: u64) -> Place {
        match store
            .apply(&[Change::Put(NewMessage::from(&message(function, at_ms)))])
            .unwrap()
            .0
            .pop()
            .unwrap()
        {
            Effect::Waits(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_applied_is_there_after_opening_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), LIMITS).unwrap();
        put(&store, "f.ns", 10);
        let second = put(&store, "f.ns", 5);
        put(&store, "g.ns", 7);
        let place = put(&store, "h.ns", 7);
        store
            .apply(&[Change::Done(place), Change::Retry { place: second, attempts: 1, due_ms: 30 }])
            .unwrap();
        drop(store);
        let store = Store::open(directory.path(), LIMITS).unwrap();
        let (functions, totals) = store.load().unwrap();
        assert_eq!(functions, [("f.ns".into(), 2, 10), ("g.ns".into(), 1, 7)]);
        assert_eq!((totals.messages, totals.dead), (3, 0));
        let fetched = store.fetch(&"f.ns".into(), &HashSet::new(), 9, 20).unwrap();
        assert_eq!((fetched.messages.len(), fetched.next_ms), (1, Some(30)));
        assert_eq!(fetched.messages[0].1, message("f.ns", 10));
        let all = store.fetch(&"f.ns".into(), &HashSet::new(), 9, 30).unwrap();
        assert_eq!(all.messages[1].1.head.attempts, 1);
        assert_eq!(store.oldest("f.ns").unwrap(), Some(10));
    }

    #[test]
    fn a_fetch_skips_what_is_taken_and_takes_no_more_than_asked() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), LIMITS).unwrap();
        let places: Vec<_> = (0..5).map(|at| put(&store, "f.ns", at)).collect();
        put(&store, "f.nss", 0);
        let fetched = store.fetch(&"f.ns".into(), &HashSet::from([places[0].id]), 2, 9).unwrap();
        let ids: Vec<_> = fetched.messages.iter().map(|(place, _)| place.id).collect();
        assert_eq!((ids, fetched.next_ms), (vec![places[1].id, places[2].id], Some(3)));
    }

    #[test]
    fn dead_letters_are_bounded_and_can_be_driven_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), LIMITS).unwrap();
        let mut totals = Totals::default();
        for at in 0..5 {
            let place = put(&store, "f.ns", at);
            totals = store.apply(&[Change::Bury { place, attempts: 1, death: death() }]).unwrap().1;
        }
        assert_eq!((totals.messages, totals.bytes, totals.dead), (0, 0, 3));
        let dead = store.dead(0, Some("f.ns"), 9).unwrap();
        assert_eq!(dead.iter().map(|letter| letter.id).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(dead[0].head.death, Some(death()));
        assert!(store.dead(0, Some("g.ns"), 9).unwrap().is_empty());
        assert_eq!(store.dead_letter(4).unwrap().unwrap().body, "body");
        let changes = [
            Change::Redrive { id: 3, now_ms: 99 },
            Change::Redrive { id: 3, now_ms: 99 },
            Change::RemoveDead(4),
        ];
        let (effects, totals) = store.apply(&changes).unwrap();
        let place = Place { function: "f.ns".into(), due_ms: 99, id: 6 };
        assert_eq!(effects, [Effect::Waits(place), Effect::Nothing, Effect::Removed]);
        assert_eq!((totals.messages, totals.dead), (1, 1));
        let again = store.fetch(&"f.ns".into(), &HashSet::new(), 1, 99).unwrap();
        assert_eq!(
            (again.messages[0].1.head.attempts, &again.messages[0].1.head.death),
            (0, &None)
        );
    }

    #[test]
    fn a_second_process_is_refused_and_only_the_owner_may_look() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/queue");
        let _store = Store::open(&path, LIMITS).unwrap();
        assert!(matches!(Store::open(&path, LIMITS), Err(StoreError::InUse(_))));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(FILE))), (0o700, 0o600));
    }
}
