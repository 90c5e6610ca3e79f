//! What both OpenFaaS watchdogs do and ours must do alike.
//!
//! Runs against ours, or against the binary that `WATCHDOG_UNDER_TEST` names. `WATCHDOG_KIND` (`classic` or `of`) then
//! says which of the two it is, and tests of the other one do nothing. Only behaviour on which we agree is here; what
//! differs on purpose is in `improved.rs` and in `docs/watchdog.md`.

use std::io::Write;
use std::time::Duration;

use crate::support::{Script, Upstream, Watchdog, eventually, now};

/// Whether the binary under test stands for this kind of watchdog.
fn is(kind: &str) -> bool {
    std::env::var("WATCHDOG_KIND").is_ok_and(|under_test| under_test == kind)
        || crate::support::is_ours()
}

const HELLO: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

/// A watchdog in mode `http` in front of `upstream`; its process only has to live.
fn relay(upstream: &Upstream, more: &[(&str, &str)]) -> Watchdog {
    let url = upstream.url();
    let mut vars =
        vec![("mode", "http"), ("fprocess", "sleep 1000"), ("upstream_url", url.as_str())];
    vars.extend_from_slice(more);
    Watchdog::start(&vars)
}

mod classic {
    use super::*;

    #[test]
    fn the_body_goes_through_the_process_and_back() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat")]);
        let answer = watchdog.post("/", b"abc");
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!(answer.header("Content-Length"), Some("3"));
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
        let seconds = answer.header("X-Duration-Seconds").unwrap();
        assert_eq!(seconds.split_once('.').unwrap().1.len(), 6, "{seconds}");
        assert!(answer.header("Date").is_some() && answer.header("Server").is_none());
    }

    #[test]
    fn the_answer_takes_the_requests_type_unless_one_is_set() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat")]);
        let answer = watchdog.ask("POST", "/", &[("Content-Type", "a/b")], b"{}");
        assert_eq!(answer.header("Content-Type"), Some("a/b"));
        drop(watchdog);
        let watchdog = Watchdog::start(&[("fprocess", "cat"), ("content_type", "c/d")]);
        let answer = watchdog.ask("POST", "/", &[("Content-Type", "a/b")], b"{}");
        assert_eq!(answer.header("Content-Type"), Some("c/d"));
    }

    #[test]
    fn a_failed_process_is_a_500_with_its_status_and_output() {
        if !is("classic") {
            return;
        }
        let script = Script::new("echo out; echo err >&2; exit 1");
        let answer = Watchdog::start(&[("fprocess", &script.command())]).post("/", b"");
        assert_eq!((answer.status, answer.text().as_str()), (500, "exit status 1\nout\nerr\n"));
        assert_eq!(answer.header("X-Duration-Seconds"), None);
        let script = Script::new("kill -KILL $$");
        let answer = Watchdog::start(&[("fprocess", &script.command())]).get("/");
        assert_eq!((answer.status, answer.text().as_str()), (500, "signal: killed\n"));
    }

    #[test]
    fn commands_that_cannot_be_started_say_why() {
        if !is("classic") {
            return;
        }
        for (fprocess, text) in [
            ("no-such-command", "exec: \"no-such-command\": executable file not found in $PATH\n"),
            ("/no/such/file", "fork/exec /no/such/file: no such file or directory\n"),
            ("/etc/passwd", "fork/exec /etc/passwd: permission denied\n"),
            (" cat", "exec: no command\n"),
        ] {
            let answer = Watchdog::start(&[("fprocess", fprocess)]).get("/");
            assert_eq!((answer.status, answer.text().as_str()), (500, text));
        }
    }

    #[test]
    fn a_process_that_takes_too_long_is_a_408() {
        if !is("classic") {
            return;
        }
        let mut watchdog = Watchdog::start(&[("fprocess", "sleep 100"), ("exec_timeout", "300ms")]);
        let begin = now();
        let answer = watchdog.get("/");
        assert!(begin.elapsed() >= Duration::from_millis(300));
        assert_eq!((answer.status, answer.text().as_str()), (408, "Killed process.\n"));
        watchdog.line("Killing process: sleep 100");
    }

    #[test]
    fn unusual_methods_are_refused() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat")]);
        for method in ["OPTIONS", "TRACE", "BREW", "get"] {
            let answer = watchdog.ask(method, "/", &[], b"");
            assert_eq!((answer.status, answer.body.len()), (405, 0), "{method}");
        }
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(watchdog.ask(method, "/", &[], b"").status, 200, "{method}");
        }
    }

    #[test]
    fn the_request_is_described_in_the_environment() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "env"), ("OWN", "kept")]);
        let headers =
            [("X-Foo-bar", "one"), ("X-Foo-Bar", "two"), ("foo_bar", "z"), ("User-Agent", "ua")];
        let text = watchdog.ask("GET", "/a%20b/c?x=1&y=%20", &headers, b"").text();
        for line in [
            "Http_X_Foo_Bar=one",
            "Http_Foo_bar=z",
            "Http_User_Agent=ua",
            "Http_Method=GET",
            "Http_ContentLength=0",
            "Http_Content_Length=0",
            "Http_Query=x=1&y=%20",
            "Http_Path=/a b/c",
            "Http_Host=fn.example:99",
            "OWN=kept",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in {text}");
        }
        let text = watchdog.get("/").text();
        assert!(!text.contains("Http_Query"), "{text}");
        drop(watchdog);
        let watchdog = Watchdog::start(&[("fprocess", "env"), ("cgi_headers", "false")]);
        assert!(!watchdog.get("/").text().contains("Http_"));
    }

    #[test]
    fn a_chunked_body_is_described_and_delivered() {
        if !is("classic") {
            return;
        }
        let script = Script::new("cat; echo $Http_ContentLength $Http_Transfer_Encoding");
        let watchdog = Watchdog::start(&[("fprocess", &script.command())]);
        let answer = watchdog.ask(
            "POST",
            "/",
            &[("Transfer-Encoding", "chunked")],
            b"3\r\nabc\r\n0\r\n\r\n",
        );
        assert_eq!(answer.text(), "abc-1 chunked\n");
    }

    #[test]
    fn requests_can_be_marshalled_into_json() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat"), ("marshal_request", "true")]);
        let text =
            watchdog.ask("POST", "/", &[("X-A", "1"), ("Connection", "close")], b"abc").text();
        let expected = r#"{"header":{"Connection":["close"],"Content-Length":["3"],"X-A":["1"]},"body":{"raw":"YWJj"}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn stderr_can_be_kept_out_of_the_answer() {
        if !is("classic") {
            return;
        }
        let script = Script::new("echo out; echo err >&2");
        let mut watchdog =
            Watchdog::start(&[("fprocess", &script.command()), ("combine_output", "false")]);
        assert_eq!(watchdog.get("/").text(), "out\n");
        watchdog.line("stderr: err");
    }

    #[test]
    fn debug_switches_print_to_stdout() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[
            ("fprocess", "cat"),
            ("write_debug", "true"),
            ("debug_headers", "true"),
        ]);
        watchdog.ask("POST", "/", &[("X-A", "1"), ("X-A", "2")], b"the answer");
        let text = watchdog.stdout(|text| text.contains("[out] X-Duration-Seconds=["));
        assert!(text.contains("[in] X-A=[1 2]\n") && text.contains("the answer"), "{text}");
    }

    #[test]
    fn arguments_are_split_at_single_spaces() {
        if !is("classic") {
            return;
        }
        let script = Script::new("for a in \"$@\"; do printf '[%s]' \"$a\"; done");
        let watchdog =
            Watchdog::start(&[("fprocess", &format!("{} a  b \"c d\"", script.command()))]);
        assert_eq!(watchdog.get("/").text(), "[a][][b][\"c][d\"]");
    }

    #[test]
    fn a_client_that_has_finished_sending_still_gets_its_answer() {
        if !is("classic") {
            return;
        }
        let script = Script::new("sleep 0.2; cat");
        let watchdog = Watchdog::start(&[("fprocess", &script.command())]);
        let mut client = watchdog.client();
        client.send("POST", "/", &[], b"abc");
        client.finish();
        assert_eq!(client.answer().text(), "abc");
    }

    #[test]
    fn a_process_outlives_its_client() {
        if !is("classic") {
            return;
        }
        let script = Script::new(
            "touch $0.started; while [ ! -e $0.go ]; do sleep 0.01; done; touch $0.done",
        );
        let watchdog = Watchdog::start(&[("fprocess", &script.command())]);
        let mut client = watchdog.client();
        client.send("GET", "/", &[], b"");
        eventually("the process runs", || script.beside("started").exists());
        drop(client);
        std::fs::write(script.beside("go"), "").unwrap();
        eventually("the process ends by itself", || script.beside("done").exists());
    }

    #[test]
    fn big_bodies_pass_both_ways() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat")]);
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert!(watchdog.post("/", &body).body == body);
        drop(watchdog);
        let ignorant = Watchdog::start(&[("fprocess", "true")]);
        assert_eq!(ignorant.post("/", &body).status, 200, "a process need not read its input");
    }

    #[test]
    fn bad_chunks_are_the_clients_fault() {
        if !is("classic") {
            return;
        }
        let watchdog = Watchdog::start(&[("fprocess", "cat")]);
        let answer = watchdog.ask(
            "POST",
            "/",
            &[("Transfer-Encoding", "chunked")],
            b"zz\r\nabc\r\n0\r\n\r\n",
        );
        assert_eq!(answer.status, 400);
        let mut client = watchdog.client();
        client.send("POST", "/", &[("Content-Length", "10")], b"abc");
        client.finish();
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (400, "unexpected EOF\n"));
    }

    #[test]
    fn start_up_and_requests_are_logged() {
        if !is("classic") {
            return;
        }
        let mut watchdog = Watchdog::start(&[("fprocess", "cat")]);
        watchdog.post("/", b"abc");
        watchdog.line("Timeouts: read: 30s write: 30s hard: 0s health: 30s.");
        watchdog.line(&format!("Writing lock-file to: {}", watchdog.lock_file().display()));
        let line = watchdog.line("Forking fprocess.");
        let shape: String =
            line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000/00/00 00:00:00 Forking fprocess.");
        watchdog.line("Wrote 3 Bytes - Duration: 0.0");
    }
}

mod streaming {
    use super::*;

    fn start(fprocess: &str, more: &[(&str, &str)]) -> Watchdog {
        let mut vars = vec![("mode", "streaming"), ("fprocess", fprocess)];
        vars.extend_from_slice(more);
        Watchdog::start(&vars)
    }

    #[test]
    fn the_body_goes_through_the_process_and_back() {
        if !is("of") {
            return;
        }
        let answer = start("cat", &[]).post("/", b"abc");
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
        assert_eq!(answer.header("X-Duration-Seconds"), None);
        let answer = start("true", &[("content_type", "a/b")]).get("/");
        assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("0")));
        assert_eq!(answer.header("Content-Type"), Some("a/b"));
    }

    #[test]
    fn a_failed_process_is_a_200_with_its_output() {
        if !is("of") {
            return;
        }
        let script = Script::new("echo out; echo err >&2; exit 3");
        let mut watchdog = start(&script.command(), &[]);
        let answer = watchdog.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "out\n"));
        watchdog.line("exit status 3");
        watchdog.line("GET / - 500 - ContentLength: 4B (");
    }

    #[test]
    fn the_request_is_described_in_the_environment() {
        if !is("of") {
            return;
        }
        let text = start("env", &[]).ask("BREW", "/a%20b?q=1", &[("X-A", "1")], b"xyz").text();
        for line in [
            "Http_X_A=1",
            "Http_Method=BREW",
            "Http_Path=/a b",
            "Http_Query=q=1",
            "Http_Content_Length=3",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in {text}");
        }
        assert!(!text.contains("Http_Host") && !text.contains("Http_ContentLength"), "{text}");
    }
}

mod serializing {
    use super::*;

    fn start(fprocess: &str, more: &[(&str, &str)]) -> Watchdog {
        let mut vars = vec![("mode", "serializing"), ("fprocess", fprocess)];
        vars.extend_from_slice(more);
        Watchdog::start(&vars)
    }

    #[test]
    fn the_body_goes_through_the_process_and_back() {
        if !is("of") {
            return;
        }
        let answer = start("cat", &[]).post("/", b"abc");
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!(answer.header("Content-Length"), Some("3"));
        assert_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
        assert!(answer.header("X-Duration-Seconds").is_some());
    }

    #[test]
    fn failures_are_a_500_with_the_reason_alone() {
        if !is("of") {
            return;
        }
        let script = Script::new("echo out; exit 1");
        let answer = start(&script.command(), &[]).get("/");
        assert_eq!((answer.status, answer.text().as_str()), (500, "exit status 1"));
        assert!(answer.header("X-Duration-Seconds").is_some());
        let answer = start("sleep 100", &[("exec_timeout", "200ms")]).get("/");
        assert_eq!((answer.status, answer.text().as_str()), (500, "signal: killed"));
        let answer = start("no-such-command", &[]).get("/");
        assert_eq!(answer.text(), "exec: \"no-such-command\": executable file not found in $PATH");
    }
}

mod http {
    use super::*;

    #[test]
    fn requests_reach_the_function_and_its_answer_comes_back() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let mut watchdog = relay(&upstream, &[]);
        let answer = watchdog.ask(
            "POST",
            "/p%2fq?q=1;2",
            &[("Content-Type", "t/t"), ("X-A", "1"), ("X-A", "2")],
            b"abc",
        );
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello\n"));
        assert_eq!(answer.header("Content-Type"), Some("text/plain"));
        assert_eq!(answer.header("Content-Length"), Some("6"));
        assert_eq!(
            answer.header("X-Duration-Seconds").unwrap().split_once('.').unwrap().1.len(),
            6
        );
        let seen = upstream.seen();
        assert_eq!(seen.lines[0], "POST /p%2fq?q=1;2 HTTP/1.1");
        assert_eq!(seen.body, b"abc");
        for line in ["Host: fn.example:99", "Content-Type: t/t", "X-A: 1", "X-A: 2"] {
            assert!(seen.has(line), "{line} in {seen:?}");
        }
        watchdog.line("POST /p%2fq?q=1;2 - 200 OK - ContentLength: 6B (0.");
    }

    #[test]
    fn the_functions_status_and_headers_are_its_own() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(
            "HTTP/1.1 418 Whatever\r\nX-A: 1\r\nX-A: 2\r\nX-Duration-Seconds: 9\r\nServer: s\r\nContent-Length: 2\r\n\r\n{}",
        );
        let answer = relay(&upstream, &[]).get("/");
        assert_eq!(answer.status, 418);
        let values: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "X-A")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(answer.header("Server"), Some("s"));
        assert_ne!(answer.header("X-Duration-Seconds"), Some("9"));
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"), "guessed");
    }

    #[test]
    fn a_path_in_the_upstreams_address_comes_first() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let url = format!("{}/base", upstream.url());
        let watchdog =
            relay(&upstream, &[("upstream_url", "http://unused:1"), ("http_upstream_url", &url)]);
        watchdog.get("/p?q");
        assert_eq!(upstream.seen().lines[0], "GET /base/p?q HTTP/1.1");
    }

    #[test]
    fn a_function_that_takes_too_long_is_a_504() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::new(|_, _| {
            std::thread::park_timeout(Duration::from_secs(5));
            true
        });
        let watchdog = relay(&upstream, &[("exec_timeout", "10s")]);
        let begin = now();
        let answer = watchdog.ask("GET", "/", &[("X-Timeout", "200ms")], b"");
        assert!(begin.elapsed() < Duration::from_secs(4));
        assert_eq!((answer.status, answer.body.len()), (504, 0));
        assert_eq!(answer.header("X-Openfaas-Internal"), Some("of-watchdog"));
        let seconds: f64 = answer.header("X-Duration-Seconds").unwrap().parse().unwrap();
        assert!((0.2..4.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn nonsense_from_the_function_is_a_500() {
        if !is("of") {
            return;
        }
        for nonsense in ["garbage\r\n\r\n", ""] {
            let upstream = Upstream::new(move |_, stream| {
                stream.write_all(nonsense.as_bytes()).unwrap();
                false
            });
            let answer = relay(&upstream, &[]).post("/", b"x");
            assert_eq!((answer.status, answer.body.len()), (500, 0), "{nonsense:?}");
            assert_eq!(answer.header("X-Openfaas-Internal"), Some("of-watchdog"));
        }
    }

    /// As any answer whose length nobody can be sure of, although none of these bytes would follow here.
    #[test]
    fn an_answer_to_head_with_two_lengths_is_a_500() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::new(|_, stream| {
            let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n";
            stream.write_all(text.as_bytes()).unwrap();
            false
        });
        let watchdog = relay(&upstream, &[]);
        let mut client = watchdog.client();
        client.send("HEAD", "/", &[], b"");
        let head = client.head().unwrap();
        assert_eq!((head.status, head.header("X-Openfaas-Internal")), (500, Some("of-watchdog")));
    }

    #[test]
    fn an_answer_that_breaks_off_is_cut_for_the_client_too() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::new(|_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
            false
        });
        let answer = relay(&upstream, &[]).get("/");
        assert!(answer.is_cut, "{answer:?}");
    }

    #[test]
    fn call_ids_are_logged_on_request() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let mut watchdog = relay(&upstream, &[("log_callid", "true")]);
        watchdog.ask("GET", "/a", &[("X-Call-Id", "cid1")], b"");
        assert!(watchdog.line("GET /a - 200 OK").ends_with("s) [cid1]"));
        watchdog.get("/b");
        assert!(watchdog.line("GET /b - 200 OK").ends_with("s) [none]"));
    }

    #[test]
    fn probes_of_kubernetes_are_not_logged() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let mut watchdog = relay(&upstream, &[]);
        watchdog.ask("GET", "/probe", &[("User-Agent", "kube-probe/1.30")], b"");
        watchdog.get("/later");
        let line = watchdog.line("GET /");
        assert!(line.contains("/later"), "{line}");
    }

    #[test]
    fn connections_to_the_function_are_used_again() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let watchdog = relay(&upstream, &[]);
        let mut client = watchdog.client();
        let connections: Vec<_> = (0..5)
            .map(|_| {
                client.send("GET", "/", &[], b"");
                assert_eq!(client.answer().status, 200);
                upstream.seen().connection
            })
            .collect();
        assert!(connections.windows(2).all(|pair| pair[0] == pair[1]), "{connections:?}");
    }

    #[test]
    fn events_are_passed_on_one_by_one() {
        if !is("of") {
            return;
        }
        let (next, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |_, stream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            for n in 0..3 {
                stream.write_all(format!("9\r\ndata: {n}\n\n\r\n").as_bytes()).unwrap();
                wait.lock().unwrap().recv().unwrap();
            }
            stream.write_all(b"0\r\n\r\n").is_ok()
        });
        let watchdog = relay(&upstream, &[("exec_timeout", "1ms")]);
        let mut client = watchdog.client();
        client.send("GET", "/", &[("Accept", "text/event-stream")], b"");
        let head = client.head().unwrap();
        assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(head.header("X-Duration-Seconds"), None);
        for n in 0..3 {
            assert_eq!(client.chunk().unwrap(), format!("data: {n}\n\n").as_bytes());
            next.send(()).unwrap();
        }
        assert_eq!(client.chunk(), None);
        assert!(upstream.seen().has("X-Forwarded-For: 127.0.0.1"));
    }

    #[test]
    fn websockets_pass() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::new(|seen, stream| {
            assert!(seen.has("Upgrade: websocket") && seen.has("Connection: Upgrade"), "{seen:?}");
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nready";
            stream.write_all(head.as_bytes()).unwrap();
            let mut echo = stream.try_clone().unwrap();
            std::io::copy(stream, &mut echo).unwrap();
            false
        });
        let watchdog = relay(&upstream, &[("exec_timeout", "1ms")]);
        let mut client = watchdog.client();
        client.send("GET", "/ws", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Upgrade")), (101, Some("websocket")));
        assert_eq!(client.exactly(5), b"ready");
        client.raw(b"\x81\x02hi");
        assert_eq!(client.exactly(4), b"\x81\x02hi");
    }

    #[test]
    fn the_function_says_itself_whether_it_is_ready() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::new(|seen, stream| {
            let status =
                if seen.lines[0] == "GET /am-i HTTP/1.1" { "418 Teapot" } else { "200 OK" };
            stream
                .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
                .is_ok()
        });
        let watchdog = relay(&upstream, &[("ready_path", "/am-i")]);
        eventually("ready", || watchdog.get("/_/ready").status == 418);
        assert_eq!(watchdog.get("/").status, 200);
    }

    #[test]
    fn the_watchdog_ends_with_a_function_that_fails() {
        if !is("of") {
            return;
        }
        let vars =
            [("mode", "http"), ("upstream_url", "http://127.0.0.1:1"), ("fprocess", "false")];
        let mut watchdog = Watchdog::launch(&vars);
        watchdog.line("Forked function has terminated: exit status 1");
        assert_eq!(watchdog.exit().code(), Some(1));
    }

    #[test]
    fn output_is_logged_with_its_name_unless_told_otherwise() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let script = Script::new("echo out; echo oops >&2; exec sleep 1000");
        let command = script.command();
        let mut watchdog = relay(&upstream, &[("fprocess", &command)]);
        watchdog.line(" stderr: oops");
        let text = watchdog.stdout(|text| text.ends_with('\n'));
        assert!(text.ends_with(" stdout: out\n"), "{text}");
        drop(watchdog);
        let mut watchdog = relay(&upstream, &[("fprocess", &command), ("prefix_logs", "false")]);
        assert_eq!(watchdog.line("oops"), "oops");
        assert_eq!(watchdog.stdout(|text| text.ends_with('\n')), "out\n");
    }

    #[test]
    fn the_function_gets_the_environment_as_it_is_and_a_silent_stdin() {
        if !is("of") {
            return;
        }
        let upstream = Upstream::fixed(HELLO);
        let script = Script::new(
            "env; if read -t 1 line; then echo READ; else echo OPEN; fi; exec sleep 1000",
        );
        let watchdog = relay(
            &upstream,
            &[("fprocess", &script.command()), ("OWN", "kept"), ("prefix_logs", "false")],
        );
        let text = watchdog.stdout(|text| text.contains("OPEN") || text.contains("READ"));
        assert!(
            text.contains("OWN=kept\n") && !text.contains("Http_") && !text.contains("HYPERFAAS_"),
            "{text}"
        );
    }
}

mod life {
    use super::*;

    /// Variables of one watchdog of each kind that is under test.
    fn kinds() -> Vec<Vec<(&'static str, &'static str)>> {
        let mut kinds = Vec::new();
        if is("classic") {
            kinds.push(vec![("fprocess", "cat")]);
        }
        if is("of") {
            kinds.push(vec![("fprocess", "cat"), ("mode", "serializing")]);
        }
        kinds
    }

    #[test]
    fn health_follows_the_lock_file() {
        for vars in kinds() {
            let watchdog = Watchdog::start(&vars);
            eventually("healthy", || watchdog.get("/_/health").status == 200);
            let answer = watchdog.get("/_/health");
            assert_eq!(answer.text(), "OK");
            assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
            assert_eq!(watchdog.post("/_/health", b"").status, 405);
            std::fs::remove_file(watchdog.lock_file()).unwrap();
            let answer = watchdog.get("/_/health");
            assert_eq!((answer.status, answer.body.len()), (503, 0));
            std::fs::write(watchdog.lock_file(), "").unwrap();
            assert_eq!(watchdog.get("/_/health").status, 200);
        }
    }

    #[test]
    fn the_lock_file_can_be_suppressed() {
        for mut vars in kinds() {
            vars.push(("suppress_lock", "true"));
            let mut watchdog = Watchdog::start(&vars);
            watchdog.line("Warning: \"suppress_lock\" is enabled.");
            assert!(!watchdog.lock_file().exists());
            assert_eq!(watchdog.get("/_/health").status, 503);
        }
    }

    #[test]
    fn more_than_max_inflight_is_refused_at_once() {
        for mut vars in kinds() {
            let script =
                Script::new("touch $0.started; while [ ! -e $0.go ]; do sleep 0.01; done; cat");
            let command = script.command();
            vars.extend([("fprocess", command.as_str()), ("max_inflight", "1")]);
            let watchdog = Watchdog::start(&vars);
            let mut first = watchdog.client();
            first.send("POST", "/", &[], b"abcd");
            eventually("the first is in flight", || script.beside("started").exists());
            let answer = watchdog.get("/");
            assert_eq!(answer.status, 429);
            assert_eq!(
                answer.text(),
                "Concurrent request limit exceeded. Max concurrent requests: 1\n"
            );
            assert_eq!(answer.header("X-Openfaas-Internal"), Some("faas-middleware"));
            assert_eq!(answer.header("Content-Type"), Some("text/plain"));
            assert_eq!(watchdog.get("/_/health").status, 200, "health checks are not limited");
            std::fs::write(script.beside("go"), "").unwrap();
            assert_eq!(first.answer().text(), "abcd");
            assert_eq!(watchdog.get("/").status, 200);
        }
    }

    #[test]
    fn sigterm_lets_running_requests_finish_and_exits_0() {
        for mut vars in kinds() {
            vars.push(("healthcheck_interval", "1ms"));
            let mut watchdog = Watchdog::start(&vars);
            let mut client = watchdog.client();
            client.send("POST", "/", &[("Content-Length", "4")], b"ab");
            // Another request after it: by its answer the first one has been seen too.
            watchdog.get("/");
            watchdog.signal("TERM");
            watchdog.line("SIGTERM: no new connections in 1ms");
            watchdog.line("No new connections allowed, draining: 1 requests");
            eventually("refuses", || std::net::TcpStream::connect(watchdog.address()).is_err());
            assert!(!watchdog.lock_file().exists());
            client.raw(b"cd");
            let answer = client.answer();
            assert_eq!((answer.status, answer.text().as_str()), (200, "abcd"));
            watchdog.line("Exiting. Active connections: ");
            assert_eq!(watchdog.exit().code(), Some(0));
        }
    }

    #[test]
    fn everything_is_served_during_the_health_check_interval() {
        for mut vars in kinds() {
            vars.push(("healthcheck_interval", "2s"));
            let mut watchdog = Watchdog::start(&vars);
            watchdog.signal("TERM");
            watchdog.line("SIGTERM: no new connections in 2s");
            eventually("unhealthy", || watchdog.get("/_/health").status == 503);
            assert_eq!(watchdog.post("/", b"still").text(), "still");
            assert_eq!(watchdog.exit().code(), Some(0));
        }
    }

    #[test]
    fn exit_codes_tell_mistakes_apart() {
        let code = |vars: &[(&str, &str)]| Watchdog::launch(vars).exit().code();
        if is("classic") {
            assert_eq!(code(&[]), Some(2));
        }
        if is("of") {
            assert_eq!(code(&[("mode", "http")]), Some(1));
            assert_eq!(code(&[("mode", "http"), ("fprocess", "cat")]), Some(1));
            assert_eq!(code(&[("mode", "HTTP"), ("fprocess", "cat")]), Some(2));
            assert_eq!(
                code(&[("mode", "streaming"), ("fprocess", "cat"), ("write_timeout", "0")]),
                Some(1)
            );
        }
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        for vars in kinds() {
            let watchdog = Watchdog::start(&vars);
            let mut client = watchdog.client();
            client.send("POST", "/", &[], b"one");
            client.send("POST", "/", &[], b"two");
            assert_eq!(client.answer().text(), "one");
            assert_eq!(client.answer().text(), "two");
        }
    }

    #[test]
    fn malformed_requests_never_reach_the_function() {
        for vars in kinds() {
            let watchdog = Watchdog::start(&vars);
            for (request, status) in [
                ("GET / HTTP/1.1\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400),
                (
                    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                    400,
                ),
                ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
                ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a\r\nX-A : 1\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
                ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
                ("POST / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\nContent-Length: 1\r\n\r\nx", 417),
                ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 404),
            ] {
                let mut client = watchdog.client();
                client.raw(request.as_bytes());
                assert_eq!(client.head().unwrap().status, status, "{request}");
            }
            assert_eq!(watchdog.ask("OPTIONS", "*", &[], b"").status, 200);
            assert_eq!(watchdog.ask("GET", "*", &[], b"").status, 400);
        }
    }

    #[test]
    fn paths_are_cleaned_by_a_redirect() {
        for vars in kinds() {
            let watchdog = Watchdog::start(&vars);
            let answer = watchdog.get("//a//b?q");
            assert_eq!((answer.status, answer.header("Location")), (307, Some("/a/b?q")));
            assert_eq!(answer.text(), "<a href=\"/a/b?q\">Temporary Redirect</a>.\n\n");
            assert_eq!(answer.header("Content-Type"), Some("text/html; charset=utf-8"));
            let answer = watchdog.post("/./a/../b/", b"");
            assert_eq!(
                (answer.status, answer.header("Location"), answer.body.len()),
                (307, Some("/b/"), 0)
            );
            assert_eq!(watchdog.get("/a%2F..%2Fb").status, 200);
        }
    }

    #[test]
    fn silent_and_slow_clients_are_closed_without_a_byte() {
        for mut vars in kinds() {
            vars.push(("read_timeout", "300ms"));
            let watchdog = Watchdog::start(&vars);
            let mut silent = watchdog.client();
            let mut slow = watchdog.client();
            slow.raw(b"GET / HTTP/1.1\r\nHost: ");
            assert!(silent.is_closed());
            assert!(slow.is_closed());
            let mut idle = watchdog.client();
            idle.send("GET", "/", &[], b"");
            assert_eq!(idle.answer().status, 200);
            assert!(idle.is_closed());
        }
    }

    #[test]
    fn the_command_line_of_the_originals_works() {
        let run = |flag: &str, directory: &str| {
            std::process::Command::new(crate::support::binary().0)
                .arg(flag)
                .env_clear()
                .envs([("TMPDIR", directory), ("fprocess", "cat")])
                .output()
                .unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        assert!(run("--version", path).status.success());
        assert_eq!(run("--run-healthcheck", path).status.code(), Some(1));
        std::fs::write(directory.path().join(".lock"), "").unwrap();
        assert_eq!(run("-run-healthcheck", path).status.code(), Some(0));
        assert_eq!(run("--nonsense", path).status.code(), Some(2));
    }
}
