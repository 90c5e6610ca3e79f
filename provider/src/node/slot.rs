//! Slots: the file-system view of a guest, put from outside into a container that runs.
//!
//! In: a container, an image's root, who the guest is. Out: a directory in that container to change root to, or the step
//! that failed and why. The container itself needs no right for it and learns nothing of it but the directory.
//! Always: a slot is whole or not there; taking it out is checked against the container's own mount table; its root is held
//! from before it is made until it is out, also for slots an earlier run of this provider has left ([`Slots::adopt`]).
//! Touches: one thread, in a mount namespace of its own ([`home`]); everything with mounts happens there, one slot at a time.
//! Why a thread and not a program of its own: it shares memory, so nothing is copied or spoken between the two, and the two
//! children it needs for a slot (for user ids and the process table) cost no page tables.

mod attach;
mod home;
mod idmap;
mod mountinfo;
mod stage;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::rootfs::{Root, RootId, Roots};
use crate::engine::{ContainerId, SecretFile};
use home::Home;
use idmap::Namespaces;
pub use idmap::{Exchange, Identity};
use stage::Stage;

/// Where slots are in a container; an empty directory there comes with the watchdog's volume.
pub const SLOTS_DIR: &str = "/.hyperfaas/slots";
/// Longest name of a slot, bytes.
const NAME_MAX: usize = 40;
/// Orders that wait for the thread; whoever comes later waits before that.
const WAITING: usize = 64;
/// How long nobody must have come before what slots were put together with is cleared away: many visits come together.
const CLEARS_AFTER: Duration = Duration::from_millis(20);
/// Most slots whose places are not cleared.
const UNCLEARED_MOST: u64 = 64;
/// Bytes a guest may write by default: files of its slot, its `/tmp` and `/dev/shm` together; they count against the
/// container's memory.
pub const DEFAULT_SIZE_BYTES: u64 = 256 << 20;
/// Files a guest may make by default.
pub const DEFAULT_FILES_MAX: u64 = 65_536;

/// The name of a slot, unique in its container: letters, digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`SlotError::Name`].
    pub fn parse(text: &str) -> Result<Self, SlotError> {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(is_inner) {
            return Err(SlotError::Name(text.chars().take(NAME_MAX).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The slot of a worker in one epoch.
    pub fn of(worker: u8, epoch: u64) -> Self {
        Self(format!("{worker}-{epoch}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the slot is, as the container's watchdog sees it.
    pub fn path(&self) -> String {
        format!("{SLOTS_DIR}/{}", self.0)
    }
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The engine's id.
    pub container: ContainerId,
    /// Its first process, as this host numbers it.
    pub pid: u32,
}

/// What a slot is to be.
#[derive(Debug, Clone)]
pub struct SlotOrder {
    /// Its name.
    pub name: SlotName,
    /// The image's root.
    pub root: Root,
    /// Whose files become the guest's.
    pub exchange: Exchange,
    /// The working directory, absolute; made when missing. Empty is the root.
    pub directory: String,
    /// Whether only `/tmp` and `/dev/shm` are writable.
    pub read_only: bool,
    /// See [`DEFAULT_SIZE_BYTES`].
    pub size_bytes: u64,
    /// See [`DEFAULT_FILES_MAX`].
    pub files_max: u64,
    /// Files at `/var/openfaas/secrets`.
    pub secrets: Vec<SecretFile>,
}

impl SlotOrder {
    fn directory(&self) -> &str {
        if self.directory.is_empty() { "/" } else { &self.directory }
    }
}

/// A slot found in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSlot {
    /// Its name.
    pub name: SlotName,
    /// The image its root is from, if it is one of ours.
    pub root: Option<RootId>,
}

/// A step with mounts that the operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct Failed {
    /// What was tried, such as "mount an overlay".
    pub step: &'static str,
    /// Why not.
    pub source: io::Error,
}

/// Why a slot was not made or not taken out.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// No process of the container is to be seen: it has ended, or this provider is not in the host's pid namespace.
    #[error("container {} has no process here: it has ended, or the provider does not see the host's processes", .0.0)]
    Gone(ContainerId),
    /// Not a name for a slot.
    #[error("slot name \"{0}\" is invalid, must be 1 to 40 letters, digits and dashes")]
    Name(String),
    /// A slot of this name is there.
    #[error("slot {} exists already", .0.as_str())]
    Taken(SlotName),
    /// Mounts of the slot are there although it was taken out.
    #[error("slot {} is still mounted in {count} places", name.as_str())]
    Left {
        /// The slot.
        name: SlotName,
        /// How many mounts.
        count: usize,
    },
    /// A step failed.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The thread is gone; only a new start of the provider brings it back.
    #[error("slots are out of order since an earlier failure")]
    Ended,
}

/// Names the step that `result` is of.
fn step<T>(step: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, Failed> {
    result.map_err(|source| Failed { step, source: source.into() })
}

type Work = Box<dyn FnOnce(&mut Workshop) + Send>;
type Holds = HashMap<ContainerId, HashMap<SlotName, Root>>;

/// Makes slots. Cloning shares the thread.
#[derive(Debug, Clone)]
pub struct Slots {
    orders: mpsc::Sender<Work>,
    holds: Arc<Mutex<Holds>>,
}

/// What the thread has.
struct Workshop {
    home: Home,
    namespaces: Namespaces,
    built: u64,
    /// Up to which number places were cleared.
    cleared: u64,
}

impl Slots {
    /// Starts the thread for slots over `roots`.
    ///
    /// # Errors
    /// [`Failed`] where the provider lacks a right or the kernel a feature; see [`super::rights`].
    pub fn start(roots: &Roots) -> Result<Self, Failed> {
        let (orders, mut waiting) = mpsc::channel::<Work>(WAITING);
        let (sender, started) = std::sync::mpsc::sync_channel(1);
        let directory = roots.directory().to_owned();
        // For the time alone; in the thread nothing else is waited for.
        let timer = step("start a thread", Builder::new_current_thread().enable_time().build())?;
        let run = move || match Home::move_in(&directory) {
            Ok(home) => {
                let _ = sender.send(Ok(()));
                let namespaces = Namespaces::default();
                Workshop { home, namespaces, built: 0, cleared: 0 }.serve(&timer, &mut waiting);
            }
            Err(failed) => drop(sender.send(Err(failed))),
        };
        step("start a thread", std::thread::Builder::new().name("slots".into()).spawn(run))?;
        let ended = || Failed { step: "start a thread", source: io::ErrorKind::BrokenPipe.into() };
        started.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(Self { orders, holds: Arc::default() })
    }

    /// Makes a slot in a running container; its place there is [`SlotName::path`]. When the caller leaves meanwhile, the
    /// slot is taken out again.
    ///
    /// # Errors
    /// [`SlotError`]; nothing is left behind then.
    pub async fn prepare(&self, target: &Target, order: SlotOrder) -> Result<(), SlotError> {
        let (name, root, of) = (order.name.clone(), order.root.clone(), target.clone());
        let undone = (target.clone(), order.name.clone());
        self.ask(
            move |workshop| workshop.prepare(&of, &order),
            move |workshop, result| {
                if result.is_ok() {
                    let _ = workshop.remove(&undone.0, &undone.1);
                }
            },
        )
        .await?;
        let mut holds = self.holds.lock().expect("no panic while held");
        holds.entry(target.container.clone()).or_default().insert(name, root);
        Ok(())
    }

    /// Takes a slot out of a running container; one that is not there is fine. Processes that still run in it keep what
    /// they have open; end them first.
    ///
    /// # Errors
    /// [`SlotError`]; the slot and its root are held on to then, except when the container is gone.
    pub async fn remove(&self, target: &Target, name: &SlotName) -> Result<(), SlotError> {
        let (of, slot) = (target.clone(), name.clone());
        match self.ask(move |workshop| workshop.remove(&of, &slot), |_, _| {}).await {
            Err(SlotError::Gone(container)) => self.forget(&container),
            other => other?,
        }
        let mut holds = self.holds.lock().expect("no panic while held");
        if let Some(slots) = holds.get_mut(&target.container) {
            slots.remove(name);
            if slots.is_empty() {
                holds.remove(&target.container);
            }
        }
        Ok(())
    }

    /// Finds the slots of a container that an earlier run of this provider has made, and holds their roots.
    ///
    /// # Errors
    /// [`SlotError`].
    pub async fn adopt(&self, target: &Target, roots: &Roots) -> Result<Vec<FoundSlot>, SlotError> {
        let of = target.clone();
        let found = self
            .ask(
                move |_| {
                    let table = attach::find(&of)?.table()?;
                    Ok(mountinfo::slots(&table, SLOTS_DIR))
                },
                |_, _| {},
            )
            .await?;
        let mut holds = self.holds.lock().expect("no panic while held");
        for slot in &found {
            if let Some(root) = slot.root.as_ref().and_then(|id| roots.hold(id)) {
                holds.entry(target.container.clone()).or_default().insert(slot.name.clone(), root);
            }
        }
        Ok(found)
    }

    /// A container is gone, and its slots with it.
    pub fn forget(&self, container: &ContainerId) {
        self.holds.lock().expect("no panic while held").remove(container);
    }

    /// Makes a slot of an empty root where nobody sees it, and lets go of it.
    ///
    /// # Errors
    /// [`SlotError::Failed`] names the step that this provider or kernel cannot do.
    pub async fn rehearse(&self, roots: &Roots) -> Result<(), SlotError> {
        let trial = step("make a directory", roots.trial())?;
        let root = trial.root().clone();
        let result = self.ask(move |workshop| workshop.rehearse(root), |_, _| {}).await;
        drop(trial);
        result
    }

    /// Runs `work` on the thread; `unwanted` afterwards when nobody waits for the result any more.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Workshop) -> Result<T, SlotError> + Send + 'static,
        unwanted: impl FnOnce(&mut Workshop, Result<T, SlotError>) + Send + 'static,
    ) -> Result<T, SlotError> {
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move |workshop: &mut Workshop| {
            let result = work(workshop);
            if let Err(result) = sender.send(result) {
                unwanted(workshop, result);
            }
        });
        self.orders.send(work).await.map_err(|_| SlotError::Ended)?;
        answer.await.unwrap_or(Err(SlotError::Ended))
    }
}

impl Workshop {
    /// Does one work after the other until nobody can come any more; clears up while nobody waits. Clearing one place makes the
    /// thread wait for the kernel for milliseconds.
    fn serve(mut self, timer: &Runtime, waiting: &mut mpsc::Receiver<Work>) {
        let mut patience = CLEARS_AFTER;
        loop {
            let next = if self.uncleared() == 0 {
                waiting.blocking_recv()
            } else if let Ok(next) =
                timer.block_on(async { timeout(patience, waiting.recv()).await })
            {
                next
            } else {
                self.clear_one();
                patience = Duration::ZERO;
                continue;
            };
            let Some(work) = next else { return };
            patience = CLEARS_AFTER;
            work(&mut self);
            if self.uncleared() > UNCLEARED_MOST {
                self.clear_one();
            }
        }
    }

    fn prepare(&mut self, target: &Target, order: &SlotOrder) -> Result<(), SlotError> {
        let found = attach::find(target)?;
        let tree = self.build(&found.processes, order)?;
        found.attach(&self.home, &order.name, &tree)
    }

    fn rehearse(&mut self, root: Root) -> Result<(), SlotError> {
        let nobody = Identity { uid: u32::from(u16::MAX), gid: u32::from(u16::MAX) };
        let order = SlotOrder {
            name: SlotName::of(0, 0),
            root,
            exchange: Exchange { from: Identity { uid: 0, gid: 0 }, to: nobody },
            directory: String::new(),
            read_only: true,
            size_bytes: 1 << 20,
            files_max: 64,
            secrets: Vec::new(),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/thread-self/ns/pid", flags, Mode::empty());
        self.build(&step("hold the pid namespace", own)?, &order)?;
        Ok(())
    }

    /// A slot for processes of the pid namespace `processes`, attached nowhere yet.
    fn build(&mut self, processes: &OwnedFd, order: &SlotOrder) -> Result<OwnedFd, Failed> {
        let proc = self.home.open_proc(processes.as_fd())?;
        self.built += 1;
        Stage::new(order, self.built).build(&mut self.namespaces, proc)
    }

    /// Slots whose places are still there.
    fn uncleared(&self) -> u64 {
        self.built - self.cleared
    }

    /// What nobody has to wait for, of one slot.
    fn clear_one(&mut self) {
        self.namespaces.settle_one();
        if self.cleared < self.built {
            self.cleared += 1;
            stage::clear(self.cleared);
        }
    }

    fn remove(&mut self, target: &Target, name: &SlotName) -> Result<(), SlotError> {
        while self.uncleared() > 0 {
            self.clear_one(); // what a slot was put together with holds its files as well
        }
        attach::find(target)?.detach(&self.home, name)
    }
}

impl std::fmt::Debug for Workshop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").field("built", &self.built).finish_non_exhaustive()
    }
}
