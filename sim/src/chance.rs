//! Chance with a seed, one stream for each purpose.
//!
//! In: a seed. Out: numbers. Always: equal seeds and purposes give equal streams, and a stream is not disturbed by how many
//! numbers another takes, so that a change in one part of a scenario leaves the others as they were.

use hyperfaas_trace::{Random, random};
use rand::RngExt;
use rand_distr::{Distribution, Exp1, LogNormal};

use crate::queue::Nanos;

/// What numbers are drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// When requests arrive.
    Arrivals,
    /// What requests need.
    Work,
    /// How long containers and workers take to start.
    Starts,
    /// What goes wrong.
    Faults,
    /// How long messages take.
    Links,
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Chance(Random);

impl Chance {
    /// The stream of `seed` for `purpose`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self(random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(purpose as u64)))
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// A number in `0..bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// A time of at most `most`.
    pub fn up_to(&mut self, most: Nanos) -> Nanos {
        self.0.random_range(0..=most)
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// An exponentially distributed number of this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        let one: f64 = self.0.sample(Exp1);
        one * mean
    }

    /// A lognormally distributed number of this median; `sigma` is the deviation of its logarithm.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        LogNormal::new(median.max(1.0).ln(), sigma).map_or(median, |law| law.sample(&mut self.0))
    }

    /// One value of a distribution known by its quantiles.
    pub fn quantile(&mut self, quantiles: &hyperfaas_trace::Quantiles) -> f64 {
        quantiles.draw(&mut self.0)
    }

    /// A duration around `middle`, between half and twice of it.
    pub fn around(&mut self, middle: Nanos) -> Nanos {
        nanos(middle as f64 * 2.0_f64.powf(2.0 * self.unit() - 1.0))
    }
}

/// Whole nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; never negative"
)]
pub(crate) fn nanos(ns: f64) -> Nanos {
    ns as Nanos
}
