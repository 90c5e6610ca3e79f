//! What the cluster counts.
//!
//! Always: labels have few values, known at start.

use std::time::Duration;

use hyperfaas_protocol::control::Level;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

use super::standby::PoolCounts;
use crate::metrics::Metrics;
use crate::scheduler::{Action, PlaceKind};

/// Counters of the scheduler and the request path; clones share them.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Crossings of all replicas' watermarks, by level.
    pub watermarks: IntCounterVec,
    /// Actions begun, by action and phase of scaling.
    pub actions: IntCounterVec,
    /// Requests that had to wait.
    pub parked: IntCounter,
    /// Requests refused because too many waited.
    pub refused: IntCounter,
    /// Requests that a replica did not take and that went elsewhere.
    pub bounces: IntCounter,
    /// Requests that found no replica at all.
    pub cold_starts: IntCounter,
    /// Millicores granted to containers beyond what they had.
    pub granted: IntCounter,
    /// Visits that came to nothing or ended unasked.
    pub visits_failed: IntCounter,
    standby: IntGaugeVec,
    lent: IntGauge,
    parked_seconds: Histogram,
}

/// Bounds of the time a request waits, seconds.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

impl Counters {
    pub(super) fn new() -> Self {
        let seconds = HistogramOpts::new(
            "hyperfaas_parked_seconds",
            "Time that requests waited for a place.",
        )
        .buckets(SECONDS.to_vec());
        let watermarks = vec(
            "hyperfaas_replica_watermark_events_total",
            "Times a replica went above its high watermark, or below its low one again.",
            &["level"],
        );
        for level in [Level::Low, Level::High] {
            watermarks.with_label_values(&[level.name()]);
        }
        Self {
            watermarks,
            actions: vec(
                "hyperfaas_scaling_actions_total",
                "Actions of the scheduler, by phase of scaling.",
                &["action", "phase"],
            ),
            parked: one("hyperfaas_parked_total", "Requests that had to wait for a place."),
            refused: one(
                "hyperfaas_parked_refused_total",
                "Requests refused because too many waited.",
            ),
            bounces: one("hyperfaas_bounces_total", "Requests that a replica did not take."),
            cold_starts: one("hyperfaas_cold_starts_total", "Requests that found nothing serving."),
            granted: one(
                "hyperfaas_granted_millicores_total",
                "Millicores granted to running containers beyond what they had.",
            ),
            visits_failed: one(
                "hyperfaas_visits_failed_total",
                "Functions' visits to other containers that came to nothing or ended unasked.",
            ),
            standby: IntGaugeVec::new(
                Opts::new("hyperfaas_standby_containers", "Containers without an owner, by state."),
                &["state"],
            )
            .expect("the names are constant and valid"),
            lent: IntGauge::new(
                "hyperfaas_lent_workers",
                "Workers of functions' own containers that guests of their share group have.",
            )
            .expect("the name is constant and valid"),
            parked_seconds: Histogram::with_opts(seconds).expect("the name is constant and valid"),
        }
    }

    /// Shows all of them on `page`.
    pub fn register(&self, page: &Metrics) {
        page.add(self.watermarks.clone());
        page.add(self.actions.clone());
        page.add(self.standby.clone());
        page.add(self.lent.clone());
        page.add(self.visits_failed.clone());
        for counter in
            [&self.parked, &self.refused, &self.bounces, &self.cold_starts, &self.granted]
        {
            page.add(counter.clone());
        }
        page.add(self.parked_seconds.clone());
    }

    pub(super) fn began(&self, action: &Action) {
        let phase = match action {
            Action::Resize { .. } => "1",
            Action::Specialise { place, .. } | Action::Release { place, .. } => match place.kind {
                PlaceKind::Own => "1",
                PlaceKind::Zygote | PlaceKind::Standby | PlaceKind::Guest => "2",
            },
            Action::Start { .. } | Action::Drain { .. } => "3",
            Action::Prepare { .. } | Action::GiveUp { .. } | Action::Clear { .. } => return,
        };
        self.actions.with_label_values(&[action.name(), phase]).inc();
    }

    /// Notes how many standby containers there are.
    pub(super) fn pool(&self, counts: PoolCounts) {
        let PoolCounts { ready, starting, held, taken, leaving } = counts;
        for (state, count) in [
            ("ready", ready),
            ("starting", starting),
            ("held", held),
            ("taken", taken),
            ("leaving", leaving),
        ] {
            self.standby.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes how many workers are lent.
    pub(super) fn lent(&self, count: usize) {
        self.lent.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn park_seconds(&self, waited: Duration) {
        self.parked_seconds.observe(waited.as_secs_f64());
    }
}

fn one(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("the names are constant and valid")
}

fn vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("the names are constant and valid")
}
