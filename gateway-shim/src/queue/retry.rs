//! What becomes of a message when an attempt to deliver it has ended.
//!
//! In: how the attempt ended, how often it was tried, the function's [`RetryPolicy`]. Out: a [`Verdict`].
//! Units: times are Unix milliseconds; `chance` is 0..=1 and spreads retries that would otherwise come together.
//! Always: equal input, equal verdict; a retry never lies beyond the message's deadline, and waits at least as long as the
//! function asked for with `Retry-After`, unless that is beyond the deadline.
//! Touches: nothing.
//! Source: exponential back-off with "equal jitter" (half fixed, half random) as in AWS' "Exponential Backoff And Jitter";
//! names of the settings as in OpenFaaS Pro's `com.openfaas.retry.*`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often and when a function's messages are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Most attempts, the first one included.
    pub(crate) attempts: u32,
    /// Wait before the second attempt; doubled for each further one.
    pub(crate) min_wait: Duration,
    /// Longest wait between attempts, unless the function asks for a longer one.
    pub(crate) max_wait: Duration,
    /// How long a message may wait and be tried altogether.
    pub(crate) deadline: Duration,
    /// Statuses that are tried again; all others are final.
    pub(crate) codes: Vec<u16>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            // With the waits below these span about five minutes, which is how long a restart or a burst may take.
            attempts: 10,
            min_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(60),
            deadline: Duration::from_secs(24 * 3600),
            // "Not now": what a function answers when it is at its limit, and a gateway when it finds none to answer.
            codes: vec![429, 502, 503, 504],
        }
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The function, or whoever stands before it, answered.
    Answered {
        /// Its status.
        status: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// There is no such function.
    Gone,
    /// No answer: unreachable, broke off, too late.
    Failed,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was delivered; forget it.
    Done,
    /// Try again at this time.
    Retry {
        /// Unix milliseconds.
        due_ms: u64,
    },
    /// Give up and keep it as a dead letter.
    Bury(Reason),
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The function does not exist any more, or never did.
    Gone,
    /// As many attempts as its policy allows have failed.
    Attempts,
    /// It waited too long.
    Deadline,
}

impl Reason {
    /// As it appears in metrics, logs and answers.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Attempts => "attempts",
            Self::Deadline => "deadline",
        }
    }
}

impl RetryPolicy {
    /// When a message accepted at `accepted_ms` is given up, in Unix milliseconds.
    pub(crate) fn deadline_ms(&self, accepted_ms: u64) -> u64 {
        accepted_ms.saturating_add(millis(self.deadline))
    }

    /// What becomes of a message accepted at `accepted_ms` whose attempt number `attempts` (from 1) has just ended.
    pub(crate) fn verdict(
        &self,
        attempt: Attempt,
        attempts: u32,
        accepted_ms: u64,
        chance: f64,
        now_ms: u64,
    ) -> Verdict {
        let retry_after = match attempt {
            Attempt::Gone => return Verdict::Bury(Reason::Gone),
            Attempt::Answered { status, .. } if !self.codes.contains(&status) => {
                return Verdict::Done;
            }
            Attempt::Answered { retry_after, .. } => retry_after,
            Attempt::Failed => None,
        };
        if attempts >= self.attempts {
            return Verdict::Bury(Reason::Attempts);
        }
        let wait = self.wait(attempts, chance).max(retry_after.unwrap_or_default());
        let due_ms = now_ms.saturating_add(millis(wait));
        if due_ms > self.deadline_ms(accepted_ms) {
            return Verdict::Bury(Reason::Deadline);
        }
        Verdict::Retry { due_ms }
    }

    /// The wait after `attempts` attempts: half of the doubled base for sure, the other half by chance.
    fn wait(&self, attempts: u32, chance: f64) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.min_wait.saturating_mul(doubled).min(self.max_wait);
        (full / 2).saturating_add((full / 2).mul_f64(chance.clamp(0.0, 1.0)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO: Attempt = Attempt::Answered { status: 503, retry_after: None };

    fn verdict(attempt: Attempt, attempts: u32) -> Verdict {
        RetryPolicy::default().verdict(attempt, attempts, 1000, 1.0, 2000)
    }

    #[test]
    fn what_ended_decides() {
        let answered = |status| Attempt::Answered { status, retry_after: None };
        for status in [200, 202, 302, 400, 404, 410, 500] {
            assert_eq!(verdict(answered(status), 1), Verdict::Done, "{status}");
        }
        for attempt in [answered(429), answered(503), answered(502), Attempt::Failed] {
            assert_eq!(verdict(attempt, 1), Verdict::Retry { due_ms: 3000 }, "{attempt:?}");
            assert_eq!(verdict(attempt, 10), Verdict::Bury(Reason::Attempts));
        }
        assert_eq!(verdict(Attempt::Gone, 1), Verdict::Bury(Reason::Gone));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        let waits = [1, 2, 3, 4, 5, 6, 7, 40, 99].map(|n| policy.wait(n, 1.0).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(policy.wait(3, 0.0), Duration::from_secs(2), "half of it is by chance");
    }

    #[test]
    fn the_function_may_ask_for_more_time_but_not_beyond_the_deadline() {
        let asked = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            verdict(Attempt::Answered { status: 429, retry_after }, 1)
        };
        assert_eq!(asked(120), Verdict::Retry { due_ms: 122_000 });
        assert_eq!(asked(0), Verdict::Retry { due_ms: 3000 });
        assert_eq!(asked(25 * 3600), Verdict::Bury(Reason::Deadline));
        assert_eq!(asked(u64::MAX), Verdict::Bury(Reason::Deadline));
    }

    proptest! {
        /// Whatever a function does, it is tried a bounded number of times within its deadline.
        #[test]
        fn every_message_comes_to_an_end(
            attempts in 1..50u32, min_ms in 0..100_000u64, chance in 0.0..=1.0f64, deadline_s in 0..10_000u64,
        ) {
            let policy = RetryPolicy {
                attempts,
                min_wait: Duration::from_millis(min_ms),
                deadline: Duration::from_secs(deadline_s),
                ..RetryPolicy::default()
            };
            let (mut now, mut tried) = (5000, 0);
            loop {
                tried += 1;
                prop_assert!(tried <= attempts);
                match policy.verdict(NO, tried, 5000, chance, now) {
                    Verdict::Retry { due_ms } => {
                        prop_assert!(due_ms >= now && due_ms <= policy.deadline_ms(5000));
                        now = due_ms;
                    }
                    Verdict::Bury(_) => break,
                    Verdict::Done => prop_assert!(false, "nothing was delivered"),
                }
            }
        }
    }
}
