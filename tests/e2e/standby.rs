//! From zero through a standby container, on a real engine: answered at once, handed over, replaced; and nothing leaks.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::stack::{Stack, docker, probe_http_image};

/// A provider that keeps standby containers, as root of the engine's host.
pub(super) async fn stack(settings: &[(&str, &str)]) -> Stack {
    let all = [("HYPERFAAS_SLOTS", "true"), ("HYPERFAAS_SCALE_COOL", "2s")];
    let stack = Stack::start_with(&[&all[..], settings].concat()).await;
    let info = stack.info().await;
    assert_eq!(info["hyperfaas"]["abilities"]["standby"]["on"], true, "{info}");
    stack
}

/// Standby containers in a state, as the metrics page has it.
pub(super) async fn pool(stack: &Stack, state: &str) -> u64 {
    let page = stack.ask_provider("/metrics").await.text().await.expect("text");
    let line = format!("hyperfaas_standby_containers{{state=\"{state}\"}} ");
    let value = page.lines().find_map(|text| text.strip_prefix(&line));
    value.map_or(0, |text| text.parse().expect("a count"))
}

/// The names of this stack's standby containers.
pub(super) fn names(stack: &Stack) -> Vec<String> {
    let list = docker(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}",
        "--filter",
        &format!("label=com.hyperfaas.installation={}", stack.installation()),
        "--filter",
        "label=com.hyperfaas.role=standby",
    ]);
    list.split_whitespace().map(ToOwned::to_owned).collect()
}

async fn decisions(stack: &Stack, name: &str) -> Vec<Value> {
    let path = format!("/system/hyperfaas/functions/{name}/decisions");
    stack.ask_provider(&path).await.json().await.expect("JSON")
}

/// A function at zero whose root is there, and a standby container that waits.
pub(super) async fn at_zero(stack: &Stack, name: &str) {
    stack.deploy(name, probe_http_image(), json!({ "envVars": { "prefix_logs": "false" } })).await;
    stack.eventually("a container", async || !stack.containers(name).is_empty()).await;
    stack
        .eventually("its root is there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"] == 1
        })
        .await;
    back_to_zero(stack, name).await;
}

pub(super) async fn back_to_zero(stack: &Stack, name: &str) {
    stack.scale(name, 0).await;
    stack
        .eventually("nothing is left of it, and one waits", async || {
            stack.containers(name).is_empty()
                && pool(stack, "taken").await == 0
                && pool(stack, "ready").await > 0
        })
        .await;
}

#[tokio::test]
async fn two_hundred_first_requests_are_answered_by_a_standby_which_hands_over_and_is_replaced() {
    let mut stack = stack(&[]).await;
    at_zero(&stack, "f").await;
    let before = names(&stack);
    assert!(before.iter().all(|name| name.starts_with("standby.")), "{before:?}");
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let request = stack.http.get(stack.gateway("/function/f/sleep?ms=1")).send();
        callers.spawn(async move { request.await.expect("an answer").status() });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK), "{answers:?}");
    assert!(stack.log().contains("guest is ready"));
    stack
        .eventually("the engine's list tells what it serves", async || {
            names(&stack).iter().any(|name| name.starts_with("openfaas-fn.f.standby."))
        })
        .await;
    stack.eventually("its own container is there", async || stack.containers("f").len() == 1).await;
    stack
        .eventually("the standby is gone and replaced", async || {
            let now = names(&stack);
            pool(&stack, "ready").await > 0
                && now.iter().all(|name| name.starts_with("standby."))
                && now.iter().any(|name| !before.contains(name))
        })
        .await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    let all = decisions(&stack, "f").await;
    let has = |action: &str, rule: &str| {
        let is_it = |one: &Value| {
            one["action"] == action && one["rule"] == rule && one["place"] == "standby"
        };
        all.iter().any(is_it)
    };
    assert!(has("specialise", "waiting") && has("release", "handed-over"), "{all:#?}");
    assert!(all.iter().all(|one| one["action"] != "visit-failed"), "{all:#?}");
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn what_a_guest_says_is_in_its_functions_log() {
    let mut stack = stack(&[]).await;
    at_zero(&stack, "f").await;
    let said = stack.http.get(stack.gateway("/function/f/say?out=from-a-guest")).send();
    assert_eq!(said.await.expect("an answer").status(), StatusCode::OK);
    let lines = async || {
        let path = "/system/logs?name=f&follow=false";
        let answer = stack.system(reqwest::Method::GET, path, None).await;
        let text = answer.text().await.expect("text");
        let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        text.lines().map(parse).collect::<Vec<_>>()
    };
    let is_it = |line: &Value| {
        line["text"].as_str().is_some_and(|text| text.contains("from-a-guest"))
            && line["instance"].as_str().is_some_and(|name| name.starts_with("standby."))
    };
    stack.eventually("the line is there", async || lines().await.iter().any(is_it)).await;
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn a_provider_killed_in_the_middle_leaves_no_container_behind() {
    let mut stack = stack(&[("HYPERFAAS_SCALE_COOL", "10m")]).await;
    at_zero(&stack, "f").await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    let is_taken = |name: &String| name.starts_with("openfaas-fn.f.");
    stack.eventually("a visit", async || names(&stack).iter().any(is_taken)).await;
    stack.eventually("it is replaced", async || pool(&stack, "ready").await > 0).await;
    let waiting: Vec<_> = names(&stack).into_iter().filter(|name| !is_taken(name)).collect();
    stack.kill().await;
    stack.spawn().await;
    stack
        .eventually("only what waits is left", async || {
            let now = names(&stack);
            !now.iter().any(is_taken)
                && usize::try_from(pool(&stack, "ready").await) == Ok(now.len())
        })
        .await;
    let now = names(&stack);
    let is_kept = waiting.iter().any(|name| now.contains(name));
    assert!(is_kept, "those that waited are taken over: {waiting:?} {now:?}");
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn without_standby_containers_everything_works_as_before() {
    let stack = Stack::start_with(&[
        ("HYPERFAAS_SLOTS", "true"),
        ("HYPERFAAS_STANDBY_MIN", "0"),
        ("HYPERFAAS_STANDBY_MAX", "0"),
    ])
    .await;
    let info = stack.info().await;
    let standby = &info["hyperfaas"]["abilities"]["standby"];
    assert_eq!(standby["on"], false);
    assert_eq!(standby["missing"], json!(["HYPERFAAS_STANDBY_MAX is 0"]));
    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    stack.scale("f", 0).await;
    stack.eventually("nothing is left", async || stack.containers("f").is_empty()).await;
    assert_eq!(stack.status("f").await["availableReplicas"].as_u64().unwrap_or(0), 0);
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    assert!(names(&stack).is_empty());
}

/// `HYPERFAAS_ZERO_ROUNDS` sets how often, `HYPERFAAS_ZERO_LOG` a file for the provider's log; prints how long a request to a function at zero takes to its answer's first byte.
#[tokio::test]
async fn a_request_to_a_function_at_zero_is_answered_round_after_round() {
    let mut stack = stack(&[("HYPERFAAS_STANDBY_MIN", "2")]).await;
    let image = std::env::var("HYPERFAAS_ZERO_IMAGE");
    let rounds: usize = crate::support::number("HYPERFAAS_ZERO_ROUNDS", 3);
    at_zero(&stack, "f").await;
    if let Ok(image) = image {
        stack.update("f", &image, json!({})).await;
        stack.scale("f", 1).await;
        let count = async || stack.info().await["hyperfaas"]["roots"]["ready"].as_u64();
        stack.eventually("its root is there", async || count().await >= Some(1)).await;
        stack.available("f", 1).await;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        back_to_zero(&stack, "f").await;
        let begun = Instant::now();
        let answer = stack.http.get(stack.gateway("/function/f/")).send().await.expect("an answer");
        times.push(begun.elapsed());
        assert!(answer.status().as_u16() < 500, "{}", answer.status());
    }
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{rounds} rounds from zero to the first byte: {:?} median, {:?} p99", at(50), at(99));
    if let Ok(path) = std::env::var("HYPERFAAS_ZERO_LOG") {
        std::fs::write(path, stack.log()).expect("written");
    }
    let visits = stack.log().matches("guest is ready").count();
    assert!(visits >= rounds, "{visits} of {rounds} through a standby");
    assert!(at(50) < Duration::from_secs(5), "something waits for a time-out");
    assert!(stack.terminate().await);
}
