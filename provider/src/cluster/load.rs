//! What the replicas' watchdogs say of their load: the newest of each kind, and how often watermarks were crossed.
//!
//! In: the control links' reports. Out: [`ReplicaLoad`]s for whoever asks, and a counter.
//! Always: a crossing is counted once, whether it was heard of at once, after a break of the link, or twice. Every report has its
//! function planned at once.

use std::collections::HashMap;
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Level, Load, Watermark, WorkerLoad};
use hyperfaas_protocol::moment::Moment;

use super::Cluster;
use super::cell::Cell;
use super::guests::VisitUsed;
use crate::engine::{ContainerId, ReplicaId};

/// What a replica's watchdog last said of its load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its side of the watermarks; `None` until its watchdog has said so.
    pub watermark: Option<Watermark>,
    /// The last report, and when it came; `None` before the first, which comes when it has been busy for a second.
    pub load: Option<(Load, Moment)>,
}

/// How long a guest's CPU, which is told while it is busy, says something about now.
const CPU_FRESH: Duration = Duration::from_secs(3);

/// What a guest uses of a container that another function owns, as the watchdog there last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// In thousandths of one CPU.
    pub cpu_millicores: u32,
    /// What its processes have as their own, in bytes.
    pub memory_bytes: u64,
}

impl Used {
    /// `None` where the watchdog does not tell guests' processes apart.
    pub(super) fn of(load: &WorkerLoad) -> Option<Self> {
        let cpu = load.cpu_millicores.unwrap_or(0);
        let cpu_millicores = u32::try_from(cpu).unwrap_or(u32::MAX);
        load.memory_bytes.map(|memory_bytes| Self { cpu_millicores, memory_bytes })
    }

    fn at(self, told: Moment, now: Moment) -> Self {
        if now.since(told) <= CPU_FRESH { self } else { Self { cpu_millicores: 0, ..self } }
    }
}

/// Where a function uses something that is not in its own containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// All of a container that nobody owns.
    All(ContainerId),
    /// A part of one that another function owns.
    Part(Used),
}

impl Cluster {
    /// What others' guests use of the containers of `key`.
    pub fn used_by_guests(&self, key: &FunctionKey) -> HashMap<ReplicaId, Used> {
        let now = self.clock().now();
        self.find(key).map_or_else(HashMap::new, |cell| cell.used_by_guests(now))
    }

    /// What `key` uses in containers that it does not own.
    pub fn used_elsewhere(&self, key: &FunctionKey) -> Vec<Elsewhere> {
        let now = self.clock().now();
        let visits = self.find(key).map_or_else(Vec::new, |cell| cell.visits_used());
        let one = |visit: VisitUsed| {
            if visit.is_standby {
                return self.standby_container(&visit.host).map(Elsewhere::All);
            }
            visit.used.map(|(used, told)| Elsewhere::Part(used.at(told, now)))
        };
        visits.into_iter().filter_map(one).collect()
    }

    /// The watchdog of `replica` said on which side of its watermarks it is; whether that was news.
    pub fn marked(&self, key: &FunctionKey, replica: &ReplicaId, mark: Watermark) -> bool {
        let Some(before) = self.find(key).and_then(|cell| cell.marked(replica, mark)) else {
            return false;
        };
        let (low, high) = crossings(before, mark);
        self.touch(key);
        self.counters().watermarks.with_label_values(&[Level::Low.name()]).inc_by(low);
        self.counters().watermarks.with_label_values(&[Level::High.name()]).inc_by(high);
        low + high > 0
    }

    /// The watchdog of `replica` reported its load.
    pub fn loaded(&self, key: &FunctionKey, replica: &ReplicaId, load: Load, now: Moment) {
        if let Some(cell) = self.find(key) {
            cell.loaded(replica, load, now);
            self.lent_loaded(replica, &load, now);
            self.touch(key);
        }
    }

    /// What is known of the load of each replica of `key` whose container runs, oldest first.
    pub fn loads(&self, key: &FunctionKey) -> Vec<ReplicaLoad> {
        self.find(key).map_or_else(Vec::new, |cell| cell.loads())
    }
}

impl Cell {
    fn used_by_guests(&self, now: Moment) -> HashMap<ReplicaId, Used> {
        let state = self.lock();
        let both = state.view.replicas.iter().zip(&state.sides);
        let lent = both.filter(|(view, _)| view.has_guest()).filter_map(|(view, side)| {
            let (load, told) = side.load?;
            let guests = load.workers?[1];
            let is_its = guests.epoch == view.workers[1].epoch;
            let used = Used::of(&guests).filter(|_| is_its)?;
            Some((view.id.clone(), used.at(told, now)))
        });
        lent.collect()
    }

    fn loads(&self) -> Vec<ReplicaLoad> {
        let state = self.lock();
        let both = state.view.replicas.iter().zip(&state.sides);
        both.filter(|(_, side)| side.route().is_some())
            .map(|(view, side)| ReplicaLoad {
                replica: view.id.clone(),
                watermark: side.watermark,
                load: side.load,
            })
            .collect()
    }
}

/// How often the low and the high watermark were crossed since `before`; the crossings with odd numbers are the high ones.
///
/// Of a watchdog that has not been heard before, or has started anew, only what holds now is an event.
const fn crossings(before: Option<Watermark>, now: Watermark) -> (u64, u64) {
    match before {
        Some(before) if before.crossings <= now.crossings => (
            now.crossings / 2 - before.crossings / 2,
            now.crossings.div_ceil(2) - before.crossings.div_ceil(2),
        ),
        _ => (0, matches!(now.level, Level::High) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(crossings: u64) -> Watermark {
        let level = if crossings % 2 == 1 { Level::High } else { Level::Low };
        Watermark { level, reason: None, crossings }
    }

    #[test]
    fn a_guests_cpu_is_told_of_now_and_its_memory_until_something_else_is() {
        let told = WorkerLoad {
            cpu_millicores: Some(400),
            memory_bytes: Some(9 << 20),
            ..WorkerLoad::default()
        };
        assert_eq!(Used::of(&WorkerLoad::default()), None);
        let used = Used::of(&told).unwrap();
        let at = Moment::from_millis;
        assert_eq!(used.at(at(1000), at(4000)), used);
        let later = Used { cpu_millicores: 0, memory_bytes: 9 << 20 };
        assert_eq!(used.at(at(1000), at(4001)), later);
    }

    #[test]
    fn crossings_are_counted_once_and_missed_ones_too() {
        for (before, now, low, high) in [
            (Some(0), 0, 0, 0),
            (Some(0), 1, 0, 1),
            (Some(1), 1, 0, 0),
            (Some(1), 2, 1, 0),
            (Some(0), 7, 3, 4),
            (Some(3), 8, 3, 2),
            (None, 0, 0, 0),
            (None, 7, 0, 1),
            (None, 8, 0, 0),
            (Some(9), 1, 0, 1),
            (Some(9), 0, 0, 0),
        ] {
            assert_eq!(crossings(before.map(mark), mark(now)), (low, high), "{before:?} {now}");
        }
    }
}
