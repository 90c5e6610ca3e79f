//! Scaling on a real engine: more CPU for a container in a burst, more containers, fewer again, none, and some from none.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::stack::{Stack, docker, probe_http_image};

const BURN: &str = "hyperfaas/fn-burn:latest";
/// A fifth of a CPU at first, ten times as much in a burst.
fn elastic() -> Value {
    json!({ "limits": { "cpu": "200m" }, "labels": { "com.hyperfaas.scale.cpu": "2" } })
}

/// Requests in a steady stream, whatever becomes of the ones before, until it is stopped.
struct Stream {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<StatusCode>>,
}

impl Stream {
    fn on(stack: &Stack, path: &str, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, http, url) = (Arc::clone(&stop), stack.http.clone(), stack.gateway(path));
        let task = tokio::spawn(async move {
            let (mut ticks, mut calls) = (interval(every), JoinSet::new());
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let call = http.post(&url).send();
                calls.spawn(async move { call.await.expect("an answer").status() });
            }
            calls.join_all().await
        });
        Self { stop, task }
    }

    /// Ends it; every request must have been answered well.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.task.await.expect("the stream ran");
        let failed: Vec<_> = answers.iter().filter(|status| **status != StatusCode::OK).collect();
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), answers.len());
    }
}

/// The CPU that the kernel lets a running container use, in percent of one.
pub(super) fn quota(container: &str) -> u64 {
    kernel_quota(container).expect("the container's cgroup is where Docker puts it")
}

/// The same; `None` where there is no cgroup, or none any more: the container does not run.
pub(super) fn kernel_quota(container: &str) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok();
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    let v1 = ["cpu", "cpu,cpuacct"].iter().find_map(|cpu| {
        let file = |name: &str| read(&format!("{cpu}/docker/{container}/cpu.cfs_{name}_us"));
        Some((file("quota")?, file("period")?))
    });
    if let Some((quota, period)) = v1 {
        return Some(number(&quota) * 100 / number(&period));
    }
    let v2 = [format!("docker/{container}"), format!("system.slice/docker-{container}.scope")];
    let text = v2.iter().find_map(|place| read(&format!("{place}/cpu.max")))?;
    let (quota, period) = text.split_once(' ').expect("quota and period");
    Some(number(quota) * 100 / number(period))
}

/// The last decisions on `name`, as (action, rule).
pub(super) async fn decisions(stack: &Stack, name: &str) -> Vec<(String, String)> {
    let path = format!("/system/hyperfaas/functions/{name}/decisions");
    let answer = stack.ask_provider(&path).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let list: Vec<Value> = answer.json().await.expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    list.iter().map(|one| (text(&one["action"]), text(&one["rule"]))).collect()
}

#[tokio::test]
async fn a_burst_raises_the_quota_of_the_running_container_and_its_end_lowers_it() {
    let stack = Stack::start_with(&[
        ("HYPERFAAS_SCALING", "up+out"),
        ("HYPERFAAS_SCALE_COOL", "2s"),
        ("HYPERFAAS_SCALE_PERSIST", "10m"),
    ])
    .await;
    stack.deploy("burn", BURN, elastic()).await;
    stack.available("burn", 1).await;
    let container = stack.containers("burn").pop().expect("one container");
    assert_eq!(quota(&container), 20);
    let burst = Stream::on(&stack, "/function/burn?ms=10", Duration::from_millis(25));
    stack.eventually("the kernel allows more", async || quota(&container) >= 40).await;
    burst.end().await;
    let recorded = || {
        let format = "{{.HostConfig.NanoCpus}}";
        docker(&["inspect", "--format", format, &container])
            .trim()
            .parse::<u64>()
            .expect("a number")
    };
    stack.eventually("it is given back", async || quota(&container) == 20).await;
    stack.eventually("the engine knows", async || recorded() == 200_000_000).await;
    assert_eq!(quota(&container), 20, "what the engine was told is what holds");
    assert_eq!(stack.containers("burn"), [container], "no container was needed for it");
    let decisions = decisions(&stack, "burn").await;
    let has = |action: &str, rules: &[&str]| {
        decisions.iter().any(|(a, rule)| a == action && rules.contains(&rule.as_str()))
    };
    assert!(
        has("resize", &["needs-cpu", "watermark"]) && has("resize", &["cool"]),
        "{decisions:?}"
    );
}

/// `HYPERFAAS_RAISE_ROUNDS` (1) bursts, each on a function of its own. Prints when the quota had been raised, in ms after the provider was
/// told that the container is above its watermark; negative where it was raised before.
#[tokio::test]
async fn a_quota_is_raised_when_a_watermark_is_crossed() {
    let rounds = crate::support::number("HYPERFAAS_RAISE_ROUNDS", 1);
    let stack = Stack::start_with(&[("HYPERFAAS_SCALING", "up+out")]).await;
    let mut after_ms = Vec::new();
    for round in 0..rounds {
        let name = format!("burn{round}");
        stack.deploy(&name, BURN, elastic()).await;
        stack.available(&name, 1).await;
        let path = format!("/function/{name}?ms=10");
        let burst = Stream::on(&stack, &path, Duration::from_millis(25));
        let function = format!("{name}.openfaas-fn");
        let moment = |message: &str| {
            let log = stack.log();
            let mut lines = log.lines().filter(|line| line.contains(&function));
            let line = lines.find(|line| line.contains(message))?;
            let line: Value = serde_json::from_str(line).ok()?;
            line["timestamp"].as_str()?.parse::<jiff::Timestamp>().ok()
        };
        let both = || Some((moment(r#""level":"high""#)?, moment("container resized")?));
        stack.eventually("it is told and raised", async || both().is_some()).await;
        burst.end().await;
        let (told, raised) = both().expect("as just seen");
        after_ms.push(raised.duration_since(told).as_secs_f64() * 1e3);
        stack.delete(&name).await;
    }
    after_ms.sort_by(f64::total_cmp);
    let [least, middle, most] = [0, rounds / 2, rounds - 1].map(|at| after_ms[at]);
    println!(
        "{rounds} quotas raised {middle:.1} ms after the crossing was told ({least:.1} to {most:.1})"
    );
}

#[tokio::test]
async fn replicas_follow_the_rate_up_to_their_maximum_and_back() {
    let stack = Stack::start_with(&[("HYPERFAAS_SCALE_QUIET", "4s")]).await;
    let labels =
        json!({ "labels": { "com.openfaas.scale.min": "1", "com.openfaas.scale.max": "2" } });
    stack.deploy("f", probe_http_image(), labels).await;
    stack.available("f", 1).await;
    let replicas = async || stack.status("f").await["replicas"].as_u64();
    let stream = Stream::on(&stack, "/function/f/sleep?ms=1", Duration::from_millis(100));
    stack.eventually("a second replica is wanted", async || replicas().await == Some(2)).await;
    stack.available("f", 2).await;
    stream.end().await;
    stack.eventually("one is enough", async || replicas().await == Some(1)).await;
    stack.eventually("one is left", async || stack.containers("f").len() == 1).await;
}

#[tokio::test]
async fn an_idle_function_goes_to_zero_and_a_thousand_first_requests_wake_it_once() {
    let stack = Stack::start().await;
    let labels = json!({ "labels": {
        "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s"
    } });
    stack.deploy("f", probe_http_image(), labels).await;
    stack.available("f", 1).await;
    stack.eventually("nothing is left", async || stack.containers("f").is_empty()).await;
    assert_eq!(stack.status("f").await["replicas"], 0);
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let request = stack.http.get(stack.gateway("/function/f/sleep?ms=1")).send();
        callers.spawn(async move { request.await.expect("an answer").status() });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK), "{answers:?}");
    let starts =
        decisions(&stack, "f").await.iter().filter(|(action, _)| action == "start").count();
    assert_eq!(starts, 2, "one at first, one for all of them");
}

#[tokio::test]
async fn a_full_worker_is_joined_by_a_second_in_the_same_container() {
    let stack = Stack::start_with(&[("HYPERFAAS_SCALE_COOL", "1s")]).await;
    let one = json!({
        "envVars": { "max_inflight": "1" }, "labels": { "com.openfaas.scale.max": "1" }
    });
    stack.deploy("f", probe_http_image(), one).await;
    stack.available("f", 1).await;
    let long = stack.http.get(stack.gateway("/function/f/sleep?ms=60000")).send();
    let long = tokio::spawn(long);
    let said = || stack.log();
    stack
        .eventually("the first worker is full and the second answers", async || {
            let answer = stack.invoke("f", "/sleep?ms=0", "").await;
            answer.0 == StatusCode::OK && said().contains("worker ordered")
        })
        .await;
    assert!(!long.is_finished(), "beside the long request, not after it");
    assert_eq!(stack.containers("f").len(), 1);
    long.abort();
    let released = ("release".to_owned(), "cool".to_owned());
    let list = async || decisions(&stack, "f").await;
    stack.eventually("it is given back", async || list().await.contains(&released)).await;
    assert!(list().await.contains(&("specialise".to_owned(), "worker-full".to_owned())));
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn switched_off_nothing_follows_the_load() {
    let stack = Stack::start_with(&[("HYPERFAAS_SCALING", "off")]).await;
    let mut fields = elastic();
    fields["labels"]["com.openfaas.scale.max"] = json!("5");
    fields["labels"]["com.openfaas.scale.zero"] = json!("true");
    fields["labels"]["com.openfaas.scale.zero-duration"] = json!("1s");
    stack.deploy("burn", BURN, fields).await;
    stack.available("burn", 1).await;
    let container = stack.containers("burn").pop().expect("one container");
    let stream = Stream::on(&stack, "/function/burn?ms=20", Duration::from_millis(40));
    stack
        .eventually("the burst is seen", async || stack.log().contains("crossed a watermark"))
        .await;
    stream.end().await;
    assert_eq!((quota(&container), stack.containers("burn")), (20, vec![container.clone()]));
    let decisions = decisions(&stack, "burn").await;
    assert_eq!(decisions, [("start".to_owned(), "wanted".to_owned())]);
}

#[tokio::test]
async fn contradicting_labels_are_refused_in_one_line_and_change_nothing() {
    let stack = Stack::start().await;
    for labels in [
        json!({ "com.openfaas.scale.min": "3", "com.openfaas.scale.max": "2" }),
        json!({ "com.openfaas.scale.target": "0" }),
        json!({ "com.openfaas.scale.type": "moon" }),
    ] {
        let body = json!({ "service": "f", "image": BURN, "labels": labels });
        let answer = stack.system(Method::POST, "/system/functions", Some(body)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let text = answer.text().await.expect("text");
        assert!(text.starts_with("validation failed: labels: com.openfaas.scale."), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1);
    }
    let list = stack.system(Method::GET, "/system/functions", None).await;
    assert_eq!(list.text().await.expect("text"), "[]");
    let unknown = stack.ask_provider("/system/hyperfaas/functions/f/decisions").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}
