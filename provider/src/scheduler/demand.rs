//! How much CPU a function needs.
//!
//! In: a function as it stands. Out: millicores.
//! Formula: `max(rate × cost, measured) / utilisation + min(waiting × cost / horizon, waiting × 1 CPU)`, where waiting is all that
//! is in flight or parked. The first term is the utilisation law with head room; the second drains a backlog in `horizon`, and one
//! request is given at most one CPU, since most use one thread. Before the cost is known, what is measured stands for the first.

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

use super::policy::Policy;
use super::scaling::Scaling;
use super::snapshot::{FunctionView, ReplicaView};

/// A load report that is older says nothing of now: watchdogs report every second while busy.
const FRESH: Duration = Duration::from_secs(3);
/// In what time new replicas are to have worked off a backlog: about what one takes to start and be warm.
const LASTING_HORIZON: Duration = Duration::from_secs(2);

/// Millicores needed at `now`, by the newest rate there is.
pub fn need(function: &FunctionView, policy: &Policy, now: Moment) -> f64 {
    of_rate(function, function.traffic.rate(now), policy.backlog_horizon, policy, now)
}

/// Millicores needed by what lasts for seconds.
pub(super) fn lasting_need(function: &FunctionView, policy: &Policy, now: Moment) -> f64 {
    of_rate(function, function.traffic.lasting_rate(now), LASTING_HORIZON, policy, now)
}

fn of_rate(
    function: &FunctionView,
    rate: f64,
    horizon: Duration,
    policy: &Policy,
    now: Moment,
) -> f64 {
    let measured = measured_cpu(function, now);
    let Some(cost_us) = function.traffic.cost_us() else {
        return measured / share(policy.utilisation);
    };
    let arriving = (rate * cost_us / 1000.0).max(measured);
    let waiting = f64::from(function.in_flight() + function.parked);
    let draining = (cost_us / 1e6 / horizon.as_secs_f64().max(1e-3)).min(1.0) * 1000.0;
    arriving / share(policy.utilisation) + waiting * draining
}

/// Millicores that the function uses, or by what arrives is about to: what it adds to the use of its host.
pub fn expected_use(function: &FunctionView, now: Moment) -> f64 {
    let cost_us = function.traffic.cost_us().unwrap_or(0.0);
    measured_cpu(function, now).max(function.traffic.rate(now) * cost_us / 1000.0)
}

/// Millicores that the ready replicas used by their last reports.
pub(super) fn measured_cpu(function: &FunctionView, now: Moment) -> f64 {
    function.ready().filter_map(|replica| fresh_cpu(replica, now)).map(f64::from).sum()
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
