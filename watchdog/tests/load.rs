//! What the provider is told about load: watermarks at once, reports now and then, nothing from an idle container.
//!
//! The cgroup is a folder of files in the form of version 1, which the tests rewrite in place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::managed::{KEY, Link, boot};
use crate::support::{PATIENCE, Watchdog, now};

/// Far above what is promised, 20 ms, because the machine may be busy.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A cgroup with a quota of a tenth of a CPU and 1000 bytes of memory.
struct Cgroup(tempfile::TempDir);

impl Cgroup {
    fn new() -> Self {
        let cgroup = Self(tempfile::tempdir().unwrap());
        for folder in ["cpu", "cpuacct", "memory"] {
            std::fs::create_dir(cgroup.0.path().join(folder)).unwrap();
        }
        cgroup.set("cpu/cpu.cfs_quota_us", "", 10_000);
        cgroup.set("cpu/cpu.cfs_period_us", "", 100_000);
        cgroup.throttled(0);
        cgroup.set("cpuacct/cpuacct.usage", "", 0);
        cgroup.memory(100);
        cgroup.set("memory/memory.limit_in_bytes", "", 1000);
        cgroup
    }

    /// In one write and of one length, so that no reader sees half of it.
    fn set(&self, file: &str, name: &str, value: u64) {
        let path = self.0.path().join(file);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        file.unwrap().write_all_at(format!("{name}{value:20}\n").as_bytes(), 0).unwrap();
    }

    fn throttled(&self, periods: u64) {
        self.set("cpu/cpu.stat", "nr_throttled ", periods);
    }

    fn memory(&self, bytes: u64) {
        self.set("memory/memory.usage_in_bytes", "", bytes);
    }

    fn watchdog(&self, more: &[(&str, &str)]) -> Watchdog {
        let (boot, root) = (boot(""), self.0.path().display().to_string());
        let mut vars =
            vec![("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot), ("HYPERFAAS_CGROUP_ROOT", &root)];
        vars.extend(more);
        Watchdog::start(&vars)
    }
}

fn hello() -> String {
    format!("{{\"version\":1,\"key\":\"{KEY}\",\"load\":true}}\n")
}

/// A link that has been told that all is well.
fn link(watchdog: &mut Watchdog) -> (u16, Link) {
    let line = watchdog.line("Control link listening on port: ");
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut link = Link::dial(port, &hello());
    assert_eq!(link.line(), "{\"event\":\"state\",\"state\":\"ready\"}\n");
    assert_eq!(link.line(), low(0));
    (port, link)
}

fn low(crossings: u64) -> String {
    format!("{{\"event\":\"watermark\",\"level\":\"low\",\"crossings\":{crossings}}}\n")
}

fn high(reason: &str, crossings: u64) -> String {
    format!(
        "{{\"event\":\"watermark\",\"level\":\"high\",\"reason\":\"{reason}\",\"crossings\":{crossings}}}\n"
    )
}

/// The next line about the watermark, and the reports before it.
fn crossing(link: &mut Link) -> (String, Vec<serde_json::Value>) {
    let mut loads = Vec::new();
    loop {
        let line = link.line();
        if line.contains("\"watermark\"") {
            return (line, loads);
        }
        assert!(line.starts_with("{\"event\":\"load\","), "{line:?}");
        loads.push(serde_json::from_str(&line).unwrap());
    }
}

fn report(link: &mut Link) -> serde_json::Value {
    let line = link.line();
    let report: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(report["event"], "load", "{line}");
    report
}

/// A request whose body is not complete yet, so that it stays in flight.
struct Begun(TcpStream);

impl Begun {
    fn new(watchdog: &Watchdog) -> Self {
        let mut stream = TcpStream::connect(watchdog.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                b"POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
            )
            .unwrap();
        Self(stream)
    }

    fn finish(mut self) {
        self.0.write_all(b"x").unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('x'), "{answer}");
    }
}

#[test]
fn a_watermark_is_told_at_once_and_low_after_a_quiet_while() {
    let cgroup = Cgroup::new();
    let mut watchdog = cgroup.watchdog(&[]);
    let (_, mut link) = link(&mut watchdog);
    let begun = Begun::new(&watchdog);
    // It is busy once it reports, and then looks every 10 ms.
    assert_eq!(report(&mut link)["in_flight"], 1);
    let begin = now();
    cgroup.throttled(1);
    let (line, _) = crossing(&mut link);
    let took = begin.elapsed();
    println!("told after {took:?}");
    assert_eq!(line, high("throttled", 1));
    assert!(took < AT_ONCE, "{took:?}");
    let (line, loads) = crossing(&mut link);
    assert_eq!(line, low(2));
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    for load in loads {
        assert_eq!((&load["throttled_periods"], &load["in_flight"]), (&1.into(), &1.into()));
    }
    cgroup.memory(950);
    assert_eq!(crossing(&mut link).0, high("memory", 3));
    begun.finish();
}

#[test]
fn a_busy_container_reports_and_an_idle_one_says_so_once_and_sleeps() {
    let cgroup = Cgroup::new();
    let mut watchdog = cgroup.watchdog(&[("max_inflight", "3")]);
    let (_, mut link) = link(&mut watchdog);
    let begun = Begun::new(&watchdog);
    let load = report(&mut link);
    let expected = serde_json::json!({
        "event": "load", "in_flight": 1, "in_flight_max": 3, "served": 0, "refused": 0,
        "cpu_millicores": 0, "cpu_us": 0, "cpu_max_millicores": 100, "throttled_periods": 0,
        "memory_bytes": 100, "memory_max_bytes": 1000,
        "workers": [
            { "epoch": 0, "in_flight": 1, "queued": 0, "in_flight_max": 3, "served": 0, "bounced": 0 },
            { "epoch": 0, "in_flight": 0, "queued": 0, "served": 0, "bounced": 0 }
        ]
    });
    assert_eq!(load, expected);
    begun.finish();
    let last = loop {
        let load = report(&mut link);
        if load["in_flight"] == 0 {
            break load;
        }
    };
    assert_eq!(last["served"], 1);
    assert!(last["service_us"].as_u64().is_some_and(|us| us > 0), "{last}");
    let before = switches(&watchdog);
    assert!(link.is_silent_for(Duration::from_millis(1500)));
    // A timer of 10 ms would have woken it 150 times.
    let woken = switches(&watchdog) - before;
    assert!(woken <= 3, "woken {woken} times");
}

#[test]
fn what_happened_while_it_was_idle_is_no_reason() {
    let cgroup = Cgroup::new();
    let mut watchdog = cgroup.watchdog(&[]);
    let (_, mut link) = link(&mut watchdog);
    cgroup.throttled(5);
    cgroup.set("cpuacct/cpuacct.usage", "", 1_000_000_000_000);
    let begun = Begun::new(&watchdog);
    assert_eq!(report(&mut link)["throttled_periods"], 5);
    cgroup.set("cpuacct/cpuacct.usage", "", 1_001_000_000_000);
    assert_eq!(crossing(&mut link).0, high("cpu", 1));
    begun.finish();
}

#[test]
fn refused_requests_raise_it() {
    let cgroup = Cgroup::new();
    let mut watchdog = cgroup.watchdog(&[("max_inflight", "1")]);
    let (_, mut link) = link(&mut watchdog);
    let begun = Begun::new(&watchdog);
    report(&mut link);
    assert_eq!(watchdog.get("/").status, 429);
    assert_eq!(crossing(&mut link).0, high("requests", 1));
    begun.finish();
}

#[test]
fn whoever_comes_back_is_told_what_holds_and_how_much_was_missed() {
    let cgroup = Cgroup::new();
    let mut watchdog = cgroup.watchdog(&[]);
    let (port, first) = link(&mut watchdog);
    let begun = Begun::new(&watchdog);
    let mut other = Link::dial(port, &hello());
    other.line();
    other.line();
    drop(first);
    cgroup.memory(950);
    assert_eq!(crossing(&mut other).0, high("memory", 1));
    cgroup.memory(100);
    assert_eq!(crossing(&mut other).0, low(2));
    cgroup.throttled(3);
    assert_eq!(crossing(&mut other).0, high("throttled", 3));
    let mut again = Link::dial(port, &hello());
    assert_eq!(again.line(), "{\"event\":\"state\",\"state\":\"ready\"}\n");
    assert_eq!(again.line(), high("throttled", 3));
    assert_eq!(report(&mut again)["in_flight"], 1);
    begun.finish();
}

#[test]
fn without_a_cgroup_it_counts_requests_all_the_same() {
    let boot = boot("");
    let vars = [
        ("fprocess", "cat"),
        ("HYPERFAAS_BOOT", boot.as_str()),
        ("HYPERFAAS_CGROUP_ROOT", "/no/such/folder"),
    ];
    let mut watchdog = Watchdog::start(&vars);
    let (_, mut link) = link(&mut watchdog);
    let begun = Begun::new(&watchdog);
    let worker = |in_flight| serde_json::json!({ "epoch": 0, "in_flight": in_flight, "queued": 0, "served": 0, "bounced": 0 });
    let expected = serde_json::json!({
        "event": "load", "in_flight": 1, "served": 0, "refused": 0, "workers": [worker(1), worker(0)]
    });
    assert_eq!(report(&mut link), expected);
    begun.finish();
}

/// How often the watchdog's threads have waited for something.
fn switches(watchdog: &Watchdog) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", watchdog.pid())).unwrap();
    tasks
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            line.unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        })
        .sum()
}
