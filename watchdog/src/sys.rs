//! What a worker's process does to itself between fork and exec, and the few calls no safe wrapper exists for.
//!
//! In: a [`Seal`], complete before the fork. Out: a child that runs as its user and holds nothing of the watchdog's.
//! Always: code in [`Seal::apply`] only makes system calls: no allocation, no lock, since it runs after a fork.
//! Touches: the calling process. The one module of the crate with unsafe code.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
}

/// Makes `command` apply `seal` in the child before it executes.
#[expect(unsafe_code, reason = "pre_exec is the only way to run code between fork and exec")]
pub(crate) fn seal_on_exec(command: &mut Command, seal: Seal) {
    let parent = rustix::process::getpid();
    let seal = SealedCall { oom: seal.oom_score.map(Digits::of), seal, parent };
    // SAFETY: the closure runs in the forked child and makes system calls only (see `SealedCall::apply`): everything it
    // needs was allocated before the fork, it takes no lock and drops nothing.
    unsafe { command.pre_exec(move || seal.apply()) };
}

/// Marks every descriptor from 3 on as close-on-exec, so that nothing inherited from our parent reaches a worker.
#[expect(unsafe_code, reason = "close_range has no safe wrapper in rustix")]
pub(crate) fn close_inherited_on_exec() {
    // SAFETY: the call takes three integers and changes only the close-on-exec flag of open descriptors.
    // It fails on kernels before 5.11, which leaves them as they were: nothing depends on its result.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Lets a stream that lives as long as the program be awaited for room; `None` for what cannot be polled, such as files.
#[expect(unsafe_code, reason = "tokio cannot see that a descriptor stays open")]
pub(crate) fn watch_writable(fd: BorrowedFd<'static>) -> Option<AsyncFd<BorrowedFd<'static>>> {
    // SAFETY: the descriptor is borrowed for the life of the program, so it is never closed while it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }.ok()
}

/// Makes this process's memory, environment and descriptors unreadable for workers, even for one of the same user.
pub(crate) fn hide_from_workers() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        crate::log::line!("Warning: cannot hide this process from workers: {error}");
    }
}

/// A [`Seal`] with everything prepared that would need memory after the fork.
struct SealedCall {
    seal: Seal,
    oom: Option<Digits>,
    parent: Pid,
}

impl SealedCall {
    fn apply(&self) -> io::Result<()> {
        if let Some(digits) = &self.oom {
            raise_oom_score(digits);
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
