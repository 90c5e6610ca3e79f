//! Runs simulations from the command line.
//!
//! In: a kind of load and the modes to compare. Out: a Markdown table on standard output, the
//! same as JSON, and a CSV of each run for plots.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use hyperfaas_protocol::moment::{Clock, SystemClock};
use hyperfaas_provider::scheduler::Mode;
use hyperfaas_sim::day::{self, Assumed};
use hyperfaas_sim::node::Size;
use hyperfaas_sim::run::run;
use hyperfaas_sim::scenario::Scenario;
use hyperfaas_sim::table::{self, Row};
use hyperfaas_trace::rate::Pacing;
use hyperfaas_trace::{Arrival, Trace, arrivals, generate, minutes, requests};

/// The scheduler of HyperFaaS on virtual time.
#[derive(Debug, Parser)]
#[command(name = "hyperfaas-sim", version)]
struct Options {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// A day as in a trace: Azure's per-minute files, or a file with a line for each request.
    Day {
        /// A directory with inv.csv, run.csv and mem.csv, or a CSV file of requests; a day is generated without it.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Functions of a generated day.
        #[arg(long, default_value_t = 10_000)]
        functions: usize,
        /// Calls a minute of a generated day's most popular function: with four, 10,000 functions are called some five
        /// million times.
        #[arg(long, default_value_t = 4.0)]
        busiest: f64,
        /// Only so many minutes of it.
        #[arg(long, default_value_t = 1440)]
        minutes: usize,
        #[command(flatten)]
        site: Machines,
    },
    /// A step of load on one function: the burst of docs/benchmarks.md.
    Burst {
        /// Most that phase 1 may give, thousandths of a CPU.
        #[arg(long, default_value_t = 2000)]
        ceiling: u32,
        #[command(flatten)]
        site: Machines,
    },
}

#[derive(Debug, Args)]
struct Machines {
    /// Number of nodes.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// CPUs of each.
    #[arg(long, default_value_t = 16)]
    cpus: u32,
    /// Memory of each, GiB.
    #[arg(long, default_value_t = 64)]
    memory: u64,
    /// Scaling modes to compare: off, out, up+out, full.
    #[arg(long, value_delimiter = ',', default_value = "off,out,up+out,full")]
    modes: Vec<String>,
    /// Replays the very same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for a CSV of each run.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// File for the table as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Machines {
    fn nodes(&self) -> Vec<Size> {
        vec![Size { cpus: self.cpus, memory: self.memory << 30 }; self.nodes]
    }

    fn modes(&self) -> Result<Vec<Mode>, Box<dyn Error>> {
        let parse = |name: &String| {
            Mode::parse(name)
                .ok_or_else(|| format!("mode {name} is none of off, out, up+out, full").into())
        };
        self.modes.iter().map(parse).collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    match Options::parse().load {
        Load::Day { trace, functions, busiest, minutes, site } => {
            let shape = generate::Shape { functions, minutes, busiest, seed: site.seed };
            match trace {
                Some(path) if path.is_file() => by_request(&path, &site),
                Some(path) => by_minute(&read(&path)?.cut(0, minutes), &site),
                None => by_minute(&generate::generate(&shape), &site),
            }
        }
        Load::Burst { ceiling, site } => compare(&site, |mode| {
            hyperfaas_sim::burst::step(mode, ceiling, site.nodes(), site.seed)
        }),
    }
}

fn read(path: &Path) -> Result<Trace, Box<dyn Error>> {
    let open = |name: &str| File::open(path.join(name)).map_err(|error| format!("{name}: {error}"));
    Ok(minutes::read(open("inv.csv")?, open("run.csv").ok(), open("mem.csv").ok())?)
}

fn by_minute(trace: &Trace, site: &Machines) -> Result<(), Box<dyn Error>> {
    compare(site, |mode| {
        let scenario = day::scenario(trace, &Assumed::default(), mode, site.nodes(), site.seed);
        (scenario, arrivals::arrivals(trace, Pacing::Poisson, site.seed))
    })
}

fn by_request(path: &Path, site: &Machines) -> Result<(), Box<dyn Error>> {
    let calls = requests::read(File::open(path)?)?;
    let minutes = calls.arrivals.last().map_or(0, |last| last.at.as_secs() / 60 + 1);
    let function = |name: &String| hyperfaas_trace::Function {
        name: name.clone(),
        per_minute: vec![0; usize::try_from(minutes).unwrap_or(usize::MAX)],
        duration_ms: None,
        memory_mib: None,
    };
    let trace = Trace { functions: calls.functions.iter().map(function).collect() };
    compare(site, |mode| {
        let scenario = day::scenario(&trace, &Assumed::default(), mode, site.nodes(), site.seed);
        (scenario, calls.arrivals.iter().copied())
    })
}

/// Runs each mode and prints the table.
fn compare<I: Iterator<Item = Arrival>>(
    site: &Machines,
    load: impl Fn(Mode) -> (Scenario, I),
) -> Result<(), Box<dyn Error>> {
    let clock = SystemClock::start();
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for mode in site.modes()? {
        let began = clock.now();
        let (scenario, arrivals) = load(mode);
        let summary = run(&scenario, arrivals)?;
        let took = clock.now().since(began);
        if let Some(directory) = &site.csv {
            let name = format!("{}.csv", mode.name().replace('+', "-"));
            let mut file = BufWriter::new(File::create(directory.join(name))?);
            summary.record.write_csv(&mut file)?;
            file.flush()?;
        }
        rows.push(Row::of(mode.name(), &summary, took));
        runs.push((mode.name().to_owned(), summary));
    }
    if let Some(path) = &site.json {
        serde_json::to_writer_pretty(BufWriter::new(File::create(path)?), &rows)?;
    }
    table::write(&mut io::stdout().lock(), &rows)?;
    table::write_rules(&mut io::stdout().lock(), &runs)?;
    Ok(())
}
