//! What only shows on a real connection: when heads are sent, and what happens to slow, large and idle clients.

use std::net::SocketAddr;
use std::time::Duration;

use hyperfaas_http::serve::{ServeLimits, listen, raise_open_files, serve};
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::provider::Provider;

/// Long enough for any answer on a busy machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A provider on a port of its own.
struct Served {
    provider: Provider,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        let provider = Provider::new();
        let listener = listen(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = provider.stopping.clone();
        let server = serve(listener, provider.router.clone(), ServeLimits::default(), stop);
        Self { provider, address, server: tokio::spawn(server) }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    async fn end(self) {
        self.provider.stopping.cancel();
        timeout(PATIENCE, self.server).await.expect("it ends in time").expect("it ends well");
    }
}

#[tokio::test]
async fn a_follower_gets_the_head_before_there_is_any_line() {
    let served = Served::start();
    let body = r#"{"service":"fn1","image":"a/b:c"}"#;
    assert_eq!(served.provider.call("POST", "/system/functions", body).await.status, 202);
    let url = served.url("/system/logs?name=fn1&follow=true&tail=-1");
    let request = Client::new().get(url).header("authorization", served.provider.auth.header());
    let mut response =
        timeout(PATIENCE, request.send()).await.expect("a head in time").expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    // The function goes, so the stream ends by itself, and well.
    assert_eq!(
        served
            .provider
            .call("DELETE", "/system/functions", r#"{"functionName":"fn1"}"#)
            .await
            .status,
        202
    );
    let end =
        timeout(PATIENCE, response.chunk()).await.expect("an end in time").expect("a good end");
    assert_eq!(end, None);
    drop(response);
    served.end().await;
}

#[tokio::test]
async fn a_follower_does_not_hold_up_a_shutdown_and_ends_well() {
    let served = Served::start();
    let body = r#"{"service":"fn1","image":"a/b:c"}"#;
    assert_eq!(served.provider.call("POST", "/system/functions", body).await.status, 202);
    let url = served.url("/system/logs?name=fn1&follow=true");
    let request = Client::new().get(url).header("authorization", served.provider.auth.header());
    let mut response =
        timeout(PATIENCE, request.send()).await.expect("in time").expect("an answer");
    served.end().await;
    assert_eq!(response.chunk().await.expect("a good end"), None);
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_reads_why_it_was_refused() {
    let served = Served::start();
    let request = Client::new()
        .post(served.url("/system/functions"))
        .header("authorization", served.provider.auth.header())
        .body(vec![b' '; 10 << 20]);
    let response =
        timeout(PATIENCE, request.send()).await.expect("an answer in time").expect("an answer");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        response.text().await.expect("a body"),
        "request body is larger than 4194304 bytes\n"
    );
    served.end().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_and_let_go() {
    let served = Served::start();
    let mut stream = TcpStream::connect(served.address).await.expect("a connection");
    let auth = served.provider.auth.header();
    let head = format!(
        "POST /system/functions HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: 100\r\n\r\n{{",
        auth.to_str().expect("text"),
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("an end in time")
        .expect("a good end");
    let answer = String::from_utf8(answer).expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("did not arrive within"),
        "{answer}"
    );
    served.end().await;
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_out() {
    raise_open_files();
    let served = Served::start();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(served.address).await.expect("a connection"));
    }
    let response =
        timeout(PATIENCE, Client::new().get(served.url("/healthz")).send()).await.expect("in time");
    assert_eq!(response.expect("an answer").status(), StatusCode::OK);
    drop(idle);
    served.end().await;
}
