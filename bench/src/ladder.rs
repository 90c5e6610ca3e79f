//! What each hop adds: the function alone, behind a watchdog, behind the provider, behind the gateway; and behind whatever others
//! are given.
//!
//! In: hops, connections, rounds. Out: [`Row`]s. How: closed loop; each round visits every hop in turn (A B C A B C …), so that
//! a machine that gets slower does so for all; a hop's figure is the median of its rounds, what it adds is the median of the
//! differences to the function alone in the same round. CPU is that of each process, per answered call, from /proc.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::closed;
use crate::load::Target;
use crate::usage;

/// The hop that the others are compared with.
pub(crate) const DIRECT: &str = "function alone";

/// Something to call.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    /// As tables call it.
    pub(crate) name: String,
    /// Where.
    pub(crate) target: Target,
    /// The processes that work for it, by their role, one word each.
    pub(crate) processes: Vec<(String, u32)>,
}

/// One visit of a hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Visit {
    /// Callers.
    pub(crate) connections: usize,
    /// Counted from 0.
    pub(crate) round: usize,
    /// The hop's name.
    pub(crate) hop: String,
    /// Median latency, µs.
    pub(crate) p50_us: f64,
    /// 99th percentile, µs.
    pub(crate) p99_us: f64,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Calls without an answer below 400.
    pub(crate) failed: u64,
    /// CPU of all its processes together per answer, µs.
    pub(crate) cpu_us: f64,
    /// That of each role, as `role=µs` pairs.
    pub(crate) cpu_by_role: String,
}

/// A hop at a number of connections, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The hop's name.
    pub(crate) hop: String,
    /// Callers.
    pub(crate) connections: usize,
    /// Median latency, µs: lowest round, middle, highest.
    pub(crate) p50_us: Spread,
    /// 99th percentile, µs.
    pub(crate) p99_us: Spread,
    /// Median latency less the function's own in the same round, µs; none where the function was not called alone.
    pub(crate) added_us: Option<Spread>,
    /// Answers a second.
    pub(crate) per_second: Spread,
    /// CPU per answer of all processes, the function's included, µs.
    pub(crate) cpu_us: Spread,
    /// CPU per answer by role, medians, µs.
    pub(crate) cpu_by_role: BTreeMap<String, f64>,
    /// Calls that failed, all rounds.
    pub(crate) failed: u64,
}

/// Several rounds' figures.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The lowest.
    pub(crate) min: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// The highest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of `values`; zeros if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted = values.into_iter().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => Self::default(),
            n => Self { min: sorted[0], median: middle(&sorted), max: sorted[n - 1] },
        }
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Numbers of callers.
    pub(crate) connections: Vec<usize>,
    /// Visits of each hop at each number.
    pub(crate) rounds: usize,
    /// Length of a visit.
    pub(crate) length: Duration,
}

/// Visits all hops. Runs within a `LocalSet`.
pub(crate) async fn visit(hops: &[Hop], plan: &Plan, bar: &ProgressBar) -> Vec<Visit> {
    let mut visits = Vec::new();
    bar.set_length((plan.connections.len() * plan.rounds * hops.len()) as u64);
    for &connections in &plan.connections {
        for round in 0..plan.rounds {
            for hop in hops {
                bar.set_message(format!("{} × {connections}", hop.name));
                // A tenth of the length first, so that connections and caches are warm.
                closed::run(&hop.target, connections, plan.length / 10).await;
                let before = cpus(hop);
                let closed = closed::run(&hop.target, connections, plan.length).await;
                let answers = closed.times.len().max(1) as f64;
                let used = used(&before, &cpus(hop), answers);
                visits.push(Visit {
                    connections,
                    round,
                    hop: hop.name.clone(),
                    p50_us: closed.times.percentile_ms(50.0) * 1e3,
                    p99_us: closed.times.percentile_ms(99.0) * 1e3,
                    per_second: closed.throughput(),
                    failed: closed.failed,
                    cpu_us: used.values().sum(),
                    cpu_by_role: to_text(&used),
                });
                bar.inc(1);
            }
        }
    }
    visits
}

fn cpus(hop: &Hop) -> Vec<(String, Duration)> {
    let of = |(role, pid): &(String, u32)| Some((role.clone(), usage::cpu(*pid)?));
    hop.processes.iter().filter_map(of).collect()
}

/// µs per answer by role.
fn used(
    before: &[(String, Duration)],
    after: &[(String, Duration)],
    answers: f64,
) -> BTreeMap<String, f64> {
    let mut used = BTreeMap::new();
    for ((role, before), (_, after)) in before.iter().zip(after) {
        let us = after.saturating_sub(*before).as_secs_f64() * 1e6 / answers;
        *used.entry(role.clone()).or_default() += us;
    }
    used
}

fn to_text(used: &BTreeMap<String, f64>) -> String {
    used.iter().map(|(role, us)| format!("{role}={us:.1}")).collect::<Vec<_>>().join(" ")
}

fn from_text(text: &str) -> impl Iterator<Item = (String, f64)> + '_ {
    let parse = |(role, us): (&str, &str)| Some((role.to_owned(), us.parse().ok()?));
    text.split(' ').filter_map(move |word| word.split_once('=').and_then(parse))
}

/// The table of all visits, hops in the order of their first visit.
pub(crate) fn rows(visits: &[Visit]) -> Vec<Row> {
    let mut keys = Vec::new();
    for visit in visits {
        let key = (visit.connections, visit.hop.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter().map(|(connections, hop)| row(visits, connections, hop)).collect()
}

fn row(visits: &[Visit], connections: usize, hop: &str) -> Row {
    let of = |name: &str| {
        let name = name.to_owned();
        visits.iter().filter(move |v| v.connections == connections && v.hop == name)
    };
    let added = of(hop).filter_map(|visit| {
        let direct = of(DIRECT).find(|direct| direct.round == visit.round)?;
        Some(visit.p50_us - direct.p50_us)
    });
    let added = added.collect::<Vec<_>>();
    let mut roles = BTreeMap::<String, Vec<f64>>::new();
    for (role, us) in of(hop).flat_map(|visit| from_text(&visit.cpu_by_role)) {
        roles.entry(role).or_default().push(us);
    }
    Row {
        hop: hop.to_owned(),
        connections,
        p50_us: Spread::of(of(hop).map(|v| v.p50_us)),
        p99_us: Spread::of(of(hop).map(|v| v.p99_us)),
        added_us: (!added.is_empty()).then(|| Spread::of(added)),
        per_second: Spread::of(of(hop).map(|v| v.per_second)),
        cpu_us: Spread::of(of(hop).map(|v| v.cpu_us)),
        cpu_by_role: roles.into_iter().map(|(role, us)| (role, Spread::of(us).median)).collect(),
        failed: of(hop).map(|v| v.failed).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(round: usize, hop: &str, p50_us: f64, cpu_by_role: &str) -> Visit {
        Visit {
            connections: 1,
            round,
            hop: hop.to_owned(),
            p50_us,
            p99_us: p50_us * 2.0,
            per_second: 1e6 / p50_us,
            failed: 1,
            cpu_us: 0.0,
            cpu_by_role: cpu_by_role.to_owned(),
        }
    }

    #[test]
    fn what_a_hop_adds_is_the_median_of_differences_within_rounds() {
        // The machine gets slower; the hop always adds 40, once 60.
        let visits = [(0, 100.0, 40.0), (1, 200.0, 40.0), (2, 300.0, 60.0)]
            .into_iter()
            .flat_map(|(round, direct, added)| {
                [
                    visit(round, DIRECT, direct, "function=9.0"),
                    visit(round, "watchdog", direct + added, "function=9.0 watchdog=20.0"),
                ]
            })
            .collect::<Vec<_>>();
        let rows = rows(&visits);
        assert_eq!(
            rows.iter().map(|row| row.hop.as_str()).collect::<Vec<_>>(),
            [DIRECT, "watchdog"]
        );
        assert_eq!(rows[1].added_us, Some(Spread { min: 40.0, median: 40.0, max: 60.0 }));
        assert_eq!(rows[1].p50_us, Spread { min: 140.0, median: 240.0, max: 360.0 });
        assert_eq!(rows[1].cpu_by_role["watchdog"], 20.0);
        assert_eq!(rows[1].failed, 3);
    }

    #[test]
    fn a_spread_of_nothing_is_zero_and_of_two_is_their_middle() {
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([3.0, -1.0]), Spread { min: -1.0, median: 1.0, max: 3.0 });
    }

    #[test]
    fn cpu_is_counted_by_role_and_answer() {
        let ms = Duration::from_millis;
        let before = [("a".to_owned(), ms(10)), ("b".to_owned(), ms(0)), ("a".to_owned(), ms(5))];
        let after = [("a".to_owned(), ms(20)), ("b".to_owned(), ms(30)), ("a".to_owned(), ms(15))];
        let used = used(&before, &after, 100.0);
        assert_eq!(to_text(&used), "a=200.0 b=300.0");
        assert_eq!(from_text("a=200.0 b=300.0").count(), 2);
    }
}
