//! The command line. In: words. Out: [`Command`], valid. Durations are Go's (`90s`, `1m30s`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hyperfaas_protocol::duration::GoDuration;
use hyperfaas_trace::rate::Phase;

use crate::burst::Mode;
use crate::shape::Shape;

/// Measures HyperFaaS, and what stands beside it, on this machine's processes and Docker engine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Folder for results.
    #[arg(long, global = true, default_value = ".build/bench")]
    pub(crate) out: PathBuf,
}

/// A measurement, or a part of one.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open loop: calls URLs at a given rate, whatever becomes of the calls before.
    Load(Load),
    /// The loader's own limit, against the reference function on this machine.
    Ceiling(Ceiling),
    /// Closed loop over the hops: what each adds, carries and costs.
    Ladder(Ladder),
    /// Large request bodies: what moving them costs the watchdog.
    Bodies(Bodies),
    /// A burst on real containers, in several modes of scaling.
    Burst(Burst),
    /// From no replica to the first answer.
    Cold(Cold),
    /// What an idle function holds in memory.
    Density(Density),
    /// Functions that are hardly called: memory and latency with a container each, and from zero.
    Sparse(Sparse),
    /// Many functions at zero, all asked for at once.
    Surge(Surge),
    /// The scheduler by itself: its decisions' times, and simulated days.
    Scheduler(Scheduler),
    /// Results to a page with plots.
    Report(Report),
    /// Fails when ours has become slower against references of the same run.
    Check(Check),
    /// Print what a trace is like, or generate one.
    Trace(Trace),
    /// Starts a server again and again and prints how many ms each took to its first answer.
    Alone(Alone),
    /// The reference function: answers everything with 200.
    Serve {
        /// Port; 0 is a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

/// Options of `load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Where to; several are called in turn. `{function}` is replaced by the trace's function.
    #[arg(required = true)]
    pub(crate) url: Vec<String>,
    /// Phases, such as `4:20s,60:3m` or `10-100:1m` for a ramp.
    #[arg(long, value_parser = phase, value_delimiter = ',', default_value = "10:10s")]
    pub(crate) phases: Vec<Phase>,
    /// Calls at equal distances instead of a Poisson process.
    #[arg(long)]
    pub(crate) even: bool,
    /// Calls a minute, in Azure's 2019 format; replaces the phases.
    #[arg(long, conflicts_with = "calls")]
    pub(crate) minutes: Option<PathBuf>,
    /// One call a line: `at_ms,function`, or Azure's 2021 format; replaces the phases.
    #[arg(long)]
    pub(crate) calls: Option<PathBuf>,
    /// Begin of the trace, minutes since its start.
    #[arg(long, default_value_t = 0)]
    pub(crate) from: usize,
    /// Minutes of the trace to replay.
    #[arg(long, default_value_t = 10)]
    pub(crate) take: usize,
    /// Replays a trace so many times faster.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) speed: f64,
    /// Random numbers begin here.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Calls on the wire at once.
    #[arg(long, default_value_t = 512)]
    pub(crate) connections: usize,
    /// Longest time from connection to the answer's end.
    #[arg(long, value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
    /// Objective of the 99th percentile, for the convergence.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    pub(crate) objective: Duration,
    /// Moment from which the convergence counts; the end of the first phase if absent.
    #[arg(long, value_parser = duration)]
    pub(crate) step: Option<Duration>,
    /// Method.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// Body.
    #[arg(long, default_value = "")]
    pub(crate) body: String,
    /// Further header lines, such as `X-Call-Id: 1`.
    #[arg(long)]
    pub(crate) header: Vec<String>,
    /// Name of the result.
    #[arg(long, default_value = "load")]
    pub(crate) name: String,
}

/// Options of `ceiling`.
#[derive(Debug, Args)]
pub(crate) struct Ceiling {
    /// Calls a second, one run each.
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,5000,10000,15000,20000,30000")]
    pub(crate) rates: Vec<f64>,
    /// Length of a run.
    #[arg(long, value_parser = duration, default_value = "3s")]
    pub(crate) length: Duration,
}

/// Options of `ladder`.
#[derive(Debug, Args)]
pub(crate) struct Ladder {
    /// Numbers of callers.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub(crate) connections: Vec<usize>,
    /// Rounds over all hops.
    #[arg(long, default_value_t = 10)]
    pub(crate) rounds: usize,
    /// Length of a visit.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub(crate) length: Duration,
    /// Another watchdog for mode http, as NAME=PATH of a static program.
    #[arg(long, value_parser = named_path)]
    pub(crate) watchdog: Vec<(String, PathBuf)>,
    /// Another watchdog that forks per request, as NAME=PATH.
    #[arg(long, value_parser = named_path)]
    pub(crate) classic: Vec<(String, PathBuf)>,
    /// Anything else that answers, such as another gateway's function, as NAME=URL.
    #[arg(long, value_parser = named)]
    pub(crate) url: Vec<(String, String)>,
    /// Leave out provider and gateway.
    #[arg(long)]
    pub(crate) watchdogs_only: bool,
    /// Leave out forking a process per request.
    #[arg(long)]
    pub(crate) no_fork: bool,
}

/// Options of `bodies`.
#[derive(Debug, Args)]
pub(crate) struct Bodies {
    /// Of a body, MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) size_mib: u32,
    /// Of a lane's frame, KiB; those from 64 on are spliced.
    #[arg(long, value_delimiter = ',', default_value = "32,256,1024")]
    pub(crate) frames_kib: Vec<usize>,
    /// Rounds over all ways.
    #[arg(long, default_value_t = 10)]
    pub(crate) rounds: usize,
    /// Length of a visit.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub(crate) length: Duration,
}

/// Options of `burst`.
#[derive(Debug, Args)]
pub(crate) struct Burst {
    /// Who scales.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "static,hpa,hpa-tuned,out,up-out,full"
    )]
    pub(crate) mode: Vec<Mode>,
    /// The course of the load.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "step15")]
    pub(crate) shape: Vec<Shape>,
    /// Runs of each mode; modes take turns.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: usize,
    /// Calls a second before the step.
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Length of the baseline.
    #[arg(long, value_parser = duration, default_value = "20s")]
    pub(crate) before: Duration,
    /// Length of what follows.
    #[arg(long, value_parser = duration, default_value = "3m")]
    pub(crate) after: Duration,
    /// CPU a call burns, ms.
    #[arg(long, default_value_t = 10)]
    pub(crate) burn_ms: u32,
    /// CPU of a replica, millicores.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) request: u32,
    /// What our modes may raise a replica's CPU to, millicores; absent: as far as the node goes.
    #[arg(long)]
    pub(crate) ceiling: Option<u32>,
    /// Objective of the 99th percentile.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    pub(crate) objective: Duration,
    /// Folder of prometheus and prometheus-alertmanager, if not on the path.
    #[arg(long)]
    pub(crate) prometheus: Option<PathBuf>,
    /// A further setting of the provider, as NAME=VALUE.
    #[arg(long, value_parser = named)]
    pub(crate) setting: Vec<(String, String)>,
    /// Random numbers begin here.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Options of `cold`.
#[derive(Debug, Args)]
pub(crate) struct Cold {
    /// An image to start besides the reference, as NAME=IMAGE.
    #[arg(long, value_parser = named)]
    pub(crate) image: Vec<(String, String)>,
    /// First answers of each image.
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: usize,
    /// A further setting of the provider, as NAME=VALUE.
    #[arg(long, value_parser = named)]
    pub(crate) setting: Vec<(String, String)>,
    /// Name of the result, such as the setting that was tried.
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
}

/// Options of `alone`.
#[derive(Debug, Args)]
pub(crate) struct Alone {
    /// Where the server answers.
    pub(crate) url: String,
    /// The server's command.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
    /// How often.
    #[arg(long, default_value_t = 10)]
    pub(crate) rounds: usize,
}

/// Options of `density`.
#[derive(Debug, Args)]
pub(crate) struct Density {
    /// Functions, one replica each.
    #[arg(long, default_value_t = 50)]
    pub(crate) functions: usize,
    /// A further setting of the provider, as NAME=VALUE.
    #[arg(long, value_parser = named)]
    pub(crate) setting: Vec<(String, String)>,
}

/// Options of `sparse`.
#[derive(Debug, Args)]
pub(crate) struct Sparse {
    /// Functions.
    #[arg(long, default_value_t = 24)]
    pub(crate) functions: usize,
    /// Between two calls of one function.
    #[arg(long, value_parser = duration, default_value = "60s")]
    pub(crate) every: Duration,
    /// How long, for each way.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub(crate) length: Duration,
    /// After how long without a call a function goes back to zero, whole seconds.
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub(crate) idle: Duration,
    /// A further setting of the provider, as NAME=VALUE.
    #[arg(long, value_parser = named)]
    pub(crate) setting: Vec<(String, String)>,
}

/// Options of `surge`.
#[derive(Debug, Args)]
pub(crate) struct Surge {
    /// Functions.
    #[arg(long, default_value_t = 50)]
    pub(crate) functions: usize,
    /// Calls of each.
    #[arg(long, default_value_t = 10)]
    pub(crate) calls: usize,
    /// Standby containers that wait.
    #[arg(long, default_value_t = 50)]
    pub(crate) standby: usize,
    /// Surges, each with a provider of its own.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
}

/// Options of `scheduler`.
#[derive(Debug, Args)]
pub(crate) struct Scheduler {
    /// A day to simulate: a directory with inv.csv, run.csv and mem.csv in Azure's 2019 format.
    #[arg(long)]
    pub(crate) trace: Option<PathBuf>,
    /// What that day is, for the page.
    #[arg(long, default_value = "A day of the given trace")]
    pub(crate) source: String,
    /// Functions of a generated day to simulate; 0 for none.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) functions: usize,
    /// Modes of scaling.
    #[arg(long, value_delimiter = ',', default_value = "off,out,up+out,full")]
    pub(crate) modes: Vec<String>,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Where the page `benchmarks.md` and the folder `benchmarks` with its plots go.
    #[arg(long, default_value = "docs")]
    pub(crate) to: PathBuf,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The ratios to compare with.
    #[arg(long, default_value = "bench/baseline.json")]
    pub(crate) baseline: PathBuf,
    /// Write the ratios of this machine there instead.
    #[arg(long)]
    pub(crate) record: bool,
    /// Rounds of a try.
    #[arg(long, default_value_t = 15)]
    pub(crate) rounds: usize,
}

/// Options of `trace`.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// A file in Azure's 2019 format to look at; without it, a trace is generated and printed.
    pub(crate) file: Option<PathBuf>,
    /// Functions to generate.
    #[arg(long, default_value_t = 100)]
    pub(crate) functions: usize,
    /// Minutes to generate.
    #[arg(long, default_value_t = 1440)]
    pub(crate) minutes: usize,
    /// Random numbers begin here.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A positive Go duration.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = GoDuration::parse(text).and_then(GoDuration::positive);
    parsed.ok_or_else(|| "must be a duration such as 500ms or 1m30s".to_owned())
}

/// `RATE:LENGTH` or `FROM-TO:LENGTH`.
fn phase(text: &str) -> Result<Phase, String> {
    let mistake =
        || "must be RATE:LENGTH or FROM-TO:LENGTH, such as 60:3m or 10-100:20s".to_owned();
    let (rates, length) = text.split_once(':').ok_or_else(mistake)?;
    let (from, to) = rates.split_once('-').unwrap_or((rates, rates));
    let rate = |text: &str| {
        let rate = text.parse::<f64>().ok().filter(|rate| (0.0..=1e6).contains(rate));
        rate.ok_or_else(mistake)
    };
    Ok(Phase { from: rate(from)?, to: rate(to)?, length: duration(length)? })
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "must be a number above 0".to_owned())
}

fn named(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=…")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || value.is_empty() || !name.chars().all(is_plain) {
        return Err("must be NAME=…, the name of letters, digits, dots and dashes".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = named(text)?;
    let path = PathBuf::from(path);
    if path.is_file() { Ok((name, path)) } else { Err(format!("no file {}", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_rates_over_time() {
        let seconds = Duration::from_secs;
        assert_eq!(phase("60:3m"), Ok(Phase::constant(60.0, seconds(180))));
        assert_eq!(phase("0-2.5:1s"), Ok(Phase { from: 0.0, to: 2.5, length: seconds(1) }));
        for text in ["60", "60:", "x:1s", "60:0s", "60:-1s", "-1:1s", "inf:1s", "1e9:1s", "NaN:1s"]
        {
            assert!(phase(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_go_with_what_they_name() {
        assert_eq!(named("go=http://x/"), Ok(("go".to_owned(), "http://x/".to_owned())));
        for text in ["go", "=x", "go=", "a/b=x"] {
            assert!(named(text).is_err(), "{text}");
        }
        assert!(named_path("x=/nowhere/at/all").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
