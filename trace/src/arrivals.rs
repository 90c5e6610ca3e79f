//! From calls a minute to calls, in order of time.
//!
//! In: a [`Trace`] and a seed. Out: an iterator of [`Arrival`]s, made a minute at a time, so a day of millions of calls
//! needs the memory of its busiest minute only.
//! How: the calls of a minute lie at independent uniform moments in it, which is what a Poisson process looks like once
//! its count is known; or at equal distances. Durations are drawn from the function's quantiles.

use std::time::Duration;

use rand::RngExt;

use crate::rate::Pacing;
use crate::{Arrival, MINUTE, Random, Trace, random};

/// All calls of `trace`.
pub fn arrivals(trace: &Trace, pacing: Pacing, seed: u64) -> Arrivals<'_> {
    Arrivals { trace, pacing, random: random(seed), minute: 0, ready: Vec::new() }
}

/// An iterator over a trace's calls, in order of time, then of function.
#[derive(Debug, Clone)]
pub struct Arrivals<'a> {
    trace: &'a Trace,
    pacing: Pacing,
    random: Random,
    minute: usize,
    /// The current minute's calls, the next one last.
    ready: Vec<Arrival>,
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        while self.ready.is_empty() {
            if self.minute >= self.trace.minutes() {
                return None;
            }
            self.fill();
        }
        self.ready.pop()
    }
}

impl Arrivals<'_> {
    fn fill(&mut self) {
        let start = MINUTE * u32::try_from(self.minute).unwrap_or(u32::MAX);
        for (index, function) in self.trace.functions.iter().enumerate() {
            let count = function.per_minute.get(self.minute).copied().unwrap_or(0);
            for nth in 0..count {
                let share = match self.pacing {
                    Pacing::Even => (f64::from(nth) + 0.5) / f64::from(count),
                    Pacing::Poisson => self.random.random::<f64>(),
                };
                let duration = function.duration_ms.as_ref();
                self.ready.push(Arrival {
                    at: start + MINUTE.mul_f64(share),
                    function: index,
                    duration: duration
                        .map(|ms| Duration::from_secs_f64(ms.draw(&mut self.random) / 1e3)),
                });
            }
        }
        self.ready.sort_unstable_by(|a, b| b.cmp(a));
        self.minute += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Quantiles};

    fn trace() -> Trace {
        let function = |name: &str, per_minute: &[u32]| Function {
            name: name.to_owned(),
            per_minute: per_minute.to_vec(),
            duration_ms: Quantiles::new(vec![(0.0, 5.0), (1.0, 15.0)]),
            memory_mib: None,
        };
        Trace { functions: vec![function("a", &[3, 0, 60]), function("b", &[0, 0, 7])] }
    }

    #[test]
    fn every_call_comes_in_its_minute_and_in_order() {
        for pacing in [Pacing::Even, Pacing::Poisson] {
            let calls = arrivals(&trace(), pacing, 1).collect::<Vec<_>>();
            assert_eq!(calls.len(), 70);
            assert!(calls.is_sorted());
            for (index, function) in trace().functions.iter().enumerate() {
                for (minute, count) in (0_u32..).zip(&function.per_minute) {
                    let within = MINUTE * minute..MINUTE * (minute + 1);
                    let found =
                        calls.iter().filter(|c| c.function == index && within.contains(&c.at));
                    assert_eq!(found.count(), *count as usize);
                }
            }
        }
    }

    #[test]
    fn durations_come_from_the_functions_quantiles() {
        let allowed = Duration::from_millis(5)..=Duration::from_millis(15);
        assert!(
            arrivals(&trace(), Pacing::Poisson, 1).all(|c| allowed.contains(&c.duration.unwrap()))
        );
    }

    #[test]
    fn a_seed_replays() {
        let run = |seed| arrivals(&trace(), Pacing::Poisson, seed).collect::<Vec<_>>();
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
