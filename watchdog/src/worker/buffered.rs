//! The two modes that hold a request and its answer whole: the classic watchdog, and of-watchdog's `serializing`.
//!
//! In: a request. Out: its answer, after the process has ended. Request and answer are kept in memory without a bound of
//! our own, as in the originals; the container's memory limit holds.
//! Always: once started, a process runs to its end or its deadline, even when the client leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};

use super::answer::{self, DURATION};
use super::cgi::{self, Variable};
use super::fork::{Collected, Forker, Stderr};
use crate::body::Body;
use crate::config::{ClassicSettings, Dialect};
use crate::exchange::{Access, Exchange};
use crate::guestlog;
use crate::inbound::{Fault, Inbound};
use crate::log::{self, Stream, line};

/// Serves one request as the classic watchdog.
pub(super) async fn classic(
    forker: Arc<Forker>,
    settings: Arc<ClassicSettings>,
    request: Request<Inbound>,
    exchange: Exchange,
) -> Response<Body> {
    if !matches!(request.method().as_str(), "GET" | "POST" | "PUT" | "PATCH" | "DELETE") {
        return close(exchange, answer::empty(StatusCode::METHOD_NOT_ALLOWED));
    }
    let (parts, inbound) = request.into_parts();
    if settings.debug_headers {
        print_headers("in", &parts.headers);
    }
    line!("Forking fprocess.");
    let length = inbound.length();
    let body = match inbound.read_whole().await {
        Ok(body) => body,
        Err(fault) => {
            let status = if fault == Fault::Late {
                StatusCode::REQUEST_TIMEOUT
            } else {
                StatusCode::BAD_REQUEST
            };
            return close(exchange, answer::sniffed(status, format!("{fault}\n")));
        }
    };
    let variables = if settings.cgi_headers {
        cgi::variables(&parts, length, Dialect::Classic)
    } else {
        Vec::new()
    };
    let input = if settings.marshal_request { cgi::marshalled(&parts, &body).into() } else { body };
    let patience = forker.timeouts.write.positive();
    let run = async move {
        let mut exchange = exchange;
        let response = run_classic(&forker, &settings, (parts, variables, input), &exchange).await;
        exchange.answered(response.status().as_u16());
        (response, exchange)
    };
    detached(run, patience).await
}

async fn run_classic(
    forker: &Forker,
    settings: &ClassicSettings,
    (parts, variables, input): (Parts, Vec<Variable>, Bytes),
    exchange: &Exchange,
) -> Response<Body> {
    let stderr = if settings.combine_output { Stderr::Combined } else { Stderr::Separate };
    let run = match forker.start(&variables, stderr).await {
        Ok(run) => run,
        Err(error) => return failed(settings, &error.to_string(), &[]),
    };
    let Some(collected) = run.collect(input, forker.timeouts.exec.positive()).await else {
        line!("Killing process: {}", forker.fprocess);
        return answer::sniffed(StatusCode::REQUEST_TIMEOUT, "Killed process.\n");
    };
    let Collected { exit, stdout, stderr } = collected;
    if !stderr.is_empty() {
        line!("stderr: {}", String::from_utf8_lossy(&stderr));
    }
    if !exit.is_success() {
        return failed(settings, &exit.to_string(), &stdout);
    }
    succeeded(settings, &parts.headers, stdout, exchange.elapsed())
}

fn succeeded(
    settings: &ClassicSettings,
    asked: &HeaderMap,
    output: Vec<u8>,
    elapsed: Duration,
) -> Response<Body> {
    if settings.write_debug {
        log::write_raw(Stream::Stdout, &output);
        line!("Duration: {:.6}s", elapsed.as_secs_f64());
    } else {
        line!("Wrote {} Bytes - Duration: {:.6}s", output.len(), elapsed.as_secs_f64());
    }
    let fixed = settings.content_type.as_ref().and_then(|kind| HeaderValue::try_from(kind).ok());
    let kind = fixed.or_else(|| asked.get(CONTENT_TYPE).cloned());
    let mut response = answer::sniffed(StatusCode::OK, output);
    let headers = response.headers_mut();
    headers.insert(DURATION, answer::seconds(elapsed));
    let guessed = headers.remove(CONTENT_TYPE);
    if let Some(kind) = &kind {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    if settings.debug_headers {
        // Before a type is guessed, as in the original.
        print_headers("out", headers);
    }
    if let (None, Some(guessed)) = (kind, guessed) {
        headers.insert(CONTENT_TYPE, guessed);
    }
    response
}

fn failed(settings: &ClassicSettings, reason: &str, output: &[u8]) -> Response<Body> {
    if settings.write_debug {
        line!("Success=false, Error={reason}");
        line!("Out={}", String::from_utf8_lossy(output));
    }
    let mut body = format!("{reason}\n").into_bytes();
    body.extend_from_slice(output);
    answer::sniffed(StatusCode::INTERNAL_SERVER_ERROR, body)
}

/// Serves one request as of-watchdog's `serializing`.
pub(super) async fn serializing(
    forker: Arc<Forker>,
    content_type: HeaderValue,
    request: Request<Inbound>,
    exchange: Exchange,
) -> Response<Body> {
    let (parts, inbound) = request.into_parts();
    let length = inbound.length();
    let variables = cgi::variables(&parts, length, Dialect::OfWatchdog);
    let limit = forker.timeouts.exec.positive();
    let read = async { inbound.read_whole().await.map_err(|fault| fault.to_string()) };
    // The limit covers the wait for the body as well: when it passes there, nothing is started.
    let body = tokio::time::timeout(limit.unwrap_or(Duration::MAX), read).await;
    let body = body.unwrap_or_else(|_| Err("context deadline exceeded".into()));
    let patience = forker.timeouts.write.positive();
    let run = async move {
        let mut exchange = exchange;
        let result = match body {
            Ok(body) => run_serializing(&forker, variables, body, limit, &exchange).await,
            Err(text) => Err(text),
        };
        let (status, output) = match result {
            Ok(output) => (StatusCode::OK, output),
            Err(text) => {
                line!("{text}");
                (StatusCode::INTERNAL_SERVER_ERROR, text.into_bytes())
            }
        };
        exchange.answered(status.as_u16());
        let length = i64::try_from(output.len()).unwrap_or(i64::MAX);
        exchange.log_at_end(Access { status: status.as_u16().to_string(), length, call_id: None });
        let mut response = Response::new(Body::full(output));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response.headers_mut().insert(DURATION, answer::seconds(exchange.elapsed()));
        (response, exchange)
    };
    detached(run, patience).await
}

/// The process's output, or why there is none.
async fn run_serializing(
    forker: &Forker,
    variables: Vec<Variable>,
    body: Bytes,
    limit: Option<Duration>,
    exchange: &Exchange,
) -> Result<Vec<u8>, String> {
    line!("Started logging: stderr from function.");
    let mut run =
        forker.start(&variables, Stderr::Separate).await.map_err(|error| error.to_string())?;
    forker.log_stderr(run.stderr.take());
    let left = limit.map(|limit| limit.saturating_sub(exchange.elapsed()));
    let collected = run.collect(body, left).await.ok_or("signal: killed")?;
    if collected.exit.is_success() { Ok(collected.stdout) } else { Err(collected.exit.to_string()) }
}

/// Runs `work` to its end whatever the client does; after `patience` the client is told that it takes too long.
async fn detached(
    work: impl Future<Output = (Response<Body>, Exchange)> + Send + 'static,
    patience: Option<Duration>,
) -> Response<Body> {
    let task = guestlog::spawn(work);
    match tokio::time::timeout(patience.unwrap_or(Duration::MAX), task).await {
        Ok(Ok((response, exchange))) => response.map(|body| body.with(exchange)),
        Ok(Err(_)) => answer::empty(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => answer::empty(StatusCode::GATEWAY_TIMEOUT),
    }
}

fn close(mut exchange: Exchange, response: Response<Body>) -> Response<Body> {
    exchange.answered(response.status().as_u16());
    response.map(|body| body.with(exchange))
}

/// The lines of `debug_headers`: `[in] Name=[v1 v2]`.
fn print_headers(direction: &str, headers: &HeaderMap) {
    let mut text = Vec::new();
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        text.extend_from_slice(
            format!("[{direction}] {}=[", cgi::canonical(name.as_str())).as_bytes(),
        );
        text.extend_from_slice(&values.join(&b' '));
        text.extend_from_slice(b"]\n");
    }
    log::write_raw(Stream::Stdout, &text);
}

/// Runs the function for a readiness probe: a GET without body. An exit code other than 0 is a 500.
pub(super) async fn probe(
    forker: &Forker,
    dialect: Dialect,
    path: &str,
    headers: HeaderMap,
) -> StatusCode {
    let Ok(mut parts) = Request::get(path).body(()).map(|request| request.into_parts().0) else {
        return StatusCode::INTERNAL_SERVER_ERROR;
    };
    parts.headers = headers;
    let Ok(mut run) =
        forker.start(&cgi::variables(&parts, Some(0), dialect), Stderr::Separate).await
    else {
        return StatusCode::INTERNAL_SERVER_ERROR;
    };
    forker.log_stderr(run.stderr.take());
    match run.collect(Bytes::new(), forker.timeouts.exec.positive()).await {
        Some(collected) if collected.exit.is_success() => StatusCode::OK,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
