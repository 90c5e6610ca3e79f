//! Lanes from end to end: the provider's side against a real watchdog, whose function is whatever a test needs.

mod function;
mod switch;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use function::{Function, Watchdog, patiently};
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyperfaas_http::client::{Pool, PoolSettings};
use hyperfaas_http::forward::{ForwardError, ForwardOptions, HostPolicy, forward};
use hyperfaas_protocol::lane::Reason;
use hyperfaas_provider::lanes::{LaneError, LanePool, call};

const OPTIONS: ForwardOptions = ForwardOptions {
    host: HostPolicy::UpstreamUnlessStream,
    adds_forwarded: true,
    head_timeout: Some(Duration::from_secs(20)),
    fills_content_type: true,
};

/// Two ways to one watchdog.
struct Ways {
    watchdog: Watchdog,
    lanes: LanePool,
    plain: Pool,
}

impl Ways {
    fn to(watchdog: Watchdog) -> Self {
        let lanes = LanePool::new(watchdog.control, 0, 0, Arc::from(function::KEY));
        let plain = Pool::new(watchdog.http, PoolSettings::default());
        Self { watchdog, lanes, plain }
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, LaneError> {
        patiently(call(&self.lanes, request, &OPTIONS, self.plain.host())).await
    }

    /// Over the lane, for what must be answered.
    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.call(request).await.unwrap()
    }

    async fn over_http(&self, request: Request<Body>) -> Response<Body> {
        patiently(forward(&self.plain, request, &OPTIONS)).await.unwrap()
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(CONTENT_TYPE, "text/x-test").body(body.into()).unwrap()
}

/// A body whose length nobody knows.
fn pieces(list: Vec<Bytes>) -> Body {
    let frames = list.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)));
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

async fn read(response: Response<Body>) -> (StatusCode, HeaderMap, Result<Bytes, axum::Error>) {
    let (parts, body) = response.into_parts();
    let body = patiently(body.collect()).await.map(http_body_util::Collected::to_bytes);
    (parts.status, parts.headers, body)
}

/// What a caller sees, without what differs from call to call.
async fn seen(response: Response<Body>) -> (StatusCode, Vec<String>, Option<Bytes>) {
    let (status, headers, body) = read(response).await;
    let mut lines = Vec::new();
    for (name, value) in &headers {
        match name.as_str() {
            "date" => {}
            "x-duration-seconds" => lines.push("x-duration-seconds".to_owned()),
            name => lines.push(format!("{name}: {}", value.to_str().unwrap())),
        }
    }
    lines.sort();
    (status, lines, body.ok())
}

#[tokio::test]
async fn a_caller_sees_the_same_over_a_lane_as_over_plain_http() {
    let ways = Ways::to(Watchdog::relaying(Function::start()).await);
    let large = Bytes::from(vec![7; 300_000]);
    for path in [
        "/plain",
        "/untyped",
        "/json",
        "/chunked",
        "/close",
        "/empty",
        "/none",
        "/status/404",
        "/status/500",
        "/headers",
        "/interim",
        "/garbage",
        "/hangup",
        "/half",
        "/twice",
        "/both-lengths",
        "/old",
        "/trailers",
    ] {
        for method in [Method::GET, Method::POST, Method::HEAD, Method::DELETE] {
            let request = |body: Body| {
                let request = Request::builder().method(method.clone()).uri(format!("{path}?q=1"));
                request
                    .header("x-custom", "1")
                    .header("connection", "x-hop")
                    .header("x-hop", "1")
                    .body(body)
                    .unwrap()
            };
            let body =
                || if method == Method::POST { Body::from("small body") } else { Body::empty() };
            let mut over_lane = seen(ways.ask(request(body())).await).await;
            if method == Method::HEAD {
                // Every HTTP server leaves it out where no body follows, the provider's too.
                over_lane.1.retain(|line| !line.starts_with("trailer:"));
            }
            let plain = forward(&ways.plain, request(body()), &OPTIONS);
            match patiently(plain).await {
                Ok(response) => assert_eq!(over_lane, seen(response).await, "{method} {path}"),
                // A server that finds its answer cut while the head is still in its buffer sends nothing of it.
                Err(error) => assert!(
                    matches!(error, ForwardError::Lost(_)) && over_lane.2.is_none(),
                    "{method} {path}: {error}, and over a lane {over_lane:?}"
                ),
            }
        }
    }
    for body in [Bytes::new(), Bytes::from_static(b"x"), large] {
        let whole = || post("/echo", body.clone());
        assert_eq!(seen(ways.ask(whole()).await).await, seen(ways.over_http(whole()).await).await);
        let parts =
            || post("/echo", pieces(body.chunks(70_000).map(Bytes::copy_from_slice).collect()));
        assert_eq!(seen(ways.ask(parts()).await).await, seen(ways.over_http(parts()).await).await);
    }
}

#[tokio::test]
async fn forked_functions_and_files_answer_the_same_over_a_lane_too() {
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("a.html"), "<p>").unwrap();
    let root = site.path().to_str().unwrap().to_owned();
    let classic = [("fprocess", "cat")];
    let streaming = [("fprocess", "cat"), ("mode", "streaming")];
    let serializing = [("fprocess", "cat"), ("mode", "serializing")];
    let failing = [("fprocess", "false")];
    let absent = [("fprocess", "/no/such/program"), ("mode", "streaming")];
    let files = [("fprocess", "x"), ("mode", "static"), ("static_path", root.as_str())];
    for vars in [&classic[..], &streaming, &serializing, &failing, &absent, &files] {
        let ways = Ways::to(Watchdog::start(vars).await);
        for path in ["/a.html", "/absent?q", "/"] {
            for method in [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS] {
                let request = || {
                    let body = if method == Method::POST { "posted" } else { "" };
                    Request::builder()
                        .method(method.clone())
                        .uri(path)
                        .body(Body::from(body))
                        .unwrap()
                };
                let over_lane = seen(ways.ask(request()).await).await;
                let over_http = seen(ways.over_http(request()).await).await;
                assert_eq!(over_lane, over_http, "{vars:?} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn large_bodies_flow_both_ways_at_once_and_the_lane_serves_the_next_request() {
    let ways = Ways::to(Watchdog::start(&[("fprocess", "cat"), ("mode", "streaming")]).await);
    for _ in 0..2 {
        let sent: Vec<Bytes> = (0..100).map(|at| Bytes::from(vec![at; 100_000])).collect();
        let (status, _, body) = read(ways.ask(post("/", pieces(sent.clone()))).await).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.unwrap() == sent.concat(), "10 MB there and back");
    }
}

#[tokio::test]
async fn an_event_arrives_while_the_next_one_is_still_to_be_made() {
    let function = Function::start();
    let next = function.next.clone();
    let ways = Ways::to(Watchdog::relaying(function).await);
    let request =
        Request::get("/events").header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let response = ways.ask(request).await;
    assert!(!response.headers().contains_key("x-duration-seconds"), "a stream has no end yet");
    let mut events = response.into_body().into_data_stream();
    for number in 0..3 {
        let event = patiently(events.next()).await.unwrap().unwrap();
        assert_eq!(event, format!("data: {number}\n\n"));
        next.notify_one();
    }
    assert!(patiently(events.next()).await.is_none());
}

#[tokio::test]
async fn one_connection_to_the_function_serves_one_request_after_the_other() {
    let function = Function::start();
    let connections = function.connections.clone();
    let ways = Ways::to(Watchdog::relaying(function).await);
    for _ in 0..50 {
        let (status, _, body) = read(ways.ask(get("/plain")).await).await;
        assert_eq!((status, body.unwrap()), (StatusCode::OK, Bytes::from_static(b"plain")));
    }
    let before = connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(before <= 5, "{before} connections");
}

#[tokio::test]
async fn who_drops_the_answer_ends_the_call() {
    let function = Function::start();
    let gone = function.gone.clone();
    let ways = Ways::to(Watchdog::relaying(function).await);
    let response = ways.ask(get("/endless")).await;
    let mut body = response.into_body().into_data_stream();
    patiently(body.next()).await.unwrap().unwrap();
    drop(body);
    patiently(gone.notified()).await;
    let waiting = tokio::time::timeout(Duration::from_millis(50), ways.call(get("/never"))).await;
    assert!(waiting.is_err());
    patiently(gone.notified()).await;
}

#[tokio::test]
async fn a_bounced_request_comes_back_whole_and_has_not_run() {
    let function = Function::start();
    let served = function.served.clone();
    let vars = [("max_inflight", "1"), ("HYPERFAAS_QUEUE_MAX", "0")];
    let ways = Ways::to(Watchdog::relaying_with(function, &vars).await);
    let mut first = ways.ask(get("/endless")).await.into_body().into_data_stream();
    patiently(first.next()).await.unwrap().unwrap();
    let before = served.load(std::sync::atomic::Ordering::SeqCst);
    let large = || pieces(vec![Bytes::from(vec![1; 100_000]), Bytes::from(vec![2; 100_000])]);
    for (request, length) in [(post("/echo", "kept"), 4), (post("/echo", large()), 200_000)] {
        let error = ways.call(request).await.unwrap_err();
        let LaneError::Bounced { request, reason, crowd } = error else { panic!("{error}") };
        assert_eq!((reason, crowd.in_flight, crowd.limit), (Reason::Full, 1, 1));
        assert_eq!(request.uri(), "/echo");
        assert_eq!(request.headers()[CONTENT_TYPE], "text/x-test");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), length, "not a byte is lost");
    }
    assert_eq!(served.load(std::sync::atomic::Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_deadline_is_the_functions_and_not_the_lanes() {
    let ways = Ways::to(Watchdog::relaying(Function::start()).await);
    let mut request = get("/never");
    request.headers_mut().insert("x-timeout", HeaderValue::from_static("50ms"));
    let (status, headers, _) = read(ways.ask(request).await).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(headers["x-openfaas-internal"], "of-watchdog");
    let (status, ..) = read(ways.ask(get("/plain")).await).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_callers_body_that_breaks_off_breaks_the_request_alone() {
    let ways = Ways::to(Watchdog::relaying(Function::start()).await);
    let broken = || {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"begun"))),
            Err(std::io::Error::other("the caller is gone")),
        ];
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    };
    let error = ways.call(post("/echo", broken())).await.unwrap_err();
    assert!(matches!(error, LaneError::BrokenRequest), "{error}");
    let (status, ..) = read(ways.ask(get("/plain")).await).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn who_does_not_know_the_key_or_the_epoch_has_no_lane_and_keeps_the_request() {
    let ways = Ways::to(Watchdog::relaying(Function::start()).await);
    let control = ways.watchdog.control;
    for pool in [
        LanePool::new(control, 0, 0, "wrong".into()),
        LanePool::new(control, 0, 3, function::KEY.into()),
    ] {
        let result =
            patiently(call(&pool, post("/echo", "kept"), &OPTIONS, ways.plain.host())).await;
        let Err(LaneError::NoLane { request, .. }) = result else { panic!("{result:?}") };
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "kept");
    }
}

#[tokio::test]
async fn many_at_once_each_get_their_own_answer() {
    let ways = Arc::new(Ways::to(Watchdog::relaying(Function::start()).await));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let ways = Arc::clone(&ways);
        calls.spawn(async move {
            let body = format!("{number} ").repeat(number);
            let (status, _, answer) = read(ways.ask(post("/echo", body.clone())).await).await;
            assert_eq!((status, answer.unwrap()), (StatusCode::OK, Bytes::from(body)));
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}
