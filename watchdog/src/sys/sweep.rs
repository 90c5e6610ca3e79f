//! Ends what a user has left behind, with that user's rights and none of ours.
//!
//! In: a user that only one guest has had. Out: none of its processes, System V objects or message queues.
//! Always: a thread of its own takes on the user's identity for it, so that nobody else's things can be hit, whatever is read;
//! that thread cannot be signalled by the user. Everything already gone is success.
//! Touches: processes, `/proc/sysvipc`, `/dev/mqueue`.

use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::process::Uid;

/// Removes one System V object.
type Remove = fn(i32) -> i32;

/// Files that list System V objects, and how one of each kind is removed.
const KINDS: [(&str, Remove); 3] = [
    ("/proc/sysvipc/shm", remove_shared_memory),
    ("/proc/sysvipc/sem", remove_semaphores),
    ("/proc/sysvipc/msg", remove_queue),
];
/// Where the kernel shows POSIX message queues, if it does.
const QUEUES: &str = "/dev/mqueue";
/// A user that owns nothing: its thread must not have the guest's real id, or the guest could signal it, nor ours.
const NOBODY: u32 = u32::MAX - 1;
/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;

/// Kills every process of `user` at one moment: none can start another one in between.
///
/// # Errors
/// When its identity or a thread cannot be had; nothing is killed then.
#[expect(unsafe_code, reason = "rustix does not signal all processes")]
pub(crate) fn kill_all_of(user: Uid) -> io::Result<()> {
    become_briefly(user, || {
        // SAFETY: takes two integers. The kernel passes over the first process of the container, our own, and all those
        // that this thread's identity may not signal.
        let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
    })
}

/// Removes the System V objects that `user` has created, and its POSIX message queues.
///
/// # Errors
/// When its identity or a thread cannot be had; nothing is removed then.
pub(crate) fn remove_ipc_of(user: Uid) -> io::Result<()> {
    let found: Vec<_> = KINDS
        .iter()
        .flat_map(|(list, remove)| {
            let text = std::fs::read_to_string(list).unwrap_or_default();
            created_by(&text, user.as_raw()).into_iter().map(move |id| (*remove, id))
        })
        .collect();
    let queues: Vec<_> = std::fs::read_dir(QUEUES)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == user.as_raw()))
        .map(|entry| entry.path())
        .collect();
    if found.is_empty() && queues.is_empty() {
        return Ok(());
    }
    become_briefly(user, move || {
        for (remove, id) in found {
            let _ = remove(id);
        }
        for queue in queues {
            let _ = std::fs::remove_file(queue);
        }
    })
}

/// Runs `work` in a thread whose effective user is `user`, without capabilities. No thread can be had while the user has
/// filled the container with processes, for one.
fn become_briefly(user: Uid, work: impl FnOnce() + Send) -> io::Result<()> {
    assert!(!user.is_root(), "guests are never root");
    let nobody = Uid::from_raw(NOBODY);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, move || {
            // The saved id stays ours. Leaving root clears the effective capabilities of this thread, CAP_KILL among them.
            rustix::thread::set_thread_res_uid(nobody, user, None)?;
            work();
            Ok(())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// The ids of the objects in `list` whose creator is `user`.
fn created_by(list: &str, user: u32) -> Vec<i32> {
    let mut lines = list.lines();
    let heads: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let Some(creator) = heads.iter().position(|head| *head == "cuid") else { return Vec::new() };
    let id = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_theirs = fields.get(creator)?.parse() == Ok(user);
        // The second column of every kind.
        is_theirs.then(|| fields.get(1)?.parse().ok()).flatten()
    };
    lines.filter_map(id).collect()
}

#[expect(unsafe_code, reason = "System V objects have no safe wrapper")]
fn remove_shared_memory(id: i32) -> i32 {
    // SAFETY: with IPC_RMID the pointer is not looked at.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }
}

#[expect(unsafe_code, reason = "System V objects have no safe wrapper")]
fn remove_semaphores(id: i32) -> i32 {
    // SAFETY: with IPC_RMID nothing beyond the first three arguments is looked at.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) }
}

#[expect(unsafe_code, reason = "System V objects have no safe wrapper")]
fn remove_queue(id: i32) -> i32 {
    // SAFETY: with IPC_RMID the pointer is not looked at.
    unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Users that nothing else on the machine has.
    const ALICE: u32 = 3_000_000_017;
    const BOB: u32 = 3_000_000_018;

    fn as_user(user: u32, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let id = user.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]).args(arguments);
        command
    }

    fn objects(user: u32) -> usize {
        let count =
            |(list, _): &(&str, _)| created_by(&std::fs::read_to_string(list).unwrap(), user).len();
        KINDS.iter().map(count).sum()
    }

    #[test]
    fn creators_are_read_from_the_kernels_lists() {
        let list = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
                    \x20        0          3   600          1  1000  1000    17  1000          0 1732440000\n\
                    \x20        0          4   600          1    17  1000  1000  1000          0 1732440000\n";
        assert_eq!(
            created_by(list, 17),
            [3],
            "the creator counts: an owner can be put upon anybody"
        );
        assert_eq!(created_by("", 17), [] as [i32; 0]);
    }

    #[test]
    fn only_that_users_objects_are_removed() {
        for user in [ALICE, BOB] {
            let made = as_user(user, "ipcmk", &["-M", "4096", "-S", "1", "-Q"]).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        assert_eq!((objects(ALICE), objects(BOB)), (3, 3));
        remove_ipc_of(Uid::from_raw(ALICE)).unwrap();
        assert_eq!((objects(ALICE), objects(BOB)), (0, 3));
        remove_ipc_of(Uid::from_raw(BOB)).unwrap();
        assert_eq!(objects(BOB), 0);
    }

    #[test]
    fn only_that_users_processes_are_killed() {
        let (alice, bob) = (ALICE - 10, BOB - 10);
        let mut first = as_user(alice, "sleep", &["1000"]).spawn().unwrap();
        let mut second = as_user(bob, "sleep", &["1000"]).spawn().unwrap();
        // Until then they are still root's.
        let is_theirs = |pid: u32, user: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}\n"))
        };
        while !is_theirs(first.id(), alice) || !is_theirs(second.id(), bob) {
            std::thread::yield_now();
        }
        kill_all_of(Uid::from_raw(alice)).unwrap();
        assert!(!first.wait().unwrap().success());
        assert!(second.try_wait().unwrap().is_none());
        kill_all_of(Uid::from_raw(bob)).unwrap();
        assert!(!second.wait().unwrap().success());
    }
}
