//! The processes of one worker, however far they have run from us: found, and ended to the last one.
//!
//! In: what all of them inherit and none can shed. Out: nothing left of them.
//! Always: a start that began before the end is waited for, none begins after it; nobody else's process is signalled, also
//! where a process's number is used again.
//! Touches: `/proc`, signals.
//! Why not process groups or sessions: a process leaves both with one call. The second copy of the owner's function has the
//! same user as the first; it is told by the hard limit for `RLIMIT_LOCKS`, which the kernel has ignored since Linux 2.4.25,
//! which children inherit, and which nobody without SYS_RESOURCE, which no worker has, can raise again. A process of the
//! first copy that lowers its own is taken for the second's, and harms nobody but its own function.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, Uid, getpid, getrlimit, pidfd_open, pidfd_send_signal,
};

use crate::log::line;
use crate::pid1::Reaper;
use crate::sys;

/// Longest time between two looks at what is left; the end of a child of ours is seen at once.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The same once something has not ended for so many looks, about a minute: it hangs in the kernel, and may do so for ever.
const LOOK_SELDOM: Duration = Duration::from_secs(1);
const LOOKS_PATIENT: u32 = 30_000;

/// What the processes of a worker have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trait {
    /// A hard limit for locks below ours, and descent from us.
    Marked,
    /// A user that nobody else has.
    User(Uid),
}

/// The processes of one worker for one epoch.
#[derive(Debug)]
pub(crate) struct Crew {
    shared: Trait,
    /// Whether no process may be started any more.
    is_closed: AtomicBool,
    /// Held, besides by us, by every start under way.
    starts: Arc<()>,
}

/// What a second copy of the owner's function is marked with; `None` where no limit is lower than our own.
pub(super) fn mark() -> Option<u64> {
    match getrlimit(Resource::Locks).maximum {
        None => Some(1 << 40),
        Some(0) => None,
        Some(ours) => Some(ours / 2),
    }
}

impl Crew {
    pub(super) fn new(shared: Trait) -> Self {
        Self { shared, is_closed: AtomicBool::new(false), starts: Arc::default() }
    }

    /// To be held while a process is started; `None` when none may be any more.
    pub(super) fn admit(&self) -> Option<Arc<()>> {
        (!self.is_closed.load(Ordering::Relaxed)).then(|| self.starts.clone())
    }

    /// Ends every process and waits until none is left, not even as a zombie.
    pub(super) async fn end(&self, reaper: &Reaper) {
        self.is_closed.store(true, Ordering::Relaxed);
        let mut looks = 0_u32;
        loop {
            // Asked first: what was under way by then is seen by the look.
            let is_starting = Arc::strong_count(&self.starts) > 1;
            if !self.kill() && !is_starting {
                return;
            }
            looks = looks.saturating_add(1);
            if looks == LOOKS_PATIENT {
                line!("Warning: some processes of a released worker do not end");
            }
            let pause = if looks < LOOKS_PATIENT { LOOK_EVERY } else { LOOK_SELDOM };
            let _ = tokio::time::timeout(pause, reaper.reaped()).await;
        }
    }

    /// Removes what the processes, all of them gone, have left in the kernel. What a copy of the owner's function leaves is
    /// the owner's.
    pub(super) fn sweep(&self) {
        if let Trait::User(user) = self.shared
            && let Err(error) = sys::remove_ipc_of(user)
        {
            line!("Warning: cannot remove what user {user} has left: {error}");
        }
    }

    /// Kills whoever is left; whether anybody was.
    fn kill(&self) -> bool {
        if let Trait::User(user) = self.shared {
            // Without a thread for it they are killed one by one below, which makes room for one.
            let _ = sys::kill_all_of(user);
        }
        let mut found = false;
        for pid in processes().filter(|pid| self.shared.has(*pid)) {
            found = true;
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // From here on the number means this process, which need not be the one looked at before.
            if self.shared.has(pid) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
        found
    }
}

impl Trait {
    /// Whether any process has it.
    pub(super) fn is_taken(self) -> bool {
        processes().any(|pid| self.has(pid))
    }

    /// Whether that process has it, zombie or not.
    fn has(self, pid: Pid) -> bool {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        match self {
            Self::Marked => read("limits").is_ok_and(|text| is_marked(&text)) && is_descendant(pid),
            Self::User(user) => read("status").is_ok_and(|text| is_of(&text, user.as_raw())),
        }
    }
}

/// What the processes of one user use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Used {
    /// CPU time of those that run, and of what they have waited for, in microseconds.
    pub(crate) cpu_us: u64,
    /// What they have as their own, in bytes.
    pub(crate) memory_bytes: u64,
}

/// What the processes of `user` use; what ended without a parent among them is not in it.
pub(crate) fn used_by(user: Uid) -> Used {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let mut sum = Used::default();
    for pid in processes() {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let Some(status) = read("status").filter(|text| is_of(text, user.as_raw())) else {
            continue;
        };
        sum.memory_bytes = sum.memory_bytes.saturating_add(own_memory(&status));
        let ticks = read("stat").as_deref().and_then(ticks).unwrap_or(0);
        sum.cpu_us = sum.cpu_us.saturating_add(ticks.saturating_mul(1_000_000) / per_second);
    }
    sum
}

/// utime, stime, cutime and cstime in a `stat` file, its fields 14 to 17; the name in brackets may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    (0..4).try_fold(0_u64, |sum, _| Some(sum.saturating_add(fields.next()?.parse().ok()?)))
}

/// `RssAnon` and `RssShmem` in a `status` file, in bytes.
fn own_memory(status: &str) -> u64 {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let own = ["RssAnon:", "RssShmem:"].into_iter().filter_map(kib);
    own.fold(0_u64, u64::saturating_add).saturating_mul(1024)
}

/// Whether that process descends from us. Orphans do: their new parent is we.
fn is_descendant(pid: Pid) -> bool {
    let parent = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything.
        let number = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some(Pid::from_raw(number))
    };
    if getpid() == Pid::INIT {
        return true;
    }
    let mut at = pid;
    loop {
        match parent(at) {
            Some(Some(up)) if up == getpid() => return true,
            Some(Some(up)) => at = up,
            Some(None) => return false,
            // It has ended meanwhile, and its children have another parent now; or the very process asked about has.
            None if at == pid => return false,
            None => at = pid,
        }
    }
}

/// All processes but ourselves.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(number).filter_map(Pid::from_raw).filter(|pid| *pid != getpid())
}

/// Whether the hard limit for locks in a `limits` file is below ours.
fn is_marked(limits: &str) -> bool {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    // "unlimited" is no number, and never below.
    hard.is_some_and(|hard| getrlimit(Resource::Locks).maximum.is_none_or(|ours| hard < ours))
}

/// Whether one of the four user ids in a `status` file is `user`.
fn is_of(status: &str, user: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.is_some_and(|line| line.split_whitespace().any(|id| id.parse() == Ok(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_from_what_the_kernel_says() {
        let limits = |hard: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              1                    1                    seconds   \n\
                 Max file locks            7                    {hard}            locks     \n\
                 Max pending signals       9                    9                    signals   \n"
            )
        };
        assert!(is_marked(&limits("1099511627776")) && !is_marked(&limits("unlimited")));
        assert!(!is_marked("") && !is_marked("Max file locks"));
        let status = "Name:\tx\nUid:\t7\t7\t8\t9\nGid:\t5\t5\t5\t5\n";
        assert!(is_of(status, 7) && is_of(status, 9));
        assert!(!is_of(status, 5) && !is_of("", 0));
    }

    #[test]
    fn what_a_user_uses_is_the_sum_over_its_processes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 1 0 55";
        assert_eq!(ticks(stat), Some(127));
        assert_eq!(ticks("7 (cut) S 1"), None);
        let status =
            "Uid:\t7\t7\t7\t7\nRssAnon:\t      20 kB\nRssFile:\t 99 kB\nRssShmem:\t 4 kB\n";
        assert_eq!((own_memory(status), own_memory("Name:\tkthread\n")), (24 << 10, 0));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(used_by(rustix::process::getuid()).memory_bytes > 0);
        assert_eq!(used_by(Uid::from_raw(0x7abc_def0)), Used::default());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn no_process_begins_after_the_end() {
        let crew = Crew::new(Trait::Marked);
        let start = crew.admit().unwrap();
        crew.is_closed.store(true, Ordering::Relaxed);
        assert!(crew.admit().is_none());
        assert_eq!(Arc::strong_count(&crew.starts), 2, "and the one under way is known");
        drop(start);
    }

    #[test]
    fn we_are_nobodys_crew() {
        assert!(!Trait::Marked.has(getpid()));
        assert!(processes().all(|pid| pid != getpid()) && processes().next().is_some());
        assert!(Trait::User(rustix::process::getuid()).has(getpid()));
    }
}
