//! Functions in a container they do not own: both workers, their logs, and that nothing of them is left.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use hyperfaas_protocol::lane::{Flags, Header, Kind, Reason};

use crate::managed::{KEY, Link};
use crate::support::lane::Lane;
use crate::support::{Watchdog, eventually};

/// What both guests believe to be their port.
const PORT: u16 = 5473;
/// A static program that tells where it is, leaves daemons behind and serves.
const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void told(int number) { write(1, "told to end\n", 12); _exit(0); }
int main(int argc, char **argv) {
    char cwd[256], line[1024];
    /* As an interpreter that waits: it is given the code that does so. */
    if (argc > 3 && strcmp(argv[1], "-c") == 0) {
        printf("%s waits with %s\n", getenv("NAME"), argv[3]);
        fflush(stdout);
        if (read(0, cwd, 1) != 1) return 9;
    }
    const char *name = getenv("NAME"), *ours = getenv("HYPERFAAS_SECRET");
    int count = atoi(getenv("DAEMONS"));
    printf("%s: uid %d gid %d groups %d cwd %s outside %s ours %s\n", name, getuid(), getgid(), getgroups(0, 0),
           getcwd(cwd, sizeof cwd), access("/proc", F_OK) == 0 ? "seen" : "hidden", ours ? ours : "hidden");
    fflush(stdout);
    fprintf(stderr, "%s complains\n", name);
    for (int i = 0; i < count; i++)
        if (fork() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            if (fork() == 0)
                for (;;) pause();
            _exit(0);
        }
    if (getenv("FORKS") && fork() == 0)
        for (;;) /* Always a young process that nobody has seen yet. */
            if (fork() != 0) _exit(0);
    if (getenv("AT_TERM")) signal(SIGTERM, strcmp(getenv("AT_TERM"), "ignore") ? told : SIG_IGN);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(5473)};
    int door = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 16)) { perror("listen"); return 1; }
    for (;;) {
        int visitor = accept(door, 0, 0);
        ssize_t count = read(visitor, line, sizeof line - 1);
        line[count < 0 ? 0 : count] = 0;
        while (getenv("ECHO") && !strstr(line, "two ")) {
            ssize_t more = read(visitor, line + count, sizeof line - 1 - count);
            if (more <= 0) return 1;
            line[count += more] = 0;
        }
        if (strncmp(line, "GET /slow", 9) == 0) continue;
        if (getenv("ECHO")) name = line;
        dprintf(visitor, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(name), name);
        close(visitor);
    }
}
"#;

/// The compiled program; whoever can build us has a C compiler, which links us.
fn program() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("guest.c"), directory.path().join("guest"));
        std::fs::write(&source, PROGRAM).unwrap();
        let built = Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status();
        assert!(built.unwrap().success());
        (directory, program)
    });
    path
}

/// A slot's root with the program in it.
fn slot() -> tempfile::TempDir {
    let slot = tempfile::tempdir().unwrap();
    std::fs::set_permissions(slot.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for directory in ["bin", "work"] {
        std::fs::create_dir(slot.path().join(directory)).unwrap();
    }
    std::fs::copy(program(), slot.path().join("bin/guest")).unwrap();
    slot
}

/// Users that nothing else on the machine has, one a test and guest.
fn user(number: u32) -> u32 {
    2_000_000_000 + std::process::id() % 100_000 * 100 + number
}

fn order(worker: u8, epoch: u64, guest: &Value) -> String {
    json!({ "order": "specialise", "worker": worker, "epoch": epoch, "work": { "guest": guest } })
        .to_string()
}

fn guest(name: &str, slot: &tempfile::TempDir, user: u32) -> Value {
    json!({
        "function": format!("{name}.openfaas-fn"), "kind": "watchdog", "root": slot.path(),
        "directory": "/work", "uid": user, "gid": user, "processes_max": 64, "descriptors_max": 64,
        "environment": [
            ["mode", "http"], ["upstream_url", format!("http://127.0.0.1:{PORT}")], ["fprocess", "guest"],
            ["PATH", "/nowhere:/bin"], ["NAME", name], ["DAEMONS", "3"], ["HYPERFAAS_SECRET", "seen"]
        ]
    })
}

/// A standby container and its provider.
struct Standby {
    watchdog: Watchdog,
    port: u16,
    link: Link,
    logs: Vec<Value>,
}

fn hello() -> String {
    json!({ "version": 1, "key": KEY, "workers": true }).to_string() + "\n"
}

impl Standby {
    fn start() -> Self {
        let boot = json!({
            "version": 1, "key": KEY, "control_port": 0, "http_port": 0, "kind": "watchdog", "standby": true
        });
        let mut watchdog =
            Watchdog::start_as_in_a_container(&[("HYPERFAAS_BOOT", &boot.to_string())]);
        let line = watchdog.line("Control link listening on port: ");
        let port = line.rsplit(' ').next().unwrap().parse().unwrap();
        let mut link = Link::dial(port, &hello());
        let abilities: Value = serde_json::from_str(&link.line()).unwrap();
        assert_eq!(abilities["guests"], true, "this needs a kernel with Landlock 4, and root");
        Self { watchdog, port, link, logs: Vec::new() }
    }

    /// The next report that is no log line.
    fn report(&mut self) -> Value {
        loop {
            let report: Value = serde_json::from_str(&self.link.line()).unwrap();
            if report["event"] != "log" {
                return report;
            }
            self.logs.push(report);
        }
    }

    fn reported(&mut self, worker: u8, state: &str) -> Value {
        loop {
            let report = self.report();
            assert_ne!(report["event"], "refused", "{report}");
            if report["worker"] == worker && report["state"] == state {
                return report;
            }
        }
    }

    /// What becomes of an order that is not followed.
    fn refusal(&mut self, order: &str) -> String {
        self.link.say(order);
        loop {
            let report = self.report();
            if report["event"] == "refused" {
                return report["reason"].as_str().unwrap().to_owned();
            }
        }
    }

    /// The next log line.
    fn log(&mut self) -> Value {
        if !self.logs.is_empty() {
            return self.logs.remove(0);
        }
        loop {
            let report: Value = serde_json::from_str(&self.link.line()).unwrap();
            if report["event"] == "log" {
                return report;
            }
        }
    }

    fn release(&mut self, worker: u8, epoch: u64) {
        let order =
            json!({ "order": "release", "worker": worker, "epoch": epoch, "grace_ms": 100 });
        self.link.say(&order.to_string());
        self.reported(worker, "generic");
    }
}

/// The processes of `user`, zombies included, as `/proc` has them.
fn entries(user: u32) -> impl Iterator<Item = PathBuf> {
    let mark = format!("Uid:\t{user}\t");
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let status = |entry: &PathBuf| std::fs::read_to_string(entry.join("status"));
    all.filter(move |entry| status(entry).is_ok_and(|text| text.contains(&mark)))
}

/// How many processes `user` has, zombies included.
fn processes(user: u32) -> usize {
    entries(user).count()
}

#[test]
fn two_guests_live_side_by_side_and_go_without_a_trace() {
    let mut standby = Standby::start();
    let slots = [slot(), slot()];
    for (worker, name) in [(0, "alice"), (1, "bob")] {
        let user = user(u32::from(worker));
        standby.link.say(&order(worker, 1, &guest(name, &slots[usize::from(worker)], user)));
        standby.reported(worker, "ready");
        // And three zombies that it does not look after.
        eventually("its daemons are there", || processes(user) == 7);
    }
    for (worker, other) in [(0, 1), (1, 0)] {
        standby.release(worker, 1);
        assert_eq!(processes(user(worker.into())), 0);
        assert_eq!(processes(user(other)), if worker == 0 { 7 } else { 0 });
    }
    assert_eq!(standby.watchdog.get("/").status, 503, "nobody owns the container");
}

#[test]
fn what_a_guest_says_is_told_as_its_own_and_is_not_in_the_containers_log() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(2));
    standby.link.say(&order(1, 5, &guest("alice", &slot, user)));
    standby.reported(1, "ready");
    let said = format!(
        "stdout: alice: uid {user} gid {user} groups 0 cwd /work outside hidden ours hidden"
    );
    let mut expected = vec![("stdout", said), ("stderr", "stderr: alice complains".to_owned())];
    while !expected.is_empty() {
        let line = standby.log();
        assert_eq!((&line["worker"], &line["epoch"]), (&1.into(), &5.into()));
        assert_eq!(line["function"], "alice.openfaas-fn");
        assert!(line["time_ms"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000), "{line}");
        expected.retain(|(stream, text)| line["stream"] != *stream || line["text"] != **text);
    }
    // Its end is in the container's log, what it is and says is not.
    standby.release(1, 5);
    standby.watchdog.line("Worker 1: takes on alice.openfaas-fn, epoch 5");
    standby.watchdog.line("Worker 1: generic");
    assert!(!standby.watchdog.has_said("complains") && !standby.watchdog.has_said("Forking"));
    assert_eq!(standby.watchdog.stdout(|_| true), "");
}

#[test]
fn lanes_lead_to_the_guest_they_name_and_never_to_one_of_another_epoch() {
    let mut standby = Standby::start();
    let slots = [slot(), slot()];
    for (worker, epoch, name) in [(0, 2, "alice"), (1, 5, "bob")] {
        let guest = guest(name, &slots[usize::from(worker)], user(10 + u32::from(worker)));
        standby.link.say(&order(worker, epoch, &guest));
        standby.reported(worker, "ready");
    }
    let (mut lane, _) = Lane::to(standby.port, 0, 2);
    let ask = |lane: &mut Lane, (worker, epoch): (u8, u64), path: &str| {
        let header = Header { worker, epoch, flags: Flags::ENDS, ..lane.request() };
        lane.send(header, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    };
    for (place, name) in [((0, 2), "alice"), ((1, 5), "bob"), ((0, 2), "alice")] {
        ask(&mut lane, place, "/path?q");
        let answer = lane.data(|all| all.ends_with(name.as_bytes()));
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        lane.expect(Kind::End);
        lane.done(Flags::LOGGED, 200);
    }
    for place in [(0, 1), (0, 3), (1, 2), (0, 5), (2, 2)] {
        ask(&mut lane, place, "/");
        let code = lane.expect(Kind::Bounce).header.code;
        assert_eq!(code, Reason::Stale as u8, "{place:?}");
    }
    let said = |standby: &mut Standby, text: &str| loop {
        let line = standby.log();
        if line["text"].as_str().unwrap().contains(text) {
            return line["function"].as_str().unwrap().to_owned();
        }
    };
    let access = "GET /path?q - 200 OK";
    let mut functions = [0; 3].map(|_| said(&mut standby, access));
    functions.sort();
    assert_eq!(functions, ["alice.openfaas-fn", "alice.openfaas-fn", "bob.openfaas-fn"]);

    ask(&mut lane, (1, 5), "/slow");
    let order = json!({ "order": "release", "worker": 1, "epoch": 5, "grace_ms": 50 });
    standby.link.say(&order.to_string());
    standby.reported(1, "generic");
    assert_eq!(lane.frame().unwrap().header.kind, Kind::End, "cut, not answered");
    lane.done(Flags::NONE, 502);
    ask(&mut lane, (1, 5), "/");
    assert_eq!(lane.expect(Kind::Bounce).header.code, Reason::NotReady as u8);
    ask(&mut lane, (0, 2), "/path?q");
    lane.data(|all| all.ends_with(b"alice"));
    assert!(!standby.watchdog.has_said(access));
}

#[test]
fn a_guest_that_forks_without_end_is_ended() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(3));
    let mut guest = guest("bomb", &slot, user);
    guest["environment"].as_array_mut().unwrap().push(json!(["FORKS", "1"]));
    for epoch in 1..=3 {
        standby.link.say(&order(0, epoch, &guest));
        standby.reported(0, "ready");
        standby.release(0, epoch);
        assert_eq!(processes(user), 0);
    }
}

#[test]
fn a_released_guest_is_asked_to_end_and_killed_if_it_does_not() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(8));
    for (epoch, at_term) in [(1, "tell"), (2, "ignore")] {
        let mut guest = guest("alice", &slot, user);
        guest["environment"].as_array_mut().unwrap().push(json!(["AT_TERM", at_term]));
        standby.link.say(&order(0, epoch, &guest));
        standby.reported(0, "ready");
        standby.release(0, epoch);
        assert_eq!(processes(user), 0, "{at_term}");
        while epoch == 1 && standby.log()["text"] != "stdout: told to end" {}
    }
}

#[test]
fn a_guest_in_mode_static_serves_its_own_files_and_none_outside() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(9));
    std::fs::create_dir(slot.path().join("work/site")).unwrap();
    std::fs::write(slot.path().join("work/site/page.alice"), "of alice").unwrap();
    std::fs::create_dir(slot.path().join("etc")).unwrap();
    std::fs::write(slot.path().join("etc/mime.types"), "text/x-alice alice\n").unwrap();
    std::os::unix::fs::symlink("/etc", slot.path().join("work/site/etc")).unwrap();
    let mut guest = guest("alice", &slot, user);
    guest["environment"] = json!([["mode", "static"], ["static_path", "site"]]);
    standby.link.say(&order(1, 1, &guest));
    standby.reported(1, "ready");
    let (mut lane, welcome) = Lane::to(standby.port, 1, 1);
    assert!(welcome.flags.has(Flags::DESCRIBED));
    let mut get = |path: &str| {
        lane.describe_at((1, 1), "GET", path, &[], Flags::ENDS, b"");
        let answer = lane.expect(Kind::Answer);
        let body = lane.body();
        (answer.header.status, answer.payload, body)
    };
    let (status, head, body) = get("/page.alice");
    assert_eq!((status, &body[..]), (200, &b"of alice"[..]));
    assert!(String::from_utf8_lossy(&head).contains("text/x-alice"), "its own tables are read");
    for outside in ["/etc/mime.types", "/etc/passwd", "/../../etc/passwd"] {
        assert_eq!(get(outside).0, 404, "{outside}");
    }
    standby.release(1, 1);
}

#[test]
fn a_guest_that_takes_whole_bodies_gets_them_with_their_length() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(12));
    let mut guest = guest("alice", &slot, user);
    let more = [json!(["http_buffer_req_body", "true"]), json!(["ECHO", "1"])];
    guest["environment"].as_array_mut().unwrap().extend(more);
    standby.link.say(&order(0, 1, &guest));
    standby.reported(0, "ready");
    let (mut lane, welcome) = Lane::to(standby.port, 0, 1);
    assert!(welcome.flags.has(Flags::DESCRIBED));
    let fields = [("host", "h"), ("transfer-encoding", "chunked"), ("upgrade", "x")];
    lane.describe_at((0, 1), "POST", "/path", &fields, Flags::NONE, b"one ");
    lane.send(lane.about(Kind::Data), b"two ");
    lane.send(lane.about(Kind::End), b"");
    let answer = lane.expect(Kind::Answer);
    assert_eq!(answer.header.status, 200);
    let seen = String::from_utf8(lane.body()).unwrap().to_lowercase();
    assert!(seen.starts_with("post /path http/1.1\r\n"), "{seen}");
    assert!(seen.contains("\r\ncontent-length: 8\r\n") && !seen.contains("chunked"), "{seen}");
    assert!(seen.ends_with("\r\n\r\none two ") && !seen.contains("upgrade"), "{seen}");
    standby.release(0, 1);
}

#[test]
fn guests_that_cannot_be_served_are_refused_and_change_nothing() {
    let mut standby = Standby::start();
    let slot = slot();
    let (good, other) = (guest("alice", &slot, user(4)), guest("bob", &slot, user(5)));
    let with = |key: &str, value: Value| {
        let mut guest = other.clone();
        guest[key] = value;
        guest
    };
    standby.link.say(&order(0, 1, &good));
    standby.reported(0, "ready");
    let root = slot.path().display();
    for (guest, reason) in [
        (with("uid", json!(0)), "a guest must not be root".to_owned()),
        (with("gid", json!(0)), "a guest must not be root".to_owned()),
        (with("root", json!("/")), "its root / is the container's own".to_owned()),
        (
            with("root", json!(format!("{root}/none"))),
            format!("its root {root}/none: No such file or directory (os error 2)"),
        ),
        (with("directory", json!("work")), "its working directory is not usable".to_owned()),
        (with("function", json!("a\nb")), "the function's name is not valid".to_owned()),
        (
            with(
                "environment",
                json!([
                    ["fprocess", "x"],
                    ["jwt_auth", "true"],
                    ["OPENFAAS_NAME", "x"],
                    ["OPENFAAS_NAMESPACE", "x"]
                ]),
            ),
            "jwt_auth is not served for guests".to_owned(),
        ),
        (
            with("environment", json!([["a=b", "x"]])),
            "its environment has a name or value that no process can have".to_owned(),
        ),
        (
            with("uid", json!(user(4))),
            format!("its user {} has processes in this container", user(4)),
        ),
    ] {
        assert_eq!(standby.refusal(&order(1, 1, &guest)), reason);
    }
    // None of these has used up the epoch.
    standby.link.say(&order(1, 1, &other));
    standby.reported(1, "ready");
    standby.release(1, 1);
    standby.release(0, 1);
}

/// The program stands in for an interpreter, whose code is tested with a real one in `worker/hold.rs`.
#[test]
fn a_guest_that_is_held_runs_when_it_is_told_to_and_from_then_on() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(11));
    let interpreter = slot.path().join("bin/python3");
    std::fs::copy(program(), &interpreter).unwrap();
    let mut held = guest("alice", &slot, user);
    held["held"] = json!(true);
    let no_script = standby.refusal(&order(1, 1, &held));
    assert_eq!(no_script, "its command is no Python interpreter");
    held["environment"][2] = json!(["fprocess", "python3 index.py"]);
    let proceed =
        |epoch: u64| json!({ "order": "proceed", "worker": 1, "epoch": epoch }).to_string();
    for epoch in [1, 2] {
        standby.link.say(&order(1, epoch, &held));
        standby.reported(1, "specialising");
        while standby.log()["text"] != "stdout: alice waits with index.py" {}
        assert_eq!(processes(user), 1, "nothing of it runs");
        if epoch == 1 {
            standby.release(1, epoch);
            assert_eq!(processes(user), 0);
        }
    }
    assert_eq!(standby.refusal(&proceed(1)), "its epoch is 2, not 1");
    standby.link.say(&proceed(2));
    standby.reported(1, "ready");
    eventually("its daemons are there", || processes(user) == 7);
    standby.link.say(&proceed(2));
    // Once it may run it need not be told again, whatever becomes of it.
    let command = |entry: &PathBuf| std::fs::read_to_string(entry.join("cmdline"));
    let is_held = |entry: &PathBuf| command(entry).is_ok_and(|text| text.contains("-c\0"));
    for entry in entries(user).filter(is_held) {
        let id = entry.file_name().expect("its number");
        assert!(Command::new("kill").arg("-KILL").arg(id).status().unwrap().success());
    }
    standby.reported(1, "crashed");
    standby.reported(1, "ready");
    standby.release(1, 2);
    assert_eq!(processes(user), 0);
    assert_eq!(standby.refusal(&proceed(2)), "it has no function that could wait");
}

#[test]
fn a_guest_that_does_not_start_says_why_and_can_be_released() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(6));
    let mut missing = guest("alice", &slot, user);
    missing["environment"][2] = json!(["fprocess", "no-such"]);
    standby.link.say(&order(1, 1, &missing));
    let crash = standby.reported(1, "crashed");
    assert_eq!(crash["reason"], "exec: \"no-such\": executable file not found in $PATH");
    standby.release(1, 1);
    let mut elsewhere = guest("alice", &slot, user);
    elsewhere["directory"] = json!("/none");
    standby.link.say(&order(1, 2, &elsewhere));
    let crash = standby.reported(1, "crashed");
    let reason = crash["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("its working directory"), "{reason}");
    standby.release(1, 2);
}

#[test]
fn log_lines_wait_for_a_provider_that_is_away() {
    let mut standby = Standby::start();
    let (slot, user) = (slot(), user(7));
    let mut guest = guest("alice", &slot, user);
    guest["environment"][5] = json!(["DAEMONS", "0"]);
    standby.link.say(&order(1, 1, &guest));
    standby.reported(1, "ready");
    while standby.log()["text"] != "stderr: alice complains" {}
    let port = standby.port;
    drop(standby.link);
    // It crashes while nobody listens, and says so.
    let mark = format!("Uid:\t{user}\t");
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        status.contains(&mark).then(|| entry.file_name().into_string().unwrap())
    });
    let killed = Command::new("kill").args(["-9", &found.unwrap()]).status();
    assert!(killed.unwrap().success());
    let mut link = Link::dial(port, &hello());
    let mut complaints = 0;
    while complaints < 1 {
        let report: Value = serde_json::from_str(&link.line()).unwrap();
        complaints += usize::from(report["text"] == "stderr: alice complains");
    }
}
