//! A proxy made of server, pool and forwarding, tried over real sockets.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{PATIENCE, Server, proxy, raw, read_head, start, talk, text};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_http::{ForwardError, ForwardOptions, HostPolicy, Pool, PoolSettings, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

fn in_front_of(upstream: std::net::SocketAddr) -> Server {
    start(proxy(upstream, ForwardOptions::default()))
}

/// Answers with the request line and headers it got.
fn mirror() -> Router {
    Router::new().fallback(|request: Request| async move {
        let mut lines: Vec<_> =
            request.headers().iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        lines.sort();
        format!("{} {} {}", request.method(), request.uri(), lines.join(" "))
    })
}

#[tokio::test]
async fn target_bytes_and_headers_pass_and_hop_by_hop_ones_do_not() {
    let upstream = start(mirror());
    let front = in_front_of(upstream.address);
    let answer = talk(
        front.address,
        "PATCH /a%2Fb//..%25?q=%20&r HTTP/1.1\r\nhost: gw\r\nconnection: close, x-hop\r\nx-hop: 1\r\n\
         keep-alive: 5\r\nauthorization: mine\r\nx-kept: 2\r\n\r\n",
    )
    .await;
    assert!(answer.contains("PATCH /a%2Fb//..%25?q=%20&r authorization=mine"), "{answer}");
    assert!(answer.contains(&format!("host={}", upstream.address)), "{answer}");
    assert!(
        answer.contains("x-forwarded-for=127.0.0.1:") && answer.contains("x-forwarded-host=gw"),
        "{answer}"
    );
    assert!(
        answer.contains("x-kept=2") && !answer.contains("x-hop") && !answer.contains("keep-alive="),
        "{answer}"
    );
}

#[tokio::test]
async fn the_host_can_be_kept_and_the_content_type_filled_in() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await;
        let body = if head.contains("\r\nhost: gw\r\n") { "kept" } else { "lost" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nkeep-alive: x\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let options = ForwardOptions {
        host: HostPolicy::Keep,
        fills_content_type: true,
        ..ForwardOptions::default()
    };
    let front = start(proxy(address, options));
    let close = "host: gw\r\nconnection: close\r\n";
    let plain = talk(front.address, &format!("GET / HTTP/1.1\r\n{close}\r\n")).await;
    assert!(plain.contains("content-type: text/plain\r\n") && plain.ends_with("kept"), "{plain}");
    assert!(!plain.contains("keep-alive"), "{plain}");
    let typed =
        talk(front.address, &format!("GET / HTTP/1.1\r\n{close}content-type: a/b\r\n\r\n")).await;
    assert!(typed.contains("content-type: a/b\r\n"), "{typed}");
}

#[tokio::test]
async fn streams_alone_keep_the_callers_host_where_that_is_asked_for() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await;
        let body = if head.contains("\r\nhost: gw\r\n") { "kept" } else { "ours" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let options =
        ForwardOptions { host: HostPolicy::UpstreamUnlessStream, ..ForwardOptions::default() };
    let front = start(proxy(address, options));
    let close = "GET / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n";
    let plain = talk(front.address, &format!("{close}\r\n")).await;
    assert!(plain.ends_with("ours"), "{plain}");
    let stream = talk(front.address, &format!("{close}accept: text/event-stream\r\n\r\n")).await;
    assert!(stream.ends_with("kept"), "{stream}");
}

#[tokio::test]
async fn websockets_and_other_upgrades_become_tunnels() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("upgrade: echo") && head.contains("connection: upgrade"), "{head}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\nx-a: b\r\n\r\nfirst")
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.write_all(b"bye").await.unwrap();
    })
    .await;
    // Two hops, as gateway and provider are.
    let inner = in_front_of(address);
    let outer = in_front_of(inner.address);
    let mut stream = TcpStream::connect(outer.address).await.unwrap();
    let ask =
        "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(
        head.starts_with("HTTP/1.1 101")
            && head.contains("upgrade: echo")
            && head.contains("x-a: b"),
        "{head}"
    );
    let mut five = [0; 5];
    stream.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"first");
    for word in [b"hello", b"again"] {
        stream.write_all(word).await.unwrap();
        stream.read_exact(&mut five).await.unwrap();
        assert_eq!(&five, word);
    }
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut rest))
        .await
        .expect("the end is passed on")
        .unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer_and_an_unasked_one_is_none() {
    let upstream = start(Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "no") }));
    let front = in_front_of(upstream.address);
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 403"));

    let (address, _, _task) = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: y\r\n\r\n")
            .await
            .unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let front = in_front_of(address);
    let answer =
        talk(front.address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

/// Tells when it is dropped.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// An upstream that sends one event and then stays silent for ever; the notify fires when it is cancelled.
fn endless(dropped: &Arc<Notify>) -> Router {
    let dropped = Arc::clone(dropped);
    Router::new().fallback(move || {
        let guard = Guard(Arc::clone(&dropped));
        async move {
            let first =
                futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("data: 1\n\n"))]);
            let silence = futures_util::stream::once(async move {
                let _guard = guard;
                std::future::pending().await
            });
            ([("content-type", "text/event-stream")], Body::from_stream(first.chain(silence)))
        }
    })
}

#[tokio::test]
async fn events_arrive_at_once_and_a_caller_that_leaves_cancels_the_call() {
    let dropped = Arc::new(Notify::new());
    let upstream = start(endless(&dropped));
    let inner = in_front_of(upstream.address);
    let outer = in_front_of(inner.address);
    let mut stream = TcpStream::connect(outer.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    assert!(read_head(&mut stream).await.contains("text/event-stream"));
    let mut event = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut event))
        .await
        .expect("the event is not held back")
        .unwrap();
    assert_eq!(&event, b"9\r\ndata: 1\n\n");
    drop(stream);
    timeout(PATIENCE, dropped.notified()).await.expect("the upstream learns of it");
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_cancels_the_call() {
    let (started, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new().fallback({
        let (started, dropped) = (Arc::clone(&started), Arc::clone(&dropped));
        move || {
            let (started, guard) = (Arc::clone(&started), Guard(Arc::clone(&dropped)));
            async move {
                let _guard = guard;
                started.notify_one();
                std::future::pending::<&str>().await
            }
        }
    });
    let upstream = start(router);
    let front = in_front_of(upstream.address);
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    started.notified().await;
    drop(stream);
    timeout(PATIENCE, dropped.notified()).await.expect("the upstream learns of it");
}

#[tokio::test]
async fn a_silent_upstream_times_out_but_a_stream_never_does() {
    let upstream = start(Router::new().fallback(|request: Request| async move {
        if request.headers().contains_key("accept") {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return "late".into_response();
        }
        std::future::pending().await
    }));
    let limit = Duration::from_millis(100);
    let front = start(proxy(
        upstream.address,
        ForwardOptions { head_timeout: Some(limit), ..Default::default() },
    ));
    let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    assert!(talk(front.address, &format!("{head}\r\n")).await.starts_with("HTTP/1.1 504"));
    let stream = talk(front.address, &format!("{head}accept: application/x-ndjson\r\n\r\n")).await;
    assert!(stream.starts_with("HTTP/1.1 200") && stream.ends_with("late"), "{stream}");
}

#[tokio::test]
async fn an_upload_that_makes_progress_never_times_out() {
    let upstream = start(Router::new().fallback(any(async |body: Bytes| body.len().to_string())));
    let limit = Duration::from_millis(400);
    let front = start(proxy(
        upstream.address,
        ForwardOptions { head_timeout: Some(limit), ..Default::default() },
    ));
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 12\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("12"), "{answer}");
}

#[tokio::test]
async fn a_malformed_request_body_is_the_callers_fault() {
    let upstream = start(Router::new().fallback(any(async |body: Bytes| body.len().to_string())));
    let front = in_front_of(upstream.address);
    let answer = talk(
        front.address,
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn expect_continue_is_answered_when_the_body_is_wanted() {
    let upstream = start(Router::new().fallback(any(async |body: Bytes| body)));
    let front = in_front_of(upstream.address);
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(timeout(PATIENCE, read_head(&mut stream)).await.unwrap().starts_with("HTTP/1.1 100"));
    stream.write_all(b"hi").await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn trailers_pass_when_the_caller_wants_them() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        assert!(read_head(&mut stream).await.contains("te: trailers"));
        let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let front = in_front_of(address);
    let answer = talk(
        front.address,
        "GET / HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\n\r\n",
    )
    .await;
    assert!(answer.contains("0\r\nx-sum: 7\r\n"), "{answer}");
}

#[tokio::test]
async fn a_large_body_streams_through_two_hops() {
    const CHUNKS: usize = 512;
    let upstream = start(Router::new().fallback(any(async |request: Request| request.into_body())));
    let inner = in_front_of(upstream.address);
    let outer = Pool::new(in_front_of(inner.address).keep(), PoolSettings::default());
    let chunk = Bytes::from(vec![7_u8; 128 * 1024]);
    let chunks = futures_util::stream::iter(
        (0..CHUNKS).map(move |_| Ok::<_, std::io::Error>(chunk.clone())),
    );
    let request = Request::post("/").body(Body::from_stream(chunks)).unwrap();
    let mut body = outer.send(request).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(received, CHUNKS * 128 * 1024);
}

#[tokio::test]
async fn an_unsent_request_can_be_forwarded_to_another_upstream() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = Pool::new(gone.local_addr().unwrap(), PoolSettings::default());
    drop(gone);
    let upstream =
        start(Router::new().fallback(any(async |headers: HeaderMap, body: Bytes| {
            (headers, body).into_response()
        })));
    let request = Request::post("/").header("x-a", "1").body(Body::from("payload")).unwrap();
    let options = ForwardOptions::default();
    let error = forward(&first, request, &options).await.unwrap_err();
    let ForwardError::Unsent { request, .. } = error else { panic!("{error}") };
    let second = Pool::new(upstream.address, PoolSettings::default());
    let response = forward(&second, *request, &options).await.unwrap();
    assert_eq!(response.headers()["x-a"], "1");
    assert_eq!(text(response).await, "payload");
}

#[tokio::test]
async fn two_lengths_never_reach_the_upstream() {
    let upstream = start(mirror());
    let front = in_front_of(upstream.address);
    for lengths in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "content-length: 3\r\ncontent-length: 4",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "content-length: +3",
    ] {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lengths}\r\n\r\n");
        let answer = talk(front.address, &format!("{head}5\r\nhello\r\n0\r\n\r\n")).await;
        let passed = answer.starts_with("HTTP/1.1 200") && !answer.contains("content-length=3");
        assert!(passed || answer.starts_with("HTTP/1.1 400"), "{lengths}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_with_two_lengths_keeps_one() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let front = in_front_of(address);
    let answer =
        talk(front.address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let is_whole = answer.starts_with("HTTP/1.1 200")
        && answer.contains("\r\n2\r\nhi\r\n0\r\n")
        && !answer.contains("content-length");
    assert!(is_whole || answer.starts_with("HTTP/1.1 502"), "{answer}");
}
