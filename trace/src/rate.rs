//! A rate over time and the calls that come at it: constant, steps, spikes and ramps; evenly spaced or Poisson.
//!
//! In: [`Phase`]s and a [`Pacing`]. Out: offsets since the start, rising. Units: calls a second.
//! How: calls come at the moments when the integral of the rate reaches the next level; levels lie 1 apart, or Exp(1)
//! apart, which makes a Poisson process of any rate (Çinlar 1975, the inversion method).

use std::time::Duration;

use rand::RngExt;
use rand_distr::Exp1;

use crate::Random;

/// A stretch of time in which the rate goes in a straight line from one value to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Calls a second at its start; finite, not negative.
    pub from: f64,
    /// Calls a second at its end.
    pub to: f64,
    /// How long it lasts.
    pub length: Duration,
}

impl Phase {
    /// A phase of constant `rate`.
    pub const fn constant(rate: f64, length: Duration) -> Self {
        Self { from: rate, to: rate, length }
    }

    /// Calls expected in it.
    pub fn calls(&self) -> f64 {
        f64::midpoint(self.from, self.to) * self.length.as_secs_f64()
    }

    /// Seconds from its start until `level` calls were expected; `level` is at most [`Phase::calls`].
    fn reaches(&self, level: f64) -> f64 {
        let slope = (self.to - self.from) / self.length.as_secs_f64();
        if slope.abs() < f64::EPSILON {
            return level / self.from;
        }
        // from·t + slope·t²/2 = level, in the form that does not cancel.
        let root = self.from.mul_add(self.from, 2.0 * slope * level).max(0.0).sqrt();
        2.0 * level / (self.from + root)
    }
}

/// How calls follow each other at a given rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// At equal distances.
    Even,
    /// At random, independent of each other, as many callers are.
    Poisson,
}

/// The calls of `phases`, one after the other.
///
/// A negative or non-finite rate counts as zero.
pub fn arrivals(phases: &[Phase], pacing: Pacing, random: Random) -> Arrivals {
    let sane = |rate: f64| if rate.is_finite() { rate.max(0.0) } else { 0.0 };
    let phases = phases
        .iter()
        .map(|phase| Phase { from: sane(phase.from), to: sane(phase.to), ..*phase })
        .collect::<Vec<_>>();
    let mut arrivals =
        Arrivals { phases, pacing, random, phase: 0, began: Duration::ZERO, level: 0.0 };
    // The first call comes half a distance after the start, so that phases of whole numbers hold exactly their calls.
    arrivals.level = match pacing {
        Pacing::Even => 0.5,
        Pacing::Poisson => arrivals.random.sample(Exp1),
    };
    arrivals
}

/// An iterator over the offsets of calls, rising.
#[derive(Debug, Clone)]
pub struct Arrivals {
    phases: Vec<Phase>,
    pacing: Pacing,
    random: Random,
    phase: usize,
    began: Duration,
    /// Calls expected since the current phase's start until the next call.
    level: f64,
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let phase = self.phases.get(self.phase)?;
            let held = phase.calls();
            if self.level < held {
                let within = Duration::from_secs_f64(phase.reaches(self.level)).min(phase.length);
                self.level += match self.pacing {
                    Pacing::Even => 1.0,
                    Pacing::Poisson => self.random.sample::<f64, _>(Exp1),
                };
                return Some(self.began + within);
            }
            self.level -= held;
            self.began += phase.length;
            self.phase += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_constant_rate_is_evenly_spaced() {
        let calls = arrivals(&[Phase::constant(10.0, seconds(2))], Pacing::Even, crate::random(0))
            .collect::<Vec<_>>();
        assert_eq!(calls.len(), 20);
        assert_eq!(calls[0], Duration::from_millis(50));
        assert!(calls.windows(2).all(|w| (w[1] - w[0]).as_millis().abs_diff(100) <= 1));
    }

    #[test]
    fn a_step_begins_at_its_moment() {
        let phases = [Phase::constant(4.0, seconds(10)), Phase::constant(60.0, seconds(10))];
        let calls = arrivals(&phases, Pacing::Even, crate::random(0)).collect::<Vec<_>>();
        let before = calls.iter().filter(|at| **at < seconds(10)).count();
        assert_eq!((before, calls.len() - before), (40, 600));
    }

    #[test]
    fn a_ramp_holds_the_integral_of_its_rate() {
        let ramp = Phase { from: 0.0, to: 100.0, length: seconds(10) };
        let calls = arrivals(&[ramp], Pacing::Even, crate::random(0)).collect::<Vec<_>>();
        let first_half = calls.iter().filter(|at| **at < seconds(5)).count();
        assert_eq!((first_half, calls.len()), (125, 500));
        let fall = Phase { from: 100.0, to: 0.0, length: seconds(10) };
        assert_eq!(arrivals(&[fall], Pacing::Even, crate::random(0)).count(), 500);
    }

    #[test]
    fn silence_has_no_calls_and_ends() {
        let phases = [Phase::constant(0.0, seconds(5)), Phase::constant(f64::NAN, seconds(5))];
        assert_eq!(arrivals(&phases, Pacing::Poisson, crate::random(0)).count(), 0);
    }

    #[test]
    fn poisson_has_the_mean_and_the_spread_it_must_have() {
        let calls =
            arrivals(&[Phase::constant(100.0, seconds(1000))], Pacing::Poisson, crate::random(7))
                .collect::<Vec<_>>();
        let gaps = calls.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect::<Vec<_>>();
        let n = f64::from(u32::try_from(gaps.len()).unwrap());
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n;
        // 100,000 draws: the mean is within 1 %, mean and deviation of an exponential are equal.
        assert!((mean - 0.01).abs() < 1e-4, "mean {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "cv {}", variance.sqrt() / mean);
        assert!(calls.is_sorted());
    }

    #[test]
    fn a_seed_replays() {
        let run = |seed| {
            arrivals(&[Phase::constant(50.0, seconds(4))], Pacing::Poisson, crate::random(seed))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
