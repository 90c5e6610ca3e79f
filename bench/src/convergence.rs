//! How long after a step of the load a system meets its objective, and goes on meeting it.
//!
//! In: [`Sample`]s, the step's moment, the [`Objective`]. Out: the time from the step to the convergence, or `None`.
//! Definition: windows of 5 s begin every 100 ms. A window meets the objective when the percentile of its calls' latencies is
//! within the limit, failed calls counting as infinitely slow. The system has converged at the first window, from the step
//! on, that meets it and from which on 95 % of all windows do, itself included; a window that is not over before the last call
//! is none. The first condition keeps a long good end from hiding a bad beginning, and at least 20 s of windows must follow,
//! so that a last quiet moment is no convergence.

use std::time::Duration;

use crate::sample::Sample;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(5);
/// Distance of the windows' beginnings.
const STRIDE: Duration = Duration::from_millis(100);
/// Share of windows that must meet the objective from then on.
const SHARE: f64 = 0.95;

/// Windows that must follow for "from then on" to mean something: 20 s.
const EVIDENCE: usize = 200;

/// What counts as good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objective {
    /// Of 100, such as 99.
    pub(crate) percentile: f64,
    /// Within which it must lie.
    pub(crate) limit: Duration,
}

/// The time from `step` until `samples` have converged; `None` if they never do or too few are left to tell.
pub(crate) fn convergence(
    samples: &[Sample],
    step: Duration,
    objective: Objective,
) -> Option<Duration> {
    let mut sorted = samples.iter().filter(|sample| sample.at >= step).copied().collect::<Vec<_>>();
    sorted.sort_unstable_by_key(|sample| sample.at);
    let last = sorted.last()?.at;
    let starts = (0..).map(|nth| step + STRIDE * nth).take_while(|start| *start + WINDOW <= last);
    let meets = starts.map(|start| meets(&sorted, start, objective)).collect::<Vec<_>>();
    let (mut good, mut first) = (0_usize, None);
    for (nth, met) in meets.iter().enumerate().rev() {
        good += usize::from(*met);
        let share = good as f64 / (meets.len() - nth) as f64;
        if *met && share >= SHARE && meets.len() - nth > EVIDENCE {
            first = Some(nth);
        }
    }
    first.and_then(|nth| u32::try_from(nth).ok()).map(|nth| STRIDE * nth)
}

fn meets(sorted: &[Sample], start: Duration, objective: Objective) -> bool {
    let from = sorted.partition_point(|sample| sample.at < start);
    let to = sorted.partition_point(|sample| sample.at < start + WINDOW);
    let window = &sorted[from..to];
    let is_good = |s: &&Sample| s.is_success() && s.latency <= objective.limit;
    let good = window.iter().filter(is_good).count() as f64;
    // Nobody called, nobody waited.
    good >= objective.percentile / 100.0 * window.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Fault;
    use crate::sample::tests::sample;

    const P99: Objective = Objective { percentile: 99.0, limit: Duration::from_millis(500) };
    const STEP: Duration = Duration::from_secs(20);

    /// 60 calls a second for 200 s; `ms` tells the latency of a call due so many ms after the step.
    fn run(ms: impl Fn(u64) -> u64) -> Vec<Sample> {
        (0..12_000_u64)
            .map(|n| n * 1000 / 60)
            .map(|at| sample(at, ms(at.saturating_sub(20_000)), Ok(200)))
            .collect()
    }

    #[test]
    fn what_is_good_from_the_step_on_took_no_time() {
        assert_eq!(convergence(&run(|_| 10), STEP, P99), Some(Duration::ZERO));
    }

    #[test]
    fn a_backlog_counts_until_the_last_slow_window_has_begun() {
        // Slow for 8 s: a window has at most 1 % of slow calls when it begins 50 ms before the end of that.
        let found = convergence(&run(|after| if after < 8000 { 2000 } else { 10 }), STEP, P99);
        assert_eq!(found, Some(Duration::from_secs(8)));
    }

    #[test]
    fn a_long_good_end_does_not_hide_a_bad_beginning() {
        // 2 s of 180 are within the 5 % that may fail; they are at the beginning, so they count.
        let found = convergence(&run(|after| if after < 2000 { 2000 } else { 10 }), STEP, P99);
        assert_eq!(found, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_rare_relapse_is_forgiven_a_frequent_one_is_not() {
        let once = |after: u64| if after / 1000 == 100 { 2000 } else { 10 };
        assert_eq!(convergence(&run(once), STEP, P99), Some(Duration::ZERO));
        let often = |after: u64| if (after / 1000).is_multiple_of(10) { 2000 } else { 10 };
        assert_eq!(convergence(&run(often), STEP, P99), None);
    }

    #[test]
    fn failures_are_never_good() {
        let mut samples = run(|_| 10);
        for failed in samples.iter_mut().skip(1200).step_by(50) {
            failed.end = Err(Fault::Closed);
        }
        assert_eq!(convergence(&samples, STEP, P99), None);
    }

    #[test]
    fn too_little_to_tell_is_no_convergence() {
        assert_eq!(convergence(&[], STEP, P99), None);
        assert_eq!(convergence(&[sample(21_000, 1, Ok(200))], STEP, P99), None);
    }
}
