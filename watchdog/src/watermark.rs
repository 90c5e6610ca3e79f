//! Whether the container has more to do than it can: above the high watermark, or below the low one again.
//!
//! In: a [`Gauge`], which is the verdict so far, the present [`Sample`] and the one before. Out: the next [`Gauge`].
//! Units: percent of a limit; CPU as microseconds used of microseconds allowed; times are [`Moment`]s.
//! Always: it is high from the very sample that shows a reason for it, and low only when for [`Thresholds::quiet_for`] every
//! sample was below every low threshold; in between it stays as it is. What is not limited raises nothing, and what cannot be
//! read at the moment changes nothing.
//! Touches: nothing. `load` takes the samples and tells the provider.
//! Tests: properties below; `tests/load.rs` for the real files.

use std::time::Duration;

use hyperfaas_protocol::control::{Level, Pressure, Watermark};
use hyperfaas_protocol::moment::Moment;

use crate::cgroup::{Quota, Usage};

/// The values at which the verdict changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Percent of the CPU that the quota allows in one window.
    pub(crate) cpu_high_percent: u64,
    pub(crate) cpu_low_percent: u64,
    /// Over how long CPU use is measured.
    pub(crate) cpu_window: Duration,
    /// Percent of the memory limit.
    pub(crate) memory_high_percent: u64,
    pub(crate) memory_low_percent: u64,
    /// How long everything must be below the low thresholds.
    pub(crate) quiet_for: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            // A request more would be stopped by the kernel for the rest of a period.
            cpu_high_percent: 90,
            cpu_low_percent: 60,
            // The kernel's own period, unless somebody changed it: what it allows is allowed within that.
            cpu_window: Duration::from_millis(100),
            // Above it the kernel is busy finding pages, and kills soon.
            memory_high_percent: 90,
            memory_low_percent: 80,
            // Ten periods: work that comes in bursts once a second or faster is one burst.
            quiet_for: Duration::from_secs(1),
        }
    }
}

/// What is known at one moment. Counts only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sample {
    pub(crate) usage: Usage,
    /// Requests that were refused, sent back or had to wait because too many were in flight.
    pub(crate) refused: u64,
}

/// The verdict, and what the next one needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gauge {
    pub(crate) mark: Watermark,
    /// Which of the verdicts raised it: until that one is known to be calm, it stays.
    raised_by: Option<usize>,
    /// Since when everything has been below the low thresholds; `None` while something is not.
    calm_since: Option<Moment>,
    cpu: CpuWindow,
}

/// CPU use is measured over windows that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuWindow {
    /// Begin, and CPU time used until then.
    began: Option<(Moment, u64)>,
    /// Whether the window before was below the low threshold.
    was_calm: bool,
}

/// What one sample says about one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    High,
    Between,
    Calm,
    /// It cannot be read at the moment, or is not limited.
    Unknown,
}

impl Gauge {
    /// Before the first sample.
    pub(crate) const START: Self = Self {
        mark: Watermark::CALM,
        raised_by: None,
        calm_since: None,
        cpu: CpuWindow { began: None, was_calm: true },
    };

    /// The same verdict after a pause: what was used meanwhile, at whatever time, is no reason now.
    #[must_use]
    pub(crate) const fn resumed(self) -> Self {
        Self { cpu: Self::START.cpu, ..self }
    }

    /// When it will be low if nothing happens until then; `None` while something keeps it high, or when it is low.
    pub(crate) fn low_at(&self, thresholds: &Thresholds) -> Option<Moment> {
        (self.mark.level == Level::High).then_some(self.calm_since?.after(thresholds.quiet_for))
    }
}

/// The verdict at `now`, when `sample` is taken; `before` is the sample that `gauge` was made with.
pub(crate) fn judge(
    gauge: &Gauge,
    thresholds: &Thresholds,
    before: &Sample,
    sample: &Sample,
    now: Moment,
) -> Gauge {
    let (cpu, cpu_verdict) = gauge.cpu.measure(thresholds, &sample.usage, now);
    let usage = (&before.usage, &sample.usage);
    let verdicts = [
        (Pressure::Requests, grown(Some(before.refused), Some(sample.refused))),
        (Pressure::Throttled, grown(usage.0.throttled_periods, usage.1.throttled_periods)),
        (Pressure::Cpu, cpu_verdict),
        (Pressure::Memory, memory(thresholds, &sample.usage)),
        (Pressure::Memory, grown(usage.0.oom_kills, usage.1.oom_kills)),
    ];
    let raised = verdicts.iter().position(|(_, verdict)| *verdict == Verdict::High);
    let is_calm = verdicts.iter().enumerate().all(|(index, (_, verdict))| match verdict {
        Verdict::Calm => true,
        Verdict::Unknown => gauge.raised_by != Some(index),
        Verdict::High | Verdict::Between => false,
    });
    let calm_since = if is_calm { gauge.calm_since.or(Some(now)) } else { None };
    let is_quiet = calm_since.is_some_and(|since| now.since(since) >= thresholds.quiet_for);
    let (mark, raised_by) = match (gauge.mark.level, raised) {
        (Level::Low, Some(index)) => {
            (cross(&gauge.mark, Level::High, Some(verdicts[index].0)), Some(index))
        }
        (Level::High, None) if is_quiet => (cross(&gauge.mark, Level::Low, None), None),
        _ => (gauge.mark, gauge.raised_by),
    };
    Gauge { mark, raised_by, calm_since, cpu }
}

const fn cross(mark: &Watermark, level: Level, reason: Option<Pressure>) -> Watermark {
    Watermark { level, reason, crossings: mark.crossings + 1 }
}

/// Of a count that grows only when something is amiss.
fn grown(before: Option<u64>, now: Option<u64>) -> Verdict {
    match (before, now) {
        (Some(before), Some(now)) if now > before => Verdict::High,
        (_, Some(_)) => Verdict::Calm,
        (_, None) => Verdict::Unknown,
    }
}

fn memory(thresholds: &Thresholds, usage: &Usage) -> Verdict {
    let (Some(used), Some(limit)) = (usage.memory_bytes, usage.memory_max_bytes) else {
        return Verdict::Unknown;
    };
    let share = |percent| u128::from(limit) * u128::from(percent);
    let used = u128::from(used) * 100;
    if used >= share(thresholds.memory_high_percent) {
        Verdict::High
    } else if used <= share(thresholds.memory_low_percent) {
        Verdict::Calm
    } else {
        Verdict::Between
    }
}

impl CpuWindow {
    /// It is high as soon as a window's whole share is used, however early that is; calm only when a window is over.
    fn measure(self, thresholds: &Thresholds, usage: &Usage, now: Moment) -> (Self, Verdict) {
        let (Some(used_us), Some(quota)) = (usage.cpu_us, usage.quota) else {
            return (self, Verdict::Unknown);
        };
        let Some((began, began_us)) = self.began else {
            return (Self { began: Some((now, used_us)), ..self }, Verdict::Unknown);
        };
        let span = now.since(began);
        let is_over = span >= thresholds.cpu_window;
        let used_us = (used_us, used_us.saturating_sub(began_us));
        let share = Share::of(quota, span.max(thresholds.cpu_window));
        let is_low = share.is_within(used_us.1, thresholds.cpu_low_percent);
        let verdict = if share.is_reached(used_us.1, thresholds.cpu_high_percent) {
            Verdict::High
        } else if is_low && (is_over || self.was_calm) {
            Verdict::Calm
        } else {
            Verdict::Between
        };
        let next = if is_over {
            Self { began: Some((now, used_us.0)), was_calm: is_low }
        } else {
            Self { was_calm: self.was_calm && is_low, ..self }
        };
        (next, verdict)
    }
}

/// The CPU time that a quota allows within a time, as a fraction, so that nothing is rounded.
struct Share {
    quota_times_span: u128,
    period_us: u128,
}

impl Share {
    fn of(quota: Quota, span: Duration) -> Self {
        Self {
            quota_times_span: u128::from(quota.quota_us) * span.as_micros(),
            period_us: quota.period_us.into(),
        }
    }

    fn is_reached(&self, used_us: u64, percent: u64) -> bool {
        u128::from(used_us) * 100 * self.period_us >= self.quota_times_span * u128::from(percent)
    }

    fn is_within(&self, used_us: u64, percent: u64) -> bool {
        u128::from(used_us) * 100 * self.period_us <= self.quota_times_span * u128::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK_MS: u64 = 10;

    /// Feeds samples one tick apart to a gauge.
    struct Run {
        gauge: Gauge,
        thresholds: Thresholds,
        sample: Sample,
        now_ms: u64,
    }

    impl Run {
        fn new() -> Self {
            let usage = Usage {
                cpu_us: Some(0),
                quota: Some(Quota { quota_us: 10_000, period_us: 100_000 }),
                throttled_periods: Some(0),
                memory_bytes: Some(0),
                memory_max_bytes: Some(1000),
                oom_kills: Some(0),
                ..Usage::default()
            };
            let mut run = Self {
                gauge: Gauge::START,
                thresholds: Thresholds::default(),
                sample: Sample { usage, refused: 0 },
                now_ms: 0,
            };
            run.step(|_| {});
            run
        }

        fn step(&mut self, change: impl FnOnce(&mut Sample)) -> Watermark {
            let before = self.sample;
            change(&mut self.sample);
            self.now_ms += TICK_MS;
            let now = Moment::from_millis(self.now_ms);
            self.gauge = judge(&self.gauge, &self.thresholds, &before, &self.sample, now);
            self.gauge.mark
        }

        fn burn(&mut self, us: u64) -> Watermark {
            self.step(|sample| *sample.usage.cpu_us.as_mut().unwrap() += us)
        }

        fn hold(&mut self, bytes: u64) -> Watermark {
            self.step(|sample| sample.usage.memory_bytes = Some(bytes))
        }

        /// How long nothing must happen until it is low.
        fn settle(&mut self) -> u64 {
            let begin = self.now_ms;
            while self.step(|_| {}).level == Level::High {
                assert!(self.now_ms - begin < 10_000, "it never settles");
            }
            self.now_ms - begin
        }
    }

    #[test]
    fn each_reason_raises_it_at_once_and_quiet_lowers_it() {
        type Change = fn(&mut Sample);
        let reasons: [(Change, Pressure); 5] = [
            (|s| s.refused += 1, Pressure::Requests),
            (|s| s.usage.throttled_periods = Some(7), Pressure::Throttled),
            (|s| s.usage.cpu_us = Some(9_000), Pressure::Cpu),
            (|s| s.usage.oom_kills = Some(1), Pressure::Memory),
            (|s| s.usage.memory_bytes = Some(900), Pressure::Memory),
        ];
        for (change, reason) in reasons {
            let mut run = Run::new();
            let high = Watermark { level: Level::High, reason: Some(reason), crossings: 1 };
            assert_eq!(run.step(change), high);
            run.hold(0);
            let took = run.settle();
            assert!((1000..=1200).contains(&took), "{reason:?} settled after {took} ms");
            assert_eq!(run.gauge.mark, Watermark { crossings: 2, ..Watermark::CALM });
        }
    }

    #[test]
    fn a_windows_share_used_within_a_tenth_of_it_is_high_and_below_it_is_not() {
        let mut run = Run::new();
        assert_eq!(run.burn(8_999).level, Level::Low);
        assert_eq!(run.burn(1).level, Level::High);
        // The same work spread over twice the time is in between.
        let mut run = Run::new();
        for _ in 0..1000 {
            assert_eq!(run.burn(450).level, Level::Low);
        }
    }

    #[test]
    fn after_a_pause_use_counts_over_the_pause() {
        let mut run = Run::new();
        run.now_ms += 60_000;
        assert_eq!(run.burn(100_000).level, Level::Low);
    }

    #[test]
    fn what_was_used_in_a_pause_is_no_reason_when_it_is_over() {
        let mut run = Run::new();
        run.now_ms += 60_000;
        run.gauge = run.gauge.resumed();
        assert_eq!(run.burn(10_000_000).level, Level::Low);
        assert_eq!(run.burn(9_000).level, Level::High);
    }

    #[test]
    fn what_is_not_limited_raises_nothing() {
        let mut run = Run::new();
        run.sample = Sample::default();
        run.gauge = Gauge::START;
        for step in 0..1000 {
            run.step(|sample| {
                sample.usage.cpu_us = Some(step * 1_000_000);
                sample.usage.memory_bytes = Some(step << 30);
            });
            assert_eq!(run.gauge.mark, Watermark::CALM);
        }
    }

    #[test]
    fn what_cannot_be_read_for_a_while_does_not_lower_it_and_what_never_can_does_not_hold_it() {
        let mut run = Run::new();
        run.step(|s| s.usage.oom_kills = None);
        run.hold(950);
        for _ in 0..500 {
            assert_eq!(run.step(|s| s.usage.memory_bytes = None).level, Level::High);
        }
        run.hold(100);
        run.settle();
    }

    #[test]
    fn when_it_will_be_low_is_known() {
        let mut run = Run::new();
        assert_eq!(run.gauge.low_at(&run.thresholds), None);
        run.hold(950);
        assert_eq!(run.gauge.low_at(&run.thresholds), None);
        run.hold(0);
        let due = Moment::from_millis(run.now_ms + 1000);
        assert_eq!(run.gauge.low_at(&run.thresholds), Some(due));
    }

    fn change() -> impl Strategy<Value = (u64, u64, u64, u64)> {
        (0..3_000_u64, 0..1000_u64, 0..100_u64, 0..100_u64)
    }

    proptest! {
        /// Whatever came before: quiet lowers it in bounded time, and it stays low.
        #[test]
        fn it_settles(changes in proptest::collection::vec(change(), 0..200)) {
            let mut run = Run::new();
            for (cpu_us, bytes, throttled, refused) in changes {
                run.burn(cpu_us);
                run.hold(bytes);
                run.step(|s| *s.usage.throttled_periods.as_mut().unwrap() += u64::from(throttled == 0));
                run.step(|s| s.refused += u64::from(refused == 0));
            }
            run.hold(0);
            prop_assert!(run.settle() <= 1200);
            let low = run.gauge.mark;
            for _ in 0..300 {
                prop_assert_eq!(run.step(|_| {}), low);
            }
        }

        /// Between the thresholds it never changes, however it got there and however the load alternates.
        #[test]
        fn it_never_flaps_inside_the_band(
            is_high: bool,
            loads in proptest::collection::vec((1220..=1780_u64, 801..900_u64), 1..400),
        ) {
            let mut run = Run::new();
            if is_high {
                run.hold(1000);
            }
            run.hold(850);
            let begun = run.gauge.mark;
            for (cpu_us, bytes) in loads {
                run.burn(cpu_us);
                prop_assert_eq!(run.hold(bytes).crossings, begun.crossings);
            }
        }

        /// High shows in the very sample in which its condition does, and nothing else makes it so.
        #[test]
        fn high_is_told_at_once(changes in proptest::collection::vec(change(), 1..300)) {
            let mut run = Run::new();
            for (_, bytes, throttled, refused) in changes {
                let before = run.gauge.mark;
                let mark = run.step(|s| {
                    s.usage.memory_bytes = Some(bytes);
                    *s.usage.throttled_periods.as_mut().unwrap() += u64::from(throttled == 0);
                    s.refused += u64::from(refused == 0);
                });
                let has_reason = bytes >= 900 || throttled == 0 || refused == 0;
                if has_reason {
                    prop_assert_eq!(mark.level, Level::High);
                } else {
                    prop_assert!(mark.level <= before.level, "nothing raised it");
                }
                prop_assert_eq!(mark.crossings % 2 == 1, mark.level == Level::High);
                prop_assert_eq!(mark.reason.is_some(), mark.level == Level::High);
                prop_assert_eq!(mark.crossings - before.crossings, u64::from(mark.level != before.level));
            }
        }

        /// CPU: high at the latest in the sample in which the share of a window that just began is used.
        #[test]
        fn a_burst_of_work_is_seen_in_the_sample_that_ends_it(idle_ticks in 0..50_u64, us in 9_000..200_000_u64) {
            let mut run = Run::new();
            for _ in 0..idle_ticks {
                run.burn(0);
            }
            prop_assert_eq!(run.burn(us).reason, Some(Pressure::Cpu));
        }
    }
}
