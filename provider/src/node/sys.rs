//! What no safe wrapper exists for. The one module of the crate with unsafe code.
//!
//! Always: the two children made here share our memory, so nothing is copied; they make a handful of system calls on a
//! stack of their own, take no lock, allocate and drop nothing, and are waited for before their stack goes.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use rustix::thread::UnshareFlags;

/// Bytes of stack for a child that makes two system calls.
const STACK: usize = 32 << 10;

/// Attributes of a mount, as `mount_setattr(2)` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes(u64);

impl Attributes {
    pub(super) const READ_ONLY: Self = Self(0x1);
    pub(super) const NO_SUID: Self = Self(0x2);
    pub(super) const NO_DEVICES: Self = Self(0x4);
    pub(super) const NO_EXEC: Self = Self(0x8);
    const ID_MAP: Self = Self(0x0010_0000);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds attributes to a mount, and the id mapping of a user namespace to one that nobody sees yet.
///
/// # Errors
/// As `mount_setattr(2)`: among others for file systems without id mapping, and kernels before 5.12.
#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    id_map: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mapped = id_map.map_or(0, |_| Attributes::ID_MAP.0);
    let user_namespace = id_map.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let request =
        MountAttr { set: attributes.0 | mapped, clear: 0, propagation: 0, user_namespace };
    // SAFETY: the path is a static string, `request` lives across the call and its true size is given; the kernel reads only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const request,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this thread a mount namespace of its own, and a root and working directory apart from the process's other threads'.
///
/// # Errors
/// As `unshare(2)`.
#[expect(unsafe_code, reason = "unshare has an unsafe case")]
pub(super) fn leave_mount_namespace() -> io::Result<()> {
    // SAFETY: the unsafe case is CLONE_FILES alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(())
}

/// A new user namespace with these mappings, in the syntax of `/proc/<pid>/uid_map`, and the child that was needed for it.
///
/// Needs our own process table at `/proc`. Nobody else is in the namespace, which outlives the child.
///
/// # Errors
/// Of the clone (the host's limit of user namespaces), or of writing the mappings (capabilities).
pub(super) fn user_namespace(uids: &str, gids: &str) -> io::Result<(OwnedFd, Waiting)> {
    let child = Waiting::spawn()?;
    let directory = format!("/proc/{}", child.pid);
    // Each in one call, as the kernel wants it.
    std::fs::write(format!("{directory}/uid_map"), uids)?;
    std::fs::write(format!("{directory}/gid_map"), gids)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok((rustix::fs::open(format!("{directory}/ns/user"), flags, Mode::empty())?, child))
}

/// A child that does nothing until it is dropped, which ends it and waits for that.
#[derive(Debug)]
pub(super) struct Waiting {
    pid: i32,
    _stack: Box<[u128]>,
}

impl Waiting {
    #[expect(unsafe_code, reason = "clone has no safe form")]
    fn spawn() -> io::Result<Self> {
        let mut stack: Box<[u128]> = vec![0; STACK / size_of::<u128>()].into();
        let blocked = SignalMask::block_all();
        // SAFETY: the stack is the child's alone, grows down from its end, and is freed by `drop` after the child's end.
        // `wait_for_the_end` touches nothing else of our memory.
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end.cast();
            libc::clone(
                wait_for_the_end,
                top,
                libc::CLONE_VM | libc::CLONE_NEWUSER,
                ptr::null_mut(),
            )
        };
        let error = io::Error::last_os_error();
        drop(blocked);
        if pid < 0 { Err(error) } else { Ok(Self { pid, _stack: stack }) }
    }
}

impl Drop for Waiting {
    #[expect(unsafe_code, reason = "a child without an exit signal is waited for with __WALL")]
    fn drop(&mut self) {
        // SAFETY: `pid` is our child and has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        reap(self.pid);
    }
}

#[expect(unsafe_code, reason = "a child without an exit signal is waited for with __WALL")]
fn reap(pid: i32) {
    // SAFETY: asks for no status. Interrupted waits are repeated.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

#[expect(unsafe_code, reason = "system calls only")]
extern "C" fn wait_for_the_end(_: *mut c_void) -> libc::c_int {
    // SAFETY: both calls take integers. Neither returns an error that would be written into memory we share: the first
    // cannot fail, the second does not return, as every signal that could interrupt it is blocked or fatal.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

/// A `proc` file system of the pid namespace that this thread's next child would be in, ready to be configured.
///
/// # Errors
/// Of the clone (the namespace's first process has ended), or of `fsopen(2)`.
#[expect(unsafe_code, reason = "clone has no safe form")]
pub(super) fn open_proc_in_child() -> io::Result<OwnedFd> {
    let mut stack: Box<[u128]> = vec![0; STACK / size_of::<u128>()].into();
    let mut opened: io::Result<OwnedFd> = Err(io::Error::from_raw_os_error(libc::EINVAL));
    let blocked = SignalMask::block_all();
    // SAFETY: the stack is the child's alone and grows down from its end. CLONE_VFORK holds this thread until the child has
    // ended, so stack and `opened` outlive it, and its write to `opened` is over before we read it. CLONE_FILES makes the
    // descriptor it opens one of ours.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
        libc::clone(open_proc, top, flags, (&raw mut opened).cast())
    };
    let error = io::Error::last_os_error();
    drop(blocked);
    if pid < 0 {
        return Err(error);
    }
    reap(pid);
    // SAFETY: `opened` is a live local; read anew since the child wrote to it behind the compiler's back.
    let fresh = unsafe { ptr::read_volatile(&raw const opened) };
    std::mem::forget(opened);
    fresh
}

#[expect(unsafe_code, reason = "writes through the pointer its parent gave")]
extern "C" fn open_proc(result: *mut c_void) -> libc::c_int {
    let opened = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|error: Errno| io::Error::from_raw_os_error(error.raw_os_error()));
    // SAFETY: the parent passes a pointer to a live `io::Result<OwnedFd>` whose present value needs no drop (a plain error
    // number), and stands still until this child has ended.
    unsafe { result.cast::<io::Result<OwnedFd>>().write(opened) };
    0
}

/// All signals blocked for this thread until dropped, so that no handler of ours runs in a child.
struct SignalMask(libc::sigset_t);

impl SignalMask {
    #[expect(unsafe_code, reason = "rustix offers no signal masks")]
    fn block_all() -> Self {
        // SAFETY: `sigset_t` is plain data; both calls only read and write the sets given.
        unsafe {
            let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            Self(old)
        }
    }
}

impl Drop for SignalMask {
    #[expect(unsafe_code, reason = "rustix offers no signal masks")]
    fn drop(&mut self) {
        // SAFETY: the set came from the same call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
