//! What the scheduler orders.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use crate::engine::ReplicaId;

/// One thing to do; each is carried out once, apart from the others.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    },
    /// Send it no more requests, let it finish, then stop and remove it.
    Drain {
        /// Whose replica.
        function: FunctionKey,
        /// Which one.
        replica: ReplicaId,
        /// For the log and the decisions.
        reason: &'static str,
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
}

/// What to do now, and when to look again even if nothing happens until then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the snapshot's functions.
    pub actions: Vec<Action>,
    /// The earliest moment at which time alone changes the answer.
    pub wake_at: Option<Moment>,
}
