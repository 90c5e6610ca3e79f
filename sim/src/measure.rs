//! What a run is judged by.
//!
//! In: outcomes of requests, and what the site holds over time. Out: a [`Summary`].
//! Units: slowdown is the time from arrival to answer over the time it takes undisturbed, 1.0 at best; times are nanoseconds.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::provider::{Change, Decisions};
use crate::queue::Nanos;
use crate::record::Recorder;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// By the function's answer.
    Answered,
    /// Its container or worker ended while it was being served.
    Lost,
    /// Refused because too many waited.
    Full,
    /// Refused because nothing that could serve it was coming.
    Unavailable,
    /// It waited too long for a place.
    Late,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Answered, Self::Lost, Self::Full, Self::Unavailable, Self::Late];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Lost => "lost",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Late => "late",
        }
    }
}

/// Amounts over time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Held {
    /// CPUs granted as quotas.
    pub cpus: f64,
    /// Bytes held by containers.
    pub memory: f64,
    /// Containers that run or are being started.
    pub containers: f64,
}

/// Integrals of [`Held`]: CPU-, byte- and container-seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Books {
    /// What is held now.
    pub now: Held,
    /// What was held until the last change, times seconds.
    pub sum: Held,
    /// Most containers at a time.
    pub peak: f64,
    at: Nanos,
}

impl Books {
    /// Brings the sums to `now`; to be called before every change.
    pub fn advance(&mut self, now: Nanos) {
        let seconds = now.saturating_sub(self.at) as f64 / 1e9;
        self.sum.cpus += self.now.cpus * seconds;
        self.sum.memory += self.now.memory * seconds;
        self.sum.containers += self.now.containers * seconds;
        self.peak = self.peak.max(self.now.containers);
        self.at = now;
    }
}

/// What is counted while a run goes on.
#[derive(Debug)]
pub struct Tally {
    slowdown: Histogram<u32>,
    latency: Histogram<u32>,
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
}

impl Default for Tally {
    fn default() -> Self {
        // Three digits; from a thousandth up to a million times slower, and from a microsecond to a day.
        let new = |most| Histogram::new_with_bounds(1, most, 3).expect("bounds that fit");
        Self { slowdown: new(1_000_000_000), latency: new(86_400_000_000), outcomes: [0; 5] }
    }
}

impl Tally {
    /// Counts a request that took `took` and would have taken `undisturbed`, ns.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates at the histogram's bound"
    )]
    pub fn record(&mut self, outcome: Outcome, took: Nanos, undisturbed: f64) {
        self.outcomes[outcome as usize] += 1;
        if outcome == Outcome::Answered {
            let slowdown = took as f64 / undisturbed.max(1.0);
            self.slowdown.saturating_record((slowdown * 1000.0).round() as u64);
            self.latency.saturating_record(took / 1000);
        }
    }

    /// Requests that are over.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Requests that ended so.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// The slowdown that this share of the answered requests did not exceed.
    pub fn slowdown(&self, share: f64) -> f64 {
        self.slowdown.value_at_quantile(share) as f64 / 1000.0
    }

    /// The time from arrival to answer that this share of the answered requests did not exceed, ms.
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1000.0
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Summary {
    /// What the scheduler decided, in numbers.
    pub decisions: Decisions,
    /// Each decision on CPU and replicas; empty unless the run was thorough.
    pub history: Vec<Change>,
    /// How often each rule of the scheduler asked for what: pairs of action and rule.
    pub rules: BTreeMap<(&'static str, &'static str), u64>,
    /// Requests, and how things went over time.
    pub record: Recorder,
    /// CPU time used, s.
    pub cpu_used: f64,
    /// What was held, times seconds.
    pub held: Held,
    /// Most containers at a time.
    pub containers_peak: f64,
    /// Virtual time, s.
    pub seconds: f64,
    /// Events that happened.
    pub events: u64,
    /// A number that two runs share only if the same happened at the same moments.
    pub fingerprint: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{MS, SECOND};

    #[test]
    fn only_answers_count_for_slowdown() {
        let mut tally = Tally::default();
        for slow in 1..=100 {
            tally.record(Outcome::Answered, slow * MS, 1e6);
        }
        tally.record(Outcome::Lost, SECOND, 1e6);
        assert!(
            (tally.slowdown(0.5) - 50.0).abs() < 0.1 && (tally.slowdown(0.99) - 99.0).abs() < 0.1
        );
        assert!((tally.latency_ms(1.0) - 100.0).abs() < 0.1);
        assert_eq!((tally.requests(), tally.of(Outcome::Lost)), (101, 1));
    }

    #[test]
    fn books_are_integrals() {
        let now = Held { cpus: 2.0, memory: 10.0, containers: 3.0 };
        let mut books = Books { now, ..Books::default() };
        books.advance(2 * SECOND);
        books.now.cpus = 1.0;
        books.advance(3 * SECOND);
        assert_eq!(books.sum, Held { cpus: 5.0, memory: 30.0, containers: 9.0 });
        assert!((books.peak - 3.0).abs() < 1e-9);
    }
}
