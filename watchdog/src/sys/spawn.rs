//! Starts a program in a child that borrows our memory until it executes (`CLONE_VM | CLONE_VFORK`).
//!
//! In: a [`Launch`] with everything prepared that would need memory. Out: the child's id once the program runs, or the
//! error that kept it from running.
//! Always: the calling thread stands still until the child has executed or ended; the child makes system calls only, on a
//! stack of its own: it takes no lock, allocates and drops nothing. It starts with default signals, an empty signal mask,
//! its own process group, descriptors 0 to 2, and sealed. It is killed when the calling thread ends.
//! Not dumpable since before (`hide_from_workers`), or made so by the change of user: nobody of the new user can look into
//! the borrowed memory. A SIGSTOP that another worker of that user sends just then holds the calling thread until SIGCONT.
//! Why not a plain fork: copying page tables, and the page faults afterwards, cost more than all the rest of a request.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, OnceLock};

use rustix::process::Pid;

use super::seal::{Refusal, SealedCall, Step, at};
use super::trap;

/// Signals with a number below the C library's own.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=31;
/// Exit code of a child that could not execute; nobody sees it, the error tells more.
const NOT_EXECUTED: i32 = 127;
/// Bytes of stack for the child, which calls a handful of functions and never recurses.
const STACK: usize = 64 << 10;

/// A program about to run.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) path: CString,
    pub(crate) arguments: Vec<CString>,
    /// `NAME=value` each.
    pub(crate) environment: Vec<CString>,
    /// Become stdin, stdout and stderr; none of them may be 0, 1 or 2.
    pub(crate) streams: [OwnedFd; 3],
    /// Where the child hands over its bind trap; it has none otherwise.
    pub(crate) snare: Option<OwnedFd>,
    /// Held until the program runs or will never run, so that others can tell whether starts are under way.
    pub(crate) _hold: Option<Arc<()>>,
}

/// What the child reads, and the one thing it writes.
struct Order<'a> {
    launch: &'a Launch,
    arguments: &'a [*const libc::c_char],
    environment: &'a [*const libc::c_char],
    seal: &'a SealedCall,
    /// The signals whose effect the child has to make the default one.
    signals: &'a [i32],
    /// What kept the child from executing.
    error: Option<Refusal>,
}

/// A stack that children use one after the other; 16-byte units give it the alignment that both architectures want.
pub(crate) struct ChildStack(Box<[u128]>);

impl Default for ChildStack {
    fn default() -> Self {
        Self(vec![0; STACK / size_of::<u128>()].into())
    }
}

impl fmt::Debug for ChildStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildStack").finish_non_exhaustive()
    }
}

/// Starts the child and waits until it executes, which takes some 100 µs.
///
/// # Errors
/// That of the clone (too many processes, too little memory), or of what the child did up to its execution.
#[expect(unsafe_code, reason = "clone and execve have no safe form")]
pub(crate) fn spawn(launch: &Launch, seal: &SealedCall, stack: &mut ChildStack) -> io::Result<Pid> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&launch.arguments), pointers(&launch.environment));
    let (arguments, environment) = (arguments.as_slice(), environment.as_slice());
    // Handlers are installed before the first process starts. Resetting all would be a third of a child's system calls.
    static CHANGED: OnceLock<Vec<i32>> = OnceLock::new();
    let signals = CHANGED.get_or_init(|| super::changed_signals(SIGNALS));
    let mut order = Order { launch, arguments, environment, seal, signals, error: None };
    // No handler of ours may run in the child: it would write into the pipe that wakes our event loop.
    let blocked = SignalMask::block_all();
    // SAFETY: the stack is ours alone, and grows down from its end. The child runs `child`, which
    // never returns; CLONE_VFORK holds this thread until the child no longer uses this memory, so `order` and all that it
    // points to outlive it, and its write to `order` is over before we read it.
    let pid = unsafe {
        let top = stack.0.as_mut_ptr_range().end.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(child, top, flags, (&raw mut order).cast())
    };
    let error = io::Error::last_os_error();
    drop(blocked);
    let pid = Pid::from_raw(pid.max(0)).ok_or(error)?;
    // SAFETY: `order` is a live local; read anew since the child wrote to it behind the compiler's back.
    match unsafe { ptr::read_volatile(&raw const order.error) } {
        // The reaper finds the child that has ended.
        Some(refusal) => Err(refusal.into()),
        None => Ok(pid),
    }
}

/// The child's life up to its execution.
#[expect(unsafe_code, reason = "clone and execve have no safe form")]
extern "C" fn child(order: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a pointer to an `Order` that lives, untouched by anybody else, while this child uses its memory.
    let order = unsafe { &mut *order.cast::<Order<'_>>() };
    let result: Result<(), Refusal> = prepare(order).and_then(|()| {
        let (arguments, environment) = (order.arguments.as_ptr(), order.environment.as_ptr());
        // SAFETY: both arrays end in null and point to strings that outlive the call.
        unsafe { libc::execve(order.launch.path.as_ptr(), arguments, environment) };
        Err(at(Step::Execute)(io::Error::last_os_error()))
    });
    order.error = result.err();
    // SAFETY: ends the process without running anything of ours.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

fn prepare(order: &Order<'_>) -> Result<(), Refusal> {
    let Order { launch, seal, signals, .. } = order;
    // Not a session: where the scheduler groups by session, making one took milliseconds.
    rustix::process::setpgid(None, None).map_err(at(Step::Group))?;
    take_streams(&launch.streams).map_err(at(Step::Streams))?;
    seal.apply()?;
    if let Some(way) = &launch.snare {
        trap::install(way.as_fd()).map_err(at(Step::Trap))?;
    }
    super::reset_signals(signals.iter().copied());
    SignalMask::clear();
    Ok(())
}

#[expect(unsafe_code, reason = "dup2 onto descriptors that nobody owns")]
fn take_streams(streams: &[OwnedFd; 3]) -> io::Result<()> {
    for (target, stream) in (0..).zip(streams) {
        // SAFETY: in the child nobody owns 0 to 2, and both numbers are valid.
        if unsafe { libc::dup2(stream.as_raw_fd(), target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// All signals blocked for this thread until dropped.
pub(crate) struct SignalMask(libc::sigset_t);

impl SignalMask {
    #[expect(unsafe_code, reason = "rustix offers no signal masks")]
    pub(crate) fn block_all() -> Self {
        // SAFETY: `sigset_t` is plain data; all three calls only read and write the sets given.
        unsafe {
            let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            Self(old)
        }
    }

    #[expect(unsafe_code, reason = "rustix offers no signal masks")]
    fn clear() {
        // SAFETY: as above.
        unsafe {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
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
