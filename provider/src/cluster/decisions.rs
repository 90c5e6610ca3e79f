//! The last decisions on each function, with their reasons, for people.

use std::collections::VecDeque;
use std::time::Duration;

use hyperfaas_protocol::moment::Moment;
use jiff::Timestamp;
use serde::Serialize;

use crate::engine::ReplicaId;
use crate::scheduler::{Action, PlaceKind, Why};

/// Decisions kept of each function.
const KEPT: usize = 64;
/// For how long a refused place is not told again, with the same reason.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Refusals remembered of a function.
const REFUSALS_KEPT: usize = 32;

/// Containers that do not lend their worker, `None` for whatever there may be, and why.
pub(super) type Refusals = Vec<(Option<ReplicaId>, &'static str)>;

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// What: `start`, `drain`, `resize`, `specialise`, `release`; `hold`, its interpreter waits in a standby container;
    /// `visit-failed` and `hold-failed`, a `specialise` or a `hold` that came to nothing; and `place-refused`, a container of its
    /// share group that did not lend its worker.
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
    /// Whose container the worker belongs to: `own`, `zygote`, `standby`, `guest`.
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
    pub(super) fn failed_visit(
        host: &ReplicaId,
        kind: PlaceKind,
        reason: String,
        why: Why,
    ) -> Self {
        Self { trouble: Some(reason), ..Self::of_place("visit-failed", Some(host), kind, why) }
    }

    /// Its interpreter waits in `host`; `trouble` is why it does not.
    pub(super) fn held(host: &ReplicaId, trouble: Option<String>, why: Why) -> Self {
        let action = if trouble.is_some() { "hold-failed" } else { "hold" };
        Self { trouble, ..Self::of_place(action, Some(host), PlaceKind::Zygote, why) }
    }

    /// A guest's place that its owner takes back.
    pub(super) fn sent_away(host: &ReplicaId, why: Why) -> Self {
        Self::of_place("release", Some(host), PlaceKind::Guest, why)
    }

    /// A place that it did not get, with the reason.
    fn refused(host: Option<&ReplicaId>, reason: &str, why: Why) -> Self {
        let bare = Self::of_place("place-refused", host, PlaceKind::Guest, why);
        Self { trouble: Some(reason.to_owned()), ..bare }
    }

    fn of_place(action: &'static str, host: Option<&ReplicaId>, kind: PlaceKind, why: Why) -> Self {
        Self {
            at: Timestamp::now(),
            action,
            replica: host.map(|host| host.0.clone()),
            cpu: None,
            memory: None,
            place: Some(kind.name()),
            trouble: None,
            why,
        }
    }
}

/// Refused places that were told lately.
#[derive(Debug, Default)]
pub(super) struct Refused {
    told: VecDeque<(Option<ReplicaId>, &'static str, Moment)>,
}

impl Refused {
    /// The decision to tell; `None` when it was told a moment ago.
    pub(super) fn tell(
        &mut self,
        host: Option<ReplicaId>,
        reason: &'static str,
        why: Why,
        now: Moment,
    ) -> Option<Decision> {
        self.told.retain(|(_, _, at)| now.since(*at) < REFUSED_AGAIN);
        if self.told.iter().any(|(of, what, _)| *of == host && *what == reason)
            || self.told.len() >= REFUSALS_KEPT
        {
            return None;
        }
        let decision = Decision::refused(host.as_ref(), reason, why);
        self.told.push_back((host, reason, now));
        Some(decision)
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
