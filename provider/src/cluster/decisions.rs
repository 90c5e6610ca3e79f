//! The last decisions on each function, with their reasons, for people.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::ReplicaId;
use crate::scheduler::{Action, PlaceKind, Why};

/// Decisions kept of each function.
const KEPT: usize = 64;

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// What: `start`, `drain`, `resize`, `specialise`, `release`; and `visit-failed`, a `specialise` that came to nothing.
    pub action: &'static str,
    /// Which container, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// What it may use from then on, millicores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// What it may use from then on, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Whose container the worker belongs to: `own`, `standby`, `guest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<&'static str>,
    /// Why it came to nothing, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The rule and the numbers it saw.
    #[serde(flatten)]
    pub why: Why,
}

impl Decision {
    /// The decision behind `action`; `None` for what follows from another one.
    pub(super) fn of(action: &Action, new_replica: Option<&str>) -> Option<Self> {
        let why = *action.why()?;
        let bare = Self {
            at: Timestamp::now(),
            action: action.name(),
            replica: None,
            cpu: None,
            memory: None,
            place: None,
            trouble: None,
            why,
        };
        Some(match action {
            Action::Start { .. } => Self { replica: new_replica.map(str::to_owned), ..bare },
            Action::Drain { replica, .. } => Self { replica: Some(replica.0.clone()), ..bare },
            Action::Resize { replica, grant, .. } => Self {
                replica: Some(replica.0.clone()),
                cpu: grant.cpu,
                memory: grant.memory,
                ..bare
            },
            Action::Specialise { place, .. } | Action::Release { place, .. } => {
                Self { replica: Some(place.host.0.clone()), place: Some(place.kind.name()), ..bare }
            }
            Action::Prepare { .. } | Action::GiveUp { .. } | Action::Clear { .. } => return None,
        })
    }
}

impl Decision {
    /// A visit to `host` that came to nothing, with the reason.
    pub(super) fn failed_visit(host: &ReplicaId, reason: String, why: Why) -> Self {
        Self {
            at: Timestamp::now(),
            action: "visit-failed",
            replica: Some(host.0.clone()),
            cpu: None,
            memory: None,
            place: Some(PlaceKind::Standby.name()),
            trouble: Some(reason),
            why,
        }
    }
}

/// The newest decisions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring {
    kept: VecDeque<Decision>,
    /// How many there have been.
    made: usize,
}

impl Ring {
    pub(super) fn push(&mut self, decision: Decision) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(decision);
        self.made += 1;
    }

    pub(super) fn list(&self) -> Vec<Decision> {
        self.kept.iter().cloned().collect()
    }

    /// Those made after the first `seen`, as far as they are kept, and how many there have been.
    pub(super) fn since(&self, seen: usize) -> (Vec<Decision>, usize) {
        let first = self.made - self.kept.len();
        let old = seen.saturating_sub(first).min(self.kept.len());
        (self.kept.range(old..).cloned().collect(), self.made)
    }
}
