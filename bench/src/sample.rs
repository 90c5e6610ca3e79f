//! What became of calls, and what a table says of many of them.
//!
//! In: [`Sample`]s. Out: [`Summary`] over all, [`Second`] by second. Units: seconds of the run by the moment a call was due.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::call::Fault;

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it was due, since the run's start.
    pub(crate) at: Duration,
    /// From that moment to its end.
    pub(crate) latency: Duration,
    /// How late the loader began it.
    pub(crate) lag: Duration,
    /// Index of its target.
    pub(crate) target: usize,
    /// The status, or why there is none.
    pub(crate) end: Result<u16, Fault>,
}

impl Sample {
    /// Whether the caller got what it asked for.
    pub(crate) fn is_success(&self) -> bool {
        self.end.is_ok_and(|status| status < 400)
    }

    fn end_name(&self) -> String {
        match self.end {
            Ok(status) => status.to_string(),
            Err(fault) => fault.name().to_owned(),
        }
    }
}

/// A histogram of times from a microsecond to an hour, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

/// The longest time that is told apart, in ns.
const LONGEST_NS: u64 = 3_600_000_000_000;

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, LONGEST_NS, 3);
        Self(histogram.expect("bounds and digits are in the crate's range"))
    }
}

impl Times {
    /// Counts `time`.
    pub(crate) fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS);
        self.0.saturating_record(ns);
    }

    /// How many.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The time within which `percent` of all lie, in ms; zero if there is none.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e6
    }
}

/// All calls of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many were due.
    pub(crate) calls: u64,
    /// How many got an answer below 400.
    pub(crate) succeeded: u64,
    /// Calls by status, or by the reason why there is none.
    pub(crate) ends: BTreeMap<String, u64>,
    /// Latencies of all calls, failed ones included, in ms.
    pub(crate) latency: Percentiles,
    /// How late the loader itself was, in ms.
    pub(crate) loader_lag: Percentiles,
}

/// Some percentiles, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Half are faster.
    pub(crate) p50: f64,
    /// 90 % are faster.
    pub(crate) p90: f64,
    /// 99 % are faster.
    pub(crate) p99: f64,
    /// 99.9 % are faster.
    pub(crate) p999: f64,
    /// The slowest.
    pub(crate) max: f64,
}

impl From<&Times> for Percentiles {
    fn from(times: &Times) -> Self {
        let at = |percent| times.percentile_ms(percent);
        Self { p50: at(50.0), p90: at(90.0), p99: at(99.0), p999: at(99.9), max: at(100.0) }
    }
}

impl Summary {
    /// Of `samples`.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let (mut latency, mut lag) = (Times::default(), Times::default());
        let mut ends = BTreeMap::new();
        for sample in samples {
            latency.add(sample.latency);
            lag.add(sample.lag);
            *ends.entry(sample.end_name()).or_default() += 1;
        }
        Self {
            calls: samples.len() as u64,
            succeeded: samples.iter().filter(|sample| sample.is_success()).count() as u64,
            ends,
            latency: (&latency).into(),
            loader_lag: (&lag).into(),
        }
    }
}

/// The calls that were due in one second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Since the run's start.
    pub(crate) second: u64,
    /// Calls due.
    pub(crate) calls: u64,
    /// Of them, those that did not succeed.
    pub(crate) failed: u64,
    /// Median latency, ms.
    pub(crate) p50_ms: f64,
    /// 90th percentile, ms.
    pub(crate) p90_ms: f64,
    /// 99th percentile, ms.
    pub(crate) p99_ms: f64,
    /// The slowest, ms.
    pub(crate) max_ms: f64,
}

/// One row a second, without gaps, up to the last call's.
pub(crate) fn by_second(samples: &[Sample]) -> Vec<Second> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by_key(|sample| sample.at);
    let seconds = sorted.last().map_or(0, |last| last.at.as_secs() + 1);
    let mut rest = sorted.as_slice();
    let row = |second: u64| {
        let (these, after) = rest.split_at(rest.partition_point(|s| s.at.as_secs() <= second));
        rest = after;
        let mut times = Times::default();
        these.iter().for_each(|sample| times.add(sample.latency));
        Second {
            second,
            calls: these.len() as u64,
            failed: these.iter().filter(|sample| !sample.is_success()).count() as u64,
            p50_ms: times.percentile_ms(50.0),
            p90_ms: times.percentile_ms(90.0),
            p99_ms: times.percentile_ms(99.0),
            max_ms: times.percentile_ms(100.0),
        }
    };
    (0..seconds).map(row).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A call due at `at_ms` that took `ms`.
    pub(crate) fn sample(at_ms: u64, ms: u64, end: Result<u16, Fault>) -> Sample {
        let (at, latency) = (Duration::from_millis(at_ms), Duration::from_millis(ms));
        Sample { at, latency, lag: Duration::ZERO, target: 0, end }
    }

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let samples = (1..=1000).map(|ms| sample(0, ms, Ok(200))).collect::<Vec<_>>();
        let p = Summary::of(&samples).latency;
        for (seen, wanted) in [(p.p50, 500.0), (p.p90, 900.0), (p.p99, 990.0), (p.max, 1000.0)] {
            assert!((seen / wanted - 1.0).abs() < 0.002, "{seen} for {wanted}");
        }
    }

    #[test]
    fn ends_are_counted_by_kind() {
        let ends = [Ok(200), Ok(200), Ok(429), Err(Fault::Timeout), Ok(301)];
        let samples = ends.map(|end| sample(0, 1, end));
        let summary = Summary::of(&samples);
        assert_eq!((summary.calls, summary.succeeded), (5, 3));
        assert_eq!(summary.ends["200"], 2);
        assert_eq!(summary.ends["timeout"], 1);
    }

    #[test]
    fn seconds_go_by_when_calls_were_due_and_have_no_gaps() {
        let samples =
            [sample(2500, 9000, Ok(500)), sample(10, 20, Ok(200)), sample(999, 10, Ok(200))];
        let rows = by_second(&samples);
        let counts = rows.iter().map(|r| (r.second, r.calls, r.failed)).collect::<Vec<_>>();
        assert_eq!(counts, [(0, 2, 0), (1, 0, 0), (2, 1, 1)]);
        assert!((rows[2].p50_ms - 9000.0).abs() < 10.0);
        assert!(by_second(&[]).is_empty());
    }
}
