//! Landlock: a guest sees only what lies below its slot, connects to listed TCP ports only, and reaches no process outside.
//!
//! In: the slot's root and the ports. Out: a [`Ruleset`], built before the fork, entered after it by one system call.
//! Always: whatever the kernel's version can restrict is restricted; one that cannot restrict ports is none.
//! Source: landlock(7). The crate of that name cannot enter a ruleset without allocating.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The least version of Landlock that guests need: it restricts TCP ports. Linux 6.7.
pub(crate) const LEAST: u32 = 4;
/// From this version on signals and abstract Unix sockets can be kept inside. Linux 6.12.
const SCOPES: u32 = 6;

/// `LANDLOCK_ACCESS_FS_…` of versions 1, 2, 3 and 5.
const FILES: u64 = 0xFFFF;
/// The one of version 5: ioctl(2) on devices.
const IOCTL_DEV: u64 = 1 << 15;
/// Making devices, which nobody needs.
const MAKE_DEVICES: u64 = 1 << 6 | 1 << 11;
const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 2;
/// Abstract Unix sockets and signals.
const SCOPED: u64 = 3;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const ASK_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;

/// `struct landlock_ruleset_attr` as of version 6.
#[repr(C)]
struct RulesetAttributes {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
struct NetPort {
    allowed: u64,
    port: u64,
}

/// What a process may still do once it has entered.
#[derive(Debug)]
pub(super) struct Ruleset(OwnedFd);

/// The kernel's version of Landlock; 0 where it has none, or the container's profile hides it.
#[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
pub(crate) fn version() -> u32 {
    let none: *const RulesetAttributes = std::ptr::null();
    // SAFETY: with this flag the call reads no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, ASK_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

impl Ruleset {
    /// Everything below `root`, nothing else; TCP connections to `connect` and TCP sockets bound to `bind` only.
    ///
    /// # Errors
    /// Where the kernel has no Landlock of version [`LEAST`], and for want of memory or descriptors.
    pub(super) fn new(root: BorrowedFd<'_>, connect: &[u16], bind: &[u16]) -> io::Result<Self> {
        let version = version();
        if version < LEAST {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let files = if version < 5 { FILES & !IOCTL_DEV } else { FILES };
        let ruleset = Self::create(&RulesetAttributes {
            files,
            network: BIND_TCP | CONNECT_TCP,
            scoped: if version < SCOPES { 0 } else { SCOPED },
        })?;
        let beneath = PathBeneath { allowed: files & !MAKE_DEVICES, parent: root.as_raw_fd() };
        ruleset.add(RULE_PATH_BENEATH, &beneath)?;
        for (ports, allowed) in [(connect, CONNECT_TCP), (bind, BIND_TCP)] {
            for port in ports {
                ruleset.add(RULE_NET_PORT, &NetPort { allowed, port: (*port).into() })?;
            }
        }
        Ok(ruleset)
    }

    #[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
    fn create(attributes: &RulesetAttributes) -> io::Result<Self> {
        let size = size_of::<RulesetAttributes>();
        // SAFETY: the kernel reads one such structure; an older one takes it as long as what it does not know is zero.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::from_ref(attributes),
                size,
                0,
            )
        };
        match RawFd::try_from(fd) {
            // SAFETY: the call has just created this descriptor for us.
            Ok(fd @ 0..) => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Adds a rule, whose structure must be the one of `kind`.
    #[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
    fn add<T>(&self, kind: u32, rule: &T) -> io::Result<()> {
        let (fd, rule) = (self.0.as_raw_fd(), std::ptr::from_ref(rule));
        // SAFETY: the kernel reads one structure of the kind, which is what both callers pass.
        match unsafe { libc::syscall(libc::SYS_landlock_add_rule, fd, kind, rule, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Enters for good: the calling process and all its descendants. Needs `no_new_privs`; only system calls.
    #[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
    pub(super) fn enter(&self) -> io::Result<()> {
        // SAFETY: the call takes two integers.
        match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
