//! Requests that wait for a place: first come first served within a function, bounded for each and for all.
//!
//! Always: a place that gets free goes to whoever has waited longest and may use it, hand to hand, so nobody is woken in vain
//! and nobody overtakes; a caller that leaves, or whose deadline passes, frees its place in the queue.
//! Fairness between functions: one function may wait with at most as many requests as places are left for all, so a burst takes
//! half of them at most and others always find some (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds
//! for Shared-Memory Packet Switches", 1998).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyperfaas_protocol::moment::Moment;
use tokio::sync::oneshot;

use super::cell::Cell;
use super::replica::Ticket;

/// How many waiting requests are looked at for one place: those before may all have been sent back from it.
const LOOK_AHEAD: usize = 16;

/// How many requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingBounds {
    /// Of one function.
    pub one: usize,
    /// Of all functions together.
    pub all: usize,
}

/// How many requests wait in all.
#[derive(Debug, Default)]
pub(super) struct Total(AtomicUsize);

impl Total {
    /// Takes a place for a function with `own` waiting requests, if the bounds leave one.
    pub(super) fn enter(&self, own: usize, bounds: ParkingBounds) -> bool {
        let take = |all: usize| {
            (own < bounds.one && own < bounds.all.saturating_sub(all)).then_some(all + 1)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// One waiting request.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) deadline: Moment,
    /// Containers that have sent it back.
    pub(super) bounced: Vec<u64>,
    pub(super) sender: oneshot::Sender<Ticket>,
}

/// The waiting requests of one function, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: VecDeque<Waiter>,
    next: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Adds a request, at the end or, one that had a place already, before all others.
    pub(super) fn push(
        &mut self,
        deadline: Moment,
        bounced: Vec<u64>,
        is_first: bool,
    ) -> (u64, oneshot::Receiver<Ticket>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        let waiter = Waiter { id: self.next, deadline, bounced, sender };
        if is_first {
            self.waiters.push_front(waiter);
        } else {
            self.waiters.push_back(waiter);
        }
        (self.next, receiver)
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(index) = self.waiters.iter().position(|waiter| waiter.id == id) {
            self.waiters.remove(index);
        }
    }

    /// Takes out the first request that `find` has a place for, with that place. Those nobody waits for any more are dropped.
    pub(super) fn pop<P>(
        &mut self,
        now: Moment,
        mut find: impl FnMut(&[u64]) -> Option<P>,
    ) -> Option<(Waiter, P)> {
        while self.waiters.front().is_some_and(|w| w.sender.is_closed() || w.deadline <= now) {
            self.waiters.pop_front();
        }
        let ahead = self.waiters.iter().take(LOOK_AHEAD).enumerate();
        let (index, place) = ahead
            .filter(|(_, waiter)| !waiter.sender.is_closed())
            .find_map(|(index, waiter)| Some((index, find(&waiter.bounced)?)))?;
        self.waiters.remove(index).map(|waiter| (waiter, place))
    }
}

/// A waiting request's end of the queue; dropping it gives the place in the queue back.
#[derive(Debug)]
pub struct Parked {
    pub(super) cell: Arc<Cell>,
    pub(super) id: u64,
    pub(super) receiver: oneshot::Receiver<Ticket>,
    pub(super) since: Moment,
}

impl Parked {
    /// The place, once it is its turn. Cancel safe.
    pub async fn ticket(&mut self) -> Option<Ticket> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.cell.unpark(self.id, self.since);
    }
}
