//! Asynchronous calls to real functions, across a provider that is killed.

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use http_body_util::BodyExt;
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::stack::{PATIENCE, Stack, probe_image};

/// A callback receiver; its URL, and what it gets.
async fn receiver() -> (String, mpsc::UnboundedReceiver<(HeaderMap, String)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let receive = move |request: Request| {
        let tell = tell.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let _ = tell.send((parts.headers, String::from_utf8_lossy(&body).into_owned()));
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(receive)).await });
    (url, told)
}

#[tokio::test]
async fn accepted_calls_are_made_though_the_provider_is_killed_before_the_function_is_ready() {
    let mut stack = Stack::start_with(&[("HYPERFAAS_CALLBACK_LOOPBACK", "true")]).await;
    let (callback, mut told) = receiver().await;
    stack.deploy("f", probe_image(), json!({})).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for number in 0..10 {
        let request = client
            .post(stack.gateway("/async-function/f/echo"))
            .header("x-callback-url", &callback)
            .header("x-call-id", format!("call-{number}"))
            .body(format!("body-{number}"));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::ACCEPTED);
    }
    stack.kill().await;
    stack.spawn().await;
    let mut missing: BTreeSet<String> = (0..10).map(|number| format!("call-{number}")).collect();
    while !missing.is_empty() {
        let (headers, body) =
            timeout(PATIENCE, told.recv()).await.expect("called in time").unwrap();
        assert_eq!(headers["x-function-status"], "200", "{body}");
        let id = headers["x-call-id"].to_str().unwrap().to_owned();
        assert!(body.contains(&id.replace("call", "body")), "{id}: {body}");
        missing.remove(&id);
    }
    stack.delete("f").await;
}
