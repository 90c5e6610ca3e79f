//! How many standby containers there should be, and what to do about it now.
//!
//! In: when containers were taken from the pool, its state, a policy. Out: a number, and starts or stops to get there.
//! Always: between the policy's bounds; at most as many starts at once as the policy allows; growth at once, shrinking
//! only after a quiet time, so that a burst that comes back finds what the last one needed; zero is zero.
//! Units: containers, and moments of [`Moment`]. Touches: nothing.
//! Why this size: a taken container is replaced after `refill_time`, so the pool must cover what is taken within any such
//! span; the greatest such span of the recent past is what is kept ready.

use std::collections::VecDeque;
use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// Most takings remembered; beyond that a pool is bounded by its policy anyway.
const TAKINGS_KEPT: usize = 4096;

/// Bounds and times of the pool; made by [`StandbyPolicy::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyPolicy {
    min: u32,
    max: u32,
    starts_at_once: u32,
    refill_time: Duration,
    quiet_for: Duration,
    is_returning: bool,
}

/// Bounds that contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandbyPolicyError {
    /// The least is more than the most.
    #[error("at least {min} standby containers cannot be at most {max}")]
    Bounds {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// No start is allowed, so the pool could never be filled.
    #[error("standby containers started at the same time must be at least 1")]
    Starts,
}

impl StandbyPolicy {
    /// No pool.
    pub const OFF: Self = Self {
        min: 0,
        max: 0,
        starts_at_once: 1,
        refill_time: Duration::ZERO,
        quiet_for: Duration::ZERO,
        is_returning: false,
    };

    /// From `min` to `max` containers, at most `starts_at_once` of them starting; a start takes about `refill_time`, and a
    /// pool shrinks when nothing needed its size for `quiet_for`.
    ///
    /// # Errors
    /// [`StandbyPolicyError`].
    pub const fn new(
        (min, max): (u32, u32),
        starts_at_once: u32,
        refill_time: Duration,
        quiet_for: Duration,
    ) -> Result<Self, StandbyPolicyError> {
        if min > max {
            return Err(StandbyPolicyError::Bounds { min, max });
        }
        if starts_at_once == 0 {
            return Err(StandbyPolicyError::Starts);
        }
        Ok(Self { min, max, starts_at_once, refill_time, quiet_for, is_returning: false })
    }

    /// The same, with containers coming back to the pool once their guest is gone without a trace, or ended after their guest.
    pub const fn returning(self, is_returning: bool) -> Self {
        Self { is_returning, ..self }
    }

    /// Whether containers come back.
    pub const fn is_returning(&self) -> bool {
        self.is_returning
    }

    /// Whether there is never a pool.
    pub const fn is_off(&self) -> bool {
        self.max == 0
    }
}

/// When containers were taken from the pool, or would have been had there been one; the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand(VecDeque<Moment>);

impl Demand {
    /// Notes that one was asked for; moments never go back.
    pub fn take(&mut self, now: Moment) {
        if self.0.len() == TAKINGS_KEPT {
            self.0.pop_front();
        }
        let last = self.0.back().copied().unwrap_or(now);
        self.0.push_back(last.max(now));
    }

    /// Forgets what no longer counts.
    pub fn forget(&mut self, policy: &StandbyPolicy, now: Moment) {
        let counts = policy.quiet_for.saturating_add(policy.refill_time);
        while self.0.front().is_some_and(|at| now.since(*at) > counts) {
            self.0.pop_front();
        }
    }

    /// The most that were asked for within any span of `refill_time` that ended no longer than `quiet_for` ago.
    fn peak(&self, policy: &StandbyPolicy, now: Moment) -> u32 {
        let (mut first, mut peak) = (0, 0);
        for (index, at) in self.0.iter().enumerate() {
            while self
                .0
                .get(first)
                .is_some_and(|begin| at.since(*begin) >= policy.refill_time && first < index)
            {
                first += 1;
            }
            if now.since(*at) <= policy.quiet_for {
                peak = peak.max(index - first + 1);
            }
        }
        u32::try_from(peak).unwrap_or(u32::MAX)
    }
}

/// What the pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Containers that can take a function now.
    pub ready: u32,
    /// Containers that are starting.
    pub starting: u32,
}

/// What to do about the pool now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// It is as it should be, or will be.
    Keep,
    /// Start this many.
    Start(u32),
    /// End this many that are ready.
    Stop(u32),
}

/// Containers the pool should have at `now`.
pub fn wanted(demand: &Demand, policy: &StandbyPolicy, now: Moment) -> u32 {
    demand.peak(policy, now).clamp(policy.min, policy.max)
}

/// What to do at `now` so that `pool` becomes as large as it should be.
pub fn refill(demand: &Demand, policy: &StandbyPolicy, pool: Pool, now: Moment) -> Refill {
    let (wanted, coming) = (wanted(demand, policy, now), pool.ready.saturating_add(pool.starting));
    if coming < wanted {
        let room = policy.starts_at_once.saturating_sub(pool.starting);
        match (wanted - coming).min(room) {
            0 => Refill::Keep,
            count => Refill::Start(count),
        }
    } else {
        // What came back is kept for whoever is next, until nobody has come for long.
        let is_kept = policy.is_returning && !demand.0.is_empty();
        let most = if is_kept { policy.max } else { wanted };
        match coming.saturating_sub(most).min(pool.ready) {
            0 => Refill::Keep,
            count => Refill::Stop(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFILL: Duration = Duration::from_millis(500);
    const QUIET: Duration = Duration::from_secs(300);

    fn policy(min: u32, max: u32) -> StandbyPolicy {
        StandbyPolicy::new((min, max), 4, REFILL, QUIET).unwrap()
    }

    fn demand(at_ms: &[u64]) -> Demand {
        let mut demand = Demand::default();
        at_ms.iter().for_each(|ms| demand.take(Moment::from_millis(*ms)));
        demand
    }

    #[test]
    fn bounds_that_contradict_themselves_are_refused() {
        let new = |bounds, starts| StandbyPolicy::new(bounds, starts, REFILL, QUIET);
        assert_eq!(new((3, 2), 1), Err(StandbyPolicyError::Bounds { min: 3, max: 2 }));
        assert_eq!(new((0, 2), 0), Err(StandbyPolicyError::Starts));
        assert!(new((0, 0), 1).unwrap().is_off());
    }

    #[test]
    fn the_pool_covers_what_is_taken_while_it_refills() {
        let at = |demand: &Demand, ms| wanted(demand, &policy(1, 50), Moment::from_millis(ms));
        let spread = demand(&[0, 1000, 2000, 3000]);
        assert_eq!(at(&spread, 3000), 1, "each was replaced before the next");
        let burst = demand(&[0, 10, 20, 30, 40, 490, 600]);
        assert_eq!(at(&burst, 700), 6);
        assert_eq!(at(&burst, 600 + 300_000), 1 + 1, "the last of the burst still counts");
        assert_eq!(at(&burst, 700 + 300_000), 1, "quiet for long enough");
        assert_eq!(wanted(&burst, &policy(0, 3), Moment::from_millis(700)), 3);
        assert_eq!(wanted(&burst, &policy(0, 0), Moment::from_millis(700)), 0, "zero is zero");
        assert_eq!(wanted(&demand(&[]), &policy(0, 9), Moment::from_millis(700)), 0);
    }

    #[test]
    fn refilling_is_bounded_and_counts_what_is_coming() {
        let burst = demand(&[0; 20]);
        let at = |ready, starting| {
            refill(&burst, &policy(0, 10), Pool { ready, starting }, Moment::from_millis(1))
        };
        assert_eq!(at(0, 0), Refill::Start(4));
        assert_eq!(at(0, 3), Refill::Start(1));
        assert_eq!(at(2, 4), Refill::Keep, "as many as may start are starting");
        assert_eq!(at(8, 2), Refill::Keep);
        assert_eq!(at(9, 2), Refill::Stop(1));
        assert_eq!(at(0, 14), Refill::Keep, "what starts is not stopped");
    }

    #[test]
    fn what_came_back_is_kept_until_nobody_has_come_for_long() {
        let (once, now) = (demand(&[0]), Moment::from_millis(10_000));
        let of = |policy, ready| refill(&once, &policy, Pool { ready, starting: 0 }, now);
        assert_eq!(of(policy(1, 4), 2), Refill::Stop(1));
        assert_eq!(of(policy(1, 4).returning(true), 2), Refill::Keep);
        assert_eq!(of(policy(1, 4).returning(true), 5), Refill::Stop(1), "its bound");
        assert_eq!(of(policy(1, 4).returning(true), 0), Refill::Start(1));
        let (none, pool) = (Demand::default(), Pool { ready: 3, starting: 0 });
        assert_eq!(refill(&none, &policy(1, 4).returning(true), pool, now), Refill::Stop(2));
    }

    proptest! {
        /// Started until it is as it should be, the pool stays there; it never has more than its bound.
        #[test]
        fn settles_within_its_bounds(
            takings in proptest::collection::vec(0..10_000u64, 0..200),
            (min, more) in (0..5u32, 0..20u32),
            ready in 0..40u32,
            later in 0..400_000u64,
        ) {
            let mut takings = takings;
            takings.sort_unstable();
            let (demand, policy) = (demand(&takings), policy(min, min + more));
            let now = Moment::from_millis(10_000 + later);
            let mut pool = Pool { ready, starting: 0 };
            for _ in 0..20 {
                match refill(&demand, &policy, pool, now) {
                    Refill::Keep => break,
                    Refill::Start(count) => {
                        prop_assert!(count <= 4);
                        pool.ready += count;
                    }
                    Refill::Stop(count) => pool.ready -= count,
                }
            }
            prop_assert_eq!(refill(&demand, &policy, pool, now), Refill::Keep);
            prop_assert_eq!(pool.ready, wanted(&demand, &policy, now));
            prop_assert!((min..=min + more).contains(&pool.ready));
        }

        /// Forgetting what no longer counts changes no answer.
        #[test]
        fn forgetting_changes_nothing(takings in proptest::collection::vec(0..700_000u64, 0..100)) {
            let mut takings = takings;
            takings.sort_unstable();
            let all = demand(&takings);
            let now = Moment::from_millis(takings.last().copied().unwrap_or(0));
            let mut few = all.clone();
            few.forget(&policy(0, 50), now);
            prop_assert_eq!(wanted(&few, &policy(0, 50), now), wanted(&all, &policy(0, 50), now));
        }
    }
}
