//! Calls to functions.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_gateway::{GatewayConfig, Upstream, router};
use hyperfaas_http::{Pool, PoolSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ask, config, over_http, pair, provider, start};

/// What every answer under `/function/` carries.
fn assert_marked(answer: &crate::support::Answer) {
    assert_eq!(answer.header("x-call-id").len(), 36, "{:?}", answer.headers);
    assert!(answer.header("x-start-time").parse::<u64>().unwrap() > 1_700_000_000_000_000_000);
    assert_eq!(answer.header("x-served-by"), concat!("hyperfaas/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn the_target_and_the_callers_credentials_reach_the_function_untouched() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        let target = "/function/fn1.ns/a%2Fb//..%25%20?q=%3F&r=+";
        let request =
            Request::put(target).header("authorization", "Bearer mine").header("x-a", "1");
        let answer = ask(gateway, request, "payload").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert!(answer.body.starts_with(&format!("PUT {target}\n")), "{}", answer.body);
        for line in ["authorization: Bearer mine\n", "x-a: 1\n", "\n\npayload"] {
            assert!(answer.body.contains(line), "{line:?} in {}", answer.body);
        }
        assert_marked(&answer);
        assert!(answer.body.contains(&format!("x-call-id: {}\n", answer.header("x-call-id"))));
        assert!(
            answer.body.contains(&format!("x-start-time: {}\n", answer.header("x-start-time")))
        );
    }
}

#[tokio::test]
async fn forwarding_headers_say_who_called() {
    let provider = start(provider());
    let gateway = start(router(config(false), over_http(provider.address), None));
    let answer = ask(&gateway, Request::get("/function/f"), "").await;
    assert!(answer.body.contains("x-forwarded-host: gateway.example\n"), "{}", answer.body);
    assert!(answer.body.contains("x-forwarded-for: 127.0.0.1:"), "{}", answer.body);
    let kept =
        ask(&gateway, Request::get("/function/f").header("x-forwarded-for", "9.9.9.9"), "").await;
    assert!(kept.body.contains("x-forwarded-for: 9.9.9.9\n"), "{}", kept.body);
}

#[tokio::test]
async fn a_given_call_id_is_kept_and_a_functions_own_headers_win() {
    let function =
        || async { [("x-call-id", "from-function"), ("x-served-by", "me")].into_response() };
    let pair = pair(
        Router::new()
            .route("/function/own", axum::routing::any(function))
            .fallback_service(provider()),
        false,
    );
    for gateway in &pair.gateways {
        let request =
            || Request::get("/function/f").header("x-call-id", "mine").header("x-start-time", "1");
        let answer = ask(gateway, request(), "").await;
        assert_eq!(answer.header("x-call-id"), "mine");
        assert!(
            answer.body.contains("x-call-id: mine\n") && answer.body.contains("x-start-time: 1\n")
        );
        let own = ask(gateway, Request::get("/function/own"), "").await;
        assert_eq!((own.header("x-call-id"), own.header("x-served-by")), ("from-function", "me"));
        assert_eq!(own.headers.get_all("x-call-id").iter().count(), 1);
    }
}

#[tokio::test]
async fn refusals_carry_the_calls_headers_too() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let gateway = start(router(config(false), over_http(address), None));
    let answer = ask(&gateway, Request::post("/function/f"), "x").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.body, "the provider cannot be reached\n");
    assert_eq!(answer.header("x-openfaas-internal"), "gateway");
    assert_marked(&answer);
    let invalid = ask(&gateway, Request::get("/function/a%20b/c"), "").await;
    assert_eq!(
        (invalid.status, invalid.body.as_str()),
        (StatusCode::NOT_FOUND, "404 page not found\n")
    );
    assert_marked(&invalid);
}

#[tokio::test]
async fn a_provider_that_hangs_or_answers_nonsense_is_a_5xx() {
    let hanging = start(Router::new().fallback(std::future::pending::<()>));
    let limits =
        GatewayConfig { upstream_timeout: Some(Duration::from_millis(100)), ..config(false) };
    let gateway = start(router(limits, over_http(hanging.address), None));
    let answer = ask(&gateway, Request::get("/function/f"), "").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::GATEWAY_TIMEOUT, "no answer within 100ms\n")
    );
    assert_marked(&answer);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = start(router(config(false), over_http(listener.local_addr().unwrap()), None));
    let garbage = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-nothing\r\n").await.unwrap();
            let _ = stream.read(&mut [0; 512]).await;
        }
    };
    let answer = tokio::select! {
        answer = ask(&gateway, Request::get("/function/f"), "") => answer,
        () = garbage => unreachable!("it goes on for ever"),
    };
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::BAD_GATEWAY, "the provider gave no valid answer\n")
    );
}

#[tokio::test]
async fn events_are_not_held_back() {
    let events = || async {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("data: 1\n\n")]);
        Body::from_stream(first.chain(futures_util::stream::pending()))
    };
    let pair = pair(Router::new().fallback(events), false);
    for gateway in &pair.gateways {
        let request = Request::get("/function/f")
            .header("accept", "text/event-stream")
            .body(Body::empty())
            .unwrap();
        let response =
            Pool::new(gateway.address, PoolSettings::default()).send(request).await.unwrap();
        let frame =
            tokio::time::timeout(Duration::from_secs(20), response.into_body().frame()).await;
        assert_eq!(
            frame.expect("sent at once").unwrap().unwrap().into_data().unwrap(),
            "data: 1\n\n"
        );
    }
}

#[tokio::test]
async fn websockets_pass_with_and_without_a_hop() {
    let function = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = hop(function.local_addr().unwrap());
    let pair = pair(provider, false);
    for gateway in &pair.gateways {
        let mut caller = TcpStream::connect(gateway.address).await.unwrap();
        let ask = "GET /function/f HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        caller.write_all(ask.as_bytes()).await.unwrap();
        let (mut worker, _) = function.accept().await.unwrap();
        read_until(&mut worker, "\r\n\r\n").await;
        worker
            .write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
            .await
            .unwrap();
        assert!(read_until(&mut caller, "hello").await.starts_with("HTTP/1.1 101"));
        caller.write_all(b"ping").await.unwrap();
        assert_eq!(read_until(&mut worker, "ping").await, "ping");
    }
}

/// A provider that forwards everything to `worker`, as ours does.
fn hop(worker: std::net::SocketAddr) -> Router {
    let pool = Pool::new(worker, PoolSettings::default());
    let unknown = axum::routing::get(async || StatusCode::NOT_FOUND);
    Router::new().route("/system/function/{name}", unknown).fallback(
        move |request: axum::extract::Request| {
            let pool = pool.clone();
            async move {
                hyperfaas_http::forward(&pool, request, &hyperfaas_http::ForwardOptions::default())
                    .await
                    .unwrap()
            }
        },
    )
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text
}

#[tokio::test]
async fn a_path_in_the_providers_url_is_put_in_front() {
    let provider = start(provider());
    let url = format!("http://{}/base/", provider.address);
    let upstream = Upstream::from_url(&url, PoolSettings::default()).unwrap();
    let gateway = start(router(config(false), upstream, None));
    let answer = ask(&gateway, Request::get("/function/f/x%2Fy?z"), "").await;
    assert!(answer.body.starts_with("GET /base/function/f/x%2Fy?z\n"), "{}", answer.body);
}
