//! The sample images of `functions/`, unmodified, through the gateway.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::stack::Stack;

#[tokio::test]
async fn every_sample_answers_the_openfaas_way() {
    let stack = Stack::start().await;
    stack.deploy("shout", "hyperfaas/fn-shout:latest", json!({ "envProcess": "tr a-z A-Z" })).await;
    stack
        .deploy("hello", "hyperfaas/fn-hello:latest", json!({ "readOnlyRootFilesystem": true }))
        .await;
    stack.deploy("pyhello", "hyperfaas/fn-pyhello:latest", json!({})).await;
    stack.deploy("plain", "hyperfaas/fn-plain:latest", json!({})).await;
    stack.deploy("burn", "hyperfaas/fn-burn:latest", json!({})).await;
    for (name, path, needle) in [
        ("shout", "", "WHO IS THERE"),
        ("hello", "?name=Ada", "Hello, Ada!"),
        ("pyhello", "/greet", "who is there"),
        ("plain", "/a/b?c=d", "/a/b?c=d"),
        ("burn", "?ms=1", "burned 1 ms"),
    ] {
        let (status, body) = stack.invoke(name, path, "who is there").await;
        assert_eq!(status, StatusCode::OK, "{name}: {body}");
        assert!(body.contains(needle), "{name}: {body}");
    }
}
