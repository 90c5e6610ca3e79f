//! What a hostile guest would try, one line an attempt: `name ok` or `name` and the system's error number.
//!
//! The tests of `sys::cage` put it into a slot and run it there. It changes nothing outside, should it get there.
//!
//! Arguments: the watchdog's process, another function's process, a TCP port and an abstract socket that others listen on, and
//! a TCP port that is allowed.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test's program: it prints, and a step of its own that fails is a failed test"
)]

use std::io::{self, Read};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;

type Attempt<'a> = (&'static str, Box<dyn FnOnce() -> io::Result<()> + 'a>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [watchdog, victim, port, name, allowed] = arguments.try_into().unwrap();
    let (watchdog, victim): (i64, i64) = (watchdog.parse().unwrap(), victim.parse().unwrap());
    let (port, allowed): (u16, u16) = (port.parse().unwrap(), allowed.parse().unwrap());
    status();
    let attempts =
        files(watchdog, victim).into_iter().chain(processes(watchdog, victim)).chain(kernel());
    for (name, attempt) in attempts.chain(network(port, name, allowed)) {
        report(name, attempt());
    }
    // Last: afterwards little works any more.
    println!("descriptors {}", descriptors());
    println!("processes {}", processes_at_once());
}

fn report(name: &str, result: io::Result<()>) {
    match result {
        Ok(()) => println!("{name} ok"),
        Err(error) => println!("{name} {}", error.raw_os_error().unwrap_or(0)),
    }
}

/// A system call with integer arguments.
#[expect(unsafe_code, reason = "attacks have no safe wrapper")]
fn call(number: i64, arguments: [i64; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every caller passes numbers, or null where the kernel would read or write memory.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn read(path: String) -> Box<dyn FnOnce() -> io::Result<()>> {
    Box::new(move || std::fs::File::open(path)?.read(&mut [0; 16]).map(drop))
}

fn plain(number: i64, arguments: [i64; 5]) -> Box<dyn FnOnce() -> io::Result<()>> {
    Box::new(move || call(number, arguments))
}

fn files(watchdog: i64, victim: i64) -> Vec<Attempt<'static>> {
    vec![
        ("own_file", read("/intruder".into())),
        ("own_status", read("/proc/self/status".into())),
        ("own_tmp", Box::new(|| std::fs::write("/tmp/x", "x"))),
        ("device", Box::new(|| std::fs::write("/dev/null", "x"))),
        ("up", read("../../../../../../../../etc/passwd".into())),
        ("watchdogs_root", read(format!("/proc/{watchdog}/root/etc/passwd"))),
        ("watchdogs_directory", read(format!("/proc/{watchdog}/cwd/etc/passwd"))),
        ("watchdogs_environment", read(format!("/proc/{watchdog}/environ"))),
        ("watchdogs_memory", read(format!("/proc/{watchdog}/mem"))),
        ("watchdogs_map", read(format!("/proc/{watchdog}/maps"))),
        ("victims_root", read(format!("/proc/{victim}/root/etc/passwd"))),
        ("victims_environment", read(format!("/proc/{victim}/environ"))),
        ("victims_output", read(format!("/proc/{victim}/fd/1"))),
        (
            "new_root",
            plain(libc::SYS_chroot, [c"/tmp".as_ptr().addr().cast_signed() as i64, 0, 0, 0, 0]),
        ),
        ("new_device", Box::new(new_device)),
    ]
}

fn new_device() -> io::Result<()> {
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    Ok(rustix::fs::mknodat(rustix::fs::CWD, "/tmp/null", kind, mode, rustix::fs::makedev(1, 3))?)
}

fn processes(watchdog: i64, victim: i64) -> Vec<Attempt<'static>> {
    let attach = i64::from(libc::PTRACE_ATTACH);
    vec![
        ("signal_watchdog", plain(libc::SYS_kill, [watchdog, 0, 0, 0, 0])),
        ("signal_victim", plain(libc::SYS_kill, [victim, 0, 0, 0, 0])),
        ("trace_watchdog", plain(libc::SYS_ptrace, [attach, watchdog, 0, 0, 0])),
        ("trace_victim", plain(libc::SYS_ptrace, [attach, victim, 0, 0, 0])),
        ("peek_victim", plain(libc::SYS_process_vm_readv, [victim, 0, 0, 0, 0])),
        ("compare_victim", plain(libc::SYS_kcmp, [victim, 1, 0, 0, 0])),
        ("take_descriptor", plain(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0])),
        ("limit_victim", plain(libc::SYS_prlimit64, [victim, 7, 0, 0, 0])),
        ("become_root", plain(libc::SYS_setuid, [0; 5])),
        ("become_victim", plain(libc::SYS_setuid, [61_233, 0, 0, 0, 0])),
        ("join_groups", plain(libc::SYS_setgroups, [0; 5])),
    ]
}

fn kernel() -> Vec<Attempt<'static>> {
    let user = i64::from(libc::CLONE_NEWUSER);
    vec![
        ("new_namespace", plain(libc::SYS_unshare, [user, 0, 0, 0, 0])),
        ("clone_namespace", plain(libc::SYS_clone, [user | 17, 0, 0, 0, 0])),
        ("clone3", plain(libc::SYS_clone3, [0; 5])),
        ("mount", plain(libc::SYS_mount, [0; 5])),
        ("open_tree", plain(libc::SYS_open_tree, [-100, 0, 0, 0, 0])),
        ("bpf", plain(libc::SYS_bpf, [0; 5])),
        ("key", plain(libc::SYS_keyctl, [0; 5])),
        ("io_uring", plain(libc::SYS_io_uring_setup, [8, 0, 0, 0, 0])),
        ("userfaultfd", plain(libc::SYS_userfaultfd, [0; 5])),
        ("perf", plain(libc::SYS_perf_event_open, [0; 5])),
        ("shared_memory", plain(libc::SYS_shmget, [1, 4096, 0o1666, 0, 0])),
        ("semaphore", plain(libc::SYS_semget, [1, 1, 0o1666, 0, 0])),
        ("messages", plain(libc::SYS_msgget, [1, 0o1666, 0, 0, 0])),
        ("queue", plain(libc::SYS_mq_open, [0; 5])),
        ("more_processes", Box::new(|| raise(libc::RLIMIT_NPROC))),
        ("more_descriptors", Box::new(|| raise(libc::RLIMIT_NOFILE))),
    ]
}

#[expect(unsafe_code, reason = "attacks have no safe wrapper")]
fn raise(what: u32) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 5000, rlim_max: 5000 };
    // SAFETY: the kernel reads one such structure.
    match unsafe { libc::setrlimit(what, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn network(port: u16, name: String, allowed: u16) -> Vec<Attempt<'static>> {
    let (inet, stream) = (i64::from(libc::AF_INET), i64::from(libc::SOCK_STREAM));
    vec![
        ("allowed_port", Box::new(move || TcpStream::connect(("127.0.0.1", allowed)).map(drop))),
        ("victims_port", Box::new(move || TcpStream::connect(("127.0.0.1", port)).map(drop))),
        ("victims_port_ipv6", Box::new(move || TcpStream::connect(("::1", port)).map(drop))),
        ("victims_port_fast", Box::new(move || fast_open(port))),
        ("multipath", plain(libc::SYS_socket, [inet, stream, 262, 0, 0])),
        ("take_port", Box::new(move || TcpListener::bind(("127.0.0.2", port)).map(drop))),
        ("any_port", Box::new(|| TcpListener::bind(("127.0.0.1", 0)).map(drop))),
        ("datagrams", Box::new(|| UdpSocket::bind(("127.0.0.1", 0)).map(drop))),
        ("raw", plain(libc::SYS_socket, [inet, i64::from(libc::SOCK_RAW), 1, 0, 0])),
        ("packets", plain(libc::SYS_socket, [17, i64::from(libc::SOCK_RAW), 0, 0, 0])),
        ("addresses", plain(libc::SYS_socket, [16, i64::from(libc::SOCK_RAW), 0, 0, 0])),
        ("sockets_of_all", plain(libc::SYS_socket, [16, i64::from(libc::SOCK_RAW), 4, 0, 0])),
        ("abstract_socket", Box::new(move || connect_abstract(&name))),
    ]
}

fn connect_abstract(name: &str) -> io::Result<()> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(drop)
}

/// Connects without `connect`.
fn fast_open(port: u16) -> io::Result<()> {
    use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let address = SocketAddr::V4(SocketAddrV4::new([127, 0, 0, 1].into(), port));
    let flags = SendFlags::from_bits_retain(0x2000_0000);
    Ok(sendto(&socket, b"x", flags, &address).map(drop)?)
}

/// What the kernel says of this process.
fn status() {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in text.lines() {
        let name = line.split(':').next().unwrap_or_default();
        if ["Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp"].contains(&name)
            || name.starts_with("Cap")
        {
            println!("{}", line.replace('\t', " ").trim_end());
        }
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.split(' ').collect();
    println!("leads_group {}", fields[0] == fields[4]);
    println!("directory {}", std::env::current_dir().unwrap().display());
    let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    println!("open {}", open.join(","));
}

/// How many descriptors can be open: they are numbered from 0 on.
fn descriptors() -> i32 {
    let mut open = Vec::new();
    while let Ok(file) = std::fs::File::open("/intruder") {
        open.push(file);
    }
    open.last().map_or(0, |file| file.as_raw_fd() + 1)
}

/// How many processes can run, this one included.
#[expect(unsafe_code, reason = "forks that do nothing but wait to be killed")]
fn processes_at_once() -> usize {
    let mut children = Vec::new();
    // Where nothing limits it, nothing must break.
    while children.len() < 100 {
        // SAFETY: this program has one thread; the child only sleeps.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: sleeps until a signal comes.
                unsafe { libc::pause() };
            },
            -1 => break,
            child => children.push(child),
        }
    }
    for child in &children {
        // SAFETY: ends a child of this process.
        unsafe { libc::kill(*child, libc::SIGKILL) };
    }
    children.len() + 1
}
