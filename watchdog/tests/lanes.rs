//! Lanes: what a provider can rely on, and what a stranger, a garbled frame or a broken worker cannot do.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use hyperfaas_protocol::lane::{
    Crowd, Fields, Flags, Greeting, HEADER_LEN, Header, Kind, PAYLOAD_MAX, Reason,
};

use crate::managed::{KEY, boot};
use crate::support::lane::{Lane, control_port, dial};
use crate::support::{Script, Upstream, Watchdog, eventually, now};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /path?q HTTP/1.1\r\nHost: h\r\n\r\n";

/// A watchdog in front of `upstream`, and a lane to it.
fn relaying(upstream: &Upstream, more: &[(&str, &str)]) -> (Watchdog, u16, Lane) {
    let (boot, url) = (boot(""), upstream.url());
    let script = Script::new("exec sleep 1000");
    let command = script.command();
    let mut vars = vec![
        ("mode", "http"),
        ("fprocess", command.as_str()),
        ("upstream_url", &url),
        ("HYPERFAAS_BOOT", &boot),
    ];
    vars.extend(more);
    let mut watchdog = Watchdog::start(&vars);
    let port = control_port(&mut watchdog);
    assert_eq!(watchdog.get("/").status, 200, "ready");
    upstream.seen();
    let (lane, welcome) = Lane::open(port);
    assert_eq!((welcome.status, welcome.flags), (500, Flags::NONE));
    (watchdog, port, lane)
}

fn forking(vars: &[(&str, &str)]) -> (Watchdog, u16, Lane) {
    let boot = boot("");
    let mut all = vec![("HYPERFAAS_BOOT", boot.as_str())];
    all.extend(vars);
    let mut watchdog = Watchdog::start(&all);
    let port = control_port(&mut watchdog);
    let (lane, welcome) = Lane::open(port);
    assert!(welcome.flags.has(Flags::DESCRIBED));
    (watchdog, port, lane)
}

#[test]
fn bytes_reach_the_worker_as_they_are_and_its_connection_is_used_again_when_its_end_is_certain() {
    let upstream = Upstream::fixed(OK);
    let (mut watchdog, _, mut lane) = relaying(&upstream, &[]);
    let mut connections = Vec::new();
    for flags in [Flags::REUSABLE.with(Flags::LOGGED), Flags::NONE, Flags::REUSABLE] {
        lane.ask("gEt /path?q HTTP/1.1\r\nhost: h\r\nx-ODD: 1\r\n\r\n");
        assert_eq!(lane.data(|all| all.ends_with(b"ok")), OK.as_bytes());
        let seen = upstream.seen();
        assert!(seen.has("gEt /path?q HTTP/1.1") && seen.has("x-ODD: 1"), "{seen:?}");
        connections.push(seen.connection);
        lane.done(flags, 200);
    }
    assert_eq!(connections[0], connections[1], "kept after a certain end");
    assert_ne!(connections[1], connections[2], "closed after an uncertain one");
    let line = watchdog.line("GET /path?q");
    assert!(line.contains("GET /path?q - 200 OK - ContentLength: 2B ("), "{line}");
}

#[test]
fn the_first_answer_is_never_mixed_with_what_comes_behind_it() {
    let upstream =
        Upstream::new(|_, stream| stream.write_all(format!("{OK}{OK}").as_bytes()).is_ok());
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    lane.ask(GET);
    let both = lane.data(|all| all.len() >= 2 * OK.len());
    assert_eq!(both.len(), 2 * OK.len());
    let first = upstream.seen().connection;
    // What has come behind an answer makes its end uncertain, which the provider says.
    lane.done(Flags::NONE, 200);
    lane.ask(GET);
    lane.data(|all| all.len() >= 2 * OK.len());
    assert_ne!(upstream.seen().connection, first);
    lane.done(Flags::NONE, 200);
}

/// A server that answers every request, and after `/late` says `word` behind the answer as soon as it is told to.
fn speaking_late(word: &'static [u8]) -> (Upstream, mpsc::Sender<()>) {
    let (speak, order) = mpsc::channel::<()>();
    let order = std::sync::Mutex::new(order);
    let upstream = Upstream::new(move |seen, stream| {
        let answered = stream.write_all(OK.as_bytes()).is_ok();
        if seen.has("GET /late HTTP/1.1") {
            order.lock().unwrap().recv().unwrap();
            stream.write_all(word).unwrap();
        }
        answered
    });
    (upstream, speak)
}

/// The word behind the answer has already left the worker's connection when the provider, which has not seen it, says that the
/// answer is over.
#[test]
fn what_comes_between_an_answer_and_its_end_closes_the_connection() {
    let (upstream, speak) = speaking_late(b"HTTP/1.1");
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    let mut connections = Vec::new();
    for target in ["/", "/late", "/"] {
        lane.ask(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = lane.data(|all| all.ends_with(b"ok"));
        assert_eq!(answer, OK.as_bytes());
        if target == "/late" {
            speak.send(()).unwrap();
            assert_eq!(lane.expect(Kind::Data).payload, b"HTTP/1.1");
        }
        lane.done_after(u32::try_from(answer.len()).unwrap(), Flags::REUSABLE, 200);
        connections.push(upstream.seen().connection);
    }
    assert_eq!(connections[0], connections[1], "kept after an answer with nothing behind it");
    assert_ne!(connections[1], connections[2], "closed, although the provider saw nothing wrong");
}

#[test]
fn a_worker_that_speaks_after_its_answer_gets_no_second_request_on_that_connection() {
    let (upstream, speak) = speaking_late(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    lane.ask("GET /late HTTP/1.1\r\nHost: h\r\n\r\n");
    lane.data(|all| all.ends_with(b"ok"));
    lane.done(Flags::REUSABLE, 200);
    speak.send(()).unwrap();
    upstream.seen();
    lane.ask(GET);
    // The late word may still be on its way, as one about the request before; it is never one about this.
    let frame = loop {
        let frame = lane.frame().unwrap();
        if lane.is_present(&frame) {
            break frame;
        }
    };
    assert_eq!(frame.payload, OK.as_bytes(), "not the late word of the request before");
    lane.done(Flags::REUSABLE, 200);
}

#[test]
fn large_bodies_flow_both_ways_at_the_same_time() {
    const SIZE: usize = 8 << 20;
    let upstream = Upstream::new(move |seen, stream| {
        if seen.body.is_empty() {
            return stream.write_all(OK.as_bytes()).is_ok();
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len());
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&seen.body).is_ok()
    });
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    let body: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n");
    let header = lane.request();
    lane.send(Header { flags: Flags::WAITS, ..header }, head.as_bytes());
    lane.expect(Kind::Admitted);
    for piece in body.chunks(1 << 20) {
        let header = lane.about(Kind::Data);
        lane.send(header, piece);
    }
    let answer = lane.data(|all| all.len() > SIZE);
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut rest = answer.len() - at;
    let mut whole = answer[at..].to_vec();
    while rest < SIZE {
        let more = lane.expect(Kind::Data).payload;
        rest += more.len();
        whole.extend(more);
    }
    assert!(whole == body, "8 MiB there and back");
    lane.done(Flags::REUSABLE, 200);
}

#[test]
fn a_caller_that_leaves_is_seen_by_the_worker() {
    let (left, leaves) = mpsc::channel();
    let (arrived, arrives) = mpsc::channel();
    let upstream = Upstream::new(move |seen, stream| {
        if !seen.has("GET /wait HTTP/1.1") {
            return stream.write_all(OK.as_bytes()).is_ok();
        }
        arrived.send(()).unwrap();
        let mut rest = [0; 1];
        left.send(matches!(stream.read(&mut rest), Ok(0) | Err(_))).unwrap();
        false
    });
    let (_watchdog, port, mut lane) = relaying(&upstream, &[]);
    lane.ask("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    arrives.recv_timeout(crate::support::PATIENCE).unwrap();
    drop(lane);
    assert!(leaves.recv_timeout(crate::support::PATIENCE).unwrap());
    let (mut lane, _) = Lane::open(port);
    lane.ask(GET);
    lane.data(|all| all.ends_with(b"ok"));
}

#[test]
fn a_worker_that_hangs_up_or_talks_nonsense_is_passed_on_as_such() {
    let upstream = Upstream::new(|seen, stream| {
        if seen.has("GET /half HTTP/1.1") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal").unwrap();
            return false;
        }
        if seen.has("GET /none HTTP/1.1") {
            return false;
        }
        if seen.has("GET /garbage HTTP/1.1") {
            stream.write_all(b"\0\xff garbage\n").unwrap();
            return false;
        }
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    for (path, bytes) in [("half", 42), ("none", 0), ("garbage", 11)] {
        lane.ask(&format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let mut got = 0;
        loop {
            let frame = lane.frame().unwrap();
            match frame.header.kind {
                Kind::Data => got += frame.payload.len(),
                kind => break assert_eq!(kind, Kind::End, "{path}"),
            }
        }
        assert_eq!(got, bytes, "{path}");
        lane.done(Flags::NONE, 502);
    }
    lane.ask(GET);
    assert_eq!(lane.data(|all| all.ends_with(b"ok")), OK.as_bytes(), "the lane goes on");
}

#[test]
fn a_run_time_limit_holds_and_the_lane_goes_on() {
    let upstream = Upstream::new(|seen, stream| {
        if seen.has("GET /wait HTTP/1.1") {
            let mut rest = [0; 1];
            let _ = stream.read(&mut rest);
            return false;
        }
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let (mut watchdog, _, mut lane) = relaying(&upstream, &[("exec_timeout", "10s")]);
    let begin = now();
    let header = lane.request();
    let header = Header { flags: Flags::ENDS, deadline_ms: 100, ..header };
    lane.send(header, b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let failed = lane.expect(Kind::Failed);
    assert_eq!(
        (failed.header.status, failed.payload.as_slice()),
        (504, b"deadline exceeded".as_slice())
    );
    assert!(begin.elapsed() >= Duration::from_millis(100));
    watchdog.line("Upstream HTTP killed due to exec_timeout: 100ms");
    lane.ask(GET);
    lane.data(|all| all.ends_with(b"ok"));
}

#[test]
fn what_is_beyond_the_limit_waits_a_little_or_comes_back_with_the_reason() {
    let (finish, finishes) = mpsc::channel::<()>();
    let finishes = std::sync::Mutex::new(finishes);
    let upstream = Upstream::new(move |seen, stream| {
        if seen.has("GET /wait HTTP/1.1") {
            finishes.lock().unwrap().recv().unwrap();
        }
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let more =
        [("max_inflight", "1"), ("HYPERFAAS_QUEUE_MAX", "1"), ("HYPERFAAS_QUEUE_WAIT", "10s")];
    let (_watchdog, port, mut first) = relaying(&upstream, &more);
    first.ask("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut second, _) = Lane::open(port);
    let (mut third, _) = Lane::open(port);
    second.ask(GET);
    third.ask(GET);
    // Whichever is seen first waits, and the other one is refused at once.
    let is_answered = |lane: &Lane| {
        lane.stream.set_nonblocking(true).unwrap();
        let seen = lane.stream.peek(&mut [0]);
        lane.stream.set_nonblocking(false).unwrap();
        seen.is_ok_and(|count| count > 0)
    };
    eventually("one is refused", || is_answered(&second) || is_answered(&third));
    if is_answered(&second) {
        std::mem::swap(&mut second, &mut third);
    }
    let frame = third.expect(Kind::Bounce);
    assert_eq!(frame.header.code, Reason::Full as u8);
    let crowd = Crowd::decode(&frame.payload).unwrap();
    assert_eq!(crowd, Crowd { in_flight: 1, queued: 1, limit: 1 });
    finish.send(()).unwrap();
    first.data(|all| all.ends_with(b"ok"));
    first.done(Flags::REUSABLE, 200);
    assert_eq!(second.data(|all| all.ends_with(b"ok")), OK.as_bytes(), "it got the place");
    second.done(Flags::REUSABLE, 200);
    third.ask(GET);
    third.data(|all| all.ends_with(b"ok"));
}

#[test]
fn who_waits_too_long_comes_back_and_never_runs() {
    let upstream = Upstream::new(|seen, stream| {
        if seen.has("GET /wait HTTP/1.1") {
            let mut rest = [0; 1];
            let _ = stream.read(&mut rest);
            return false;
        }
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let more = [("max_inflight", "1"), ("HYPERFAAS_QUEUE_WAIT", "5ms")];
    let (_watchdog, port, mut first) = relaying(&upstream, &more);
    first.ask("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut second, _) = Lane::open(port);
    second.ask(GET);
    let bounce = second.expect(Kind::Bounce);
    assert_eq!(Reason::from_code(bounce.header.code), Reason::Late);
    drop(first);
    assert!(upstream.seen().has("GET /wait HTTP/1.1"));
    assert!(upstream.nothing_more_seen());
}

#[test]
fn another_epoch_or_worker_runs_nothing() {
    let upstream = Upstream::fixed(OK);
    let (_watchdog, _, mut lane) = relaying(&upstream, &[]);
    for (worker, epoch) in [(0, 1), (1, 0), (7, 0)] {
        let header = Header { worker, epoch, flags: Flags::ENDS, ..lane.request() };
        lane.send(header, GET.as_bytes());
        let reason = Reason::from_code(lane.expect(Kind::Bounce).header.code);
        assert!(matches!(reason, Reason::Stale | Reason::NotReady), "{worker} {epoch} {reason:?}");
    }
    assert!(upstream.nothing_more_seen());
    lane.ask(GET);
    lane.data(|all| all.ends_with(b"ok"));
}

#[test]
fn strangers_half_greetings_and_garbled_frames_get_nothing() {
    let upstream = Upstream::fixed(OK);
    let (_watchdog, port, mut good) = relaying(&upstream, &[]);
    let right = Greeting::new(0, 0, KEY).encode();
    let mut wrong_version = right;
    wrong_version[7] = 9;
    for greeting in [Greeting::new(0, 0, "open sesam").encode(), wrong_version, [0xff; 56]] {
        let mut stream = dial(port);
        stream.write_all(&greeting).unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(
            rest.is_empty()
                && (read.is_ok()
                    || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset))
        );
    }
    let frames: [Vec<u8>; 5] = [
        vec![9; HEADER_LEN],
        Header { length: PAYLOAD_MAX, ..Header::new(Kind::Done, 1) }.encode().to_vec(),
        [&Header::new(Kind::Data, 1).encode()[..8], &[0xff; 32]].concat(),
        Header::new(Kind::Welcome, 1).encode().to_vec(),
        Header { flags: Flags::DESCRIBED, ..Header::new(Kind::Request, 1) }.encode().to_vec(),
    ];
    for frame in frames {
        let (mut lane, _) = Lane::open(port);
        lane.write(&frame);
        assert!(lane.is_closed(), "{frame:?}");
    }
    assert!(upstream.nothing_more_seen());
    good.ask(GET);
    good.data(|all| all.ends_with(b"ok"));
}

#[test]
fn the_drain_waits_for_a_request_on_a_lane_and_takes_no_other() {
    let (finish, finishes) = mpsc::channel::<()>();
    let finishes = std::sync::Mutex::new(finishes);
    let upstream = Upstream::new(move |seen, stream| {
        if seen.has("GET /wait HTTP/1.1") {
            finishes.lock().unwrap().recv().unwrap();
        }
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let (mut watchdog, port, mut lane) = relaying(&upstream, &[]);
    lane.ask("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut idle, _) = Lane::open(port);
    watchdog.signal("TERM");
    watchdog.line("draining");
    assert!(idle.is_closed(), "an idle lane is closed at once");
    finish.send(()).unwrap();
    assert_eq!(lane.data(|all| all.ends_with(b"ok")), OK.as_bytes());
    lane.done(Flags::REUSABLE, 200);
    assert_eq!(watchdog.exit().code(), Some(0));
}

#[test]
fn a_forked_process_is_told_the_request_and_its_answer_comes_as_data() {
    let (_watchdog, _, mut lane) = forking(&[("fprocess", "env"), ("mode", "streaming")]);
    let fields = [("Host", "h"), ("X-One", "1"), ("Content-Length", "0")];
    lane.describe("POST", "/a/b?q=1", &fields, Flags::ENDS, b"");
    let answer = lane.expect(Kind::Answer);
    assert_eq!(answer.header.status, 200);
    let fields = Fields::decode(&answer.payload).unwrap();
    assert!(fields.iter().any(|field| field == (b"content-type", b"application/octet-stream")));
    let text = String::from_utf8(lane.body()).unwrap();
    for line in ["Http_Method=POST", "Http_Path=/a/b", "Http_Query=q=1", "Http_X_One=1"] {
        assert!(text.lines().any(|seen| seen == line), "{line} in {text}");
    }
}

/// The answer's body, and what ended it.
fn body(lane: &mut Lane) -> (Vec<u8>, Kind) {
    let mut all = Vec::new();
    loop {
        let frame = lane.frame().unwrap();
        let kind = frame.header.kind;
        if kind != Kind::Data {
            return (all, kind);
        }
        all.extend(frame.payload);
        if frame.header.flags.has(Flags::ENDS) {
            return (all, Kind::End);
        }
    }
}

#[test]
fn bodies_of_any_size_pass_through_a_forked_process() {
    for vars in [
        &[("fprocess", "cat"), ("mode", "streaming")][..],
        &[("fprocess", "cat"), ("mode", "serializing")],
        &[("fprocess", "cat")],
    ] {
        let (_watchdog, _, mut lane) = forking(vars);
        for size in [0, 5, 70_000, 3 << 20] {
            let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let length = size.to_string();
            let fields = [("Content-Length", length.as_str())];
            if size < 1000 {
                lane.describe("POST", "/", &fields, Flags::ENDS, &sent);
            } else {
                lane.describe("POST", "/", &fields, Flags::NONE, b"");
                let stream = lane.stream.try_clone().unwrap();
                let about = lane.about(Kind::Data);
                let (sent, mut other) = (sent.clone(), stream);
                std::thread::spawn(move || {
                    for piece in sent.chunks(50_000) {
                        let header =
                            Header { length: u32::try_from(piece.len()).unwrap(), ..about };
                        other.write_all(&[&header.encode()[..], piece].concat()).unwrap();
                    }
                    other.write_all(&Header { kind: Kind::End, ..about }.encode()).unwrap();
                });
            }
            let answer = lane.expect(Kind::Answer);
            assert_eq!(answer.header.status, 200, "{vars:?}");
            let (got, end) = if answer.header.flags.has(Flags::ENDS) {
                (Vec::new(), Kind::End)
            } else {
                body(&mut lane)
            };
            assert!(got == sent && end == Kind::End, "{vars:?} {size}: {} {end:?}", got.len());
        }
    }
}

#[test]
fn an_answer_cut_by_a_deadline_never_looks_whole() {
    let script = Script::new("echo begun; exec sleep 1000");
    let command = script.command();
    let (_watchdog, _, mut lane) =
        forking(&[("fprocess", &command), ("mode", "streaming"), ("exec_timeout", "200ms")]);
    lane.describe("GET", "/", &[], Flags::ENDS, b"");
    lane.expect(Kind::Answer);
    assert_eq!(body(&mut lane), (b"begun\n".to_vec(), Kind::Failed));
    lane.describe("GET", "/", &[], Flags::ENDS, b"");
    lane.expect(Kind::Answer);
}

#[test]
fn files_are_served_on_a_lane_and_tokens_are_checked_on_port_8080_alone() {
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("a.txt"), "text").unwrap();
    let path = site.path().display().to_string();
    let (_watchdog, _, mut lane) =
        forking(&[("fprocess", "x"), ("mode", "static"), ("static_path", &path)]);
    lane.describe("GET", "/a.txt", &[], Flags::ENDS, b"");
    let answer = lane.expect(Kind::Answer);
    let fields = Fields::decode(&answer.payload).unwrap();
    assert!(fields.iter().any(|field| field == (b"content-length", b"4")));
    assert_eq!(body(&mut lane), (b"text".to_vec(), Kind::End));
    lane.describe("HEAD", "/a.txt", &[], Flags::ENDS, b"");
    let answer = lane.expect(Kind::Answer);
    assert!(answer.header.flags.has(Flags::ENDS), "no body for HEAD");
}
