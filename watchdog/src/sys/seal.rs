//! What a worker's process gives up between fork and exec.
//!
//! In: a [`Seal`], complete before the fork. Out: a process that runs as its user and holds nothing of the watchdog's, or the
//! [`Step`] that could not be done, and then no program runs.
//! Always: [`SealedCall::apply`] only makes system calls: no allocation, no lock, since it runs after a fork.
//! Touches: the calling process.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::cage::Cage;
use super::filter::{Filter, Whose};
use crate::user::User;

/// What a worker's process gives up before it executes the function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seal {
    /// The user to become; `None` keeps the watchdog's own. Not looked at for guests, whose cage knows theirs.
    pub(crate) user: Option<User>,
    /// Whether the watchdog acts for the provider: only then are privileges cut, an image on its own keeps its ways.
    pub(crate) managed: bool,
    /// Value for `oom_score_adj`, so that the kernel takes a worker before the watchdog.
    pub(crate) oom_score: Option<i32>,
    /// The hard limit for locks that tells a worker's processes from all others; see `worker::crew`.
    pub(crate) mark: Option<u64>,
    /// What a guest is kept in; the owner's workers have none.
    pub(crate) cage: Option<Arc<Cage>>,
}

impl Seal {
    /// Prepares the seal for use after forks of this process.
    pub(crate) fn prepare(self) -> SealedCall {
        let parent = rustix::process::getpid();
        let is_filtered = self.managed && self.cage.is_none();
        SealedCall {
            oom: self.oom_score.map(Digits::of),
            filter: is_filtered.then(|| Filter::new(Whose::Owner, parent)),
            seal: self,
            parent,
        }
    }
}

/// A [`Seal`] with everything prepared that would need memory after the fork.
#[derive(Debug)]
pub(crate) struct SealedCall {
    seal: Seal,
    oom: Option<Digits>,
    /// The filter of an owner's worker; a guest's is in its cage.
    filter: Option<Filter>,
    parent: Pid,
}

impl SealedCall {
    pub(super) fn apply(&self) -> Result<(), Refusal> {
        if let Some(digits) = &self.oom {
            raise_oom_score(digits);
        }
        if let Some(mark) = self.seal.mark {
            let limit = Rlimit { current: Some(mark), maximum: Some(mark) };
            rustix::process::setrlimit(Resource::Locks, limit).map_err(at(Step::Limits))?;
        }
        if self.seal.managed {
            super::close_inherited_on_exec();
            open_streams();
        }
        match &self.seal.cage {
            Some(cage) => cage.enter()?,
            None => self.apply_to_owner()?,
        }
        // After the change of user, which clears this setting.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(at(Step::Parent))?;
        if rustix::process::getppid() == Some(self.parent) {
            Ok(())
        } else {
            Err(Refusal { step: Step::Parent, number: libc::ESRCH })
        }
    }

    fn apply_to_owner(&self) -> Result<(), Refusal> {
        if let Some(user) = &self.seal.user {
            rustix::thread::set_thread_groups(&user.groups).map_err(at(Step::User))?;
            rustix::thread::set_thread_gid(user.gid).map_err(at(Step::User))?;
            rustix::thread::set_thread_uid(user.uid).map_err(at(Step::User))?;
        }
        if self.seal.managed {
            rustix::thread::set_no_new_privs(true).map_err(at(Step::Privileges))?;
            drop_capabilities().map_err(at(Step::Capabilities))?;
        }
        match &self.filter {
            Some(filter) => filter.set().or_else(forgive).map_err(at(Step::Filter)),
            None => Ok(()),
        }
    }
}

/// An owner's filter only repeats what its container's profile mostly says: where there can be none it runs without.
fn forgive(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => Ok(()),
        _ => Err(error),
    }
}

/// A root worker loses the rights that only the watchdog needs; any other user keeps no capability at all.
///
/// With no_new_privs set, executing as root gives back no capability that the process did not hold before.
fn drop_capabilities() -> io::Result<()> {
    // Needs SETPCAP, which not every engine gives us; the sets below are enough together with no_new_privs.
    let _ = rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_PTRACE);
    let _ = rustix::thread::clear_ambient_capability_set();
    let kept = if rustix::process::geteuid().is_root() {
        let now = rustix::thread::capabilities(None)?;
        let without = CapabilitySet::SYS_PTRACE.complement();
        CapabilitySets {
            effective: now.effective & without,
            permitted: now.permitted & without,
            inheritable: CapabilitySet::empty(),
        }
    } else {
        let none = CapabilitySet::empty();
        CapabilitySets { effective: none, permitted: none, inheritable: none }
    };
    rustix::thread::set_capabilities(None, kept)?;
    Ok(())
}

/// Lets the worker open its streams, pipes of ours, by name (`/dev/stdout`), as many images' logs do: they belong to the user that made them,
/// which is us. Nobody else gets to them: their names are in the worker's own `/proc` directory.
fn open_streams() {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for stream in streams {
        let _ = rustix::fs::fchmod(stream, Mode::from_raw_mode(0o666));
    }
}

/// Best effort: `/proc` may be missing or read-only.
fn raise_oom_score(digits: &Digits) {
    if let Ok(file) = rustix::fs::open(
        c"/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let _ = rustix::io::write(&file, digits.as_bytes());
    }
}

/// What a process does on its way to the function's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Group,
    Streams,
    Limits,
    Root,
    User,
    Capabilities,
    Directory,
    Privileges,
    Landlock,
    Filter,
    Parent,
    Trap,
    Execute,
}

/// The step that failed, and the system's number for why; small enough to be told without memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) step: Step,
    pub(super) number: i32,
}

/// Puts a step to an error.
pub(super) fn at<E: Into<io::Error>>(step: Step) -> impl FnOnce(E) -> Refusal {
    // Made of a number, so nothing is allocated.
    move |error| Refusal { step, number: error.into().raw_os_error().unwrap_or(libc::EINVAL) }
}

impl From<Refusal> for io::Error {
    /// A failed execution is the system's own error, as everywhere; one before it says what it was about.
    fn from(refusal: Refusal) -> Self {
        let cause = Self::from_raw_os_error(refusal.number);
        match refusal.step {
            Step::Execute => cause,
            _ => Self::new(cause.kind(), refusal.to_string()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Group => "its process group",
            Step::Streams => "its streams",
            Step::Limits => "its limits",
            Step::Root => "its root",
            Step::User => "its user",
            Step::Capabilities => "its capabilities",
            Step::Directory => "its working directory",
            Step::Privileges => "no_new_privs",
            Step::Landlock => "Landlock",
            Step::Filter => "its system call filter",
            Step::Parent => "its parent",
            Step::Trap => "its bind trap",
            Step::Execute => "its program",
        };
        write!(f, "{what}: {}", io::Error::from_raw_os_error(self.number))
    }
}

/// A number as text without memory of its own.
#[derive(Debug)]
struct Digits {
    text: [u8; 12],
    length: usize,
}

impl Digits {
    fn of(number: i32) -> Self {
        let written = number.to_string();
        let mut text = [0; 12];
        let length = written.len();
        text[..length].copy_from_slice(written.as_bytes());
        Self { text, length }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}
