//! What standby containers bear, on a real engine: many functions at zero asked for at once, a function that needs several times
//! what it has, one guest after another; and how small they are meanwhile.
//!
//! The tests hold for any machine; for numbers set what their docstrings name, and read what they print.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::standby::{at_zero, back_to_zero, names, pool, stack};
use crate::support::number;
use crate::support::stack::{Stack, docker, probe_http_image};

/// Deploys `name` of the probe's image and leaves it at zero.
async fn deploy_at_zero(stack: &Stack, name: &str, variables: Value) {
    stack.deploy(name, probe_http_image(), json!({ "envVars": variables })).await;
    stack.scale(name, 0).await;
}

/// `HYPERFAAS_SURGE_FUNCTIONS` (12), each asked ten times at once, with `HYPERFAAS_SURGE_STANDBY` (8) containers waiting. Prints
/// how long first answers took, and how many functions a second had theirs while there were containers for them.
#[tokio::test]
async fn many_functions_at_zero_asked_for_at_once_are_all_answered() {
    let functions = number::<u64>("HYPERFAAS_SURGE_FUNCTIONS", 12);
    let waiting = number::<u64>("HYPERFAAS_SURGE_STANDBY", 8);
    let count = waiting.to_string();
    let settings = [
        ("HYPERFAAS_STANDBY_MIN", count.as_str()),
        ("HYPERFAAS_STANDBY_MAX", count.as_str()),
        ("RUST_LOG", "info"), // this test reads the log on the thread that calls
    ];
    let mut stack = stack(&settings).await;
    at_zero(&stack, "f0").await;
    for index in 1..functions {
        deploy_at_zero(&stack, &format!("f{index}"), json!({})).await;
    }
    stack
        .eventually("nothing but the pool is left", async || {
            let label = format!("label=com.hyperfaas.installation={}", stack.installation());
            let all = docker(&["ps", "-aq", "--filter", &label]).split_whitespace().count();
            pool(&stack, "ready").await == waiting && u64::try_from(all) == Ok(waiting)
        })
        .await;
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for index in 0..functions * 10 {
        let url = stack.gateway(&format!("/function/f{}/sleep?ms=1", index % functions));
        let request = stack.http.get(url).send();
        callers.spawn(async move {
            let status = request.await.expect("an answer").status();
            (index % functions, status, begun.elapsed())
        });
    }
    let answers = callers.join_all().await;
    let bad: Vec<_> = answers.iter().filter(|(_, status, _)| *status != StatusCode::OK).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let first = |function| {
        let of = answers.iter().filter(|(of, ..)| *of == function);
        of.map(|(.., took)| *took).min().expect("each was asked")
    };
    let mut times: Vec<_> = (0..functions).map(first).collect();
    times.sort();
    let visits = stack.log().matches("guest is ready").count();
    let least = usize::try_from(functions.min(waiting)).expect("few");
    assert!(visits >= least, "{visits} visits for {least} that could be");
    let rate = f64::from(u32::try_from(least).expect("few")) / times[least - 1].as_secs_f64();
    println!(
        "{functions} functions at zero, {} requests: first answers {:?} median, {:?} last; {visits} visits, the first {least} {rate:.0} a second",
        answers.len(),
        times[times.len() / 2],
        times[times.len() - 1],
    );
    assert!(stack.terminate().await);
}

/// A function whose container takes one request at a time gets five: prints when each began to be served. Where that is within
/// 50 ms depends on the machine and on what else it does.
#[tokio::test]
async fn a_burst_of_five_times_the_capacity_is_served_beside_it() {
    const TAKES: Duration = Duration::from_millis(1500);
    let mut stack = stack(&[("HYPERFAAS_STANDBY_MIN", "6"), ("HYPERFAAS_STANDBY_MAX", "6")]).await;
    at_zero(&stack, "f").await;
    deploy_at_zero(&stack, "g", json!({ "max_inflight": "1" })).await;
    stack.scale("g", 1).await;
    stack.available("g", 1).await;
    stack.eventually("six wait", async || pool(&stack, "ready").await == 6).await;
    assert_eq!(stack.invoke("g", "/sleep?ms=0", "").await.0, StatusCode::OK);
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..5 {
        let url = stack.gateway(&format!("/function/g/sleep?ms={}", TAKES.as_millis()));
        let request = stack.http.get(url).send();
        callers.spawn(async move {
            let status = request.await.expect("an answer").status();
            (begun.elapsed().saturating_sub(TAKES), status)
        });
    }
    let mut answers = callers.join_all().await;
    answers.sort();
    assert!(answers.iter().all(|(_, status)| *status == StatusCode::OK), "{answers:?}");
    let waits: Vec<_> = answers.iter().map(|(wait, _)| *wait).collect();
    println!("five times the capacity: began to be served after {waits:?}");
    assert!(waits[4] < TAKES, "the last waited for another to end: {waits:?}");
    assert!(stack.terminate().await);
}

/// Prints what a waiting standby container holds in memory: its processes' resident pages, shared ones as each has them.
#[tokio::test]
async fn a_waiting_standby_container_is_small() {
    let mut stack = stack(&[]).await;
    stack.eventually("one waits", async || pool(&stack, "ready").await == 1).await;
    let all = names(&stack);
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &all[0]]);
    let first: u64 = pid.trim().parse().expect("a number");
    let read = |pid: u64, file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
    };
    let children = read(first, &format!("task/{first}/children"));
    let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
    let resident = |pid: u64, kind: &str| -> u64 {
        let status = read(pid, "status");
        let line = status.lines().find_map(|line| line.strip_prefix(kind));
        line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    let pids: Vec<_> = std::iter::once(first).chain(children).collect();
    let sum = |kind: &str| pids.iter().map(|pid| resident(*pid, kind)).sum::<u64>();
    let (all, own) = (sum("VmRSS:"), sum("RssAnon:"));
    println!(
        "a waiting standby container: {} processes, {all} KiB resident, {own} KiB of it its own",
        pids.len()
    );
    assert!(own > 0 && own <= 4 << 10, "{own} KiB");
    assert!(stack.terminate().await);
}

/// The user in a process's own status.
fn user(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let status = answer["status"].as_str().expect("text");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.expect("a user").split_whitespace().next().expect("a number").to_owned()
}

#[tokio::test]
async fn a_container_comes_back_without_a_trace_of_its_guest_and_serves_as_another_user() {
    let settings = [("HYPERFAAS_STANDBY_RETURN", "true"), ("HYPERFAAS_STANDBY_MAX", "2")];
    let mut stack = stack(&settings).await;
    at_zero(&stack, "f").await;
    let first = names(&stack).into_iter().next().expect("one waits");
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &first]).trim().to_owned();
    let mut answers = Vec::new();
    for (round, path) in
        ["/whoami", "/write?path=/tmp/left", "/read?path=/tmp/left", "/whoami"].iter().enumerate()
    {
        let answer = stack.http.get(stack.gateway(&format!("/function/f{path}"))).send();
        let answer = answer.await.expect("an answer");
        answers.push((answer.status(), answer.text().await.expect("text")));
        stack
            .eventually("it waits again", async || {
                stack.log().matches("standby container waits again").count() == round + 1
            })
            .await;
        assert!(names(&stack).contains(&first), "by its first name, the same container");
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
        assert!(!mounts.contains("/.hyperfaas/slots/"), "{mounts}");
        let epoch = format!("\"epoch\":{}", round + 1);
        let log = stack.log();
        let mut said = log.lines().filter(|line| line.contains("standby container waits again"));
        assert!(said.next_back().is_some_and(|line| line.contains(&epoch)), "{epoch} in {log}");
        back_to_zero(&stack, "f").await;
    }
    let texts: Vec<_> = answers.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!((answers[1].0, texts[1]), (StatusCode::OK, "written"));
    assert_eq!(answers[2].0, StatusCode::NOT_FOUND, "{}", texts[2]);
    assert_ne!(user(texts[0]), user(texts[3]));
    assert!(stack.terminate().await);
}
