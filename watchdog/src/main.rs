//! `fwatchdog`: the first process of a function's container, under a HyperFaaS provider or alone in an image.
//!
//! In: the environment. Out: an HTTP port in front of the function. See `docs/watchdog.md`.

mod admission;
mod app;
mod body;
mod boot;
mod cgroup;
mod config;
mod control;
mod evidence;
mod exchange;
mod front;
mod gate;
mod guarded;
mod guestlog;
mod health;
mod http;
mod inbound;
mod jwt;
mod knee;
mod lane;
mod load;
mod log;
mod metrics;
mod pid1;
mod rooted;
mod starter;
mod state;
mod sys;
mod user;
mod watermark;
mod worker;
mod zone;

use std::ffi::OsString;
use std::process::ExitCode;

use boot::Place;
use config::{Config, ConfigError};
use health::LockFile;
use log::line;

/// Exit code for flags nobody knows, as Go's flag package has it.
const USAGE: u8 = 2;

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Serve,
    Version,
    HealthCheck,
    Help,
    Unknown,
}

fn main() -> ExitCode {
    sys::close_inherited_on_exec();
    let code = match order(std::env::args_os().skip(1)) {
        Order::Serve => serve(),
        Order::Version => print(&version()),
        Order::HealthCheck => check_health(),
        Order::Help => print("Usage: fwatchdog [--version] [--run-healthcheck]"),
        Order::Unknown => {
            log::write_raw(
                log::Stream::Stderr,
                b"unknown flag\nUsage: fwatchdog [--version] [--run-healthcheck]\n",
            );
            USAGE
        }
    };
    log::flush();
    ExitCode::from(code)
}

/// Flags as Go's flag package reads them: one dash or two; what is no flag ends them and is ignored.
fn order(arguments: impl Iterator<Item = OsString>) -> Order {
    for argument in arguments {
        let text = argument.to_string_lossy();
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            return Order::Serve;
        };
        match flag {
            "" => return Order::Serve,
            "version" | "version=true" => return Order::Version,
            "run-healthcheck" | "run-healthcheck=true" => return Order::HealthCheck,
            "version=false" | "run-healthcheck=false" => {}
            "h" | "help" => return Order::Help,
            _ => return Order::Unknown,
        }
    }
    Order::Serve
}

fn serve() -> u8 {
    line!("{}", version());
    let place = match Place::find(std::env::vars_os().collect()) {
        Ok(place) => place,
        Err(error) => {
            line!("Error: {error}");
            return 1;
        }
    };
    let config = match configure(&place) {
        Ok(config) => config,
        Err(error) => {
            line!("{error}");
            return error.exit;
        }
    };
    sys::adopt_orphans();
    if place.boot.is_some() {
        sys::hide_from_workers();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(app::run(config, place, lock_file())),
        Err(error) => {
            line!("Error: {error}");
            1
        }
    }
}

fn configure(place: &Place) -> Result<Config, ConfigError> {
    let is_managed = place.boot.is_some();
    let scan = || {
        let open = |path: &std::path::Path| std::fs::File::open(path).ok();
        is_managed.then(|| evidence::scan(&variable("PATH").unwrap_or_default(), open)).flatten()
    };
    Config::from_vars(variable, place.boot.as_ref(), scan)
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn lock_file() -> LockFile {
    LockFile::new(variable("TMPDIR").as_deref())
}

/// For images whose health check runs the watchdog itself.
fn check_health() -> u8 {
    if lock_file().exists() {
        return 0;
    }
    log::write_raw(log::Stream::Stderr, b"unable to find lock file.\n");
    1
}

fn print(text: &str) -> u8 {
    log::write_raw(log::Stream::Stdout, text.as_bytes());
    log::write_raw(log::Stream::Stdout, b"\n");
    0
}

fn version() -> String {
    format!(
        "Version: {}\tSHA: {}",
        env!("CARGO_PKG_VERSION"),
        option_env!("HYPERFAAS_COMMIT").unwrap_or("unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_gos() {
        let of = |list: &[&str]| order(list.iter().map(OsString::from));
        assert_eq!(of(&[]), Order::Serve);
        assert_eq!(of(&["node", "--version"]), Order::Serve);
        assert_eq!(of(&["-version"]), Order::Version);
        assert_eq!(of(&["--run-healthcheck"]), Order::HealthCheck);
        assert_eq!(of(&["-h"]), Order::Help);
        assert_eq!(of(&["--nonsense"]), Order::Unknown);
    }
}
