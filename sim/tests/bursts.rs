//! How fast a burst is absorbed in each mode, and that nothing oscillates afterwards.

use std::time::Duration;

use hyperfaas_provider::scheduler::{Grant, Mode, Policy, Scaling};
use hyperfaas_sim::burst::{STEP, step};
use hyperfaas_sim::measure::{Outcome, Summary};
use hyperfaas_sim::node::Size;
use hyperfaas_sim::profile::Profile;
use hyperfaas_sim::provider::{Change, What};
use hyperfaas_sim::queue::{MINUTE, MS};
use hyperfaas_sim::run::run;
use hyperfaas_sim::scenario::Scenario;
use hyperfaas_sim::service;
use hyperfaas_trace::rate::{Pacing, Phase, arrivals};
use hyperfaas_trace::{Arrival, random};

const SEEDS: std::ops::Range<u64> = 1..6;

fn burst(mode: Mode, ceiling: u32, seed: u64) -> Summary {
    let nodes = vec![Size { cpus: 4, memory: 8 << 30 }];
    let (scenario, arrivals) = step(mode, ceiling, nodes, seed);
    let summary = run(&scenario, arrivals).unwrap_or_else(|violation| panic!("{violation}"));
    let tally = &summary.record.tally;
    assert_eq!(tally.requests(), tally.of(Outcome::Answered), "{mode:?}, seed {seed}");
    summary
}

#[test]
fn with_phase_one_a_burst_within_its_ceiling_is_absorbed_within_a_second() {
    for seed in SEEDS {
        for mode in [Mode::UpOut, Mode::Full] {
            let summary = burst(mode, 2000, seed);
            let after = summary.record.converged_after(STEP);
            assert!(after.is_some_and(|s| s <= 1.0), "{mode:?}, seed {seed}: {after:?}");
        }
    }
}

#[test]
fn guests_that_are_needed_stay() {
    let cpu = |millicores| Grant { cpu: Some(millicores), memory: None };
    // Two replicas at their ceiling have 800m, 1200m are needed: guests must carry the rest for as long as that is so.
    let profile = Profile {
        scaling: Scaling {
            max: 2,
            base: cpu(200),
            initial: cpu(200),
            ceiling: cpu(400),
            ..Scaling::default()
        },
        ..Profile::burner("burn", service::Duration::Fixed(10 * MS))
    };
    for seed in SEEDS {
        let scenario = Scenario {
            policy: Policy { mode: Mode::Full, ..Policy::default() },
            until: 20 * MINUTE,
            ..Scenario::new(seed, vec![profile.clone()])
        };
        let phases = [Phase::constant(120.0, Duration::from_secs(300))];
        let calls = arrivals(&phases, Pacing::Poisson, random(seed));
        let calls = calls.map(|at| Arrival { at, function: 0, duration: None });
        let summary = run(&scenario, calls).unwrap_or_else(|violation| panic!("{violation}"));
        let late = |change: &&Change| (MINUTE..5 * MINUTE).contains(&change.at);
        let moved = |what| summary.history.iter().filter(late).filter(|c| c.what == what).count();
        assert!(moved(What::Release) <= 2, "seed {seed}: {} guests left", moved(What::Release));
    }
}

/// Starts and drains, and resizes, in the second half of twenty minutes of constant load on a function with 200m, up to 2000m in
/// a burst.
fn changes_when_settled(mode: Mode, rate: f64, pacing: Pacing) -> (usize, usize) {
    let cpu = |millicores| Grant { cpu: Some(millicores), memory: None };
    let scaling = Scaling {
        max: 20,
        base: cpu(200),
        initial: cpu(200),
        ceiling: cpu(2000),
        ..Scaling::default()
    };
    let profile = Profile { scaling, ..Profile::burner("burn", service::Duration::Fixed(10 * MS)) };
    let scenario = Scenario {
        policy: Policy { mode, ..Policy::default() },
        until: 40 * MINUTE,
        ..Scenario::new(1, vec![profile])
    };
    let phases = [Phase::constant(rate, Duration::from_secs(1200))];
    let calls = arrivals(&phases, pacing, random(1));
    let calls = calls.map(|at| Arrival { at, function: 0, duration: None });
    let summary = run(&scenario, calls).unwrap_or_else(|violation| panic!("{violation}"));
    let late = |change: &&Change| (10 * MINUTE..20 * MINUTE).contains(&change.at);
    let late: Vec<_> = summary.history.iter().filter(late).collect();
    let scales = |change: &&&Change| matches!(change.what, What::Start | What::Drain);
    let resizes = |change: &&&Change| matches!(change.what, What::Resize(..));
    (late.iter().filter(scales).count(), late.iter().filter(resizes).count())
}

#[test]
fn constant_load_settles() {
    for rate in [4.0, 60.0] {
        for mode in [Mode::Out, Mode::UpOut] {
            assert_eq!(changes_when_settled(mode, rate, Pacing::Even), (0, 0), "{mode:?} {rate}");
        }
        // Chance makes bursts of its own: CPU follows them, at most one change each 10 s in five containers; replicas do not.
        let (scaled, resized) = changes_when_settled(Mode::UpOut, rate, Pacing::Poisson);
        assert!(
            scaled == 0 && resized <= 60,
            "{rate}: {scaled} starts and drains, {resized} resizes"
        );
    }
}
