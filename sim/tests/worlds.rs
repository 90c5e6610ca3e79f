//! Whatever the load and whatever goes wrong: every request is answered once, none fails for want of a place that is there,
//! nothing exceeds its bounds, and in the end everything has settled. Cases shrink; one that fails prints the world that
//! replays it.

use std::time::Duration;

use hyperfaas_provider::scheduler::{Grant, Mode, Policy, Scaling};
use hyperfaas_sim::faults::{Fault, Faults};
use hyperfaas_sim::node::Size;
use hyperfaas_sim::profile::Profile;
use hyperfaas_sim::queue::{MINUTE, MS, Nanos, SECOND};
use hyperfaas_sim::run::run;
use hyperfaas_sim::scenario::Scenario;
use hyperfaas_sim::service;
use hyperfaas_trace::rate::{Pacing, Phase, arrivals};
use hyperfaas_trace::{Arrival, random};
use proptest::prelude::*;

/// One function of a world: what it is like, and its load.
#[derive(Debug, Clone)]
struct Load {
    /// CPU time of a request, ms, and how it is spread.
    service_ms: u64,
    spread: u8,
    threads: Option<u32>,
    base: u32,
    /// The ceiling is so many times the base.
    ceiling: u32,
    max: u32,
    to_zero: bool,
    shares: bool,
    /// Pairs of seconds and requests per second.
    phases: Vec<(u64, u32)>,
}

#[derive(Debug, Clone)]
struct World {
    seed: u64,
    mode: u8,
    nodes: usize,
    loads: Vec<Load>,
    faults: Vec<u8>,
    link: u8,
}

fn load() -> impl Strategy<Value = Load> {
    let service = (1..60_u64, 0..3_u8, prop::option::of(1..4_u32));
    let limits = (1..11_u32, 1..6_u32, 1..8_u32, any::<bool>(), any::<bool>());
    let phases = prop::collection::vec((1..20_u64, 0..40_u32), 1..4);
    (service, limits, phases).prop_map(|(service, limits, phases)| Load {
        service_ms: service.0,
        spread: service.1,
        threads: service.2,
        base: limits.0 * 100,
        ceiling: limits.1,
        max: limits.2,
        to_zero: limits.3,
        shares: limits.4,
        phases,
    })
}

fn world() -> impl Strategy<Value = World> {
    let loads = prop::collection::vec(load(), 1..4);
    (any::<u32>(), 0..4_u8, 1..3_usize, loads, prop::collection::vec(0..6_u8, 0..4), 0..5_u8)
        .prop_map(|(seed, mode, nodes, loads, faults, link)| World {
            seed: seed.into(),
            mode,
            nodes,
            loads,
            faults,
            link,
        })
}

fn profile(index: usize, load: &Load) -> Profile {
    let grant = |cpu| Grant { cpu: Some(cpu), memory: None };
    let ns = load.service_ms * MS;
    let duration = match load.spread {
        0 => service::Duration::Fixed(ns),
        1 => service::Duration::Exponential(ns),
        _ => service::Duration::Lognormal { median: ns, sigma: 0.8 },
    };
    Profile {
        threads: load.threads,
        scaling: Scaling {
            max: load.max,
            zero_after: load.to_zero.then_some(Duration::from_secs(30)),
            initial: grant(load.base),
            base: grant(load.base),
            ceiling: grant(load.base * load.ceiling),
            share: load.shares.then(|| "together".into()),
            ..Scaling::default()
        },
        ..Profile::burner(&format!("f{index}"), duration)
    }
}

/// Faults, one after another from the fifth second on.
fn faults(world: &World) -> Faults {
    let mut at: Vec<(Nanos, Fault)> = Vec::new();
    for (index, kind) in (0_u64..).zip(&world.faults) {
        let moment = (5 + 7 * index) * SECOND;
        match kind {
            0 | 1 => at.push((moment, Fault::Kill)),
            2 => at.extend([
                (moment, Fault::Health { node: 0, share: 0.3 }),
                (moment + 10 * SECOND, Fault::Health { node: 0, share: 1.0 }),
            ]),
            3 => at
                .extend([(moment, Fault::ClockStops), (moment + 3 * SECOND, Fault::ClockJumps(0))]),
            4 => at.push((moment, Fault::ClockJumps(40 * SECOND))),
            _ => at.push((moment, Fault::ClockJumps(48 * 60 * MINUTE))),
        }
    }
    let link = |on: u8, probability| if world.link == on { probability } else { 0.0 };
    Faults {
        start_fails: if world.faults.contains(&1) { 0.3 } else { 0.0 },
        link_breaks: link(1, 0.3),
        doubled: link(2, 0.5),
        late: if world.link == 3 { 2 * SECOND } else { 0 },
        lie: link(4, if world.seed.is_multiple_of(2) { 0.01 } else { 100.0 }),
        at,
    }
}

fn scenario(world: &World) -> (Scenario, Vec<Arrival>) {
    let profiles: Vec<_> = (0..).zip(&world.loads).map(|(i, load)| profile(i, load)).collect();
    let modes = [Mode::Off, Mode::Out, Mode::UpOut, Mode::Full];
    let mut all = Vec::new();
    for (function, load) in world.loads.iter().enumerate() {
        let phases: Vec<_> = load
            .phases
            .iter()
            .map(|(seconds, rate)| Phase::constant(f64::from(*rate), Duration::from_secs(*seconds)))
            .collect();
        let seed = world.seed + function as u64;
        let calls = arrivals(&phases, Pacing::Poisson, random(seed));
        all.extend(calls.map(|at| Arrival { at, function, duration: None }));
    }
    all.sort();
    let scenario = Scenario {
        nodes: vec![Size { cpus: 2, memory: 8 << 30 }; world.nodes],
        policy: Policy { mode: modes[usize::from(world.mode)], ..Policy::default() },
        faults: faults(world),
        until: 30 * MINUTE,
        interval: MINUTE,
        ..Scenario::new(world.seed, profiles)
    };
    (scenario, all)
}

/// So many worlds, unless `PROPTEST_CASES` says how many.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 64 };
    ProptestConfig { cases, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_what_must_hold_holds(world in world()) {
        let (scenario, arrivals) = scenario(&world);
        if let Err(violation) = run(&scenario, arrivals.into_iter()) {
            prop_assert!(false, "{}", violation);
        }
    }
}
