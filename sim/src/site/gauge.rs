//! A watchdog's watermarks and load reports, as `watchdog/src/watermark.rs` and `load.rs` make them, but driven by events: a
//! simulated day has no room for a hundred samples a second of each busy container.
//!
//! High: at the sample after the kernel stopped the container, or after 90 % of a period's quota were used. Low: after a second
//! whose looks (one every 100 ms) all found less than 60 % of the quota used. Load: once a second while busy, once more a second
//! later. Left out: memory and refused requests as reasons.

use hyperfaas_protocol::control::{Level, Pressure, Watermark};

use crate::queue::{MS, Nanos, SECOND};

/// Time between looks at a container that is above its watermark.
const LOOK: Nanos = 100 * MS;
/// Time between load reports of a busy container.
pub(super) const REPORT: Nanos = SECOND;
/// Share of a period's quota that raises it, and that keeps it up.
const HIGH: f64 = 0.9;
const LOW: f64 = 0.6;

/// What is told, and what must be known for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauge {
    pub(crate) mark: Watermark,
    /// Since when all looks found it calm.
    calm_since: Option<Nanos>,
    /// CPU time used and periods throttled at the last look, and when.
    looked: (f64, u64, Nanos),
    /// When the next look is due, while it is above its watermark.
    look_at: Option<Nanos>,
    /// CPU time used at the last report, and when that was; `None` while idle.
    pub(super) reported: Option<(f64, Nanos)>,
    /// Requests over since the start.
    pub(super) served: u64,
    /// When a request came or went last.
    pub(super) busy_at: Nanos,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            mark: Watermark::CALM,
            calm_since: None,
            looked: (0.0, 0, 0),
            look_at: None,
            reported: None,
            served: 0,
            busy_at: 0,
        }
    }
}

impl Gauge {
    /// Whether the container has just gone above its watermark.
    pub(super) fn raise(&mut self, used_share: f64, is_throttled: bool) -> bool {
        if self.mark.level == Level::High || !(is_throttled || used_share >= HIGH) {
            return false;
        }
        let reason = if is_throttled { Pressure::Throttled } else { Pressure::Cpu };
        self.mark = Watermark {
            level: Level::High,
            reason: Some(reason),
            crossings: self.mark.crossings + 1,
        };
        self.calm_since = None;
        true
    }

    /// Begins to look; when the first look is due.
    pub(super) fn watch(&mut self, used: f64, throttled: u64, now: Nanos) -> Nanos {
        self.looked = (used, throttled, now);
        *self.look_at.insert(now + LOOK)
    }

    /// Whether a look is due at `now`; another one may have taken its place.
    pub(super) fn is_due(&mut self, now: Nanos) -> bool {
        self.look_at.take_if(|due| *due == now).is_some()
    }

    /// When the look after one that has not found it below its watermark is due. What is idle stays calm: the next look that can
    /// find anything is the last one then.
    pub(super) fn look_again(&mut self, is_idle: bool) -> Nanos {
        let (_, _, looked) = self.looked;
        let last = self.calm_since.filter(|_| is_idle).map(|since| since + SECOND);
        *self.look_at.insert(last.unwrap_or(looked + LOOK))
    }

    /// Work has come to it: when the next look is due instead, if some were left out.
    pub(super) fn resume(&mut self, now: Nanos) -> Option<Nanos> {
        let due = self.look_at?;
        let last = &mut self.looked.2;
        // One that is due at this very moment comes yet.
        *last += now.saturating_sub(*last + 1) / LOOK * LOOK;
        let next = *last + LOOK;
        (next < due).then(|| *self.look_at.insert(next))
    }

    /// Whether a look at `now` finds the container below its watermark again; `allowed` is its quota in CPUs.
    pub(super) fn lower(
        &mut self,
        used: f64,
        throttled: u64,
        allowed: Option<f64>,
        now: Nanos,
    ) -> bool {
        let (used_before, throttled_before, at) =
            std::mem::replace(&mut self.looked, (used, throttled, now));
        let span = now.saturating_sub(at).max(1) as f64;
        let is_calm = throttled == throttled_before
            && allowed.is_none_or(|cpus| (used - used_before) / span <= cpus * LOW);
        self.calm_since = if is_calm { self.calm_since.or(Some(now)) } else { None };
        let is_quiet = self.calm_since.is_some_and(|since| now - since >= SECOND);
        if is_quiet {
            self.mark =
                Watermark { level: Level::Low, reason: None, crossings: self.mark.crossings + 1 };
        }
        is_quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All looks until one finds the container below its watermark: when they are due, where it works for so long from each of
    /// these moments on, and looks may be left out or not.
    fn lowered_at(work: &[(Nanos, Nanos)], leaves_out: bool) -> (Nanos, usize) {
        let used = |now: Nanos| {
            let of = |(from, span): &(Nanos, Nanos)| now.saturating_sub(*from).min(*span) as f64;
            work.iter().map(of).sum::<f64>()
        };
        let is_idle =
            |now: Nanos| !work.iter().any(|(from, span)| (*from..from + span).contains(&now));
        let mut gauge = Gauge::default();
        assert!(gauge.raise(1.0, true));
        let mut due = gauge.watch(used(0), 0, 0);
        let mut coming = work.iter().map(|(from, _)| *from).peekable();
        for looks in 1.. {
            while let Some(from) = coming.next_if(|from| *from < due) {
                due = gauge.resume(from).unwrap_or(due);
            }
            assert!(gauge.is_due(due) && !gauge.is_due(due));
            if gauge.lower(used(due), 0, Some(1.0), due) {
                return (due, looks);
            }
            due = gauge.look_again(leaves_out && is_idle(due));
        }
        unreachable!("it is idle for ever in the end")
    }

    #[test]
    fn looks_that_are_left_out_change_nothing() {
        for work in [
            &[(0, 30 * MS)][..],
            &[(0, 250 * MS)],
            &[(0, 30 * MS), (450 * MS, 90 * MS)],
            &[(0, 30 * MS), (1060 * MS, 39 * MS)],
            &[(0, 30 * MS), (1010 * MS, 80 * MS)],
            &[(0, 30 * MS), (333 * MS, MS), (777 * MS, 2 * MS), (1015 * MS, 75 * MS)],
        ] {
            let (plain, looks) = lowered_at(work, false);
            let (at, fewer) = lowered_at(work, true);
            assert_eq!(at, plain, "{work:?}");
            assert!(fewer < looks, "{work:?}: {fewer} of {looks}");
        }
    }
}
