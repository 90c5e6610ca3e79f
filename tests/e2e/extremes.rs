//! Functions at the extremes, with scaling on: one that never answers, one that answers at once, one that crashes with every
//! request, and one whose watchdog lies. What they do is theirs to bear, and no more containers are started than may be.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::scaling::{decisions, kernel_quota};
use crate::support::stack::{PATIENCE, Stack, probe_http_image, try_docker};

/// A fifth of a CPU, twice that in a burst, three replicas at most.
fn bounded() -> Value {
    json!({
        "limits": { "cpu": "200m", "memory": "64Mi" },
        "labels": {
            "com.hyperfaas.scale.cpu": "400m",
            "com.hyperfaas.scale.memory": "96Mi",
            "com.openfaas.scale.max": "3",
        },
    })
}

/// How many of `name`'s containers were ordered, as far as its decisions go back.
async fn starts(stack: &Stack, name: &str) -> usize {
    decisions(stack, name).await.iter().filter(|(action, _)| action == "start").count()
}

/// `count` requests at once; their statuses and texts.
async fn at_once(stack: &Stack, path: &str, count: usize) -> Vec<(StatusCode, String)> {
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let request = stack.http.get(stack.gateway(path)).send();
        callers.spawn(async move {
            let answer = request.await.expect("an answer");
            (answer.status(), answer.text().await.expect("text"))
        });
    }
    callers.join_all().await
}

#[tokio::test]
async fn a_function_that_never_answers_holds_up_nobody_else_and_starts_nothing() {
    let stack = Stack::start_with(&[("read_timeout", "3s")]).await;
    stack.deploy("deaf", probe_http_image(), bounded()).await;
    stack.deploy("well", probe_http_image(), json!({})).await;
    stack.available("deaf", 1).await;
    stack.available("well", 1).await;
    let begun = Instant::now();
    let asked = at_once(&stack, "/function/deaf/sleep?ms=600000", 40);
    let others = async {
        let mut count = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            let (status, _) = stack.invoke("well", "/sleep?ms=0", "").await;
            assert_eq!(status, StatusCode::OK);
            count += 1;
        }
        count
    };
    let (answers, others) = tokio::join!(asked, others);
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let bad: Vec<_> =
        answers.iter().filter(|(status, _)| *status != StatusCode::GATEWAY_TIMEOUT).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(others > 0, "the other function was answered meanwhile");
    assert_eq!(starts(&stack, "deaf").await, 1, "waiting needs no CPU");
    assert_eq!(stack.invoke("deaf", "/sleep?ms=0", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_function_that_answers_at_once_is_asked_thousands_of_times_and_stays_within_its_bounds() {
    let stack = Stack::start().await;
    stack.deploy("quick", probe_http_image(), bounded()).await;
    stack.available("quick", 1).await;
    for _ in 0..20 {
        let answers = at_once(&stack, "/function/quick/sleep?ms=0", 100).await;
        let bad: Vec<_> = answers.iter().filter(|(status, _)| *status != StatusCode::OK).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
    let count = starts(&stack, "quick").await;
    assert!(count <= 3, "{count} starts");
    // Others may be about to run, or to be removed.
    let running: Vec<_> =
        stack.containers("quick").iter().filter_map(|one| kernel_quota(one)).collect();
    assert!(!running.is_empty());
    assert!(running.iter().all(|one| (20..=40).contains(one)), "{running:?} % of a CPU");
}

#[tokio::test]
async fn a_function_that_crashes_with_every_request_is_held_back_and_told_of() {
    let stack = Stack::start().await;
    stack.deploy("frail", probe_http_image(), bounded()).await;
    stack.deploy("well", probe_http_image(), json!({})).await;
    stack.available("frail", 1).await;
    stack.available("well", 1).await;
    for _ in 0..3 {
        let asked = at_once(&stack, "/function/frail/exit", 20);
        let others = at_once(&stack, "/function/well/sleep?ms=0", 20);
        let (answers, others) = tokio::join!(asked, others);
        assert!(others.iter().all(|(status, _)| *status == StatusCode::OK), "{others:?}");
        for (status, text) in answers {
            assert!(status.is_server_error(), "{status}: {text}");
            // What was lost with the process has no text, as with OpenFaaS' watchdog; what was refused says why, in one line.
            assert!(text.trim_end().lines().count() <= 1, "{text}");
        }
    }
    let count = starts(&stack, "frail").await;
    assert!(count <= 3, "{count} starts: {:?}", decisions(&stack, "frail").await);
    assert!(stack.containers("frail").len() <= 3);
    let status = stack.status("frail").await;
    assert!(status["availableReplicas"].as_u64() <= status["replicas"].as_u64(), "{status}");
    stack
        .eventually("it serves once nobody makes it crash", async || {
            stack.invoke("frail", "/sleep?ms=0", "").await.0 == StatusCode::OK
        })
        .await;
}

#[tokio::test]
async fn a_watchdog_that_lies_gets_no_more_than_its_function_may_have() {
    let liar = env!("CARGO_BIN_EXE_probe");
    let stack = Stack::start_with(&[("HYPERFAAS_WATCHDOG", liar)]).await;
    stack.deploy("f", probe_http_image(), bounded()).await;
    stack.deploy("g", probe_http_image(), bounded()).await;
    let begun = Instant::now();
    let told = || stack.log().matches("replica reported its load").count();
    // Asked all the time while a thousand lies are told.
    while told() < 1000 {
        for name in ["f", "g"] {
            let (status, text) = stack.invoke(name, "/", "").await;
            assert_eq!((status, text.as_str()), (StatusCode::OK, "answered"));
        }
        assert!(begun.elapsed() < PATIENCE, "{} lies", told());
    }
    for name in ["f", "g"] {
        let all = stack.containers(name);
        assert!((1..=3).contains(&all.len()), "{all:?}");
        for container in all {
            // One that is being removed has neither.
            let memory = try_docker(&["inspect", "-f", "{{.HostConfig.Memory}}", &container]);
            let memory = memory.ok().map(|bytes| bytes.trim().parse::<u64>().expect("bytes"));
            assert!(memory.is_none_or(|memory| memory <= 96 << 20), "{memory:?}");
            let allowed = kernel_quota(&container);
            assert!(allowed.is_none_or(|one| (1..=40).contains(&one)), "{allowed:?} % of a CPU");
        }
        let status = stack.status(name).await;
        assert!(status["replicas"].as_u64() <= Some(3), "{status}");
    }
    let metrics = stack.http.get(stack.provider("/metrics")).send().await.expect("an answer");
    assert_eq!(metrics.status(), StatusCode::OK);
    assert!(!stack.log().contains("panicked"), "{}", stack.log());
}
