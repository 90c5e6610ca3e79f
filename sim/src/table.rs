//! Runs side by side, as Markdown.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::measure::{Outcome, Summary};

/// What a run came to: one line of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The run's name.
    pub run: String,
    /// Requests in all.
    pub requests: u64,
    /// Requests that were not answered.
    pub failed: u64,
    /// Quantiles of the slowdown: 50 %, 99 %, 99.9 %.
    pub slowdown: [f64; 3],
    /// 99 % of latencies are at most this, ms.
    pub latency_p99_ms: f64,
    /// Requests that found nothing ready.
    pub cold: u64,
    /// Containers ordered.
    pub starts: u64,
    /// Workers given a function.
    pub specialised: u64,
    /// Quotas changed.
    pub resizes: u64,
    /// CPUs used, on average.
    pub cpus_used: f64,
    /// CPUs granted, on average.
    pub cpus_granted: f64,
    /// Memory held, GiB, on average.
    pub memory_gib: f64,
    /// Containers, on average.
    pub containers: f64,
    /// Most containers at a time.
    pub containers_peak: f64,
    /// Events simulated.
    pub events: u64,
    /// How long the run took in reality, s.
    pub took_s: f64,
}

impl Row {
    /// The line of `summary`, whose simulation took so long.
    pub fn of(name: &str, summary: &Summary, took: Duration) -> Self {
        let (tally, decisions) = (&summary.record.tally, &summary.decisions);
        let average = |sum: f64| sum / summary.seconds;
        Self {
            run: name.to_owned(),
            requests: tally.requests(),
            failed: tally.requests() - tally.of(Outcome::Answered),
            slowdown: [0.5, 0.99, 0.999].map(|share| tally.slowdown(share)),
            latency_p99_ms: tally.latency_ms(0.99),
            cold: decisions.cold,
            starts: decisions.starts,
            specialised: decisions.specialised,
            resizes: decisions.resizes,
            cpus_used: average(summary.cpu_used),
            cpus_granted: average(summary.held.cpus),
            memory_gib: average(summary.held.memory) / f64::from(1 << 30),
            containers: average(summary.held.containers),
            containers_peak: summary.containers_peak,
            events: summary.events,
            took_s: took.as_secs_f64(),
        }
    }
}

/// Writes a line a run; CPU and memory are what was held on average.
///
/// # Errors
/// Those of the sink.
pub fn write(sink: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    writeln!(
        sink,
        "| run | requests | failed | slowdown p50 | p99 | p99.9 | latency p99 ms | cold | starts | specialised | quotas | CPU used | CPU granted | memory GiB | containers (peak) | events | real time s |"
    )?;
    writeln!(sink, "| --- {}|", "| ---: ".repeat(16))?;
    for row in rows {
        let [median, p99, p999] = row.slowdown;
        writeln!(
            sink,
            "| {} | {} | {} | {median:.2} | {p99:.2} | {p999:.1} | {:.0} | {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.1} ({}) | {} | {:.1} |",
            row.run,
            row.requests,
            row.failed,
            row.latency_p99_ms,
            row.cold,
            row.starts,
            row.specialised,
            row.resizes,
            row.cpus_used,
            row.cpus_granted,
            row.memory_gib,
            row.containers,
            row.containers_peak,
            row.events,
            row.took_s,
        )?;
    }
    Ok(())
}

/// Writes how often each rule of the scheduler asked for what, a line a run.
///
/// # Errors
/// Those of the sink.
pub fn write_rules(sink: &mut impl Write, runs: &[(String, Summary)]) -> io::Result<()> {
    for (name, summary) in runs {
        let rules = summary.rules.iter();
        let each: Vec<_> = rules.map(|((what, rule), n)| format!("{what}/{rule} {n}")).collect();
        writeln!(sink, "\n{name}: {}", each.join(", "))?;
    }
    Ok(())
}
