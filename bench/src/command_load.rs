//! `bench load` and `bench ceiling`: the open loop on the command line.
//!
//! Out: `NAME.json` (summary, convergence), `NAME.csv` (by second); a few lines on standard output.

use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hyperfaas_trace::rate::{Pacing, Phase, arrivals};
use hyperfaas_trace::{minutes, requests};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;

use crate::cli::{Ceiling, Load};
use crate::convergence::{Objective, convergence};
use crate::failure::{During, Result, failed};
use crate::hops::resolve;
use crate::load::{Gauge, Limits, Target, run};
use crate::record::{Machine, write, write_table};
use crate::sample::{Sample, Summary, by_second};
use crate::usage;

/// Calls that a replayed trace may hold; more is a mistake of the command line.
const CALLS_MAX: u64 = 50_000_000;
/// A loader is at its limit when one call in a hundred begins later than this.
const LAG_LIMIT_MS: f64 = 1.0;

/// Result of `load`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// All calls.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// Seconds from the step until the objective was met for good; none: never.
    pub(crate) converged_s: Option<f64>,
    /// The 99th percentile that was asked for, ms.
    pub(crate) objective_ms: f64,
    /// The step, seconds since the start.
    pub(crate) step_s: f64,
    /// CPU of the loader per call, µs.
    pub(crate) loader_cpu_us: f64,
}

/// `bench load`.
pub(crate) async fn load(options: &Load, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let (targets, calls) = calls(options)?;
    let total = calls.len() as u64;
    let limits = Limits {
        connections: options.connections.max(1),
        timeout: options.timeout,
        ..Limits::default()
    };
    let before = usage::cpu(std::process::id());
    let samples = with_bar(targets, calls.into_iter(), limits, total).await?;
    let cpu = usage::cpu(std::process::id()).zip(before);
    let cpu = cpu.map_or(0.0, |(after, before)| after.saturating_sub(before).as_secs_f64());
    let step = options.step.unwrap_or_else(|| first_phase(options));
    let objective = Objective { percentile: 99.0, limit: options.objective };
    let loaded = Loaded {
        summary: Summary::of(&samples),
        converged_s: convergence(&samples, step, objective).map(|time| time.as_secs_f64()),
        objective_ms: options.objective.as_secs_f64() * 1e3,
        step_s: step.as_secs_f64(),
        loader_cpu_us: cpu * 1e6 / (samples.len().max(1) as f64),
    };
    tell(&loaded);
    write_table(out, &options.name, &by_second(&samples))?;
    write(out, &options.name, machine, loaded)
}

/// Makes calls with a progress bar on the terminal.
pub(crate) async fn with_bar(
    targets: Vec<Target>,
    calls: impl Iterator<Item = (Duration, usize)> + Send + 'static,
    limits: Limits,
    total: u64,
) -> Result<Vec<Sample>> {
    let gauge = Rc::new(Gauge::default());
    let bar = bar(total);
    let shown = (bar.clone(), gauge.clone());
    let ticker = spawn_local(async move {
        let (bar, gauge) = shown;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            bar.set_position(gauge.done.get());
            bar.set_message(format!("{} failed", gauge.failed.get()));
        }
    });
    let samples = run(targets, calls, limits, gauge).await;
    ticker.abort();
    bar.finish_and_clear();
    samples
}

/// A bar for so many steps.
pub(crate) fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos}/{len} {msg}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn tell(loaded: &Loaded) {
    let (all, latency, lag) =
        (&loaded.summary, &loaded.summary.latency, &loaded.summary.loader_lag);
    say(&format!(
        "{} calls, {} succeeded; latency p50 {:.3} p90 {:.3} p99 {:.3} p99.9 {:.3} max {:.3} ms",
        all.calls, all.succeeded, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    ));
    let ends = all.ends.iter().map(|(end, count)| format!("{end}: {count}")).collect::<Vec<_>>();
    say(&format!("{}; loader late by p50 {:.3} p99 {:.3} ms", ends.join(", "), lag.p50, lag.p99));
    let objective = format!("p99 within {} ms", loaded.objective_ms);
    match loaded.converged_s {
        Some(seconds) => say(&format!("{objective} from {seconds:.1} s after the step on")),
        None => say(&format!("{objective}: not reached for good")),
    }
}

/// One line of a result.
#[expect(clippy::print_stdout, reason = "results are what this program prints")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

fn first_phase(options: &Load) -> Duration {
    let replays = options.minutes.is_some() || options.calls.is_some();
    let first = if options.phases.len() > 1 { options.phases.first() } else { None };
    first.filter(|_| !replays).map_or(Duration::ZERO, |phase| phase.length)
}

type Calls = (Vec<Target>, Vec<(Duration, usize)>);

fn calls(options: &Load) -> Result<Calls> {
    if let Some(path) = &options.minutes {
        let file = open(path)?;
        let trace =
            minutes::read(file, None, None).during(format!("reading {}", path.display()))?;
        let trace = trace.cut(options.from, options.from.saturating_add(options.take));
        if trace.calls() > CALLS_MAX {
            return failed(format!("{} calls are too many: take fewer minutes", trace.calls()));
        }
        let names = trace.functions.iter().map(|function| function.name.as_str());
        let calls = hyperfaas_trace::arrivals::arrivals(&trace, pacing(options), options.seed);
        let calls = calls.map(|call| (call.at.div_f64(options.speed), call.function)).collect();
        return Ok((targets(options, names)?, calls));
    }
    if let Some(path) = &options.calls {
        let read = requests::read(open(path)?).during(format!("reading {}", path.display()))?;
        let (from, to) = (minute(options.from), minute(options.from.saturating_add(options.take)));
        let within = read.arrivals.iter().filter(|call| call.at >= from && call.at < to);
        let calls = within.map(|call| ((call.at - from).div_f64(options.speed), call.function));
        let calls = calls.collect();
        return Ok((targets(options, read.functions.iter().map(String::as_str))?, calls));
    }
    let targets = targets(options, std::iter::once(""))?;
    let random = hyperfaas_trace::random(options.seed);
    if options.phases.iter().map(Phase::calls).sum::<f64>() > CALLS_MAX as f64 {
        return failed("the phases hold too many calls");
    }
    let count = targets.len();
    let calls = arrivals(&options.phases, pacing(options), random);
    Ok((targets, calls.enumerate().map(|(nth, at)| (at, nth % count)).collect()))
}

fn pacing(options: &Load) -> Pacing {
    if options.even { Pacing::Even } else { Pacing::Poisson }
}

fn minute(number: usize) -> Duration {
    hyperfaas_trace::MINUTE * u32::try_from(number).unwrap_or(u32::MAX)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).during(format!("opening {}", path.display()))
}

/// One target a function: URLs are given out in turn, `{function}` in them replaced.
fn targets<'a>(options: &Load, functions: impl Iterator<Item = &'a str>) -> Result<Vec<Target>> {
    let functions = functions.collect::<Vec<_>>();
    let count = functions.len().max(options.url.len());
    let target = |nth: usize| {
        let function = functions.get(nth % functions.len().max(1)).copied().unwrap_or_default();
        let url = options.url[nth % options.url.len()].replace("{function}", function);
        let (address, path) = resolve(&url)?;
        Ok(Target::new(address, request(options, &address.to_string(), &path)?))
    };
    (0..count).map(target).collect()
}

fn request(options: &Load, host: &str, path: &str) -> Result<Vec<u8>> {
    let words = options.header.iter().chain([&options.method]);
    if words.chain([&path.to_owned()]).any(|text| text.contains(['\r', '\n'])) {
        return failed("a line end within method, path or header");
    }
    let mut text = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", options.method);
    for header in &options.header {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !options.body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", options.body.len()));
    }
    text.push_str("\r\n");
    text.push_str(&options.body);
    Ok(text.into_bytes())
}

/// One rate's run against the reference function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Calls a second asked for.
    pub(crate) rate: f64,
    /// Calls a second made.
    pub(crate) made: f64,
    /// How late calls were begun, ms: median and 99th percentile.
    pub(crate) lag_p50_ms: f64,
    /// 99th percentile.
    pub(crate) lag_p99_ms: f64,
    /// Median latency, ms.
    pub(crate) p50_ms: f64,
    /// 99th percentile, ms.
    pub(crate) p99_ms: f64,
    /// CPU of the loader per call, µs.
    pub(crate) cpu_us: f64,
    /// Calls that failed.
    pub(crate) failed: u64,
}

/// `bench ceiling`.
pub(crate) async fn ceiling(options: &Ceiling, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let (_server, address) = reference().await?;
    let mut steps = Vec::new();
    for &rate in &options.rates {
        let step = one_rate(crate::stack::get(address, "/"), rate, options.length).await?;
        say(&format!(
            "{:>6.0}/s: made {:>6.0}/s, late p50 {:.3} p99 {:.3} ms, latency p50 {:.3} p99 {:.3} ms, \
             loader {:.1} µs CPU a call, {} failed",
            step.rate,
            step.made,
            step.lag_p50_ms,
            step.lag_p99_ms,
            step.p50_ms,
            step.p99_ms,
            step.cpu_us,
            step.failed
        ));
        steps.push(step);
    }
    let good = steps.iter().filter(|step| step.lag_p99_ms < LAG_LIMIT_MS && step.failed == 0);
    match good.map(|step| step.rate).reduce(f64::max) {
        Some(rate) => say(&format!("on time up to {rate:.0} calls a second")),
        None => say("never on time: this machine is busy"),
    }
    write(out, "ceiling", machine, steps)
}

async fn one_rate(target: Target, rate: f64, length: Duration) -> Result<Step> {
    let calls =
        arrivals(&[Phase::constant(rate, length)], Pacing::Poisson, hyperfaas_trace::random(1));
    let before = usage::cpu(std::process::id()).unwrap_or_default();
    let samples =
        run(vec![target], calls.map(|at| (at, 0)), Limits::default(), Rc::default()).await?;
    let cpu = usage::cpu(std::process::id()).unwrap_or_default().saturating_sub(before);
    let summary = Summary::of(&samples);
    let count = samples.len().max(1) as f64;
    let end = samples.iter().map(|s| s.at + s.latency).max().unwrap_or_default();
    Ok(Step {
        rate,
        made: count / end.max(length).as_secs_f64(),
        lag_p50_ms: summary.loader_lag.p50,
        lag_p99_ms: summary.loader_lag.p99,
        p50_ms: summary.latency.p50,
        p99_ms: summary.latency.p99,
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        failed: summary.calls - summary.succeeded,
    })
}

/// The reference function as a process of its own.
async fn reference() -> Result<(tokio::process::Child, std::net::SocketAddr)> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let own = std::env::current_exe().during("finding this program")?;
    let mut child = tokio::process::Command::new(own)
        .args(["serve", "--port", "0"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .during("starting the reference function")?;
    let Some(stdout) = child.stdout.take() else { return failed("no pipe") };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await.during("reading the port")?;
    let address = line.trim().parse().during(format!("reading the port from {line:?}"))?;
    Ok((child, address))
}
