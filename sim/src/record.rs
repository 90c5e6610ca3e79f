//! What a run writes down as it goes: counts, and a line for each interval of virtual time, for plots.

use std::io::{self, Write};

use crate::measure::{Held, Outcome, Tally};
use crate::provider::Provider;
use crate::queue::Nanos;
use crate::scenario::Scenario;
use crate::site::Site;

/// One interval.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Its end.
    at: Nanos,
    answered: u64,
    failed: u64,
    /// Sum and greatest of the times to answer, ns.
    took: (f64, Nanos),
    /// Of the answers, how many took longer than the objective.
    slow: u64,
    parked: u64,
    cpu_used: f64,
    held: Held,
}

/// The records of a run.
#[derive(Debug)]
pub struct Recorder {
    /// Counts.
    pub tally: Tally,
    interval: Nanos,
    objective: Nanos,
    lines: Vec<Line>,
    line: Line,
    cpu_before: f64,
}

impl Recorder {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let line = Line { at: scenario.interval, ..Line::default() };
        Self {
            tally: Tally::default(),
            interval: scenario.interval,
            objective: scenario.objective,
            lines: Vec::new(),
            line,
            cpu_before: 0.0,
        }
    }

    /// A request is over.
    pub(crate) fn note(&mut self, outcome: Outcome, took: Nanos) {
        if outcome == Outcome::Answered {
            self.line.answered += 1;
            self.line.took = (self.line.took.0 + took as f64, self.line.took.1.max(took));
            self.line.slow += u64::from(took > self.objective);
        } else {
            self.line.failed += 1;
        }
    }

    /// Ends the intervals that are over at `now`.
    pub(crate) fn take(&mut self, site: &mut Site, provider: &Provider, now: Nanos) {
        while now >= self.line.at {
            let used = site.cpu_used(now);
            self.line.cpu_used = (used - self.cpu_before) / 1e9;
            self.line.held = site.books.now;
            self.line.parked = provider.parked() as u64;
            self.lines.push(self.line);
            self.cpu_before = used;
            self.line = Line { at: self.line.at + self.interval, ..Line::default() };
        }
    }

    /// Writes the intervals as CSV; times in seconds, times to answer in milliseconds.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn write_csv(&self, sink: &mut impl Write) -> io::Result<()> {
        writeln!(
            sink,
            "at_s,answered,failed,mean_ms,max_ms,slow,parked,cpu_used_s,cpus_granted,memory_mib,containers"
        )?;
        for line in &self.lines {
            let mean = line.took.0 / line.answered.max(1) as f64 / 1e6;
            writeln!(
                sink,
                "{},{},{},{mean:.3},{:.3},{},{},{:.3},{:.3},{:.1},{}",
                line.at as f64 / 1e9,
                line.answered,
                line.failed,
                line.took.1 as f64 / 1e6,
                line.slow,
                line.parked,
                line.cpu_used,
                line.held.cpus,
                line.held.memory / f64::from(1 << 20),
                line.held.containers,
            )?;
        }
        Ok(())
    }

    /// Seconds from `step` until from then on 95 % of the windows of 5 s keep the objective for 99 % of their requests;
    /// `None` if that is never so. A window with a failed request does not keep it. The interval must be a second.
    ///
    /// Source: the definition of the benchmark of bursts (docs/benchmarks.md).
    pub fn converged_after(&self, step: Nanos) -> Option<f64> {
        let from = self.lines.iter().position(|line| line.at > step)?;
        let windows: Vec<bool> = self.lines[from..]
            .windows(5)
            .map(|lines| {
                let answered: u64 = lines.iter().map(|line| line.answered).sum();
                let slow: u64 = lines.iter().map(|line| line.slow).sum();
                slow * 100 <= answered && lines.iter().all(|line| line.failed == 0)
            })
            .collect();
        let mut good = 0;
        let mut converged = None;
        for (index, is_good) in windows.iter().enumerate().rev() {
            good += usize::from(*is_good);
            let of = windows.len() - index;
            if *is_good && good * 100 >= of * 95 {
                converged = Some(index as f64 * self.interval as f64 / 1e9);
            }
        }
        converged
    }
}
