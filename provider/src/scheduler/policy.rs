//! The thresholds that the scheduler decides by.
//!
//! Units: percent as whole numbers, CPU in millicores. `docs/scheduling.md` lists every one with its reason.

use std::time::Duration;

/// How much of scaling is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Replicas follow deployments and scale calls alone.
    Off,
    /// Phase 3: the number of replicas follows the load.
    Out,
    /// Phases 1 and 3.
    UpOut,
    /// All phases.
    #[default]
    Full,
}

impl Mode {
    /// Whether containers get more than their base in a burst, and less when it is over.
    pub const fn has_up(self) -> bool {
        matches!(self, Self::UpOut | Self::Full)
    }

    /// Whether functions may be guests.
    pub const fn has_multiplex(self) -> bool {
        matches!(self, Self::Full)
    }

    /// Whether the number of replicas follows the load.
    pub const fn has_out(self) -> bool {
        !matches!(self, Self::Off)
    }

    /// The mode that `text` names.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "off" => Self::Off,
            "out" => Self::Out,
            "up+out" => Self::UpOut,
            "full" => Self::Full,
            _ => return None,
        })
    }

    /// Its name in settings, logs and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Out => "out",
            Self::UpOut => "up+out",
            Self::Full => "full",
        }
    }
}

/// Thresholds, validated by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How much of scaling is on.
    pub mode: Mode,
    /// The most replicas of any function.
    pub max_replicas: u32,
    /// Container starts under way at the same time, over all functions; the engine starts about eight a second at most.
    pub starts_at_once: usize,
    /// How long a started replica may take to become ready.
    pub start_timeout: Duration,
    /// The wait after the first failed start; doubles with each further one.
    pub backoff_first: Duration,
    /// The longest wait between two starts.
    pub backoff_most: Duration,
    /// Percent of the granted CPU that the load may need: above, queues grow faster than linearly.
    pub utilisation: u32,
    /// In what time a backlog is to be gone.
    pub backlog_horizon: Duration,
    /// Percent of the CPU needed that is granted, so that not every request changes it.
    pub margin: u32,
    /// Percent of the grant below which CPU is given back.
    pub give_back_below: u32,
    /// How long a container must need less before it is given back.
    pub cool_for: Duration,
    /// How long a container may stay above its watermark before it gets twice as much, whatever is expected.
    pub hot_for: Duration,
    /// The same while nothing is known of what a request costs.
    pub hot_for_unknown: Duration,
    /// How long phase 1 carries a load before replicas are started for it.
    pub persist_for: Duration,
    /// How long fewer replicas must be enough before one goes, where no label says so.
    pub quiet_for: Duration,
    /// How long a function must be idle before a scale call from outside no longer holds.
    pub floor_for: Duration,
    /// Requests take so many times longer than without a queue before that is a reason to start replicas.
    pub slowdown: u32,
    /// How long they must.
    pub slow_for: Duration,
    /// Percent of its memory limit at which a container gets more.
    pub memory_high: u32,
    /// Percent of a smaller limit that its use may be for it to go back to that.
    pub memory_low: u32,
    /// Workers of one function being specialised at the same time.
    pub specialisations_of_one: usize,
    /// Most workers of containers that are not its own that one function has, so that others find some too.
    pub guests_of_one: usize,
    /// Workers being specialised at the same time on one host.
    pub specialisations_at_once: usize,
    /// How long a function that nothing serves leaves the processor to a visit that begins, before its own container is started.
    pub visit_first_for: Duration,
    /// The same once the visit is ready, for its first answers.
    pub answer_first_for: Duration,
    /// How often the slow tick looks for what can be given back: a little less often than a busy watchdog reports, since its report
    /// is a look already.
    pub tick: Duration,
}

impl Policy {
    /// How long to wait after the `count`th failure in a row.
    pub fn backoff(&self, count: u32) -> Duration {
        let doublings = count.saturating_sub(1).min(16);
        self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_most)
    }

    /// How long a visit that begins as one of `together` keeps the engine off the processors, of which there are `millicores`:
    /// each takes as many times longer as there are of them for a processor.
    pub fn visit_keeps_off_for(&self, together: usize, millicores: u32) -> Duration {
        let processors = (millicores as usize / 1000).max(1);
        let times = together.div_ceil(processors).clamp(1, self.specialisations_at_once.max(1));
        self.visit_first_for.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            max_replicas: 100,
            starts_at_once: 4,
            start_timeout: Duration::from_secs(60),
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(60),
            utilisation: 70,
            backlog_horizon: Duration::from_millis(250),
            margin: 125,
            give_back_below: 75,
            cool_for: Duration::from_secs(5),
            hot_for: Duration::from_secs(1),
            hot_for_unknown: Duration::from_millis(200),
            persist_for: Duration::from_secs(5),
            quiet_for: Duration::from_secs(20),
            floor_for: Duration::from_secs(300),
            slowdown: 3,
            slow_for: Duration::from_secs(2),
            memory_high: 90,
            memory_low: 60,
            specialisations_of_one: 2,
            guests_of_one: 4,
            specialisations_at_once: 8,
            visit_first_for: Duration::from_millis(50),
            answer_first_for: Duration::from_millis(10),
            tick: Duration::from_millis(1200),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_that_begin_together_keep_the_engine_off_for_longer_within_a_bound() {
        let policy = Policy::default();
        let of =
            |together, millicores| policy.visit_keeps_off_for(together, millicores).as_millis();
        assert_eq!((of(1, 2000), of(2, 2000), of(3, 2000), of(8, 2000)), (50, 50, 100, 200));
        assert_eq!((of(8, 16_000), of(8, 0), of(1000, 2000)), (50, 400, 400));
    }
}
