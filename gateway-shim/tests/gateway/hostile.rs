//! What no well-behaved provider does, over all routes at once: garbage, silence, an early end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{Method, Request, StatusCode};
use hyperfaas_gateway::{GatewayConfig, router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Answer, Server, ask, config, over_http, start};

/// A provider that reads a request's head, sends `bytes` as they are, and closes.
async fn saying(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bytes: Arc<[u8]> = bytes.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = Arc::clone(&bytes);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                // The gateway may have had enough before all is written.
                let _ = stream.write_all(&bytes).await;
            });
        }
    });
    address
}

async fn call(gateway: &Server, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path);
    ask(gateway, request, "").await
}

#[tokio::test]
async fn a_provider_that_answers_garbage_is_a_502_in_one_line_on_every_route() {
    let garbage: [(&str, Vec<u8>); 14] = [
        ("nothing", Vec::new()),
        ("noise", (0..=255).cycle().take(65_536).collect()),
        ("half a status line", b"HTTP/1.".to_vec()),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        ("a status of four digits", b"HTTP/1.1 2000 X\r\n\r\n".to_vec()),
        ("a status of two digits", b"HTTP/1.1 20 X\r\n\r\n".to_vec()),
        ("another version", b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
        ("a header with NUL", b"HTTP/1.1 200 X\r\nx-a: b\0c\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("a header name with a space", b"HTTP/1.1 200 X\r\nx a: b\r\n\r\n".to_vec()),
        ("a negative length", b"HTTP/1.1 200 X\r\ncontent-length: -1\r\n\r\n".to_vec()),
        (
            "two lengths",
            b"HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
        ),
        (
            "a length beyond all numbers",
            b"HTTP/1.1 200 X\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        ),
        (
            "a header of a MiB",
            [b"HTTP/1.1 200 X\r\nx-a: ".to_vec(), vec![b'x'; 1 << 20], b"\r\n\r\n".to_vec()]
                .concat(),
        ),
        (
            "ten thousand headers",
            [b"HTTP/1.1 200 X\r\n".to_vec(), b"x-a: 1\r\n".repeat(10_000), b"\r\n".to_vec()]
                .concat(),
        ),
    ];
    for (what, bytes) in garbage {
        let gateway = start(router(config(false), over_http(saying(bytes).await), None));
        for (method, path) in [
            (Method::GET, "/function/f"),
            (Method::POST, "/function/f"),
            (Method::GET, "/system/functions"),
            (Method::DELETE, "/system/functions"),
            (Method::GET, "/system/function/f"),
            (Method::POST, "/system/scale-function/f"),
            (Method::GET, "/system/secrets"),
            (Method::GET, "/system/namespaces"),
            (Method::GET, "/system/logs?name=f"),
            (Method::GET, "/healthz"),
        ] {
            let answer = call(&gateway, method.clone(), path).await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::BAD_GATEWAY, "the provider gave no valid answer\n"),
                "{what}: {method} {path}"
            );
        }
        let info = call(&gateway, Method::GET, "/system/info").await;
        assert!(info.status == StatusCode::OK || info.status.is_server_error(), "{what}");
    }
}

#[tokio::test]
async fn a_provider_that_hangs_is_given_up_on_every_route() {
    let hanging = start(Router::new().fallback(std::future::pending::<()>));
    let soon = GatewayConfig { upstream_timeout: Some(Duration::from_millis(50)), ..config(false) };
    let gateway = start(router(soon, over_http(hanging.address), None));
    for (method, path) in [
        (Method::GET, "/function/f"),
        (Method::GET, "/system/functions"),
        (Method::PUT, "/system/functions"),
        (Method::GET, "/system/function/f"),
        (Method::POST, "/system/scale-function/f"),
        (Method::GET, "/system/secrets"),
        (Method::GET, "/system/namespaces"),
        (Method::GET, "/system/logs?name=f"),
        (Method::GET, "/healthz"),
    ] {
        let answer = call(&gateway, method.clone(), path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::GATEWAY_TIMEOUT, "no answer within 50ms\n"),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_provider_that_dies_within_the_callers_body_is_told_while_the_caller_still_sends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = start(router(config(false), over_http(listener.local_addr().unwrap()), None));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut begun = [0; 1024];
            let _ = stream.read(&mut begun).await;
            // Closed with bytes unread: the kernel resets the connection, as when a process is killed.
        }
    });
    let mut caller = TcpStream::connect(gateway.address).await.unwrap();
    let head = b"POST /function/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    caller.write_all(head).await.unwrap();
    let (mut read, mut write) = caller.split();
    let chunk = [b"4000\r\n".to_vec(), vec![b'x'; 0x4000], b"\r\n".to_vec()].concat();
    let sending = async {
        while write.write_all(&chunk).await.is_ok() {
            tokio::task::yield_now().await;
        }
        // The gateway closed: what it said before is still to be read.
        std::future::pending::<()>().await;
    };
    let answered = async {
        let mut answer = Vec::new();
        while !answer.ends_with(b"valid answer\n") {
            let count = read.read_buf(&mut answer).await.unwrap();
            assert_ne!(count, 0, "closed after {}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::select! {
        answer = tokio::time::timeout(Duration::from_secs(20), answered) => answer,
        () = sending => unreachable!("it waits for ever"),
    };
    let answer = answer.expect("told in time");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
