//! The thresholds that the scheduler decides by.

use std::time::Duration;

/// Thresholds, validated by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Container starts under way at the same time, over all functions; the engine starts about eight a second at most.
    pub starts_at_once: usize,
    /// How long a started replica may take to become ready.
    pub start_timeout: Duration,
    /// The wait after the first failed start; doubles with each further one.
    pub backoff_first: Duration,
    /// The longest wait between two starts.
    pub backoff_most: Duration,
}

impl Policy {
    /// How long to wait after the `count`th failure in a row.
    pub fn backoff(&self, count: u32) -> Duration {
        let doublings = count.saturating_sub(1).min(16);
        self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_most)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            starts_at_once: 4,
            start_timeout: Duration::from_secs(60),
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(60),
        }
    }
}
