//! Makes roots: export, unpack, look who the user is, keep. One making of each image at a time.
//!
//! Always: the archive is never whole in memory: a few pieces of it wait between the engine and the disk.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::StreamExt;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::store::Store;
use super::unpack::unpack;
use super::{Facts, ImageUser, Root, RootError, RootId, Status, place, user};
use crate::engine::{Engine, EngineError, Image};

/// Pieces that wait for the disk; the engine's are at most some 64 KiB.
const WAITING: usize = 16;
/// Between two progress lines in the log.
const PROGRESS: Duration = Duration::from_secs(3);
/// Longest part of `/etc/passwd` and `/etc/group` that is read, bytes.
const FILE_MAX: u64 = 1 << 20;

type Made = Shared<BoxFuture<'static, Result<Root, RootError>>>;

/// What is being made, and what could not be.
#[derive(Default)]
pub(super) struct Making(Mutex<State>);

#[derive(Default)]
struct State {
    running: HashMap<RootId, (Made, Arc<AtomicU64>)>,
    failed: HashMap<RootId, String>,
}

impl std::fmt::Debug for Making {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Making")
    }
}

impl Making {
    /// Joins the making of `id` under way, or begins it.
    pub(super) fn join(
        self: &Arc<Self>,
        store: &Arc<Store>,
        id: RootId,
        image: &Image,
        engine: &Arc<dyn Engine>,
    ) -> Made {
        let mut state = self.0.lock().expect("no panic while held");
        if let Some((made, _)) = state.running.get(&id) {
            return made.clone();
        }
        // Made since the caller looked.
        if let Some(root) = store.hold(&id) {
            return std::future::ready(Ok(root)).boxed().shared();
        }
        let (this, bytes) = (Arc::clone(self), Arc::new(AtomicU64::new(0)));
        let work = make(
            Arc::clone(store),
            id.clone(),
            image.clone(),
            Arc::clone(engine),
            Arc::clone(&bytes),
        );
        let of = id.clone();
        let task = tokio::spawn(async move {
            let result = work.await;
            let mut state = this.0.lock().expect("no panic while held");
            state.running.remove(&of);
            match &result {
                Ok(_) => state.failed.remove(&of),
                Err(error) => state.failed.insert(of, error.to_string()),
            };
            result
        });
        let made = async move { task.await.unwrap_or(Err(RootError::Ending)) }.boxed().shared();
        state.running.insert(id, (made.clone(), bytes));
        made
    }

    pub(super) fn status(&self, id: &RootId) -> Status {
        let state = self.0.lock().expect("no panic while held");
        match (state.running.get(id), state.failed.get(id)) {
            (Some((_, bytes)), _) => Status::Making { bytes: bytes.load(Ordering::Relaxed) },
            (None, Some(reason)) => Status::Failed { reason: reason.clone() },
            (None, None) => Status::Absent,
        }
    }

    /// How many are being made, and how many could not be.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.0.lock().expect("no panic while held");
        (state.running.len(), state.failed.len())
    }

    /// Forgets the failures of images nobody wants any more.
    pub(super) fn forget_all_but(&self, live: &HashSet<RootId>) {
        self.0.lock().expect("no panic while held").failed.retain(|id, _| live.contains(id));
    }
}

async fn make(
    store: Arc<Store>,
    id: RootId,
    image: Image,
    engine: Arc<dyn Engine>,
    bytes: Arc<AtomicU64>,
) -> Result<Root, RootError> {
    let began = Instant::now();
    info!(image = image.reference, "making its root file system");
    let (sender, receiver) = mpsc::channel(WAITING);
    let work = {
        let (store, id, image, bytes) =
            (Arc::clone(&store), id.clone(), image.clone(), Arc::clone(&bytes));
        tokio::task::spawn_blocking(move || {
            fill(&store, &id, &image, Pieces::new(receiver), &bytes)
        })
    };
    let feeding = feed(engine.export(&image), sender, &image, &bytes);
    let (trouble, filled) = tokio::join!(feeding, work);
    // The engine's own words tell more than what became of its broken archive.
    let root = match (filled.map_err(|_| RootError::Ending)?, trouble) {
        (Ok(root), _) => root,
        (Err(_), Some(error)) => return Err(error.into()),
        (Err(error), None) => return Err(error),
    };
    let (seconds, entries) = (began.elapsed().as_secs_f64(), root.facts().entries);
    info!(
        image = image.reference,
        bytes = root.facts().bytes,
        entries,
        seconds,
        "root file system made"
    );
    Ok(root)
}

/// Hands the engine's pieces over as they are taken; the error that ended them early.
async fn feed(
    mut pieces: futures_util::stream::BoxStream<'static, Result<Bytes, EngineError>>,
    to: mpsc::Sender<Result<Bytes, EngineError>>,
    image: &Image,
    bytes: &AtomicU64,
) -> Option<EngineError> {
    let mut told = Instant::now();
    while let Some(piece) = pieces.next().await {
        let trouble = piece.as_ref().err().cloned();
        // Nobody takes it when unpacking has failed already.
        if to.send(piece).await.is_err() || trouble.is_some() {
            return trouble;
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let megabytes = bytes.load(Ordering::Relaxed) / 1_000_000;
            info!(image = image.reference, megabytes, "still making its root file system");
        }
    }
    None
}

/// The part on a thread that may wait for the disk.
fn fill(
    store: &Arc<Store>,
    id: &RootId,
    image: &Image,
    archive: impl Read,
    bytes: &AtomicU64,
) -> Result<Root, RootError> {
    let directory = |source: io::Error| RootError::Directory {
        path: store.directory().to_owned(),
        reason: source.to_string(),
    };
    let mut draft = store.draft().map_err(directory)?;
    let root = place::open_root(&draft.root()).map_err(directory)?;
    let mut charge = |wanted: u64| {
        bytes.fetch_add(wanted, Ordering::Relaxed);
        draft.charge(wanted)
    };
    let totals = unpack(archive, root.as_fd(), &mut charge);
    let totals = totals.map_err(|error| RootError::Unpack(Arc::new(error)))?;
    let facts = Facts {
        reference: image.reference.clone(),
        bytes: totals.bytes,
        entries: totals.entries,
        user: find_user(&root, &image.user),
    };
    draft.keep(id, facts).map_err(directory)
}

fn find_user(root: &impl AsFd, spec: &str) -> Option<ImageUser> {
    let read = |path: &str| {
        let mut text = Vec::new();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
        if let Ok(file) = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            let _ = File::from(file).take(FILE_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    user::resolve(spec, &read("etc/passwd"), &read("etc/group"))
}

/// The pieces as one stream of bytes, for a thread that may wait.
struct Pieces {
    from: mpsc::Receiver<Result<Bytes, EngineError>>,
    piece: Bytes,
}

impl Pieces {
    fn new(from: mpsc::Receiver<Result<Bytes, EngineError>>) -> Self {
        Self { from, piece: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
