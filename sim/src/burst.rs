//! A step of load on one function: 4 requests a second, then 60 for three minutes, then 4 again; each burns 10 ms of CPU, and a
//! replica has 200 thousandths of a CPU.

use std::time::Duration;

use hyperfaas_provider::scheduler::{Grant, Mode, Policy, Scaling};
use hyperfaas_trace::rate::{Arrivals, Pacing, Phase, arrivals};
use hyperfaas_trace::{Arrival, random};

use crate::node::Size;
use crate::profile::Profile;
use crate::queue::{MINUTE, MS, Nanos, SECOND};
use crate::scenario::Scenario;
use crate::service;

/// When the step is.
pub const STEP: Nanos = MINUTE;

/// The scenario and its requests; `ceiling` is the most that phase 1 may give a replica, thousandths of a CPU.
pub fn step(
    mode: Mode,
    ceiling: u32,
    nodes: Vec<Size>,
    seed: u64,
) -> (Scenario, impl Iterator<Item = Arrival>) {
    let cpu = |millicores| Grant { cpu: Some(millicores), memory: None };
    let profile = Profile {
        scaling: Scaling {
            max: 20,
            base: cpu(200),
            initial: cpu(200),
            ceiling: cpu(ceiling),
            ..Scaling::default()
        },
        ..Profile::burner("burn", service::Duration::Fixed(10 * MS))
    };
    let scenario = Scenario {
        nodes,
        policy: Policy { mode, ..Policy::default() },
        until: 20 * MINUTE,
        interval: SECOND,
        ..Scenario::new(seed, vec![profile])
    };
    (scenario, calls(seed).map(|at| Arrival { at, function: 0, duration: None }))
}

fn calls(seed: u64) -> Arrivals {
    let phases = [
        Phase::constant(4.0, Duration::from_secs(60)),
        Phase::constant(60.0, Duration::from_secs(180)),
        Phase::constant(4.0, Duration::from_secs(60)),
    ];
    arrivals(&phases, Pacing::Poisson, random(seed))
}
