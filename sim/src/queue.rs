//! What happens next: events in the order of their time, first come first served among equals.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Virtual time in nanoseconds since the start of the simulation.
pub type Nanos = u64;

/// A millisecond.
pub const MS: Nanos = 1_000_000;
/// A second.
pub const SECOND: Nanos = 1000 * MS;
/// A minute.
pub const MINUTE: Nanos = 60 * SECOND;

/// Events yet to come.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    /// Those that were pushed in the order of their time.
    line: VecDeque<Entry<E>>,
    count: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Nanos,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), line: VecDeque::new(), count: 0 }
    }
}

impl<E> Queue<E> {
    /// Lets `event` happen at `at`.
    pub fn push(&mut self, at: Nanos, event: E) {
        self.count += 1;
        self.heap.push(Reverse(Entry { at, number: self.count, event }));
    }

    /// The same at less cost, for one kind of event that always happens the same time after it was pushed.
    pub fn push_in_line(&mut self, at: Nanos, event: E) {
        if self.line.back().is_some_and(|last| at < last.at) {
            return self.push(at, event);
        }
        self.count += 1;
        self.line.push_back(Entry { at, number: self.count, event });
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<(Nanos, E)> {
        let entry = match (self.line.front(), self.heap.peek()) {
            (Some(first), Some(Reverse(top))) if first > top => self.heap.pop()?.0,
            (Some(_), _) => self.line.pop_front()?,
            (None, _) => self.heap.pop()?.0,
        };
        Some((entry.at, entry.event))
    }

    /// When the next event is.
    pub fn next_at(&self) -> Option<Nanos> {
        let first = self.line.front().map(|entry| entry.at);
        let top = self.heap.peek().map(|Reverse(entry)| entry.at);
        first.into_iter().chain(top).min()
    }

    /// How many events are yet to come.
    pub fn len(&self) -> usize {
        self.heap.len() + self.line.len()
    }

    /// Whether nothing is yet to come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_equals_in_the_order_they_were_pushed() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'a'), (1, 'b'), (5, 'c'), (0, 'd'), (5, 'e')] {
            queue.push(at, event);
        }
        assert_eq!((queue.len(), queue.next_at()), (5, Some(0)));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "dbace");
        assert!(queue.is_empty());
    }

    #[test]
    fn events_in_line_keep_their_turn_among_the_others() {
        let mut queue = Queue::default();
        for (at, event, is_in_line) in [
            (5, 'a', true),
            (5, 'b', false),
            (7, 'd', true),
            (6, 'c', true), // not in order: it goes where all others do
            (7, 'e', false),
            (7, 'f', true),
        ] {
            if is_in_line {
                queue.push_in_line(at, event);
            } else {
                queue.push(at, event);
            }
        }
        assert_eq!((queue.len(), queue.next_at()), (6, Some(5)));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!((&order[..], queue.next_at()), ("abcdef", None));
    }
}
