//! Puts slots into running containers and takes them out again.
//!
//! In: a container's first process, a tree of mounts. Out: the tree at its place, with what belongs to the container itself:
//! names and addresses, and its view of the kernel's devices.
//! Always: the process is held by a descriptor and checked to be the container's before anything is touched, so a number
//! that the host has given to another process does no harm; paths are resolved without following links.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use tracing::warn;

use super::home::{Context, Home, attach_on, clone_tree};
use super::{Failed, SLOTS_DIR, SlotError, SlotName, Target, mountinfo, step};
use crate::node::rootfs::place;
use crate::node::sys::{self, Attributes};

/// Largest mount table read, bytes.
const TABLE_MAX: u64 = 1 << 20;
/// Files that the engine mounts into each container, and that a guest shares.
const SHARED_FILES: [&str; 3] = ["etc/resolv.conf", "etc/hosts", "etc/hostname"];
/// Slots a container may have at a time, some prepared ahead; a directory each.
const SLOTS_MAX: u32 = 64;

/// A container that was found and checked.
#[derive(Debug)]
pub(super) struct Found {
    process: OwnedFd,
    pub(super) mounts: OwnedFd,
    pub(super) processes: OwnedFd,
}

/// Finds the container of `target`.
pub(super) fn find(target: &Target) -> Result<Found, SlotError> {
    let gone = || SlotError::Gone(target.container.clone());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::open(format!("/proc/{}", target.pid), flags, Mode::empty());
    let process = process.map_err(|_| gone())?;
    let open = |name: &str| rustix::fs::openat(&process, name, OFlags::CLOEXEC, Mode::empty());
    let refused = |error| match error {
        Errno::SRCH | Errno::NOENT => gone(),
        _ => SlotError::Failed(Failed { step: "look into the container", source: error.into() }),
    };
    let (mounts, processes) = (open("ns/mnt").map_err(refused)?, open("ns/pid").map_err(refused)?);
    let found = Found { process, mounts, processes };
    let table = found.table()?;
    if mountinfo::is_of(&table, &target.container) { Ok(found) } else { Err(gone()) }
}

impl Found {
    /// The container's mount table.
    pub(super) fn table(&self) -> Result<String, Failed> {
        let read = || {
            let file =
                rustix::fs::openat(&self.process, "mountinfo", OFlags::CLOEXEC, Mode::empty())?;
            let mut text = String::new();
            File::from(file).take(TABLE_MAX).read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        step("read the container's mount table", read())
    }

    /// Attaches `tree` as the slot `name`.
    pub(super) fn attach(
        &self,
        home: &Home,
        name: &SlotName,
        tree: &OwnedFd,
    ) -> Result<(), SlotError> {
        let table = self.table()?;
        if mountinfo::mounts_below(&table, &format!("{SLOTS_DIR}/{}", name.as_str())) > 0 {
            return Err(SlotError::Taken(name.clone()));
        }
        let has_hub = mountinfo::mounts_below(&table, SLOTS_DIR) > 0;
        let attached = home.within_mounts(self.mounts.as_fd(), || {
            if !has_hub {
                mount_hub()?;
            }
            let hub = hub()?;
            match rustix::fs::mkdirat(&hub, name.as_str(), Mode::RWXU) {
                Err(Errno::EXIST) => {} // left when an earlier attempt was cut short
                other => step("make the slot's directory", other)?,
            }
            let target =
                step("open the slot's directory", place::open_beneath(hub.as_fd(), name.as_str()))?;
            step("attach the slot", attach_on(tree.as_fd(), target.as_fd()))?;
            let root = step("open the slot", place::open_beneath(hub.as_fd(), name.as_str()))?;
            share(root.as_fd())
        });
        // What was attached until then must not stay.
        if attached.is_err()
            && let Err(error) = self.detach(home, name)
        {
            warn!(slot = name.as_str(), %error, "failed slot not taken out");
        }
        Ok(attached?)
    }

    /// Takes the slot `name` out; one that is not there is fine.
    pub(super) fn detach(&self, home: &Home, name: &SlotName) -> Result<(), SlotError> {
        let path = format!("{SLOTS_DIR}/{}", name.as_str());
        if mountinfo::mounts_below(&self.table()?, SLOTS_DIR) == 0 {
            return Ok(());
        }
        home.within_mounts(self.mounts.as_fd(), || {
            let hub = hub()?;
            step("enter the slots' directory", rustix::process::fchdir(&hub))?;
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            match rustix::mount::unmount(name.as_str(), flags) {
                Err(Errno::INVAL | Errno::NOENT) => {} // not mounted
                other => step("unmount the slot", other)?,
            }
            match rustix::fs::unlinkat(&hub, name.as_str(), AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) => {}
                other => step("remove the slot's directory", other)?,
            }
            let _ = rustix::process::chdir("/");
            if is_empty(hub.as_fd())? {
                step("unmount the slots' directory", rustix::mount::unmount(SLOTS_DIR, flags))?;
            }
            Ok(())
        })?;
        match mountinfo::mounts_below(&self.table()?, &path) {
            0 => Ok(()),
            count => Err(SlotError::Left { name: name.clone(), count }),
        }
    }
}

/// Mounts the directory of slots: closed to everybody but root, so that the container's owner does not look into slots.
fn mount_hub() -> Result<(), Failed> {
    let hub = step(
        "mount a tmpfs",
        Context::open("tmpfs").and_then(|context| {
            context
                .set("size", "4k")?
                .set("nr_inodes", &SLOTS_MAX.to_string())?
                .set("mode", "0700")?
                .mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
        }),
    )?;
    step("attach the slots' directory", attach_on(hub.as_fd(), self::hub()?.as_fd()))
}

fn hub() -> Result<OwnedFd, Failed> {
    let root = step("open the container's root", place::open_root(Path::new("/")))?;
    step("open the slots' directory", place::open_beneath(root.as_fd(), &SLOTS_DIR[1..]))
}

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(directory, ".", flags, Mode::empty());
    let mut entries = step("list the slots", listing.and_then(rustix::fs::Dir::new))?;
    Ok(entries.all(|entry| entry.is_ok_and(|entry| [c".", c".."].contains(&entry.file_name()))))
}

/// Shows the container's own names, addresses and devices in the slot `root`.
fn share(root: BorrowedFd<'_>) -> Result<(), Failed> {
    let own = step("open the container's root", place::open_root(Path::new("/")))?;
    let closed = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);
    for name in SHARED_FILES {
        let source = rustix::fs::openat2(
            &own,
            name,
            OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        // A container without network has none of them.
        let Ok(source) = source else { continue };
        let tree = step("copy a mount", clone_tree(source.as_fd(), Path::new(""), false))?;
        let attributes = closed.and(Attributes::READ_ONLY);
        step("close a mount", sys::set_attributes(tree.as_fd(), attributes, None))?;
        let target = step("open a mount point", place::open_within(root, name))?;
        step("attach a mount", attach_on(tree.as_fd(), target.as_fd()))?;
    }
    let tree = step("copy /sys", clone_tree(CWD, Path::new("/sys"), true))?;
    let target = step("open a mount point", place::open_within(root, "sys"))?;
    step("attach a mount", attach_on(tree.as_fd(), target.as_fd()))
}
