//! `bench burst` on the command line. Out: `burst-SHAPE-MODE.json` and `.csv`, with all rounds, written after each run; a line a
//! run on standard output.

use std::path::Path;

use crate::burst::{Burst, Mode, Outcome, Row};
use crate::cli;
use crate::command_load::say;
use crate::failure::Result;
use crate::record::{Machine, write, write_table};
use crate::shape::{Frame, Shape};

/// `bench burst`. A mode that cannot run is reported, and the others run; the command then fails at its end.
pub(crate) async fn burst(options: &cli::Burst, out: &Path) -> Result<()> {
    let mut failed = None;
    for &shape in &options.shape {
        let burst = burst_of(options, shape);
        let mut runs = options.mode.iter().map(|mode| Runs::new(&burst, *mode)).collect::<Vec<_>>();
        for _ in 0..options.rounds.max(1) {
            for run in &mut runs {
                if let Err(error) = run.once(&burst, out).await {
                    eprintln!("{}: {error}", run.name);
                    failed = Some(error);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn burst_of(options: &cli::Burst, shape: Shape) -> Burst {
    Burst {
        shape,
        frame: Frame { rate: options.rate, before: options.before, after: options.after },
        burn_ms: options.burn_ms,
        request: options.request,
        ceiling: options.ceiling,
        objective: options.objective,
        settings: options.setting.clone(),
        prometheus: options.prometheus.clone(),
        seed: options.seed,
    }
}

/// All rounds of one mode.
struct Runs {
    mode: Mode,
    name: String,
    outcomes: Vec<Outcome>,
    rows: Vec<Row>,
}

impl Runs {
    fn new(burst: &Burst, mode: Mode) -> Self {
        let ceiling = burst.ceiling.map(|ceiling| format!("-{ceiling}m")).unwrap_or_default();
        let name = format!("burst-{}{ceiling}-{}", burst.shape.name(), mode.name());
        Self { mode, name, outcomes: Vec::new(), rows: Vec::new() }
    }

    async fn once(&mut self, burst: &Burst, out: &Path) -> Result<()> {
        let machine = Machine::now();
        let round = self.outcomes.len();
        let (outcome, rows) = burst.run(self.mode).await?;
        tell(&self.name, &outcome);
        self.outcomes.push(outcome);
        self.rows.extend(rows.into_iter().map(|row| Row { round, ..row }));
        write_table(out, &self.name, &self.rows)?;
        write(out, &self.name, machine, self.outcomes.clone())
    }
}

fn tell(name: &str, outcome: &Outcome) {
    let after = &outcome.after_step;
    let converged = match outcome.converged_s {
        Some(seconds) => format!("after {seconds:.1} s"),
        None => "never".to_owned(),
    };
    say(&format!(
        "{name}: p99 within {} ms {converged}; {} calls, {} failed, p50 {:.0} p99 {:.0} max {:.0} ms; \
         {:.1} CPU s, {:.0} MiB s, at most {} containers; provider {:.1} CPU s",
        outcome.objective_ms,
        after.calls,
        after.calls - after.succeeded,
        after.latency.p50,
        after.latency.p99,
        after.latency.max,
        outcome.cpu_s,
        outcome.memory_mib_s,
        outcome.containers_max,
        outcome.provider_cpu_s,
    ));
}
