//! The bind trap, with real servers that all believe to have the same port. Nothing ever listens on that port itself.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::{PATIENCE, Script, Watchdog, eventually, now};

const PYTHON: &str = "/usr/bin/python3";
/// What every server here asks for; below the ephemeral range, and free as long as the trap works.
const PORT: u16 = 5471;
/// Answers with the name of whoever answers: its second argument, or `NAME`.
const SERVER: &str = r#"
import os, socket, sys, threading, time
PORT = 5471
def serve(s, name):
    s.listen(16)
    serve_on(s, name)
def serve_on(s, name):
    while True:
        c, _ = s.accept()
        data = b""
        while b"\r\n\r\n" not in data:
            piece = c.recv(65536)
            if not piece:
                break
            data += piece
        body = name.encode()
        c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        c.close()
def tcp(address="0.0.0.0", port=PORT, family=socket.AF_INET, options=()):
    s = socket.socket(family)
    for level, name, value in options:
        s.setsockopt(level, name, value)
    s.bind((address, port))
    return s
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.001)
REUSE = [(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)]
HERE = os.path.dirname(os.path.abspath(__file__))
"#;

/// A Python server in a directory that every user can read.
struct Server(tempfile::TempDir);

impl Server {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(directory.path().join("server.py"), format!("{SERVER}\n{text}\n")).unwrap();
        Self(directory)
    }

    fn command(&self) -> String {
        format!("{PYTHON} {}", self.0.path().join("server.py").display())
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.0.path().join(name), "").unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    fn start(&self) -> Watchdog {
        start(&self.command())
    }
}

fn boot(kind: &str, command: &str) -> String {
    let command: Vec<_> = command.split(' ').map(|word| format!("{word:?}")).collect();
    format!(
        "{{\"version\":1,\"key\":\"k\",\"control_port\":0,\"http_port\":0,\"kind\":\"{kind}\",\
         \"user\":\"65534:65534\",\"command\":[{}]}}",
        command.join(",")
    )
}

/// A watchdog in mode `http` whose function runs as another user, as in a container.
fn start(command: &str) -> Watchdog {
    let (boot, url) = (boot("watchdog", ""), format!("http://127.0.0.1:{PORT}"));
    let vars = [
        ("mode", "http"),
        ("upstream_url", url.as_str()),
        ("fprocess", command),
        ("HYPERFAAS_BOOT", &boot),
    ];
    Watchdog::start_as_in_a_container(&vars)
}

/// Nobody has the real port.
fn assert_free() {
    assert!(TcpStream::connect(("127.0.0.1", PORT)).is_err());
}

#[test]
fn two_copies_of_a_server_with_the_same_port_live_side_by_side() {
    let copies = ["first", "second"].map(|name| {
        let server = Server::new(&format!("serve(tcp(), '{name}')"));
        (server.start(), server, name)
    });
    for (watchdog, _, name) in &copies {
        assert_eq!(watchdog.get("/").text(), *name);
    }
    assert_free();
}

#[test]
fn an_unmodified_http_server_is_ready_when_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("page"), "found").unwrap();
    let path = directory.path().display();
    for bind in ["0.0.0.0", "127.0.0.1", "::"] {
        let watchdog = start(&format!("{PYTHON} -m http.server {PORT} -b {bind} -d {path}"));
        assert_eq!(watchdog.get("/page").text(), "found", "{bind}");
        assert_eq!(watchdog.get("/_/health").status, 200);
    }
    assert_free();
}

#[test]
fn every_kind_of_address_is_reached() {
    for text in [
        "serve(tcp('127.0.0.1'), 'x')",
        "serve(tcp('::', family=socket.AF_INET6), 'x')",
        "serve(tcp('::1', family=socket.AF_INET6), 'x')",
        "V6ONLY = [(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)]\nserve(tcp('::', family=socket.AF_INET6, options=V6ONLY), 'x')",
        "threading.Thread(target=lambda: serve(tcp(), 'x')).start()",
        "four = tcp()\nserve(tcp('::', family=socket.AF_INET6, options=[(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)]), 'x')",
        "os.fork() and os.wait(); os.setsid(); serve(tcp(), 'x')",
        "s = tcp(); d = os.dup(s.fileno()); serve(socket.socket(fileno=d), 'x')",
    ] {
        let server = Server::new(text);
        assert_eq!(server.start().get("/").text(), "x", "{text}");
    }
}

#[test]
fn readiness_is_the_listen_and_not_the_bind() {
    let server = Server::new(
        "s = tcp()\nopen(HERE + '/bound', 'w')\nwait_for(HERE + '/go')\nserve(s, 'late')",
    );
    let watchdog = server.start();
    eventually("bound", || server.has("bound"));
    assert_eq!(watchdog.get("/_/ready").status, 503);
    server.touch("go");
    assert_eq!(watchdog.get("/").text(), "late", "and the request waits for it");
    assert_eq!(watchdog.get("/_/ready").status, 200);
}

#[test]
fn workers_that_were_forked_after_the_bind_share_the_socket() {
    let server = Server::new(
        "s = tcp()\ns.listen(16)\nfor name in 'ab':\n    if os.fork() == 0:\n        serve_on(s, name)\nos.wait()",
    );
    let watchdog = server.start();
    for name in ["a", "b"] {
        eventually(name, || watchdog.get("/").text() == name);
    }
}

#[test]
fn processes_that_share_the_port_all_get_requests() {
    let server = Server::new(
        "for name in 'abc':\n    if os.fork() == 0:\n        serve(tcp(options=REUSE), name)\nos.wait()",
    );
    let watchdog = server.start();
    for name in ["a", "b", "c"] {
        eventually(name, || watchdog.get("/").text() == name);
    }
    assert_free();
}

#[test]
fn a_server_that_closes_and_binds_again_is_followed() {
    let server = Server::new(
        "first = tcp()\nfirst.listen(1)\nopen(HERE + '/first', 'w')\nwait_for(HERE + '/go')\n\
         first.close()\nserve(tcp(), 'second')",
    );
    let watchdog = server.start();
    eventually("ready", || watchdog.get("/_/ready").status == 200 && server.has("first"));
    server.touch("go");
    eventually("the second", || watchdog.get("/").text() == "second");
}

#[test]
fn a_later_server_wins_over_one_that_still_listens() {
    let server = Server::new(
        "threading.Thread(target=lambda: serve(tcp(), 'old'), daemon=True).start()\n\
         wait_for(HERE + '/go')\nserve(tcp(), 'new')",
    );
    let watchdog = server.start();
    assert_eq!(watchdog.get("/").text(), "old");
    server.touch("go");
    eventually("the new one", || watchdog.get("/").text() == "new");
    assert_eq!(watchdog.get("/").text(), "new", "and it stays");
}

#[test]
fn what_is_not_the_functions_own_port_is_left_alone() {
    let server = Server::new(
        "import tempfile\n\
         other = tcp('127.0.0.1', 0)\nother.listen(1)\n\
         held = tcp('127.0.0.2', 0)\n\
         kept = socket.socket()\nkept.bind(('127.0.0.3', held.getsockname()[1]))\n\
         assert kept.getsockname() == ('127.0.0.3', held.getsockname()[1])\n\
         udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nudp.bind(('127.0.0.4', PORT))\n\
         assert udp.getsockname() == ('127.0.0.4', PORT)\n\
         unix = socket.socket(socket.AF_UNIX)\nunix.bind(HERE + '/socket')\nunix.listen(1)\n\
         auto = socket.socket()\nauto.listen(1)\n\
         def error(call):\n    try:\n        call()\n        return 0\n    except OSError as e:\n        return e.errno\n\
         import errno, ctypes\n\
         taken = error(lambda: socket.socket().bind(kept.getsockname()))\nassert taken == errno.EADDRINUSE, taken\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         assert libc.bind(udp.fileno(), ctypes.c_void_p(8), 16) == -1 and ctypes.get_errno() == errno.EFAULT\n\
         assert libc.bind(999, b'\\x02\\0\\x15\\x5f' + bytes(12), 16) == -1 and ctypes.get_errno() == errno.EBADF\n\
         assert libc.bind(0, b'\\x02\\0\\x15\\x5f' + bytes(12), 16) == -1 and ctypes.get_errno() == errno.ENOTSOCK\n\
         own = tcp()\nown_again = error(lambda: own.bind(('0.0.0.0', PORT)))\nassert own_again == errno.EINVAL, own_again\n\
         assert own.getsockname()[0] not in ('0.0.0.0', '127.0.0.1') and own.getsockname()[1] == PORT\n\
         serve(own, 'as they were')",
    );
    let mut watchdog = server.start();
    assert_eq!(watchdog.get("/").text(), "as they were");
    watchdog.signal("TERM");
    watchdog.exit();
}

#[test]
fn signals_do_not_disturb_a_trapped_call() {
    let server = Server::new(
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n\
         signal.siginterrupt(signal.SIGALRM, False)\n\
         signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n\
         for _ in range(300):\n    s = tcp()\n    s.listen(1)\n    s.close()\n\
         s = tcp()\nsignal.setitimer(signal.ITIMER_REAL, 0)\nserve(s, 'undisturbed')",
    );
    let watchdog = server.start();
    eventually("served", || watchdog.get("/").text() == "undisturbed");
}

#[test]
fn a_crashed_server_gets_a_new_trap() {
    let server = Server::new(
        "open(HERE + '/pid', 'w').write(str(os.getpid()))\nserve(tcp(), str(os.getpid()))",
    );
    let watchdog = server.start();
    let first = watchdog.get("/").text();
    assert!(std::process::Command::new("kill").args(["-9", &first]).status().unwrap().success());
    eventually("another process", || {
        let answer = watchdog.get("/");
        answer.status == 200 && answer.text() != first
    });
    let traps = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", watchdog.pid())).unwrap();
        let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().contains("seccomp")).count()
    };
    eventually("the old trap is gone", || traps() == 1);
}

#[test]
fn a_plain_servers_own_port_leads_through_the_watchdog() {
    let server = Server::new("serve(tcp(port=8080), 'plain')");
    let boot = boot("server", &server.command());
    let mut watchdog = Watchdog::start_as_in_a_container(&[("HYPERFAAS_BOOT", &boot)]);
    let line = watchdog.line("Direct calls on port: ");
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(watchdog.get("/").text(), "plain");
    let mut direct = crate::support::Client::connect(([127, 0, 0, 1], port).into());
    direct.send("GET", "/", &[], b"");
    let answer = direct.answer();
    assert_eq!(answer.text(), "plain");
    assert!(answer.header("X-Duration-Seconds").is_some(), "it came through the watchdog");
    watchdog.signal("TERM");
    assert_eq!(watchdog.exit().code(), Some(0));
}

#[test]
fn a_server_that_minds_its_ports_number_goes_on_without_a_trap() {
    // As node's cluster module does behind port 8080. The number is another one here since it is bound twice.
    let server = Server::new(
        "if os.path.exists(HERE + '/again'):\n\
         \x20   open(HERE + '/seccomp', 'w').write(open('/proc/self/status').read())\n    time.sleep(1000)\n\
         open(HERE + '/again', 'w')\nfirst = tcp()\n\
         second = tcp()\nsecond.listen(1)\nassert second.getsockname()[1] == PORT",
    );
    let mut watchdog = server.start();
    watchdog.line("Bind trap off, the port is polled instead: the function ended soon after");
    let filters = |status: &str| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?;
        line.trim().parse().ok()
    };
    let own = filters(&std::fs::read_to_string("/proc/self/status").unwrap()).unwrap();
    let read = || std::fs::read_to_string(server.0.path().join("seccomp")).unwrap_or_default();
    eventually("started again without, its other filter only", || {
        filters(&read()) == Some(own + 1)
    });
}

#[test]
fn without_a_provider_there_is_no_trap() {
    let script = Script::new("grep Seccomp: /proc/self/status > $0.seen; exec sleep 1000");
    let url = format!("http://127.0.0.1:{PORT}");
    let _watchdog = Watchdog::start(&[
        ("mode", "http"),
        ("upstream_url", &url),
        ("fprocess", &script.command()),
    ]);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("Seccomp:")).unwrap().to_owned();
    let read = || std::fs::read_to_string(script.beside("seen")).unwrap_or_default();
    eventually("seen", || read().ends_with('\n'));
    assert_eq!(read().trim_end(), own);
}

#[test]
fn where_the_trap_cannot_be_set_the_port_is_polled() {
    // A watchdog whose worker's sockets it may not have: no right to trace, and another user's worker.
    let server = Server::new("serve(tcp(port=int(sys.argv[1])), 'polled')");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let boot = boot("watchdog", "");
    let command = format!("{} {port}", server.command());
    let mut watchdog = Watchdog::start_without_tracing(&[
        ("mode", "http"),
        ("upstream_url", &url),
        ("fprocess", &command),
        ("HYPERFAAS_BOOT", &boot),
    ]);
    watchdog.line("Bind trap off, the port is polled instead: ");
    assert_eq!(watchdog.get("/").text(), "polled");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "on the port it asked for");
}

#[test]
fn inside_another_trap_there_is_none_and_both_serve() {
    // The outer function is a watchdog with a function of its own; the kernel allows one notification filter only.
    let server = Server::new("serve(tcp(port=int(sys.argv[1])), 'inner')");
    let inner = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = server.0.path().join("fwatchdog");
    std::fs::copy(crate::support::binary().0, &program).unwrap();
    let boot = boot("watchdog", "").replace("\"http_port\":0", &format!("\"http_port\":{PORT}"));
    let script = Script::new(&format!(
        "export mode=http upstream_url=http://127.0.0.1:{inner} fprocess='{} {inner}'\n\
         export HYPERFAAS_METRICS_PORT=off TMPDIR={} HYPERFAAS_BOOT='{boot}'\nexec {}",
        server.command(),
        server.0.path().display(),
        program.display()
    ));
    let mut watchdog = start(&script.command());
    watchdog.line("Bind trap off, the port is polled instead: Device or resource busy");
    assert_eq!(watchdog.get("/").text(), "inner");
    assert_free();
}

#[test]
fn a_trapped_bind_costs_little() {
    let server = Server::new(
        "def cost(port):\n    times = []\n    for _ in range(200):\n        s = socket.socket()\n        a = time.perf_counter()\n        s.bind(('127.0.0.1', port))\n        times.append(time.perf_counter() - a)\n        s.close()\n    return sorted(times)[100] * 1e6\n\
         own, other, = cost(PORT), cost(0)\nserve(tcp(), f'own {own:.0f} other {other:.0f}')",
    );
    let begin = now();
    let text = server.start().get("/").text();
    println!("trapped bind, median in µs: {text}");
    assert!(text.starts_with("own ") && begin.elapsed() < PATIENCE, "{text}");
    let micros: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(Duration::from_micros(micros) < Duration::from_millis(5), "{text}");
}
