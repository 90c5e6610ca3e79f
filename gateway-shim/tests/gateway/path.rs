//! The request path under pressure: time limits, callers that leave, trailers, framing attacks, providers that fail.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::StreamExt;
use http::StatusCode;
use hyperfaas_gateway::{GatewayConfig, TraceSettings, Upstream, router, routers};
use hyperfaas_http::{PoolSettings, ServeLimits, listen, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{Server, ask, backends, config, over_http, pair, provider, start};

/// A provider whose function `slow` asks for 50 ms by its label and never answers; others answer at once.
fn slow() -> Router {
    let status = r#"{"name":"slow","labels":{"com.hyperfaas.timeout":"50ms"}}"#;
    Router::new()
        .route("/system/function/slow", get(move || async move { status }))
        .route("/function/slow", axum::routing::any(std::future::pending::<()>))
        .fallback(async || "hi")
}

#[tokio::test]
async fn a_functions_own_time_limit_goes_before_the_gateways() {
    let pair = pair(slow(), false);
    for gateway in &pair.gateways {
        for _ in 0..2 {
            let answer = ask(gateway, http::Request::post("/function/slow"), "x").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::GATEWAY_TIMEOUT, "no answer within 50ms\n")
            );
            assert_eq!(answer.header("x-openfaas-internal"), "gateway");
        }
        assert_eq!(ask(gateway, http::Request::get("/function/other"), "").await.body, "hi");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_call() {
    let (tell, mut told) = mpsc::unbounded_channel();
    /// Tells when the function's work is dropped.
    struct Gone(mpsc::UnboundedSender<&'static str>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.send("gone");
        }
    }
    let function = move || {
        let tell = tell.clone();
        async move {
            let _ = tell.send("called");
            let _gone = Gone(tell);
            std::future::pending::<()>().await;
        }
    };
    let unknown = get(async || StatusCode::NOT_FOUND);
    let pair = pair(Router::new().route("/system/function/f", unknown).fallback(function), false);
    for gateway in &pair.gateways {
        let mut caller = TcpStream::connect(gateway.address).await.unwrap();
        caller.write_all(b"GET /function/f HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(told.recv().await, Some("called"));
        drop(caller);
        let gone = tokio::time::timeout(Duration::from_secs(20), told.recv()).await;
        assert_eq!(gone.expect("told in time"), Some("gone"));
    }
}

/// A server that answers every connection with `answer`, as it is, then closes; status questions get a 404.
async fn raw(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let unknown = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let is_question = head.starts_with(b"GET /system/");
                let _ = stream.write_all(if is_question { unknown } else { answer }).await;
            });
        }
    });
    address
}

/// Sends `bytes` and reads until the end, or until nothing comes any more.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may close while we are still writing: that is an answer too.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn trailers_pass() {
    let provider = raw(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").await;
    let gateway = start(router(config(false), over_http(provider), None));
    let answer = exchange(
        gateway.address,
        b"GET /function/f HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_is_asked_for_with_100_continue() {
    let gateway = start(router(config(false), Upstream::Local(provider()), None));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = b"POST /function/f HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first[..], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 202") && rest.ends_with("ab"), "{rest}");
}

#[tokio::test]
async fn framing_attacks_reach_no_function() {
    let (tell, mut told) = mpsc::unbounded_channel::<String>();
    let unknown = get(async || StatusCode::NOT_FOUND);
    let function = move |request: Request| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(request.uri().to_string());
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
            body.map_or_else(
                |_| StatusCode::BAD_REQUEST.into_response(),
                IntoResponse::into_response,
            )
        }
    };
    let gateway = start(router(
        config(false),
        Upstream::Local(Router::new().route("/system/function/{f}", unknown).fallback(function)),
        None,
    ));
    let smuggled = "GET /function/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for (name, bytes) in [
        (
            "two lengths",
            format!(
                "POST /function/f HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
        ),
        (
            "a list of lengths",
            format!(
                "POST /function/f HTTP/1.1\r\nhost: x\r\ncontent-length: 0, {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
        ),
        (
            "a signed length",
            format!("POST /function/f HTTP/1.1\r\nhost: x\r\ncontent-length: +0\r\n\r\n{smuggled}"),
        ),
        (
            "an unknown encoding",
            format!(
                "POST /function/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n{smuggled}"
            ),
        ),
        (
            "chunked not last",
            format!(
                "POST /function/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n{smuggled}"
            ),
        ),
        ("obs-fold", "GET /function/f HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n 2\r\n\r\n".to_owned()),
        (
            "space before colon",
            "GET /function/f HTTP/1.1\r\nhost: x\r\ncontent-length : 0\r\n\r\n".to_owned(),
        ),
        ("NUL in a value", "GET /function/f HTTP/1.1\r\nhost: x\r\nx-a: a\0b\r\n\r\n".to_owned()),
        ("CR in a value", "GET /function/f HTTP/1.1\r\nhost: x\r\nx-a: a\rb\r\n\r\n".to_owned()),
        ("NUL in the path", "GET /function/f\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
    ] {
        let answer = exchange(gateway.address, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer:.200}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer:.200}");
        assert!(told.try_recv().is_err(), "{name} reached the function");
    }
    // A length beside chunks: the chunks count, the length goes, and what follows is never a second request of the first's body.
    let both = "POST /function/f HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n";
    let answer = exchange(gateway.address, format!("{both}{smuggled}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:.200}");
    while let Ok(target) = told.try_recv() {
        assert_eq!(target, "/function/f");
    }
    // A bare LF ends a line, as RFC 9112 2.2 allows; the request is then what it says, and there is one of it.
    let bare = "GET /function/f HTTP/1.1\nhost: x\nconnection: close\n\n";
    let answer = exchange(gateway.address, bare.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:.200}");
}

#[tokio::test]
async fn bombs_are_refused_and_the_gateway_goes_on() {
    let gateway = start(router(config(true), Upstream::Local(provider()), None));
    let long = "x".repeat(1 << 20);
    let url = format!("GET /function/f?{long} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(gateway.address, url.as_bytes()).await;
    assert!(
        ["HTTP/1.1 414", "HTTP/1.1 431"].iter().any(|start| answer.starts_with(start)),
        "{answer:.100}"
    );
    let one =
        format!("GET /function/f HTTP/1.1\r\nhost: x\r\nx-a: {long}\r\nconnection: close\r\n\r\n");
    assert!(exchange(gateway.address, one.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many = "x-a: 1\r\n".repeat(10_000);
    let many = format!("GET /function/f HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert!(exchange(gateway.address, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert_eq!(
        ask(&gateway, http::Request::get("/function/f"), "").await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn slow_callers_are_dropped() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let limits =
        ServeLimits { header_read_timeout: Duration::from_millis(50), ..ServeLimits::default() };
    let stop = CancellationToken::new();
    let api = router(config(false), Upstream::Local(provider()), None);
    tokio::spawn(serve(listener, api, limits, stop.clone()));
    let _stop = stop.drop_guard();
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(b"GET /function/f HTTP/1.1\r\nhost:").await.unwrap();
    let mut answer = Vec::new();
    let ended =
        tokio::time::timeout(Duration::from_secs(20), caller.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection stays open");
    assert!(!String::from_utf8_lossy(&answer).contains("202"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    for answer in [
        &b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\npart"[..],
        b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\npart",
    ] {
        let gateway = start(router(config(false), over_http(raw(answer).await), None));
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(b"GET /function/f HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(ended.is_ok(), "the connection is closed: {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
    for answer in [
        &b""[..],
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let gateway = start(router(config(false), over_http(raw(answer).await), None));
        let told = ask(&gateway, http::Request::get("/function/f"), "").await;
        assert_eq!(
            (told.status, told.body.as_str()),
            (StatusCode::BAD_GATEWAY, "the provider gave no valid answer\n")
        );
    }
}

#[tokio::test]
async fn a_trace_context_passes_untouched_without_a_collector() {
    let pair = pair(provider(), false);
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for gateway in &pair.gateways {
        let request = http::Request::get("/function/f")
            .header("traceparent", given)
            .header("tracestate", "a=b");
        let body = ask(gateway, request, "").await.body;
        assert!(
            body.contains(&format!("traceparent: {given}\n")) && body.contains("tracestate: a=b\n"),
            "{body}"
        );
    }
}

/// A collector that tells what it is sent.
fn collector() -> (Server, mpsc::UnboundedReceiver<(String, serde_json::Value)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let receive = move |request: Request| {
        let tell = tell.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request
                .into_body()
                .into_data_stream()
                .map(|data| data.unwrap().to_vec())
                .concat()
                .await;
            let _ = tell.send((path, serde_json::from_slice(&body).unwrap()));
            "{}"
        }
    };
    (start(Router::new().fallback(receive)), told)
}

#[tokio::test]
async fn spans_reach_the_collector_and_functions_are_their_children() {
    let (collector, mut told) = collector();
    let url = format!("http://{}/v1/traces", collector.address);
    let traces = TraceSettings {
        collector: Upstream::from_url(&url, PoolSettings::default()).unwrap(),
        service: "test".to_owned(),
    };
    let config = GatewayConfig { traces: Some(traces), ..config(false) };
    let routers = routers(config, backends(Upstream::Local(provider()), "n", None));
    let stop = CancellationToken::new();
    tokio::spawn(routers.work.run(stop.clone(), stop.clone(), Duration::ZERO));
    let _stop = stop.drop_guard();
    let gateway = start(routers.api);
    let unsampled = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    ask(&gateway, http::Request::get("/function/quiet").header("traceparent", unsampled), "").await;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer =
        ask(&gateway, http::Request::post("/function/f").header("traceparent", given), "x").await;
    let (path, body) = tokio::time::timeout(Duration::from_secs(20), told.recv())
        .await
        .expect("sent in time")
        .unwrap();
    assert_eq!(path, "/v1/traces");
    let resource = &body["resourceSpans"][0];
    assert!(resource["resource"].to_string().contains(r#""stringValue":"test""#));
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "the other was not to be sampled");
    let span = &spans[0];
    assert_eq!(
        (&span["traceId"], &span["parentSpanId"]),
        (&"4bf92f3577b34da6a3ce929d0e0e4736".into(), &"00f067aa0ba902b7".into())
    );
    assert_eq!((&span["name"], &span["kind"]), (&"POST /function/f".into(), &2.into()));
    let child = format!(
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01\n",
        span["spanId"].as_str().unwrap()
    );
    assert!(answer.body.contains(&child), "{}", answer.body);
    let nanos = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(nanos("startTimeUnixNano") <= nanos("endTimeUnixNano"));
}
