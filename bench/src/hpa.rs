//! An emulated Kubernetes HorizontalPodAutoscaler: how many replicas it would ask for.
//!
//! In: CPU use by scrapes of the metrics, replicas, the present. Out: the desired count. Pure.
//! Source: Kubernetes' documentation of the algorithm and of its default behaviour: `desired = ceil(current × use / target)`,
//! nothing within 10 % of the target, up by at most the larger of 4 and 100 % in 15 s, down only to the highest
//! recommendation of the last 5 minutes. Use is the mean over one scrape interval, as metrics-server reports it.

use std::collections::VecDeque;
use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// Recommendations within this time hold replicas up.
const STABILIZATION: Duration = Duration::from_secs(300);
/// Within this share of the target, nothing changes.
const TOLERANCE: f64 = 0.1;
/// Replicas that may always be added at once.
const UP_STEP: u32 = 4;

/// Its settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Between two decisions.
    pub(crate) sync: Duration,
    /// Between two scrapes of the metrics.
    pub(crate) scrape: Duration,
    /// CPU use that is aimed at, as a share of what is requested.
    pub(crate) target: f64,
    /// CPU a replica requests, in cores.
    pub(crate) request: f64,
    /// At least so many replicas.
    pub(crate) min: u32,
    /// At most so many.
    pub(crate) max: u32,
}

/// The autoscaler of one function.
#[derive(Debug)]
pub(crate) struct Hpa {
    policy: Policy,
    /// The last scrape: when, and the CPU time of all replicas until then.
    scraped: Option<(Moment, Duration)>,
    /// Use over the last complete scrape interval, in cores.
    cores: Option<f64>,
    recommended: VecDeque<(Moment, u32)>,
}

impl Hpa {
    /// One that has seen nothing.
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, scraped: None, cores: None, recommended: VecDeque::new() }
    }

    /// Tells the CPU time that all replicas have used until `now`; counts when a scrape is due.
    pub(crate) fn observe(&mut self, cpu: Duration, now: Moment) {
        let Some((then, before)) = self.scraped else {
            self.scraped = Some((now, cpu));
            return;
        };
        let passed = now.since(then);
        if passed >= self.policy.scrape {
            self.cores = Some(cpu.saturating_sub(before).as_secs_f64() / passed.as_secs_f64());
            self.scraped = Some((now, cpu));
        }
    }

    /// The count to ask for, with `current` replicas.
    pub(crate) fn desired(&mut self, current: u32, now: Moment) -> u32 {
        let Policy { target, request, min, max, .. } = self.policy;
        let ratio = self.cores.map(|cores| cores / (f64::from(current.max(1)) * request * target));
        let wanted = match ratio {
            Some(ratio) if (ratio - 1.0).abs() > TOLERANCE => up(f64::from(current) * ratio),
            _ => current,
        };
        let wanted = wanted.min(current + current.max(UP_STEP)).clamp(min, max);
        if self.recommended.is_empty() {
            // A controller that has just started takes what there is for its first recommendation.
            self.recommended.push_back((now, current));
        }
        self.recommended.push_back((now, wanted));
        while self.recommended.front().is_some_and(|(at, _)| now.since(*at) > STABILIZATION) {
            self.recommended.pop_front();
        }
        if wanted >= current {
            return wanted;
        }
        let highest = self.recommended.iter().map(|(_, count)| *count).max().unwrap_or(wanted);
        highest.min(current)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of replicas")]
fn up(count: f64) -> u32 {
    count.ceil().clamp(0.0, 1e6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hpa() -> Hpa {
        let second = Duration::from_secs(1);
        Hpa::new(Policy {
            sync: second * 15,
            scrape: second * 15,
            target: 0.8,
            request: 0.2,
            min: 1,
            max: 20,
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    #[test]
    fn without_metrics_nothing_changes() {
        assert_eq!(hpa().desired(3, at(0)), 3);
    }

    #[test]
    fn use_over_the_target_adds_in_proportion() {
        let mut hpa = hpa();
        hpa.observe(Duration::ZERO, at(0));
        hpa.observe(Duration::from_millis(500), at(5)); // no scrape is due
        assert_eq!(hpa.desired(1, at(5)), 1);
        hpa.observe(Duration::from_secs(3), at(15)); // 0.2 cores of one replica: 125 % of the target
        assert_eq!(hpa.desired(1, at(15)), 2);
    }

    #[test]
    fn it_goes_down_only_after_five_minutes() {
        let mut hpa = hpa();
        hpa.observe(Duration::ZERO, at(0));
        hpa.observe(Duration::from_millis(1), at(15));
        assert_eq!(hpa.desired(4, at(15)), 4);
        assert_eq!(hpa.desired(4, at(314)), 4);
        assert_eq!(hpa.desired(4, at(317)), 1);
    }

    #[test]
    fn a_step_up_is_bounded_and_so_is_the_total() {
        let mut hpa = hpa();
        hpa.observe(Duration::ZERO, at(0));
        hpa.observe(Duration::from_secs(150), at(15)); // 10 cores
        assert_eq!(hpa.desired(1, at(15)), 5);
        assert_eq!(hpa.desired(5, at(30)), 10);
        assert_eq!(hpa.desired(15, at(45)), 20);
    }

    #[test]
    fn within_the_tolerance_and_before_five_minutes_nothing_goes_down() {
        let mut hpa = hpa();
        hpa.observe(Duration::ZERO, at(0));
        hpa.observe(Duration::from_millis(2500), at(15)); // 104 % of the target
        assert_eq!(hpa.desired(1, at(15)), 1);
        hpa.recommended.push_back((at(15), 6));
        assert_eq!(hpa.desired(6, at(30)), 6);
        assert_eq!(hpa.desired(6, at(400)), 2);
    }
}
