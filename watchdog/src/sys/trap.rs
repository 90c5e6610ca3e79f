//! The kernel's side of the bind trap: a seccomp filter that stops a process in `bind` and `listen` until we answer.
//!
//! In: a child about to execute, then its stopped calls. Out: a [`TrapFd`] to receive and answer them.
//! Always: every other system call passes untouched, those of a foreign architecture too; nothing is allocated in the child.
//! Source: seccomp(2), seccomp_unotify(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;
#[cfg(target_arch = "x86_64")]
const CALLS: (u32, u32) = (49, 50);
#[cfg(target_arch = "aarch64")]
const CALLS: (u32, u32) = (200, 201);

/// Operations of the filter's machine: load a word, compare with a constant, return a constant.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Places of the system call's number and architecture in what the filter sees.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `PIDFD_THREAD`: a thread that is not its process's first; since Linux 6.9.
const PIDFD_THREAD: u32 = 0x80;

const fn step(code: u16, k: u32, (jt, jf): (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

static FILTER: [libc::sock_filter; 7] = [
    step(LOAD, ARCHITECTURE, (0, 0)),
    step(EQUAL, AUDIT_ARCH, (0, 3)),
    step(LOAD, NUMBER, (0, 0)),
    step(EQUAL, CALLS.0, (2, 0)),
    step(EQUAL, CALLS.1, (1, 0)),
    step(RETURN, libc::SECCOMP_RET_ALLOW, (0, 0)),
    step(RETURN, libc::SECCOMP_RET_USER_NOTIF, (0, 0)),
];

/// A trap to be set: our end of the way on which the child hands it over.
#[derive(Debug)]
pub(crate) struct Snare(OwnedFd);

impl Snare {
    /// Our end, and the one for the child.
    ///
    /// # Errors
    /// Where the kernel's traps are none of ours, and for want of descriptors.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        check_sizes()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(ours), theirs))
    }

    /// The trap of a child that executes; an inner error when the kernel refused it and the child runs without.
    ///
    /// # Errors
    /// When the child is trapped but its trap did not arrive: it must be killed, nobody would answer it.
    pub(crate) fn receive(self) -> io::Result<io::Result<TrapFd>> {
        let mut bytes = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [IoSliceMut::new(&mut bytes)];
        recvmsg(&self.0, &mut text, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let received = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut list) => list.next(),
            _ => None,
        });
        match (i32::from_ne_bytes(bytes), received) {
            (0, Some(trap)) => Ok(Ok(TrapFd(trap))),
            (0, None) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            (number, _) => Ok(Err(io::Error::from_raw_os_error(number))),
        }
    }
}

/// Whether the kernel's structures have the size of ours: newer ones could be longer than our buffers.
#[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
fn check_sizes() -> io::Result<()> {
    let mut sizes =
        libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    let operation = libc::SECCOMP_GET_NOTIF_SIZES;
    // SAFETY: the kernel writes one such structure.
    if unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw mut sizes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_known = usize::from(sizes.seccomp_notif) == size_of::<libc::seccomp_notif>()
        && usize::from(sizes.seccomp_notif_resp) == size_of::<libc::seccomp_notif_resp>();
    if is_known { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOSYS)) }
}

/// Sets the trap for the calling child, which has `no_new_privs`, and hands it over; without it the child goes on.
///
/// # Errors
/// When it could not be handed over.
pub(super) fn install(way: BorrowedFd<'_>) -> io::Result<()> {
    let trap = set_filter();
    let number = match &trap {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
    };
    let bytes = number.to_ne_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights;
    if let Ok(trap) = &trap {
        rights = [trap.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&rights));
    }
    sendmsg(way, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
fn set_filter() -> io::Result<OwnedFd> {
    // Its length fits any integer.
    let program = libc::sock_fprog { len: 7, filter: FILTER.as_ptr().cast_mut() };
    // The filter guards nothing, so it need not slow the worker by a guard against speculation.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // Since Linux 5.19: a call that we work on is interrupted by nothing but the process's death.
    for flags in [flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, flags] {
        let operation = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the kernel copies the program, which it only reads.
        let trap =
            unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
        if let Ok(trap @ 0..) = RawFd::try_from(trap) {
            // SAFETY: the call has just created this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(trap) });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Which call a process is stopped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// With the address of a socket address, and its length.
    Bind { address: u64, length: u64 },
    /// With the longest queue of connections.
    Listen { backlog: i32 },
}

/// A process, stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// What to answer to.
    pub(crate) id: u64,
    /// The thread that called.
    pub(crate) thread: Pid,
    /// Its number for the socket.
    pub(crate) socket: RawFd,
    pub(crate) stopped: Stopped,
}

/// Where the stopped calls of a worker's processes arrive.
#[derive(Debug)]
pub(crate) struct TrapFd(OwnedFd);

impl AsRawFd for TrapFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What [`TrapFd::next`] finds.
#[derive(Debug)]
pub(crate) enum Next {
    Call(Call),
    /// No process is stopped.
    Nothing,
    /// No process is left that could be.
    End,
}

impl TrapFd {
    /// Lets stopped calls be awaited.
    ///
    /// # Errors
    /// When the event loop cannot watch it.
    #[expect(unsafe_code, reason = "tokio cannot see that a descriptor stays open")]
    pub(crate) fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is ours alone, and closed only when dropped by the registration that holds it.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        Ok(watched?)
    }

    /// The next stopped call; never waits.
    pub(crate) fn next(&self) -> Next {
        loop {
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            let polled = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            let events = ready[0].revents();
            if polled.is_ok() && events.contains(PollFlags::IN) {
                match self.receive() {
                    Ok(Some(call)) => return Next::Call(call),
                    // Killed since the look.
                    Ok(None) => {}
                    Err(_) => return Next::End,
                }
            } else if events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                return Next::End;
            } else if polled != Err(rustix::io::Errno::INTR) {
                return Next::Nothing;
            }
        }
    }

    #[expect(unsafe_code, reason = "this ioctl has no safe wrapper")]
    fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: plain data; the kernel wants it zeroed.
        let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
        // SAFETY: the kernel writes one such structure, of the size that `check_sizes` has compared.
        if unsafe { libc::ioctl(self.as_raw_fd(), request, &raw mut notice) } < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        let [socket, first, second, ..] = notice.data.args;
        let stopped = if u32::try_from(notice.data.nr) == Ok(CALLS.0) {
            Stopped::Bind { address: first, length: low(second).into() }
        } else {
            Stopped::Listen { backlog: low(first).cast_signed() }
        };
        let thread = i32::try_from(notice.pid).ok().and_then(Pid::from_raw);
        let Some(thread) = thread else {
            // Of a process outside our namespace, which cannot be.
            let _ = self.let_go(notice.id);
            return Ok(None);
        };
        Ok(Some(Call { id: notice.id, thread, socket: low(socket).cast_signed(), stopped }))
    }

    /// Whether the process is still stopped in call `id`, so that its thread's number still means it.
    #[expect(unsafe_code, reason = "this ioctl has no safe wrapper")]
    pub(crate) fn is_stopped(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one number.
        unsafe {
            libc::ioctl(self.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0
        }
    }

    /// Ends call `id` with `result`, an error number or nothing.
    ///
    /// # Errors
    /// When the process no longer waits.
    pub(crate) fn answer(&self, id: u64, result: Result<(), i32>) -> io::Result<()> {
        let error = result.err().map_or(0, i32::wrapping_neg);
        self.send(&libc::seccomp_notif_resp { id, val: 0, error, flags: 0 })
    }

    /// Lets call `id` take its course.
    ///
    /// # Errors
    /// As [`TrapFd::answer`].
    pub(crate) fn let_go(&self, id: u64) -> io::Result<()> {
        let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1);
        self.send(&libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
    }

    #[expect(unsafe_code, reason = "this ioctl has no safe wrapper")]
    fn send(&self, answer: &libc::seccomp_notif_resp) -> io::Result<()> {
        let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
        // SAFETY: the kernel reads one such structure, of the size that `check_sizes` has compared.
        match unsafe { libc::ioctl(self.as_raw_fd(), request, ptr::from_ref(answer)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The lower half of an argument, which is all the kernel looks at where it wants an `int`.
const fn low(argument: u64) -> u32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A duplicate of descriptor `number` of the process that `thread` is part of.
///
/// # Errors
/// When it has ended, has no such descriptor, or may not be looked into.
pub(crate) fn duplicate(thread: Pid, number: RawFd) -> io::Result<OwnedFd> {
    let process = pidfd_open(thread, PidfdFlags::from_bits_retain(PIDFD_THREAD));
    let process = process.or_else(|error| match error {
        rustix::io::Errno::INVAL => {
            pidfd_open(leader(thread).unwrap_or(thread), PidfdFlags::empty())
        }
        error => Err(error),
    })?;
    Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}

/// The first thread of the process that `thread` is part of.
fn leader(thread: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// Four bytes of the memory of the process that `thread` is part of.
///
/// Not through `/proc`: its files belong to the worker's user, and the watchdog has no right to pass over that.
///
/// # Errors
/// When there is no such memory, or it may not be looked into.
#[expect(unsafe_code, reason = "process_vm_readv has no safe wrapper")]
pub(crate) fn peek(thread: Pid, address: u64) -> io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    let (base, length) = (bytes.as_mut_ptr().cast(), bytes.len());
    let into = libc::iovec { iov_base: base, iov_len: length };
    let place = usize::try_from(address).map_err(io::Error::other)?;
    let from = libc::iovec { iov_base: ptr::without_provenance_mut(place), iov_len: length };
    let number = thread.as_raw_pid();
    // SAFETY: only `bytes` is written, with at most its own length; the other address means nothing in our memory.
    let read = unsafe { libc::process_vm_readv(number, &raw const into, 1, &raw const from, 1, 0) };
    match usize::try_from(read) {
        Ok(read) if read == length => Ok(bytes),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
