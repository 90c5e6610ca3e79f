//! `bench burst` on the command line. Out: `burst-SHAPE-MODE.json` and `.csv` for each run; a line each on standard output.

use std::path::Path;

use crate::burst::{Burst, Outcome};
use crate::cli;
use crate::command_load::say;
use crate::failure::Result;
use crate::record::{Machine, write, write_table};
use crate::shape::Frame;

/// `bench burst`. A mode that cannot run is reported, and the others run; the command then fails at its end.
pub(crate) async fn burst(options: &cli::Burst, out: &Path) -> Result<()> {
    let mut failed = None;
    for &shape in &options.shape {
        for &mode in &options.mode {
            let machine = Machine::now();
            let frame = Frame { rate: options.rate, before: options.before, after: options.after };
            let burst = Burst {
                shape,
                frame,
                burn_ms: options.burn_ms,
                request: options.request,
                ceiling: options.ceiling,
                objective: options.objective,
                settings: options.setting.clone(),
                prometheus: options.prometheus.clone(),
                seed: options.seed,
            };
            let ceiling = options.ceiling.map(|ceiling| format!("-{ceiling}m")).unwrap_or_default();
            let name = format!("burst-{}{ceiling}-{}", shape.name(), mode.name());
            match burst.run(mode).await {
                Ok((outcome, rows)) => {
                    tell(&name, &outcome);
                    write_table(out, &name, &rows)?;
                    write(out, &name, machine, outcome)?;
                }
                Err(error) => {
                    eprintln!("{name}: {error}");
                    failed = Some(error);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
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
