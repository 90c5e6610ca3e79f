//! What a request needs: how long it takes when nothing hinders it, and how much of that is CPU time.

use hyperfaas_trace::Quantiles;

use crate::chance::{Chance, nanos};
use crate::queue::Nanos;

/// How long requests take, undisturbed.
#[derive(Debug, Clone)]
pub enum Duration {
    /// All alike.
    Fixed(Nanos),
    /// Exponentially distributed around this mean.
    Exponential(Nanos),
    /// Lognormally distributed around this median; `sigma` is the deviation of the logarithm.
    Lognormal {
        /// Half take less.
        median: Nanos,
        /// Spread.
        sigma: f64,
    },
    /// Known by quantiles, in milliseconds as traces give them.
    Quantiles(Quantiles),
}

impl Duration {
    /// One request's.
    pub fn draw(&self, chance: &mut Chance) -> Nanos {
        match self {
            Self::Fixed(ns) => *ns,
            Self::Exponential(mean) => nanos(chance.exponential(*mean as f64)),
            Self::Lognormal { median, sigma } => nanos(chance.lognormal(*median as f64, *sigma)),
            Self::Quantiles(ms) => nanos(chance.quantile(ms) * 1e6),
        }
    }
}

/// What one request needs: first so much CPU time, then so much of something else (a database, a disk, another service).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// CPU time, ns.
    pub cpu: f64,
    /// Time that passes by itself, ns.
    pub wait: Nanos,
}

impl Work {
    /// A request that takes `total` undisturbed, `cpu_share` of it on a CPU, a microsecond at least and `cpu_most` at most.
    pub fn split(total: Nanos, cpu_share: f64, cpu_most: Nanos) -> Self {
        let cpu = (total as f64 * cpu_share).min(cpu_most as f64).max(1e3);
        Self { cpu, wait: nanos((total as f64 - cpu).max(0.0)) }
    }

    /// How long it takes when nothing hinders it, ns.
    pub fn undisturbed(&self) -> f64 {
        self.cpu + self.wait as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Purpose;
    use crate::queue::MS;

    #[test]
    fn distributions_have_the_means_they_promise() {
        let mut chance = Chance::new(7, Purpose::Work);
        let mut mean =
            |law: &Duration| (0..100_000).map(|_| law.draw(&mut chance) as f64).sum::<f64>() / 1e11;
        assert!((mean(&Duration::Fixed(3 * MS)) - 3.0).abs() < 1e-6);
        assert!((mean(&Duration::Exponential(3 * MS)) - 3.0).abs() < 0.05);
        // The mean of a lognormal number is its median times e^(sigma²/2).
        let lognormal = Duration::Lognormal { median: 2 * MS, sigma: 0.5 };
        assert!((mean(&lognormal) - 2.0 * 0.125_f64.exp()).abs() < 0.05);
        let known = Quantiles::new(vec![(0.0, 0.0), (0.5, 1.0), (1.0, 5.0)]).unwrap();
        assert!((mean(&Duration::Quantiles(known)) - 1.75).abs() < 0.05);
    }

    #[test]
    fn work_is_split_between_cpu_and_waiting() {
        assert_eq!(Work::split(10 * MS, 0.25, 5 * MS), Work { cpu: 2.5e6, wait: 7_500_000 });
        assert_eq!(Work::split(10 * MS, 0.5, MS), Work { cpu: 1e6, wait: 9 * MS });
        assert_eq!(Work::split(0, 1.0, MS), Work { cpu: 1e3, wait: 0 });
    }
}
