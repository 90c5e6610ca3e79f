//! Bursts.

use std::time::Duration;

use hyperfaas_provider::scheduler::{Grant, Mode, Policy, Scaling};
use hyperfaas_sim::profile::Profile;
use hyperfaas_sim::queue::{MS, SECOND};
use hyperfaas_sim::run::run;
use hyperfaas_sim::scenario::Scenario;
use hyperfaas_sim::service;
use hyperfaas_trace::rate::{Pacing, Phase, arrivals};
use hyperfaas_trace::{Arrival, random};

fn cpu(millicores: u32) -> Grant {
    Grant { cpu: Some(millicores), memory: None }
}

/// The burner of 10 ms with so many millicores, and the load of the burst.
fn burst(mode: Mode, base: u32, ceiling: u32) -> (Scenario, Vec<Arrival>) {
    let profile = Profile {
        scaling: Scaling {
            base: cpu(base), initial: cpu(base), ceiling: cpu(ceiling), max: 20, ..Scaling::default()
        },
        ..Profile::burner("burn", service::Duration::Fixed(10 * MS))
    };
    let mut scenario = Scenario::new(1, vec![profile]);
    scenario.policy = Policy { mode, ..Policy::default() };
    let phases = [
        Phase::constant(4.0, Duration::from_secs(60)),
        Phase::constant(60.0, Duration::from_secs(180)),
        Phase::constant(4.0, Duration::from_secs(60)),
    ];
    let calls = arrivals(&phases, Pacing::Poisson, random(1));
    (scenario, calls.map(|at| Arrival { at, function: 0, duration: None }).collect())
}

#[test]
fn figure_one() {
    for (base, ceiling) in [(200, 2000), (200, 400)] {
        for mode in [Mode::Off, Mode::Out, Mode::UpOut, Mode::Full] {
            let (scenario, arrivals) = burst(mode, base, ceiling);
            let began = std::time::Instant::now();
            match run(&scenario, arrivals.into_iter()) {
                Ok(s) => {
                    println!("{base}-{ceiling} {:?}: p50 {:.1} p99 {:.1} ms; converged {:?}; out {:?} cpu used {:.1} granted {:.1} cont peak {} {:?} {:?}", mode, s.record.tally.latency_ms(0.5), s.record.tally.latency_ms(0.99), s.record.converged_after(60*SECOND), s.record.tally.outcomes, s.cpu_used/s.seconds, s.held.cpus/s.seconds, s.containers_peak, s.decisions, began.elapsed());
                    for c in s.history.iter().take(60) { print!("{:.3}:{:?}/{} ", c.at as f64/1e9, c.what, c.rule.map_or("-", |r| r.name())); }
                    println!();
                }
                Err(v) => println!("{base}-{ceiling} {mode:?}: VIOLATION {v}"),
            }
        }
    }
}
