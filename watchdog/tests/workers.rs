//! Two workers: orders on the control link, the second copy of the owner's function, and that nothing of it is left.
//!
//! The functions run as a user without rights, under a watchdog with the rights it has in a container.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::managed::{KEY, Link};
use crate::support::{Client, Watchdog, binary, eventually, now};

const PYTHON: &str = "/usr/bin/python3";
/// What every server here asks for; nothing ever listens on that port itself.
const PORT: u16 = 5472;
/// Answers with its process id; `/slow` once the file `go` is there, `/die` not at all.
const SERVER: &str = r#"
import http.server, os, sys, time
HERE = os.path.dirname(os.path.abspath(__file__))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        if self.path == "/slow":
            open(HERE + "/slow", "w").close()
            while not os.path.exists(HERE + "/go"):
                time.sleep(0.002)
        if self.path == "/daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1000)
                os._exit(0)
            os.wait()
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("0.0.0.0", 5472), Handler).serve_forever()
"#;

/// A watchdog, its provider's link, and a directory for what the function needs.
struct Container {
    watchdog: Watchdog,
    link: Link,
    port: u16,
    directory: tempfile::TempDir,
}

fn hello() -> String {
    json!({ "version": 1, "key": KEY, "workers": true }).to_string() + "\n"
}

fn boot() -> String {
    json!({
        "version": 1, "key": KEY, "control_port": 0, "http_port": 0, "kind": "watchdog",
        "user": "65534:65534"
    })
    .to_string()
}

fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    directory
}

impl Container {
    /// A server in mode `http`.
    fn server() -> Self {
        let directory = open_directory();
        let path = directory.path().join("server.py");
        std::fs::write(&path, SERVER).unwrap();
        let url = format!("http://127.0.0.1:{PORT}");
        let command = format!("{PYTHON} {}", path.display());
        let vars = [("mode", "http"), ("upstream_url", &url), ("fprocess", &command)];
        let mut container = Self::start(&vars, directory);
        container.reported(0, 0, "ready");
        container
    }

    fn start(vars: &[(&str, &str)], directory: tempfile::TempDir) -> Self {
        let boot = boot();
        let vars: Vec<_> =
            vars.iter().copied().chain([("HYPERFAAS_BOOT", boot.as_str())]).collect();
        let mut watchdog = Watchdog::start_as_in_a_container(&vars);
        let line = watchdog.line("Control link listening on port: ");
        let port = line.rsplit(' ').next().unwrap().parse().unwrap();
        let link = Link::dial(port, &hello());
        Self { watchdog, link, port, directory }
    }

    fn specialise(&mut self, epoch: u64) {
        self.link.say(&own(1, epoch));
    }

    fn release(&mut self, epoch: u64, grace_ms: u64) {
        self.link.say(&release(1, epoch, grace_ms));
    }

    /// The next report.
    fn report(&mut self) -> Value {
        serde_json::from_str(&self.link.line()).unwrap()
    }

    /// The report that this worker is in this state.
    fn reported(&mut self, worker: u8, epoch: u64, state: &str) -> Value {
        loop {
            let report = self.report();
            let is_it = report["event"] == "worker" && report["worker"] == worker;
            assert_ne!(report["event"], "refused", "{report}");
            if is_it && report["epoch"] == epoch && report["state"] == state {
                return report;
            }
        }
    }

    /// A second copy that answers.
    fn second(&mut self, epoch: u64) {
        self.specialise(epoch);
        self.reported(1, epoch, "ready");
    }

    /// The process ids that answer, once there are `count`.
    fn answering(&self, count: usize) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        eventually("that many answer", || {
            // At the same time, so that the least busy worker is another one each time.
            let mut clients: Vec<_> = (0..4).map(|_| self.watchdog.client()).collect();
            clients.iter_mut().for_each(|client| client.send("GET", "/", &[], b""));
            seen = clients.iter_mut().map(ok).collect();
            seen.len() == count
        });
        seen
    }
}

fn ok(client: &mut Client) -> String {
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    answer.text()
}

fn own(worker: u8, epoch: u64) -> String {
    json!({ "order": "specialise", "worker": worker, "epoch": epoch, "work": "own" }).to_string()
}

fn release(worker: u8, epoch: u64, grace_ms: u64) -> String {
    json!({ "order": "release", "worker": worker, "epoch": epoch, "grace_ms": grace_ms })
        .to_string()
}

fn is_alive(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

/// All processes that descend from `root`.
fn descendants(root: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, parent))
        })
        .collect();
    let mut found = BTreeSet::from([root]);
    loop {
        let next = parents.iter().filter(|(pid, up)| found.contains(up) && !found.contains(pid));
        let next: Vec<_> = next.map(|(pid, _)| *pid).collect();
        if next.is_empty() {
            found.remove(&root);
            return found;
        }
        found.extend(next);
    }
}

#[test]
fn whoever_asks_is_told_what_the_watchdog_can_and_how_both_workers_stand() {
    let mut container = Container::server();
    let mut link = Link::dial(container.port, &hello());
    let mut read = || serde_json::from_str::<Value>(&link.line()).unwrap();
    assert_eq!(
        read(),
        json!({ "event": "abilities", "workers": 2, "second_own": true, "guests": true, "lanes": 1, "holds": true })
    );
    let worker = |worker, state: &str| json!({ "event": "worker", "worker": worker, "epoch": 0, "state": state, "crashes": 0 });
    assert_eq!((read(), read()), (worker(0, "ready"), worker(1, "generic")));
    container.second(1);
    container.watchdog.signal("TERM");
    for worker in [0, 1] {
        container.reported(worker, u64::from(worker), "draining");
    }
    assert_eq!(container.watchdog.exit().code(), Some(0));
}

#[test]
fn a_second_copy_shares_the_requests_and_goes_without_a_trace() {
    let mut container = Container::server();
    let first = container.answering(1);
    for epoch in [3, 9] {
        let before = descendants(container.watchdog.pid());
        container.specialise(epoch);
        container.reported(1, epoch, "specialising");
        container.reported(1, epoch, "ready");
        let both = container.answering(2);
        assert!(both.is_superset(&first));
        container.release(epoch, 1000);
        container.reported(1, epoch, "draining");
        container.reported(1, epoch, "generic");
        assert_eq!(container.answering(1), first);
        assert_eq!(descendants(container.watchdog.pid()), before);
    }
}

#[test]
fn a_daemon_of_the_second_copy_goes_with_it_and_one_of_the_first_stays() {
    let mut container = Container::server();
    assert_eq!(container.watchdog.get("/daemon").status, 200);
    let kept = descendants(container.watchdog.pid());
    assert_eq!(kept.len(), 2, "the server and its daemon");
    container.second(1);
    // The first worker is busy, so that the second one gets them.
    let mut slow = container.watchdog.client();
    slow.send("GET", "/slow", &[], b"");
    eventually("it is busy", || container.directory.path().join("slow").exists());
    for _ in 0..3 {
        assert_eq!(container.watchdog.get("/daemon").status, 200);
    }
    assert_eq!(descendants(container.watchdog.pid()).len(), 2 + 1 + 3);
    container.release(1, 1000);
    container.reported(1, 1, "generic");
    assert_eq!(descendants(container.watchdog.pid()), kept);
    std::fs::write(container.directory.path().join("go"), "").unwrap();
    assert!(kept.contains(&ok(&mut slow).parse().unwrap()));
}

#[test]
fn a_drain_lets_requests_finish_and_its_grace_ends_them() {
    let mut container = Container::server();
    let mut slow: Vec<_> = (0..2).map(|_| container.watchdog.client()).collect();
    container.second(1);
    let slow_file = container.directory.path().join("slow");
    for client in &mut slow {
        let _ = std::fs::remove_file(&slow_file);
        client.send("GET", "/slow", &[], b"");
        eventually("it is there", || slow_file.exists());
    }
    container.release(1, 60_000);
    container.reported(1, 1, "draining");
    let first = container.answering(1);
    std::fs::write(container.directory.path().join("go"), "").unwrap();
    let answered: BTreeSet<_> = slow.iter_mut().map(ok).collect();
    assert_eq!(answered.len(), 2, "one by each worker");
    container.reported(1, 1, "generic");
    assert!(answered.is_superset(&first));

    std::fs::remove_file(container.directory.path().join("go")).unwrap();
    container.second(2);
    for client in &mut slow {
        std::fs::remove_file(&slow_file).unwrap();
        client.send("GET", "/slow", &[], b"");
        eventually("it is there", || slow_file.exists());
    }
    container.release(2, 50);
    container.reported(1, 2, "generic");
    std::fs::write(container.directory.path().join("go"), "").unwrap();
    let mut statuses: Vec<_> = slow.iter_mut().map(|client| client.answer().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 500], "the one of the second worker is cut, the other is not");
}

#[test]
fn orders_that_cannot_be_followed_are_refused_and_change_nothing() {
    let mut container = Container::server();
    container.second(5);
    let guest = json!({
        "order": "specialise", "worker": 1, "epoch": 9, "work": { "guest": {
            "function": "other.openfaas-fn", "kind": "watchdog", "root": "/", "directory": "/",
            "uid": 7, "gid": 7, "processes_max": 1, "descriptors_max": 9
        } }
    });
    let both = container.answering(2);
    for (order, worker, epoch, reason) in [
        (own(1, 4), 1, 4, "epoch 4 is over, the newest is 5"),
        (own(1, 6), 1, 6, "it is not generic, it has epoch 5"),
        (guest.to_string(), 1, 9, "it is not generic, it has epoch 5"),
        (own(0, 6), 0, 6, "it is not generic, it has epoch 0"),
        (own(2, 6), 2, 6, "there is no such worker"),
        (release(1, 4, 0), 1, 4, "its epoch is 5, not 4"),
        (release(0, 0, 0), 0, 0, "it is the owner's own worker"),
        (release(9, 0, 0), 9, 0, "there is no such worker"),
    ] {
        container.link.say(&order);
        let expected =
            json!({ "event": "refused", "worker": worker, "epoch": epoch, "reason": reason });
        assert_eq!(container.report(), expected, "{order}");
    }
    container.link.say(r#"{"order":"freeze","worker":1}"#);
    assert_eq!(container.answering(2), both, "and an order nobody knows is ignored");
}

#[test]
fn what_is_no_order_closes_the_link_and_changes_nothing() {
    let mut container = Container::server();
    container.second(1);
    let both = container.answering(2);
    let endless = "x".repeat(1 << 20);
    for text in [
        "",
        "nonsense",
        "{}",
        "[]",
        r#"{"order":"release","worker":1}"#,
        r#"{"order":"release","worker":-1,"epoch":1,"grace_ms":0}"#,
        r#"{"order":"release","worker":1,"epoch":1e99,"grace_ms":0}"#,
        &endless,
    ] {
        let mut link = Link::dial(container.port, &hello());
        // Both workers, what they can, and the owner's state.
        (0..4).for_each(|_| drop(link.line()));
        link.say(text);
        assert!(link.is_refused(), "{text:.40}");
        container.watchdog.line("Control link: closed, a line is no order: ");
    }
    let mut quiet = Link::dial(container.port, &format!("{{\"version\":1,\"key\":\"{KEY}\"}}\n"));
    quiet.line();
    quiet.say(&release(1, 1, 0));
    assert!(quiet.is_refused(), "whoever did not ask for workers gives no orders");
    assert_eq!(container.answering(2), both);
    container.release(1, 0);
    container.reported(1, 1, "generic");
}

#[test]
fn a_repeated_order_is_answered_and_not_carried_out_twice() {
    let mut container = Container::server();
    container.second(7);
    let both = container.answering(2);
    // As after a break: the order comes with the greeting, in one piece.
    let mut link = Link::dial(container.port, &(hello() + &own(1, 7) + "\n" + &own(1, 7) + "\n"));
    let mut told = || serde_json::from_str::<Value>(&link.line()).unwrap();
    while told()["event"] != "state" {}
    container.specialise(7);
    assert_eq!(container.reported(1, 7, "ready")["crashes"], 0);
    assert_eq!(container.answering(2), both);
    container.release(7, 1000);
    container.reported(1, 7, "generic");
    container.release(7, 1000);
    container.reported(1, 7, "generic");
    container.specialise(7);
    assert_eq!(container.report()["event"], "refused", "it is over");
}

#[test]
fn a_crashing_second_copy_is_started_again_and_does_not_disturb_the_first() {
    let mut container = Container::server();
    let first = container.answering(1);
    container.second(1);
    let both = container.answering(2);
    let second = both.difference(&first).next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", second]).status().unwrap().success());
    let crash = container.reported(1, 1, "crashed");
    assert_eq!((&crash["crashes"], &crash["reason"]), (&1.into(), &"signal: killed".into()));
    assert_eq!(container.watchdog.get("/").text(), *first.first().unwrap());
    assert!(is_alive(first.first().unwrap()));
    container.reported(1, 1, "ready");
    let again = container.answering(2);
    assert!(again.is_superset(&first) && again != both);
    container.release(1, 1000);
    assert_eq!(container.reported(1, 1, "generic")["crashes"], 1);
}

#[test]
fn the_second_copy_makes_up_for_a_first_that_has_crashed() {
    let mut container = Container::server();
    container.second(1);
    let both = container.answering(2);
    for pid in &both {
        let killed = std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
        assert!(killed.success());
        // Until then it may still accept a request, and die with it.
        eventually("it has ended", || !is_alive(pid));
        // Whichever it was, the other one or its successor answers.
        assert_eq!(container.watchdog.get("/").status, 200);
        assert_eq!(container.watchdog.get("/_/ready").status, 200);
        container.answering(2);
    }
}

#[test]
fn modes_without_a_process_of_their_own_are_ready_at_once_and_leave_no_daemon() {
    let directory = open_directory();
    let script = directory.path().join("function");
    let text = "#!/bin/sh\n(setsid sleep 1000 >/dev/null 2>&1 </dev/null &)\ngrep 'Max file locks' /proc/self/limits\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let command = script.display().to_string();
    let mut container = Container::start(&[("fprocess", &command)], directory);
    container.second(1);
    let mut clients: Vec<_> = (0..8).map(|_| container.watchdog.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET", "/", &[], b""));
    let marked = clients.iter_mut().filter_map(|client| {
        let text = ok(client);
        (!text.contains("unlimited")).then_some(text)
    });
    let marked = marked.count();
    assert!((1..8).contains(&marked), "both workers had some: {marked}");
    let daemons = || descendants(container.watchdog.pid()).len();
    eventually("every request has left one", || daemons() == 8);
    container.release(1, 1000);
    container.reported(1, 1, "generic");
    let daemons = || descendants(container.watchdog.pid()).len();
    assert_eq!(daemons(), 8 - marked);
}

#[test]
fn the_limit_of_requests_holds_for_each_worker() {
    let directory = open_directory();
    let vars = [("fprocess", "cat"), ("max_inflight", "1")];
    let mut container = Container::start(&vars, directory);
    container.second(1);
    let begin = || {
        let mut client = container.watchdog.client();
        client.raw(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\n");
        client
    };
    let mut begun = [begin(), begin()];
    eventually("both are busy", || container.watchdog.get("/_/ready").status == 429);
    assert_eq!(container.watchdog.get("/").status, 429);
    for client in &mut begun {
        client.raw(b"x");
        assert_eq!(ok(client), "x");
    }
}

#[test]
fn a_container_without_an_owner_says_so_and_refuses_a_copy_of_nothing() {
    let boot = json!({
        "version": 1, "key": KEY, "control_port": 0, "http_port": 0, "kind": "watchdog", "standby": true
    });
    let vars = [("HYPERFAAS_BOOT", boot.to_string())];
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut watchdog = Watchdog::start_as_in_a_container(&vars);
    let mut link = Link::open(&mut watchdog, &hello());
    let mut read = || serde_json::from_str::<Value>(&link.line()).unwrap();
    assert_eq!(read()["second_own"], false);
    for worker in 0..2 {
        let told = read();
        assert_eq!((&told["worker"], &told["state"]), (&worker.into(), &"generic".into()));
    }
    assert_eq!(read()["state"], "ready");
    assert_eq!(watchdog.get("/_/health").status, 200);
    assert_eq!(watchdog.get("/").status, 503);
    for worker in 0..2 {
        link.say(&own(worker, 1));
        let told: Value = serde_json::from_str(&link.line()).unwrap();
        assert_eq!(told["reason"], "the container has no owner", "{told}");
    }
    watchdog.signal("TERM");
    assert_eq!(watchdog.exit().code(), Some(0));
}

/// What a watchdog holds at one moment.
fn held(watchdog: &Watchdog) -> (usize, usize, u64) {
    let pid = watchdog.pid();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = line.trim().split(' ').next().unwrap().parse().unwrap();
    (descendants(pid).len(), descriptors, resident)
}

/// Switches back and forth with a small static server; `WORKER_SWITCHES` says how often.
#[test]
fn switching_back_and_forth_leaks_nothing() {
    let count = std::env::var("WORKER_SWITCHES").map_or(500, |text| text.parse().unwrap());
    let directory = open_directory();
    let program = directory.path().join("server");
    std::fs::copy(binary().0, &program).unwrap();
    let url = format!("http://127.0.0.1:{PORT}");
    let command = format!(
        "/usr/bin/env -i mode=static static_path=/ port={PORT} healthcheck_interval=0 suppress_lock=true HYPERFAAS_METRICS_PORT=off {}",
        program.display()
    );
    let vars = [("mode", "http"), ("upstream_url", url.as_str()), ("fprocess", &command)];
    let mut container = Container::start(&vars, directory);
    container.reported(0, 0, "ready");
    let files = |container: &Container| {
        let of = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
        of(container.directory.path()) + of(container.watchdog.lock_file().parent().unwrap())
    };
    let warm_up = 200.min(count);
    let (mut before, mut times) = ((held(&container.watchdog), files(&container)), Vec::new());
    for epoch in 1..=count {
        if epoch == warm_up {
            before = (held(&container.watchdog), files(&container));
        }
        let begin = now();
        container.specialise(epoch);
        container.reported(1, epoch, "ready");
        let ready = begin.elapsed();
        container.release(epoch, 1000);
        container.reported(1, epoch, "generic");
        times.push((ready, begin.elapsed() - ready));
    }
    let after = (held(&container.watchdog), files(&container));
    let median = |mut list: Vec<Duration>| {
        list.sort_unstable();
        list[list.len() / 2]
    };
    let (ready, back) =
        (median(times.iter().map(|t| t.0).collect()), median(times.iter().map(|t| t.1).collect()));
    println!(
        "{count} switches: ready after {ready:?}, generic after {back:?} (medians); {before:?} → {after:?}"
    );
    let (((processes, descriptors, resident), files_before), ((p, d, r), files_after)) =
        (before, after);
    assert_eq!((p, d, files_after), (processes, descriptors, files_before));
    // Pages that the allocator has touched and keeps; a leak of 64 bytes a switch would be more than that at 100,000.
    assert!(r <= resident + 1024, "{resident} KiB → {r} KiB");
    assert_eq!(container.watchdog.get("/").status, 200);
}
