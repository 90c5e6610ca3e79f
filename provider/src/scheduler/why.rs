//! Why something is done: the rule that asked for it, and the numbers it saw.

use serde::Serialize;

use super::look::Sums;
use super::snapshot::FunctionView;
use hyperfaas_protocol::moment::Moment;

/// The rule that asked for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A deployment or scale call asks for more replicas than there are.
    Wanted,
    /// A deployment or scale call asks for fewer.
    TooMany,
    /// A newer revision has taken over.
    Replaced,
    /// The function was deleted.
    Deleted,
    /// The expected CPU need exceeds what is granted.
    NeedsCpu,
    /// A container is above its high watermark.
    Watermark,
    /// A container needs memory.
    NeedsMemory,
    /// A container has used less than it may for a while.
    Cool,
    /// One process is at its limit while the container is not.
    WorkerFull,
    /// Phase 1 cannot give more, and more is needed.
    AtCeiling,
    /// Phase 1 has carried it for a while.
    Persists,
    /// Requests take far longer than they do without a queue.
    Slow,
    /// The load exceeds the function's own target.
    Target,
    /// Requests wait and nothing serves.
    Waiting,
    /// Fewer replicas have been enough for a while.
    Quiet,
    /// Nothing was asked for in a long time.
    Idle,
    /// The container's owner needs what a guest has.
    OwnerNeeds,
    /// Its own replicas are enough again.
    HandedOver,
    /// It was called more lately than others that are at zero.
    LikelyNext,
}

impl Rule {
    /// Its name in decisions, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::TooMany => "too-many",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
            Self::NeedsCpu => "needs-cpu",
            Self::Watermark => "watermark",
            Self::NeedsMemory => "needs-memory",
            Self::Cool => "cool",
            Self::WorkerFull => "worker-full",
            Self::AtCeiling => "at-ceiling",
            Self::Persists => "persists",
            Self::Slow => "slow",
            Self::Target => "target",
            Self::Waiting => "waiting",
            Self::Quiet => "quiet",
            Self::Idle => "idle",
            Self::OwnerNeeds => "owner-needs",
            Self::HandedOver => "handed-over",
            Self::LikelyNext => "likely-next",
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What a rule saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Why {
    /// The rule.
    pub rule: Rule,
    /// Requests being served.
    pub in_flight: u32,
    /// Requests that wait.
    pub parked: u32,
    /// Requests per second.
    pub rate: f64,
    /// Mean time of a request, microseconds.
    pub service_us: Option<f64>,
    /// CPU time of a request, microseconds.
    pub cost_us: Option<f64>,
    /// Millicores expected to be needed.
    pub need: f64,
    /// Millicores granted to what is ready; `None` is without limit.
    pub granted: Option<u32>,
    /// Replicas that are ready.
    pub ready: u32,
    /// Replicas that should be.
    pub desired: u32,
}

impl Why {
    /// What `function` shows at `now`, under `rule`.
    pub fn of(rule: Rule, function: &FunctionView, need: f64, now: Moment) -> Self {
        let sums = Sums::of(function, now);
        Self {
            rule,
            in_flight: sums.in_flight,
            parked: function.parked,
            rate: sums.rate,
            service_us: function.traffic.service_us(),
            cost_us: sums.cost_us,
            need,
            granted: sums.granted,
            ready: sums.ready,
            desired: function.scale.desired,
        }
    }
}
