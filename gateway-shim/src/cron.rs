//! Functions called by a schedule: annotations `topic: cron-function` and `schedule`.
//!
//! In: the provider's list of functions, the wall clock. Out: calls without a body, through the queue if there is one.
//! Always: a run that was missed, because no gateway was running, is not made up; one that is late, because the machine was
//! busy or asleep, is made once, however often it was due. A schedule that makes no sense is warned of once and left out.
//! Units: schedules are in UTC, with five fields or with seconds before them; several are separated by `;`.
//! Source: OpenFaaS' cron-connector, whose topic and headers these are.
//! Touches: the provider every [`REFRESH`], the queue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use croner::Cron;
use http::{HeaderMap, HeaderValue, Method, Uri};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::invoke::Call;
use crate::queue::message::{Head, Message};
use crate::queue::now_ms;
use crate::routes::Gateway;
use crate::system::all_functions;

/// The annotation `topic` of functions that are called by a schedule.
const TOPIC: &str = "cron-function";
/// How soon changed annotations are noticed.
const REFRESH: Duration = Duration::from_secs(10);
/// Schedules that are followed.
const SCHEDULES_MAX: usize = 10_000;
/// Calls under way when there is no queue to put them into.
const CALLS_MAX: usize = 256;

/// The part of a function's status that is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Annotated {
    name: String,
    namespace: String,
    annotations: Option<HashMap<String, String>>,
}

/// One function's one schedule.
type Key = (String, String);

/// What is due when; holds no clock.
#[derive(Debug, Default)]
struct Plan {
    schedules: BTreeMap<Key, Entry>,
    /// Those that make no sense and were warned of.
    refused: HashSet<Key>,
}

#[derive(Debug)]
struct Entry {
    cron: Cron,
    /// `None`: never again.
    next: Option<Timestamp>,
}

impl Plan {
    /// Follows the schedules of `functions` and no others; new ones begin after `now`.
    fn follow(&mut self, functions: &[Annotated], now: Timestamp) {
        let wanted: HashSet<Key> = functions.iter().flat_map(keys).take(SCHEDULES_MAX).collect();
        self.schedules.retain(|key, _| wanted.contains(key));
        self.refused.retain(|key| wanted.contains(key));
        for key in wanted {
            if let Some(entry) = self.schedules.get_mut(&key) {
                // A clock that was set back must not silence a schedule until it has caught up.
                entry.next = [entry.next, next(&entry.cron, now)].into_iter().flatten().min();
                continue;
            }
            match Cron::from_str(&key.1) {
                Ok(cron) => {
                    let next = next(&cron, now);
                    self.schedules.insert(key, Entry { cron, next });
                }
                Err(error) if self.refused.insert(key.clone()) => {
                    warn!(function = key.0, schedule = key.1, %error, "schedule makes no sense");
                }
                Err(_) => {}
            }
        }
    }

    /// Functions that are due at `now`, each once; what they missed in between is skipped.
    fn due(&mut self, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        for ((function, _), entry) in &mut self.schedules {
            if entry.next.is_some_and(|next| next <= now) {
                entry.next = next(&entry.cron, now);
                due.push(function.clone());
            }
        }
        due.dedup();
        due
    }

    /// When something will be due.
    fn wakes_at(&self) -> Option<Timestamp> {
        self.schedules.values().filter_map(|entry| entry.next).min()
    }
}

/// The schedules that `function` asks for.
fn keys(function: &Annotated) -> Vec<Key> {
    let find = |key| function.annotations.as_ref()?.get(key).map(|text| text.trim());
    // Connectors take a list of topics.
    let is_ours = find("topic").is_some_and(|topics| topics.split(',').any(|t| t.trim() == TOPIC));
    let schedules = find("schedule").filter(|_| is_ours).unwrap_or_default();
    let schedules = schedules.split(';').map(str::trim).filter(|text| !text.is_empty());
    let name = format!("{}.{}", function.name, function.namespace);
    schedules.map(|schedule| (name.clone(), schedule.to_owned())).collect()
}

/// The first time after `now`.
fn next(cron: &Cron, now: Timestamp) -> Option<Timestamp> {
    let next = cron.find_next_occurrence(&now.to_zoned(TimeZone::UTC), false).ok()?;
    Some(next.timestamp())
}

/// Calls functions by their schedules until `stop`.
pub(crate) async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let (mut plan, tasks) = (Plan::default(), TaskTracker::new());
    let mut refreshed: Option<Instant> = None;
    while !stop.is_cancelled() {
        if refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
            // A provider that does not answer changes nothing: what was followed goes on.
            if let Some(functions) = all_functions::<Annotated>(&gateway).await {
                plan.follow(&functions, Timestamp::now());
                gateway.metrics.cron.schedules(plan.schedules.len());
            }
            refreshed = Some(Instant::now());
        }
        for function in plan.due(Timestamp::now()) {
            if gateway.queue.is_none() && tasks.len() >= CALLS_MAX {
                warn!(function, "too many scheduled calls are under way, this one is left out");
                gateway.metrics.cron.called("failed");
                continue;
            }
            tasks.spawn(call(Arc::clone(&gateway), function));
        }
        let until_next =
            plan.wakes_at().map_or(SignedDuration::MAX, |at| at.duration_since(Timestamp::now()));
        let until_next = Duration::try_from(until_next).unwrap_or(Duration::ZERO);
        stop.run_until_cancelled(sleep(until_next.min(REFRESH))).await;
    }
    tasks.close();
    tasks.wait().await;
}

/// Makes one call, or keeps it for the queue to make.
async fn call(gateway: Arc<Gateway>, function: String) {
    let mut headers = HeaderMap::new();
    headers.insert("x-connector", HeaderValue::from_static("cron-connector"));
    headers.insert("x-topic", HeaderValue::from_static(TOPIC));
    let call = Call::begin(&headers, Timestamp::now());
    call.mark_request(&mut headers);
    let call_id = call.id.to_str().unwrap_or_default().to_owned();
    debug!(function, call_id, "called by schedule");
    let target = format!("/function/{function}");
    let is_made = match &gateway.queue {
        Some(queue) => {
            let accepted_ms = now_ms();
            let head = Head {
                function,
                target,
                headers,
                callback: None,
                call_id,
                accepted_ms,
                attempts: 0,
                death: None,
            };
            let kept = queue.put(Message { head, body: Bytes::new() }).await;
            kept.inspect_err(|error| warn!(%error, "scheduled call was not kept")).is_ok()
        }
        None => now(&gateway, &function, &target, headers).await,
    };
    gateway.metrics.cron.called(if is_made { "called" } else { "failed" });
}

/// Calls a function and waits for its answer; whether it was a success.
async fn now(gateway: &Gateway, function: &str, target: &str, headers: HeaderMap) -> bool {
    let Ok(target) = Uri::try_from(target) else { return false };
    let mut request = Request::new(Body::empty());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
        (Method::POST, target, headers);
    let mut invocation = gateway.metrics.begin(function);
    match gateway.provider.call_within(request, gateway.upstream_timeout).await {
        Ok(response) => {
            let status = response.status();
            invocation.answered(status);
            crate::system::read(response.into_body(), 64 << 20).await;
            status.is_success()
        }
        Err(error) => {
            warn!(function, error = crate::error::chain(&error), "scheduled call failed");
            invocation.answered(crate::error::refusal(&error).status());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, topic: &str, schedule: &str) -> Annotated {
        let annotations = [("topic", topic), ("schedule", schedule)];
        let annotations = annotations.map(|(k, v)| (k.to_owned(), v.to_owned()));
        Annotated {
            name: name.into(),
            namespace: "n".into(),
            annotations: Some(annotations.into()),
        }
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-11-24T{text}Z").parse().unwrap()
    }

    #[test]
    fn a_function_is_due_when_its_schedule_says_so_and_not_before() {
        let mut plan = Plan::default();
        plan.follow(&[function("f", TOPIC, "*/5 * * * *")], at("10:02:00"));
        assert_eq!(plan.wakes_at(), Some(at("10:05:00")));
        assert!(plan.due(at("10:04:59.999")).is_empty());
        assert_eq!(plan.due(at("10:05:00")), ["f.n"]);
        assert!(plan.due(at("10:05:00")).is_empty(), "once");
        assert_eq!(plan.due(at("11:58:00")), ["f.n"], "late, and once for all that were missed");
        assert_eq!(plan.wakes_at(), Some(at("12:00:00")));
    }

    #[test]
    fn what_was_missed_before_the_start_is_not_made_up() {
        let mut plan = Plan::default();
        plan.follow(&[function("f", TOPIC, "0 10 * * *")], at("10:00:00"));
        assert!(plan.due(at("23:00:00")).is_empty());
    }

    #[test]
    fn several_schedules_topics_and_seconds_are_understood_and_nonsense_is_left_out() {
        let functions = [
            function("two", "other, cron-function", "0 11 * * * ; 30 11 * * *"),
            function("other", "kafka", "* * * * *"),
            function("wrong", TOPIC, "61 * * * *"),
            function("words", TOPIC, "whenever"),
            function("none", TOPIC, ""),
            function("seconds", TOPIC, "*/10 * * * * *"),
            Annotated::default(),
        ];
        let mut plan = Plan::default();
        plan.follow(&functions, at("10:59:55"));
        assert_eq!(plan.schedules.len(), 3);
        assert_eq!(plan.refused.len(), 2);
        assert_eq!(plan.due(at("11:00:00")), ["seconds.n", "two.n"]);
        assert_eq!(plan.due(at("11:30:00")), ["seconds.n", "two.n"]);
        plan.follow(&[], at("11:30:00"));
        assert_eq!((plan.wakes_at(), plan.refused.len()), (None, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_a_schedule() {
        let functions = [function("f", TOPIC, "* * * * *")];
        let mut plan = Plan::default();
        plan.follow(&functions, at("20:00:00"));
        plan.follow(&functions, at("10:00:00"));
        assert_eq!(plan.due(at("10:01:00")), ["f.n"]);
    }
}
