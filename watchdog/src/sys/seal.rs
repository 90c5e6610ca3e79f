//! What a worker's process gives up between fork and exec.
//!
//! In: a [`Seal`], complete before the fork. Out: a process that runs as its user and holds nothing of the watchdog's.
//! Always: [`SealedCall::apply`] only makes system calls: no allocation, no lock, since it runs after a fork.
//! Touches: the calling process.

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::user::User;

/// What a worker's process gives up before it executes the function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seal {
    /// The user to become; `None` keeps the watchdog's own.
    pub(crate) user: Option<User>,
    /// Whether the watchdog acts for the provider: only then are privileges cut, an image on its own keeps its ways.
    pub(crate) managed: bool,
    /// Value for `oom_score_adj`, so that the kernel takes a worker before the watchdog.
    pub(crate) oom_score: Option<i32>,
    /// The hard limit for locks that tells a worker's processes from all others; see `worker::crew`.
    pub(crate) mark: Option<u64>,
}

impl Seal {
    /// Prepares the seal for use after forks of this process.
    pub(crate) fn prepare(self) -> SealedCall {
        SealedCall {
            oom: self.oom_score.map(Digits::of),
            seal: self,
            parent: rustix::process::getpid(),
        }
    }
}

/// A [`Seal`] with everything prepared that would need memory after the fork.
#[derive(Debug)]
pub(crate) struct SealedCall {
    seal: Seal,
    oom: Option<Digits>,
    parent: Pid,
}

impl SealedCall {
    pub(super) fn apply(&self) -> io::Result<()> {
        if let Some(digits) = &self.oom {
            raise_oom_score(digits);
        }
        if let Some(mark) = self.seal.mark {
            let limit = Rlimit { current: Some(mark), maximum: Some(mark) };
            rustix::process::setrlimit(Resource::Locks, limit)?;
        }
        if let Some(user) = &self.seal.user {
            rustix::thread::set_thread_groups(&user.groups)?;
            rustix::thread::set_thread_gid(user.gid)?;
            rustix::thread::set_thread_uid(user.uid)?;
        }
        if self.seal.managed {
            rustix::thread::set_no_new_privs(true)?;
            drop_capabilities()?;
        }
        // After the change of user, which clears this setting.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(self.parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::Interrupted.into())
        }
    }
}

/// A root worker loses the right to trace, which only the watchdog needs; any other user keeps no capability at all.
///
/// With no_new_privs set, executing as root gives back no capability that the process did not hold before.
fn drop_capabilities() -> io::Result<()> {
    // Needs SETPCAP, which a container of ours does not have; the sets below are enough together with no_new_privs.
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
