//! What is shown of a function to people who watch: plain data, as it is sent.
//!
//! In: a cell's state. Out: one [`FunctionSight`] a function and the decisions made since the last look.
//! Always: two looks between which nothing has happened are equal, so that only changes need be sent; moments are wall-clock
//! milliseconds by a fixed difference, so they do not move either.
//! Units: CPU in millicores, memory in bytes, times in milliseconds since 1970.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use jiff::Timestamp;
use serde::Serialize;

use super::Cluster;
use super::decisions::Decision;
use crate::engine::ContainerId;

/// One function as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionSight {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Replicas that should be.
    pub replicas: u32,
    /// Replicas that are ready.
    pub available: u32,
    /// Requests being served.
    pub in_flight: u32,
    /// Requests that wait for a place.
    pub parked: u32,
    /// Requests a second, rounded to tenths.
    pub rate: f64,
    /// What went wrong last, while it is not put right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Millicores that its containers use; absent while none has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Bytes that its containers use; absent while none has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its containers, oldest first.
    pub containers: Vec<ContainerSight>,
    /// Its places in containers that are not its own, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub visits: Vec<VisitSight>,
}

impl FunctionSight {
    /// One that has not been planned yet.
    pub fn new(key: &FunctionKey, replicas: u32) -> Self {
        Self {
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            replicas,
            available: 0,
            in_flight: 0,
            parked: 0,
            rate: 0.0,
            trouble: None,
            cpu_milli: None,
            memory_bytes: None,
            containers: Vec::new(),
            visits: Vec::new(),
        }
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerSight {
    /// The replica's name.
    pub id: String,
    /// The engine's name for it, once there is one.
    #[serde(skip)]
    pub container: Option<ContainerId>,
    /// Where it stands.
    pub phase: &'static str,
    /// Since when.
    pub since: i64,
    /// `high` while it is above its high watermark.
    pub level: &'static str,
    /// What raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<&'static str>,
    /// Millicores in use; absent while nobody has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Millicores it may use; absent without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota_milli: Option<u32>,
    /// Bytes in use; absent while nobody has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes it may use; absent without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// Both of its workers.
    pub workers: Vec<WorkerSight>,
}

/// Whose process a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The owner's, in the first worker.
    Owner,
    /// The owner's, in the second worker.
    Second,
    /// Another function's.
    Guest,
    /// Nobody's.
    Generic,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerSight {
    /// Whose it is.
    pub role: Role,
    /// Where it stands.
    pub state: WorkerState,
    /// Requests it is serving.
    pub in_flight: u32,
    /// Most it takes at once; absent without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// A guest's function, `name.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
}

/// A function's place in a container that is not its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VisitSight {
    /// The container's name.
    pub host: String,
    /// Whose container: `standby`, nobody's, or `guest`, another function's.
    pub place: &'static str,
    /// Which of its workers, 0 or 1.
    pub worker: u8,
    /// Where the worker stands.
    pub state: WorkerState,
    /// Since when.
    pub since: i64,
    /// Requests it is serving.
    pub in_flight: u32,
    /// Most it takes at once; absent without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A container without an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StandbySight {
    /// Its name.
    pub id: String,
    /// `starting`, `ready` to be given a function, `held`: the interpreter of one waits in it, `taken` by one, or `leaving`.
    pub state: &'static str,
    /// The function it has been given or whose interpreter waits, `name.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
}

/// What one look shows.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The function.
    pub function: FunctionSight,
    /// Decisions since the look before, oldest first.
    pub decisions: Vec<Decision>,
    /// How many decisions there have been; for the next look.
    pub made: usize,
}

/// Turns moments of the cluster's clock into wall time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall {
    zero_ms: i64,
}

impl Wall {
    pub(super) fn ms(self, moment: Moment) -> i64 {
        let passed = moment.since(Moment::ZERO).as_millis();
        self.zero_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }
}

impl Cluster {
    /// How `key` stands, and what has been decided on it after the first `seen` decisions; `None` before it is first planned.
    ///
    /// `zero_ms` is the wall time of the clock's zero, see [`Self::zero_ms`].
    pub fn look(&self, key: &FunctionKey, seen: usize, zero_ms: i64) -> Option<Seen> {
        let now = self.clock().now();
        self.find(key).map(|cell| cell.look(key, seen, Wall { zero_ms }, now))
    }

    /// The wall time of the clock's zero in milliseconds since 1970, as the wall's clock stands now.
    pub fn zero_ms(&self) -> i64 {
        let passed = self.clock().now().since(Moment::ZERO).as_millis();
        Timestamp::now().as_millisecond() - i64::try_from(passed).unwrap_or(i64::MAX)
    }
}
