//! Cages with a real process in them that tries to get out; as root, as the watchdog is. The kernel must be able to cage.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::{ChildStack, Launch, Seal, spawn};
use super::*;

const IDS: (u32, u32) = (61_234, 61_235);
const PROCESSES: u32 = 12;
const DESCRIPTORS: u32 = 40;

/// A slot with the intruder, `/tmp`, `/dev/null` and `/proc`; mounted for the calling thread only.
struct Slot(tempfile::TempDir);

impl Slot {
    fn new() -> Self {
        let slot = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        open(slot.path(), 0o755);
        for name in ["tmp", "dev", "proc", "home"] {
            std::fs::create_dir(slot.path().join(name)).unwrap();
        }
        open(&slot.path().join("tmp"), 0o777);
        let null = slot.path().join("dev/null");
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, rustix::fs::makedev(1, 3)).unwrap();
        open(&null, 0o666);
        std::fs::copy(intruder(), slot.path().join("intruder")).unwrap();
        mount_proc(&slot.path().join("proc"));
        Self(slot)
    }

    fn plan(&self) -> CagePlan<'_> {
        plan(self.0.path())
    }
}

fn plan(root: &Path) -> CagePlan<'_> {
    CagePlan {
        root,
        directory: "/",
        ids: IDS,
        processes_max: PROCESSES,
        descriptors_max: DESCRIPTORS,
        connect: &OUTBOUND,
    }
}

/// The program of `examples/intruder.rs`, which Cargo builds with the tests when no test is named.
fn intruder() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/intruder");
    assert!(
        path.exists(),
        "{} is missing: build it with --examples, or test without a name",
        path.display()
    );
    path
}

/// In a mount namespace of the calling thread, which ends with it.
#[expect(unsafe_code, reason = "mounts have no safe wrapper here")]
fn mount_proc(place: &Path) {
    let place = CString::new(place.as_os_str().as_encoded_bytes()).unwrap();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: all texts end in null and outlive the calls; only this thread's view of the file system changes.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "{}", io::Error::last_os_error());
        let nothing = std::ptr::null();
        let done = libc::mount(c"none".as_ptr(), c"/".as_ptr(), nothing, private, nothing.cast());
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        let kind = c"proc".as_ptr();
        let done = libc::mount(kind, place.as_ptr(), kind, 0, nothing.cast());
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

/// Starts `words` in `cage`, and what they print.
fn start(cage: Cage, words: &[&str]) -> io::Result<(Pid, PipeReader)> {
    let seal = Seal { managed: true, cage: Some(Arc::new(cage)), ..Seal::default() };
    let (reader, writer) = io::pipe()?;
    let (input, _) = io::pipe()?;
    let words: Vec<_> = words.iter().map(|word| CString::new(*word).unwrap()).collect();
    let launch = Launch {
        path: words[0].clone(),
        arguments: words,
        environment: Vec::new(),
        streams: [input.into(), OwnedFd::from(writer.try_clone()?), writer.into()],
        snare: None,
        _hold: None,
    };
    let pid = spawn(&launch, &seal.prepare(), &mut ChildStack::default())?;
    Ok((pid, reader))
}

/// Another function's process, as a user of its own.
fn victim() -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").uid(61_233).gid(61_233).env("SECRET", "of the owner");
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Runs everything in a thread of its own, which takes its mounts and rights along when it ends.
fn apart(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// What the intruder got: the names of its attempts with their results.
fn attempts() -> HashMap<String, String> {
    let slot = Slot::new();
    let (port, allowed) = ("[::]:0", "127.0.0.1:0");
    let (port, allowed) = (TcpListener::bind(port).unwrap(), TcpListener::bind(allowed).unwrap());
    let number = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let name = format!("hyperfaas-cage-{}", number(&port));
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut victim = victim();
    let cage = Cage::build(CagePlan { connect: &[number(&allowed)], ..slot.plan() }).unwrap();
    let watchdog = std::process::id().to_string();
    let (victims, port, allowed) =
        (victim.id().to_string(), number(&port).to_string(), number(&allowed).to_string());
    let (pid, output) =
        start(cage, &["/intruder", &watchdog, &victims, &port, &name, &allowed]).unwrap();
    let lines: Vec<String> = BufReader::new(output).lines().map(Result::unwrap).collect();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "{lines:#?}");
    let split = |line: &String| {
        let (name, result) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), result.trim().to_owned())
    };
    lines.iter().map(split).collect()
}

#[test]
fn a_guest_reaches_nothing_outside_its_slot() {
    apart(|| {
        let got = attempts();
        let of = |name: &str| got.get(name).unwrap_or_else(|| panic!("no {name} in {got:#?}"));
        for name in [
            "own_file",
            "own_status",
            "own_tmp",
            "device",
            "allowed_port",
            "any_port",
            "datagrams",
            "addresses",
        ] {
            assert_eq!(of(name), "ok", "{name}: a guest needs it");
        }
        let refused = |names: &[&str], error: i32| {
            for name in names {
                assert_eq!(of(name), &error.to_string(), "{name}");
            }
        };
        refused(&["up"], libc::ENOENT);
        refused(
            &[
                "watchdogs_root",
                "watchdogs_directory",
                "watchdogs_environment",
                "watchdogs_memory",
                "watchdogs_map",
                "victims_root",
                "victims_environment",
                "victims_output",
                "victims_port",
                "victims_port_ipv6",
                "take_port",
            ],
            libc::EACCES,
        );
        refused(
            &[
                "new_root",
                "signal_watchdog",
                "signal_victim",
                "trace_watchdog",
                "trace_victim",
                "peek_victim",
                "compare_victim",
                "take_descriptor",
                "limit_victim",
                "become_root",
                "become_victim",
                "join_groups",
                "new_namespace",
                "clone_namespace",
                "mount",
                "open_tree",
                "bpf",
                "key",
                "io_uring",
                "userfaultfd",
                "perf",
                "shared_memory",
                "semaphore",
                "messages",
                "queue",
                "more_processes",
                "more_descriptors",
                "victims_port_fast",
                "raw",
            ],
            libc::EPERM,
        );
        refused(&["clone3"], libc::ENOSYS);
        refused(&["multipath", "sockets_of_all"], libc::EPROTONOSUPPORT);
        refused(&["packets"], libc::EAFNOSUPPORT);
        assert!(["13", "1"].contains(&of("new_device").as_str()), "{}", of("new_device"));
        // Kept inside since version 6 of Landlock; older kernels have nothing against it.
        let expected = if landlock::version() < 6 { "ok" } else { "1" };
        assert_eq!(of("abstract_socket"), expected);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(of(set), "0000000000000000", "{set}");
        }
        let (uid, gid) = IDS;
        assert_eq!(of("Uid:"), &format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(of("Gid:"), &format!("{gid} {gid} {gid} {gid}"));
        assert_eq!(of("Groups:"), "");
        assert_eq!((of("NoNewPrivs:").as_str(), of("Seccomp:").as_str()), ("1", "2"));
        assert_eq!((of("leads_group").as_str(), of("directory").as_str()), ("true", "/"));
        assert_eq!(of("open"), "0,1,2,3", "its streams, and the listing itself");
        assert_eq!(of("descriptors"), &DESCRIPTORS.to_string());
        assert_eq!(of("processes"), &PROCESSES.to_string());
    });
}

#[test]
fn landlock_alone_keeps_a_process_below_the_root() {
    apart(|| {
        let slot = tempfile::tempdir().unwrap();
        std::fs::write(slot.path().join("own"), "own").unwrap();
        let root = open_root(slot.path()).unwrap();
        let ruleset = Ruleset::new(root.as_fd(), &[], &[]).unwrap();
        rustix::thread::set_no_new_privs(true).unwrap();
        ruleset.enter().unwrap();
        // Root with every capability, in the machine's own root, and still:
        assert_eq!(std::fs::read(slot.path().join("own")).unwrap(), b"own");
        let refused = std::fs::read("/etc/passwd").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        let outside = slot.path().join("../hyperfaas-outside");
        assert_eq!(std::fs::write(outside, "").unwrap_err().raw_os_error(), Some(libc::EACCES));
        let refused = TcpListener::bind("127.0.0.1:0").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        std::fs::remove_file(slot.path().join("own")).unwrap();
    });
}

#[test]
fn what_cannot_be_done_keeps_the_guest_from_starting() {
    for (missing, step) in [
        (CapabilitySet::SYS_CHROOT, "its root"),
        (CapabilitySet::SETPCAP, "its capabilities"),
        (CapabilitySet::SETGID, "its user"),
        (CapabilitySet::SETUID, "its user"),
    ] {
        apart(|| {
            let slot = Slot::new();
            let cage = Cage::build(slot.plan()).unwrap();
            let held = rustix::thread::capabilities(None).unwrap();
            let effective = held.effective & missing.complement();
            let without = CapabilitySets { effective, ..held };
            rustix::thread::set_capabilities(None, without).unwrap();
            let told = check_guests().unwrap_err().to_string();
            rustix::thread::set_capabilities(None, without).unwrap();
            assert!(told.starts_with("no capability to "), "{told}");
            let refused = start(cage, &["/intruder"]).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("{step}: Operation not permitted (os error 1)")
            );
            rustix::thread::set_capabilities(None, held).unwrap();
        });
    }
    apart(|| {
        let slot = Slot::new();
        let cage = Cage::build(CagePlan { directory: "/none", ..slot.plan() }).unwrap();
        let refused = start(cage, &["/intruder"]).unwrap_err().to_string();
        assert_eq!(refused, "its working directory: No such file or directory (os error 2)");
        let cage = Cage::build(slot.plan()).unwrap();
        let refused = start(cage, &["/none"]).unwrap_err().to_string();
        assert_eq!(refused, "No such file or directory (os error 2)");
    });
}

#[test]
fn a_guest_is_never_root_and_never_in_the_containers_own_root() {
    let slot = tempfile::tempdir().unwrap();
    let good = plan(slot.path());
    for ids in [(0, 1), (1, 0), (u32::MAX, 1)] {
        assert!(matches!(Cage::build(CagePlan { ids, ..good }), Err(CageError::Root)));
    }
    for root in ["/", "/proc/..", "/proc/self/root/."] {
        let root = Path::new(root);
        assert!(matches!(Cage::build(CagePlan { root, ..good }), Err(CageError::OwnRoot(_))));
    }
    for directory in ["", "tmp", "/a\0b"] {
        let refused = Cage::build(CagePlan { directory, ..good });
        assert!(matches!(refused, Err(CageError::Directory)), "{directory:?}");
    }
    let missing = slot.path().join("none");
    let refused = Cage::build(CagePlan { root: &missing, ..good }).unwrap_err();
    assert!(refused.to_string().ends_with("No such file or directory (os error 2)"));
}

#[test]
fn outbound_ports_are_sorted_and_none_is_the_watchdogs() {
    use hyperfaas_protocol::control::{CONTROL_PORT, RELAY_PORT};
    assert!(OUTBOUND.is_sorted_by(|a, b| a < b));
    assert!(!OUTBOUND.contains(&CONTROL_PORT) && !OUTBOUND.contains(&RELAY_PORT));
}
