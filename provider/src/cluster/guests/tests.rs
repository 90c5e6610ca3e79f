//! What becomes of a visit, event by event.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hyperfaas_protocol::control::{Abilities, Order, Report, WORKERS};
use hyperfaas_protocol::{FunctionName, Namespace};

use super::*;
use crate::cluster::{Acquired, PoolCounts, Tending};
use crate::engine::{ContainerId, Image, Standby};
use crate::node::standby::StandbyPolicy;
use crate::scheduler::{Phase, Wanted};

const REVISION: u64 = 3;

fn key() -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("ns").unwrap(),
        name: FunctionName::parse("f").unwrap(),
    }
}

fn at(ms: u64) -> Moment {
    Moment::from_millis(ms)
}

/// No function's interpreter can wait.
fn nobody(_: &FunctionKey, _: u64, _: &Image) -> bool {
    false
}

fn host() -> ReplicaId {
    ReplicaId("standby.1".into())
}

fn container() -> ContainerId {
    ContainerId("c1".into())
}

/// The first guest of the standby container is to leave.
fn release(cluster: &Cluster, ms: u64) {
    let why = Why::of(Rule::HandedOver, &crate::scheduler::FunctionView::new(key()), 0.0, at(ms));
    let place = crate::scheduler::WorkerPlace {
        host: host(),
        worker: 1,
        epoch: 1,
        kind: PlaceKind::Standby,
    };
    cluster.begin(&Action::Release { function: key(), place, why }, None, at(ms));
}

/// A cluster with one standby container ordered, whose watchdog has said nothing yet.
fn cluster(has_root: bool) -> Cluster {
    let cluster = Cluster::default();
    let quiet = Duration::from_secs(60);
    let policy = StandbyPolicy::new((1, 4), 1, Duration::from_secs(1), quiet).unwrap();
    cluster.open_pool(policy, move |_| if has_root { Ok(()) } else { Err("no root") });
    cluster.set_engine_up(true);
    let todo = cluster.tend(host, nobody, at(0));
    assert!(matches!(&todo[..], [Tending::Start(name)] if *name == host()), "{todo:?}");
    assert!(cluster.tend(host, nobody, at(0)).is_empty(), "each thing is told once");
    let image = Image {
        reference: "f:1".into(),
        id: "sha256:1".into(),
        digest: None,
        env: Vec::new(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: "app".into(),
        directory: String::new(),
    };
    let prepare = Action::Prepare { function: key(), revision: REVISION };
    cluster.begin(&prepare, None, at(0));
    cluster.prepared(&key(), REVISION, Ok(Arc::new(image)), at(0));
    cluster
}

fn started(cluster: &Cluster) {
    let standby = Standby {
        container: container(),
        name: host(),
        http_port: 8080,
        control_port: 18079,
        is_running: true,
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    cluster.standby_started(&host(), &standby, 7).unwrap();
}

fn able(guests: bool) -> Report {
    let workers = u8::try_from(WORKERS).unwrap();
    Report::Abilities(Abilities { workers, second_own: false, guests, lanes: 1, holds: guests })
}

fn worker(epoch: u64, state: WorkerState) -> Report {
    Report::Worker(WorkerReport { worker: 1, epoch, state, guest: None, reason: None, crashes: 0 })
}

fn say(cluster: &Cluster, report: Report, ms: u64) {
    cluster.standby_reported(&host(), report, at(ms));
}

/// One that waits.
fn waiting() -> Cluster {
    let cluster = cluster(true);
    started(&cluster);
    say(&cluster, able(true), 1);
    assert_eq!(cluster.pool().ready, 0, "its worker may be anything");
    say(&cluster, worker(0, WorkerState::Generic), 1);
    assert_eq!(cluster.pool(), PoolCounts { ready: 1, ..PoolCounts::default() });
    cluster
}

/// What the scheduler asks of the function now; its own starts aside.
fn planned(cluster: &Cluster, ms: u64) -> Vec<Action> {
    let wanted = Wanted { revision: REVISION, replicas: 1, call: 1, scaling: Arc::default() };
    let mut budget = cluster.budget();
    cluster.plan(&key(), Some(wanted), &mut budget, at(ms)).unwrap().plan.actions
}

fn parked(cluster: &Cluster) -> crate::cluster::Parked {
    let far = cluster.clock().now().after(Duration::from_secs(600));
    match cluster.park(&key(), far, &[]) {
        crate::cluster::Parking::Parked(parked) => parked,
        other => panic!("{other:?}"),
    }
}

/// The visit that the waiting request asks for, begun.
fn visiting(cluster: &Cluster) {
    let actions = planned(cluster, 10);
    let [action @ Action::Specialise { place, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&place.host, place.kind), (&host(), PlaceKind::Standby));
    let taken = cluster.begin_visit(action, at(10)).expect("it waits");
    assert_eq!((taken.container, taken.route.process.get()), (container(), Some(&7)));
    assert!(cluster.begin_visit(action, at(10)).is_none(), "given away once");
    assert!(planned(cluster, 10).is_empty(), "one visit to begin with");
}

fn troubles(cluster: &Cluster) -> Vec<String> {
    cluster.decisions(&key()).into_iter().filter_map(|one| one.trouble).collect()
}

#[tokio::test]
async fn a_request_that_waits_is_let_go_to_the_guest_and_the_container_is_ended_afterwards() {
    let cluster = waiting();
    assert_eq!(cluster.available(&key()), 0, "nobody wants the function yet");
    assert!(planned(&cluster, 5).is_empty(), "nothing waits");
    assert_eq!(cluster.available(&key()), 1, "it could be served at once");
    let mut parked = parked(&cluster);
    visiting(&cluster);
    assert_eq!(cluster.available(&key()), 0);
    say(&cluster, worker(0, WorkerState::Generic), 11);
    assert_eq!(cluster.visit(&key(), &host()), Some(WorkerState::Specialising), "not heard yet");
    say(&cluster, worker(1, WorkerState::Ready), 12);
    assert!(planned(&cluster, 12).is_empty(), "it has its place, though it does not know yet");
    let ticket = parked.ticket().await.unwrap();
    let worker = ticket.worker();
    assert_eq!((worker.worker, worker.epoch, ticket.route().owner.clone()), (1, 1, None));
    assert_eq!((ticket.route().in_flight(), cluster.available(&key())), (1, 1));
    drop(parked);

    let place = match &cluster.decisions(&key())[..] {
        [one] => one.place,
        other => panic!("{other:?}"),
    };
    assert_eq!(place, Some("standby"));
    release(&cluster, 20);
    assert!(matches!(cluster.acquire(&key(), REVISION, &[]), Acquired::Wait), "no new request");
    assert_eq!(ticket.route().in_flight(), 1, "the one under way is finished");
    let todo = cluster.tend(|| ReplicaId("standby.2".into()), nobody, at(20));
    assert!(
        matches!(&todo[..], [Tending::Start(_), Tending::End(name, _)] if *name == host()),
        "{todo:?}"
    );
    cluster.visit_ended(&host());
    cluster.standby_ended(&container());
    assert!(ticket.route().gone.is_cancelled());
    drop(ticket);
    assert_eq!(cluster.visit(&key(), &host()), None);
    assert!(troubles(&cluster).is_empty());
}

#[tokio::test]
async fn the_pool_is_refilled_once_a_visit_that_begins_has_had_its_time() {
    let cluster = waiting();
    let _parked = parked(&cluster);
    visiting(&cluster);
    let another = || ReplicaId("standby.2".into());
    assert!(cluster.tend(another, nobody, at(20)).is_empty());
    assert_eq!(cluster.tend_at(at(20)), Some(at(60)));
    say(&cluster, worker(1, WorkerState::Ready), 25);
    assert!(cluster.tend(another, nobody, at(30)).is_empty(), "its first answers");
    assert_eq!(cluster.tend_at(at(30)), Some(at(35)));
    let todo = cluster.tend(another, nobody, at(35));
    assert!(matches!(&todo[..], [Tending::Start(_)]), "{todo:?}");
    assert_eq!(cluster.tend_at(at(35)), None);
}

#[tokio::test]
async fn a_container_that_comes_back_is_given_away_under_a_new_epoch_once_it_is_empty() {
    let cluster = waiting();
    let quiet = Duration::from_secs(60);
    let policy = StandbyPolicy::new((1, 4), 1, Duration::from_secs(1), quiet).unwrap();
    cluster.open_pool(policy.returning(true), |_| Ok(()));
    let waiter = parked(&cluster);
    visiting(&cluster);
    say(&cluster, worker(1, WorkerState::Ready), 12);
    drop(waiter);
    release(&cluster, 20);
    let todo = cluster.tend(|| ReplicaId("standby.2".into()), nobody, at(20));
    let returns =
        |one: &Tending| matches!(one, Tending::Return(name, _, (1, 1)) if *name == host());
    assert!(todo.iter().any(returns), "{todo:?}");
    cluster.visit_ended(&host());
    assert!(!cluster.standby_returned(&host()), "its processes run");
    say(&cluster, worker(1, WorkerState::Draining), 21);
    say(&cluster, worker(0, WorkerState::Generic), 21);
    assert_eq!(cluster.is_empty_again(&host()), Some(false), "that is not this guest's end");
    say(&cluster, worker(1, WorkerState::Generic), 22);
    assert!(cluster.standby_returned(&host()));
    let epochs = cluster.offers().into_iter().map(|offer| (offer.host, offer.epoch));
    assert_eq!(epochs.collect::<Vec<_>>(), [(host(), 2)]);
}

#[tokio::test]
async fn what_a_guest_uses_is_counted_as_its_functions_cost() {
    let cluster = waiting();
    let _parked = parked(&cluster);
    visiting(&cluster);
    say(&cluster, worker(1, WorkerState::Ready), 12);
    let cost = || cluster.find(&key()).unwrap().lock().view.traffic.cost_us();
    let load = |served| {
        let load = Load { served, cpu_millicores: Some(500), ..Load::default() };
        Report::Load(Box::new(load))
    };
    say(&cluster, load(3), 1_000);
    assert_eq!(cost(), None, "its start is no request's cost");
    say(&cluster, load(13), 2_000);
    let cost = cost().expect("known");
    assert!((cost - 50_000.0).abs() < 1.0, "half a second for ten: {cost}");
}

#[tokio::test]
async fn a_container_that_dies_takes_its_guest_along_and_those_who_wait_go_on_waiting() {
    let cluster = waiting();
    let parked = parked(&cluster);
    visiting(&cluster);
    cluster.died(&container(), 137, at(15));
    assert_eq!(cluster.visit(&key(), &host()), None);
    assert_eq!(troubles(&cluster), ["its container ended"]);
    assert_eq!(cluster.parked(), 1);
    assert!(matches!(cluster.standing_of(&key(), REVISION), Acquired::Wait));
    assert!(cluster.phases(&key()).iter().all(|phase| *phase != Phase::Ended));
    let todo = cluster.tend(|| ReplicaId("standby.2".into()), nobody, at(16));
    assert!(todo.iter().any(|one| matches!(one, Tending::End(name, _) if *name == host())));
    drop(parked);
}

#[tokio::test]
async fn a_visit_that_fails_is_not_tried_again_at_once() {
    let cluster = waiting();
    let _parked = parked(&cluster);
    visiting(&cluster);
    let refused = Report::Refused { worker: 1, epoch: 1, reason: "no room".into() };
    say(&cluster, refused, 12);
    assert_eq!(troubles(&cluster), ["order refused: no room"]);
    // Another one waits by then.
    let another = ReplicaId("standby.2".into());
    cluster.tend(|| another.clone(), nobody, at(13));
    let standby = Standby {
        container: ContainerId("c2".into()),
        name: another.clone(),
        http_port: 1,
        control_port: 2,
        is_running: true,
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    cluster.standby_started(&another, &standby, 8).unwrap();
    cluster.standby_reported(&another, able(true), at(14));
    cluster.standby_reported(&another, worker(0, WorkerState::Generic), at(14));
    assert_eq!(cluster.pool().ready, 1);
    assert!(planned(&cluster, 500).is_empty());
    assert_eq!(planned(&cluster, 1_500).len(), 1, "after a second");
}

#[test]
fn without_its_root_a_function_waits_for_its_own_container() {
    let cluster = cluster(false);
    started(&cluster);
    say(&cluster, able(true), 1);
    say(&cluster, worker(0, WorkerState::Generic), 1);
    let _parked = parked(&cluster);
    assert!(planned(&cluster, 5).is_empty());
    assert_eq!(cluster.available(&key()), 0);
}

#[test]
fn what_cannot_keep_guests_apart_or_has_run_something_is_no_standby() {
    let unable = cluster(true);
    started(&unable);
    say(&unable, able(false), 1);
    let ends = |todo: Vec<Tending>| matches!(&todo[..], [Tending::End(..)]);
    assert!(ends(unable.tend(host, nobody, at(2))), "and no other is started");

    let used = cluster(true);
    started(&used);
    say(&used, worker(1, WorkerState::Ready), 1);
    assert_eq!(used.pool().leaving, 1);
}

/// Any function's interpreter can wait.
fn anybody(_: &FunctionKey, _: u64, _: &Image) -> bool {
    true
}

fn wanted(revision: u64) -> Wanted {
    Wanted { revision, replicas: 0, call: 1, scaling: Arc::default() }
}

/// One that waits, and a function at zero that was called a while ago.
fn idle() -> Cluster {
    let cluster = waiting();
    cluster.hold_zygotes(1);
    cluster.plan(&key(), Some(wanted(REVISION)), &mut cluster.budget(), at(2));
    assert!(cluster.tend(host, anybody, at(3)).is_empty(), "it was never called");
    cluster.arrived(&key());
    cluster
}

/// The place where the interpreter of the function has been told to wait.
fn held(cluster: &Cluster, ms: u64) {
    let todo = cluster.tend(|| ReplicaId("standby.2".into()), anybody, at(ms));
    let [Tending::Hold(name, _, of, 1), Tending::Start(_)] = &todo[..] else { panic!("{todo:?}") };
    assert_eq!((name, of), (&host(), &(key(), REVISION)));
    assert_eq!((cluster.pool().held, cluster.pool().ready), (1, 0));
    assert!(cluster.order_zygote(&host(), 1, Order::Unknown, at(ms)));
}

#[tokio::test]
async fn a_function_goes_on_where_its_interpreter_waits() {
    let cluster = idle();
    held(&cluster, 2000);
    let _parked = parked(&cluster);
    assert!(planned(&cluster, 2001).is_empty(), "its watchdog has not said that it follows");
    say(&cluster, worker(1, WorkerState::Specialising), 2002);
    let actions = planned(&cluster, 2003);
    let [action @ Action::Specialise { place, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&place.host, place.kind, place.epoch), (&host(), PlaceKind::Zygote, 1));
    assert!(cluster.budget().offers.is_empty(), "it is on offer to nobody else");
    cluster.begin_visit(action, at(2003)).expect("it waits");
    assert!(cluster.begin_visit(action, at(2003)).is_none(), "given away once");
    assert_eq!((cluster.pool().held, cluster.pool().taken), (0, 1));
    say(&cluster, worker(1, WorkerState::Ready), 2010);
    assert_eq!(cluster.visit(&key(), &host()), Some(WorkerState::Ready));
    let told: Vec<_> =
        cluster.decisions(&key()).iter().map(|one| (one.action, one.place)).collect();
    assert_eq!(told, [("hold", Some("zygote")), ("specialise", Some("zygote"))]);
}

#[test]
fn an_interpreter_that_does_not_wait_is_not_tried_again_with_this_revision() {
    for report in [
        worker(1, WorkerState::Crashed),
        worker(1, WorkerState::Ready),
        Report::Refused { worker: 1, epoch: 1, reason: "no".into() },
    ] {
        let cluster = idle();
        held(&cluster, 2000);
        say(&cluster, report, 2001);
        assert_eq!((cluster.pool().held, cluster.pool().leaving), (0, 1));
        assert_eq!(troubles(&cluster).len(), 1);
        let todo = cluster.tend(host, anybody, at(4000));
        assert!(matches!(&todo[..], [Tending::End(name, _)] if *name == host()), "{todo:?}");
        assert!(!cluster.order_zygote(&host(), 1, Order::Unknown, at(4001)), "called off");
    }
}

#[test]
fn an_interpreter_of_an_old_revision_is_let_go_and_never_used() {
    let cluster = idle();
    held(&cluster, 2000);
    say(&cluster, worker(1, WorkerState::Specialising), 2001);
    cluster.plan(&key(), Some(wanted(REVISION + 1)), &mut cluster.budget(), at(2002));
    assert!(cluster.zygote_of(&key(), Some(&wanted(REVISION + 1))).is_none());
    let todo = cluster.tend(host, anybody, at(4000));
    assert!(matches!(&todo[..], [Tending::End(name, _)] if *name == host()), "{todo:?}");
}
