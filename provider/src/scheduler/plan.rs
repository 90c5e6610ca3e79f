//! What should change, so that what exists becomes what the catalog asks for.
//!
//! In: a [`Snapshot`], the [`Policy`], the moment. Out: a [`Plan`]. Nothing is changed here.
//! Always: replicas of the wanted revision never exceed the wanted number; while an update is under way as many old replicas
//! stay ready as new ones are missing; no more than `starts_at_once` starts are under way; failing starts back off.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use super::{Action, FunctionView, ImageState, Phase, Plan, Policy, ReplicaView, Snapshot, Wanted};

/// Everything to be done at `now`.
///
/// Starts are shared out one at a time between the functions that miss replicas, so that a function which wants many does not
/// keep another one waiting.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Moment) -> Plan {
    let mut plan = Plan::default();
    if !snapshot.is_engine_up {
        return plan;
    }
    let mut missing = Vec::new();
    for function in &snapshot.functions {
        clear_ended(function, &mut plan);
        match function.wanted {
            Some(wanted) => {
                give_up_late(function, policy, now, &mut plan);
                drain_surplus(function, wanted, &mut plan);
                let count = missing_starts(function, wanted, policy, now, &mut plan);
                missing.push((&function.key, wanted.revision, count));
            }
            None => {
                let all: Vec<_> = function.replicas.iter().collect();
                drain_first(function, &all, all.len(), "deleted", &mut plan);
            }
        }
    }
    let under_way = snapshot
        .functions
        .iter()
        .flat_map(|f| &f.replicas)
        .filter(|r| r.phase == Phase::Ordered)
        .count();
    share_starts(&mut missing, policy.starts_at_once.saturating_sub(under_way), &mut plan);
    plan
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
            wake(plan, deadline);
        }
    }
}

/// Drains what is too many of the wanted revision, and the old revisions that new replicas have replaced.
fn drain_surplus(function: &FunctionView, wanted: Wanted, plan: &mut Plan) {
    let live = |r: &&ReplicaView| r.phase.is_live();
    let is_new = |r: &&ReplicaView| r.revision == wanted.revision;
    let new: Vec<_> = function.replicas.iter().filter(live).filter(is_new).collect();
    let ready_new = new.iter().filter(|r| r.phase == Phase::Ready).count();
    let wanted_count = wanted.replicas as usize;

    let surplus = new.len().saturating_sub(wanted_count);
    let mut by_worth = new;
    by_worth.sort_by_key(|r| (worth(r.phase), std::cmp::Reverse(r.in_flight)));
    drain_first(function, &by_worth, surplus, "scaled in", plan);

    let mut old: Vec<_> = function.replicas.iter().filter(live).filter(|r| !is_new(r)).collect();
    old.sort_by_key(|r| (worth(r.phase), std::cmp::Reverse(r.in_flight)));
    let ready_old = old.iter().filter(|r| r.phase == Phase::Ready).count();
    let kept = wanted_count.saturating_sub(ready_new).min(ready_old);
    drain_first(function, &old, old.len() - kept, "replaced by an update", plan);
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
    reason: &'static str,
    plan: &mut Plan,
) {
    for replica in replicas.iter().take(count).filter(|r| can_drain(r)) {
        let already = |action: &Action| matches!(action, Action::GiveUp { replica: id, .. } if *id == replica.id);
        if !plan.actions.iter().any(already) {
            plan.actions.push(Action::Drain {
                function: function.key.clone(),
                replica: replica.id.clone(),
                reason,
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
    wanted: Wanted,
    policy: &Policy,
    now: Moment,
    plan: &mut Plan,
) -> usize {
    let live = function
        .replicas
        .iter()
        .filter(|r| r.phase.is_live() && r.revision == wanted.revision)
        .count();
    let missing = (wanted.replicas as usize).saturating_sub(live);
    if missing == 0 {
        return 0;
    }
    if let Some(failure) = function.failure {
        let retry_at = failure.last.after(policy.backoff(failure.count));
        if now < retry_at {
            wake(plan, retry_at);
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

/// Hands out `budget` starts round by round.
fn share_starts(missing: &mut [(&FunctionKey, u64, usize)], mut budget: usize, plan: &mut Plan) {
    while budget > 0 && missing.iter().any(|(_, _, count)| *count > 0) {
        for (key, revision, count) in missing.iter_mut().filter(|(_, _, count)| *count > 0) {
            if budget == 0 {
                return;
            }
            plan.actions.push(Action::Start { function: (*key).clone(), revision: *revision });
            *count -= 1;
            budget -= 1;
        }
    }
}

fn wake(plan: &mut Plan, at: Moment) {
    plan.wake_at = Some(plan.wake_at.map_or(at, |earlier| earlier.min(at)));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyperfaas_protocol::{FunctionName, Namespace};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::ReplicaId;
    use crate::scheduler::Failure;

    const NOW: Moment = Moment::from_millis(1_000_000);

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse(name).unwrap(),
        }
    }

    fn replica(id: usize, revision: u64, phase: Phase) -> ReplicaView {
        ReplicaView { id: ReplicaId(format!("r{id}")), revision, phase, since: NOW, in_flight: 0 }
    }

    fn function(wanted: Option<(u64, u32)>, replicas: Vec<ReplicaView>) -> FunctionView {
        let wanted = wanted.map(|(revision, replicas)| Wanted { revision, replicas });
        FunctionView { key: key("f"), wanted, image: ImageState::Present, replicas, failure: None }
    }

    fn actions(functions: Vec<FunctionView>) -> Vec<Action> {
        plan(&Snapshot { is_engine_up: true, functions }, &Policy::default(), NOW).actions
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
        busy.in_flight = 3;
        let replicas = vec![
            busy,
            replica(1, 1, Phase::Starting),
            replica(2, 1, Phase::Ready),
            replica(3, 1, Phase::Crashed),
        ];
        let plan = actions(vec![function(Some((1, 1)), replicas)]);
        assert_eq!(drained(&plan), ["r3", "r1", "r0"]);
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
        let snapshot = Snapshot { is_engine_up: true, functions: vec![view] };
        let waiting = plan(&snapshot, &Policy::default(), NOW);
        assert_eq!(
            (waiting.actions.len(), waiting.wake_at),
            (0, Some(NOW.after(Duration::from_secs(4))))
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
        assert!(plan.contains(&Action::Start { function: key("g"), revision: 1 }));
    }

    #[test]
    fn nothing_is_ordered_while_the_engine_is_away() {
        let snapshot =
            Snapshot { is_engine_up: false, functions: vec![function(Some((1, 5)), vec![])] };
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
