//! Invocations through the provider: what reaches the function, and what the caller gets.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::provider::{Answer, Provider};

/// A function that answers with what it received.
struct Echo {
    port: u16,
    server: JoinHandle<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(any(echo)))
                .await
                .expect("it serves until it is dropped");
        });
        Self { port, server }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn echo(
    method: axum::http::Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    let header = |name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let status = uri
        .query()
        .and_then(|query| query.strip_prefix("status="))
        .and_then(|code| code.parse().ok());
    let received = json!({
        "method": method.as_str(),
        "target": uri.to_string(),
        "authorization": header("authorization"),
        "forwarded_host": header("x-forwarded-host"),
        "body": String::from_utf8_lossy(&body),
    });
    let extra = [("x-two", "1"), ("x-two", "2"), ("location", "http://example.com")];
    let mut response =
        (StatusCode::from_u16(status.unwrap_or(200)).expect("a status"), received.to_string())
            .into_response();
    response.headers_mut().remove("content-type");
    for (name, value) in extra {
        response.headers_mut().append(name, value.parse().expect("a value"));
    }
    response
}

async fn deployed(names: &[&str]) -> Provider {
    let provider = Provider::new();
    for name in names {
        let body = format!(r#"{{"service":"{name}","image":"a/b:c"}}"#);
        assert_eq!(provider.call("POST", "/system/functions", body).await.status, 202);
    }
    provider
}

async fn invoke(provider: &Provider, method: &str, target: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "gw:8080")
        .header("authorization", "Bearer theirs")
        .header("content-type", "text/x-mine")
        .body(Body::from(body.to_owned()))
        .expect("a valid request");
    provider.send(request).await
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(answer.text()).expect("the echo answers JSON")
}

#[tokio::test]
async fn the_target_reaches_the_function_byte_for_byte() {
    let (provider, echo) = (deployed(&["echo"]).await, Echo::start().await);
    provider.make_ready("echo", echo.port);
    for (target, seen) in [
        ("/function/echo", "/"),
        ("/function/echo/", "/"),
        ("/function/echo.openfaas-fn?x=1", "/?x=1"),
        ("/function/echo/a/b/", "/a/b/"),
        ("/function/echo/a%20b/%2F%3f%25?q=%20&y=+", "/a%20b/%2F%3f%25?q=%20&y=+"),
        ("/function/echo//x/./../y", "//x/./../y"),
        ("/function/echo/function/echo", "/function/echo"),
        ("/function/echo?", "/?"),
    ] {
        let answer = invoke(&provider, "GET", target, "").await;
        assert_eq!(
            (answer.status, &json_of(&answer)["target"]),
            (StatusCode::OK, &json!(seen)),
            "{target}"
        );
    }
}

#[tokio::test]
async fn methods_bodies_and_headers_pass_in_both_directions() {
    let (provider, echo) = (deployed(&["echo"]).await, Echo::start().await);
    provider.make_ready("echo", echo.port);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = invoke(&provider, method, "/function/echo", "hi\u{0}").await;
        let received = json_of(&answer);
        assert_eq!((&received["method"], &received["body"]), (&json!(method), &json!("hi\u{0}")));
        assert_eq!(received["authorization"], "Bearer theirs", "it belongs to the function");
        assert_eq!(received["forwarded_host"], "gw:8080");
        assert_eq!(
            answer.header("content-type"),
            "text/x-mine",
            "an answer without one gets the request's"
        );
        assert_eq!(answer.headers.get_all("x-two").iter().count(), 2);
    }
    let head = invoke(&provider, "HEAD", "/function/echo", "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn the_functions_own_status_is_the_answers() {
    let (provider, echo) = (deployed(&["echo"]).await, Echo::start().await);
    provider.make_ready("echo", echo.port);
    for status in [302, 401, 404, 429, 500, 503] {
        let answer = invoke(&provider, "GET", &format!("/function/echo?status={status}"), "").await;
        assert_eq!(answer.status, status);
        assert!(!answer.headers.contains_key("x-openfaas-internal"), "{status} is the function's");
        assert_eq!(answer.header("location"), "http://example.com");
    }
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_marked_and_never_a_success() {
    let provider = deployed(&["idle", "gone"]).await;
    // Ports below 1024 on loopback that nobody serves refuse at once.
    provider.make_ready("gone", 9);
    for (target, status, text) in [
        ("/function/nope", 404, "function nope not found\n"),
        ("/function/nope.ns/x", 404, "function nope.ns not found\n"),
        ("/function/UPPER", 404, "function UPPER not found\n"),
        ("/function/a.b.openfaas-fn", 404, "function a.b.openfaas-fn not found\n"),
        ("/function/.openfaas-fn", 404, "function .openfaas-fn not found\n"),
        ("/function/idle.", 404, "function idle. not found\n"),
        ("/function/..", 404, "function .. not found\n"),
        (
            "/function/idle",
            504,
            "No endpoints available for: idle. No replica became ready in time\n",
        ),
        (
            "/function/gone",
            504,
            "No endpoints available for: gone. No replica became ready in time\n",
        ),
    ] {
        let answer = invoke(&provider, "POST", target, "x").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text), "{target}");
        assert_eq!(answer.header("x-openfaas-internal"), "proxy", "{target}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_function_is_no_route_and_other_methods_are_not_allowed() {
    let provider = deployed(&["echo"]).await;
    for target in [
        "/function/",
        "/function",
        "/function//x",
        "/function/a%2Fb",
        "/function/a:b",
        "/functions/echo",
        "/",
    ] {
        let answer = invoke(&provider, "GET", target, "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (404, "404 page not found\n"),
            "{target}"
        );
        assert!(!answer.headers.contains_key("x-openfaas-internal"), "{target}");
    }
    for method in ["TRACE", "PROPFIND", "BREW"] {
        let answer = invoke(&provider, method, "/function/echo", "").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (405, ""), "{method}");
    }
}

#[tokio::test]
async fn two_namespaces_hold_two_functions_of_one_name() {
    let (provider, here, there) =
        (deployed(&["echo"]).await, Echo::start().await, Echo::start().await);
    assert_eq!(provider.call("POST", "/system/namespace/", r#"{"name":"dev"}"#).await.status, 201);
    let body = r#"{"service":"echo","image":"a/b:c","namespace":"dev"}"#;
    assert_eq!(provider.call("POST", "/system/functions", body).await.status, 202);
    provider.make_ready("echo.dev", there.port);
    assert_eq!(invoke(&provider, "GET", "/function/echo.dev", "").await.status, 200);
    assert_eq!(invoke(&provider, "GET", "/function/echo", "").await.status, 504);
    provider.make_ready("echo", here.port);
    assert_eq!(invoke(&provider, "GET", "/function/echo", "").await.status, 200);
}
