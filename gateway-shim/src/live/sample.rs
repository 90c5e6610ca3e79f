//! What the gateway itself knows of its functions: rates, times and errors of the last seconds, from its counters.
//!
//! In: the counters at each look. Out: a [`Sample`] a function. Always: a function that nothing happens to has equal samples.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::took::{BUCKETS, quantile_ms};
use crate::metrics::{Counts, Metrics};

/// Times and errors are those of the last one to two spans.
const SPAN: Duration = Duration::from_secs(10);
/// How fast the rate follows: two thirds of a change in this time.
const RATE_FOLLOWS: Duration = Duration::from_secs(2);

/// One function, as its callers see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Sample {
    /// Calls a second, rounded to tenths.
    rate: f64,
    in_flight: u64,
    invocations: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    /// Share of 5xx.
    errors: Option<f64>,
}

impl Sample {
    /// Adds itself to what the provider tells, whose rate and requests in flight count more: it sees all callers.
    pub(super) fn add_to(&self, function: &mut Map<String, Value>) {
        function.entry("rate").or_insert_with(|| self.rate.into());
        function.entry("in_flight").or_insert_with(|| self.in_flight.into());
        function.insert("invocations".into(), self.invocations.into());
        function.insert("p50_ms".into(), self.p50_ms.into());
        function.insert("p95_ms".into(), self.p95_ms.into());
        function.insert("errors".into(), self.errors.into());
    }
}

/// All functions' samples.
#[derive(Default)]
pub(super) struct Samples {
    lines: HashMap<String, Line>,
    at: Option<Instant>,
}

struct Line {
    sample: Sample,
    rate: f64,
    finished: u64,
    old: Mark,
    new: Mark,
}

/// Counters at one moment.
#[derive(Clone)]
struct Mark {
    at: Instant,
    finished: u64,
    failed: u64,
    took: [u32; BUCKETS],
}

impl Mark {
    fn zero(at: Instant) -> Self {
        Self { at, finished: 0, failed: 0, took: [0; BUCKETS] }
    }

    fn of(counts: &Counts<'_>, at: Instant) -> Self {
        let (finished, failed) = (counts.finished, counts.failed);
        Self { at, finished, failed, took: counts.took.counts() }
    }
}

impl Samples {
    /// Takes new samples of all functions.
    pub(super) fn take(&mut self, metrics: &Metrics, now: Instant) {
        let before = self.at.replace(now);
        let passed = before.map_or(Duration::ZERO, |at| now.duration_since(at));
        metrics.each(|name, counts| match self.lines.get_mut(name) {
            Some(line) => line.step(counts, passed, now),
            None => {
                // One that was not called before the last look has done all of it since.
                let mark = before.map_or_else(|| Mark::of(counts, now), Mark::zero);
                let (finished, old, new) = (mark.finished, mark.clone(), mark);
                let mut line = Line { sample: Sample::default(), rate: 0.0, finished, old, new };
                line.step(counts, passed, now);
                self.lines.insert(name.to_owned(), line);
            }
        });
    }

    /// The last sample of `function`, `name.namespace`; zeros when it was never called.
    pub(super) fn of(&self, function: &str) -> Sample {
        self.lines.get(function).map(|line| line.sample.clone()).unwrap_or_default()
    }
}

impl Line {
    fn step(&mut self, counts: &Counts<'_>, passed: Duration, now: Instant) {
        self.follow(counts.finished - self.finished, passed);
        self.finished = counts.finished;
        let mark = Mark::of(counts, now);
        let calls = mark.finished - self.old.finished;
        #[expect(clippy::cast_precision_loss, reason = "counts of calls in some seconds")]
        let errors = (calls > 0).then(|| (mark.failed - self.old.failed) as f64 / calls as f64);
        self.sample = Sample {
            rate: (self.rate * 10.0).round() / 10.0,
            in_flight: counts.started.saturating_sub(counts.finished),
            invocations: counts.earlier + counts.finished,
            p50_ms: quantile_ms(&self.old.took, &mark.took, 0.5),
            p95_ms: quantile_ms(&self.old.took, &mark.took, 0.95),
            errors,
        };
        if now.duration_since(self.new.at) >= SPAN {
            self.old = std::mem::replace(&mut self.new, mark);
        }
    }

    /// An exponentially weighted mean over time, whatever the time between two looks.
    fn follow(&mut self, calls: u64, passed: Duration) {
        if passed.is_zero() {
            return;
        }
        let weight = 1.0 - (-passed.as_secs_f64() / RATE_FOLLOWS.as_secs_f64()).exp();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of calls in a fraction of a second"
        )]
        let rate = calls as f64 / passed.as_secs_f64();
        self.rate += weight * (rate - self.rate);
    }
}
