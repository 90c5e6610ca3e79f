//! What the gateway counts: calls by function and status, their time, and the functions' desired replicas.
//!
//! In: one [`Invocation`] a call. Out: Prometheus text, and totals for the list of functions.
//! Source: names, labels and types of the OpenFaaS gateway (docs/compat.md); 499 stands for a caller that left.
//! Always: at most [`FUNCTIONS_MAX`] functions are told apart, and calls to names that are no function (404) make no
//! series, so callers cannot fill the memory with made-up names.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::live::took::Took;
use crate::routes::Gateway;
use crate::system;

/// Functions with series of their own.
const FUNCTIONS_MAX: usize = 10_000;
/// Longest `name.namespace`: two DNS labels and a dot.
const NAME_MAX: usize = 127;
/// Longest wait for the provider's lists at a scrape; scrapes mostly have 10 s.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
/// Status of calls whose caller left before the answer; nginx's number.
const CALLER_LEFT: &str = "499";

/// The gateway's counters.
pub(crate) struct Metrics {
    /// Namespace of functions that are called without one.
    namespace: String,
    registry: Registry,
    started: IntCounterVec,
    finished: IntCounterVec,
    seconds: HistogramVec,
    functions: RwLock<HashMap<String, Arc<Counted>>>,
    is_full: AtomicBool,
    /// Calls before the start, as far as known.
    earlier: OnceLock<HashMap<String, u64>>,
    /// Of asynchronous calls.
    pub(crate) queue: QueueMetrics,
    /// Of calls by schedule.
    pub(crate) cron: CronMetrics,
}

/// Counts of calls by schedule.
pub(crate) struct CronMetrics {
    calls: IntCounterVec,
    schedules: IntGauge,
}

impl CronMetrics {
    fn new() -> Self {
        let help = "Calls by schedule: called, or kept for the queue to call; or failed";
        let schedules = IntGauge::new("gateway_cron_schedules", "Schedules that are followed");
        Self {
            calls: counter("gateway_cron_calls_total", help, &["result"]),
            schedules: schedules.expect("the name is valid"),
        }
    }

    /// A call was `called` or has `failed`.
    pub(crate) fn called(&self, result: &str) {
        self.calls.with_label_values(&[result]).inc();
    }

    /// So many schedules are followed.
    pub(crate) fn schedules(&self, count: usize) {
        self.schedules.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Counts of asynchronous calls.
pub(crate) struct QueueMetrics {
    accepted: IntCounterVec,
    delivered: IntCounterVec,
    callbacks: IntCounterVec,
}

impl QueueMetrics {
    fn new() -> Self {
        let result = &["result"];
        Self {
            accepted: counter(
                "gateway_async_calls_total",
                "Asynchronous calls, accepted or refused",
                result,
            ),
            delivered: counter(
                "gateway_async_attempts_total",
                "Attempts to deliver asynchronous calls, by what came of them",
                result,
            ),
            callbacks: counter(
                "gateway_async_callbacks_total",
                "Callbacks, sent or failed",
                result,
            ),
        }
    }

    /// A call was `accepted` or `refused`.
    pub(crate) fn accepted(&self, result: &str) {
        self.accepted.with_label_values(&[result]).inc();
    }

    /// An attempt ended in `delivered`, `retried`, or the reason for giving up.
    pub(crate) fn delivered(&self, result: &str) {
        self.delivered.with_label_values(&[result]).inc();
    }

    /// A callback was `sent` or has `failed`.
    pub(crate) fn called_back(&self, result: &str) {
        self.callbacks.with_label_values(&[result]).inc();
    }
}

/// What waits at a scrape.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Whether there is a queue at all.
    is_there: bool,
    dead: u64,
    running: usize,
    /// Function, messages, age of the oldest in seconds.
    functions: Vec<(Arc<str>, u64, f64)>,
}

/// One function's counts.
struct Counted {
    name: String,
    started: IntCounter,
    /// Finished calls, whatever their status.
    total: AtomicU64,
    /// Those answered with a 5xx.
    failed: AtomicU64,
    /// Their times, finer than the histogram on the metrics page.
    took: Took,
}

/// One function's counts at one moment, for those who watch.
pub(crate) struct Counts<'a> {
    /// Calls begun since the start.
    pub(crate) started: u64,
    /// Calls finished since the start.
    pub(crate) finished: u64,
    /// Those answered with a 5xx.
    pub(crate) failed: u64,
    /// Calls finished before the start, as far as known.
    pub(crate) earlier: u64,
    /// Their times.
    pub(crate) took: &'a Took,
}

impl Metrics {
    /// Counters at zero.
    pub(crate) fn new(namespace: &str) -> Self {
        let by_code = &["function_name", "code"];
        let started = counter(
            "gateway_function_invocation_started",
            "Function calls begun",
            &["function_name"],
        );
        let finished = counter(
            "gateway_function_invocation_total",
            "Function calls finished, by status",
            by_code,
        );
        let options = HistogramOpts::new("gateway_functions_seconds", "Time of function calls");
        let seconds = HistogramVec::new(options, by_code).expect("names and labels are valid");
        let registry = Registry::new();
        let (queue, cron) = (QueueMetrics::new(), CronMetrics::new());
        for collector in [
            Box::new(started.clone()) as Box<dyn Collector>,
            Box::new(finished.clone()),
            Box::new(seconds.clone()),
            Box::new(queue.accepted.clone()),
            Box::new(queue.delivered.clone()),
            Box::new(queue.callbacks.clone()),
            Box::new(cron.calls.clone()),
            Box::new(cron.schedules.clone()),
        ] {
            registry.register(collector).expect("names are unique");
        }
        let (functions, is_full) = (RwLock::default(), AtomicBool::new(false));
        Self {
            namespace: namespace.to_owned(),
            registry,
            started,
            finished,
            seconds,
            functions,
            is_full,
            earlier: OnceLock::new(),
            queue,
            cron,
        }
    }

    /// Namespace of functions that are called without one; empty when there is none.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `reference` with its namespace: `name.namespace`.
    pub(crate) fn full_name(&self, reference: &str) -> String {
        if reference.contains('.') || self.namespace.is_empty() {
            reference.to_owned()
        } else {
            format!("{reference}.{}", self.namespace)
        }
    }

    /// Begins counting a call to `reference` (`name` or `name.namespace`).
    pub(crate) fn begin(self: &Arc<Self>, reference: &str) -> Invocation {
        let name = self.full_name(reference);
        let known =
            self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(function) = &known {
            function.started.inc();
        }
        Invocation { metrics: Arc::clone(self), name, known, status: None, start: Instant::now() }
    }

    /// Finished calls of every function called so far, by `name.namespace`; those before the start too, where known.
    pub(crate) fn counts(&self) -> HashMap<String, u64> {
        let mut counts = self.earlier.get().cloned().unwrap_or_default();
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        for (name, function) in functions.iter() {
            *counts.entry(name.clone()).or_default() += function.total.load(Ordering::Relaxed);
        }
        counts
    }

    /// Shows `see` the counts of every function called so far, by `name.namespace`.
    pub(crate) fn each(&self, mut see: impl FnMut(&str, &Counts<'_>)) {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        for (name, function) in functions.iter() {
            let earlier = self.earlier.get().and_then(|earlier| earlier.get(name)).copied();
            let counts = Counts {
                started: function.started.get(),
                finished: function.total.load(Ordering::Relaxed),
                failed: function.failed.load(Ordering::Relaxed),
                earlier: earlier.unwrap_or(0),
                took: &function.took,
            };
            see(name, &counts);
        }
    }

    /// Adds `earlier` calls to the counts, once.
    pub(crate) fn remember(&self, earlier: HashMap<String, u64>) {
        // Only one task learns of the past.
        let _ = self.earlier.set(earlier);
    }

    /// The counts of `name`, made if there is room; a function met for the first time has begun its first call.
    fn learn(&self, name: &str) -> Option<Arc<Counted>> {
        if name.len() > NAME_MAX {
            return None;
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get(name) {
            Some(function) => Arc::clone(function),
            None if functions.len() >= FUNCTIONS_MAX => {
                if !self.is_full.swap(true, Ordering::Relaxed) {
                    warn!(limit = FUNCTIONS_MAX, "calls to further functions are not counted");
                }
                return None;
            }
            None => {
                let started = self.started.with_label_values(&[name]);
                let function = Arc::new(Counted {
                    name: name.to_owned(),
                    started,
                    total: AtomicU64::new(0),
                    failed: AtomicU64::new(0),
                    took: Took::default(),
                });
                functions.insert(name.to_owned(), Arc::clone(&function));
                function
            }
        };
        function.started.inc();
        Some(function)
    }

    fn finish(&self, function: &Counted, code: &str, took: Duration) {
        function.total.fetch_add(1, Ordering::Relaxed);
        function.took.note(took);
        if code.starts_with('5') {
            function.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.finished.with_label_values(&[&function.name, code]).inc();
        self.seconds.with_label_values(&[&function.name, code]).observe(took.as_secs_f64());
    }

    /// All series as Prometheus text; `replicas` are the functions' desired ones.
    fn text(
        &self,
        replicas: &[FunctionReplicas],
        waiting: &Waiting,
    ) -> Result<Vec<u8>, prometheus::Error> {
        let options = Opts::new("gateway_service_count", "Desired replicas of functions");
        let gauge = IntGaugeVec::new(options, &["function_name"])?;
        for function in replicas {
            let name = format!("{}.{}", function.name, function.namespace);
            gauge
                .with_label_values(&[&name])
                .set(i64::try_from(function.replicas).unwrap_or(i64::MAX));
        }
        let mut families = self.registry.gather();
        families
            .extend(gauge.collect().into_iter().filter(|family| !family.get_metric().is_empty()));
        families.extend(waiting.families()?);
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

impl Waiting {
    async fn of(gateway: &Gateway) -> Self {
        let Some(queue) = &gateway.queue else { return Self::default() };
        let functions = crate::queue_api::waiting(queue).await;
        Self {
            is_there: true,
            dead: queue.totals().dead,
            running: queue.running(),
            functions: functions
                .into_iter()
                .map(|(name, depth, _, age)| (name, depth, age))
                .collect(),
        }
    }

    fn families(&self) -> Result<Vec<prometheus::proto::MetricFamily>, prometheus::Error> {
        if !self.is_there {
            return Ok(Vec::new());
        }
        let by_function = &["function_name"];
        let depth = Opts::new("gateway_async_queue_depth", "Asynchronous calls that wait");
        let depth = IntGaugeVec::new(depth, by_function)?;
        let age =
            Opts::new("gateway_async_queue_oldest_seconds", "Age of the oldest call that waits");
        let age = GaugeVec::new(age, by_function)?;
        for (name, count, seconds) in &self.functions {
            depth.with_label_values(&[name]).set(i64::try_from(*count).unwrap_or(i64::MAX));
            age.with_label_values(&[name]).set(*seconds);
        }
        let dead = IntGauge::new("gateway_async_dead_letters", "Asynchronous calls given up")?;
        dead.set(i64::try_from(self.dead).unwrap_or(i64::MAX));
        let running = IntGauge::new("gateway_async_running", "Asynchronous calls being delivered")?;
        running.set(i64::try_from(self.running).unwrap_or(i64::MAX));
        let mut families =
            [depth.collect(), age.collect(), dead.collect(), running.collect()].concat();
        families.retain(|family| !family.get_metric().is_empty());
        Ok(families)
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("names and labels are valid")
}

/// One call, from its arrival until its answer was sent; dropping it counts it.
pub(crate) struct Invocation {
    metrics: Arc<Metrics>,
    name: String,
    known: Option<Arc<Counted>>,
    status: Option<StatusCode>,
    start: Instant,
}

impl Invocation {
    /// Whose call it is, as `name.namespace`.
    pub(crate) fn function(&self) -> &str {
        &self.name
    }

    /// Notes the status that the caller gets; without one the caller has left.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        let is_function = self.status.is_some_and(|status| status != StatusCode::NOT_FOUND);
        let function =
            self.known.take().or_else(|| is_function.then(|| self.metrics.learn(&self.name))?);
        if let Some(function) = function {
            let code = self.status.as_ref().map_or(CALLER_LEFT, StatusCode::as_str);
            self.metrics.finish(&function, code, self.start.elapsed());
        }
    }
}

/// The part of a function's status that is measured.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionReplicas {
    name: String,
    namespace: String,
    replicas: u64,
}

/// `/metrics`: the counters, and the replicas as the provider tells them now.
pub(crate) async fn scrape(State(gateway): State<Arc<Gateway>>) -> Response {
    let replicas = timeout(SCRAPE_TIMEOUT, system::all_functions(&gateway)).await;
    let replicas = replicas.ok().flatten().unwrap_or_default();
    let waiting = Waiting::of(&gateway).await;
    match gateway.metrics.text(&replicas, &waiting) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            hyperfaas_http::error::plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(metrics: &Arc<Metrics>, reference: &str, status: Option<u16>) {
        let mut invocation = metrics.begin(reference);
        if let Some(status) = status {
            invocation.answered(StatusCode::from_u16(status).unwrap());
        }
    }

    #[test]
    fn calls_are_counted_by_function_and_status() {
        let metrics = Arc::new(Metrics::new("openfaas-fn"));
        for status in [Some(200), Some(200), Some(502), Some(404), None] {
            call(&metrics, "f", status);
        }
        call(&metrics, "f.dev", Some(200));
        let replicas =
            [FunctionReplicas { name: "f".into(), namespace: "dev".into(), replicas: 3 }];
        let text =
            String::from_utf8(metrics.text(&replicas, &Waiting::default()).unwrap()).unwrap();
        for line in [
            r#"gateway_function_invocation_total{code="200",function_name="f.openfaas-fn"} 2"#,
            r#"gateway_function_invocation_total{code="502",function_name="f.openfaas-fn"} 1"#,
            r#"gateway_function_invocation_total{code="404",function_name="f.openfaas-fn"} 1"#,
            r#"gateway_function_invocation_total{code="499",function_name="f.openfaas-fn"} 1"#,
            r#"gateway_function_invocation_started{function_name="f.openfaas-fn"} 5"#,
            r#"gateway_functions_seconds_count{code="200",function_name="f.dev"} 1"#,
            r#"gateway_functions_seconds_bucket{code="200",function_name="f.dev",le="0.005"} 1"#,
            r#"gateway_service_count{function_name="f.dev"} 3"#,
            "# TYPE gateway_functions_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert_eq!(
            metrics.counts(),
            HashMap::from([("f.openfaas-fn".into(), 5), ("f.dev".into(), 1)])
        );
    }

    #[test]
    fn made_up_names_leave_no_trace() {
        let metrics = Arc::new(Metrics::new("openfaas-fn"));
        call(&metrics, "nothing", Some(404));
        call(&metrics, "left", None);
        call(&metrics, &"x".repeat(200), Some(200));
        assert!(
            metrics.counts().is_empty()
                && !String::from_utf8(metrics.text(&[], &Waiting::default()).unwrap())
                    .unwrap()
                    .contains("function_name")
        );
        for number in 0..FUNCTIONS_MAX + 5 {
            call(&metrics, &format!("f{number}"), Some(503));
        }
        assert_eq!(metrics.counts().len(), FUNCTIONS_MAX);
    }
}
