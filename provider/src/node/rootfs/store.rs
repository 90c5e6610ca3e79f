//! The directory of roots and the account of its bytes.
//!
//! Always: a directory gets an image's id by one rename, after all of it is on disk, and loses it by one rename, before any
//! of it is removed; the account is charged before bytes are written.
//! Blocking: everything here; callers are on threads that may wait.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use rustix::fs::{CWD, Timespec, Timestamps, UTIME_NOW};
use tracing::{info, warn};
use uuid::Uuid;

use super::unpack::UnpackError;
use super::{Facts, Held, Root, RootId};

/// What a root is, beside it.
const FACTS: &str = "root.json";
/// The root itself.
pub(super) const ROOT: &str = "root";
/// Before the name of a directory that is being made.
const NEW: &str = ".new-";
/// Before the name of a directory that is being removed.
const GONE: &str = ".gone-";

#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    budget: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    roots: HashMap<RootId, Known>,
    /// Bytes charged for roots that are being made.
    making: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Debug)]
struct Known {
    facts: Facts,
    held: Weak<Held>,
    used: u64,
}

/// A directory being filled; removed when dropped before it is kept.
#[derive(Debug)]
pub(super) struct Draft {
    store: Arc<Store>,
    path: PathBuf,
    charged: u64,
}

impl Store {
    pub(super) fn open(directory: &Path, budget: u64) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut found: Vec<(SystemTime, RootId, Facts)> = Vec::new();
        let mut remains = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(RootId::parse);
            match id.and_then(|id| read_facts(&entry.path()).map(|(used, facts)| (used, id, facts)))
            {
                Some(root) => found.push(root),
                None => remains.push(entry.path()),
            }
        }
        found.sort_by_key(|(used, ..)| *used);
        let mut state = State::default();
        for (_, id, facts) in found {
            state.now += 1;
            state.roots.insert(id, Known { facts, held: Weak::new(), used: state.now });
        }
        if !remains.is_empty() {
            std::thread::spawn(move || remains.iter().for_each(|path| delete(path)));
        }
        Ok(Self { directory: directory.to_owned(), budget, state: Mutex::new(state) })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn hold(&self, id: &RootId) -> Option<Root> {
        let mut state = self.state.lock().expect("no panic while held");
        state.now += 1;
        let now = state.now;
        let known = state.roots.get_mut(id)?;
        known.used = now;
        let held = known
            .held
            .upgrade()
            .unwrap_or_else(|| Arc::new(Held { id: id.clone(), facts: known.facts.clone() }));
        known.held = Arc::downgrade(&held);
        drop(state);
        // For the order of uses after the next start; nothing depends on it.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let path = self.directory.join(id.as_str()).join(FACTS);
        let _ = rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty());
        Some(Root(held))
    }

    pub(super) fn bytes(&self, id: &RootId) -> Option<u64> {
        let state = self.state.lock().expect("no panic while held");
        state.roots.get(id).map(|known| known.facts.bytes)
    }

    pub(super) fn count(&self) -> usize {
        self.state.lock().expect("no panic while held").roots.len()
    }

    pub(super) fn used(&self) -> u64 {
        self.state.lock().expect("no panic while held").used()
    }

    /// A new directory to be filled.
    pub(super) fn draft(self: &Arc<Self>) -> io::Result<Draft> {
        let path = self.directory.join(format!("{NEW}{}", Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let draft = Draft { store: Arc::clone(self), path, charged: 0 };
        std::fs::DirBuilder::new().mode(0o755).create(draft.root())?;
        Ok(draft)
    }

    /// Removes what is neither in `live` nor held.
    pub(super) fn collect(&self, live: &HashSet<RootId>) -> usize {
        let mut state = self.state.lock().expect("no panic while held");
        let unused: Vec<RootId> = state
            .roots
            .iter()
            .filter(|(id, known)| !live.contains(id) && known.held.strong_count() == 0)
            .map(|(id, _)| id.clone())
            .collect();
        let gone: Vec<PathBuf> = unused.iter().filter_map(|id| self.take(&mut state, id)).collect();
        drop(state);
        gone.iter().for_each(|path| delete(path));
        gone.len()
    }

    /// Makes room for `bytes` and counts them as taken.
    fn charge(&self, bytes: u64) -> Result<(), UnpackError> {
        let mut gone = Vec::new();
        let mut state = self.state.lock().expect("no panic while held");
        while state.used().saturating_add(bytes) > self.budget {
            let unused = state.roots.iter().filter(|(_, known)| known.held.strong_count() == 0);
            let Some(id) = unused.min_by_key(|(_, known)| known.used).map(|(id, _)| id.clone())
            else {
                break;
            };
            gone.extend(self.take(&mut state, &id));
        }
        let fits = state.used().saturating_add(bytes) <= self.budget;
        if fits {
            state.making += bytes;
        }
        drop(state);
        gone.iter().for_each(|path| delete(path));
        if fits {
            return Ok(());
        }
        let budget = self.budget;
        Err(UnpackError::NoRoom(format!(
            "the budget of {budget} bytes for root file systems is used up"
        )))
    }

    /// Takes a root's id away, so that nobody can use it any more; the directory that is left to be removed.
    fn take(&self, state: &mut State, id: &RootId) -> Option<PathBuf> {
        let known = state.roots.remove(id)?;
        let path = self.directory.join(id.as_str());
        let gone = self.directory.join(format!("{GONE}{}", Uuid::new_v4().simple()));
        match std::fs::rename(&path, &gone) {
            Ok(()) => {
                info!(image = known.facts.reference, bytes = known.facts.bytes, "root removed");
                Some(gone)
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "root not removed");
                None
            }
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.roots.values().map(|known| known.facts.bytes).sum::<u64>().saturating_add(self.making)
    }
}

impl Draft {
    /// The directory to be filled.
    pub(super) fn root(&self) -> PathBuf {
        self.path.join(ROOT)
    }

    /// Counts bytes that are about to be written.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.store.charge(bytes)?;
        self.charged += bytes;
        Ok(())
    }

    /// Makes it the root of `id`, for good once this returns.
    pub(super) fn keep(mut self, id: &RootId, facts: Facts) -> io::Result<Root> {
        let text = serde_json::to_vec(&facts).map_err(io::Error::other)?;
        std::fs::write(self.path.join(FACTS), text)?;
        // One flush of the whole file system costs less than one for each file.
        rustix::fs::syncfs(File::open(&self.path)?.as_fd())?;
        let to = self.store.directory.join(id.as_str());
        std::fs::rename(&self.path, &to)?;
        File::open(&self.store.directory)?.sync_all()?;
        let mut state = self.store.state.lock().expect("no panic while held");
        state.making -= self.charged;
        self.charged = 0;
        state.now += 1;
        let used = state.now;
        let held = Arc::new(Held { id: id.clone(), facts: facts.clone() });
        state.roots.insert(id.clone(), Known { facts, held: Arc::downgrade(&held), used });
        Ok(Root(held))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.path.exists() {
            delete(&self.path);
        }
        let mut state = self.store.state.lock().expect("no panic while held");
        state.making -= self.charged;
    }
}

/// When a root was last used, and what it is; `None` when that is not complete.
fn read_facts(path: &Path) -> Option<(SystemTime, Facts)> {
    let file = path.join(FACTS);
    let facts = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    let used = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
    path.join(ROOT).is_dir().then_some((used, facts))
}

/// Removes a directory without following links; what cannot be removed is tried again at the next start.
fn delete(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        warn!(path = %path.display(), %error, "directory not removed");
    }
}
