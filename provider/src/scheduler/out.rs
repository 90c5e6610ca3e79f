//! Phase 3: how many replicas a function should have.
//!
//! In: a function as it stands, the policy, the moment. Out: its [`Scale`] with the number to have, and the rule that changed it.
//! Always: within `min..=max` (0 only when scaled to 0 or idle for `zero_after`); grows at once and in one step; shrinks only
//! after fewer have been enough for a while, a quarter at a time; a scale call sets the number at once and is a floor until the
//! next call, or until the function has been idle for a while.
//! Source: docs/scheduling.md; the targets are OpenFaaS' (`desired = ceil(load / (target × proportion))`).

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

use super::demand::{Lasting, limit_of_one, whole};
use super::look::Look;
use super::policy::Policy;
use super::scaling::{Metric, Scaling};
use super::snapshot::{FunctionView, Phase, Wanted};
use super::why::Rule;
use super::window::{Peak, Smooth};

/// What decisions on one function must remember.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scale {
    /// Replicas that should be; what the API tells.
    pub desired: u32,
    /// The scale call that holds; 0 before the function has been seen for the first time.
    pub call: u64,
    /// What that call asked for, while it holds.
    pub floor: u32,
    /// Since when it holds.
    pub floor_since: Moment,
    /// Whether it has been given back for want of requests.
    pub is_asleep: bool,
    /// Until when nothing is drained for being too many: what a restarted provider finds may be needed.
    pub hold_until: Moment,
    /// The largest number that load asked for lately.
    pub(super) asked: Peak,
    /// The largest CPU need lately.
    pub(super) needed: Peak,
    /// CPU used over the last seconds, by load reports.
    pub(super) used: Smooth,
    /// Since when more than the base has been needed.
    pub(super) above_base: Option<Moment>,
    /// Since when requests have been slow.
    pub(super) slow: Option<Moment>,
    /// When the number last shrank.
    pub(super) shrunk_at: Moment,
    /// When CPU was last given back.
    pub(super) gave_back_at: Moment,
    /// How often that was too early, in a row.
    pub(super) restless: u32,
}

/// The scale of a function, and why its number changed if it did.
///
/// `host` is how many millicores all its containers together could have: more containers bring no more than that.
pub(super) fn rescale(look: &Look<'_>, wanted: &Wanted, host: u32) -> (Scale, Option<Rule>) {
    let Look { function, policy, now, .. } = *look;
    let mut scale = function.scale;
    let scaling = &*wanted.scaling;
    if scale.call != wanted.call {
        take_call(&mut scale, function, wanted, policy, now);
    } else {
        scale.floor = scale.floor.min(wanted.replicas);
    }
    if !policy.mode.has_out() {
        scale.desired = wanted.replicas;
        return (scale, None);
    }
    if wanted.replicas == 0 {
        scale.desired = 0; // until a request asks the catalog for more
        return (scale, None);
    }
    let before = scale.desired;
    let idle = now.since(function.traffic.last_busy().max(scale.floor_since));
    let is_quiet = look.is_quiet();
    if is_quiet && scaling.zero_after.is_some_and(|after| idle >= after) {
        scale.is_asleep = true;
        scale.desired = 0;
        return (scale, (before > 0).then_some(Rule::Idle));
    }
    if scale.is_asleep && is_quiet {
        return (scale, None);
    }
    let was_asleep = std::mem::take(&mut scale.is_asleep);
    if is_quiet && idle >= policy.floor_for {
        scale.floor = scale.floor.min(scaling.min);
    }
    let (asked, rule) = asked_by_load(look, scaling, host, &mut scale);
    settle(&mut scale, asked, scaling, policy, now);
    let rule = match scale.desired.cmp(&before) {
        std::cmp::Ordering::Less => Some(Rule::Quiet),
        std::cmp::Ordering::Greater if was_asleep => Some(Rule::Waiting),
        std::cmp::Ordering::Greater => Some(rule),
        std::cmp::Ordering::Equal => None,
    };
    (scale, rule)
}

/// A deployment or scale call: its number holds at once.
fn take_call(
    scale: &mut Scale,
    function: &FunctionView,
    wanted: &Wanted,
    policy: &Policy,
    now: Moment,
) {
    let is_first = scale.call == 0;
    scale.call = wanted.call;
    scale.floor = wanted.replicas;
    scale.floor_since = now;
    scale.is_asleep = false;
    scale.desired = wanted.replicas;
    scale.asked.reset(0.0, now);
    scale.hold_until = if is_first && policy.mode.has_out() && !function.replicas.is_empty() {
        now.after(policy.quiet_for)
    } else {
        now
    };
}

/// Takes `asked` up at once, and goes down to it after a while, step by step.
fn settle(scale: &mut Scale, asked: u32, scaling: &Scaling, policy: &Policy, now: Moment) {
    let most = scaling.max.min(policy.max_replicas).max(1);
    let asked = asked.max(scale.floor).max(scaling.min).clamp(1, most);
    let window = scaling.down_window.unwrap_or(policy.quiet_for);
    let peak = whole(scale.asked.see(f64::from(asked), window, now));
    if asked >= scale.desired {
        scale.desired = asked;
        scale.shrunk_at = now;
        return;
    }
    scale.desired = scale.desired.min(most);
    if peak < scale.desired && now.since(scale.shrunk_at) >= window / 4 {
        let step = (scale.desired / 4).max(1);
        scale.desired = peak.max(scale.desired - step);
        scale.shrunk_at = now;
    }
}

/// How many replicas the load asks for, bounds aside, and by which rule.
fn asked_by_load(look: &Look<'_>, scaling: &Scaling, host: u32, scale: &mut Scale) -> (u32, Rule) {
    let waiting = by_waiting(look, scaling);
    let per_replica = scaling.target * scaling.proportion;
    let load = match scaling.metric {
        Metric::Load => {
            let by_cpu = by_cpu(look, scaling, host, scale);
            let slow = by_slowness(look, host, scale);
            return [waiting, by_cpu, slow]
                .into_iter()
                .max_by_key(|(count, _)| *count)
                .unwrap_or(waiting);
        }
        Metric::Rps => look.function.traffic.steady_rate(look.now),
        Metric::Capacity => f64::from(look.waiting()),
        Metric::Cpu => look.sums.measured,
    };
    let by_target = (whole((load / per_replica).ceil()), Rule::Target);
    if by_target.0 >= waiting.0 { by_target } else { waiting }
}

/// Places for everything that is in flight or waits, where it is known how many a replica takes.
fn by_waiting(look: &Look<'_>, scaling: &Scaling) -> (u32, Rule) {
    let all = look.waiting();
    match limit_of_one(look.function, scaling) {
        Some(limit) => (all.div_ceil(limit.max(1)), Rule::WorkerFull),
        None => (u32::from(all > 0), Rule::Waiting),
    }
}

/// Within this share of what there is nothing changes: chance in the arrivals moves the need by as much. As Kubernetes' HPA has it.
const TOLERANCE: f64 = 0.1;
/// A report covers a second, in which chance is large.
const USED_OVER: Duration = Duration::from_secs(5);

/// Replicas for the CPU needed, sized by what one has without a burst: at once when phase 1 cannot carry it, else when it lasts.
fn by_cpu(look: &Look<'_>, scaling: &Scaling, host: u32, scale: &mut Scale) -> (u32, Rule) {
    let Look { policy, now, .. } = *look;
    let (base, ceiling) = if policy.mode.has_up() {
        (scaling.base.cpu, scaling.ceiling.cpu)
    } else {
        (scaling.initial.cpu, scaling.initial.cpu)
    };
    let (Some(base), Some(ceiling)) = (base, ceiling) else {
        return (0, Rule::AtCeiling);
    };
    let live = f64::from(look.sums.live);
    let used = scale.used.see(look.sums.measured, USED_OVER, now);
    let lasting = Lasting::of(look, used);
    let host = f64::from(host);
    let base = f64::from(base.max(1));
    let most = live * f64::from(ceiling);
    // What lasts 2 s may be chance, so its head room is no reason; that it cannot be carried at all is one.
    if lasting.bare.min(host) > most {
        scale.above_base.get_or_insert(now);
        let asked = lasting.bare.max(lasting.steady).min(host);
        return (whole((asked / base).ceil()), Rule::AtCeiling);
    }
    let steady = lasting.steady.min(host);
    if steady <= live * base * (1.0 + TOLERANCE) {
        scale.above_base = None;
        return (whole((steady * (1.0 + TOLERANCE) / base).ceil().min(live)), Rule::Persists);
    }
    let since = *scale.above_base.get_or_insert(now);
    let rule = if steady > most { Rule::AtCeiling } else { Rule::Persists };
    if rule == Rule::AtCeiling || now.since(since) >= policy.persist_for {
        return (whole((steady / base).ceil()), rule);
    }
    (whole(live), rule)
}

/// Up to twice as many when requests queue inside replicas that use all they can: a whole CPU each, having no quota.
fn by_slowness(look: &Look<'_>, host: u32, scale: &mut Scale) -> (u32, Rule) {
    /// A process with one thread that uses so many millicores has nothing left.
    const BUSY: f64 = 800.0;
    /// So many millicores must be left for one more to be of any use.
    const USEFUL: f64 = 500.0;
    let Look { function, policy, now, sums } = *look;
    let ready = sums.ready;
    let has_quota = || function.ready().any(|replica| replica.grant.cpu.is_some());
    let is_slow = sums.measured >= BUSY * f64::from(ready)
        && sums.measured + USEFUL <= f64::from(host)
        && sums.in_flight >= ready.saturating_mul(policy.slowdown)
        && function.traffic.slowdown() >= f64::from(policy.slowdown);
    if ready == 0 || !is_slow || has_quota() {
        scale.slow = None;
        return (0, Rule::Slow);
    }
    let since = *scale.slow.get_or_insert(now);
    if now.since(since) < policy.slow_for {
        return (ready, Rule::Slow);
    }
    scale.slow = Some(now); // what was started must have served for as long before more is
    (ready.saturating_mul(2), Rule::Slow)
}

/// Whether time alone may change the answer, and when it is to be looked at again.
pub(super) fn look_again(look: &Look<'_>, wanted: &Wanted, scale: &Scale) -> Option<Moment> {
    let Look { function, policy, now, .. } = *look;
    if !policy.mode.has_out() || wanted.replicas == 0 || scale.is_asleep {
        return None;
    }
    let scaling = &*wanted.scaling;
    let is_quiet = look.is_quiet();
    let lowest = scale.floor.max(scaling.min).max(1);
    let is_above = scale.desired > lowest || scale.above_base.is_some() || scale.slow.is_some();
    if is_above || (!is_quiet && look.sums.rate > 0.0) {
        return Some(now.after(policy.tick));
    }
    let rest = function.traffic.last_busy().max(scale.floor_since);
    let to_zero = scaling.zero_after.filter(|_| is_quiet).map(|after| rest.after(after));
    let to_min = (scale.floor > scaling.min).then(|| rest.after(policy.floor_for));
    let hold = (scale.hold_until > now).then_some(scale.hold_until);
    [to_zero, to_min, hold]
        .into_iter()
        .flatten()
        .map(|at| at.max(now.after(Duration::from_millis(1))))
        .min()
}

/// Whether more CPU is needed than what is ready has been granted: worth a plan at once.
pub fn is_pressed(function: &FunctionView, policy: &Policy, now: Moment) -> bool {
    let look = Look::at(function, policy, now);
    let Some(granted) = look.sums.granted else { return false };
    granted > 0 && look.need() > f64::from(granted)
}

/// Whether anything of the function is ready to serve.
pub fn is_served(function: &FunctionView) -> bool {
    function.replicas.iter().any(|replica| replica.phase == Phase::Ready)
        || function
            .guests
            .iter()
            .any(|guest| guest.state == hyperfaas_protocol::control::WorkerState::Ready)
}
