//! What no safe wrapper exists for. The one module of the crate with unsafe code.

mod cage;
mod calls;
mod filter;
mod landlock;
mod seal;
mod spawn;
mod sweep;
mod trap;
mod trim;

use std::os::fd::BorrowedFd;

use rustix::process::DumpableBehavior;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use cage::{Cage, CagePlan, OUTBOUND, check_guests};
pub(crate) use seal::{Seal, SealedCall};
pub(crate) use spawn::{ChildStack, Launch, SignalMask, spawn};
pub(crate) use sweep::{kill_all_of, remove_ipc_of};
pub(crate) use trap::{Call, Next, Snare, Stopped, TrapFd, duplicate, peek};
pub(crate) use trim::trim;

/// Those of `numbers` that have no default effect here.
#[expect(unsafe_code, reason = "rustix offers no signal dispositions")]
fn changed_signals(numbers: std::ops::RangeInclusive<i32>) -> Vec<i32> {
    let is_changed = |number: &i32| {
        // SAFETY: plain data, for which zeroes are a value; the call only writes it.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*number, std::ptr::null(), &raw mut now) == 0
                && now.sa_sigaction != libc::SIG_DFL
        }
    };
    numbers.filter(is_changed).collect()
}

/// Gives these signals their default effect, whatever handlers we have or our parent left ignored.
#[expect(unsafe_code, reason = "rustix offers no signal dispositions")]
fn reset_signals(numbers: impl IntoIterator<Item = i32>) {
    for number in numbers {
        // SAFETY: SIG_DFL runs no code of ours. KILL and STOP are refused, harmlessly.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Marks every descriptor from 3 on as close-on-exec, so that nothing inherited from our parent reaches a worker.
#[expect(unsafe_code, reason = "close_range has no safe wrapper in rustix")]
pub(crate) fn close_inherited_on_exec() {
    // SAFETY: the call takes three integers and changes only the close-on-exec flag of open descriptors.
    // It fails on kernels before 5.11, which leaves them as they were: nothing depends on its result.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Makes orphans of workers our children, also where we are not the first process of the container.
pub(crate) fn adopt_orphans() {
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        crate::log::line!("Warning: cannot adopt orphans: {error}");
    }
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
