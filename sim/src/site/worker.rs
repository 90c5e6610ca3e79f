//! One of a container's two places for a function's processes.

use std::collections::VecDeque;

use hyperfaas_protocol::control::WorkerState;

use crate::slab::Id;

/// A worker.
#[derive(Debug)]
pub struct Worker {
    /// Where it stands.
    pub state: WorkerState,
    /// Index of the function it serves, unless it is generic.
    pub function: Option<u32>,
    /// Of the order that gave it its function; 0 for the owner's.
    pub epoch: u64,
    /// Requests its process works on, in no order; each knows its place.
    pub running: Vec<Id>,
    /// Requests that wait for it in the container.
    pub queued: VecDeque<Id>,
}

impl Worker {
    pub(super) fn new(state: WorkerState, function: Option<u32>) -> Self {
        Self { state, function, epoch: 0, running: Vec::new(), queued: VecDeque::new() }
    }

    /// Requests in it.
    pub fn in_flight(&self) -> usize {
        self.running.len() + self.queued.len()
    }
}
