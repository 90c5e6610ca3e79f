//! What a simulated host knows: images, containers, their logs, and the faults yet to come.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::super::{
    Bounds, ContainerId, EngineError, EngineFacts, Image, LogLine, Observed, SecretFile, StartOrder,
};
use super::program::Program;

/// Lines kept for each container.
const LINES_KEPT: usize = 10_000;

/// Decides what a container does.
pub(super) type Programs = Arc<dyn Fn(&StartOrder) -> Program + Send + Sync>;

/// Everything the host knows.
pub(super) struct World {
    pub(super) began: Instant,
    pub(super) facts: EngineFacts,
    pub(super) away: Option<String>,
    pub(super) present: HashMap<String, Image>,
    pub(super) registry: HashMap<String, Image>,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    pub(super) started: u32,
    pub(super) start_delay: Duration,
    pub(super) start_faults: VecDeque<EngineError>,
    pub(super) programs: Programs,
    /// By content id.
    pub(super) archives: HashMap<String, Vec<u8>>,
    pub(super) secrets: BTreeMap<(Arc<str>, FunctionKey, u64), Vec<SecretFile>>,
}

/// A container, running or not.
pub(super) struct Container {
    pub(super) installation: Arc<str>,
    pub(super) observed: Observed,
    /// Whether it belongs to no function.
    pub(super) is_standby: bool,
    pub(super) program: Program,
    pub(super) bounds: Bounds,
    pub(super) log: Arc<Mutex<Log>>,
}

/// What a container has said; who follows it reads to the end even when the container is gone.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Number of the oldest line kept.
    first: usize,
    lines: VecDeque<LogLine>,
    pub(super) has_ended: bool,
}

impl World {
    /// Virtual time as a moment of the calendar.
    pub(super) fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        // 2024-01-01T00:00:00Z
        Timestamp::constant(1_704_067_200, 0).saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn add(
        &mut self,
        installation: &Arc<str>,
        order: &StartOrder,
        program: Program,
    ) -> Observed {
        self.started += 1;
        if !order.secrets.is_empty() {
            let key = (Arc::clone(installation), order.function.clone(), order.revision);
            self.secrets.insert(key, order.secrets.clone());
        }
        // A multicast address: the kernel refuses to connect to it at once.
        let [_, high, middle, low] = self.started.to_be_bytes();
        let nowhere = IpAddr::V4(Ipv4Addr::new(239, high, middle, low));
        let place = program.place;
        let observed = Observed {
            container: ContainerId(format!("sim{:08}", self.started)),
            replica: order.replica.clone(),
            function: order.function.clone(),
            revision: order.revision,
            http_port: place.map_or(order.boot.http_port, |place| place.http_port),
            control_port: place.map_or(order.boot.control_port, |place| place.control_port),
            is_running: true,
            address: Some(place.map_or(nowhere, |place| place.address)),
        };
        let timestamp = self.now();
        let installation = Arc::clone(installation);
        let container = Container {
            installation,
            observed: observed.clone(),
            is_standby: false,
            program,
            bounds: order.limits,
            log: Arc::default(),
        };
        container.program.lines.iter().for_each(|line| container.say(timestamp, line));
        self.containers.insert(observed.container.clone(), container);
        observed
    }
}

impl Container {
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic while held")
    }

    pub(super) fn say(&self, timestamp: Timestamp, text: &str) {
        let mut log = self.log();
        if log.lines.len() == LINES_KEPT {
            log.lines.pop_front();
            log.first += 1;
        }
        log.lines.push_back(LogLine { timestamp, text: text.to_owned() });
    }
}

impl Log {
    /// Number of the first of the last `tail` lines.
    pub(super) fn start(&self, tail: Option<u64>) -> usize {
        let tail = tail.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
        self.first + self.lines.len().saturating_sub(tail)
    }

    /// Line number `at`, or the oldest kept after it, and the number of the one that follows.
    pub(super) fn line(&self, at: usize) -> Option<(LogLine, usize)> {
        let at = at.max(self.first);
        self.lines.get(at - self.first).map(|line| (line.clone(), at + 1))
    }
}
