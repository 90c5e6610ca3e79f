//! Phase 1: more CPU and memory for a container that needs it, and its own second worker; and back again.
//!
//! In: a function, what its host has left, the policy. Out: [`Action::Resize`], [`Action::Specialise`], [`Action::Release`].
//! Always: between base and ceiling; never more than the host has left by measured use; one change of a container at a time.
//! A raise is immediate, by what the load is expected to need or because the watermark says so; giving back waits until the
//! largest need of a while fits well, and longer each time that turned out to be too early.

use std::time::Duration;

use hyperfaas_protocol::control::{Pressure, WorkerState};
use hyperfaas_protocol::moment::Moment;

use super::action::{Action, PlaceKind, Plan, WorkerPlace};
use super::demand::{fresh_cpu, share, whole};
use super::look::Look;
use super::out::Scale;
use super::plan::Budget;
use super::scaling::Scaling;
use super::snapshot::{Grant, NodeView, ReplicaView};
use super::why::Rule;

/// A grant changes by at least a twentieth and this many millicores: less is not worth a write.
const CPU_STEP: u32 = 10;
/// A process with one thread that uses so many millicores has nothing left.
const ONE_THREAD: u32 = 800;
/// The longest wait before giving back is `cool_for` times two to the power of this.
const RESTLESS_MOST: u32 = 5;

/// Millicores of one replica.
struct Demand {
    need: f64,
    peak: f64,
    used: u32,
}

/// What one plan of phase 1 works with.
pub(super) struct Up<'a> {
    pub(super) look: &'a Look<'a>,
    pub(super) scaling: &'a Scaling,
}

impl Up<'_> {
    /// Resizes the function's ready containers.
    pub(super) fn resize(&self, scale: &mut Scale, budget: &mut Budget, plan: &mut Plan) {
        let Look { function, policy, now, sums } = *self.look;
        let need = self.look.need();
        let peak = scale.needed.see(need, policy.cool_for, now);
        let each = |cpu: f64| cpu / f64::from(sums.ready.max(1));
        let used_each = each(sums.expected_use());
        let demand = Demand { need: each(need), peak: each(peak), used: whole(used_each) };
        for replica in function.ready().filter(|replica| !replica.is_resizing) {
            let Some(node) = budget.hosts.view(replica.node) else { continue };
            let cpu = self.cpu(replica, &demand, scale, node);
            let memory = self.memory(replica, node);
            let rule = cpu.map(|(_, rule)| rule).or_else(|| memory.map(|(_, rule)| rule));
            let Some(rule) = rule else { continue };
            let (cpu_now, memory_now) = (replica.grant.cpu, replica.grant.memory);
            budget.hosts.change(replica.node, |node| {
                if let (Some((to, _)), Some(from)) = (cpu, cpu_now) {
                    let promised = to.saturating_sub(from.max(demand.used));
                    node.cpu_used = node.cpu_used.saturating_add(promised);
                }
                if let (Some((to, _)), Some(from)) = (memory, memory_now) {
                    node.memory_used = node.memory_used.saturating_add(to.saturating_sub(from));
                }
            });
            let grant = Grant {
                cpu: cpu.map_or(replica.grant.cpu, |(cpu, _)| Some(cpu)),
                memory: memory.map_or(replica.grant.memory, |(memory, _)| Some(memory)),
            };
            plan.actions.push(Action::Resize {
                function: function.key.clone(),
                replica: replica.id.clone(),
                grant,
                why: self.look.why(rule, need),
            });
        }
    }

    /// The millicores that `replica` should have instead of what it has.
    fn cpu(
        &self,
        replica: &ReplicaView,
        demand: &Demand,
        scale: &mut Scale,
        node: &NodeView,
    ) -> Option<(u32, Rule)> {
        let Look { function, policy, now, .. } = *self.look;
        let current = replica.grant.cpu?;
        let host = if node.cpu == 0 { u32::MAX } else { node.cpu };
        let ceiling = self.scaling.ceiling.cpu.unwrap_or(current).min(host).max(1);
        let base = self.scaling.base.cpu.unwrap_or(ceiling).min(ceiling);
        let held = now.since(replica.granted_at);
        // While there is a guest, it is sent away instead.
        let is_hot = matches!(replica.pressure, Some(Pressure::Cpu | Pressure::Throttled))
            && !replica.has_guest();
        let margin = share(policy.margin);
        let used = fresh_cpu(replica, now).map(|cpu| f64::from(cpu) * margin);
        let has_spare =
            used.is_some_and(|cpu| cpu < f64::from(current) * share(policy.give_back_below));
        // Requests that happen to come together use up a period's quota; over a second most of it is left.
        let is_chance = has_spare && function.traffic.cost_us().is_some();
        let doubles = is_hot && !is_chance && held >= self.patience();
        let doubled = doubles.then(|| current.saturating_mul(2));
        let expected = (demand.need > f64::from(current)).then(|| whole(demand.need * margin));
        if let Some(wanted) = expected.max(doubled) {
            // What the host's other containers do not use; its own use is part of the host's.
            let most = ceiling.min(node.cpu_beside(demand.used));
            let to = wanted.min(most);
            if to < current.saturating_add(step(current)) {
                return None;
            }
            self.note_raise(scale);
            let rule = if expected.is_some() { Rule::NeedsCpu } else { Rule::Watermark };
            return Some((to, rule));
        }
        if current > ceiling {
            return Some((ceiling, Rule::Cool)); // a newer deployment allows less
        }
        let enough = whole((demand.peak * margin).max(used.unwrap_or(0.0))).max(base);
        let fits = f64::from(enough) < f64::from(current) * share(policy.give_back_below);
        let is_worth = fits && current >= enough.saturating_add(step(enough));
        let is_worth = is_worth || (enough == base && current > base);
        if is_hot || !is_worth || held < self.cool_for(scale) {
            return None;
        }
        scale.gave_back_at = now;
        Some((enough, Rule::Cool))
    }

    /// How long a container may stay above its watermark before it gets twice as much.
    fn patience(&self) -> Duration {
        match self.look.function.traffic.cost_us() {
            Some(_) => self.look.policy.hot_for,
            None => self.look.policy.hot_for_unknown,
        }
    }

    /// A raise soon after giving back shows that that was too early: the next one waits twice as long.
    fn note_raise(&self, scale: &mut Scale) {
        if scale.gave_back_at == Moment::ZERO {
            return;
        }
        let was_early =
            self.look.now.since(scale.gave_back_at) < self.cool_for(scale).saturating_mul(2);
        scale.restless = if was_early { (scale.restless + 1).min(RESTLESS_MOST) } else { 0 };
        scale.gave_back_at = Moment::ZERO;
    }

    fn cool_for(&self, scale: &Scale) -> Duration {
        self.look.policy.cool_for.saturating_mul(1 << scale.restless.min(RESTLESS_MOST))
    }

    /// The bytes that `replica` should have instead of what it has. Never less than what it was created with.
    fn memory(&self, replica: &ReplicaView, node: &NodeView) -> Option<(u64, Rule)> {
        let Look { policy, now, .. } = *self.look;
        let current = replica.grant.memory?;
        let initial = self.scaling.initial.memory?;
        let ceiling = self.scaling.ceiling.memory.unwrap_or(current).max(initial);
        let used = replica.load.and_then(|load| load.memory);
        let percent = |bytes: u64, percent: u32| bytes / 100 * u64::from(percent);
        let is_full = used.is_some_and(|used| used >= percent(current, policy.memory_high));
        if replica.has_guest() {
            return None; // what a guest takes is no reason; above the watermark it is sent away
        }
        if is_full || replica.pressure == Some(Pressure::Memory) {
            let most = ceiling.min(current.saturating_add(node.memory_free()));
            let to = current.saturating_add(current / 2).min(most);
            if to <= current {
                return None;
            }
            return Some((to, Rule::NeedsMemory));
        }
        let fits = used.is_some_and(|used| used <= percent(initial, policy.memory_low));
        let is_cool = now.since(replica.granted_at) >= policy.cool_for;
        (current > initial && fits && is_cool).then_some((initial, Rule::Cool))
    }

    /// Gives the function's own second workers the function, or takes it back.
    pub(super) fn second_workers(&self, budget: &mut Budget, plan: &mut Plan) {
        for replica in self.look.function.ready().filter(|replica| replica.has_second_own) {
            let place = |epoch| WorkerPlace {
                host: replica.id.clone(),
                worker: 1,
                epoch,
                kind: PlaceKind::Own,
            };
            let second = &replica.workers[1];
            let function = self.look.function.key.clone();
            if second.state == WorkerState::Generic && self.wants_second(replica) {
                if budget.specialisations > 0 {
                    budget.specialisations -= 1;
                    let why = self.look.why(Rule::WorkerFull, self.look.need());
                    let place = place(second.epoch + 1);
                    plan.actions.push(Action::Specialise { function, place, why });
                }
            } else if replica.second_is_own()
                && second.state != WorkerState::Specialising
                && self.is_second_idle(replica)
            {
                let why = self.look.why(Rule::Cool, self.look.need());
                plan.actions.push(Action::Release { function, place: place(second.epoch), why });
            }
        }
    }

    /// Whether one process is at its limit while the container is not.
    fn wants_second(&self, replica: &ReplicaView) -> bool {
        let first = &replica.workers[0];
        let is_full = first.limit > 0 && first.in_flight >= first.limit;
        let is_full = is_full || replica.pressure == Some(Pressure::Requests);
        let used = fresh_cpu(replica, self.look.now).unwrap_or(0);
        // A second process has no more CPU than the first, where that is what is short.
        let is_short = replica.grant.cpu.is_some_and(|cpu| used >= cpu / 10 * 9);
        if is_short || matches!(replica.pressure, Some(Pressure::Cpu | Pressure::Throttled)) {
            return false;
        }
        let has_more = replica.grant.cpu.is_none_or(|cpu| cpu >= ONE_THREAD * 3 / 2);
        let is_one_thread = has_more
            && used >= ONE_THREAD
            && self.look.function.traffic.slowdown() >= f64::from(self.look.policy.slowdown)
            && self.look.sums.measured >= f64::from(ONE_THREAD);
        let used = replica.load.and_then(|load| load.memory);
        let fits = match (used, replica.grant.memory) {
            (Some(used), Some(most)) => {
                used.saturating_mul(2) <= most / 100 * u64::from(self.look.policy.memory_high)
            }
            _ => true,
        };
        fits && replica.pressure != Some(Pressure::Memory) && (is_full || is_one_thread)
    }

    /// Whether one process has been enough for a while.
    fn is_second_idle(&self, replica: &ReplicaView) -> bool {
        let [first, second] = &replica.workers;
        let all = first.in_flight + second.in_flight;
        let is_enough = if first.limit > 0 { all <= first.limit / 2 } else { all <= 1 };
        let rate = self.look.sums.rate;
        let service = self.look.function.traffic.service_us().unwrap_or(0.0) / 1e6;
        let expected = rate * service;
        let fits = first.limit == 0 || expected <= f64::from(first.limit) / 2.0;
        is_enough
            && fits
            && replica.pressure.is_none()
            && self.look.now.since(second.since) >= self.look.policy.cool_for
    }

    /// When time alone may give something back, or give more to what stays above its watermark; by then the load has been told if
    /// there is any.
    pub(super) fn look_again(&self, scale: &Scale) -> Option<Moment> {
        let Look { function, policy, now, .. } = *self.look;
        let soon = now.after(policy.tick);
        let of = |replica: &ReplicaView| {
            let Grant { cpu, memory } = replica.grant;
            let has_cpu = cpu.zip(self.scaling.base.cpu).is_some_and(|(cpu, base)| cpu > base);
            let has_memory = memory.zip(self.scaling.initial.memory).is_some_and(|(a, b)| a > b);
            if replica.pressure.is_some() || replica.second_is_own() || has_memory {
                return Some(soon);
            }
            // Nothing is given back sooner than this after a change.
            has_cpu.then(|| soon.max(replica.granted_at.after(self.cool_for(scale))))
        };
        function.ready().filter_map(of).min()
    }
}

/// The least change of a grant of `cpu` that is worth a write.
fn step(cpu: u32) -> u32 {
    (cpu / 20).max(CPU_STEP)
}
