//! `bench ladder` on the command line. Out: `ladder.json`, `ladder-visits.csv`; a table on standard output.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::Ladder;
use crate::command_load::{bar, say};
use crate::failure::Result;
use crate::hops::{Others, Scene, Weight};
use crate::ladder::{Plan, Row, rows, visit};
use crate::record::{Machine, write, write_table};

/// Forked processes need no more callers than this to keep two processors busy.
const FORK_CONNECTIONS: usize = 16;

/// Result of `ladder`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Climbed {
    /// Hops that serve over HTTP.
    pub(crate) http: Vec<Row>,
    /// Watchdogs that fork per request.
    pub(crate) fork: Vec<Row>,
    /// What programs weigh.
    pub(crate) weights: Vec<Weight>,
    /// Rounds of each figure.
    pub(crate) rounds: usize,
}

/// `bench ladder`.
pub(crate) async fn ladder(options: &Ladder, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let others = Others {
        watchdogs: options.watchdog.clone(),
        classics: options.classic.clone(),
        urls: options.url.clone(),
    };
    let plan = Plan {
        connections: options.connections.iter().copied().filter(|count| *count > 0).collect(),
        rounds: options.rounds.max(1),
        length: options.length,
    };
    let bar = bar(0);
    let mut scene = Scene::http(&others, !options.watchdogs_only).await?;
    if !options.watchdogs_only {
        scene.asynchronous().await?;
    }
    let mut visits = visit(&scene.hops, &plan, &bar).await;
    let mut climbed = Climbed {
        http: rows(&visits),
        fork: Vec::new(),
        weights: scene.weights(),
        rounds: plan.rounds,
    };
    drop(scene);
    if !options.no_fork {
        let connections = plan.connections.iter().copied().filter(|n| *n <= FORK_CONNECTIONS);
        let plan = Plan { connections: connections.collect(), ..plan.clone() };
        bar.reset();
        let scene = Scene::fork(&others, !options.watchdogs_only).await?;
        let forks = visit(&scene.hops, &plan, &bar).await;
        climbed.fork = rows(&forks);
        visits.extend(forks);
    }
    bar.finish_and_clear();
    tell(&climbed);
    write_table(out, "ladder-visits", &visits)?;
    write(out, "ladder", machine, climbed)
}

fn tell(climbed: &Climbed) {
    say(
        "conn  hop                                   p50 µs   p99 µs  added µs (least..most)   per second  CPU µs  by role",
    );
    for row in climbed.http.iter().chain(&climbed.fork) {
        let roles = row.cpu_by_role.iter().map(|(role, us)| format!("{role} {us:.0}"));
        let failed =
            if row.failed > 0 { format!("  {} FAILED", row.failed) } else { String::new() };
        let added = row.added_us.map_or_else(String::new, |added| {
            format!("{:.0} ({:.0}..{:.0})", added.median, added.min, added.max)
        });
        say(&format!(
            "{:>4}  {:<36} {:>7.0}  {:>7.0}  {added:>24}  {:>10.0}  {:>6.0}  {}{failed}",
            row.connections,
            row.hop,
            row.p50_us.median,
            row.p99_us.median,
            row.per_second.median,
            row.cpu_us.median,
            roles.collect::<Vec<_>>().join(", "),
        ));
    }
    for weight in &climbed.weights {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        say(&format!(
            "{}: file {:.2} MiB, resident when idle {:.2} MiB, after all calls {:.2} MiB",
            weight.name,
            mib(weight.file_bytes),
            mib(weight.idle_bytes),
            mib(weight.after_bytes)
        ));
    }
}
