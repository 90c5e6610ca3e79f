//! What becomes of replicas, event by event.

use std::net::{IpAddr, Ipv4Addr};

use hyperfaas_protocol::control::{Level, Load, Pressure, Watermark, WorkerState};
use hyperfaas_protocol::{FunctionName, Namespace};

use super::*;
use crate::scheduler::{FunctionView, ImageState, Rule, Why};

const REVISION: u64 = 7;

fn key() -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("ns").unwrap(),
        name: FunctionName::parse("f").unwrap(),
    }
}

fn id(n: u32) -> ReplicaId {
    ReplicaId(format!("ns.f.{n}"))
}

fn at(ms: u64) -> Moment {
    Moment::from_millis(ms)
}

fn observed(n: u32, is_running: bool) -> Observed {
    Observed {
        container: ContainerId(format!("c{n}")),
        replica: id(n),
        function: key(),
        revision: REVISION,
        http_port: 8080,
        control_port: 18079,
        is_running,
        address: is_running.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

fn order(cluster: &Cluster, n: u32) {
    let start = Action::Start { function: key(), revision: REVISION, why: why(Rule::Wanted) };
    cluster.begin(&start, Some((id(n), Grant::default())), at(0));
}

fn why(rule: Rule) -> Why {
    Why::of(rule, &FunctionView::new(key()), 0.0, at(0))
}

fn drain(cluster: &Cluster, n: u32) {
    let drain = Action::Drain { function: key(), replica: id(n), why: why(Rule::TooMany) };
    cluster.begin(&drain, None, at(3));
}

fn wanted(replicas: u32) -> Option<Wanted> {
    Some(Wanted { revision: REVISION, replicas, call: 1, scaling: Arc::default() })
}

/// What the scheduler sees of the function.
fn view(cluster: &Cluster) -> FunctionView {
    let cell = cluster.cell(&key());
    cell.want(wanted(1));
    cell.view()
}

fn ready(cluster: &Cluster, n: u32) {
    order(cluster, n);
    cluster.started(&observed(n, true), at(1)).unwrap();
    cluster.reported(&key(), &id(n), OwnerState::Ready, None, at(2));
}

fn phases(cluster: &Cluster) -> Vec<Phase> {
    cluster.phases(&key())
}

fn failed(reason: &str) -> Setback {
    Setback::Failed { reason: reason.into(), is_final: false }
}

fn acquire(cluster: &Cluster) -> Acquired {
    cluster.acquire(&key(), REVISION, &[])
}

#[test]
fn a_replica_serves_from_ready_until_drained() {
    let cluster = Cluster::default();
    order(&cluster, 1);
    assert!(matches!(acquire(&cluster), Acquired::Wait));
    cluster.started(&observed(1, true), at(1)).unwrap();
    assert!(matches!(acquire(&cluster), Acquired::Wait));
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(2));
    let Acquired::Placed(ticket) = acquire(&cluster) else { panic!("not placed") };
    assert_eq!((cluster.available(&key()), ticket.route().in_flight()), (1, 1));
    drain(&cluster, 1);
    assert!(matches!(acquire(&cluster), Acquired::Wait));
    assert_eq!(cluster.available(&key()), 0);
    let (container, route) = cluster.leaving(&key(), &id(1)).unwrap();
    assert_eq!((container, route.unwrap().in_flight()), (ContainerId("c1".into()), 1));
    drop(ticket);
    cluster.removed(&ContainerId("c1".into()));
    assert!(phases(&cluster).is_empty());
}

#[test]
fn the_newest_load_and_watermark_are_kept_until_the_replica_is_gone() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let known = |cluster: &Cluster| cluster.loads(&key()).pop().unwrap();
    assert_eq!((known(&cluster).watermark, known(&cluster).load), (None, None));
    cluster.take_dirty();
    let high = Watermark { level: Level::High, reason: Some(Pressure::Cpu), crossings: 3 };
    assert!(!cluster.marked(&key(), &id(1), Watermark::CALM), "nothing has happened yet");
    assert!(cluster.marked(&key(), &id(1), high));
    assert!(!cluster.marked(&key(), &id(1), high), "a link that was dialled again says it again");
    for served in 1..=3 {
        cluster.loaded(&key(), &id(1), Load { served, ..Load::default() }, at(served));
    }
    let load = Load { served: 3, ..Load::default() };
    let expected = ReplicaLoad { replica: id(1), watermark: Some(high), load: Some((load, at(3))) };
    assert_eq!(cluster.loads(&key()), [expected]);
    let events = cluster.counters().watermarks.clone();
    let count = |level: &str| events.with_label_values(&[level]).get();
    assert_eq!((count("high"), count("low")), (2, 1), "1 and 3 are high, 2 was low");
    assert_eq!(cluster.take_dirty().len(), 1, "the function is planned");

    cluster.died(&ContainerId("c1".into()), 0, at(9));
    assert!(!cluster.marked(&key(), &id(1), Watermark { crossings: 5, ..high }));
    assert!(cluster.loads(&key()).is_empty());
}

#[test]
fn late_reports_do_not_revive_a_draining_replica() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    drain(&cluster, 1);
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(4));
    assert_eq!(phases(&cluster), [Phase::Draining]);
}

#[test]
fn a_tried_replica_is_not_asked_again() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    ready(&cluster, 2);
    let place = |bounced: &[u64]| match cluster.acquire(&key(), REVISION, bounced) {
        Acquired::Placed(ticket) => Some((ticket.route().replica.clone(), ticket.host())),
        _ => None,
    };
    let (first, host) = place(&[]).unwrap();
    let mut hosts = vec![host];
    for _ in 0..4 {
        let (other, host) = place(&hosts[..1]).unwrap();
        assert_ne!(other, first);
        hosts.push(host);
    }
    assert!(place(&hosts).is_none());
}

#[test]
fn an_end_that_is_heard_of_before_the_start_is_not_lost() {
    let cluster = Cluster::default();
    order(&cluster, 1);
    cluster.died(&ContainerId("c1".into()), 3, at(1));
    cluster.started(&observed(1, true), at(2));
    assert_eq!(phases(&cluster), [Phase::Ended]);
    assert!(view(&cluster).failure.is_some());
}

#[test]
fn an_image_that_cannot_be_had_is_hopeless_at_once() {
    let cluster = Cluster::default();
    cluster.begin(&Action::Prepare { function: key(), revision: REVISION }, None, at(0));
    let outcome = Setback::Failed { reason: "no such image".into(), is_final: true };
    cluster.prepared(&key(), REVISION, Err(outcome), at(1));
    let Acquired::Hopeless { reason } = acquire(&cluster) else { panic!("there is hope") };
    assert_eq!(reason, "no such image");
}

#[test]
fn failures_count_per_revision_and_a_ready_replica_clears_them() {
    let cluster = Cluster::default();
    for n in 1..=3 {
        assert!(matches!(acquire(&cluster), Acquired::Wait), "the next try is worth waiting for");
        order(&cluster, n);
        cluster.start_failed(&key(), &id(n), failed("no"), at(u64::from(n)));
    }
    assert!(matches!(acquire(&cluster), Acquired::Hopeless { .. }));
    assert!(
        matches!(cluster.acquire(&key(), REVISION + 1, &[]), Acquired::Wait),
        "a new revision starts afresh"
    );
    ready(&cluster, 4);
    cluster.begin(&Action::Clear { function: key(), replica: id(4) }, None, at(9));
    cluster.removed(&ContainerId("c4".into()));
    assert!(matches!(acquire(&cluster), Acquired::Wait));
}

#[test]
fn a_container_that_ends_soon_after_it_was_ready_is_a_failure_and_a_later_end_is_not() {
    let failure = |died_at| {
        let cluster = Cluster::default();
        ready(&cluster, 1);
        cluster.died(&ContainerId("c1".into()), 137, at(died_at));
        view(&cluster).failure.is_some()
    };
    assert!(failure(1_000));
    assert!(!failure(60_000));
}

#[test]
fn an_absent_engine_is_no_failure_of_the_function() {
    let cluster = Cluster::default();
    order(&cluster, 1);
    cluster.start_failed(&key(), &id(1), Setback::EngineAway, at(1));
    assert!(matches!(acquire(&cluster), Acquired::Wait));
}

#[test]
fn a_crashing_function_says_why() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    cluster.reported(&key(), &id(1), OwnerState::Crashed, Some("exit status 9"), at(3));
    cluster.reported(&key(), &id(1), OwnerState::Starting, None, at(4));
    let Acquired::Crashing { reason } = acquire(&cluster) else { panic!("not crashing") };
    assert_eq!(reason, "exit status 9");
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(5));
    assert!(matches!(acquire(&cluster), Acquired::Placed(_)));
}

fn adopt(cluster: &Cluster, observed: &Observed, ms: u64) -> Option<Arc<Route>> {
    cluster.adopt(observed, Grant::default(), at(ms))
}

#[test]
fn running_containers_are_taken_over_once_and_vanished_ones_forgotten() {
    let cluster = Cluster::default();
    assert!(adopt(&cluster, &observed(1, true), 0).is_some());
    assert!(adopt(&cluster, &observed(1, true), 1).is_none());
    assert!(adopt(&cluster, &observed(2, false), 1).is_none());
    assert_eq!(phases(&cluster), [Phase::Starting, Phase::Ended]);
    order(&cluster, 3);
    assert!(
        adopt(&cluster, &observed(3, false), 2).is_none(),
        "one that is being started is left alone"
    );
    cluster.retain(&[observed(2, false)]);
    assert_eq!(phases(&cluster), [Phase::Ended, Phase::Ordered]);
}

#[test]
fn an_image_answer_for_an_older_revision_is_dropped() {
    let cluster = Cluster::default();
    cluster.begin(&Action::Prepare { function: key(), revision: 1 }, None, at(0));
    cluster.begin(&Action::Prepare { function: key(), revision: 2 }, None, at(1));
    cluster.prepared(&key(), 1, Err(failed("old")), at(2));
    let cell = cluster.cell(&key());
    cell.want(wanted(1).map(|wanted| Wanted { revision: 2, ..wanted }));
    let view = cell.view();
    assert_eq!((view.image, view.failure), (ImageState::Preparing, None));
}

/// A cluster whose clock stands, with these bounds of parking.
fn cluster_with(one: usize, all: usize) -> Cluster {
    Cluster::new(Arc::new(SystemClock::start()), Policy::default(), ParkingBounds { one, all })
}

fn park(cluster: &Cluster, name: &str) -> Parking {
    let key = FunctionKey { name: FunctionName::parse(name).unwrap(), ..key() };
    cluster.park(&key, at(60_000), &[])
}

#[test]
fn parking_is_bounded_for_one_and_for_all_and_freed() {
    let cluster = cluster_with(2, 8);
    let Parking::Parked(first) = park(&cluster, "f") else { panic!("not parked") };
    let _second = park(&cluster, "f");
    assert!(matches!(park(&cluster, "f"), Parking::Full));
    drop(first);
    assert_eq!(cluster.parked(), 1);
    assert!(matches!(park(&cluster, "f"), Parking::Parked(_)));
}

#[test]
fn one_functions_burst_leaves_room_for_the_others() {
    let cluster = cluster_with(1000, 100);
    let mut burst: Vec<_> = (0..200).map(|_| park(&cluster, "f")).collect();
    burst.retain(|parking| matches!(parking, Parking::Parked(_)));
    assert_eq!(burst.len(), 50);
    for name in ["a", "b", "c"] {
        let one = park(&cluster, name);
        assert!(matches!(one, Parking::Parked(_)), "{name}");
        burst.push(one);
    }
}

#[tokio::test]
async fn a_free_place_goes_to_who_waits_longest_and_only_as_many_are_woken_as_there_is_room_for() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let load = Load { in_flight_max: Some(2), ..Load::default() };
    cluster.loaded(&key(), &id(1), load, at(3));
    let tickets: Vec<_> = (0..2).map(|_| acquire(&cluster)).collect();
    assert!(matches!(acquire(&cluster), Acquired::Wait), "both places are taken");
    let mut waiting: Vec<_> = (0..3)
        .map(|_| match park(&cluster, "f") {
            Parking::Parked(parked) => parked,
            other => panic!("{other:?}"),
        })
        .collect();
    drop(waiting.remove(1)); // this caller leaves
    drop(tickets);
    assert!(matches!(acquire(&cluster), Acquired::Wait), "nobody overtakes, no place is left");
    let mut served = Vec::new();
    for parked in &mut waiting {
        served.push(parked.ticket().await.unwrap());
    }
    drop(waiting);
    assert_eq!(cluster.parked(), 0);
    drop(served);
    assert!(matches!(acquire(&cluster), Acquired::Placed(_)));
}

#[tokio::test]
async fn whoever_waits_for_a_start_is_let_go_when_it_is_ready() {
    let cluster = Cluster::default();
    order(&cluster, 1);
    let Parking::Parked(mut parked) = park(&cluster, "f") else { panic!("not parked") };
    cluster.started(&observed(1, true), at(1)).unwrap();
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(2));
    assert_eq!(parked.ticket().await.unwrap().route().replica, id(1));
}

#[tokio::test]
async fn a_worker_without_a_limit_gets_all_who_wait_once_nobody_else_is_coming() {
    let cluster = Cluster::default();
    for n in 1..=2 {
        order(&cluster, n);
        cluster.started(&observed(n, true), at(1)).unwrap();
    }
    let mut waiting: Vec<_> = (0..150)
        .map(|_| match park(&cluster, "f") {
            Parking::Parked(parked) => parked,
            other => panic!("{other:?}"),
        })
        .collect();
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(2));
    let placed = || cluster.leaving(&key(), &id(1)).unwrap().1.unwrap().in_flight();
    assert_eq!(placed(), 100, "the rest is for the one that still starts");
    cluster.died(&ContainerId("c2".into()), 1, at(3));
    cluster.loaded(&key(), &id(1), Load::default(), at(4));
    assert_eq!(placed(), 150);
    for parked in &mut waiting {
        assert_eq!(parked.ticket().await.unwrap().route().replica, id(1));
    }
}

#[test]
fn a_second_worker_serves_while_it_is_ready_and_its_tickets_carry_the_epoch() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let all = Abilities { workers: 2, second_own: true, ..Abilities::default() };
    cluster.able(&key(), &id(1), all);
    let report = |epoch, state| {
        let report =
            WorkerReport { worker: 1, epoch, state, guest: None, reason: None, crashes: 0 };
        cluster.worker(&key(), &id(1), &report, at(4));
    };
    let workers = |cluster: &Cluster| {
        let mut tickets = Vec::new();
        while tickets.len() < 4
            && let Acquired::Placed(ticket) = acquire(cluster)
        {
            tickets.push(ticket);
        }
        let mut seen: Vec<_> =
            tickets.iter().map(|t| (t.worker().worker, t.worker().epoch)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(workers(&cluster), [(0, 0)]);
    report(3, WorkerState::Specialising);
    assert_eq!(workers(&cluster), [(0, 0)]);
    report(3, WorkerState::Ready);
    assert_eq!(workers(&cluster), [(0, 0), (1, 3)]);
    report(2, WorkerState::Generic);
    assert_eq!(workers(&cluster), [(0, 0), (1, 3)], "what is about an older order is over");
    report(3, WorkerState::Draining);
    assert_eq!(workers(&cluster), [(0, 0)]);
}

#[test]
fn what_a_container_taken_over_may_use_its_watchdog_says() {
    let cluster = Cluster::default();
    let guess = Grant { cpu: Some(400), memory: None };
    cluster.adopt(&observed(1, true), guess, at(0)).unwrap();
    let load = |cpu: u64| Load { cpu_max_millicores: Some(cpu), ..Load::default() };
    cluster.loaded(&key(), &id(1), load(250), at(5_000));
    assert_eq!(cluster.grant(&key(), &id(1)).cpu, Some(250));
    cluster.loaded(&key(), &id(1), load(999), at(6_000));
    assert_eq!(cluster.grant(&key(), &id(1)).cpu, Some(250), "from then on we know better");
}

#[test]
fn repeated_and_impossible_reports_teach_nothing_wrong() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let load =
        |served, cpu| Load { served, cpu_millicores: Some(cpu), in_flight: 1, ..Load::default() };
    cluster.loaded(&key(), &id(1), load(10, 100), at(1_000));
    cluster.loaded(&key(), &id(1), load(20, 100), at(2_000));
    let cost = |cluster: &Cluster| view(cluster).traffic.cost_us();
    assert_eq!(cost(&cluster), Some(10_000.0));
    cluster.loaded(&key(), &id(1), load(20, 100), at(2_000)); // twice
    cluster.loaded(&key(), &id(1), load(5, 100), at(3_000)); // counts from zero again
    cluster.loaded(&key(), &id(1), load(6, 900), at(90_000)); // long after
    assert_eq!(cost(&cluster), Some(10_000.0));
}

#[test]
fn an_idle_gap_between_reports_makes_requests_no_dearer() {
    let cost = |sums: bool| {
        let cluster = Cluster::default();
        ready(&cluster, 1);
        // Ten requests of 10 ms within a second of work, told 2.4 s after the report before.
        let load = |served, cpu_us| Load {
            served,
            cpu_millicores: Some(100),
            cpu_us: Some(cpu_us).filter(|_| sums),
            ..Load::default()
        };
        cluster.loaded(&key(), &id(1), load(10, 500_000), at(1_000));
        cluster.loaded(&key(), &id(1), load(20, 600_000), at(3_400));
        view(&cluster).traffic.cost_us()
    };
    assert_eq!(cost(true), Some(10_000.0));
    assert_eq!(cost(false), Some(24_000.0), "an older watchdog does not tell better");
}

#[test]
fn a_sum_that_begins_anew_teaches_nothing() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let load = |served, cpu_us| Load { served, cpu_us: Some(cpu_us), ..Load::default() };
    cluster.loaded(&key(), &id(1), load(10, 500_000), at(1_000));
    cluster.loaded(&key(), &id(1), load(20, 400_000), at(2_000));
    assert_eq!(view(&cluster).traffic.cost_us(), None);
}

#[tokio::test]
async fn idle_resolves_when_the_last_ticket_is_dropped() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    let Acquired::Placed(ticket) = acquire(&cluster) else { panic!("not placed") };
    let (_, route) = cluster.leaving(&key(), &id(1)).unwrap();
    let route = route.unwrap();
    let waiting = tokio::spawn(async move { route.idle().await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(ticket);
    waiting.await.unwrap();
}
