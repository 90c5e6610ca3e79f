//! A container that has more to do than its CPU quota allows says so, and says when that is over.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::stack::Stack;

/// The levels of the watermark events in the provider's log, in order, with their reasons.
fn crossings(stack: &Stack) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let log = stack.log();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "replica crossed a watermark")
        .map(|line| (text(&line, "level"), text(&line, "reason")))
        .collect()
}

/// The provider's count of such events.
async fn counted(stack: &Stack, level: &str) -> u64 {
    let answer = stack.http.get(stack.provider("/metrics")).send().await.unwrap();
    let page = answer.text().await.unwrap();
    let name = format!("hyperfaas_replica_watermark_events_total{{level=\"{level}\"}} ");
    let count = page.lines().find_map(|line| line.strip_prefix(&name));
    count.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[tokio::test]
async fn a_burst_beyond_the_cpu_quota_is_reported_and_so_is_its_end() {
    let stack = Stack::start().await;
    let limits = json!({ "limits": { "cpu": "100m" } });
    stack.deploy("burn", "hyperfaas/fn-burn:latest", limits).await;
    stack.available("burn", 1).await;
    let begun = crossings(&stack).len();
    let (status, body) = stack.invoke("burn", "?ms=200", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    // 200 ms of CPU at a tenth of one take two seconds, and the first 9 ms of them are what a window allows.
    let (level, reason) = crossings(&stack).get(begun).cloned().unwrap_or_default();
    assert_eq!(level, "high", "told before the answer; the provider's log:\n{}", stack.log());
    assert!(["cpu", "throttled"].contains(&reason.as_str()), "{reason}");
    stack
        .eventually("the end is told", async || {
            crossings(&stack).last().is_some_and(|(level, _)| level == "low")
        })
        .await;
    let (high, low) = (counted(&stack, "high").await, counted(&stack, "low").await);
    assert!(high >= 1 && high == low, "{high} high, {low} low");
}
