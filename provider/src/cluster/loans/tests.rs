//! What becomes of a lent worker, event by event.

use std::net::{IpAddr, Ipv4Addr};

use hyperfaas_protocol::control::{Abilities, OwnerState, Pressure, Watermark, Work};
use hyperfaas_protocol::control::{Level, LogStream};
use hyperfaas_protocol::{FunctionName, control};

use super::*;
use crate::cluster::{Acquired, Parked, Parking};
use crate::engine::{Image, Observed};
use crate::scheduler::{Action, FunctionView, Grant, Scaling};

const REVISION: u64 = 3;

fn key(name: &str) -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("ns").unwrap(),
        name: FunctionName::parse(name).unwrap(),
    }
}

fn at(ms: u64) -> Moment {
    Moment::from_millis(ms)
}

fn host() -> ReplicaId {
    ReplicaId("ns.owner.1".into())
}

fn container() -> ContainerId {
    ContainerId("c1".into())
}

fn wanted(share: Option<&str>) -> Wanted {
    let scaling = Scaling { share: share.map(Arc::from), ..Scaling::default() };
    Wanted { revision: REVISION, replicas: 1, call: 1, scaling: Arc::new(scaling) }
}

fn plan(cluster: &Cluster, name: &str, share: Option<&str>, ms: u64) -> Vec<Action> {
    let mut budget = cluster.budget();
    let plan = cluster.plan(&key(name), Some(wanted(share)), &mut budget, at(ms));
    assert!(budget.offers.is_empty(), "what is lent is on offer to nobody else");
    plan.unwrap().plan.actions
}

/// An owner with a ready container, and a guest with an image; `root` says what is known of both images.
fn cluster(root: Result<(), &'static str>) -> Cluster {
    let cluster = Cluster::default();
    cluster.open_sharing(Duration::from_secs(5), move |_| root);
    cluster.set_engine_up(true);
    for name in ["owner", "guest"] {
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
        let prepare = Action::Prepare { function: key(name), revision: REVISION };
        cluster.begin(&prepare, None, at(0));
        cluster.prepared(&key(name), REVISION, Ok(Arc::new(image)), at(0));
    }
    let observed = Observed {
        container: container(),
        replica: host(),
        function: key("owner"),
        revision: REVISION,
        http_port: 8080,
        control_port: 18079,
        is_running: true,
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    cluster.adopt(&observed, Grant::default(), at(0)).unwrap();
    cluster.reported(&key("owner"), &host(), OwnerState::Ready, None, at(1));
    cluster
}

fn say(cluster: &Cluster, epoch: u64, state: WorkerState, guest: Option<&str>, ms: u64) {
    let guest = guest.map(ToOwned::to_owned);
    let report = WorkerReport { worker: 1, epoch, state, guest, reason: None, crashes: 0 };
    cluster.worker(&key("owner"), &host(), &report, at(ms));
}

fn able(cluster: &Cluster, guests: bool) {
    let abilities = Abilities { workers: 2, second_own: true, guests, lanes: 1, holds: false };
    cluster.able(&key("owner"), &host(), abilities);
    say(cluster, 0, WorkerState::Generic, None, 1);
}

fn lending() -> Cluster {
    let cluster = cluster(Ok(()));
    able(&cluster, true);
    plan(&cluster, "owner", Some("team"), 2);
    plan(&cluster, "guest", Some("team"), 2);
    cluster
}

fn parked(cluster: &Cluster, name: &str) -> Parked {
    let far = cluster.clock().now().after(Duration::from_secs(600));
    match cluster.park(&key(name), far, &[]) {
        Parking::Parked(parked) => parked,
        other => panic!("{other:?}"),
    }
}

fn refusals(cluster: &Cluster) -> Vec<String> {
    let all = cluster.decisions(&key("guest")).into_iter();
    all.filter(|one| one.action == "place-refused").filter_map(|one| one.trouble).collect()
}

/// The visit that the waiting request asks for, begun.
fn visiting(cluster: &Cluster, epoch: u64) -> (Host, WorkerPlace) {
    let actions = plan(cluster, "guest", Some("team"), 10);
    let [action @ Action::Specialise { place, .. }] = &actions[..] else { panic!("{actions:?}") };
    let expected = WorkerPlace { host: host(), worker: 1, epoch, kind: PlaceKind::Guest };
    assert_eq!(*place, expected);
    let taken = cluster.begin_visit(action, at(10)).expect("it is on offer");
    assert_eq!(taken.container, container());
    assert!(cluster.begin_visit(action, at(10)).is_none(), "lent once");
    (taken, expected)
}

fn order(cluster: &Cluster, host: &Host, place: &WorkerPlace) -> bool {
    let work = Work::Own; // what it is to run does not matter here
    let order = Order::Specialise { worker: 1, epoch: place.epoch, work };
    cluster.order_guest(host, place, order)
}

/// A guest that serves.
fn serving() -> (Cluster, Host, Parked) {
    let cluster = lending();
    let parked = parked(&cluster, "guest");
    let (taken, place) = visiting(&cluster, 1);
    assert!(order(&cluster, &taken, &place));
    say(&cluster, 1, WorkerState::Specialising, Some("guest.ns"), 11);
    say(&cluster, 1, WorkerState::Ready, Some("guest.ns"), 12);
    assert_eq!(cluster.visit(&key("guest"), &host()), Some(WorkerState::Ready));
    (cluster, taken, parked)
}

fn released(host: &Host) -> Option<u64> {
    match *host.route.orders.borrow() {
        Some(Order::Release { epoch, .. }) => Some(epoch),
        _ => None,
    }
}

fn clear(cluster: &Cluster) {
    let over = cluster.loans_over();
    assert_eq!(over.len(), 1);
    assert!(cluster.loans_over().is_empty(), "told once");
    cluster.loan_cleared(&over[0].name);
}

#[tokio::test]
async fn requests_go_to_the_guest_and_never_to_the_owner_beside_it() {
    let (cluster, taken, mut parked) = serving();
    let ticket = parked.ticket().await.unwrap();
    let at_guest = ticket.worker();
    assert_eq!((at_guest.worker, at_guest.epoch), (1, 1));
    let mut owners = Vec::new();
    for _ in 0..4 {
        let Acquired::Placed(ticket) = cluster.acquire(&key("owner"), REVISION, &[]) else {
            panic!("not placed")
        };
        assert_eq!(ticket.worker().worker, 0);
        owners.push(ticket);
    }
    assert_eq!(taken.route.in_flight(), 5);

    // Above its watermark the owner has the place back; what runs is finished.
    let mark = Watermark { level: Level::High, reason: Some(Pressure::Cpu), crossings: 1 };
    cluster.marked(&key("owner"), &host(), mark);
    let actions = plan(&cluster, "owner", Some("team"), 20);
    let [action @ Action::Release { why, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(why.rule, Rule::OwnerNeeds);
    cluster.begin(action, None, at(20));
    assert_eq!(released(&taken), Some(1));
    assert!(matches!(cluster.acquire(&key("guest"), REVISION, &[]), Acquired::Wait));
    assert!(cluster.decisions(&key("guest")).iter().any(|d| d.why.rule == Rule::OwnerNeeds));
    drop((ticket, owners));
    assert!(cluster.loans_over().is_empty(), "its watchdog is at it");
    say(&cluster, 1, WorkerState::Generic, None, 21);
    clear(&cluster);
    assert_eq!(cluster.visit(&key("guest"), &host()), None);
    assert!(taken.route.orders.borrow().is_none(), "no old order is repeated on a new link");
    let calm = Watermark { level: Level::Low, reason: None, crossings: 2 };
    cluster.marked(&key("owner"), &host(), calm);
    drop(parked);
    let _parked = self::parked(&cluster, "guest");
    visiting(&cluster, 2);
}

#[test]
fn a_visit_called_off_before_its_order_leaves_the_worker_as_it_was() {
    let cluster = lending();
    let _parked = parked(&cluster, "guest");
    let (taken, place) = visiting(&cluster, 1);
    cluster.visit_failed(&key("guest"), &host(), "no slot".into(), at(11));
    assert!(!order(&cluster, &taken, &place), "too late");
    assert!(taken.route.orders.borrow().is_none(), "its watchdog hears nothing");
    clear(&cluster);
    let all = plan(&cluster, "guest", Some("team"), 5_000);
    let is_next = |a: &Action| matches!(a, Action::Specialise { place, .. } if place.epoch == 2);
    assert!(all.iter().any(is_next), "{all:?}");
}

#[test]
fn a_refused_guest_costs_the_owner_nothing() {
    let cluster = lending();
    let _parked = parked(&cluster, "guest");
    let (taken, place) = visiting(&cluster, 1);
    assert!(order(&cluster, &taken, &place));
    cluster.refused(&key("owner"), &host(), (1, 1), "mode static", at(11));
    let troubles: Vec<_> =
        cluster.decisions(&key("guest")).into_iter().filter_map(|one| one.trouble).collect();
    assert_eq!(troubles, ["order refused: mode static"]);
    assert_eq!(released(&taken), None, "there is nothing to release");
    clear(&cluster);
    assert!(cluster.cell(&key("owner")).view().replicas[0].has_second_own);
}

#[test]
fn a_container_that_ends_or_leaves_takes_no_request_of_its_guest_along() {
    let (cluster, _, _parked) = serving();
    cluster.died(&container(), 137, at(15));
    assert_eq!(cluster.visit(&key("guest"), &host()), None);
    clear(&cluster);

    let (cluster, taken, _parked) = serving();
    let why = Why::of(Rule::TooMany, &FunctionView::new(key("owner")), 0.0, at(15));
    let drain = Action::Drain { function: key("owner"), replica: host(), why };
    cluster.begin(&drain, None, at(15));
    assert_eq!(released(&taken), Some(1));
    assert_eq!(cluster.visit(&key("guest"), &host()), Some(WorkerState::Draining));
    assert!(matches!(cluster.acquire(&key("guest"), REVISION, &[]), Acquired::Wait));
    cluster.removed(&container());
    clear(&cluster);
    assert_eq!(cluster.visit(&key("guest"), &host()), None);
}

#[test]
fn a_guest_that_nobody_ordered_is_sent_away_and_gets_no_request() {
    let cluster = cluster(Ok(()));
    let abilities =
        Abilities { workers: 2, second_own: true, guests: true, lanes: 1, holds: false };
    cluster.able(&key("owner"), &host(), abilities);
    say(&cluster, 7, WorkerState::Ready, Some("guest.ns"), 2);
    let (_, route) = cluster.leaving(&key("owner"), &host()).unwrap();
    let route = route.unwrap();
    assert!(matches!(*route.orders.borrow(), Some(Order::Release { epoch: 7, .. })));
    for _ in 0..4 {
        let Acquired::Placed(ticket) = cluster.acquire(&key("owner"), REVISION, &[]) else {
            panic!("not placed")
        };
        assert_eq!(ticket.worker().worker, 0, "the second worker is not the owner's");
    }
    say(&cluster, 7, WorkerState::Draining, Some("guest.ns"), 3);
    say(&cluster, 7, WorkerState::Generic, None, 4);
    clear(&cluster);
    plan(&cluster, "owner", Some("team"), 5);
    plan(&cluster, "guest", Some("team"), 5);
    let _parked = parked(&cluster, "guest");
    visiting(&cluster, 8);
}

#[test]
fn who_does_not_lend_says_why_and_not_at_every_tick() {
    for (root, guests, share, reason) in [
        (Ok(()), false, "team", "its watchdog cannot keep guests apart"),
        (Err("its image runs as root"), true, "team", "its image runs as root"),
        (Ok(()), true, "others", "no other function of its share group has a container"),
    ] {
        let cluster = cluster(root);
        able(&cluster, guests);
        plan(&cluster, "owner", Some("team"), 2);
        let _parked = parked(&cluster, "guest");
        for ms in [10, 20, 30] {
            assert!(plan(&cluster, "guest", Some(share), ms).is_empty(), "{reason}");
        }
        assert_eq!(refusals(&cluster), [reason]);
        plan(&cluster, "guest", Some(share), 90_000);
        assert_eq!(refusals(&cluster).len(), 2, "a minute later it is news again");
    }
    let cluster = lending();
    let Acquired::Placed(busy) = cluster.acquire(&key("owner"), REVISION, &[]) else {
        panic!("not placed")
    };
    let _parked = parked(&cluster, "guest");
    assert!(plan(&cluster, "guest", Some("team"), 10).is_empty());
    assert_eq!(refusals(&cluster), ["its owner has requests"]);
    drop(busy);
    visiting(&cluster, 1);
    let stranger = lending();
    let _parked = parked(&stranger, "guest");
    assert!(plan(&stranger, "guest", None, 10).is_empty(), "it agreed to nothing");
    assert!(refusals(&stranger).is_empty());
}

#[test]
fn a_guests_line_is_its_own_even_after_it_has_gone() {
    let cluster = lending();
    let line = |function: &str| LogLine {
        worker: 1,
        epoch: 1,
        function: function.into(),
        stream: LogStream::Stdout,
        time_ms: 5,
        text: "said".into(),
        is_cut: false,
        lost: 0,
    };
    cluster.lent_said(&key("owner"), &host(), line("guest.ns"));
    cluster.lent_said(&key("owner"), &host(), line("no such name"));
    assert_eq!(cluster.visit_lines(&key("guest"), &host(), None).len(), 1);
    assert!(cluster.visit_lines(&key("owner"), &host(), None).is_empty());
}

#[test]
fn what_a_guest_uses_is_not_its_owners() {
    let (cluster, _, _parked) = serving();
    let own = control::WorkerLoad { in_flight: 1, ..control::WorkerLoad::default() };
    let guests = control::WorkerLoad {
        epoch: 1,
        in_flight: 3,
        in_flight_max: Some(5),
        ..control::WorkerLoad::default()
    };
    let load = |served| Load {
        served,
        cpu_millicores: Some(400),
        in_flight: 4,
        workers: Some([own, guests]),
        ..Load::default()
    };
    cluster.loaded(&key("owner"), &host(), load(1), at(1_000));
    cluster.loaded(&key("owner"), &host(), load(9), at(2_000));
    let view = cluster.cell(&key("owner")).view();
    assert_eq!(view.replicas[0].load.unwrap().cpu, Some(100));
    assert_eq!(view.traffic.cost_us(), None);
    assert_eq!(cluster.cell(&key("guest")).view().guests[0].limit, 5);
}
