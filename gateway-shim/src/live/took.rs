//! How long calls took, in buckets fine enough for quantiles of a fraction of a millisecond.
//!
//! Always: constant memory, one addition a call. Units: microseconds; four buckets an octave, so a quantile is at most a quarter
//! off, and mostly an eighth.
//! Source: log-linear buckets as in HdrHistogram.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Octaves told apart: up to 67 s.
const OCTAVES: usize = 26;
/// Buckets an octave.
const PARTS: usize = 4;
/// All buckets.
pub(super) const BUCKETS: usize = OCTAVES * PARTS;

/// Counts of calls by how long they took, since the start; they wrap around.
#[derive(Debug)]
pub(crate) struct Took([AtomicU32; BUCKETS]);

impl Default for Took {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Took {
    /// A call took so long.
    pub(crate) fn note(&self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.0[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub(super) fn counts(&self) -> [u32; BUCKETS] {
        std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed))
    }
}

fn bucket(us: u32) -> usize {
    let us = us.max(1);
    let octave = us.ilog2();
    let part = if octave >= 2 { us >> (octave - 2) } else { us << (2 - octave) } & 3;
    (octave as usize * PARTS + part as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, in milliseconds.
fn middle_ms(bucket: usize) -> f64 {
    let octave = i32::try_from(bucket / PARTS).unwrap_or(0);
    let part = f64::from(u8::try_from(bucket % PARTS).unwrap_or(0));
    2.0_f64.powi(octave - 2) * (4.5 + part) / 1000.0
}

/// The time that `share` of the calls between `before` and `now` did not exceed, in milliseconds; `None` without calls.
pub(super) fn quantile_ms(
    before: &[u32; BUCKETS],
    now: &[u32; BUCKETS],
    share: f64,
) -> Option<f64> {
    let counts =
        || before.iter().zip(now).map(|(before, now)| u64::from(now.wrapping_sub(*before)));
    let total: u64 = counts().sum();
    if total == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of calls in some seconds")]
    let rank = (total as f64 * share).max(1.0);
    let mut sum = 0;
    let reached = counts().position(|count| {
        sum += count;
        #[expect(clippy::cast_precision_loss, reason = "a count of calls in some seconds")]
        let reached = sum as f64 >= rank;
        reached
    });
    Some(middle_ms(reached.unwrap_or(BUCKETS - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_a_quarter_off() {
        for us in [1_u64, 3, 7, 90, 350, 4_096, 12_345, 999_999, 30_000_000] {
            let took = Took::default();
            let before = took.counts();
            for _ in 0..100 {
                took.note(Duration::from_micros(us));
            }
            let ms = quantile_ms(&before, &took.counts(), 0.5).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let real = us as f64 / 1000.0;
            assert!((ms - real).abs() <= real / 4.0, "{us} µs: {ms} ms");
        }
    }

    #[test]
    fn quantiles_tell_the_fast_from_the_slow_and_only_what_is_new() {
        let took = Took::default();
        for _ in 0..500 {
            took.note(Duration::from_secs(9));
        }
        let before = took.counts();
        for ms in [1, 1, 1, 1, 1, 1, 1, 1, 1, 200] {
            took.note(Duration::from_millis(ms));
        }
        let now = took.counts();
        assert!(quantile_ms(&before, &now, 0.5).unwrap() < 1.3);
        assert!(quantile_ms(&before, &now, 0.95).unwrap() > 150.0);
        assert_eq!(quantile_ms(&now, &now, 0.5), None);
    }

    #[test]
    fn the_longest_and_the_shortest_have_a_bucket() {
        assert_eq!((bucket(0), bucket(1), bucket(u32::MAX)), (0, 0, BUCKETS - 1));
    }
}
