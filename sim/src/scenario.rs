//! What is simulated.

use hyperfaas_provider::scheduler::Policy;
use hyperfaas_trace::Quantiles;

use crate::faults::Faults;
use crate::node::Size;
use crate::profile::Profile;
use crate::queue::{MINUTE, MS, Nanos, SECOND};
use crate::site::Costs;

/// Create and start of a container, ms: probability and value. Measured on Docker 20.10.24 on 2 cores, one container after
/// another, 100 of them with network, memory and CPU limits; the machine was doing other work meanwhile (docs/simulation.md).
const START_MS: [(f64, f64); 8] = [
    (0.0, 338.7),
    (0.05, 369.4),
    (0.25, 395.9),
    (0.5, 423.3),
    (0.75, 474.9),
    (0.9, 538.5),
    (0.95, 588.5),
    (1.0, 672.6),
];

/// What things cost on Docker.
///
/// # Panics
/// Never: the constants are a distribution.
pub fn docker() -> Costs {
    Costs {
        start: Quantiles::new(START_MS.to_vec()).expect("constants in order"),
        specialise: 2 * MS,
        remove: 180 * MS,
        cgroup: MS / 5,
    }
}

/// A run's whole input besides the arrivals.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Replays it.
    pub seed: u64,
    /// The machines.
    pub nodes: Vec<Size>,
    /// The functions.
    pub profiles: Vec<Profile>,
    /// What the scheduler decides by.
    pub policy: Policy,
    /// What things cost.
    pub costs: Costs,
    /// What goes wrong.
    pub faults: Faults,
    /// Standby containers that each node keeps ready.
    pub standby: usize,
    /// The kernel's period of CPU quotas.
    pub period: Nanos,
    /// How long a request may wait for a place.
    pub patience: Nanos,
    /// Requests that may wait: of one function, and of all.
    pub parked_max: (usize, usize),
    /// When it is over, if everything that came is over.
    pub until: Nanos,
    /// Time of one line of the record.
    pub interval: Nanos,
    /// Answers that take longer are counted as slow.
    pub objective: Nanos,
    /// Whether in the end as many replicas must run as should, and all that was lent be given back.
    pub must_settle: bool,
    /// Whether everything is checked after every step, or only what the step concerns.
    pub is_thorough: bool,
}

impl Scenario {
    /// One node of 4 CPUs and 8 GiB, nothing wrong, ten minutes.
    pub fn new(seed: u64, profiles: Vec<Profile>) -> Self {
        Self {
            seed,
            nodes: vec![Size { cpus: 4, memory: 8 << 30 }],
            profiles,
            policy: Policy::default(),
            costs: docker(),
            faults: Faults::default(),
            standby: 2,
            period: 100 * MS,
            patience: MINUTE,
            parked_max: (1000, 10_000),
            until: 10 * MINUTE,
            interval: SECOND,
            objective: 500 * MS,
            must_settle: true,
            is_thorough: true,
        }
    }
}
