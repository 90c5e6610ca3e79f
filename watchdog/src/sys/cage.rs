//! Everything that keeps a guest apart from whoever else is in the container: root, user, capabilities, Landlock, system
//! calls, limits.
//!
//! In: a [`CagePlan`]. Out: a [`Cage`], complete before the fork; entered after it, or the guest does not start.
//! Always: all of it or nothing. [`Cage::enter`] only makes system calls.
//! Touches: the slot's root, which is opened when the cage is built, so that nobody can put another one in its place.
//! `docs/security.md` says which part is there against what.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::filter::{Filter, Whose};
use super::landlock::{self, Ruleset};
use super::seal::{Refusal, Step, at};

/// TCP ports of others that guests may connect to: name service, the web and its proxies, mail, databases, queues, caches, logs,
/// traces, and 8080, where OpenFaaS gateways and functions listen.
pub(crate) const OUTBOUND: [u16; 40] = [
    22, 25, 53, 80, 88, 389, 443, 465, 587, 636, 853, 993, 1433, 1521, 1883, 2181, 2379, 3128,
    3306, 4222, 4317, 4318, 5432, 5671, 5672, 6379, 6380, 8080, 8086, 8123, 8443, 8529, 8883, 9000,
    9042, 9092, 9200, 9411, 11211, 27017,
];
/// The only port a guest may bind by itself: one that the kernel picks. Its own is bound for it by the bind trap.
const BIND: [u16; 1] = [0];
/// More than any kernel has capabilities.
const CAPABILITIES: u32 = 64;

/// What a guest gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CagePlan<'a> {
    /// Where its slot is mounted; never our own root.
    pub(crate) root: &'a Path,
    /// Its working directory, absolute within the slot.
    pub(crate) directory: &'a str,
    /// Its user and group, neither of them root's.
    pub(crate) ids: (u32, u32),
    /// Most processes and threads of its user. The kernel counts over the whole machine: the user must be nobody else's.
    pub(crate) processes_max: u32,
    /// Most open descriptors of one process.
    pub(crate) descriptors_max: u32,
    /// TCP ports it may connect to, wherever; [`OUTBOUND`] without those that others in the container listen on.
    pub(crate) connect: &'a [u16],
}

/// Why there is no cage for a guest, which must not start then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CageError {
    #[error("a guest must not be root")]
    Root,
    #[error("its root {0} is the container's own")]
    OwnRoot(String),
    #[error("its root {path}: {source}")]
    NoRoot { path: String, source: io::Error },
    #[error("its working directory is not usable")]
    Directory,
    #[error("the kernel has Landlock version {0}, guests need {least} (Linux 6.7)", least = landlock::LEAST)]
    Landlock(u32),
    #[error("Landlock: {0}")]
    Ruleset(io::Error),
    #[error("{0}")]
    Missing(&'static str),
}

/// A cage, ready to be entered by any number of processes.
#[derive(Debug)]
pub(crate) struct Cage {
    root: OwnedFd,
    directory: CString,
    uid: Uid,
    gid: Gid,
    processes: u64,
    descriptors: u64,
    ruleset: Ruleset,
    filter: Filter,
}

impl Cage {
    /// Builds the cage; the slot must be mounted.
    ///
    /// # Errors
    /// [`CageError`] for whatever is missing.
    pub(crate) fn build(plan: CagePlan<'_>) -> Result<Self, CageError> {
        let (uid, gid) = plan.ids;
        if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX {
            return Err(CageError::Root);
        }
        if !plan.directory.starts_with('/') {
            return Err(CageError::Directory);
        }
        let directory = CString::new(plan.directory).map_err(|_| CageError::Directory)?;
        check_kernel()?;
        let root = open_root(plan.root)?;
        Ok(Self {
            ruleset: Ruleset::new(root.as_fd(), plan.connect, &BIND).map_err(CageError::Ruleset)?,
            filter: Filter::new(Whose::Guest, rustix::process::getpid()),
            root,
            directory,
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            processes: plan.processes_max.into(),
            descriptors: plan.descriptors_max.into(),
        })
    }

    /// Goes in, for good.
    pub(super) fn enter(&self) -> Result<(), Refusal> {
        self.limit().map_err(at(Step::Limits))?;
        self.change_root().map_err(at(Step::Root))?;
        self.become_user()?;
        // As the guest's user, so that the way there is one that this user may go.
        rustix::process::chdir(self.directory.as_c_str()).map_err(at(Step::Directory))?;
        rustix::thread::set_no_new_privs(true).map_err(at(Step::Privileges))?;
        self.ruleset.enter().map_err(at(Step::Landlock))?;
        self.filter.set().map_err(at(Step::Filter))
    }

    fn limit(&self) -> rustix::io::Result<()> {
        for (resource, limit) in [
            (Resource::Nproc, self.processes),
            (Resource::Nofile, self.descriptors),
            (Resource::Core, 0),
            (Resource::Msgqueue, 0),
            (Resource::Rtprio, 0),
        ] {
            rustix::process::setrlimit(
                resource,
                Rlimit { current: Some(limit), maximum: Some(limit) },
            )?;
        }
        Ok(())
    }

    fn change_root(&self) -> rustix::io::Result<()> {
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(c".")?;
        rustix::process::chdir(c"/")
    }

    fn become_user(&self) -> Result<(), Refusal> {
        empty_bounding_set().map_err(at(Step::Capabilities))?;
        rustix::thread::clear_ambient_capability_set().map_err(at(Step::Capabilities))?;
        rustix::thread::set_thread_groups(&[]).map_err(at(Step::User))?;
        rustix::thread::set_thread_gid(self.gid).map_err(at(Step::User))?;
        rustix::thread::set_thread_uid(self.uid).map_err(at(Step::User))?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).map_err(at(Step::Capabilities))
    }
}

/// Takes every capability out of reach, even of a program that would bring its own.
fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the kernel's last one.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_root(path: &Path) -> Result<OwnedFd, CageError> {
    let name = || path.display().to_string();
    let failed =
        |error: rustix::io::Errno| CageError::NoRoot { path: name(), source: error.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let (theirs, ours) =
        (rustix::fs::fstat(&root).map_err(failed)?, rustix::fs::stat("/").map_err(failed)?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        return Err(CageError::OwnRoot(name()));
    }
    Ok(root)
}

/// Whether this kernel and our own rights allow to serve guests.
///
/// # Errors
/// [`CageError`] with what is missing.
pub(crate) fn check_guests() -> Result<(), CageError> {
    check_kernel()?;
    let held = rustix::thread::capabilities(None)
        .map_err(|_| CageError::Missing("capabilities cannot be told"))?;
    for (capability, missing) in [
        (CapabilitySet::SETUID, "no capability to change users (SETUID)"),
        (CapabilitySet::SETGID, "no capability to change groups (SETGID)"),
        (CapabilitySet::SETPCAP, "no capability to drop capabilities (SETPCAP)"),
        (CapabilitySet::SYS_CHROOT, "no capability to change the root (SYS_CHROOT)"),
        (CapabilitySet::SYS_PTRACE, "no capability to set the bind trap (SYS_PTRACE)"),
        (CapabilitySet::KILL, "no capability to end other users' processes (KILL)"),
    ] {
        if !held.effective.contains(capability) {
            return Err(CageError::Missing(missing));
        }
    }
    Ok(())
}

fn check_kernel() -> Result<(), CageError> {
    let version = landlock::version();
    if version < landlock::LEAST {
        return Err(CageError::Landlock(version));
    }
    // Whoever has Landlock has seccomp filters; a profile may still forbid them.
    if Filter::is_possible() { Ok(()) } else { Err(CageError::Missing("no seccomp filters")) }
}

#[cfg(test)]
mod tests;
