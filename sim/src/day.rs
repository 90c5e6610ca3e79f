//! A day of many functions, from a trace.
//!
//! What a trace does not tell is assumed, alike for every mode: [`Assumed`]. In mode `off` every function has one replica all day,
//! as a deployment without scaling has; in the others it may go to zero after a while.

use std::time::Duration;

use hyperfaas_provider::scheduler::{Grant, Mode, Policy, Scaling};
use hyperfaas_trace::{Function, Trace};

use crate::node::Size;
use crate::profile::{Profile, key};
use crate::queue::{MINUTE, MS, Nanos};
use crate::scenario::Scenario;
use crate::service;

/// What a trace does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Assumed {
    /// Share of a request's time that is CPU time.
    pub cpu_share: f64,
    /// Most CPU time of a request: what takes minutes waits for something.
    pub cpu_most: Nanos,
    /// `requests.cpu` of every function, thousandths of a CPU: what a container has without a burst.
    pub base: u32,
    /// `limits.cpu` of every function, thousandths of a CPU: what phase 1 may give it.
    pub ceiling: u32,
    /// Most replicas of a function.
    pub replicas_max: u32,
    /// How long a function is idle before its last replica goes.
    pub zero_after: Duration,
    /// From a process' start to its first answer.
    pub boot: Nanos,
    /// Memory of a function that the trace knows nothing of, bytes.
    pub memory: u64,
    /// Time of a request of a function that the trace knows nothing of.
    pub duration: Nanos,
}

impl Default for Assumed {
    fn default() -> Self {
        Self {
            cpu_share: 0.2,
            cpu_most: 500 * MS,
            base: 250,
            ceiling: 1000,
            replicas_max: 100,
            zero_after: Duration::from_secs(600),
            boot: 100 * MS,
            memory: 128 << 20,
            duration: 100 * MS,
        }
    }
}

/// The scenario of `trace` in `mode` on machines of these sizes.
pub fn scenario(
    trace: &Trace,
    assumed: &Assumed,
    mode: Mode,
    nodes: Vec<Size>,
    seed: u64,
) -> Scenario {
    let profiles = (0..).zip(&trace.functions);
    let profiles = profiles.map(|(index, function)| profile(index, function, assumed, mode));
    let minutes = u64::try_from(trace.minutes()).unwrap_or(u64::MAX / MINUTE);
    Scenario {
        nodes,
        policy: Policy { mode, ..Policy::default() },
        until: (minutes + 30) * MINUTE,
        interval: MINUTE,
        must_settle: false,
        is_thorough: false,
        ..Scenario::new(seed, profiles.collect())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "MiB of a machine's memory"
)]
fn profile(index: usize, function: &Function, assumed: &Assumed, mode: Mode) -> Profile {
    let grant = |cpu| Grant { cpu: Some(cpu), memory: None };
    let known = function.memory_mib.as_ref().map(|mib| (mib.median() * f64::from(1 << 20)) as u64);
    let duration = function.duration_ms.clone().map(service::Duration::Quantiles);
    Profile {
        key: key(&format!("f{index:05}")),
        duration: duration.unwrap_or(service::Duration::Fixed(assumed.duration)),
        cpu_share: assumed.cpu_share,
        cpu_most: assumed.cpu_most,
        threads: None,
        boot: assumed.boot,
        memory_idle: known.unwrap_or(assumed.memory),
        has_second: true,
        replicas: 1,
        scaling: Scaling {
            min: 1,
            max: assumed.replicas_max,
            zero_after: mode.has_out().then_some(assumed.zero_after),
            initial: grant(assumed.base),
            base: grant(assumed.base),
            ceiling: grant(assumed.ceiling),
            ..Scaling::default()
        },
    }
}
