//! Which system calls a worker may not make: a seccomp filter on top of the container's own.
//!
//! In: whose worker it is, and who must not be looked into. Out: a [`Filter`], compiled before the fork, set after it.
//! Always: an owner is denied nothing that plain Docker allows by default, except io_uring (whose work no filter sees, the
//! bind trap's neither; Docker denies it too since version 25) and looking into the watchdog. A guest is denied more, and
//! everything of a foreign architecture.
//! Source: Docker's default profile; seccomp(2). The kernel remembers which calls always pass, so that those cost nothing.

use std::io;

use rustix::process::Pid;

use super::calls::{self, COMPAT, Call, Calls, NATIVE};

/// Operations of the filter's machine: load a word, compare with a constant, test bits, return a constant.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Places in what the filter sees: the call's number, its architecture, its first argument (of 8 bytes, low half first).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// From here on numbers are those of the x32 kind of program, which no kernel of today's distributions runs.
const X32: u32 = 0x4000_0000;
/// Every `CLONE_NEW…` of a namespace that clone(2) can make.
const CLONE_NEW: u32 = 0x7E02_0000;
/// Sending with it connects without `connect`, past Landlock's rules for ports.
const FAST_OPEN: u32 = 0x2000_0000;
/// Socket families and the protocols within them that a guest may use; 0 is the default one.
const FAMILIES: [(libc::c_int, &[libc::c_int]); 4] = [
    (libc::AF_UNIX, &[0]),
    (libc::AF_INET, &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP]),
    (libc::AF_INET6, &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMPV6]),
    // Lists the own addresses, which name resolution needs. Other protocols list everybody's sockets.
    (libc::AF_NETLINK, &[libc::NETLINK_ROUTE]),
];

/// Privileged, or the kernel's inside: what plain Docker denies by default, and what our capabilities opened in its profile.
const DENIED: [Call; 45] = [
    calls::ACCT,
    calls::ADD_KEY,
    calls::BPF,
    calls::CLOCK_SETTIME,
    calls::DELETE_MODULE,
    calls::FANOTIFY_INIT,
    calls::FINIT_MODULE,
    calls::FSCONFIG,
    calls::FSMOUNT,
    calls::FSOPEN,
    calls::FSPICK,
    calls::INIT_MODULE,
    calls::IOPERM,
    calls::IOPL,
    calls::IO_URING_ENTER,
    calls::IO_URING_REGISTER,
    calls::IO_URING_SETUP,
    calls::KCMP,
    calls::KEXEC_FILE_LOAD,
    calls::KEXEC_LOAD,
    calls::KEYCTL,
    calls::LOOKUP_DCOOKIE,
    calls::MOUNT,
    calls::MOUNT_SETATTR,
    calls::MOVE_MOUNT,
    calls::OPEN_BY_HANDLE_AT,
    calls::OPEN_TREE,
    calls::PERF_EVENT_OPEN,
    calls::PIDFD_GETFD,
    calls::PIVOT_ROOT,
    calls::PROCESS_MADVISE,
    calls::QUOTACTL,
    calls::QUOTACTL_FD,
    calls::REBOOT,
    calls::REQUEST_KEY,
    calls::SETDOMAINNAME,
    calls::SETHOSTNAME,
    calls::SETNS,
    calls::SETTIMEOFDAY,
    calls::SWAPOFF,
    calls::SWAPON,
    calls::UMOUNT2,
    calls::UNSHARE,
    calls::USERFAULTFD,
    calls::VHANGUP,
];
/// What a guest could reach others in its container with: their memory, the IPC objects they all share, file handles.
const DENIED_GUESTS: [Call; 11] = [
    calls::CHROOT,
    calls::MQ_OPEN,
    calls::MSGGET,
    calls::NAME_TO_HANDLE_AT,
    calls::PROCESS_VM_READV,
    calls::PROCESS_VM_WRITEV,
    calls::PTRACE,
    calls::SEMGET,
    calls::SHMAT,
    calls::SHMGET,
    calls::SYSLOG,
];

/// Whose worker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Owner,
    Guest,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// The filter for a worker of `whose`, started by `watchdog`.
    pub(super) fn new(whose: Whose, watchdog: Pid) -> Self {
        let native = rules(NATIVE, whose, watchdog);
        let mut program = vec![step(LOAD, ARCHITECTURE, (0, 0))];
        // Jumps over a whole architecture do not fit a condition's 8 bits.
        program.push(step(EQUAL, NATIVE.architecture, (1, 0)));
        program.push(jump(native.len()));
        program.extend(native);
        match whose {
            Whose::Owner => {
                program.push(step(EQUAL, COMPAT.architecture, (1, 0)));
                program.push(allow());
                program.extend(rules(COMPAT, whose, watchdog));
            }
            Whose::Guest => program.push(step(RETURN, libc::SECCOMP_RET_KILL_PROCESS, (0, 0))),
        }
        Self(program)
    }

    /// Whether the kernel sets filters at all, for this program too.
    #[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
    pub(super) fn is_possible() -> bool {
        let action = libc::SECCOMP_RET_KILL_PROCESS;
        let operation = libc::SECCOMP_GET_ACTION_AVAIL;
        // SAFETY: the kernel reads one number.
        unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 }
    }

    /// Sets the filter for the calling process, which has `no_new_privs`; only system calls.
    #[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
    pub(super) fn set(&self) -> io::Result<()> {
        let length = u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        let (operation, flags) =
            (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
        // SAFETY: the kernel copies the program, which it only reads.
        match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The part for one architecture; ends in a return on every way.
fn rules(calls: Calls, whose: Whose, watchdog: Pid) -> Vec<libc::sock_filter> {
    let mut bodies = Vec::new();
    let mut on = |call, body: Vec<libc::sock_filter>| {
        bodies.extend(calls.number(call).map(|number| (number, body)));
    };
    for call in DENIED {
        on(call, vec![refuse(libc::EPERM)]);
    }
    on(calls::CLONE, unless_any(0, CLONE_NEW, libc::EPERM));
    // Its flags lie in memory, which no filter sees. The C libraries fall back to `clone`, as they do in plain Docker.
    on(calls::CLONE3, vec![refuse(libc::ENOSYS)]);
    match whose {
        Whose::Owner => {
            let watchdog = watchdog.as_raw_pid().unsigned_abs();
            on(calls::PTRACE, unless_equal(1, watchdog));
            on(calls::PROCESS_VM_READV, unless_equal(0, watchdog));
            on(calls::PROCESS_VM_WRITEV, unless_equal(0, watchdog));
        }
        Whose::Guest => {
            for call in DENIED_GUESTS {
                on(call, vec![refuse(libc::EPERM)]);
            }
            on(calls::SENDTO, unless_any(3, FAST_OPEN, libc::EPERM));
            on(calls::SENDMSG, unless_any(2, FAST_OPEN, libc::EPERM));
            on(calls::SENDMMSG, unless_any(3, FAST_OPEN, libc::EPERM));
            on(calls::SOCKET, sockets());
        }
    }
    bodies.sort_by_key(|(number, _)| *number);
    let mut program = vec![step(LOAD, NUMBER, (0, 0))];
    if calls.architecture == NATIVE.architecture {
        program.extend([step(AT_LEAST, X32, (0, 1)), refuse(libc::ENOSYS)]);
    }
    program.extend(search(&bodies));
    program
}

/// Finds the body for the loaded number by halves: the kernel runs a new filter for every number there is, and does so at
/// every start of a process. One comparison after the other would take a quarter of a millisecond for that.
fn search(bodies: &[(u32, Vec<libc::sock_filter>)]) -> Vec<libc::sock_filter> {
    if bodies.len() <= 2 {
        let mut program = Vec::new();
        for (number, body) in bodies {
            let length = u8::try_from(body.len()).expect("bodies are a few steps long");
            program.push(step(EQUAL, *number, (0, length)));
            program.extend(body);
        }
        program.push(allow());
        return program;
    }
    let (low, high) = bodies.split_at(bodies.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut program = vec![step(AT_LEAST, high[0].0, (0, 1)), jump(below.len())];
    program.extend(below);
    program.extend(above);
    program
}

/// Refuses a call whose argument has one of `bits`.
fn unless_any(argument: u32, bits: u32, error: i32) -> Vec<libc::sock_filter> {
    vec![load_argument(argument), step(ANY_BIT, bits, (0, 1)), refuse(error), allow()]
}

/// Refuses a call whose argument is `value`.
fn unless_equal(argument: u32, value: u32) -> Vec<libc::sock_filter> {
    vec![load_argument(argument), step(EQUAL, value, (0, 1)), refuse(libc::EPERM), allow()]
}

/// Allows the sockets of [`FAMILIES`].
fn sockets() -> Vec<libc::sock_filter> {
    let mut program = vec![load_argument(0)];
    for (family, protocols) in FAMILIES {
        let mut body = vec![load_argument(2)];
        for protocol in protocols {
            body.extend([step(EQUAL, protocol.unsigned_abs(), (0, 1)), allow()]);
        }
        body.push(refuse(libc::EPROTONOSUPPORT));
        let length = u8::try_from(body.len()).expect("a few protocols");
        program.push(step(EQUAL, family.unsigned_abs(), (0, length)));
        program.extend(body);
    }
    program.push(refuse(libc::EAFNOSUPPORT));
    program
}

const fn step(code: u16, k: u32, (jt, jf): (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Jumps over `length` steps.
fn jump(length: usize) -> libc::sock_filter {
    step(0x05, u32::try_from(length).expect("programs are short"), (0, 0))
}

/// Loads the low half of an argument, which is all the kernel looks at where it wants an `int`.
const fn load_argument(number: u32) -> libc::sock_filter {
    step(LOAD, ARGUMENTS + 8 * number, (0, 0))
}

const fn allow() -> libc::sock_filter {
    step(RETURN, libc::SECCOMP_RET_ALLOW, (0, 0))
}

const fn refuse(error: i32) -> libc::sock_filter {
    step(RETURN, libc::SECCOMP_RET_ERRNO | error.unsigned_abs(), (0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says to a call: the kernel's machine, as far as these programs use it.
    fn verdict(filter: &Filter, architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = filter.0[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD if k == NUMBER => loaded = number,
                LOAD if k == ARCHITECTURE => loaded = architecture,
                LOAD => loaded = arguments[usize::try_from((k - ARGUMENTS) / 8).unwrap()],
                EQUAL => at += branch(loaded == k),
                AT_LEAST => at += branch(loaded >= k),
                ANY_BIT => at += branch(loaded & k != 0),
                0x05 => at += usize::try_from(k).unwrap(),
                RETURN => return k,
                other => panic!("no such operation: {other}"),
            }
        }
    }

    fn filter(whose: Whose) -> Filter {
        Filter::new(whose, Pid::from_raw(77).unwrap())
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const fn errno(error: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | error.unsigned_abs()
    }

    #[test]
    fn an_owner_is_denied_the_same_on_both_architectures() {
        let owner = filter(Whose::Owner);
        for calls in [NATIVE, COMPAT] {
            let ask = |call, arguments| {
                let number = calls.number(call)?;
                Some(verdict(&owner, calls.architecture, number, arguments))
            };
            for call in DENIED {
                assert!(matches!(ask(call, [0; 6]), None | Some(0x0005_0001)), "{call:?}");
            }
            for call in DENIED_GUESTS {
                assert_eq!(ask(call, [0; 6]), Some(ALLOW), "{call:?}");
            }
            assert_eq!(ask(calls::CLONE3, [0; 6]), Some(errno(libc::ENOSYS)));
            assert_eq!(ask(calls::CLONE, [0x11, 0, 0, 0, 0, 0]), Some(ALLOW), "a fork");
            let user = 0x1000_0011;
            assert_eq!(ask(calls::CLONE, [user, 0, 0, 0, 0, 0]), Some(errno(libc::EPERM)));
            assert_eq!(ask(calls::PTRACE, [16, 77, 0, 0, 0, 0]), Some(errno(libc::EPERM)));
            assert_eq!(ask(calls::PTRACE, [16, 78, 0, 0, 0, 0]), Some(ALLOW), "its own children");
            assert_eq!(ask(calls::PROCESS_VM_READV, [77; 6]), Some(errno(libc::EPERM)));
            assert_eq!(ask(calls::SOCKET, [libc::AF_PACKET.unsigned_abs(); 6]), Some(ALLOW));
        }
        assert_eq!(verdict(&owner, 7, 101, [0; 6]), ALLOW, "an architecture nobody knows");
        assert_eq!(verdict(&owner, NATIVE.architecture, X32 | 1, [0; 6]), errno(libc::ENOSYS));
    }

    #[test]
    fn a_guest_is_denied_what_reaches_others() {
        let guest = filter(Whose::Guest);
        let ask = |call, arguments| {
            verdict(&guest, NATIVE.architecture, NATIVE.number(call).unwrap(), arguments)
        };
        for call in DENIED.into_iter().chain(DENIED_GUESTS) {
            if NATIVE.number(call).is_some() {
                assert_eq!(ask(call, [0; 6]), errno(libc::EPERM), "{call:?}");
            }
        }
        let socket = |family: i32, protocol: i32| {
            ask(calls::SOCKET, [family.unsigned_abs(), 1, protocol.unsigned_abs(), 0, 0, 0])
        };
        for (family, protocol) in [
            (libc::AF_UNIX, 0),
            (libc::AF_INET, 0),
            (libc::AF_INET, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::IPPROTO_UDP),
            (libc::AF_NETLINK, libc::NETLINK_ROUTE),
        ] {
            assert_eq!(socket(family, protocol), ALLOW, "{family} {protocol}");
        }
        let mptcp = 262;
        for (family, protocol) in
            [(libc::AF_INET, mptcp), (libc::AF_INET6, libc::IPPROTO_SCTP), (libc::AF_NETLINK, 4)]
        {
            assert_eq!(socket(family, protocol), errno(libc::EPROTONOSUPPORT));
        }
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
            assert_eq!(socket(family, 0), errno(libc::EAFNOSUPPORT));
        }
        assert_eq!(ask(calls::SENDTO, [0, 0, 0, FAST_OPEN, 0, 0]), errno(libc::EPERM));
        assert_eq!(ask(calls::SENDTO, [0, 0, 0, 0x4000, 0, 0]), ALLOW);
        let foreign = verdict(&guest, COMPAT.architecture, 3, [0; 6]);
        assert_eq!(foreign, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
