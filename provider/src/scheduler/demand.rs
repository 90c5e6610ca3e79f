//! How much CPU a function needs.
//!
//! In: a function as it stands. Out: millicores.
//! Formula: `max(rate × cost, measured) / utilisation + min(waiting × cost / horizon, waiting × 1 CPU)`, where waiting is all that
//! is in flight or parked. The first term is the utilisation law with head room; the second drains a backlog in `horizon`, and one
//! request is given at most one CPU, since most use one thread. Before the cost is known, what is measured stands for the first.

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

use super::look::{Look, Sums};
use super::policy::Policy;
use super::scaling::Scaling;
use super::snapshot::{FunctionView, ReplicaView};

/// Requests of `function` that a worker with so many millicores serves at the same time without making them wait; 0 where that
/// is unknown.
///
/// What its CPU lets through, times how long one takes undisturbed (Little's law); at least one.
pub fn comfort(function: &FunctionView, cpu: Option<u32>) -> u32 {
    let known = (cpu, function.traffic.cost_us(), function.traffic.unloaded_us());
    let (Some(cpu), Some(cost_us), Some(unloaded_us)) = known else { return 0 };
    let at_once = f64::from(cpu) / 1000.0 * unloaded_us / cost_us.max(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range"
    )]
    let whole = at_once.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
    whole
}

/// A load report that is older says nothing of now: watchdogs report every second while busy.
const FRESH: Duration = Duration::from_secs(3);
/// In what time new replicas are to have worked off a backlog: about what one takes to start and be warm.
const LASTING_HORIZON: Duration = Duration::from_secs(2);

/// Millicores needed at `now`, by the newest rate there is.
pub fn need(function: &FunctionView, policy: &Policy, now: Moment) -> f64 {
    Look::at(function, policy, now).need()
}

/// Millicores needed by what lasts for seconds.
pub(super) struct Lasting {
    /// By the last two seconds or the last ten, whichever is more, without head room.
    pub(super) bare: f64,
    /// By the last ten seconds, with head room.
    pub(super) steady: f64,
}

impl Lasting {
    /// `used` is what has been measured over a few seconds, millicores.
    pub(super) fn of(look: &Look<'_>, used: f64) -> Self {
        let rates = look.function.traffic.lasting_rates(look.now);
        let cost_us = look.sums.cost_us;
        let backlog = backlog(cost_us, look.waiting(), LASTING_HORIZON);
        let arriving = |rate: f64| match cost_us {
            Some(cost_us) => (rate * cost_us / 1000.0).max(used),
            // Nothing is known of what comes, so the newest measure counts.
            None => look.sums.measured,
        };
        Self {
            bare: arriving(rates.lasting) + backlog,
            steady: arriving(rates.steady) / share(look.policy.utilisation) + backlog,
        }
    }
}

/// Millicores that drain `waiting` requests, parked or in flight, in `horizon`.
pub(super) fn backlog(cost_us: Option<f64>, waiting: u32, horizon: Duration) -> f64 {
    let Some(cost_us) = cost_us else { return 0.0 };
    f64::from(waiting) * (cost_us / 1e6 / horizon.as_secs_f64().max(1e-3)).min(1.0) * 1000.0
}

/// Millicores that the function uses, or by what arrives is about to: what it adds to the use of its host.
pub fn expected_use(function: &FunctionView, now: Moment) -> f64 {
    Sums::of(function, now).expected_use()
}

/// Millicores that `replica` used by its last report, if that is not old.
pub(super) fn fresh_cpu(replica: &ReplicaView, now: Moment) -> Option<u32> {
    let load = replica.load.filter(|load| now.since(load.at) <= FRESH)?;
    // A container that claims more than it may use cannot be right.
    Some(load.cpu?.min(replica.grant.cpu.unwrap_or(u32::MAX)))
}

/// Most requests that one replica is configured to take at once; `None` where nothing says so.
pub(super) fn limit_of_one(function: &FunctionView, scaling: &Scaling) -> Option<u32> {
    let reported = function.ready().map(|replica| replica.in_flight_max).find(|limit| *limit > 0);
    scaling.in_flight_max.or(reported).filter(|limit| *limit > 0)
}

pub(super) fn share(percent: u32) -> f64 {
    f64::from(percent.max(1)) / 100.0
}

/// A count or an amount, clamped to what fits; nothing for what is no number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range")]
pub(super) fn whole(amount: f64) -> u32 {
    if amount.is_nan() { 0 } else { amount.clamp(0.0, f64::from(u32::MAX)) as u32 }
}
