//! A container: two workers under one quota.

use hyperfaas_protocol::control::WorkerState;

use super::gauge::Gauge;
use super::worker::Worker;
use crate::cpu::Group;
use crate::queue::Nanos;

/// Whose container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Made from the image of this function (index).
    Owned(u32),
    /// Nobody's: both workers are generic.
    Standby,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The engine is starting it.
    Starting,
    /// It runs.
    Running,
    /// Its main process has ended.
    Ended,
    /// The engine is removing it.
    Leaving,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Whose it is.
    pub role: Role,
    /// On which node.
    pub node: usize,
    /// Where it stands.
    pub stage: Stage,
    /// Both workers.
    pub workers: [Worker; 2],
    /// Memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// When it was ordered.
    pub since: Nanos,
    pub(crate) group: Group,
    /// When its next CPU event is due, at the latest.
    pub(crate) due: Option<Nanos>,
    /// Whether its node lists it as busy.
    pub(crate) is_listed: bool,
    pub(crate) gauge: Gauge,
    /// Bytes held of its node.
    pub(crate) memory: u64,
}

impl Container {
    pub(super) fn new(role: Role, node: usize, group: Group, now: Nanos) -> Self {
        let owner = match role {
            Role::Owned(function) => Worker::new(WorkerState::Specialising, Some(function)),
            Role::Standby => Worker::new(WorkerState::Generic, None),
        };
        Self {
            role,
            node,
            stage: Stage::Starting,
            workers: [owner, Worker::new(WorkerState::Generic, None)],
            memory_limit: None,
            since: now,
            group,
            due: None,
            is_listed: false,
            gauge: Gauge::default(),
            memory: 0,
        }
    }

    /// Whether its main process runs.
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Its CPUs on the average of a period; `None` without quota.
    pub fn cpu_quota(&self) -> Option<f64> {
        self.group.quota().map(|quota| quota.cpus())
    }

    /// CPU time used until `now`, ns.
    pub fn cpu_used(&self, now: Nanos) -> f64 {
        self.group.used_total(now)
    }

    /// Bytes its workers hold.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Requests in both workers.
    pub fn in_flight(&self) -> usize {
        self.workers.iter().map(Worker::in_flight).sum()
    }
}
