//! What should change, so that what exists becomes what is wanted and what the load needs.
//!
//! In: one function ([`plan_function`]) or a whole [`Snapshot`] ([`plan()`]), the [`Policy`], the moment. Out: actions, and when
//! to look again. Nothing is changed here.
//! Always: replicas of the wanted revision never exceed the desired number; while an update is under way as many old replicas
//! stay ready as new ones are missing; no more than `starts_at_once` starts are under way; failing starts back off.
//! Cost: one function's plan looks at that function and at the [`Budget`] alone.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use super::action::{Action, PlaceKind, Plan};
use super::demand::whole;
use super::hosts::Hosts;
use super::look::Look;
use super::multiplex;
use super::out::{Scale, look_again, rescale};
use super::policy::Policy;
use super::snapshot::{FunctionView, ImageState, Offer, Phase, ReplicaView, Snapshot, Wanted};
use super::up::Up;
use super::why::{Rule, Why};

/// What all functions share, and what is left of it.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Container starts that may begin.
    pub starts: usize,
    /// Specialisations that may begin.
    pub specialisations: usize,
    /// The hosts.
    pub hosts: Hosts,
    /// Workers that could take on a guest; of interest only for functions that [`super::wants_places`] is true of.
    pub offers: Vec<Offer>,
    /// Whether functions that nothing serves wait for what is on offer, so that nobody else takes it.
    pub is_reserved: bool,
    /// Images that may be looked up before they are needed; `None`: none is, since no guest can be made of them here.
    pub lookups: Option<usize>,
}

/// The plan of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionPlan {
    /// What to do, starts aside, and when to look again.
    pub plan: Plan,
    /// What the next plan must remember; to be kept in the function.
    pub scale: Scale,
    /// Replicas that should be started now, as far as the budget of starts allows.
    pub missing: usize,
    /// Why, for each of those starts.
    pub missing_why: Option<Why>,
    /// What it would have taken from the budget, had there been more.
    pub lacks: Lacks,
}

/// What a function goes without until somebody else is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacks {
    /// A place as a guest.
    pub place: bool,
    /// A look at its image.
    pub lookup: bool,
}

impl FunctionPlan {
    /// Whether it takes a worker of a container that the function does not own.
    pub fn takes_place(&self) -> bool {
        let is_one = |action: &Action| matches!(action, Action::Specialise { place, .. } if place.kind != PlaceKind::Own);
        self.plan.actions.iter().any(is_one)
    }
}

/// Everything to be done at `now` over all functions.
///
/// Starts are shared out one at a time between the functions that miss replicas, so that a function which wants many does not
/// keep another one waiting.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Moment) -> Plan {
    let mut all = Plan::default();
    if !snapshot.is_engine_up {
        return all;
    }
    let phases = snapshot.functions.iter().flat_map(|f| &f.replicas).map(|r| r.phase);
    let under_way = phases.filter(|phase| *phase == Phase::Ordered).count();
    let mut budget = Budget {
        starts: policy.starts_at_once.saturating_sub(under_way),
        specialisations: policy.specialisations_at_once,
        hosts: Hosts::new(snapshot.nodes.clone()),
        offers: snapshot.offers.clone(),
        ..Budget::default()
    };
    let mut missing = Vec::new();
    let is_unserved = |function: &&FunctionView| multiplex::is_unserved(function);
    let (first, then): (Vec<_>, Vec<_>) = snapshot.functions.iter().partition(is_unserved);
    for function in first.into_iter().chain(then) {
        let one = plan_function(function, &mut budget, policy, now);
        all.actions.extend(one.plan.actions);
        one.plan.wake_at.into_iter().for_each(|at| all.wake(at));
        all.scales.push(one.scale);
        if let Some(why) = one.missing_why {
            missing.push(Missing {
                key: &function.key,
                revision: function.revision(),
                count: one.missing,
                why,
            });
        }
    }
    share_starts(&mut missing, budget.starts, &mut all.actions);
    all
}

/// Everything to be done for one function at `now`; takes from `budget` what its actions use, starts excepted.
pub fn plan_function(
    function: &FunctionView,
    budget: &mut Budget,
    policy: &Policy,
    now: Moment,
) -> FunctionPlan {
    let mut plan = Plan::default();
    clear_ended(function, &mut plan);
    let Some(wanted) = &function.wanted else {
        let all: Vec<_> = function.replicas.iter().collect();
        let look = Look::at(function, policy, now);
        drain_first(function, &all, all.len(), look.why(Rule::Deleted, 0.0), &mut plan);
        multiplex::give_back(&look, &function.scale, &mut plan);
        let (scale, lacks) = (function.scale, Lacks::default());
        return FunctionPlan { plan, scale, missing: 0, missing_why: None, lacks };
    };
    give_up_late(function, policy, now, &mut plan);
    let look = Look::at(function, policy, now);
    let (own, measured) = (whole(look.sums.expected_use()), whole(look.sums.measured));
    let (mut scale, rule) = rescale(&look, wanted, budget.hosts.cpu_beside(own, measured));
    let mut why = look.why(rule.unwrap_or(Rule::Wanted), look.need());
    why.desired = scale.desired;
    let is_held = now < scale.hold_until;
    drain_surplus(function, wanted, &scale, (why, rule, is_held), &mut plan);
    let mut lacks = Lacks::default();
    let mut missing = missing_starts(function, wanted, &scale, policy, now, &mut plan);
    if missing == 0 && policy.mode.has_multiplex() {
        lacks.lookup = look_ahead(function, wanted, budget, &mut plan);
    }
    let up = Up { look: &look, scaling: &wanted.scaling };
    if policy.mode.has_up() {
        up.resize(&mut scale, budget, &mut plan);
        up.second_workers(budget, &mut plan);
        up.look_again(&scale).into_iter().for_each(|at| plan.wake(at));
    }
    if policy.mode.has_multiplex() {
        multiplex::evict(&look, &mut plan);
        let taken = multiplex::take_places(&look, &wanted.scaling, budget, &mut plan);
        lacks.place = taken == multiplex::Taken::Lacking;
        multiplex::give_back(&look, &scale, &mut plan);
        if missing > 0
            && let Some(until) = multiplex::yields_until(&look, &plan)
        {
            missing = 0;
            plan.wake(until);
        }
        if !function.guests.is_empty() {
            plan.wake(now.after(policy.tick));
        }
    }
    look_again(&look, wanted, &scale).into_iter().for_each(|at| plan.wake(at));
    FunctionPlan { plan, scale, missing, missing_why: (missing > 0).then_some(why), lacks }
}

fn clear_ended(function: &FunctionView, plan: &mut Plan) {
    for replica in function.replicas.iter().filter(|r| r.phase == Phase::Ended) {
        plan.actions
            .push(Action::Clear { function: function.key.clone(), replica: replica.id.clone() });
    }
}

/// Gives up replicas that have been starting for too long.
fn give_up_late(function: &FunctionView, policy: &Policy, now: Moment, plan: &mut Plan) {
    for replica in function.replicas.iter().filter(|r| r.phase == Phase::Starting) {
        let deadline = replica.since.after(policy.start_timeout);
        if now >= deadline {
            plan.actions.push(Action::GiveUp {
                function: function.key.clone(),
                replica: replica.id.clone(),
            });
        } else {
            plan.wake(deadline);
        }
    }
}

/// Drains what is too many of the wanted revision, and the old revisions that new replicas have replaced.
fn drain_surplus(
    function: &FunctionView,
    wanted: &Wanted,
    scale: &Scale,
    (why, rule, is_held): (Why, Option<Rule>, bool),
    plan: &mut Plan,
) {
    let live = |r: &&ReplicaView| r.phase.is_live();
    let is_new = |r: &&ReplicaView| r.revision == wanted.revision;
    let count = function.replicas.iter().filter(live).count();
    let has_old = function.replicas.iter().filter(live).any(|r| !is_new(&r));
    let desired = scale.desired as usize;
    if count <= desired && !has_old {
        return;
    }
    let mut new: Vec<_> = function.replicas.iter().filter(live).filter(is_new).collect();
    let ready_new = new.iter().filter(|r| r.phase == Phase::Ready).count();
    let surplus = if is_held { 0 } else { new.len().saturating_sub(desired) };
    // Of equals the youngest goes: what has served longest is warmest.
    new.reverse();
    new.sort_by_key(|r| (worth(r.phase), r.own_in_flight()));
    let too_many = Why { rule: rule.unwrap_or(Rule::TooMany), ..why };
    drain_first(function, &new, surplus, too_many, plan);

    let mut old: Vec<_> = function.replicas.iter().filter(live).filter(|r| !is_new(r)).collect();
    old.sort_by_key(|r| (worth(r.phase), r.own_in_flight()));
    let ready_old = old.iter().filter(|r| r.phase == Phase::Ready).count();
    let kept = desired.saturating_sub(ready_new).min(ready_old);
    drain_first(function, &old, old.len() - kept, Why { rule: Rule::Replaced, ..why }, plan);
}

/// How much a replica is worth keeping: lower goes first.
fn worth(phase: Phase) -> u8 {
    match phase {
        Phase::Crashed => 0,
        Phase::Ordered => 1,
        Phase::Starting => 2,
        _ => 3,
    }
}

/// Drains the first `count` of `replicas`; one that the engine is still starting must wait for the engine's answer.
fn drain_first(
    function: &FunctionView,
    replicas: &[&ReplicaView],
    count: usize,
    why: Why,
    plan: &mut Plan,
) {
    for replica in replicas.iter().take(count).filter(|r| can_drain(r)) {
        let already = |action: &Action| matches!(action, Action::GiveUp { replica: id, .. } if *id == replica.id);
        if !plan.actions.iter().any(already) {
            plan.actions.push(Action::Drain {
                function: function.key.clone(),
                replica: replica.id.clone(),
                why,
            });
        }
    }
}

fn can_drain(replica: &ReplicaView) -> bool {
    matches!(replica.phase, Phase::Starting | Phase::Ready | Phase::Crashed)
}

/// How many replicas of the wanted revision should be started now; asks for the image first.
fn missing_starts(
    function: &FunctionView,
    wanted: &Wanted,
    scale: &Scale,
    policy: &Policy,
    now: Moment,
    plan: &mut Plan,
) -> usize {
    let live = function
        .replicas
        .iter()
        .filter(|r| r.phase.is_live() && r.revision == wanted.revision)
        .count();
    let missing = (scale.desired as usize).saturating_sub(live);
    if missing == 0 {
        return 0;
    }
    if let Some(failure) = function.failure {
        let retry_at = failure.last.after(policy.backoff(failure.count));
        if now < retry_at {
            plan.wake(retry_at);
            return 0;
        }
    }
    match function.image {
        ImageState::Present => missing,
        ImageState::Preparing => 0,
        ImageState::Unknown => {
            plan.actions.push(Action::Prepare {
                function: function.key.clone(),
                revision: wanted.revision,
            });
            0
        }
    }
}

/// Looks at an image that nothing needs yet: a guest is made of it at the first request, and whether its containers lend is a
/// question of it too, which a provider that starts anew does not know. Whether that has to wait.
fn look_ahead(
    function: &FunctionView,
    wanted: &Wanted,
    budget: &mut Budget,
    plan: &mut Plan,
) -> bool {
    // One that could not be had is asked for again when it is needed.
    let is_due = function.image == ImageState::Unknown && function.failure.is_none();
    let is_asked = plan.actions.iter().any(|action| matches!(action, Action::Prepare { .. }));
    let Some(left) = budget.lookups.as_mut().filter(|_| is_due && !is_asked) else { return false };
    if *left == 0 {
        return true;
    }
    *left -= 1;
    plan.actions
        .push(Action::Prepare { function: function.key.clone(), revision: wanted.revision });
    false
}

/// A function that misses replicas.
#[derive(Debug, Clone, Copy)]
pub struct Missing<'a> {
    /// Which function.
    pub key: &'a FunctionKey,
    /// From which revision to start.
    pub revision: u64,
    /// How many it misses; what could not be started is left in here.
    pub count: usize,
    /// Why.
    pub why: Why,
}

/// Hands out `budget` starts round by round. Afterwards whoever is next in turn comes first, so that one start at a time goes
/// round too.
pub fn share_starts(missing: &mut [Missing<'_>], mut budget: usize, actions: &mut Vec<Action>) {
    while budget > 0 && missing.iter().any(|one| one.count > 0) {
        for index in 0..missing.len() {
            if budget == 0 {
                return missing.rotate_left(index);
            }
            let one = &mut missing[index];
            if one.count == 0 {
                continue;
            }
            actions.push(Action::Start {
                function: one.key.clone(),
                revision: one.revision,
                why: one.why,
            });
            one.count -= 1;
            budget -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hyperfaas_protocol::{FunctionName, Namespace};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::ReplicaId;
    use crate::scheduler::{Failure, Grant};

    const NOW: Moment = Moment::from_millis(1_000_000);

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse(name).unwrap(),
        }
    }

    fn replica(id: usize, revision: u64, phase: Phase) -> ReplicaView {
        let id = ReplicaId(format!("r{id}"));
        let new = ReplicaView::ordered(id, revision, Grant::default(), NOW);
        ReplicaView { phase, ..new }
    }

    fn function(wanted: Option<(u64, u32)>, replicas: Vec<ReplicaView>) -> FunctionView {
        let wanted = wanted.map(|(revision, replicas)| Wanted {
            revision,
            replicas,
            call: 1,
            scaling: Arc::default(),
        });
        // Seen before, so that nothing is held for a restarted provider.
        let scale = Scale {
            call: 1,
            desired: wanted.as_ref().map_or(0, |w| w.replicas),
            floor: 100,
            floor_since: NOW,
            ..Scale::default()
        };
        FunctionView {
            wanted,
            image: ImageState::Present,
            replicas,
            scale,
            ..FunctionView::new(key("f"))
        }
    }

    fn actions(functions: Vec<FunctionView>) -> Vec<Action> {
        plan(&snapshot(functions), &Policy::default(), NOW).actions
    }

    fn snapshot(functions: Vec<FunctionView>) -> Snapshot {
        Snapshot { is_engine_up: true, functions, ..Snapshot::default() }
    }

    fn drained(actions: &[Action]) -> Vec<&str> {
        actions
            .iter()
            .filter_map(|a| match a {
                Action::Drain { replica, .. } => Some(replica.0.as_str()),
                _ => None,
            })
            .collect()
    }

    fn starts(actions: &[Action]) -> usize {
        actions.iter().filter(|a| matches!(a, Action::Start { .. })).count()
    }

    #[test]
    fn the_image_comes_before_the_first_start() {
        let mut view = function(Some((1, 2)), vec![]);
        view.image = ImageState::Unknown;
        assert_eq!(
            actions(vec![view.clone()]),
            [Action::Prepare { function: key("f"), revision: 1 }]
        );
        view.image = ImageState::Preparing;
        assert_eq!(actions(vec![view.clone()]), []);
        view.image = ImageState::Present;
        assert_eq!(starts(&actions(vec![view])), 2);
    }

    #[test]
    fn an_update_keeps_old_replicas_until_new_ones_are_ready() {
        let old = || vec![replica(0, 1, Phase::Ready), replica(1, 1, Phase::Ready)];
        let begun = actions(vec![function(Some((2, 2)), old())]);
        assert_eq!((starts(&begun), drained(&begun).len()), (2, 0));

        let mut half = old();
        half.extend([replica(2, 2, Phase::Ready), replica(3, 2, Phase::Starting)]);
        assert_eq!(drained(&actions(vec![function(Some((2, 2)), half)])), ["r0"]);

        let mut done = old();
        done.extend([replica(2, 2, Phase::Ready), replica(3, 2, Phase::Ready)]);
        assert_eq!(drained(&actions(vec![function(Some((2, 2)), done)])), ["r0", "r1"]);
    }

    #[test]
    fn an_update_whose_replicas_crash_keeps_the_old_ones() {
        let replicas = vec![replica(0, 1, Phase::Ready), replica(1, 2, Phase::Crashed)];
        assert_eq!(actions(vec![function(Some((2, 1)), replicas)]), []);
    }

    #[test]
    fn scaling_in_drains_the_least_useful_first() {
        let mut busy = replica(0, 1, Phase::Ready);
        busy.workers[0].in_flight = 3;
        let replicas = vec![
            busy,
            replica(1, 1, Phase::Starting),
            replica(2, 1, Phase::Ready),
            replica(3, 1, Phase::Crashed),
        ];
        let plan = actions(vec![function(Some((1, 1)), replicas)]);
        assert_eq!(drained(&plan), ["r3", "r1", "r2"], "the busy one stays");
    }

    #[test]
    fn zero_and_deletion_drain_everything_that_the_engine_has_started() {
        let replicas = || {
            vec![
                replica(0, 1, Phase::Ready),
                replica(1, 1, Phase::Ordered),
                replica(2, 1, Phase::Draining),
            ]
        };
        assert_eq!(drained(&actions(vec![function(Some((1, 0)), replicas())])), ["r0"]);
        assert_eq!(drained(&actions(vec![function(None, replicas())])), ["r0"]);
    }

    #[test]
    fn failures_back_off_and_say_when_to_look_again() {
        let mut view = function(Some((1, 1)), vec![]);
        view.failure = Some(Failure { count: 3, last: NOW });
        let snapshot = snapshot(vec![view]);
        let waiting = plan(&snapshot, &Policy::default(), NOW);
        assert_eq!(
            (
                waiting.actions.len(),
                waiting.wake_at.is_some_and(|at| at <= NOW.after(Duration::from_secs(4)))
            ),
            (0, true)
        );
        let later = plan(&snapshot, &Policy::default(), NOW.after(Duration::from_secs(4)));
        assert_eq!(starts(&later.actions), 1);
    }

    #[test]
    fn a_replica_that_never_gets_ready_is_given_up() {
        let mut late = replica(0, 1, Phase::Starting);
        late.since = Moment::from_millis(1_000_000 - 60_000);
        let plan = actions(vec![function(Some((1, 1)), vec![late])]);
        assert_eq!(plan, [Action::GiveUp { function: key("f"), replica: ReplicaId("r0".into()) }]);
    }

    #[test]
    fn starts_are_bounded_and_shared_between_functions() {
        let mut other = function(Some((1, 1)), vec![]);
        other.key = key("g");
        let plan =
            actions(vec![function(Some((1, 50)), vec![replica(0, 1, Phase::Ordered)]), other]);
        assert_eq!(starts(&plan), 3);
        let of_g =
            |a: &Action| matches!(a, Action::Start { function, .. } if *function == key("g"));
        assert!(plan.iter().any(of_g));
    }

    #[test]
    fn one_start_at_a_time_goes_round_among_those_who_wait() {
        let (many, few) = (key("many"), key("few"));
        let view = function(Some((1, 1)), vec![]);
        let why = Why::of(Rule::Wanted, &view, 0.0, NOW);
        let mut missing = [
            Missing { key: &many, revision: 1, count: 50, why },
            Missing { key: &few, revision: 1, count: 2, why },
        ];
        let mut order = Vec::new();
        for _ in 0..4 {
            share_starts(&mut missing, 1, &mut order);
        }
        let names: Vec<_> = order.iter().map(|action| action.function().name.as_str()).collect();
        assert_eq!(names, ["many", "few", "many", "few"]);
    }

    #[test]
    fn nothing_is_ordered_while_the_engine_is_away() {
        let snapshot =
            Snapshot { is_engine_up: false, ..snapshot(vec![function(Some((1, 5)), vec![])]) };
        assert_eq!(plan(&snapshot, &Policy::default(), NOW), Plan::default());
    }

    fn phases() -> impl Strategy<Value = Phase> {
        prop::sample::select(vec![
            Phase::Ordered,
            Phase::Starting,
            Phase::Ready,
            Phase::Crashed,
            Phase::Draining,
            Phase::Ended,
        ])
    }

    proptest! {
        /// An update never leaves fewer ready replicas than before or than wanted, whichever is less.
        #[test]
        fn capacity_is_never_given_away(
            replicas in prop::collection::vec((1..3_u64, phases()), 0..12),
            wanted in 0..6_u32,
        ) {
            let list: Vec<_> = replicas.iter().enumerate().map(|(id, (rev, phase))| replica(id, *rev, *phase)).collect();
            let ready = list.iter().filter(|r| r.phase == Phase::Ready).count();
            let view = function(Some((2, wanted)), list.clone());
            let actions = actions(vec![view]);
            let gone = drained(&actions);
            let left = list.iter().filter(|r| r.phase == Phase::Ready && !gone.contains(&r.id.0.as_str())).count();
            prop_assert!(left >= ready.min(wanted as usize));
            let live_new = list.iter().filter(|r| r.revision == 2 && r.phase.is_live()).count();
            prop_assert!(live_new + starts(&actions) <= live_new.max(wanted as usize));
        }
    }
}
