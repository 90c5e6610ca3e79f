//! `hyperfaas`: deploys stack files and calls functions through an OpenFaaS gateway.
//!
//! It sends what faas-cli sends, so either can be used; it adds waiting until functions are ready.
//! Exit status: 0 done, 1 something failed, 2 wrong command line.

mod api;
mod args;
mod commands;
mod credentials;
mod deployment;
mod error;
mod gateway_url;
mod output;
mod stack;
mod substitute;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};
use crate::error::Error;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(arguments.command));
    // A read of standard input that never ends must not keep the program alive.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Deploy(args) => commands::deploy::run(args).await,
        Command::Invoke(args) => commands::invoke::run(args).await,
        Command::List(args) => commands::list::run(args).await,
        Command::Remove(args) => commands::remove::run(args).await,
        Command::Ready(args) => commands::ready::run(args).await,
    }
}
