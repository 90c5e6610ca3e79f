//! How fast a burst is absorbed in each mode, and that nothing oscillates afterwards.

use hyperfaas_provider::scheduler::Mode;
use hyperfaas_sim::burst::{STEP, step};
use hyperfaas_sim::measure::{Outcome, Summary};
use hyperfaas_sim::node::Size;
use hyperfaas_sim::run::run;

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
