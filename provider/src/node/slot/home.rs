//! Where slots are put together: a mount namespace that nobody else sees, holding the roots, a process table, and room.
//!
//! In: the directory with the roots. Out: this thread in that namespace, able to go into others and come back.
//! Always: nothing of the host's mounts is kept, so that no file system a container has left stays busy because of us.
//! Touches: this thread only. It must not be used for anything else afterwards: its paths are not the process's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount,
    fsopen, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::sys;
use super::{Failed, mountinfo, step};

/// Where the roots are in the namespace.
pub(super) const ROOTS: &str = "/roots";
/// Where slots are put together.
pub(super) const STAGE: &str = "/stage";

/// The ways back.
#[derive(Debug)]
pub(super) struct Home {
    mounts: OwnedFd,
    processes: OwnedFd,
}

impl Home {
    /// Moves this thread in; `roots` becomes [`ROOTS`].
    pub(super) fn move_in(roots: &Path) -> Result<Self, Failed> {
        step("make a mount namespace", sys::leave_mount_namespace())?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        step("keep its mounts private", rustix::mount::mount_change("/", private))?;
        let open = |name: &str| {
            rustix::fs::open(format!("/proc/thread-self/ns/{name}"), OFlags::CLOEXEC, Mode::empty())
        };
        let mounts = step("hold the mount namespace", open("mnt"))?;
        let processes = step("hold the pid namespace", open("pid"))?;
        let kept = step("hold the roots' directory", clone_tree(CWD, roots, false))?;
        let table = step("hold the process table", clone_tree(CWD, Path::new("/proc"), false))?;
        step("let go of the host's mounts", unmount_all())?;
        let floor = step(
            "mount a tmpfs",
            Context::open("tmpfs").and_then(|context| {
                context.set("mode", "0700")?.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)
            }),
        )?;
        for directory in ["roots", "stage", "proc"] {
            step("make a directory", rustix::fs::mkdirat(&floor, directory, Mode::RWXU))?;
        }
        step("attach a mount", attach_at(floor.as_fd(), Path::new("/")))?;
        // Entering the namespace anew puts this thread's root on top of what is mounted there.
        step("change the root directory", enter(mounts.as_fd(), LinkNameSpaceType::Mount))?;
        step("attach a mount", attach_at(kept.as_fd(), Path::new(ROOTS)))?;
        step("attach a mount", attach_at(table.as_fd(), Path::new("/proc")))?;
        rustix::process::umask(Mode::empty());
        Ok(Self { mounts, processes })
    }

    /// Runs `work` with this thread in another mount namespace, whose root becomes the thread's root.
    ///
    /// Ends the process's use of this thread by a panic should it not come back: nothing it did afterwards would be right.
    pub(super) fn within_mounts<T>(
        &self,
        mounts: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        step("enter the container", enter(mounts, LinkNameSpaceType::Mount))?;
        let result = work();
        enter(self.mounts.as_fd(), LinkNameSpaceType::Mount).expect("the way back is open");
        result
    }

    /// A `proc` file system of another pid namespace, not yet configured otherwise.
    ///
    /// Kernels from 6.17 on take the namespace as an option; for others a child has to be in it.
    pub(super) fn open_proc(&self, processes: BorrowedFd<'_>) -> Result<Context, Failed> {
        let context = step("open a process table", Context::open("proc"))?;
        if fsconfig_set_fd(context.0.as_fd(), "pidns", processes).is_ok() {
            return Ok(context);
        }
        step("enter the container", enter(processes, LinkNameSpaceType::ProcessID))?;
        let opened = sys::open_proc_in_child();
        enter(self.processes.as_fd(), LinkNameSpaceType::ProcessID).expect("the way back is open");
        step("open a process table", opened.map(Context))
    }
}

fn enter(namespace: BorrowedFd<'_>, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(kind))?)
}

/// Unmounts all but the root, which is the process's own and stays in use anyway.
fn unmount_all() -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    // What is below another goes with it; what another hides is found once that is gone.
    for point in mountinfo::points(&table).filter(|point| point != "/") {
        match rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A file system being configured.
#[derive(Debug)]
pub(super) struct Context(OwnedFd);

impl Context {
    pub(super) fn open(kind: &str) -> io::Result<Self> {
        Ok(Self(fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?))
    }

    pub(super) fn set(self, key: &str, value: &str) -> io::Result<Self> {
        fsconfig_set_string(self.0.as_fd(), key, value)?;
        Ok(self)
    }

    /// Makes the file system, mounted where nobody sees it yet.
    pub(super) fn mount(self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        fsconfig_create(self.0.as_fd())?;
        Ok(fsmount(self.0.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }
}

/// A copy of the mount at `path`, with those below it if `is_recursive`, that nobody sees yet.
pub(super) fn clone_tree(
    directory: BorrowedFd<'_>,
    path: &Path,
    is_recursive: bool,
) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_EMPTY_PATH;
    let recursive = if is_recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    Ok(open_tree(directory, path, flags | recursive)?)
}

/// Attaches a mount that nobody sees yet at a path of this thread's namespace.
pub(super) fn attach_at(mount: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Attaches a mount that nobody sees yet on the file or directory `target`.
pub(super) fn attach_on(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}
