//! The function that the end-to-end tests deploy: does on request what a test wants to see.
//!
//! Listens on the port in `PROBE_PORT`, else 8080. With `PROBE_FAIL=exit` it ends at once with status 3; with
//! `PROBE_FAIL=silent` it never listens, with `PROBE_FAIL=at-home` it does so only as a guest. Where it is started as the
//! watchdog of a container, it is one that lies.
#![expect(clippy::print_stdout, reason = "its output is what the log tests read")]

mod attack;
mod hostile;
mod liar;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use hyperfaas_protocol::control::BOOT_VARIABLE;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Users from this number on are the provider's guests.
const GUESTS: u32 = 0x4000_0000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let boot = std::env::var(BOOT_VARIABLE).ok().and_then(|boot| serde_json::from_str(&boot).ok());
    if let Some(boot) = boot {
        return liar::run(boot).await;
    }
    match std::env::var("PROBE_FAIL").as_deref() {
        Ok("exit") => {
            eprintln!("probe: ending as asked");
            std::process::exit(3);
        }
        Ok("silent") => std::future::pending().await,
        Ok("at-home") if rustix::process::getuid().as_raw() < GUESTS => {
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let port = std::env::var("PROBE_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    println!("probe listening");
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let router = Router::new()
        .route("/whoami", get(whoami))
        .route("/read", get(read))
        .route("/write", get(write))
        .route("/echo", any(echo))
        .route("/sink", any(sink))
        .route("/zeros", get(zeros))
        .route("/events", get(events))
        .route("/sleep", any(sleep))
        .route("/say", get(say))
        .route("/exit", any(exit))
        .route("/upgrade", get(upgrade))
        .nest("/hostile", hostile::routes())
        .nest("/attack", attack::routes())
        .fallback(describe);
    axum::serve(listener, router).await
}

/// What arrived, as JSON.
async fn describe(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let target = head.uri.path_and_query().map(ToString::to_string);
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    axum::Json(json!({ "method": head.method.as_str(), "target": target, "headers": headers, "body": body }))
        .into_response()
}

/// The process as the kernel sees it, and its environment.
async fn whoami() -> Response {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let env: std::collections::BTreeMap<_, _> = std::env::vars().collect();
    let cwd = std::env::current_dir().unwrap_or_default();
    axum::Json(json!({ "status": status, "env": env, "cwd": cwd })).into_response()
}

#[derive(Deserialize)]
struct Path {
    path: String,
}

async fn read(Query(Path { path }): Query<Path>) -> Response {
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into_response(),
        Err(error) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
    }
}

async fn write(Query(Path { path }): Query<Path>) -> Response {
    match std::fs::write(&path, "written") {
        Ok(()) => "written".into_response(),
        Err(error) => (StatusCode::FORBIDDEN, error.to_string()).into_response(),
    }
}

/// Streams the body back as it comes, with a word on who did.
async fn echo(request: Request) -> Response {
    let name = std::env::var("OPENFAAS_NAME").unwrap_or_default();
    ([("x-echoed-by", name)], Body::new(request.into_body())).into_response()
}

/// Counts the body's bytes.
async fn sink(request: Request) -> Response {
    let mut body = request.into_body().into_data_stream();
    let mut count = 0_usize;
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => count += chunk.len(),
            Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        }
    }
    count.to_string().into_response()
}

#[derive(Deserialize)]
struct Count {
    count: usize,
}

/// A body of `count` zero bytes, in chunks of 64 KiB.
async fn zeros(Query(Count { count }): Query<Count>) -> Response {
    const CHUNK: usize = 64 << 10;
    let chunk = bytes::Bytes::from(vec![0; CHUNK]);
    let sizes =
        (0..count.div_ceil(CHUNK)).map(move |i| chunk.slice(..CHUNK.min(count - i * CHUNK)));
    Body::from_stream(stream::iter(sizes.map(Ok::<_, std::io::Error>))).into_response()
}

/// Two server-sent events: the second only after the caller has had a second to see the first alone.
async fn events() -> Response {
    let late = stream::once(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>("data: two\n\n")
    });
    let body = Body::from_stream(stream::iter([Ok("data: one\n\n")]).chain(late));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

#[derive(Deserialize)]
struct Ms {
    ms: u64,
}

async fn sleep(Query(Ms { ms }): Query<Ms>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "slept"
}

#[derive(Deserialize)]
struct Words {
    out: Option<String>,
    err: Option<String>,
}

/// Writes lines to its own output.
async fn say(Query(words): Query<Words>) -> &'static str {
    if let Some(line) = words.out {
        println!("{line}");
    }
    if let Some(line) = words.err {
        eprintln!("{line}");
    }
    "said"
}

/// Ends the process in the middle of the request.
async fn exit() -> &'static str {
    std::process::exit(4);
}

/// Switches to a protocol that echoes bytes.
async fn upgrade(headers: HeaderMap, request: Request) -> Response {
    if headers.get(header::UPGRADE).is_none_or(|protocol| protocol != "websocket") {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let mut stream = TokioIo::new(stream);
        let mut buffer = [0; 1024];
        while let Ok(count) = stream.read(&mut buffer).await {
            if count == 0 || stream.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    let switch = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")];
    (StatusCode::SWITCHING_PROTOCOLS, switch).into_response()
}
