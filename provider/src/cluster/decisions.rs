//! The last decisions on each function, with their reasons, for people.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

use crate::scheduler::{Action, Why};

/// Decisions kept of each function.
const KEPT: usize = 64;

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// What: `start`, `drain`, `resize`, `specialise`, `release`.
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

/// The newest decisions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring(VecDeque<Decision>);

impl Ring {
    pub(super) fn push(&mut self, decision: Decision) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(decision);
    }

    pub(super) fn list(&self) -> Vec<Decision> {
        self.0.iter().cloned().collect()
    }
}
