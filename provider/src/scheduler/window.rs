//! The largest value of the last while.

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
}
