//! What the three compiled sample functions share: a small HTTP server that stops the way a container should.
//!
//! In: a router and the port it hard-codes, as a function from an official template would. Out: an exit code.
//! Always: answers end before the process does; SIGTERM and SIGINT stop accepting, then wait for the requests that run.
//! Touches: one listening socket on all interfaces, stderr.
//! Tests: each sample's own file; the images end to end in `tests/docker`.

use std::{io, net::Ipv4Addr, process::ExitCode};

use axum::Router;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Largest request body that the samples keep in memory, in bytes; more is answered with 413.
pub const BODY_LIMIT: usize = 64 * 1024;

/// Threads that may do blocking work at once; more work waits in line.
const BLOCKING_THREADS: usize = 8;

/// Serves `router` on `port` of all interfaces until SIGTERM or SIGINT, then lets running requests finish.
///
/// Fails, with one line on stderr, when the port is taken or the process may open no more files.
pub fn run(port: u16, router: Router) -> ExitCode {
    let served = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .and_then(|runtime| runtime.block_on(serve(port, router)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot serve on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16, router: Router) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    eprintln!("listening on port {port}");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
