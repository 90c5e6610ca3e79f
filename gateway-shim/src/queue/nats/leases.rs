//! What this gateway has taken out of the shared queue and not settled yet.
//!
//! In: messages as the server delivers them. Out: whether a delivery is to be made.
//! Always: a message is held once however often the server delivers it; one that was settled a short while ago, whose
//! acknowledgement the server has lost, is not delivered again by this gateway.
//! Touches: nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use async_nats::Subject;
use bytes::Bytes;

/// Settled messages that are remembered.
const SETTLED_MAX: usize = 16_384;

/// A message in this gateway's hands.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    /// Where its acknowledgement goes; changes when the server delivers it again.
    pub(super) reply: Subject,
    /// As it is kept.
    pub(super) payload: Bytes,
    /// When it was put into the stream, in nanoseconds: tells apart messages of a stream that was made anew.
    pub(super) published: i128,
}

/// What a message is that the server has delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// New here.
    New,
    /// Under way here already; its acknowledgement goes to the new address.
    Held,
    /// Settled here already: only the acknowledgement has to be sent again.
    Settled,
}

/// All leases, by number in the stream.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<u64, Lease>,
    settled: HashSet<(u64, i128)>,
    settled_order: VecDeque<(u64, i128)>,
}

impl Leases {
    /// Takes a message that was delivered.
    pub(super) fn take(&mut self, id: u64, lease: Lease) -> Delivery {
        if self.settled.contains(&(id, lease.published)) {
            return Delivery::Settled;
        }
        let old = self.held.insert(id, lease);
        if old.is_some() { Delivery::Held } else { Delivery::New }
    }

    /// The lease of `id`.
    pub(super) fn of(&self, id: u64) -> Option<Lease> {
        self.held.get(&id).cloned()
    }

    /// Ends a lease whose message the server is to give out again.
    pub(super) fn give_back(&mut self, id: u64) {
        self.held.remove(&id);
    }

    /// Ends a lease whose message is never to be delivered again.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(lease) = self.held.remove(&id) else { return };
        let key = (id, lease.published);
        if self.settled.insert(key) {
            self.settled_order.push_back(key);
        }
        if self.settled_order.len() > SETTLED_MAX
            && let Some(oldest) = self.settled_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }

    /// Where the acknowledgements of all that is held go.
    pub(super) fn replies(&self) -> Vec<Subject> {
        self.held.values().map(|lease| lease.reply.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(reply: &str, published: i128) -> Lease {
        Lease { reply: reply.into(), payload: Bytes::new(), published }
    }

    #[test]
    fn what_is_delivered_again_is_not_begun_again() {
        let mut leases = Leases::default();
        assert_eq!(leases.take(1, lease("a", 5)), Delivery::New);
        assert_eq!(leases.take(1, lease("b", 5)), Delivery::Held);
        assert_eq!(leases.of(1).unwrap().reply.as_str(), "b");
        leases.settle(1);
        assert_eq!(leases.take(1, lease("c", 5)), Delivery::Settled);
        assert_eq!(leases.take(1, lease("d", 6)), Delivery::New, "of another stream");
        leases.give_back(1);
        assert_eq!(leases.take(1, lease("e", 6)), Delivery::New, "due again");
    }

    #[test]
    fn memory_of_what_was_settled_is_bounded() {
        let mut leases = Leases::default();
        for id in 0..20_000 {
            leases.take(id, lease("a", 0));
            leases.settle(id);
        }
        assert_eq!((leases.settled.len(), leases.held.len()), (SETTLED_MAX, 0));
    }
}
