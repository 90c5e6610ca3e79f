//! of-watchdog's `streaming`: request and output of a process flow at the same time.
//!
//! In: a request. Out: its answer, which begins with the first byte of output.
//! Always: every piece is sent on as soon as it is read; what the process may still want to read of the request is never
//! thrown away (the original does both differently and loses data). An answer cut by a deadline never looks complete.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::answer;
use super::cgi;
use super::fork::{Forker, Run, Stderr, after, read_some};
use crate::body::{Body, Cut};
use crate::config::Dialect;
use crate::exchange::{Access, Exchange};
use crate::guestlog;
use crate::inbound::Inbound;
use crate::log::line;
use crate::pid1::Exit;

/// Serves one request.
pub(super) async fn serve(
    forker: Arc<Forker>,
    content_type: HeaderValue,
    request: Request<Inbound>,
    mut exchange: Exchange,
) -> Response<Body> {
    let (parts, inbound) = request.into_parts();
    let variables = cgi::variables(&parts, inbound.length(), Dialect::OfWatchdog);
    line!("Started logging: stderr from function.");
    let mut run = match forker.start(&variables, Stderr::Separate).await {
        Ok(run) => run,
        Err(error) => {
            line!("{error}");
            exchange.answered(500);
            exchange.log_at_end(Access { status: "500".into(), length: 0, call_id: None });
            let response = answer::sniffed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            return response.map(|body| body.with(exchange));
        }
    };
    forker.log_stderr(run.stderr.take());
    let (sender, mut chunks) = mpsc::channel(1);
    guestlog::spawn(supervise(forker, run, inbound, sender, exchange));
    let mut response = match chunks.recv().await {
        Some(Ok(first)) => Response::new(Body::pipe(first, chunks)),
        None => Response::new(Body::empty()),
        Some(Err(_)) => return answer::empty(StatusCode::GATEWAY_TIMEOUT),
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Keeps the process fed and read until it has ended, its time is up, or nobody wants its output.
async fn supervise(
    forker: Arc<Forker>,
    run: Run,
    inbound: Inbound,
    sender: mpsc::Sender<Result<Bytes, Cut>>,
    mut exchange: Exchange,
) {
    exchange.answered(200);
    let Run { mut process, stdin, stdout, .. } = run;
    let mut count = 0;
    let pump = async {
        pump(stdout, &sender, &mut count).await;
        process.wait().await
    };
    let end = tokio::select! {
        exit = pump => End::Exited(exit),
        () = feed(inbound, stdin) => End::Killed,
        () = after(forker.timeouts.exec.positive()) => End::Killed,
        () = after(forker.timeouts.write.positive()) => End::CutOff,
    };
    let status = match end {
        End::Exited(exit) if exit.is_success() => "200",
        End::Exited(exit) => {
            line!("{exit}");
            "500"
        }
        End::Killed => {
            process.kill_group();
            line!("signal: killed");
            "500"
        }
        End::CutOff => "504",
    };
    exchange.log_at_end(Access { status: status.into(), length: count, call_id: None });
    if !matches!(end, End::Exited(_)) {
        exchange.answered(504);
        // A client that does not read is cut by its connection's own deadline, which drops the other end.
        let _ = sender.send(Err(Cut::Deadline)).await;
    }
}

/// Why the answer ends.
enum End {
    Exited(Exit),
    /// `exec_timeout`: everything is killed.
    Killed,
    /// `write_timeout`: the client is cut off; the process runs on until it writes again, as in the original.
    CutOff,
}

/// Sends on what the process writes; ends when it closes its output or the client is gone.
async fn pump(
    mut stdout: pipe::Receiver,
    sender: &mpsc::Sender<Result<Bytes, Cut>>,
    count: &mut i64,
) {
    while let Some(chunk) = read_some(&mut stdout).await {
        *count += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
        if sender.send(Ok(chunk)).await.is_err() {
            // Closing the pipe lets the process die of it when it next writes.
            return;
        }
    }
}

/// Writes the request's body to the process as it arrives, then closes its input; never returns.
async fn feed(mut inbound: Inbound, mut stdin: pipe::Sender) {
    while let Ok(Some(chunk)) = inbound.chunk().await {
        if stdin.write_all(&chunk).await.is_err() {
            break;
        }
    }
    drop(stdin);
    std::future::pending::<()>().await;
}
