//! What becomes of replicas, event by event.

use std::net::{IpAddr, Ipv4Addr};

use hyperfaas_protocol::control::{Level, Load, Pressure, Watermark};
use hyperfaas_protocol::{FunctionName, Namespace};

use super::*;
use crate::scheduler::{ImageState, Phase};

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
    cluster.begin(&Action::Start { function: key(), revision: REVISION }, Some(id(n)), at(0));
}

fn ready(cluster: &Cluster, n: u32) {
    order(cluster, n);
    cluster.started(&observed(n, true), at(1)).unwrap();
    cluster.reported(&key(), &id(n), OwnerState::Ready, None, at(2));
}

fn phases(cluster: &Cluster) -> Vec<Phase> {
    let snapshot = cluster.snapshot(&Functions::default());
    snapshot.functions.iter().flat_map(|f| &f.replicas).map(|r| r.phase).collect()
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
    cluster.begin(&Action::Drain { function: key(), replica: id(1), reason: "test" }, None, at(3));
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
    let mut changes = cluster.subscribe();
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
    let events = cluster.watermark_events();
    let count = |level: &str| events.with_label_values(&[level]).get();
    assert_eq!((count("high"), count("low")), (2, 1), "1 and 3 are high, 2 was low");
    assert!(!changes.has_changed().unwrap(), "the scheduler is not woken");
    changes.mark_unchanged();

    cluster.died(&ContainerId("c1".into()), 0, at(9));
    assert!(!cluster.marked(&key(), &id(1), Watermark { crossings: 5, ..high }));
    assert!(cluster.loads(&key()).is_empty());
}

#[test]
fn late_reports_do_not_revive_a_draining_replica() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    cluster.begin(&Action::Drain { function: key(), replica: id(1), reason: "test" }, None, at(3));
    cluster.reported(&key(), &id(1), OwnerState::Ready, None, at(4));
    assert_eq!(phases(&cluster), [Phase::Draining]);
}

#[test]
fn a_tried_replica_is_not_asked_again() {
    let cluster = Cluster::default();
    ready(&cluster, 1);
    ready(&cluster, 2);
    for _ in 0..4 {
        let Acquired::Placed(ticket) = cluster.acquire(&key(), REVISION, &[id(1)]) else {
            panic!("not placed")
        };
        assert_eq!(ticket.route().replica, id(2));
    }
    assert!(matches!(cluster.acquire(&key(), REVISION, &[id(1), id(2)]), Acquired::Wait));
}

#[test]
fn an_end_that_is_heard_of_before_the_start_is_not_lost() {
    let cluster = Cluster::default();
    order(&cluster, 1);
    cluster.died(&ContainerId("c1".into()), 3, at(1));
    cluster.started(&observed(1, true), at(2));
    assert_eq!(phases(&cluster), [Phase::Ended]);
    let wanted = Some(Wanted { revision: REVISION, replicas: 1 });
    assert!(cluster.find(&key()).unwrap().view(&key(), wanted).unwrap().failure.is_some());
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
        let wanted = Some(Wanted { revision: REVISION, replicas: 1 });
        cluster.find(&key()).unwrap().view(&key(), wanted).unwrap().failure.is_some()
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

#[test]
fn running_containers_are_taken_over_once_and_vanished_ones_forgotten() {
    let cluster = Cluster::default();
    assert!(cluster.adopt(&observed(1, true), at(0)).is_some());
    assert!(cluster.adopt(&observed(1, true), at(1)).is_none());
    assert!(cluster.adopt(&observed(2, false), at(1)).is_none());
    assert_eq!(phases(&cluster), [Phase::Starting, Phase::Ended]);
    order(&cluster, 3);
    assert!(
        cluster.adopt(&observed(3, false), at(2)).is_none(),
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
    let view = cluster
        .find(&key())
        .unwrap()
        .view(&key(), Some(Wanted { revision: 2, replicas: 1 }))
        .unwrap();
    assert_eq!((view.image, view.failure), (ImageState::Preparing, None));
}

#[test]
fn parking_is_bounded_and_freed() {
    let cluster = Cluster::default();
    let parking = cluster.parking(&key());
    let first = parking.enter(1).unwrap();
    assert!(parking.enter(1).is_none());
    drop(first);
    assert!(parking.enter(1).is_some());
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
