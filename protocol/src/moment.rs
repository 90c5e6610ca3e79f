//! Time as data: decision logic takes a [`Moment`], only the edges read a clock.

use std::time::{Duration, Instant};

/// A point in time, counted from the start of the process (or of the simulation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The start of time.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// A moment `ms` milliseconds after the start.
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment plus `delay`, saturating at the end of time.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

/// Where the time comes from: the system's clock, or a virtual one in simulations.
pub trait Clock: Send + Sync + 'static {
    /// The present moment; never runs backwards.
    fn now(&self) -> Moment;
}

/// The monotonic clock of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "the one place that may read the system's clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may read the system's clock")]
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }
}
