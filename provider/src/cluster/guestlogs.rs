//! The last lines that functions said as guests, since the engine keeps no log of those.
//!
//! In: lines as the control links bring them. Out: what one visit said, oldest first, and what it says from then on.
//! Always: at most [`LINES`] lines and [`BYTES`] bytes a function, and [`FUNCTIONS`] functions; older ones fall out. They are kept
//! in memory and gone with this process. A visit's lines carry growing times, whatever the container's clock does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyperfaas_protocol::{FunctionKey, control};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::Cluster;
use crate::engine::{LogLine, ReplicaId};

/// Lines kept of a function.
const LINES: usize = 1000;
/// Bytes kept of a function's lines.
const BYTES: usize = 256 << 10;
/// Functions whose lines are kept.
const FUNCTIONS: usize = 256;

/// The lines of one function.
#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<(ReplicaId, LogLine)>,
    bytes: usize,
}

/// Everything that guests said lately.
#[derive(Debug)]
pub(super) struct GuestLogs {
    lines: Mutex<HashMap<FunctionKey, Lines>>,
    /// Grows with every line.
    version: watch::Sender<u64>,
}

impl Default for GuestLogs {
    fn default() -> Self {
        Self { lines: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl Cluster {
    /// The containers in which `key` said something as a guest, or may be about to; oldest first.
    pub fn visits(&self, key: &FunctionKey) -> Vec<ReplicaId> {
        let mut hosts = self.guest_logs.hosts(key);
        if let Some(cell) = self.find(key) {
            for guest in &cell.lock().view.guests {
                if !hosts.contains(&guest.host) {
                    hosts.push(guest.host.clone());
                }
            }
        }
        hosts
    }

    /// What `key` said as a guest of `host` after `last`, oldest first.
    pub fn visit_lines(
        &self,
        key: &FunctionKey,
        host: &ReplicaId,
        last: Option<Timestamp>,
    ) -> Vec<LogLine> {
        self.guest_logs.after(key, host, last)
    }

    /// Grows with every line of any guest.
    pub fn subscribe_visit_lines(&self) -> watch::Receiver<u64> {
        self.guest_logs.version.subscribe()
    }
}

impl GuestLogs {
    /// Keeps a line.
    pub(super) fn push(&self, key: &FunctionKey, host: &ReplicaId, line: control::LogLine) {
        let mut all = self.lock();
        if !all.contains_key(key) && all.len() >= FUNCTIONS {
            let newest = |lines: &Lines| lines.lines.back().map(|(_, line)| line.timestamp);
            let oldest = all.iter().min_by_key(|(_, lines)| newest(lines)).map(|(k, _)| k.clone());
            oldest.and_then(|key| all.remove(&key));
        }
        all.entry(key.clone()).or_default().push(host, line);
        drop(all);
        self.version.send_modify(|version| *version += 1);
    }

    fn hosts(&self, key: &FunctionKey) -> Vec<ReplicaId> {
        let mut hosts: Vec<ReplicaId> = Vec::new();
        for (host, _) in self.lock().get(key).into_iter().flat_map(|lines| &lines.lines) {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        hosts
    }

    fn after(&self, key: &FunctionKey, host: &ReplicaId, last: Option<Timestamp>) -> Vec<LogLine> {
        let all = self.lock();
        let lines = all.get(key).into_iter().flat_map(|lines| &lines.lines);
        let is_wanted = |(of, line): &&(ReplicaId, LogLine)| {
            of == host && last.is_none_or(|last| line.timestamp > last)
        };
        lines.filter(is_wanted).map(|(_, line)| line.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FunctionKey, Lines>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, host: &ReplicaId, line: control::LogLine) {
        let told = Timestamp::from_millisecond(line.time_ms).unwrap_or_else(|_| Timestamp::now());
        let before = self.lines.iter().rev().find(|(of, _)| of == host).map(|(_, l)| l.timestamp);
        // Later than the one before by at least the least there is, so that each can be told from every other.
        let next = |before: Timestamp| before.checked_add(SignedDuration::from_nanos(1)).ok();
        let timestamp = before.and_then(next).map_or(told, |next| next.max(told));
        self.bytes += line.text.len();
        self.lines.push_back((host.clone(), LogLine { timestamp, text: line.text }));
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some((_, oldest)) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::LogStream;
    use hyperfaas_protocol::{FunctionName, Namespace};

    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse(name).unwrap(),
        }
    }

    fn line(text: &str) -> control::LogLine {
        control::LogLine {
            worker: 1,
            epoch: 1,
            function: "f.ns".into(),
            stream: LogStream::Stdout,
            time_ms: 5,
            text: text.into(),
            is_cut: false,
            lost: 0,
        }
    }

    #[test]
    fn lines_of_one_time_are_told_apart_and_belong_to_their_visit() {
        let (logs, a, b) = (GuestLogs::default(), ReplicaId("a".into()), ReplicaId("b".into()));
        for (host, text) in [(&a, "1"), (&b, "other"), (&a, "2"), (&a, "3")] {
            logs.push(&key("f"), host, line(text));
        }
        let all = logs.after(&key("f"), &a, None);
        let texts = |lines: &[LogLine]| lines.iter().map(|l| l.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&all), ["1", "2", "3"]);
        assert_eq!(texts(&logs.after(&key("f"), &a, Some(all[0].timestamp))), ["2", "3"]);
        assert_eq!(logs.hosts(&key("f")), [a, b]);
        assert!(logs.hosts(&key("g")).is_empty());
    }

    #[test]
    fn lines_and_functions_are_bounded() {
        let (logs, host) = (GuestLogs::default(), ReplicaId("a".into()));
        for number in 0..=LINES {
            logs.push(&key("f"), &host, line(&number.to_string()));
        }
        let kept = logs.after(&key("f"), &host, None);
        assert_eq!((kept.len(), kept[0].text.as_str()), (LINES, "1"));
        logs.push(&key("f"), &host, line(&"x".repeat(BYTES)));
        assert_eq!(logs.after(&key("f"), &host, None).len(), 1);
        for number in 0..FUNCTIONS + 5 {
            logs.push(&key(&format!("g{number}")), &host, line("x"));
        }
        assert_eq!(logs.lock().len(), FUNCTIONS);
    }
}
