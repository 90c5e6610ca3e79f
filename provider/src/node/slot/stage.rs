//! Puts a slot together, out of everybody's sight.
//!
//! In: an order, a process table of the container's pid namespace. Out: a tree of mounts that can be attached anywhere.
//! Always: one tmpfs of limited size backs everything the guest can write; the image's root below it is never written; the
//! owner of what belonged to the image's user is the guest. Nothing stays behind on the stage, whatever failed.
//! Source: devices, masked paths and modes as Docker has them, without what a guest has no use for (terminals, queues).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::home::{Context, ROOTS, STAGE, attach_at, attach_on, clone_tree};
use super::idmap::Namespaces;
use super::mountinfo::SOURCE_PREFIX;
use super::{Failed, SlotOrder, step};
use crate::node::rootfs::place::{self, Kind};
use crate::node::sys::{self, Attributes};

/// Where OpenFaaS functions look for their secrets.
const SECRETS: &str = "var/openfaas/secrets";
/// Character devices of a slot: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links in `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// What of the process table tells about the host instead; Docker masks the same.
const MASKED: [&str; 9] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
/// What a guest may never do with a file system of its slot.
const CLOSED: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES);
/// What a guest only reads.
const SHOWN: Attributes = CLOSED.and(Attributes::READ_ONLY).and(Attributes::NO_EXEC);
/// Everybody makes files, nobody removes another's.
const SHARED_DIRECTORY: Mode = Mode::from_raw_mode(0o1777);
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// One slot on the stage. Its place is to be cleared afterwards, whatever came of it; nobody needs to wait for that.
pub(super) struct Stage<'a> {
    order: &'a SlotOrder,
    at: PathBuf,
}

impl<'a> Stage<'a> {
    pub(super) fn new(order: &'a SlotOrder, number: u64) -> Self {
        Self { order, at: place_of(number) }
    }

    /// Builds the slot; `proc` becomes its process table.
    pub(super) fn build(
        &self,
        namespaces: &mut Namespaces,
        proc: Context,
    ) -> Result<OwnedFd, Failed> {
        let store = self.store()?;
        self.fill(store.as_fd())?;
        self.lay_root(namespaces)?;
        let path = self.at.join("root");
        let root = step("open the slot", place::open_root(&path))?;
        let root = root.as_fd();
        let order = self.order;
        if !order.read_only {
            step("make /tmp", place::ensure(root, "tmp", Kind::Directory(SHARED_DIRECTORY)))?;
        }
        let directory = Kind::Directory(DIRECTORY);
        step("make the working directory", place::ensure(root, order.directory(), directory))?;
        for name in ["dev", "proc", "sys"] {
            step("make a mount point", place::ensure(root, name, Kind::Directory(DIRECTORY)))?;
        }
        for name in ["etc/resolv.conf", "etc/hosts", "etc/hostname"] {
            step("make a mount point", place::ensure(root, name, Kind::File))?;
        }
        let devices = Attributes::NO_SUID.and(Attributes::NO_EXEC).and(Attributes::READ_ONLY);
        self.show(root, "dev", "dev", devices)?;
        self.show(root, "shm", "dev/shm", CLOSED.and(Attributes::NO_EXEC))?;
        if order.read_only {
            step("make /tmp", place::ensure(root, "tmp", Kind::Directory(SHARED_DIRECTORY)))?;
            self.show(root, "tmp", "tmp", CLOSED)?;
        }
        if !order.secrets.is_empty() {
            step("make a mount point", place::ensure(root, SECRETS, Kind::Directory(DIRECTORY)))?;
            self.show(root, "secrets", SECRETS, SHOWN)?;
        }
        self.show_processes(root, proc)?;
        if order.read_only {
            // Last: what was made in it until now are its mount points.
            let layer = step("open the slot", place::open_root(&path))?;
            step(
                "make the root read-only",
                sys::set_attributes(layer.as_fd(), Attributes::READ_ONLY, None),
            )?;
        }
        step("copy the slot", clone_tree(rustix::fs::CWD, &path, true))
    }

    /// The tmpfs that backs everything, and the image's root in it.
    fn store(&self) -> Result<OwnedFd, Failed> {
        step("make a directory", rustix::fs::mkdir(&self.at, Mode::RWXU))?;
        let order = self.order;
        let store = step(
            "mount a tmpfs",
            Context::open("tmpfs").and_then(|context| {
                context
                    .set("size", &order.size_bytes.to_string())?
                    .set("nr_inodes", &order.files_max.to_string())?
                    .set("mode", "0755")?
                    .mount(MountAttrFlags::MOUNT_ATTR_NOSUID)
            }),
        )?;
        step("attach a mount", attach_at(store.as_fd(), &self.at))?;
        Ok(store)
    }

    fn fill(&self, store: BorrowedFd<'_>) -> Result<(), Failed> {
        let filled = (|| {
            for name in ["lower", "upper", "work", "root", "dev", "empty", "secrets"] {
                rustix::fs::mkdirat(store, name, DIRECTORY)?;
            }
            for name in ["shm", "tmp"] {
                rustix::fs::mkdirat(store, name, SHARED_DIRECTORY)?;
            }
            rustix::fs::mkdirat(store, "dev/shm", DIRECTORY)?;
            for (name, major, minor) in DEVICES {
                let device = rustix::fs::makedev(major, minor);
                let mode = Mode::from_raw_mode(0o666);
                let path = format!("dev/{name}");
                rustix::fs::mknodat(store, path, FileType::CharacterDevice, mode, device)?;
            }
            for (name, target) in LINKS {
                rustix::fs::symlinkat(target, store, format!("dev/{name}"))?;
            }
            rustix::io::Result::Ok(())
        })();
        step("make the devices", filled)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for secret in &self.order.secrets {
            let path = format!("secrets/{}", secret.name);
            let written = rustix::fs::openat(store, path, flags, Mode::from_raw_mode(0o444))
                .map_err(Into::into)
                .and_then(|file| {
                    std::io::Write::write_all(&mut std::fs::File::from(file), &secret.bytes)
                });
            step("write the secrets", written)?;
        }
        Ok(())
    }

    /// The overlay: the image's root, its user exchanged for the guest, under a layer the guest may write.
    fn lay_root(&self, namespaces: &mut Namespaces) -> Result<(), Failed> {
        let (order, at) = (self.order, &self.at);
        let id = order.root.id();
        let image = Path::new(ROOTS).join(id.as_str()).join("root");
        let lower = step("open the image's root", clone_tree(rustix::fs::CWD, &image, false))?;
        let namespace = step("make a user namespace", namespaces.of(order.exchange))?;
        let mapped = namespace.as_ref().map(|namespace| namespace.as_fd());
        let read = CLOSED.and(Attributes::READ_ONLY);
        step("map the image's user", sys::set_attributes(lower.as_fd(), read, mapped))?;
        step("attach a mount", attach_at(lower.as_fd(), &at.join("lower")))?;
        step("copy the root's mode", self.dress_upper(lower.as_fd()))?;
        let option = |name: &str| at.join(name).to_string_lossy().into_owned();
        let overlay = step(
            "mount an overlay",
            Context::open("overlay").and_then(|context| {
                context
                    .set("source", &format!("{SOURCE_PREFIX}{}", id.as_str()))?
                    .set("lowerdir", &option("lower"))?
                    .set("upperdir", &option("upper"))?
                    .set("workdir", &option("work"))?
                    .set("index", "off")?
                    .mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
            }),
        )?;
        step("attach a mount", attach_at(overlay.as_fd(), &at.join("root")))
    }

    /// The root directory's own owner and mode, which an overlay takes from its upper layer.
    fn dress_upper(&self, lower: BorrowedFd<'_>) -> std::io::Result<()> {
        let stat = rustix::fs::statat(lower, "", AtFlags::EMPTY_PATH)?;
        let upper = self.at.join("upper");
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chown(&upper, Some(uid), Some(gid))?;
        Ok(rustix::fs::chmod(&upper, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
    }

    /// Mounts the store's directory `name` at `path` of the slot.
    fn show(
        &self,
        root: BorrowedFd<'_>,
        name: &str,
        path: &str,
        attributes: Attributes,
    ) -> Result<(), Failed> {
        let tree = step("copy a mount", clone_tree(rustix::fs::CWD, &self.at.join(name), false))?;
        step("close a mount", sys::set_attributes(tree.as_fd(), attributes, None))?;
        let target = step("open a mount point", place::open_within(root, path))?;
        step("attach a mount", attach_on(tree.as_fd(), target.as_fd()))
    }

    /// The process table, without other users' processes and without what tells about the host.
    fn show_processes(&self, root: BorrowedFd<'_>, proc: Context) -> Result<(), Failed> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let hidden = proc.set("hidepid", "invisible").and_then(|proc| proc.mount(attributes));
        let table = step("mount a process table", hidden)?;
        let target = step("open a mount point", place::open_within(root, "proc"))?;
        step("attach a mount", attach_on(table.as_fd(), target.as_fd()))?;
        for name in MASKED {
            let Ok(target) = place::open_within(root, &format!("proc/{name}")) else { continue };
            let stat = step("look at the process table", rustix::fs::fstat(&target))?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let mask = self.at.join(if is_directory { "empty" } else { "dev/null" });
            let mask = step("copy a mount", clone_tree(rustix::fs::CWD, &mask, false))?;
            let closed = Attributes::NO_SUID.and(Attributes::NO_EXEC).and(Attributes::READ_ONLY);
            step("close a mount", sys::set_attributes(mask.as_fd(), closed, None))?;
            step("attach a mount", attach_on(mask.as_fd(), target.as_fd()))?;
        }
        Ok(())
    }
}

/// Clears the place of slot `number`; what was copied from there stays.
pub(super) fn clear(number: u64) {
    let at = place_of(number);
    match rustix::mount::unmount(&at, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => tracing::warn!(%error, number, "slot's place not unmounted"),
    }
    match rustix::fs::rmdir(&at) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => tracing::warn!(%error, number, "slot's place not removed"),
    }
}

fn place_of(number: u64) -> PathBuf {
    Path::new(STAGE).join(number.to_string())
}
