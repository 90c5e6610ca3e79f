//! The gateway as its own process.
//!
//! Touches: the environment and the settings file once, signals, the listening socket.

use std::io::Write;
use std::process::ExitCode;

use hyperfaas_gateway::users::hash_password;
use hyperfaas_gateway::{Backends, ProcessConfig, Queue, SHA, VERSION, routers};
use hyperfaas_http::config::{EXIT_SETTINGS, lookup};
use hyperfaas_http::serve::raise_open_files;
use hyperfaas_http::{listen, serve, serve_with, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version" | "-V") => {
            let written = writeln!(std::io::stdout(), "hyperfaas-gateway {VERSION} ({SHA})");
            return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Some("--hash-password") => return print_hash(),
        Some(_) => {
            return usage(
                "takes no arguments but --version and --hash-password; settings are environment variables",
            );
        }
    }
    let config = match read() {
        Ok(config) => config,
        Err(mistakes) => return usage(&mistakes),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(error) => {
            error!(%error, "cannot start the runtime");
            ExitCode::FAILURE
        }
    }
}

/// Prints the hash of the password on standard input, for the users file.
fn print_hash() -> ExitCode {
    let mut password = String::new();
    let hash = match std::io::stdin().read_line(&mut password) {
        Ok(_) => hash_password(password.trim_end_matches(['\r', '\n']).as_bytes()),
        Err(error) => Err(error.to_string()),
    };
    match hash.map(|hash| writeln!(std::io::stdout(), "{hash}")) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => usage(&error),
    }
}

/// Sets up logging and reads the settings; on failure, what is wrong.
fn read() -> Result<ProcessConfig, String> {
    let lookup = lookup().map_err(|error| error.to_string())?;
    telemetry::init(&lookup).map_err(|error| error.to_string())?;
    ProcessConfig::from_vars(&lookup).map_err(|error| error.to_string())
}

fn usage(mistakes: &str) -> ExitCode {
    for line in mistakes.lines() {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(std::io::stderr(), "hyperfaas-gateway: {line}");
    }
    ExitCode::from(EXIT_SETTINGS)
}

async fn run(config: ProcessConfig) -> ExitCode {
    let shutdown = CancellationToken::new();
    if let Err(error) = watch_signals(shutdown.clone()) {
        error!(%error, "cannot watch signals");
        return ExitCode::FAILURE;
    }
    let listener = match listen(config.address) {
        Ok(listener) => listener,
        Err(error) => {
            error!(address = %config.address, %error, "cannot listen");
            return ExitCode::FAILURE;
        }
    };
    let metrics_listener = match config.metrics_address.map(listen).transpose() {
        Ok(listener) => listener,
        Err(error) if config.needs_metrics => {
            error!(address = ?config.metrics_address, %error, "cannot listen for metrics");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            warn!(address = ?config.metrics_address, %error, "metrics are not served; set metrics_port");
            None
        }
    };
    let queue = match config.queue.map(Queue::open).transpose() {
        Ok(queue) => queue,
        Err(error) if config.needs_queue => {
            error!(%error, "cannot keep asynchronous calls");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            warn!(%error, "asynchronous calls are off; set HYPERFAAS_ASYNC_DIR");
            None
        }
    };
    let open_files = raise_open_files();
    let address = listener.local_addr().unwrap_or(config.address);
    let metrics = metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (provider, basic_auth) = (&config.provider, config.gateway.auth.is_some());
    let tls = config.tls.is_some();
    info!(version = VERSION, %address, ?metrics, ?provider, basic_auth, tls, open_files, "gateway listening");
    let (provider, logs, namespace) = (config.provider, config.logs, config.namespace);
    let prometheus = config.prometheus;
    let backends = Backends { provider, logs, namespace, queue, prometheus };
    let routers = routers(config.gateway, backends);
    if let Some(listener) = metrics_listener {
        tokio::spawn(serve(listener, routers.metrics, config.limits, shutdown.clone()));
    }
    let served = CancellationToken::new();
    let work = routers.work.run(shutdown.clone(), served.clone(), config.limits.drain_timeout);
    let serving = async {
        let (limits, tls) = (config.limits, config.tls.clone());
        serve_with(listener, routers.api, limits, tls, shutdown.clone()).await;
        served.cancel();
    };
    let watching = async {
        if let Some(tls) = &config.tls {
            tls.watch(shutdown.clone()).await;
        }
    };
    tokio::join!(work, serving, watching);
    info!("gateway stopped");
    ExitCode::SUCCESS
}

/// Cancels `shutdown` on SIGTERM or SIGINT.
fn watch_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: running requests finish first");
        shutdown.cancel();
    });
    Ok(())
}
