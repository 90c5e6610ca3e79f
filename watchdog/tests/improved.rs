//! Where our watchdog does better than the originals on purpose; the reasons are in `docs/watchdog.md`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{Client, Script, Upstream, Watchdog, eventually, now};

const HELLO: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

fn relay(upstream: &Upstream, more: &[(&str, &str)]) -> Watchdog {
    relay_to(&upstream.url(), more)
}

fn relay_to(url: &str, more: &[(&str, &str)]) -> Watchdog {
    let mut vars = vec![("mode", "http"), ("fprocess", "sleep 1000"), ("upstream_url", url)];
    vars.extend_from_slice(more);
    Watchdog::start(&vars)
}

fn numbers(length: u32) -> Vec<u8> {
    (0..length).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

/// The process id that a script wrote into the file `pid` beside it.
fn written_pid(script: &Script) -> String {
    let file = script.beside("pid");
    eventually("a process id", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
    });
    std::fs::read_to_string(&file).unwrap().trim().to_owned()
}

fn is_gone(pid: &str) -> bool {
    !Path::new("/proc").join(pid).exists()
}

#[test]
fn a_deadline_kills_the_whole_tree_and_is_answered_at_once() {
    let script = Script::new("sleep 1000 & echo $! > $0.pid; wait");
    for mode in ["", "serializing", "streaming"] {
        let watchdog = Watchdog::start(&[
            ("fprocess", &script.command()),
            ("exec_timeout", "300ms"),
            ("mode", mode),
        ]);
        let begin = now();
        let answer = watchdog.get("/");
        assert!(begin.elapsed() < Duration::from_secs(10), "{mode}");
        let expected = [("", 408), ("serializing", 500), ("streaming", 504)];
        assert!(expected.contains(&(mode, answer.status)), "{mode}: {}", answer.status);
        let pid = written_pid(&script);
        eventually("the grandchild is gone", || is_gone(&pid));
        std::fs::remove_file(script.beside("pid")).unwrap();
    }
}

#[test]
fn processes_started_side_by_side_are_all_answered_and_inherit_nothing() {
    let script = Script::new(
        "exec 2>&1; grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; exit $(cat)",
    );
    let watchdog = Watchdog::start(&[("fprocess", &script.command())]);
    let address = watchdog.address();
    let ask = move |address, body: &str| {
        let mut client = Client::connect(address);
        client.send("POST", "/", &[], body.as_bytes());
        client.answer()
    };
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(move || {
                for code in ["0", "3"] {
                    let answer = ask(address, code);
                    let text = answer.text();
                    let (signals, files) = text.split_once("\n0\n").unwrap();
                    let masks: Vec<u64> = signals
                        .lines()
                        .filter_map(|line| line.split_once('\t'))
                        .map(|(_, mask)| u64::from_str_radix(mask, 16).unwrap())
                        .collect();
                    // Signals from 32 on belong to C libraries.
                    assert!(masks.len() == 2 && masks.iter().all(|mask| mask << 33 == 0), "{text}");
                    // The fourth descriptor is the directory that `ls` reads.
                    assert_eq!(files, "1\n2\n3\n");
                    assert_eq!(answer.status, if code == "0" { 200 } else { 500 });
                }
            });
        }
    });
    drop(watchdog);
    let watchdog = Watchdog::start(&[("fprocess", "/no/such/program")]);
    let address = watchdog.address();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let text = ask(address, "").text();
                assert_eq!(text, "fork/exec /no/such/program: no such file or directory\n");
            });
        }
    });
}

#[test]
fn orphans_are_reaped() {
    let script = Script::new("(sleep 0.05 & echo $! > $0.pid) > /dev/null 2>&1; echo done");
    let watchdog = Watchdog::start(&[("fprocess", &script.command())]);
    assert_eq!(watchdog.get("/").text(), "done\n");
    let pid = written_pid(&script);
    eventually("the orphan is reaped", || is_gone(&pid));
}

#[test]
fn streaming_loses_nothing_on_a_connection_that_is_kept() {
    let watchdog = Watchdog::start(&[("mode", "streaming"), ("fprocess", "cat")]);
    let mut client = watchdog.client();
    for length in [100_000, 300_000, 3_000_000] {
        let body = numbers(length);
        let mut writer = client.second();
        let sent = body.clone();
        let sending = std::thread::spawn(move || writer.send("POST", "/", &[], &sent));
        let answer = client.answer();
        sending.join().unwrap();
        assert!(
            !answer.is_cut && answer.body == body,
            "{length}: {} bytes came back",
            answer.body.len()
        );
    }
}

#[test]
fn streaming_sends_every_piece_at_once() {
    let script = Script::new("echo one; while [ ! -e $0.go ]; do sleep 0.01; done; echo two");
    let watchdog = Watchdog::start(&[("mode", "streaming"), ("fprocess", &script.command())]);
    let mut client = watchdog.client();
    client.send("GET", "/", &[], b"");
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.chunk().unwrap(), b"one\n");
    std::fs::write(script.beside("go"), "").unwrap();
    assert_eq!(client.chunk().unwrap(), b"two\n");
    assert_eq!(client.chunk(), None);
}

#[test]
fn streaming_tells_a_failed_start_and_cuts_a_late_answer() {
    let answer =
        Watchdog::start(&[("mode", "streaming"), ("fprocess", "no-such-command")]).get("/");
    assert_eq!(answer.status, 500);
    assert_eq!(answer.text(), "exec: \"no-such-command\": executable file not found in $PATH");
    let script = Script::new("echo begun; exec sleep 1000");
    let vars = [("mode", "streaming"), ("fprocess", &script.command()), ("exec_timeout", "300ms")];
    let answer = Watchdog::start(&vars).get("/");
    assert!(answer.status == 200 && answer.is_cut, "{answer:?}");
}

#[test]
fn forked_processes_log_their_last_line_always() {
    let script = Script::new("printf 'first\\nlast without end' >&2");
    for mode in ["streaming", "serializing"] {
        let mut watchdog = Watchdog::start(&[("mode", mode), ("fprocess", &script.command())]);
        watchdog.get("/");
        watchdog.line("stderr: first");
        watchdog.line("stderr: last without end");
    }
}

#[test]
fn the_length_of_a_body_is_passed_on() {
    let upstream = Upstream::fixed(HELLO);
    let watchdog = relay(&upstream, &[]);
    watchdog.post("/", b"abc");
    let seen = upstream.seen();
    assert!(seen.has("Content-Length: 3") && !seen.has_name("Transfer-Encoding"), "{seen:?}");
    watchdog.ask("POST", "/", &[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n");
    let seen = upstream.seen();
    assert!(seen.has("Transfer-Encoding: chunked") && seen.body == b"abc", "{seen:?}");
    watchdog.get("/");
    let seen = upstream.seen();
    assert!(
        !seen.has_name("Content-Length")
            && !seen.has_name("Accept-Encoding")
            && !seen.has_name("User-Agent")
    );
    let watchdog = relay(&upstream, &[("http_buffer_req_body", "true")]);
    watchdog.ask("POST", "/", &[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n");
    assert!(upstream.seen().has("Content-Length: 3"), "a buffered body has a length");
}

#[test]
fn request_and_answer_flow_at_the_same_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        // The first connection is the look at the port; then echo, beginning before the request has ended.
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
    let watchdog = relay_to(&url, &[]);
    let body = numbers(3_000_000);
    let mut client = watchdog.client();
    let mut writer = client.second();
    let sent = body.clone();
    let sending = std::thread::spawn(move || writer.send("POST", "/", &[], &sent));
    let answer = client.answer();
    sending.join().unwrap();
    assert!(!answer.is_cut && answer.body == body, "{} bytes came back", answer.body.len());
}

fn echo(mut stream: std::net::TcpStream) {
    let mut seen = Vec::new();
    let mut chunk = [0; 16 << 10];
    let end = loop {
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => seen.extend_from_slice(&chunk[..count]),
            _ => return,
        }
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n").unwrap();
    stream.write_all(&seen[end..]).unwrap();
    let mut left = 3_000_000 - (seen.len() - end);
    while left > 0 {
        let count = stream.read(&mut chunk).unwrap();
        stream.write_all(&chunk[..count]).unwrap();
        left -= count;
    }
}

/// A port that is taken but refuses connections until somebody listens on it.
fn reserved_port() -> (OwnedFd, u16) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &std::net::SocketAddrV4::new([127, 0, 0, 1].into(), 0)).unwrap();
    let address = std::net::SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap();
    (fd, address.port())
}

#[test]
fn a_request_waits_until_the_function_listens() {
    let (fd, port) = reserved_port();
    let watchdog = relay_to(&format!("http://127.0.0.1:{port}"), &[]);
    assert_eq!(watchdog.get("/_/ready").status, 503);
    assert_eq!(watchdog.get("/_/health").status, 200, "alive, only not ready");
    let mut client = watchdog.client();
    client.send("POST", "/", &[], b"early");
    // A second round trip on another connection: the first request has arrived by now and is held.
    assert_eq!(watchdog.get("/_/ready").status, 503);
    rustix::net::listen(&fd, 16).unwrap();
    let upstream = Upstream::on(fd.into(), |_, stream| stream.write_all(HELLO.as_bytes()).is_ok());
    assert_eq!(client.answer().text(), "hello\n");
    assert_eq!(upstream.seen().body, b"early");
    assert_eq!(watchdog.get("/_/ready").status, 200);
}

#[test]
fn a_function_that_never_listens_is_never_a_200() {
    let (_fd, port) = reserved_port();
    let watchdog = relay_to(&format!("http://127.0.0.1:{port}"), &[("exec_timeout", "300ms")]);
    assert_eq!(watchdog.get("/").status, 504);
    let watchdog = relay_to(&format!("http://127.0.0.1:{port}"), &[("write_timeout", "300ms")]);
    let answer = watchdog.ask("GET", "/", &[("Accept", "text/event-stream")], b"");
    assert_eq!(answer.status, 504, "the streaming path as well");
}

#[test]
fn a_function_that_closes_without_answer_is_a_502_for_streams() {
    let upstream = Upstream::new(|_, _| false);
    let watchdog = relay(&upstream, &[]);
    assert_eq!(watchdog.ask("POST", "/", &[("Accept", "text/event-stream")], b"x").status, 502);
}

#[test]
fn only_harmless_requests_are_sent_a_second_time() {
    // Every connection answers one request and closes when the second arrives.
    let upstream = Upstream::new(|seen, stream| {
        let is_second = seen.has("X-Second: 1") && !seen.has("X-Fresh: 1");
        !is_second && stream.write_all(HELLO.as_bytes()).is_ok()
    });
    let watchdog = relay(&upstream, &[]);
    assert_eq!(watchdog.get("/").status, 200);
    let answer = watchdog.ask("POST", "/", &[("X-Second", "1")], b"x");
    assert_eq!(answer.status, 500);
    assert_eq!(
        upstream.seen().connection,
        upstream.seen().connection,
        "the connection was used again"
    );
    assert!(upstream.nothing_more_seen(), "a POST is never repeated");
    assert_eq!(watchdog.get("/").status, 200);
    upstream.seen();
    assert_eq!(watchdog.ask("GET", "/", &[("X-Second", "1")], b"").status, 500);
    let (first, second) = (upstream.seen(), upstream.seen());
    assert_ne!(
        first.connection, second.connection,
        "a GET is tried once more on a fresh connection"
    );
    assert!(upstream.nothing_more_seen(), "and not for ever");
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let (started, is_started) = channel();
    let (closed, is_closed) = channel();
    let upstream = Upstream::new(move |_, stream| {
        started.send(()).unwrap();
        let mut rest = [0; 1];
        closed.send(matches!(stream.read(&mut rest), Ok(0) | Err(_))).unwrap();
        false
    });
    let watchdog = relay(&upstream, &[]);
    let mut client = watchdog.client();
    client.send("GET", "/", &[], b"");
    is_started.recv_timeout(crate::support::PATIENCE).unwrap();
    drop(client);
    assert!(is_closed.recv_timeout(crate::support::PATIENCE).unwrap());
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let (closed, is_closed) = channel();
    let upstream = Upstream::new(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
        closed.send(()).unwrap();
        false
    });
    let watchdog = relay(&upstream, &[("write_timeout", "500ms")]);
    let mut client = watchdog.client();
    client.send("GET", "/", &[], b"");
    is_closed.recv_timeout(crate::support::PATIENCE).unwrap();
    eventually("nothing in flight", || watchdog.get("/_/ready").status == 200);
}

#[test]
fn a_deadline_within_an_answer_cuts_it() {
    let upstream = Upstream::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        let mut rest = [0; 1];
        let _ = stream.read(&mut rest);
        false
    });
    let answer = relay(&upstream, &[("exec_timeout", "300ms")]).get("/");
    assert!(answer.status == 200 && answer.is_cut && answer.text() == "half", "{answer:?}");
}

#[test]
fn a_body_that_never_ends_is_told_apart_from_a_slow_function() {
    let upstream = Upstream::fixed(HELLO);
    let watchdog = relay(&upstream, &[("read_timeout", "300ms")]);
    let answer = watchdog.ask("POST", "/", &[("Content-Length", "10")], b"abc");
    assert_eq!(answer.status, 504);
    let classic = Watchdog::start(&[("fprocess", "cat"), ("read_timeout", "300ms")]);
    let answer = classic.ask("POST", "/", &[("Content-Length", "10")], b"abc");
    assert_eq!((answer.status, answer.text().as_str()), (408, "request body timed out\n"));
}

#[test]
fn a_process_beyond_write_timeout_is_a_504_and_runs_on() {
    let script = Script::new("while [ ! -e $0.go ]; do sleep 0.01; done; touch $0.done");
    let watchdog = Watchdog::start(&[("fprocess", &script.command()), ("write_timeout", "300ms")]);
    assert_eq!(watchdog.get("/").status, 504);
    std::fs::write(script.beside("go"), "").unwrap();
    eventually("the process ends by itself", || script.beside("done").exists());
}

#[test]
fn a_line_without_end_stops_nobody() {
    let upstream = Upstream::fixed(HELLO);
    let script =
        Script::new("head -c 300000 /dev/zero | tr '\\0' x; echo; echo after; exec sleep 1000");
    let watchdog = relay(&upstream, &[("fprocess", &script.command()), ("prefix_logs", "false")]);
    let text = watchdog.stdout(|text| text.contains("after\n"));
    let lengths: Vec<_> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [65536, 65536, 65536, 65536, 300_000 - 4 * 65536, 5]);
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let upstream = Upstream::fixed(HELLO);
    let (_stdout, stdout) = std::io::pipe().unwrap();
    let (mut log, stderr) = std::io::pipe().unwrap();
    let script = Script::new("touch $0.up; yes & exec yes >&2");
    let (command, url) = (script.command(), upstream.url());
    let mut child = std::process::Command::new(crate::support::binary().0)
        .env_clear()
        .envs([
            ("mode", "http"),
            ("fprocess", &command),
            ("upstream_url", &url),
            ("healthcheck_interval", "1ms"),
        ])
        .envs([("HYPERFAAS_METRICS_PORT", "off"), ("port", "0"), ("PATH", "/usr/bin:/bin")])
        .env("TMPDIR", script.beside("d"))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let port = port_in(&mut log);
    eventually("the function floods", || script.beside("up").exists());
    for _ in 0..3000 {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.send("GET", "/a-long-path-that-fills-the-log-of-the-watchdog-itself-soon", &[], b"");
        assert_eq!(client.answer().text(), "hello\n");
    }
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success()
    );
    eventually("the watchdog ends", || is_gone(&pid) || has_ended(&pid));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The port that the watchdog tells in its log, of which no more than that line is read.
fn port_in(log: &mut impl Read) -> u16 {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        log.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
        if let Some((_, port)) =
            text.rsplit_once("Listening on port: ").filter(|_| text.ends_with('\n'))
        {
            return port.trim_end().parse().unwrap();
        }
    }
}

/// Whether a child of ours has ended and only waits to be reaped.
fn has_ended(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn connection_headers_are_not_passed_on() {
    let upstream = Upstream::fixed(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n\r\n",
    );
    let watchdog = relay(&upstream, &[]);
    let headers = [
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "1"),
        ("Proxy-Authorization", "p"),
    ];
    let answer = watchdog.ask("GET", "/", &headers, b"");
    assert!(
        answer.header("Keep-Alive").is_none() && answer.header("X-Kept").is_some(),
        "{answer:?}"
    );
    let seen = upstream.seen();
    assert!(
        !seen.has_name("X-Hop")
            && !seen.has_name("Keep-Alive")
            && seen.has("Proxy-Authorization: p"),
        "{seen:?}"
    );
}

#[test]
fn protocols_in_any_case_are_upgraded() {
    let upstream = Upstream::new(|seen, stream| {
        assert!(seen.has("Upgrade: WebSocket"), "{seen:?}");
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut echo = stream.try_clone().unwrap();
        std::io::copy(stream, &mut echo).unwrap();
        false
    });
    let watchdog = relay(&upstream, &[]);
    let mut client = watchdog.client();
    client.raw(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nearly",
    );
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.exactly(5), b"early", "bytes sent right behind the request are not lost");
}

#[test]
fn the_function_is_told_to_stop_only_after_the_last_answer() {
    let (started, is_started) = channel();
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::new(move |_, stream| {
        started.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(HELLO.as_bytes()).is_ok()
    });
    // Like most runtimes it dies of SIGTERM, which would take the original down at once.
    let script = Script::new(
        "trap 'touch $0.told; exit 143' TERM; touch $0.up; while true; do sleep 0.01; done",
    );
    let vars = [("fprocess", script.command()), ("healthcheck_interval", "1ms".into())];
    let vars: Vec<_> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut watchdog = relay(&upstream, &vars);
    eventually("the function runs", || script.beside("up").exists());
    let mut client = watchdog.client();
    client.send("GET", "/", &[], b"");
    is_started.recv_timeout(crate::support::PATIENCE).unwrap();
    watchdog.signal("INT");
    watchdog.line("SIGINT: no new connections in 1ms");
    watchdog.line("No new connections allowed, draining: 1 requests");
    assert!(!script.beside("told").exists());
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "hello\n");
    assert_eq!(watchdog.exit().code(), Some(0));
    assert!(script.beside("told").exists());
}

#[test]
fn an_interval_of_zero_does_not_keep_the_watchdog_for_ever() {
    let mut watchdog = Watchdog::start(&[("fprocess", "cat"), ("healthcheck_interval", "0")]);
    watchdog.signal("TERM");
    assert_eq!(watchdog.exit().code(), Some(0));
}

#[test]
fn what_cannot_be_had_at_start_ends_it_loudly() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("port", &port)]);
    watchdog.line(&format!("Error ListenAndServe: port {port}: "));
    assert_eq!(watchdog.exit().code(), Some(1));
    let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("HYPERFAAS_METRICS_PORT", &port)]);
    watchdog.line(&format!("Error ListenAndServe: port {port}: "));
    assert_eq!(watchdog.exit().code(), Some(2));
    let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("TMPDIR", "/proc/nowhere")]);
    watchdog.line("Error writing /proc/nowhere/.lock: ");
    assert_eq!(watchdog.exit().code(), Some(1));
    let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("jwt_auth", "true")]);
    watchdog.line("error creating JWTAuthMiddleware: failed to get function name");
    assert_eq!(watchdog.exit().code(), Some(1));
}

#[test]
fn metrics_count_what_was_served() {
    let vars = [("fprocess", "cat"), ("HYPERFAAS_METRICS_PORT", "0")];
    let mut watchdog = Watchdog::start(&vars);
    let line = watchdog.line("Metrics listening on port: ");
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    watchdog.post("/", b"abc");
    watchdog.ask("OPTIONS", "/", &[], b"");
    watchdog.get("/_/health");
    let scrape = |path: &str| {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.send("GET", path, &[], b"");
        client.answer()
    };
    let text = scrape("/metrics").text();
    for line in [
        "http_requests_total{code=\"200\",method=\"post\"} 1\n",
        "http_requests_total{code=\"405\",method=\"options\"} 1\n",
        "http_requests_in_flight 0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("method=\"get\""), "health checks are not counted: {text}");
    assert_eq!(scrape("/other").status, 404);
}
