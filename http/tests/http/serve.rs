//! The server loop: limits, slow and silent peers, shutdown.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{PATIENCE, read_head, start, start_with, talk};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{any, get};
use hyperfaas_http::ServeLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

const ASK: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

#[tokio::test]
async fn requests_know_their_peer() {
    let router = Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| async move { peer.to_string() }),
    );
    let server = start(router);
    assert!(talk(server.address, ASK).await.contains("127.0.0.1:"));
}

#[tokio::test]
async fn a_thousand_idle_connections_do_not_stand_in_the_way() {
    hyperfaas_http::serve::raise_open_files();
    let server = start(hello());
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(talk(server.address, ASK).await.ends_with("hello"));
    idle[999].write_all(ASK.as_bytes()).await.unwrap();
    assert!(read_head(&mut idle[999]).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_peer_that_sends_no_head_is_dropped() {
    let limits =
        ServeLimits { header_read_timeout: Duration::from_millis(50), ..ServeLimits::default() };
    let server = start_with(hello(), limits);
    for start in ["", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{start:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{start:?}");
    }
}

/// Requests of every form, cut anywhere, with pauses in which connections let go of their buffers: each is answered, in order.
#[tokio::test]
async fn a_connection_that_was_idle_for_long_goes_on_as_if_it_had_not_been() {
    let limits = ServeLimits { nap_after: Duration::from_millis(5), ..ServeLimits::default() };
    let router = Router::new().route("/", any(async |body: String| format!("<{body}>")));
    let server = start_with(router, limits);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";
    const CHUNKED: &str =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let whole = [GET, POST, CHUNKED, POST, GET, CHUNKED, GET].concat();
    for cut in (1..whole.len()).step_by(7) {
        for piece in [&whole[..cut], &whole[cut..]] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        for body in ["<>", "<body>", "<body>", "<body>", "<>", "<body>", "<>"] {
            let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "cut at {cut}: {head}");
            let mut answer = vec![0; body.len()];
            timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(answer, body.as_bytes(), "cut at {cut}");
        }
    }
    drop(server);
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed at once").unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_head_may_be_large_but_not_endless() {
    let server = start(hello());
    let with = |bytes: usize| {
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nbig: {}\r\n\r\n",
            "a".repeat(bytes)
        )
    };
    assert!(talk(server.address, &with(900_000)).await.starts_with("HTTP/1.1 200"));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may answer and close before everything was written.
    let _ = stream.write_all(with(2_000_000).as_bytes()).await;
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn above_the_connection_limit_peers_wait_for_a_place() {
    let limits = ServeLimits { connections: 1, ..ServeLimits::default() };
    let server = start_with(hello(), limits);
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_head(&mut first).await.starts_with("HTTP/1.1 200"));
    let second = talk(server.address, ASK);
    tokio::pin!(second);
    assert!(timeout(Duration::from_millis(100), &mut second).await.is_err(), "no place is free");
    drop(first);
    assert!(second.await.ends_with("hello"));
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_takes_nothing_new() {
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new().route(
        "/",
        get({
            let (started, go) = (Arc::clone(&started), Arc::clone(&go));
            async move || {
                started.notify_one();
                go.notified().await;
                "finished"
            }
        }),
    );
    let mut server = start(router);
    let address = server.address;
    let running =
        tokio::spawn(async move { talk(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await });
    started.notified().await;
    let idle = TcpStream::connect(address).await.unwrap();
    server.shutdown.cancel();
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the listener closes");
    go.notify_one();
    assert!(running.await.unwrap().ends_with("finished"));
    timeout(PATIENCE, server.task.take().unwrap()).await.expect("serve returns").unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_never_ends() {
    let started = Arc::new(Notify::new());
    let router = Router::new().route(
        "/",
        get({
            let started = Arc::clone(&started);
            async move || {
                started.notify_one();
                std::future::pending::<&str>().await
            }
        }),
    );
    let limits = ServeLimits { drain_timeout: Duration::from_millis(50), ..ServeLimits::default() };
    let mut server = start_with(router, limits);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    started.notified().await;
    server.shutdown.cancel();
    timeout(PATIENCE, server.task.take().unwrap()).await.expect("serve returns").unwrap();
    assert_eq!(read_head(&mut stream).await, "");
}
