//! The upstream pool against real sockets: what is reused, what is given back, what counts as lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{PATIENCE, get, raw, read_head, start, text};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{any, get as route_get};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use http_body_util::BodyExt;
use hyperfaas_http::{Pool, PoolSettings, SendError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

fn pool(address: std::net::SocketAddr) -> Pool {
    Pool::new(address, PoolSettings::default())
}

/// A body fed through a channel.
fn channel() -> (mpsc::Sender<&'static str>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(
        receiver,
        async |mut receiver: mpsc::Receiver<&'static str>| {
            receiver
                .recv()
                .await
                .map(|chunk| (Ok::<_, std::io::Error>(Bytes::from(chunk)), receiver))
        },
    );
    (sender, Body::from_stream(stream))
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let server =
        start(Router::new().route("/", any(|request: Request| async { request.into_body() })));
    let (sender, body) = channel();
    let request = Request::post("/").body(body).unwrap();
    sender.send("one").await.unwrap();
    let response = timeout(PATIENCE, pool(server.address).send(request)).await.unwrap().unwrap();
    let mut echoed = response.into_body().into_data_stream();
    assert_eq!(echoed.next().await.unwrap().unwrap(), "one");
    sender.send("two").await.unwrap();
    assert_eq!(timeout(PATIENCE, echoed.next()).await.unwrap().unwrap().unwrap(), "two");
    drop(sender);
    assert!(timeout(PATIENCE, echoed.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_clean_connection_is_used_again_whatever_the_answer_was() {
    let (address, connections, _task) = raw(|_, mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let answer = match head.split(' ').nth(1).unwrap() {
                "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/chunked" => {
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
                }
                "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                _ => "HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\nhi",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address);
    for (path, body) in [("/none", ""), ("/chunked", "hi"), ("/sized", "hi"), ("/none", "")] {
        assert_eq!(text(pool.send(get(path)).await.unwrap()).await, body);
        settled(&pool).await;
    }
    let head = Request::head("/head").body(Body::empty()).unwrap();
    assert_eq!(text(pool.send(head).await.unwrap()).await, "");
    settled(&pool).await;
    assert_eq!(text(pool.send(get("/sized")).await.unwrap()).await, "hi");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Lets the connection's task see that its messages ended.
async fn settled(pool: &Pool) {
    assert_eq!(pool.idle(), 1);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_unfinished_answer_closes_its_connection() {
    let (address, connections, _task) = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        // The end of this read is the pool hanging up.
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    })
    .await;
    let pool = pool(address);
    for round in 1..=2 {
        let mut response = pool.send(get("/")).await.unwrap();
        assert_eq!(
            response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(),
            "half"
        );
        drop(response);
        assert_eq!(pool.idle(), 0);
        assert_eq!(connections.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_request() {
    let (closed, mut when_closed) = mpsc::channel(8);
    let (address, connections, _task) = raw(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address);
    for round in 1..=20 {
        let request = Request::post("/").body(Body::from("payload")).unwrap();
        let answer = text(pool.send(request).await.unwrap()).await;
        assert_eq!((answer.as_str(), connections.load(Ordering::SeqCst)), ("ok", round));
        when_closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_never_left_comes_back_whole() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let request = Request::post("/x?y").header("a", "b").body(Body::from("payload")).unwrap();
    let error = pool(address).send(request).await.unwrap_err();
    let SendError::Unsent { request, cause } = error else { panic!("{error}") };
    assert!(cause.to_string().contains(&address.to_string()), "{cause}");
    assert_eq!(
        (request.uri().to_string().as_str(), request.headers()["a"].to_str().unwrap()),
        ("/x?y", "b")
    );
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "payload");
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_lost_and_sent_once() {
    for answer in ["", "HTTP/1.1 2", "this is not http\r\n\r\n"] {
        let (address, connections, _task) = raw(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let error = pool(address).send(get("/")).await.unwrap_err();
        assert!(matches!(error, SendError::Lost(_)), "{answer:?}: {error}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_in_its_body() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .unwrap();
    })
    .await;
    let pool = pool(address);
    let response = pool.send(get("/")).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    let server = start(Router::new().route("/", route_get(|| async { "ok" })));
    let settings = PoolSettings {
        idle_connections: 3,
        idle_timeout: Duration::from_millis(50),
        ..PoolSettings::default()
    };
    let pool = Pool::new(server.address, settings);
    let calls = (0..10).map(|_| async { text(pool.send(get("/")).await.unwrap()).await });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer, "ok");
    }
    assert!((1..=3).contains(&pool.idle()), "{}", pool.idle());
    let emptied = async {
        while pool.idle() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, emptied).await.expect("idle connections are closed in time");
}

#[tokio::test]
async fn a_name_is_resolved_and_its_port_kept() {
    let server = start(Router::new().route(
        "/",
        route_get(|request: Request| async move {
            request.headers()["host"].to_str().unwrap().to_owned()
        }),
    ));
    let address =
        hyperfaas_http::Address::Name { host: "localhost".into(), port: server.address.port() };
    let response = Pool::new(address, PoolSettings::default()).send(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, format!("localhost:{}", server.address.port()));
}

#[tokio::test]
async fn an_answer_given_before_the_body_was_read_still_arrives() {
    let (address, _, _task) = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(
                b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
            )
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    })
    .await;
    let chunk = Bytes::from(vec![0_u8; 64 * 1024]);
    let chunks =
        futures_util::stream::iter((0..64).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = Request::post("/").body(Body::from_stream(chunks)).unwrap();
    let response = pool(address).send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(response).await, "no");
}
