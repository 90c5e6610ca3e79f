//! Whether ours has become slower: ratios to a reference that is measured in the same run, against kept ones.
//!
//! In: [`Visit`]s of two tries at most, a [`Baseline`]. Out: what was lost. The reference is the function alone, which no change
//! of ours touches, so a slower machine changes both sides of a ratio. A loss must show on two tries.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli;
use crate::command_load::{bar, say};
use crate::failure::{During, Result, failed};
use crate::hops::{Others, Scene};
use crate::ladder::{DIRECT, Plan, Spread, Visit, visit};
use crate::record::Machine;

/// A ratio that has grown by more than this share is a loss.
const LOSS: f64 = 0.2;
/// Length of a visit.
const LENGTH: Duration = Duration::from_millis(700);
/// Callers for latencies, and for throughput and CPU.
const CALLERS: [usize; 2] = [1, 64];

/// Kept ratios.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Where they were measured: another processor may have others.
    pub(crate) cpu: String,
    /// By name; lower is better.
    pub(crate) ratios: BTreeMap<String, f64>,
}

/// `bench check`.
pub(crate) async fn check(options: &cli::Check) -> Result<()> {
    let path = &options.baseline;
    let cpu = Machine::now().cpu;
    if options.record {
        let kept = Baseline { cpu, ratios: measure(options.rounds).await? };
        kept.ratios.iter().for_each(|(name, ratio)| say(&format!("{name}: {ratio:.3}")));
        return write(path, &kept);
    }
    let baseline = read(path)?;
    if baseline.cpu != cpu {
        eprintln!("the baseline is of another processor ({}): a loss may be its own", baseline.cpu);
    }
    let first = measure(options.rounds).await?;
    tell(&baseline.ratios, &first);
    let suspects = losses(&baseline.ratios, &first);
    if suspects.is_empty() {
        return Ok(());
    }
    say(&format!("once more, because of: {}", suspects.join(", ")));
    let second = measure(options.rounds).await?;
    tell(&baseline.ratios, &second);
    let again = losses(&baseline.ratios, &second);
    let lost = suspects.into_iter().filter(|name| again.contains(name)).collect::<Vec<_>>();
    if lost.is_empty() {
        Ok(())
    } else {
        failed(format!("slower on two tries: {}", lost.join(", ")))
    }
}

fn read(path: &Path) -> Result<Baseline> {
    let what = || format!("reading {} (`bench check --record` writes it)", path.display());
    serde_json::from_str(&std::fs::read_to_string(path).during(what())?).during(what())
}

fn write(path: &Path, baseline: &Baseline) -> Result<()> {
    let text = serde_json::to_string_pretty(baseline).during("writing a baseline")?;
    std::fs::write(path, text + "\n").during(format!("writing {}", path.display()))
}

fn tell(baseline: &BTreeMap<String, f64>, measured: &BTreeMap<String, f64>) {
    for (name, ratio) in measured {
        let kept =
            baseline.get(name).map_or_else(|| "new".to_owned(), |kept| format!("kept {kept:.3}"));
        say(&format!("{name}: {ratio:.3} ({kept})"));
    }
}

async fn measure(rounds: usize) -> Result<BTreeMap<String, f64>> {
    let scene = Scene::http(&Others::default(), true).await?;
    let plan = Plan { connections: CALLERS.to_vec(), rounds: rounds.max(3), length: LENGTH };
    let bar = bar(0);
    let visits = visit(&scene.hops, &plan, &bar).await;
    bar.finish_and_clear();
    if let Some(visit) = visits.iter().find(|visit| visit.failed > 0) {
        return failed(format!("{} calls of {} failed", visit.failed, visit.hop));
    }
    Ok(ratios(&visits))
}

/// Each hop's figures over the reference's: of latencies the best rounds', since whatever else runs only adds to them; of
/// throughput and CPU the median over the rounds.
fn ratios(visits: &[Visit]) -> BTreeMap<String, f64> {
    let [alone, many] = CALLERS;
    let of = |hop: &str, connections: usize| {
        let hop = hop.to_owned();
        visits.iter().filter(move |v| v.hop == hop && v.connections == connections)
    };
    let best = |hop: &str| Spread::of(of(hop, alone).map(|v| v.p50_us)).min;
    let mut found = BTreeMap::new();
    for hop in visits.iter().map(|visit| visit.hop.as_str()).filter(|hop| *hop != DIRECT) {
        found.insert(format!("{hop}: median latency at {alone}"), best(hop) / best(DIRECT));
        let pairs = || {
            of(hop, many).filter_map(|visit| {
                let direct = of(DIRECT, many).find(|direct| direct.round == visit.round)?;
                Some((visit, direct))
            })
        };
        let time = pairs().map(|(visit, direct)| direct.per_second / visit.per_second);
        found.insert(format!("{hop}: time per answer at {many}"), Spread::of(time).median);
        let cpu = pairs().map(|(visit, direct)| visit.cpu_us / direct.cpu_us);
        found.insert(format!("{hop}: CPU per answer at {many}"), Spread::of(cpu).median);
    }
    found
}

/// Names of ratios that have grown too much.
fn losses(baseline: &BTreeMap<String, f64>, measured: &BTreeMap<String, f64>) -> Vec<String> {
    let is_lost = |(name, ratio): &(&String, &f64)| {
        baseline.get(*name).is_some_and(|kept| **ratio > kept * (1.0 + LOSS))
    };
    measured.iter().filter(is_lost).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(round: usize, hop: &str, connections: usize, slowness: f64) -> Visit {
        Visit {
            connections,
            round,
            hop: hop.to_owned(),
            p50_us: 100.0 * slowness,
            p99_us: 200.0 * slowness,
            per_second: 10_000.0 / slowness,
            failed: 0,
            cpu_us: 10.0 * slowness,
            cpu_by_role: String::new(),
        }
    }

    /// Three rounds on a machine that gets slower, with a hop that costs `cost` times the function alone.
    fn run(cost: f64) -> BTreeMap<String, f64> {
        let round = |round: usize| {
            let machine = [1.0, 1.7, 2.5][round];
            CALLERS.into_iter().flat_map(move |connections| {
                [
                    visit(round, DIRECT, connections, machine),
                    visit(round, "watchdog", connections, machine * cost),
                ]
            })
        };
        ratios(&(0..3).flat_map(round).collect::<Vec<_>>())
    }

    #[test]
    fn a_slower_machine_is_no_loss_and_a_fifth_more_is() {
        let baseline = run(2.0);
        assert_eq!(baseline.len(), 3);
        assert!(baseline.values().all(|ratio| (ratio - 2.0).abs() < 1e-9), "{baseline:?}");
        assert!(losses(&baseline, &run(2.3)).is_empty());
        assert_eq!(losses(&baseline, &run(2.5)).len(), 3);
    }

    #[test]
    fn what_the_baseline_does_not_know_is_no_loss() {
        assert!(losses(&BTreeMap::new(), &run(9.0)).is_empty());
    }
}
