//! The largest value of the last while, and its mean.

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// How many parts the span is kept in: what is older than the span is forgotten after a fifth of it more, at the latest.
const PARTS: usize = 5;
/// The span in parts: one more is kept, since the newest is not whole.
const SPAN_PARTS: u32 = 4;

/// The largest value seen within a span; constant memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Peak {
    parts: [f64; PARTS],
    newest: usize,
    since: Moment,
}

impl Peak {
    /// Notes `value`; the largest of the last `span`, `value` included.
    pub fn see(&mut self, value: f64, span: Duration, now: Moment) -> f64 {
        let part = span / SPAN_PARTS;
        for _ in 0..PARTS {
            if now.since(self.since) < part || part.is_zero() {
                break;
            }
            self.newest = (self.newest + 1) % PARTS;
            self.parts[self.newest] = 0.0;
            self.since = self.since.after(part);
        }
        if now.since(self.since) >= part {
            self.since = now; // nothing was seen for longer than the span
        }
        let newest = &mut self.parts[self.newest];
        *newest = newest.max(value);
        self.parts.iter().copied().fold(0.0, f64::max)
    }

    /// Forgets all but `value`.
    pub fn reset(&mut self, value: f64, now: Moment) {
        *self = Self { since: now, ..Self::default() };
        self.parts[self.newest] = value;
    }
}

/// What is told of a busy container every second says nothing of an idle time before.
const HOLDS: Duration = Duration::from_millis(1250);

/// The mean of a value over time, the older the less: an exponentially weighted one (Brown 1956); constant memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Smooth {
    value: f64,
    at: Moment,
}

impl Smooth {
    /// Notes that it is `value` since it was last noted, `HOLDS` ago at most, and was nothing before; its mean of about the last
    /// `span`.
    pub(super) fn see(&mut self, value: f64, span: Duration, now: Moment) -> f64 {
        let kept = |passed: Duration| (-passed.as_secs_f64() / span.as_secs_f64().max(1e-9)).exp();
        let passed = now.since(self.at);
        self.at = self.at.max(now);
        if passed > HOLDS {
            self.value *= kept(passed - HOLDS);
        }
        self.value += (value - self.value) * (1.0 - kept(passed.min(HOLDS)));
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(4);

    #[test]
    fn a_peak_holds_for_the_span_and_not_much_longer() {
        let mut peak = Peak::default();
        let at = Moment::from_millis;
        assert_eq!(peak.see(7.0, SPAN, at(100_000)), 7.0);
        for ms in (100_000..104_000).step_by(100) {
            assert_eq!(peak.see(1.0, SPAN, at(ms)), 7.0, "{ms}");
        }
        let after: Vec<_> =
            (104_000..105_200).step_by(100).map(|ms| peak.see(1.0, SPAN, at(ms))).collect();
        assert_eq!(after.last(), Some(&1.0));
        assert_eq!(peak.see(2.0, SPAN, at(900_000)), 2.0);
        assert_eq!(peak.see(3.0, Duration::ZERO, at(900_000)), 3.0);
    }

    #[test]
    fn a_mean_follows_in_its_span_however_often_it_is_asked() {
        let at = Moment::from_millis;
        let (mut often, mut seldom) = (Smooth::default(), Smooth::default());
        (0..=4_000).step_by(10).for_each(|ms| {
            often.see(8.0, SPAN, at(ms));
        });
        (0..=4_000).step_by(1_000).for_each(|ms| {
            seldom.see(8.0, SPAN, at(ms));
        });
        let value = seldom.see(8.0, SPAN, at(4_000));
        assert!((often.see(8.0, SPAN, at(4_000)) - value).abs() < 0.01);
        assert!((value - 8.0 * (1.0 - (-1.0_f64).exp())).abs() < 0.01);
        assert!((seldom.see(8.0, SPAN, at(2_000)) - value).abs() < 1e-9, "a clock that goes back");
    }

    #[test]
    fn a_first_value_after_an_idle_time_is_one_of_a_moment() {
        let at = Moment::from_millis;
        let mut mean = Smooth::default();
        mean.see(8.0, SPAN, at(1_000));
        let after = mean.see(8.0, SPAN, at(60_000));
        assert!((2.0..2.3).contains(&after), "{after}");
        assert!(mean.see(0.0, SPAN, at(120_000)) < 1e-3);
    }
}
