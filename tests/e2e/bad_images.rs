//! Images that cannot serve: the deploy is accepted, the status tells the truth, a call gets a reason.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::stack::{Stack, probe_http_image, probe_image};

async fn refused(stack: &Stack, name: &str) -> String {
    let url = stack.gateway(&format!("/function/{name}/sleep?ms=0"));
    let answer = stack.http.get(url).send().await.unwrap();
    let status = answer.status();
    assert_eq!(answer.headers()["x-openfaas-internal"], "proxy");
    let text = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert_eq!(stack.status(name).await["availableReplicas"], 0);
    text
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named_in_the_answer() {
    let stack = Stack::start().await;
    stack.deploy("f", "127.0.0.1:1/no/such-image:v1", json!({})).await;
    let text = refused(&stack, "f").await;
    assert!(text.contains("127.0.0.1:1/no/such-image:v1"), "{text}");
    assert_eq!(stack.status("f").await["image"], "127.0.0.1:1/no/such-image:v1");
    stack.update("f", probe_image(), json!({})).await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_function_that_ends_at_once_says_how() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({ "envVars": { "PROBE_FAIL": "exit" } })).await;
    let text = refused(&stack, "f").await;
    assert!(text.contains('3'), "the exit status is named: {text}");
    // The caller may be answered before the engine has taken in the last line.
    stack
        .eventually("its last words are in the log", async || {
            let logs = stack.system(Method::GET, "/system/logs?name=f&follow=false", None).await;
            logs.text().await.unwrap().contains("probe: ending as asked")
        })
        .await;
}

#[tokio::test]
async fn a_function_that_never_listens_is_given_up() {
    let stack = Stack::start_with(&[("HYPERFAAS_START_TIMEOUT", "2s")]).await;
    for (name, image) in [("plain", probe_image()), ("behind", probe_http_image())] {
        stack.deploy(name, image, json!({ "envVars": { "PROBE_FAIL": "silent" } })).await;
        let text = refused(&stack, name).await;
        assert!(text.contains("listen"), "{text}");
    }
}

#[tokio::test]
async fn a_broken_update_leaves_the_old_revision_serving() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    let old = stack.containers("f");
    stack.update("f", probe_http_image(), json!({ "envVars": { "PROBE_FAIL": "exit" } })).await;
    stack.eventually("the new revision crashes", async || stack.log().contains("Crashed")).await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    assert!(stack.containers("f").contains(&old[0]));
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({ "envProcess": "/no/such/program" })).await;
    let text = refused(&stack, "f").await;
    assert!(text.contains("/no/such/program"), "{text}");
}

#[tokio::test]
async fn a_function_that_ends_mid_request_is_a_server_error_and_comes_back() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    let before = stack.containers("f");
    let broken = stack.http.get(stack.gateway("/function/f/exit")).send().await.unwrap().status();
    assert!(broken.is_server_error(), "{broken}");
    // A request that enters the dying process's queue is lost with it; whatever comes after is held until the next one listens.
    stack
        .eventually("it answers again", async || {
            stack.invoke("f", "/sleep?ms=0", "").await.0 == StatusCode::OK
        })
        .await;
    assert_eq!(stack.containers("f"), before, "the watchdog restarts its function by itself");
}
