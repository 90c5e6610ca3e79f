//! `bench trace`: what a trace is like, or a generated one.

use std::path::Path;

use hyperfaas_trace::generate::{Shape, generate};
use hyperfaas_trace::minutes;

use crate::cli::Trace;
use crate::command_load::say;
use crate::failure::{During, Result};

/// `bench trace`.
pub(crate) fn trace(options: &Trace) -> Result<()> {
    let Some(path) = &options.file else {
        let shape = Shape {
            functions: options.functions,
            minutes: options.minutes,
            seed: options.seed,
            ..Shape::default()
        };
        return minutes::write(&generate(&shape), std::io::stdout().lock()).during("writing");
    };
    describe(path)
}

fn describe(path: &Path) -> Result<()> {
    let what = || format!("reading {}", path.display());
    let trace =
        minutes::read(std::fs::File::open(path).during(what())?, None, None).during(what())?;
    let count = trace.functions.len();
    let minutes = trace.minutes().max(1);
    let mut calls =
        trace.functions.iter().map(hyperfaas_trace::Function::calls).collect::<Vec<_>>();
    calls.sort_unstable();
    let rare = calls.partition_point(|calls| *calls <= minutes as u64);
    let popular = calls[count - count.div_ceil(10)..].iter().sum::<u64>();
    let total = trace.calls();
    let sums = (0..minutes)
        .map(|minute| trace.functions.iter().map(|f| u64::from(f.per_minute[minute])).sum::<u64>())
        .collect::<Vec<_>>();
    say(&format!("{count} functions, {minutes} minutes, {total} calls"));
    say(&format!(
        "a minute: mean {:.0}, peak {}",
        total as f64 / minutes as f64,
        sums.iter().max().copied().unwrap_or_default()
    ));
    say(&format!("{rare} functions are called at most once a minute on average"));
    say(&format!(
        "the most popular tenth makes {:.1} % of all calls",
        popular as f64 * 100.0 / total.max(1) as f64
    ));
    Ok(())
}
