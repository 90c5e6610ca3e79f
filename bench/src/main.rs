//! `bench`: measures HyperFaaS, and what stands beside it, on real processes and a real Docker engine.
//!
//! In: a subcommand (`bench --help`). Out: results in a folder (`.build/bench`), a summary on standard output.
//! Always: what it starts has names no other run has and is gone at the end, Ctrl-C and SIGTERM included.
//! Method: docs/benchmarks.md.

mod alertmanager;
mod alone;
mod bodies;
mod burst;
mod call;
mod check;
mod chunked;
mod cli;
mod closed;
mod cold;
mod command_burst;
mod command_ladder;
mod command_load;
mod command_trace;
mod convergence;
mod corner;
mod density;
mod failure;
mod hops;
mod hpa;
mod ladder;
mod lane;
mod load;
mod meter;
mod plot;
mod record;
mod report;
mod sample;
mod scheduler;
mod serve;
mod shape;
mod sparse;
mod stack;
mod surge;
mod timer;
mod usage;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli::{Cli, Command};
use crate::failure::{During, Result, failed};

/// One thread: the other processors are for what is measured.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("starting")
        .and_then(|runtime| LocalSet::new().block_on(&runtime, until_stopped(&cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn until_stopped(cli: &Cli) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).during("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).during("watching for Ctrl-C")?;
    tokio::select! {
        done = run(&cli.command, &cli.out) => done,
        _ = terminate.recv() => failed("stopped"),
        _ = interrupt.recv() => failed("stopped"),
    }
}

async fn run(command: &Command, out: &Path) -> Result<()> {
    match command {
        Command::Load(options) => command_load::load(options, out).await,
        Command::Ceiling(options) => command_load::ceiling(options, out).await,
        Command::Ladder(options) => command_ladder::ladder(options, out).await,
        Command::Bodies(options) => bodies::bodies(options, out).await,
        Command::Burst(options) => command_burst::burst(options, out).await,
        Command::Cold(options) => cold::cold(options, out).await,
        Command::Density(options) => density::density(options, out).await,
        Command::Sparse(options) => sparse::sparse(options, out).await,
        Command::Surge(options) => surge::surge(options, out).await,
        Command::Scheduler(options) => scheduler::scheduler(options, out).await,
        Command::Report(options) => report::report(out, &options.to),
        Command::Check(options) => check::check(options).await,
        Command::Trace(options) => command_trace::trace(options),
        Command::Alone(options) => alone::alone(options).await,
        Command::Serve { port } => {
            let server = serve::Server::bind(*port).await?;
            command_load::say(&server.address().to_string());
            server.run().await;
            Ok(())
        }
    }
}
