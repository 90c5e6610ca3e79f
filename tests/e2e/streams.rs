//! Bodies, events and upgrades pass through gateway, provider and watchdog as they come.

use futures_util::{StreamExt, stream};
use reqwest::{Body, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::stack::{PATIENCE, Stack, probe_http_image, probe_image};

const GIB: u64 = 1 << 30;

/// The most memory that the provider's process has held, in KiB.
fn peak_kib(stack: &Stack) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_gibibyte_streams_both_ways_with_flat_memory() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    let before = peak_kib(&stack);
    let chunk = vec![7_u8; 1 << 20];
    let chunks = stream::iter((0..1024).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let (status, counted) = stack.invoke("f", "/sink", Body::wrap_stream(chunks)).await;
    assert_eq!((status, counted), (StatusCode::OK, GIB.to_string()));

    let url = stack.gateway(&format!("/function/f/zeros?count={GIB}"));
    let mut body = stack.http.get(url).send().await.unwrap().bytes_stream();
    let mut counted = 0;
    while let Some(chunk) = body.next().await {
        counted += chunk.unwrap().len() as u64;
    }
    assert_eq!(counted, GIB);
    let grown = peak_kib(&stack) - before;
    assert!(grown < 32 << 10, "memory grew by {grown} KiB");
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_is_echoed_piece_by_piece() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    let (sender, receiver) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = Body::wrap_stream(stream::unfold(receiver, async |mut pieces| {
        Some((pieces.recv().await?, pieces))
    }));
    sender.send(Ok(b"one".to_vec())).await.unwrap();
    let answer =
        stack.http.post(stack.gateway("/function/f/echo")).body(body).send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "one");
    sender.send(Ok(b"two".to_vec())).await.unwrap();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "two");
    drop(sender);
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn events_arrive_when_they_are_sent() {
    let stack = Stack::start().await;
    for (name, image) in [("plain", probe_image()), ("behind", probe_http_image())] {
        stack.deploy(name, image, json!({})).await;
        let url = stack.gateway(&format!("/function/{name}/events"));
        let answer =
            stack.http.get(url).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut events = answer.bytes_stream();
        assert_eq!(
            events.next().await.unwrap().unwrap(),
            "data: one\n\n",
            "{name}: the first comes alone"
        );
        assert_eq!(events.next().await.unwrap().unwrap(), "data: two\n\n");
    }
}

#[tokio::test]
async fn websockets_pass_both_ways() {
    let stack = Stack::start().await;
    for (name, image) in [("plain", probe_image()), ("behind", probe_http_image())] {
        stack.deploy(name, image, json!({})).await;
        stack.available(name, 1).await;
        let authority = stack.gateway("").replace("http://", "");
        let mut socket = TcpStream::connect(authority).await.unwrap();
        let head = format!(
            "GET /function/{name}/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 101 "), "{name}: {}", String::from_utf8_lossy(&seen));
        for word in ["ping", "pong"] {
            socket.write_all(word.as_bytes()).await.unwrap();
            let mut echo = [0; 4];
            timeout(PATIENCE, socket.read_exact(&mut echo)).await.unwrap().unwrap();
            assert_eq!(echo, word.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_from_being_served() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    let authority = stack.gateway("").replace("http://", "");
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(&authority).await.unwrap());
    }
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    assert_eq!(stack.status("f").await["availableReplicas"], 1);
}

#[tokio::test]
async fn the_target_reaches_the_function_byte_for_byte() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    for target in ["/a%20b/%2F/c%25?x=%20&y=+", "//a/../b", "/", "/%E2%82%AC?"] {
        let authority = stack.gateway("").replace("http://", "");
        let mut socket = TcpStream::connect(authority).await.unwrap();
        let head = format!(
            "GET /function/f.openfaas-fn{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200")
                && answer.contains(&format!("\"target\":\"{target}\"")),
            "{answer}"
        );
        for header in ["x-call-id", "x-start-time"] {
            assert!(answer.to_lowercase().contains(&format!("\r\n{header}: ")), "{answer}");
        }
    }
}
