//! What a function does that wishes its container ill, or is broken enough to look like it.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::signal::unix::{SignalKind, signal};

/// Allocated at once, in bytes.
const PIECE: usize = 16 << 20;

/// One route a deed; the answer says how far it got.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/memory", any(memory))
        .route("/forks", any(forks))
        .route("/flood", any(flood))
        .route("/streams", any(streams))
        .route("/term", any(term))
        .route("/tmp", any(tmp))
        .route("/descriptors", any(descriptors))
}

/// Takes all memory there is, and never answers.
async fn memory() -> &'static str {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; PIECE]);
    }
}

/// Starts processes that stay, until no more can be had.
async fn forks() -> String {
    let mut started = 0_u32;
    loop {
        let mut command = Command::new("/proc/self/exe");
        command.env("PROBE_FAIL", "silent").stdin(Stdio::null()).stdout(Stdio::null());
        match command.spawn() {
            Ok(_) => started += 1,
            Err(error) => return format!("{started} {error}"),
        }
    }
}

/// Writes lines as fast as it can, for ever.
async fn flood() -> &'static str {
    let line = [b'x'; 200];
    std::thread::spawn(move || {
        let mut out = std::io::stdout().lock();
        while out.write_all(&line).and_then(|()| out.write_all(b"\n")).is_ok() {}
    });
    "flooding"
}

/// Lets go of the pipes it was started with.
async fn streams() -> Response {
    let closed = File::options().read(true).write(true).open("/dev/null").and_then(|null| {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(rustix::stdio::dup2_stderr(&null)?)
    });
    match closed {
        Ok(()) => "closed".into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// From now on SIGTERM does nothing.
async fn term() -> Response {
    match signal(SignalKind::terminate()) {
        Ok(_) => "deaf".into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Fills the temporary directory.
async fn tmp() -> String {
    let written = File::create("/tmp/fill").and_then(|mut file| {
        loop {
            file.write_all(&[1; 65536])?;
        }
    });
    let error: std::io::Result<()> = written;
    error.err().map_or_else(String::new, |error| error.to_string())
}

/// Opens files until no more can be had, and keeps them.
async fn descriptors() -> String {
    let mut open = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
    };
    let answer = format!("{} {error}", open.len());
    // They stay open for as long as the process lives.
    std::mem::forget(open);
    answer
}
