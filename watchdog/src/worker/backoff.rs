//! How long a crashed worker waits before it is started again.
//!
//! In: crashes and how long each life lasted. Out: the next pause.
//! Always: between 100 ms and 30 s, doubling with every crash in a row; a life of ten seconds begins a new row.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// A life this long is taken as a good start.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Counts crashes in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    crashes: u32,
}

impl Backoff {
    /// The pause after a life of `lived` that ended in a crash.
    pub(super) fn after_crash(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE_AFTER {
            self.crashes = 0;
        }
        let pause = SHORTEST.saturating_mul(1 << self.crashes.min(16)).min(LONGEST);
        self.crashes += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_a_long_life_begins_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> =
            (0..12).map(|_| backoff.after_crash(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[9..], [30_000, 30_000, 30_000]);
        assert_eq!(backoff.after_crash(STABLE_AFTER), SHORTEST);
    }
}
