//! Runs side by side, as Markdown.

use std::io::{self, Write};

use crate::measure::{Outcome, Summary};

/// Writes one line a run; CPU and memory are what was held on average.
///
/// # Errors
/// Those of the sink.
pub fn write(
    sink: &mut impl Write,
    runs: &[(String, Summary, std::time::Duration)],
) -> io::Result<()> {
    writeln!(
        sink,
        "| run | requests | failed | slowdown p50 | p99 | p99.9 | latency p99 ms | cold | starts | specialised | quotas | CPU used | CPU granted | memory GiB | containers (peak) | events | real time s |"
    )?;
    writeln!(sink, "| --- {}|", "| ---: ".repeat(16))?;
    for (name, summary, took) in runs {
        let (tally, decisions) = (&summary.record.tally, &summary.decisions);
        let failed = tally.requests() - tally.of(Outcome::Answered);
        let average = |sum: f64| sum / summary.seconds;
        writeln!(
            sink,
            "| {name} | {} | {failed} | {:.2} | {:.2} | {:.1} | {:.0} | {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.1} ({}) | {} | {:.1} |",
            tally.requests(),
            tally.slowdown(0.5),
            tally.slowdown(0.99),
            tally.slowdown(0.999),
            tally.latency_ms(0.99),
            decisions.cold,
            decisions.starts,
            decisions.specialised,
            decisions.resizes,
            summary.cpu_used / summary.seconds,
            average(summary.held.cpus),
            average(summary.held.memory) / f64::from(1 << 30),
            average(summary.held.containers),
            summary.containers_peak,
            summary.events,
            took.as_secs_f64(),
        )?;
    }
    Ok(())
}

/// Writes how often each rule of the scheduler asked for what, a line a run.
///
/// # Errors
/// Those of the sink.
pub fn write_rules(
    sink: &mut impl Write,
    runs: &[(String, Summary, std::time::Duration)],
) -> io::Result<()> {
    for (name, summary, _) in runs {
        let rules = summary.rules.iter();
        let each: Vec<_> = rules.map(|((what, rule), n)| format!("{what}/{rule} {n}")).collect();
        writeln!(sink, "\n{name}: {}", each.join(", "))?;
    }
    Ok(())
}
