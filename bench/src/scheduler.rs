//! The scheduler by itself: how long its decisions take, and what a simulated day comes to in each mode.
//!
//! In: criterion's benches and `hyperfaas-sim`, which are run here. Out: [`Scheduled`], and a table over time for each simulated run.
//! Touches: processes; temporary files. Nothing is started on the engine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::cli;
use crate::command_load::say;
use crate::failure::{During, Result, failed};
use crate::record::{Machine, read_table, told_path, write, write_table};
use crate::stack::binary;

/// How long one kind of decision takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// What is decided, and over how much.
    pub(crate) name: String,
    /// Median, ns.
    pub(crate) median_ns: f64,
    /// Its confidence interval of 95 %, ns.
    pub(crate) between_ns: (f64, f64),
}

/// A simulated load in one mode; the fields are those of `hyperfaas-sim --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Simulated {
    /// The mode of scaling.
    pub(crate) run: String,
    /// Requests in all.
    pub(crate) requests: u64,
    /// Requests that were not answered.
    pub(crate) failed: u64,
    /// Time from arrival to answer over the time undisturbed: 50 %, 99 %, 99.9 %.
    pub(crate) slowdown: [f64; 3],
    /// Requests that found nothing ready.
    pub(crate) cold: u64,
    /// Containers started.
    pub(crate) starts: u64,
    /// Workers given a function.
    pub(crate) specialised: u64,
    /// CPUs used, on average.
    pub(crate) cpus_used: f64,
    /// CPUs granted, on average.
    pub(crate) cpus_granted: f64,
    /// Memory held, GiB, on average.
    pub(crate) memory_gib: f64,
    /// Containers, on average.
    pub(crate) containers: f64,
    /// Most containers at a time.
    pub(crate) containers_peak: f64,
    /// How long the simulation took, s.
    pub(crate) took_s: f64,
}

/// A line of a simulated run, as `hyperfaas-sim --csv` writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Virtual time, s.
    pub(crate) at_s: f64,
    /// Mean latency since the line before, ms.
    pub(crate) mean_ms: f64,
    /// CPUs granted.
    pub(crate) cpus_granted: f64,
    /// Memory held, MiB.
    pub(crate) memory_mib: f64,
    /// Containers.
    pub(crate) containers: f64,
}

/// A load and what it came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Its name in files.
    pub(crate) name: String,
    /// What it is, with its source.
    pub(crate) title: String,
    /// The command of the simulation.
    pub(crate) command: String,
    /// A line for each mode.
    pub(crate) runs: Vec<Simulated>,
}

/// Result of `scheduler`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scheduled {
    /// Of the benches.
    pub(crate) decisions: Vec<Decision>,
    /// Of the simulations.
    pub(crate) loads: Vec<Load>,
}

/// `bench scheduler`.
pub(crate) async fn scheduler(options: &cli::Scheduler, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let mut scheduled = Scheduled { decisions: decisions().await?, loads: Vec::new() };
    let modes = options.modes.join(",");
    if let Some(trace) = &options.trace {
        let words = ["--trace".as_ref(), trace.as_os_str(), "--nodes".as_ref(), "20".as_ref()];
        let title = format!("{}, 20 nodes of 16 CPUs", options.source);
        scheduled.loads.push(simulate("trace", title, &words, &modes, out).await?);
    }
    if options.functions > 0 {
        let count = options.functions.to_string();
        let words = ["--functions", &count, "--nodes", "100"].map(OsStr::new);
        let title = format!("A generated day of {count} functions, 100 nodes of 16 CPUs");
        scheduled.loads.push(simulate("generated", title, &words, &modes, out).await?);
    }
    write(out, "scheduler", machine, scheduled)
}

/// Runs criterion's benches of the repository this is called in.
async fn decisions() -> Result<Vec<Decision>> {
    let home = tempfile::tempdir().during("making a folder")?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["bench", "--locked", "--package", "hyperfaas-sim", "--bench", "scheduler"])
        .args(["--", "--noplot"])
        .env("CRITERION_HOME", home.path())
        .stdout(Stdio::null());
    run(cargo, "cargo bench").await?;
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(home.path()).during("reading criterion's folder")?;
    for folder in entries.flatten().map(|entry| entry.path().join("new")) {
        let read = |name: &str| -> Result<Value> {
            let path = folder.join(name);
            let what = || format!("reading {name} of criterion");
            serde_json::from_str(&std::fs::read_to_string(path).during(what())?).during(what())
        };
        if !folder.is_dir() {
            continue;
        }
        let (bench, estimates) = (read("benchmark.json")?, read("estimates.json")?);
        let median = &estimates["median"];
        let bound = |name: &str| median["confidence_interval"][name].as_f64().unwrap_or_default();
        let name = bench["full_id"].as_str().unwrap_or_default().to_owned();
        let decision = Decision {
            name: name.clone(),
            median_ns: median["point_estimate"].as_f64().unwrap_or_default(),
            between_ns: (bound("lower_bound"), bound("upper_bound")),
        };
        say(&format!("{name}: {}", nanoseconds(decision.median_ns)));
        found.insert(name, decision);
    }
    if found.is_empty() {
        return failed("criterion left no estimates");
    }
    Ok(found.into_values().collect())
}

async fn simulate(
    name: &str,
    title: String,
    words: &[&OsStr],
    modes: &str,
    out: &Path,
) -> Result<Load> {
    let folder = tempfile::tempdir().during("making a folder")?;
    let table = folder.path().join("table.json");
    let mut simulation = Command::new(binary("hyperfaas-sim")?);
    simulation.arg("day").args(words).args(["--modes", modes]);
    simulation.arg("--csv").arg(folder.path()).arg("--json").arg(&table);
    run(simulation, "hyperfaas-sim").await?;
    let text = std::fs::read_to_string(&table).during("reading a simulation's table")?;
    let runs: Vec<Simulated> =
        serde_json::from_str(&text).during("reading a simulation's table")?;
    for run in &runs {
        let file = run.run.replace('+', "-");
        let moments = read_table::<Moment>(folder.path(), &file)?;
        write_table(out, &format!("scheduler-{name}-{file}"), &moments)?;
        let [median, p99, _] = run.slowdown;
        say(&format!(
            "{title}, {}: slowdown {median:.2}, p99 {p99:.2}, took {:.0} s",
            run.run, run.took_s
        ));
    }
    let told = words.iter().map(|word| told_path(&word.to_string_lossy()));
    let told = told.collect::<Vec<_>>().join(" ");
    Ok(Load {
        name: name.to_owned(),
        title,
        command: format!("hyperfaas-sim day {told} --modes {modes}"),
        runs,
    })
}

async fn run(mut command: Command, name: &str) -> Result<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.during(format!("running {name}"))?;
    if status.success() { Ok(()) } else { failed(format!("{name} ended with {status}")) }
}

/// A time in the unit that suits it.
pub(crate) fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        ns if ns >= 1e3 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{ns:.0} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        let told = [12.4, 1_500.0, 20_000_000.0].map(nanoseconds);
        assert_eq!(told, ["12 ns", "1.50 µs", "20.00 ms"]);
    }
}
