//! `GET /system/logs` over real containers.

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::stack::{PATIENCE, Stack, probe_http_image};

async fn lines(stack: &Stack, query: &str) -> Vec<Value> {
    let answer = stack.system(Method::GET, &format!("/system/logs?{query}"), None).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().unwrap().trim_end()).collect()
}

async fn say(stack: &Stack, query: &str) {
    let answer =
        stack.http.get(stack.gateway(&format!("/function/f/say?{query}"))).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn both_streams_are_read_and_cut_as_asked() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({ "envVars": { "prefix_logs": "false" } })).await;
    say(&stack, "out=first").await;
    say(&stack, "err=second").await;
    stack
        .eventually("both lines arrive", async || {
            let all = lines(&stack, "name=f&follow=false&tail=-1").await;
            texts(&all).contains(&"first") && texts(&all).contains(&"second")
        })
        .await;
    let all = lines(&stack, "name=f&follow=false").await;
    let line = all.iter().find(|line| line["text"].as_str().unwrap().contains("first")).unwrap();
    assert_eq!(
        (line["name"].as_str(), line["namespace"].as_str()),
        (Some("f"), Some("openfaas-fn"))
    );
    let instance = line["instance"].as_str().unwrap();
    assert_eq!(lines(&stack, "name=f&follow=false&tail=2").await.len(), 2);
    assert!(lines(&stack, "name=f&follow=false&since=2999-01-01T00:00:00Z").await.is_empty());
    assert_eq!(
        lines(&stack, &format!("name=f&follow=false&instance={instance}")).await.len(),
        all.len()
    );
    assert!(lines(&stack, "name=f&follow=false&instance=other").await.is_empty());
    let unknown = stack.system(Method::GET, "/system/logs?name=nobody&follow=false", None).await;
    assert!(unknown.status().is_client_error() || unknown.status().is_server_error());
}

#[tokio::test]
async fn following_joins_new_replicas_and_outlives_old_ones() {
    let stack = Stack::start().await;
    let fields =
        |version: &str| json!({ "envVars": { "prefix_logs": "false", "VERSION": version } });
    stack.deploy("f", probe_http_image(), fields("1")).await;
    stack.available("f", 1).await;
    let old = stack.containers("f");
    let answer = stack.system(Method::GET, "/system/logs?name=f&follow=true", None).await;
    let mut stream = answer.bytes_stream();
    let mut seen = String::new();
    let mut until = async |needle: &str| {
        let read = async {
            while !seen.contains(needle) {
                seen.push_str(&String::from_utf8_lossy(
                    &stream.next().await.expect("it goes on").unwrap(),
                ));
            }
        };
        timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{needle:?} never came"));
    };
    say(&stack, "out=before").await;
    until("before").await;
    stack.update("f", probe_http_image(), fields("2")).await;
    stack
        .eventually("the old replica is gone", async || !stack.containers("f").contains(&old[0]))
        .await;
    say(&stack, "out=after").await;
    until("after").await;
}
