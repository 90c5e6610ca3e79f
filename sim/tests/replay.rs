//! A seed replays.

use hyperfaas_provider::scheduler::Mode;
use hyperfaas_sim::day::{Assumed, scenario};
use hyperfaas_sim::node::Size;
use hyperfaas_sim::run::run;
use hyperfaas_trace::arrivals::arrivals;
use hyperfaas_trace::generate::{Shape, generate};
use hyperfaas_trace::rate::Pacing;

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let trace = generate(&Shape { functions: 60, minutes: 20, busiest: 300.0, seed: 3 });
    let fingerprint = |seed| {
        let nodes = vec![Size { cpus: 4, memory: 8 << 30 }; 3];
        let scenario = scenario(&trace, &Assumed::default(), Mode::Full, nodes, seed);
        let summary = run(&scenario, arrivals(&trace, Pacing::Poisson, seed)).unwrap();
        assert_eq!(summary.record.tally.requests(), trace.calls());
        (summary.fingerprint, summary.events)
    };
    assert_eq!(fingerprint(1), fingerprint(1));
    assert_ne!(fingerprint(1), fingerprint(2));
}
