//! One function under load, in virtual time: a small closed loop around the very decisions.
//!
//! Containers share their quota between the requests they serve, report every second and become ready 300 ms after their start;
//! the host has as much as a test says. A run is repeatable from its seed.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};
use proptest::prelude::*;

use super::demand::whole;
use super::*;
use crate::engine::ReplicaId;

const STEP_MS: u64 = 10;
/// How fast time goes while nothing happens.
const IDLE_STEP_MS: u64 = 100;
const START_MS: u64 = 300;

/// Knuth's MMIX generator: a seed means the same run for ever.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A request: when it came, and what it still costs, microseconds of CPU.
#[derive(Clone, Copy)]
struct Request {
    came: u64,
    left: f64,
}

struct Container {
    requests: Vec<Request>,
    used: f64,
    served: u64,
    ready_at: u64,
}

struct World {
    view: FunctionView,
    containers: Vec<Container>,
    parked: Vec<Request>,
    policy: Policy,
    node: NodeView,
    measured: f64,
    others: u32,
    cost_us: f64,
    ms: u64,
    next_arrival: f64,
    chance: Chance,
    started: usize,
    /// Every action with its time.
    log: Vec<(u64, Action)>,
    /// When each answered request came, and how long it took.
    answers: Vec<(u64, u64)>,
}

fn key(name: &str) -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("ns").unwrap(),
        name: FunctionName::parse(name).unwrap(),
    }
}

fn cpu(millis: u32) -> Grant {
    Grant { cpu: Some(millis), memory: None }
}

/// 200 millicores each, and as many as `ceiling` in a burst.
fn scaling(ceiling: u32) -> Scaling {
    Scaling { base: cpu(200), initial: cpu(200), ceiling: cpu(ceiling), ..Scaling::default() }
}

impl World {
    fn new(scaling: Scaling, cost_us: f64) -> Self {
        let mut view = FunctionView::new(key("f"));
        let replicas = scaling.min;
        view.wanted = Some(Wanted { revision: 1, replicas, call: 1, scaling: Arc::new(scaling) });
        view.image = ImageState::Present;
        Self {
            view,
            containers: Vec::new(),
            parked: Vec::new(),
            policy: Policy::default(),
            node: NodeView { cpu: 4000, memory: 8 << 30, ..NodeView::default() },
            measured: 0.0,
            others: 0,
            cost_us,
            ms: 0,
            next_arrival: 0.0,
            chance: Chance(7),
            started: 0,
            log: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn now(&self) -> Moment {
        Moment::from_millis(self.ms)
    }

    /// Goes on for `ms` with `rate` requests a second on average (a Poisson process).
    fn run(&mut self, rate: f64, ms: u64) {
        let end = self.ms + ms;
        if self.next_arrival < self.ms as f64 {
            self.next_arrival = self.ms as f64;
        }
        while self.ms < end {
            let is_idle = rate == 0.0 && self.parked.is_empty() && self.view.in_flight() == 0;
            let step = if is_idle { IDLE_STEP_MS } else { STEP_MS };
            while rate > 0.0 && self.next_arrival < (self.ms + STEP_MS) as f64 {
                if self.next_arrival >= self.ms as f64 {
                    self.arrive();
                }
                self.next_arrival += -self.chance.unit().max(1e-12).ln() * 1000.0 / rate;
            }
            self.serve();
            let seconds = self.ms / 1000;
            self.ms += step;
            if self.ms / 1000 > seconds {
                self.report();
            }
            self.plan();
            self.check();
        }
    }

    fn arrive(&mut self) {
        let request = Request { came: self.ms, left: self.cost_us };
        let now = self.now();
        self.view.traffic.arrived(now);
        let ready = self.view.replicas.iter().enumerate().filter(|(_, r)| r.phase == Phase::Ready);
        match ready.min_by_key(|(_, r)| r.workers[0].in_flight).map(|(index, _)| index) {
            Some(index) => self.place(index, request),
            None => self.parked.push(request),
        }
        self.view.parked = u32::try_from(self.parked.len()).unwrap();
    }

    fn place(&mut self, index: usize, request: Request) {
        self.containers[index].requests.push(request);
        self.view.replicas[index].workers[0].in_flight += 1;
    }

    fn serve(&mut self) {
        let now = self.now();
        for (container, view) in self.containers.iter_mut().zip(&mut self.view.replicas) {
            if view.phase == Phase::Starting && self.ms >= container.ready_at {
                view.phase = Phase::Ready;
                view.since = now;
            }
            let step = STEP_MS as f64 * 1000.0;
            let quota = step * f64::from(view.grant.cpu.unwrap_or(4000)) / 1000.0;
            let share = (quota / container.requests.len().max(1) as f64).min(step);
            for request in &mut container.requests {
                container.used += share.min(request.left);
                request.left -= share;
            }
            for done in container.requests.iter().filter(|request| request.left <= 0.0) {
                let took = self.ms + STEP_MS - done.came;
                self.answers.push((done.came, took));
                self.view.traffic.answered(Duration::from_millis(took), now);
                container.served += 1;
            }
            container.requests.retain(|request| request.left > 0.0);
            view.workers[0].in_flight = u32::try_from(container.requests.len()).unwrap();
        }
        if let Some(index) = self.view.replicas.iter().position(|r| r.phase == Phase::Ready) {
            for request in std::mem::take(&mut self.parked) {
                self.place(index, request);
            }
            self.view.parked = 0;
        }
    }

    fn report(&mut self) {
        let now = self.now();
        let mut total = 0.0;
        for (container, view) in self.containers.iter_mut().zip(&mut self.view.replicas) {
            let used = std::mem::take(&mut container.used);
            let served = std::mem::take(&mut container.served);
            if used > 0.0 {
                self.view.traffic.used(used, served);
                let cpu = Some(whole(used / 1000.0));
                view.load = Some(LoadView { cpu, memory: None, at: now });
            }
            total += used / 1000.0;
        }
        self.measured = total;
    }

    fn plan(&mut self) {
        let own = whole(expected_use(&self.view, self.now()).max(self.measured));
        self.node.cpu_used = self.others + own;
        let mut budget = Budget {
            starts: self.policy.starts_at_once,
            specialisations: 4,
            hosts: Hosts::new(vec![self.node]),
            ..Budget::default()
        };
        let now = self.now();
        let one = plan_function(&self.view, &mut budget, &self.policy, now);
        self.view.scale = one.scale;
        let mut actions = one.plan.actions;
        if let Some(why) = one.missing_why {
            let key = self.view.key.clone();
            let mut missing = [Missing { key: &key, revision: 1, count: one.missing, why }];
            share_starts(&mut missing, budget.starts, &mut actions);
        }
        for action in actions {
            self.apply(&action);
            self.log.push((self.ms, action));
        }
        let gone = |view: &ReplicaView| view.phase == Phase::Draining && view.own_in_flight() == 0;
        for index in (0..self.view.replicas.len()).rev() {
            if gone(&self.view.replicas[index]) {
                self.view.replicas.remove(index);
                self.containers.remove(index);
            }
        }
    }

    fn apply(&mut self, action: &Action) {
        let now = self.now();
        match action {
            Action::Start { .. } => {
                self.started += 1;
                let id = ReplicaId(format!("r{}", self.started));
                let initial = self.view.wanted.as_ref().unwrap().scaling.initial;
                let mut view = ReplicaView::ordered(id, 1, initial, now);
                view.phase = Phase::Starting;
                self.view.replicas.push(view);
                let ready_at = self.ms + START_MS;
                self.containers.push(Container {
                    requests: Vec::new(),
                    used: 0.0,
                    served: 0,
                    ready_at,
                });
            }
            Action::Resize { replica, grant, .. } => {
                let view = self.view.replicas.iter_mut().find(|r| r.id == *replica).unwrap();
                view.grant = *grant;
                view.granted_at = now;
            }
            Action::Drain { replica, .. } => {
                let view = self.view.replicas.iter_mut().find(|r| r.id == *replica).unwrap();
                view.phase = Phase::Draining;
            }
            other => panic!("{other:?}"),
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        let scaling = &self.view.wanted.as_ref().unwrap().scaling;
        let live = self.view.replicas.iter().filter(|r| r.phase.is_live()).count();
        let most = scaling.max.min(self.policy.max_replicas) as usize;
        assert!(live <= most, "{live} replicas, at most {most}");
        assert!(self.view.scale.desired as usize <= most);
        let least = if scaling.zero_after.is_some() { 0 } else { scaling.min };
        assert!(self.view.scale.desired >= least);
        for replica in &self.view.replicas {
            let (base, most) =
                (scaling.base.cpu.unwrap_or(0), scaling.ceiling.cpu.unwrap_or(u32::MAX));
            let cpu = replica.grant.cpu.unwrap_or(base);
            assert!((base..=most).contains(&cpu), "{cpu} not in {base}..={most}");
        }
    }

    fn granted(&self) -> u32 {
        self.view.ready().map(|r| r.grant.cpu.unwrap_or(0)).sum()
    }

    fn ready(&self) -> usize {
        self.view.ready().count()
    }

    /// The slowest and the 99th percentile of the requests that came since `ms`.
    fn slowest_since(&self, ms: u64) -> (u64, u64) {
        let mut all: Vec<_> =
            self.answers.iter().filter(|(came, _)| *came >= ms).map(|(_, took)| *took).collect();
        all.sort_unstable();
        (all[all.len() - 1], all[all.len() * 99 / 100])
    }

    fn actions_since(&self, ms: u64, name: &str) -> usize {
        self.log.iter().filter(|(at, action)| *at >= ms && action.name() == name).count()
    }
}

#[test]
fn phase_1_takes_a_burst_before_there_is_a_backlog() {
    let mut world = World::new(scaling(2000), 10_000.0);
    world.run(4.0, 30_000);
    assert!(world.granted() <= 400 && world.ready() == 1, "{} granted", world.granted());
    world.run(60.0, 1_000);
    assert!(world.granted() >= 600, "{} granted a second into the burst", world.granted());
    world.run(60.0, 20_000);
    let (slowest, p99) = world.slowest_since(30_000);
    assert!(p99 < 500 && slowest < 1_000, "p99 {p99} ms, slowest {slowest} ms");
    world.run(1.0, 120_000);
    assert_eq!((world.granted(), world.ready()), (200, 1), "all is given back");
}

#[test]
fn above_the_ceiling_replicas_come_in_one_step_and_go_again() {
    let mut world = World::new(scaling(400), 10_000.0);
    world.run(4.0, 30_000);
    world.run(60.0, 10_000);
    assert!((3..=8).contains(&world.ready()), "{} replicas", world.ready());
    world.run(60.0, 170_000);
    let (_, p99) = world.slowest_since(40_000);
    assert!(p99 < 500, "p99 {p99} ms once it has settled");
    assert!((4..=8).contains(&world.ready()), "{} replicas", world.ready());
    world.run(1.0, 180_000);
    assert_eq!((world.granted(), world.ready()), (200, 1));
}

/// Replicas follow what is needed of what one has without a burst, not the chance in the arrivals.
#[test]
fn constant_load_settles_near_the_right_size() {
    let loads = [(60.0, 10_000.0, 2000), (60.0, 10_000.0, 400), (60.0, 10_000.0, 200)];
    for (rate, cost_us, ceiling) in loads.into_iter().chain([(12.0, 40_000.0, 200)]) {
        let right = whole((rate * cost_us / 1e6 / 0.7 / 0.2_f64).ceil());
        for seed in 1..6 {
            let mut world = World::new(Scaling { max: 20, ..scaling(ceiling) }, cost_us);
            world.chance = Chance(seed);
            world.run(rate / 15.0, 20_000);
            world.run(rate, 60_000); // what the step itself asked for is over
            for _ in 0..12 {
                world.run(rate, 10_000);
                let desired = world.view.scale.desired;
                let what =
                    format!("{desired} for {right}, {rate}/s, up to {ceiling}m, seed {seed}");
                assert!((right - 1..=right + 2).contains(&desired), "{what}");
            }
            let moves = world.actions_since(80_000, "start") + world.actions_since(80_000, "drain");
            assert!(moves <= 3, "{moves} moves, {rate}/s, up to {ceiling}m, seed {seed}");
        }
    }
}

#[test]
fn without_phase_1_the_number_of_replicas_alone_follows() {
    let mut world = World::new(scaling(2000), 10_000.0);
    world.policy.mode = Mode::Out;
    world.run(4.0, 30_000);
    world.run(60.0, 60_000);
    assert_eq!(world.actions_since(0, "resize"), 0);
    assert!((4..=8).contains(&world.ready()), "{} replicas", world.ready());
}

#[test]
fn switched_off_nothing_follows_the_load() {
    let mut world =
        World::new(Scaling { zero_after: Some(Duration::from_secs(1)), ..scaling(2000) }, 10_000.0);
    world.policy.mode = Mode::Off;
    world.run(60.0, 30_000);
    world.run(0.0, 60_000);
    assert_eq!((world.log.len(), world.granted(), world.ready()), (1, 200, 1));
}

#[test]
fn a_maximum_without_a_target_scales_as_the_alert_rule_does() {
    let alert =
        Scaling { max: 2, metric: Metric::Rps, target: 5.0, proportion: 1.0, ..scaling(200) };
    let mut world = World::new(alert, 2_000.0);
    world.run(10.0, 20_000);
    assert_eq!(world.view.scale.desired, 2);
    world.run(0.0, 55_000);
    assert_eq!(world.view.scale.desired, 1);
}

#[test]
fn a_target_in_flight_is_kept() {
    let capacity = Scaling {
        metric: Metric::Capacity,
        target: 4.0,
        proportion: 1.0,
        max: 50,
        ..Scaling::default()
    };
    let mut world = World::new(capacity, 500_000.0);
    world.run(20.0, 30_000);
    let per_replica = f64::from(world.view.in_flight()) / world.ready() as f64;
    assert!(per_replica <= 4.5, "{per_replica} in flight a replica");
}

#[test]
fn an_idle_function_sleeps_and_one_request_wakes_it() {
    let zero = Scaling { zero_after: Some(Duration::from_secs(30)), ..scaling(400) };
    let mut world = World::new(zero, 10_000.0);
    world.run(5.0, 10_000);
    world.run(0.0, 29_000);
    assert_eq!(world.ready(), 1);
    world.run(0.0, 5_000);
    assert_eq!((world.ready(), world.view.scale.desired), (0, 0));
    let (before, starts) = (world.answers.len(), world.actions_since(0, "start"));
    for _ in 0..200 {
        world.arrive();
    }
    world.run(0.0, 20_000);
    assert_eq!(world.answers.len() - before, 200);
    assert!(world.actions_since(0, "start") > starts);
}

#[test]
fn a_scale_call_holds_at_once_and_until_it_has_been_idle() {
    let mut world = World::new(scaling(400), 10_000.0);
    world.run(1.0, 5_000);
    let call = |world: &mut World, replicas, call| {
        let wanted = world.view.wanted.as_mut().unwrap();
        (wanted.replicas, wanted.call) = (replicas, call);
        world.plan();
        world.view.scale.desired
    };
    assert_eq!(call(&mut world, 5, 2), 5);
    world.run(1.0, 100_000);
    assert_eq!(world.ready(), 5, "held while it is used");
    world.run(0.0, 290_000);
    assert_eq!(world.ready(), 5);
    world.run(0.0, 120_000);
    assert_eq!(world.ready(), 1);
    assert_eq!(call(&mut world, 3, 3), 3);
    assert_eq!(call(&mut world, 2, 4), 2, "and downwards too");
    assert_eq!(call(&mut world, 0, 5), 0);
}

#[test]
fn what_a_restarted_provider_finds_is_not_taken_down_at_once() {
    let mut world = World::new(scaling(400), 10_000.0);
    for _ in 0..4 {
        let why = Why::of(Rule::Wanted, &world.view, 0.0, world.now());
        world.apply(&Action::Start { function: key("f"), revision: 1, why });
    }
    world.run(0.0, 10_000);
    assert_eq!((world.view.scale.desired, world.ready()), (1, 4));
    world.run(0.0, 20_000);
    assert_eq!(world.ready(), 1);
}

#[test]
fn no_more_replicas_are_started_than_the_host_can_feed() {
    let mut world = World::new(scaling(2000), 10_000.0);
    world.node.cpu = 2000;
    world.run(4.0, 20_000);
    world.run(400.0, 30_000); // twice what the host has
    assert!(world.ready() <= 10, "{} replicas of 200 millicores on 2 CPUs", world.ready());
    let mut crowded = World::new(scaling(2000), 10_000.0);
    crowded.node.cpu = 2000;
    crowded.others = 1400;
    crowded.run(100.0, 30_000);
    assert!(crowded.ready() <= 3, "{} replicas beside others", crowded.ready());
    let mut host = World::new(scaling(2000), 10_000.0);
    host.policy.mode = Mode::Out;
    (host.node.cpu, host.node.cpu_busy) = (2000, 2000); // all but its own part by what is no function
    host.run(100.0, 10_000);
    assert_eq!(host.ready(), 1, "more would only take from each other");
}

#[test]
fn more_than_the_host_has_left_is_not_granted() {
    let mut world = World::new(Scaling { max: 1, ..scaling(4000) }, 10_000.0);
    world.run(4.0, 20_000);
    world.node.cpu = 1500;
    world.others = 800; // what other functions use
    world.run(50.0, 5_000);
    assert!((500..=700).contains(&world.granted()), "{} granted", world.granted());
}

#[test]
fn a_container_above_its_watermark_gets_twice_as_much_until_that_helps() {
    let mut world = World::new(scaling(1000), 10_000.0);
    world.run(0.0, 1_000);
    world.view.replicas[0].pressure = Some(hyperfaas_protocol::control::Pressure::Throttled);
    world.run(0.0, 1_000);
    assert_eq!(world.granted(), 1000);
    world.view.replicas[0].pressure = None;
    world.run(0.0, 10_000);
    assert_eq!(world.granted(), 200);
}

#[test]
fn a_few_requests_that_come_together_are_no_reason_for_a_larger_quota() {
    let mut world = World::new(scaling(1000), 10_000.0);
    world.run(4.0, 20_000);
    world.view.replicas[0].pressure = Some(hyperfaas_protocol::control::Pressure::Throttled);
    world.run(4.0, 10_000);
    let by_watermark =
        |a: &Action| matches!(a, Action::Resize { why, .. } if why.rule == Rule::Watermark);
    assert!(!world.log.iter().any(|(at, a)| *at > 20_000 && by_watermark(a)), "{:?}", world.log);
}

#[test]
fn memory_follows_use_and_never_goes_below_what_was_asked_for() {
    let grant = |mib: u64| Grant { cpu: None, memory: Some(mib << 20) };
    let scaling =
        Scaling { base: grant(64), initial: grant(64), ceiling: grant(128), ..Scaling::default() };
    let mut world = World::new(scaling, 1_000.0);
    world.run(0.0, 1_000);
    let use_mib = |world: &mut World, mib: u64| {
        let load = LoadView { cpu: None, memory: Some(mib << 20), at: world.now() };
        world.view.replicas[0].load = Some(load);
        world.run(0.0, 6_000);
        world.view.replicas[0].grant.memory.unwrap() >> 20
    };
    assert_eq!(use_mib(&mut world, 30), 64);
    assert_eq!(use_mib(&mut world, 60), 96);
    assert_eq!(use_mib(&mut world, 90), 128);
    assert_eq!(use_mib(&mut world, 127), 128);
    assert_eq!(use_mib(&mut world, 60), 128, "it would not fit well");
    assert_eq!(use_mib(&mut world, 20), 64);
}

/// A ready replica of `function` with a second worker to give.
fn with_second(limit: u32, in_flight: u32) -> FunctionView {
    let mut world =
        World::new(Scaling { in_flight_max: Some(limit), max: 1, ..Scaling::default() }, 1.0);
    world.run(0.0, 1_000);
    let replica = &mut world.view.replicas[0];
    replica.has_second_own = true;
    replica.workers[0].limit = limit;
    replica.workers[0].in_flight = in_flight;
    world.view
}

fn actions(view: &FunctionView, offers: Vec<Offer>, ms: u64) -> Vec<Action> {
    let hosts = Hosts::new(vec![NodeView::default()]);
    let mut budget = Budget { starts: 4, specialisations: 4, hosts, offers, ..Budget::default() };
    plan_function(view, &mut budget, &Policy::default(), Moment::from_millis(ms)).plan.actions
}

#[test]
fn a_full_worker_gets_a_second_beside_it_and_it_goes_when_one_is_enough() {
    assert!(actions(&with_second(4, 3), vec![], 1_000).is_empty());
    let mut view = with_second(4, 4);
    let [Action::Specialise { place, .. }] = &actions(&view, vec![], 1_000)[..] else {
        panic!("no second worker")
    };
    assert_eq!((place.worker, place.epoch, place.kind), (1, 1, PlaceKind::Own));
    let second = &mut view.replicas[0].workers[1];
    (second.state, second.epoch) = (WorkerState::Specialising, 1);
    assert!(actions(&view, vec![], 1_010).is_empty(), "asked for once");
    view.replicas[0].workers[1].state = WorkerState::Ready;
    assert!(actions(&view, vec![], 20_000).is_empty(), "still needed");
    view.replicas[0].workers[0].in_flight = 1;
    let [Action::Release { place, .. }] = &actions(&view, vec![], 20_000)[..] else {
        panic!("not given back")
    };
    assert_eq!((place.worker, place.epoch), (1, 1));
}

fn offer(host: &str, owner: Option<&str>, share: Option<&str>) -> Offer {
    Offer {
        is_zygote: false,
        host: ReplicaId(host.into()),
        worker: 1,
        epoch: 1,
        node: NodeId(0),
        owner: owner.map(key),
        share: share.map(Arc::from),
        owner_in_flight: 0,
    }
}

#[test]
fn a_guest_place_is_asked_for_in_order_of_price_and_only_where_both_agreed() {
    let mut view = FunctionView::new(key("f"));
    let shared = Scaling { share: Some(Arc::from("team")), ..Scaling::default() };
    view.wanted = Some(Wanted { revision: 1, replicas: 1, call: 1, scaling: Arc::new(shared) });
    view.image = ImageState::Present;
    view.parked = 1;
    let places = |view: &FunctionView, offers| -> Vec<_> {
        let place = |action| match action {
            Action::Specialise { place, .. } => Some(place.host.0),
            _ => None,
        };
        actions(view, offers, 1_000).into_iter().filter_map(place).collect()
    };
    let offers = vec![
        offer("stranger", Some("g"), None),
        offer("friend", Some("h"), Some("team")),
        offer("nobody", None, None),
    ];
    assert_eq!(places(&view, offers.clone()), ["nobody"], "one is enough to begin with");
    assert_eq!(places(&view, offers[..2].to_vec()), ["friend"]);
    let served = |state, count: usize| {
        let guest = |n: usize| GuestView {
            host: ReplicaId(format!("taken{n}")),
            worker: 1,
            epoch: 1,
            revision: 1,
            state,
            in_flight: 1,
            limit: 0,
            is_standby: true,
            since: Moment::ZERO,
        };
        FunctionView { guests: (0..count).map(guest).collect(), ..view.clone() }
    };
    assert!(places(&served(WorkerState::Specialising, 1), offers.clone()).is_empty());
    let more = served(WorkerState::Ready, 1);
    assert_eq!(places(&more, offers.clone()), ["nobody", "friend"], "it cannot keep up");
    assert_eq!(places(&served(WorkerState::Ready, 3), offers.clone()), ["nobody"]);
    assert!(places(&served(WorkerState::Ready, 4), offers.clone()).is_empty(), "its share");
    let unable = FunctionView { may_visit: false, ..view.clone() };
    assert!(places(&unable, offers.clone()).is_empty(), "no root");
    let failing = |ms| FunctionView {
        visit_failure: Some(Failure { count: 1, last: Moment::from_millis(ms) }),
        ..view.clone()
    };
    assert!(places(&failing(900), offers.clone()).is_empty(), "failed a moment ago");
    assert_eq!(places(&failing(0), offers.clone()), ["nobody"]);
    let alone = Scaling::default();
    view.wanted = Some(Wanted { revision: 1, replicas: 1, call: 1, scaling: Arc::new(alone) });
    assert_eq!(places(&view, offers), ["nobody"]);
    assert!(places(&view, vec![offer("stranger", Some("g"), None)]).is_empty());
    view.parked = 0;
    assert!(places(&view, vec![offer("nobody", None, None)]).is_empty(), "nobody waits");
}

#[test]
fn its_own_container_is_started_once_a_visit_that_begins_has_had_its_time() {
    let mut view = FunctionView::new(key("f"));
    let scaling = Arc::<Scaling>::default();
    view.wanted = Some(Wanted { revision: 1, replicas: 1, call: 1, scaling });
    view.image = ImageState::Present;
    view.parked = 1;
    let policy = Policy::default();
    let starts = |view: &FunctionView, offers: &[Offer], ms| {
        let budget = Budget { specialisations: 1, offers: offers.to_vec(), ..Budget::default() };
        let now = Moment::from_millis(ms);
        let planned = plan_function(view, &mut budget.clone(), &policy, now);
        (planned.missing, planned.plan.wake_at)
    };
    let nobody = offer("nobody", None, None);
    assert_eq!(starts(&view, &[], 1_000).0, 1, "no visit, nothing to wait for");
    let waits = |until| (0, Some(Moment::from_millis(until)));
    assert_eq!(starts(&view, std::slice::from_ref(&nobody), 1_000), waits(1_050));
    view.guests.push(GuestView {
        host: ReplicaId("nobody".into()),
        worker: 1,
        epoch: 1,
        revision: 1,
        state: WorkerState::Specialising,
        in_flight: 0,
        limit: 0,
        is_standby: true,
        since: Moment::from_millis(1_000),
    });
    assert_eq!(starts(&view, &[], 1_010), waits(1_050));
    assert_eq!(starts(&view, &[], 1_050).0, 1, "a visit that takes longer holds up nothing");
    (view.guests[0].state, view.guests[0].since) = (WorkerState::Ready, Moment::from_millis(1_012));
    assert_eq!(starts(&view, &[], 1_013), waits(1_022));
    assert_eq!(starts(&view, &[], 1_022).0, 1);
}

#[test]
fn a_visit_for_which_there_is_no_room_yet_is_looked_at_again() {
    let mut view = FunctionView::new(key("f"));
    let scaling = Arc::<Scaling>::default();
    view.wanted = Some(Wanted { revision: 1, replicas: 1, call: 1, scaling });
    view.image = ImageState::Present;
    view.parked = 1;
    let mut budget = Budget { offers: vec![offer("nobody", None, None)], ..Budget::default() };
    let now = Moment::from_millis(1_000);
    let planned = plan_function(&view, &mut budget, &Policy::default(), now);
    assert!(planned.plan.actions.is_empty(), "{:?}", planned.plan.actions);
    assert!(planned.lacks.place);
    view.may_visit = false;
    let planned = plan_function(&view, &mut budget, &Policy::default(), now);
    assert!(!planned.lacks.place, "it cannot have one, whatever there is");
}

#[test]
fn what_is_served_leaves_places_to_what_nothing_serves() {
    let mut full = with_second(4, 4);
    full.replicas[0].has_second_own = false;
    full.parked = 3;
    let mut unserved = FunctionView::new(key("g"));
    let scaling = Arc::<Scaling>::default();
    unserved.wanted = Some(Wanted { revision: 1, replicas: 1, call: 1, scaling });
    unserved.image = ImageState::Present;
    unserved.parked = 1;
    let offers = vec![offer("nobody", None, None), offer("none", None, None)];
    let one = |view: &FunctionView, is_reserved| {
        let mut budget = Budget {
            specialisations: 4,
            offers: offers.clone(),
            is_reserved,
            hosts: Hosts::new(vec![NodeView::default()]),
            ..Budget::default()
        };
        let now = Moment::from_millis(1_000);
        let planned = plan_function(view, &mut budget, &Policy::default(), now);
        (planned.takes_place(), planned.lacks.place)
    };
    assert_eq!(one(&full, false), (true, false));
    assert_eq!(one(&full, true), (false, true));
    assert_eq!(one(&unserved, true), (true, false));
    // Planned together, who has nothing comes first, wherever it is in the list.
    let snapshot = Snapshot {
        is_engine_up: true,
        functions: vec![full, unserved],
        offers: offers[..1].to_vec(),
        ..Snapshot::default()
    };
    let actions = plan(&snapshot, &Policy::default(), Moment::from_millis(1_000)).actions;
    let guests: Vec<_> = actions
        .iter()
        .filter(|a| matches!(a, Action::Specialise { .. }))
        .map(|a| a.function().name.as_str())
        .collect();
    assert_eq!(guests, ["g"]);
}

#[test]
fn all_that_a_burst_needs_begin_together_and_no_container_is_started_meanwhile() {
    let mut view = with_second(1, 1);
    view.replicas[0].has_second_own = false;
    view.parked = 4;
    let offers: Vec<_> = (0..6).map(|id| offer(&format!("s{id}"), None, None)).collect();
    let of = |view: &FunctionView| {
        let mut budget = Budget {
            starts: 4,
            specialisations: 8,
            offers: offers.clone(),
            hosts: Hosts::new(vec![NodeView::default()]),
            ..Budget::default()
        };
        plan_function(view, &mut budget, &Policy::default(), Moment::from_millis(1_000))
    };
    let visits = |view: &FunctionView| {
        let is_visit = |action: &&Action| matches!(action, Action::Specialise { .. });
        of(view).plan.actions.iter().filter(is_visit).count()
    };
    assert_eq!(visits(&view), 4);
    assert_eq!(of(&view).missing, 0, "the visits go first");
    view.parked = 2;
    assert_eq!(visits(&view), 2, "no more than are needed");
    view.replicas[0].workers[0].limit = 100;
    view.parked = 150;
    assert_eq!(visits(&view), 2);
    view.parked = 4000;
    assert_eq!(visits(&view), Policy::default().guests_of_one, "others find some too");
}

#[test]
fn images_are_looked_at_before_they_are_needed_as_far_as_there_is_time() {
    let mut view = FunctionView::new(key("f"));
    let scaling = Arc::<Scaling>::default();
    view.wanted = Some(Wanted { revision: 7, replicas: 0, call: 1, scaling });
    let asks = |view: &FunctionView, lookups| {
        let mut budget = Budget { lookups, ..Budget::default() };
        let now = Moment::from_millis(1_000);
        let planned = plan_function(view, &mut budget, &Policy::default(), now);
        let asked = planned.plan.actions.iter().any(|a| matches!(a, Action::Prepare { .. }));
        (asked, planned.lacks.lookup)
    };
    assert_eq!(asks(&view, None), (false, false), "no guests here");
    assert_eq!(asks(&view, Some(1)), (true, false));
    assert_eq!(asks(&view, Some(0)), (false, true));
    view.image = ImageState::Present;
    assert_eq!(asks(&view, Some(1)), (false, false));
    view.image = ImageState::Unknown;
    view.failure = Some(Failure { count: 1, last: Moment::ZERO });
    assert_eq!(asks(&view, Some(1)), (false, false), "nobody asks for it");
    view.failure = None;
    view.wanted.as_mut().unwrap().replicas = 1;
    view.scale.hold_until = Moment::ZERO;
    assert_eq!(asks(&view, Some(0)), (true, false), "needed now");
}

#[test]
fn a_guest_leaves_when_the_owner_needs_its_place_or_its_own_replicas_are_enough() {
    let mut view = with_second(4, 1);
    let second = &mut view.replicas[0].workers[1];
    (second.state, second.epoch, second.is_guest) = (WorkerState::Ready, 3, true);
    assert!(actions(&view, vec![], 1_000).is_empty());
    view.replicas[0].pressure = Some(hyperfaas_protocol::control::Pressure::Memory);
    let all = actions(&view, vec![], 1_000);
    let is_eviction =
        |a: &Action| matches!(a, Action::Release { why, .. } if why.rule == Rule::OwnerNeeds);
    assert!(all.iter().any(is_eviction), "{all:?}");

    let mut guest = with_second(4, 1);
    guest.guests.push(GuestView {
        host: ReplicaId("elsewhere".into()),
        worker: 1,
        epoch: 9,
        revision: 1,
        state: WorkerState::Ready,
        in_flight: 0,
        limit: 0,
        is_standby: true,
        since: Moment::ZERO,
    });
    let returns = |view: &FunctionView, ms| {
        let is_return =
            |a: &Action| matches!(a, Action::Release { why, .. } if why.rule == Rule::HandedOver);
        actions(view, vec![], ms).iter().any(is_return)
    };
    assert!(returns(&guest, 20_000));
    guest.guests[0].since = Moment::from_millis(19_000);
    assert!(!returns(&guest, 20_000), "not after a moment");
    guest.guests[0].revision = 7;
    assert!(returns(&guest, 20_000), "but at once when it is of an older revision");
    let deleted = FunctionView { wanted: None, ..guest };
    assert!(returns(&deleted, 20_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Whatever the load is, as long as it stays the same nothing goes up and down.
    #[test]
    fn constant_load_settles(
        rate in 1.0..120.0_f64,
        cost_ms in 1.0..20.0_f64,
        ceiling in 200..2000_u32,
        seed in any::<u64>(),
    ) {
        let mut world = World::new(Scaling { max: 40, ..scaling(ceiling) }, cost_ms * 1000.0);
        world.node.cpu = 16_000;
        world.chance = Chance(seed);
        world.run(rate, 120_000);
        let settled = world.ms;
        world.run(rate, 120_000);
        let (starts, drains) = (world.actions_since(settled, "start"), world.actions_since(settled, "drain"));
        // Where a container can hardly be given more, the number of replicas alone follows the chance in the arrivals.
        let most = if ceiling < 300 { 6 } else { 4 };
        prop_assert!(starts + drains <= most, "{starts} starts, {drains} drains");
        let resizes = world.actions_since(settled, "resize");
        prop_assert!(resizes <= 20 * world.ready().max(1), "{resizes} resizes of {}", world.ready());
        prop_assert!(world.view.in_flight() < 200, "it keeps up");
    }

    /// Bounds hold at each step (see [`World::check`]) through bursts and pauses, and in the end everything is given back.
    #[test]
    fn bursts_stay_within_bounds_and_leave_nothing_behind(
        rates in prop::collection::vec(0.0..150.0_f64, 1..5),
        cost_ms in 1.0..30.0_f64,
        ceiling in 200..2000_u32,
        bounds in (1..3_u32, 3..12_u32),
        seed in any::<u64>(),
    ) {
        let (min, max) = bounds;
        let mut world = World::new(Scaling { min, max, ..scaling(ceiling) }, cost_ms * 1000.0);
        world.chance = Chance(seed);
        for rate in rates {
            world.run(rate, 5_000);
        }
        world.run(0.0, 900_000);
        prop_assert_eq!(world.ready(), min as usize);
        prop_assert_eq!(world.granted(), 200 * min);
        prop_assert_eq!(world.view.in_flight() + world.view.parked, 0);
    }
}
