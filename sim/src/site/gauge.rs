//! A watchdog's watermarks and load reports, as `watchdog/src/watermark.rs` and `load.rs` make them, but driven by events: a
//! simulated day has no room for a hundred samples a second of each busy container.
//!
//! High: at the sample after the kernel stopped the container, or after 90 % of a period's quota were used. Low: after a second
//! whose looks (one every 100 ms) all found less than 60 % of the quota used. Load: once a second while busy, once more a second
//! later. Left out: memory and refused requests as reasons.

use hyperfaas_protocol::control::{Level, Pressure, Watermark};

use crate::queue::{MS, Nanos, SECOND};

/// Time between looks at a container that is above its watermark.
pub(super) const LOOK: Nanos = 100 * MS;
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

    /// Begins to look.
    pub(super) fn watch(&mut self, used: f64, throttled: u64, now: Nanos) {
        self.looked = (used, throttled, now);
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
