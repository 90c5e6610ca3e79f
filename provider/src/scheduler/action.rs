//! What the scheduler orders.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use super::out::Scale;
use super::snapshot::Grant;
use super::why::Why;
use crate::engine::ReplicaId;

/// One thing to do; each is carried out once, apart from the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the image of this revision present.
    Prepare {
        /// Whose image.
        function: FunctionKey,
        /// Of which revision.
        revision: u64,
    },
    /// Start one more replica.
    Start {
        /// Whose replica.
        function: FunctionKey,
        /// From which revision.
        revision: u64,
        /// For the log and the decisions.
        why: Why,
    },
    /// Send it no more requests, let it finish, then stop and remove it.
    Drain {
        /// Whose replica.
        function: FunctionKey,
        /// Which one.
        replica: ReplicaId,
        /// For the log and the decisions.
        why: Why,
    },
    /// It did not become ready in time: count that as a failure, stop and remove it.
    GiveUp {
        /// Whose replica.
        function: FunctionKey,
        /// Which one.
        replica: ReplicaId,
    },
    /// Its process has ended: remove what is left of it.
    Clear {
        /// Whose replica.
        function: FunctionKey,
        /// Which one.
        replica: ReplicaId,
    },
    /// Phase 1: give a container more CPU or memory, or take back what it was given.
    Resize {
        /// Whose replica.
        function: FunctionKey,
        /// Which one.
        replica: ReplicaId,
        /// What it may use from now on.
        grant: Grant,
        /// For the log and the decisions.
        why: Why,
    },
    /// Phases 1 and 2: give a generic worker the function.
    Specialise {
        /// Which function.
        function: FunctionKey,
        /// Where.
        place: WorkerPlace,
        /// For the log and the decisions.
        why: Why,
    },
    /// Take the function from a worker that had been given it.
    Release {
        /// Which function.
        function: FunctionKey,
        /// Where.
        place: WorkerPlace,
        /// For the log and the decisions.
        why: Why,
    },
}

impl Action {
    /// The function it is about.
    pub fn function(&self) -> &FunctionKey {
        match self {
            Self::Prepare { function, .. }
            | Self::Start { function, .. }
            | Self::Drain { function, .. }
            | Self::GiveUp { function, .. }
            | Self::Clear { function, .. }
            | Self::Resize { function, .. }
            | Self::Specialise { function, .. }
            | Self::Release { function, .. } => function,
        }
    }

    /// What it does, in one word, for decisions, logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "prepare",
            Self::Start { .. } => "start",
            Self::Drain { .. } => "drain",
            Self::GiveUp { .. } => "give-up",
            Self::Clear { .. } => "clear",
            Self::Resize { .. } => "resize",
            Self::Specialise { .. } => "specialise",
            Self::Release { .. } => "release",
        }
    }

    /// Why, where a rule asked for it.
    pub const fn why(&self) -> Option<&Why> {
        match self {
            Self::Start { why, .. }
            | Self::Drain { why, .. }
            | Self::Resize { why, .. }
            | Self::Specialise { why, .. }
            | Self::Release { why, .. } => Some(why),
            Self::Prepare { .. } | Self::GiveUp { .. } | Self::Clear { .. } => None,
        }
    }
}

/// A worker of a container, and the order it is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPlace {
    /// The container.
    pub host: ReplicaId,
    /// Which worker of it.
    pub worker: u8,
    /// The order's epoch.
    pub epoch: u64,
    /// Whose container it is, seen from the function.
    pub kind: PlaceKind,
}

/// Whose container a worker belongs to, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlaceKind {
    /// The function's own.
    Own,
    /// Nobody's, and the function's interpreter waits in it.
    Zygote,
    /// Nobody's.
    Standby,
    /// Another function's.
    Guest,
}

impl PlaceKind {
    /// Its name in decisions and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Zygote => "zygote",
            Self::Standby => "standby",
            Self::Guest => "guest",
        }
    }
}

/// What to do now, and when to look again even if nothing happens until then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order of the snapshot's functions.
    pub actions: Vec<Action>,
    /// The earliest moment at which time alone changes the answer.
    pub wake_at: Option<Moment>,
    /// What the next plan must remember of each function, in the order of the snapshot's; a plan of one function has its own.
    pub scales: Vec<Scale>,
}

impl Plan {
    /// Notes that the answer changes at `at`.
    pub(super) fn wake(&mut self, at: Moment) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}
