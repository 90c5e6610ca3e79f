//! A change of protocol over a lane: from a caller's socket, through a server as the provider has one, to the function and back.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::Ways;
use super::function::{Function, Watchdog, patiently};

/// What the function does: it agrees, then says everything back in capitals.
pub(super) async fn echo(stream: &mut BufReader<TcpStream>) -> Option<bool> {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nhi ";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => {
                stream.write_all(b" bye").await.ok()?;
                return Some(false);
            }
            Ok(count) => {
                chunk[..count].make_ascii_uppercase();
                stream.write_all(&chunk[..count]).await.ok()?;
            }
        }
    }
}

async fn pass(State(ways): State<Arc<Ways>>, request: Request<Body>) -> Response<Body> {
    ways.call(request).await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}

#[tokio::test]
async fn after_a_switch_bytes_flow_both_ways_until_both_sides_have_ended() {
    let ways = Arc::new(Ways::to(Watchdog::relaying(Function::start()).await));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(pass).with_state(Arc::clone(&ways));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let mut caller = TcpStream::connect(address).await.unwrap();
    let request =
        "GET /switch HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("\r\n\r\nhi ") {
        let mut chunk = [0; 512];
        let count = patiently(caller.read(&mut chunk)).await.unwrap();
        assert!(count > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("upgrade: shout"), "{answer}");
    caller.write_all(b"softly").await.unwrap();
    let mut loud = [0; 6];
    patiently(caller.read_exact(&mut loud)).await.unwrap();
    assert_eq!(&loud, b"SOFTLY");
    caller.shutdown().await.unwrap();
    let mut rest = Vec::new();
    patiently(caller.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b" bye", "the function's last word comes after the caller's");
    let response = ways.ask(super::get("/plain")).await;
    assert_eq!(response.status(), StatusCode::OK, "and lanes go on");
}
