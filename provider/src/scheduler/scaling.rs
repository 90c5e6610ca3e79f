//! How one function may be scaled: its bounds, targets and ceilings, valid in themselves.
//!
//! In: a deployment's labels and quantities, read by [`crate::spec`]. Out: plain numbers for the scheduler.
//! Source: `com.openfaas.scale.*` as OpenFaaS documents them; `docs/scheduling.md` has the table.

use std::sync::Arc;
use std::time::Duration;

use super::snapshot::Grant;

/// What load is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// CPU needed and requests waiting, as the scheduler sees them; the default.
    #[default]
    Load,
    /// Requests per second.
    Rps,
    /// Requests in flight.
    Capacity,
    /// Millicores used.
    Cpu,
}

impl Metric {
    /// Its name in labels, decisions and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Rps => "rps",
            Self::Capacity => "capacity",
            Self::Cpu => "cpu",
        }
    }
}

/// Bounds and targets of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// Least replicas while it is not idle.
    pub min: u32,
    /// Most replicas; never below `min`.
    pub max: u32,
    /// What the target is about.
    pub metric: Metric,
    /// Load of one replica to aim at, in the metric's unit; positive.
    pub target: f64,
    /// The share of the target to aim at, above 0 and at most 1.
    pub proportion: f64,
    /// How long it must be idle before its last replica goes; `None` is never.
    pub zero_after: Option<Duration>,
    /// How long fewer replicas must be enough before one goes; `None` is the policy's.
    pub down_window: Option<Duration>,
    /// What a container is created with: the deployment's limits. It may use that until it has been cool for a while.
    pub initial: Grant,
    /// What it may use when there is no burst; never above `initial`.
    pub base: Grant,
    /// What it may use in one; never below `initial`.
    pub ceiling: Grant,
    /// Most requests that one worker takes at once; `None` is not configured.
    pub in_flight_max: Option<u32>,
    /// Functions of the same group may be guests of each other.
    pub share: Option<Arc<str>>,
    /// Whether its label has the last word on that, whatever the operator's default is.
    pub has_share_label: bool,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min: 1,
            max: u32::MAX,
            metric: Metric::Load,
            target: 1.0,
            proportion: 1.0,
            zero_after: None,
            down_window: None,
            initial: Grant::default(),
            base: Grant::default(),
            ceiling: Grant::default(),
            in_flight_max: None,
            share: None,
            has_share_label: false,
        }
    }
}

impl Scaling {
    /// The same with the operator's `default` group where the deployment says nothing.
    pub fn sharing_by_default(self: &Arc<Self>, default: Option<&Arc<str>>) -> Arc<Self> {
        match default {
            Some(group) if !self.has_share_label => {
                Arc::new(Self { share: Some(Arc::clone(group)), ..Self::clone(self) })
            }
            _ => Arc::clone(self),
        }
    }

    /// Whether its labels fix the number of replicas, which switches off scaling by load.
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }
}
