//! Numbers of the system calls that the filters name, on each architecture a worker may execute.
//!
//! Numbers from 424 on are the same everywhere. Source: the kernel's system call tables.

/// An architecture's system calls. What it does not have is no number at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    /// `AUDIT_ARCH_…`, what the filter sees.
    pub(super) architecture: u32,
    column: usize,
}

/// What this program itself is compiled for.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Calls = Calls { architecture: 0xC000_003E, column: 0 };
/// What this program itself is compiled for.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Calls = Calls { architecture: 0xC000_00B7, column: 2 };
/// The 32-bit programs that such a kernel runs as well.
#[cfg(target_arch = "x86_64")]
pub(super) const COMPAT: Calls = Calls { architecture: 0x4000_0003, column: 1 };
/// The 32-bit programs that such a kernel runs as well.
#[cfg(target_arch = "aarch64")]
pub(super) const COMPAT: Calls = Calls { architecture: 0x4000_0028, column: 3 };

/// A call's numbers on `x86_64`, i386, aarch64 and arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call([Option<u32>; 4]);

impl Calls {
    /// The number of `call` here, if there is one.
    pub(super) const fn number(self, call: Call) -> Option<u32> {
        call.0[self.column]
    }
}

const fn call(x86_64: u32, i386: u32, aarch64: u32, arm: u32) -> Call {
    Call([Some(x86_64), Some(i386), Some(aarch64), Some(arm)])
}

const fn everywhere(number: u32) -> Call {
    call(number, number, number, number)
}

const fn not_on_i386(x86_64: u32, aarch64: u32, arm: u32) -> Call {
    Call([Some(x86_64), None, Some(aarch64), Some(arm)])
}

const fn on_x86(x86_64: u32, i386: u32) -> Call {
    Call([Some(x86_64), Some(i386), None, None])
}

pub(super) const ACCT: Call = call(163, 51, 89, 51);
pub(super) const ADD_KEY: Call = call(248, 286, 217, 309);
pub(super) const BPF: Call = call(321, 357, 280, 386);
pub(super) const CHROOT: Call = call(161, 61, 51, 61);
pub(super) const CLOCK_SETTIME: Call = call(227, 264, 112, 262);
pub(super) const CLONE: Call = call(56, 120, 220, 120);
pub(super) const CLONE3: Call = everywhere(435);
pub(super) const DELETE_MODULE: Call = call(176, 129, 106, 129);
pub(super) const FANOTIFY_INIT: Call = call(300, 338, 262, 367);
pub(super) const FINIT_MODULE: Call = call(313, 350, 273, 379);
pub(super) const FSCONFIG: Call = everywhere(431);
pub(super) const FSMOUNT: Call = everywhere(432);
pub(super) const FSOPEN: Call = everywhere(430);
pub(super) const FSPICK: Call = everywhere(433);
pub(super) const INIT_MODULE: Call = call(175, 128, 105, 128);
pub(super) const IOPERM: Call = on_x86(173, 101);
pub(super) const IOPL: Call = on_x86(172, 110);
pub(super) const IO_URING_ENTER: Call = everywhere(426);
pub(super) const IO_URING_REGISTER: Call = everywhere(427);
pub(super) const IO_URING_SETUP: Call = everywhere(425);
pub(super) const KCMP: Call = call(312, 349, 272, 378);
pub(super) const KEXEC_FILE_LOAD: Call = not_on_i386(320, 294, 401);
pub(super) const KEXEC_LOAD: Call = call(246, 283, 104, 347);
pub(super) const KEYCTL: Call = call(250, 288, 219, 311);
pub(super) const LOOKUP_DCOOKIE: Call = call(212, 253, 18, 249);
pub(super) const MOUNT: Call = call(165, 21, 40, 21);
pub(super) const MOUNT_SETATTR: Call = everywhere(442);
pub(super) const MOVE_MOUNT: Call = everywhere(429);
pub(super) const MQ_OPEN: Call = call(240, 277, 180, 274);
pub(super) const MSGGET: Call = call(68, 399, 186, 303);
pub(super) const NAME_TO_HANDLE_AT: Call = call(303, 341, 264, 370);
pub(super) const OPEN_BY_HANDLE_AT: Call = call(304, 342, 265, 371);
pub(super) const OPEN_TREE: Call = everywhere(428);
pub(super) const PERF_EVENT_OPEN: Call = call(298, 336, 241, 364);
pub(super) const PIDFD_GETFD: Call = everywhere(438);
pub(super) const PIVOT_ROOT: Call = call(155, 217, 41, 218);
pub(super) const PROCESS_MADVISE: Call = everywhere(440);
pub(super) const PROCESS_VM_READV: Call = call(310, 347, 270, 376);
pub(super) const PROCESS_VM_WRITEV: Call = call(311, 348, 271, 377);
pub(super) const PTRACE: Call = call(101, 26, 117, 26);
pub(super) const QUOTACTL: Call = call(179, 131, 60, 131);
pub(super) const QUOTACTL_FD: Call = everywhere(443);
pub(super) const REBOOT: Call = call(169, 88, 142, 88);
pub(super) const REQUEST_KEY: Call = call(249, 287, 218, 310);
pub(super) const SEMGET: Call = call(64, 393, 190, 299);
pub(super) const SENDMMSG: Call = call(307, 345, 269, 374);
pub(super) const SENDMSG: Call = call(46, 370, 211, 296);
pub(super) const SENDTO: Call = call(44, 369, 206, 290);
pub(super) const SETDOMAINNAME: Call = call(171, 121, 162, 121);
pub(super) const SETHOSTNAME: Call = call(170, 74, 161, 74);
pub(super) const SETNS: Call = call(308, 346, 268, 375);
pub(super) const SETTIMEOFDAY: Call = call(164, 79, 170, 79);
pub(super) const SHMAT: Call = call(30, 397, 196, 305);
pub(super) const SHMGET: Call = call(29, 395, 194, 307);
pub(super) const SOCKET: Call = call(41, 359, 198, 281);
pub(super) const SWAPOFF: Call = call(168, 115, 225, 115);
pub(super) const SWAPON: Call = call(167, 87, 224, 87);
pub(super) const SYSLOG: Call = call(103, 103, 116, 103);
pub(super) const UMOUNT2: Call = call(166, 52, 39, 52);
pub(super) const UNSHARE: Call = call(272, 310, 97, 337);
pub(super) const USERFAULTFD: Call = call(323, 374, 282, 388);
pub(super) const VHANGUP: Call = call(153, 111, 58, 111);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_numbers_are_those_of_the_c_library() {
        for (ours, theirs) in [
            (ACCT, libc::SYS_acct),
            (ADD_KEY, libc::SYS_add_key),
            (BPF, libc::SYS_bpf),
            (CHROOT, libc::SYS_chroot),
            (CLOCK_SETTIME, libc::SYS_clock_settime),
            (CLONE, libc::SYS_clone),
            (CLONE3, libc::SYS_clone3),
            (DELETE_MODULE, libc::SYS_delete_module),
            (FANOTIFY_INIT, libc::SYS_fanotify_init),
            (FINIT_MODULE, libc::SYS_finit_module),
            (FSCONFIG, libc::SYS_fsconfig),
            (FSMOUNT, libc::SYS_fsmount),
            (FSOPEN, libc::SYS_fsopen),
            (FSPICK, libc::SYS_fspick),
            (INIT_MODULE, libc::SYS_init_module),
            (IO_URING_ENTER, libc::SYS_io_uring_enter),
            (IO_URING_REGISTER, libc::SYS_io_uring_register),
            (IO_URING_SETUP, libc::SYS_io_uring_setup),
            (KCMP, libc::SYS_kcmp),
            (KEXEC_FILE_LOAD, libc::SYS_kexec_file_load),
            (KEXEC_LOAD, libc::SYS_kexec_load),
            (KEYCTL, libc::SYS_keyctl),
            (LOOKUP_DCOOKIE, libc::SYS_lookup_dcookie),
            (MOUNT, libc::SYS_mount),
            (MOUNT_SETATTR, libc::SYS_mount_setattr),
            (MOVE_MOUNT, libc::SYS_move_mount),
            (MQ_OPEN, libc::SYS_mq_open),
            (MSGGET, libc::SYS_msgget),
            (NAME_TO_HANDLE_AT, libc::SYS_name_to_handle_at),
            (OPEN_BY_HANDLE_AT, libc::SYS_open_by_handle_at),
            (OPEN_TREE, libc::SYS_open_tree),
            (PERF_EVENT_OPEN, libc::SYS_perf_event_open),
            (PIDFD_GETFD, libc::SYS_pidfd_getfd),
            (PIVOT_ROOT, libc::SYS_pivot_root),
            (PROCESS_MADVISE, libc::SYS_process_madvise),
            (PROCESS_VM_READV, libc::SYS_process_vm_readv),
            (PROCESS_VM_WRITEV, libc::SYS_process_vm_writev),
            (PTRACE, libc::SYS_ptrace),
            (QUOTACTL, libc::SYS_quotactl),
            (QUOTACTL_FD, libc::SYS_quotactl_fd),
            (REBOOT, libc::SYS_reboot),
            (REQUEST_KEY, libc::SYS_request_key),
            (SEMGET, libc::SYS_semget),
            (SENDMMSG, libc::SYS_sendmmsg),
            (SENDMSG, libc::SYS_sendmsg),
            (SENDTO, libc::SYS_sendto),
            (SETDOMAINNAME, libc::SYS_setdomainname),
            (SETHOSTNAME, libc::SYS_sethostname),
            (SETNS, libc::SYS_setns),
            (SETTIMEOFDAY, libc::SYS_settimeofday),
            (SHMAT, libc::SYS_shmat),
            (SHMGET, libc::SYS_shmget),
            (SOCKET, libc::SYS_socket),
            (SWAPOFF, libc::SYS_swapoff),
            (SWAPON, libc::SYS_swapon),
            (SYSLOG, libc::SYS_syslog),
            (UMOUNT2, libc::SYS_umount2),
            (UNSHARE, libc::SYS_unshare),
            (USERFAULTFD, libc::SYS_userfaultfd),
            (VHANGUP, libc::SYS_vhangup),
        ] {
            assert_eq!(NATIVE.number(ours).map(i64::from), Some(theirs));
        }
    }
}
