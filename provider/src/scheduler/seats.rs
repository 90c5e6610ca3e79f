//! The workers that serve a function, in a list that knows the best of them.
//!
//! In: [`Seat`]s, and what changes of them. Out: where one request goes, and whether one could.
//! Always: the answers are those of [`place`], which goes through all seats, ties and turns included.
//! Cost: up to [`SCANNED`] seats are gone through; of more a tournament is kept, in which a question and a change cost the logarithm
//! of their number. Each worker that is best but has bounced the request costs one question more.

use std::ops::Range;

use super::place::{Seat, place};

/// So many seats are gone through: with fewer that is faster than keeping a tournament.
const SCANNED: usize = 48;
/// Beyond so many changes at a time the tournament is held anew.
const REPAIRED: usize = 64;
/// Stands where there is no seat with room.
const NOBODY: u32 = u32::MAX;

/// Seats, by their place in the list.
#[derive(Debug, Clone, Default)]
pub struct Seats {
    list: Vec<Seat>,
    /// A complete binary tree: the root is at 1, below `node` are `2 × node` and `2 × node + 1`, and after the inner nodes, which are
    /// kept here, come the seats in their order. Each node has the best seat with room below it, of equals the first. Empty while
    /// all seats are gone through.
    best: Vec<u32>,
}

impl Seats {
    /// All of them.
    pub fn list(&self) -> &[Seat] {
        &self.list
    }

    /// Takes over `seats` instead of what there was; what stays as it was costs a comparison.
    pub fn refill(&mut self, seats: impl IntoIterator<Item = Seat>) {
        let before = self.list.len();
        let (mut count, mut changed) = (0, 0);
        for seat in seats {
            match self.list.get_mut(count) {
                Some(same) if *same == seat => {}
                Some(other) => {
                    *other = seat;
                    changed += 1;
                    if changed <= REPAIRED {
                        self.repair(count);
                    }
                }
                None => self.list.push(seat),
            }
            count += 1;
        }
        self.list.truncate(count);
        if count != before || changed > REPAIRED {
            self.rebuild();
        }
    }

    /// Notes how many requests the seat at `at` has in flight.
    ///
    /// # Panics
    /// If there is none.
    pub fn set_in_flight(&mut self, at: usize, in_flight: u32) {
        self.list[at].in_flight = in_flight;
        if !self.best.is_empty() {
            self.repair(at);
        }
    }

    /// Chooses the best seat with room, as [`place`] does; its place in the list.
    pub fn place(&self, bounced: &[u64], turn: usize) -> Option<usize> {
        if self.best.is_empty() {
            return place(&self.list, bounced, turn);
        }
        let first = turn.checked_rem(self.list.len())?;
        let from_turn = self.best_unless(first..self.list.len(), bounced);
        let before = self.best_unless(0..first, bounced);
        let best = self.better(from_turn, before);
        (best != NOBODY).then_some(best as usize)
    }

    /// Whether one more request could be let go, where a worker without a limit is given at most `most` at once.
    pub fn has_room(&self, most: u32) -> bool {
        let takes = |seat: &Seat| {
            seat.has_room() && seat.in_flight < if seat.limit == 0 { most } else { u32::MAX }
        };
        match self.best.get(1) {
            Some(&NOBODY) => false,
            Some(&best) if takes(&self.list[best as usize]) => true,
            // The best may have no limit and too many already, and one with a limit have room.
            _ => self.list.iter().any(takes),
        }
    }

    /// The best seat in `range` whose container has not sent the request back.
    fn best_unless(&self, range: Range<usize>, bounced: &[u64]) -> u32 {
        let best = self.best_in(range.clone());
        if best == NOBODY || !bounced.contains(&self.list[best as usize].host) {
            return best;
        }
        let at = best as usize;
        let before = self.best_unless(range.start..at, bounced);
        self.better(before, self.best_unless(at + 1..range.end, bounced))
    }

    /// The best seat in `range`: of the fewest nodes that make it up.
    fn best_in(&self, range: Range<usize>) -> u32 {
        let leaves = self.best.len();
        let (mut from, mut to) = (leaves + range.start, leaves + range.end);
        let (mut left, mut right) = (NOBODY, NOBODY);
        while from < to {
            if from % 2 == 1 {
                left = self.better(left, self.winner(from));
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                right = self.better(self.winner(to), right);
            }
            (from, to) = (from / 2, to / 2);
        }
        self.better(left, right)
    }

    /// Who has won at a node of the tree: an inner one, or a seat.
    fn winner(&self, node: usize) -> u32 {
        if let Some(best) = self.best.get(node) {
            return *best;
        }
        let at = node - self.best.len();
        match self.list.get(at) {
            Some(seat) if seat.has_room() => u32::try_from(at).unwrap_or(NOBODY),
            _ => NOBODY,
        }
    }

    /// The better of two seats; of equals `first`, which is to be the one that comes first.
    fn better(&self, first: u32, then: u32) -> u32 {
        let is_worse = || self.list[first as usize].is_worse_than(&self.list[then as usize]);
        if then != NOBODY && (first == NOBODY || is_worse()) { then } else { first }
    }

    /// Holds the matches again that the seat at `at` has to do with.
    fn repair(&mut self, at: usize) {
        let mut node = usize::midpoint(self.best.len(), at);
        while let Some(before) = self.best.get(node).copied().filter(|_| node > 0) {
            let now = self.better(self.winner(2 * node), self.winner(2 * node + 1));
            self.best[node] = now;
            // Where it neither was nor is the best, nothing changes further up.
            if before as usize != at && now as usize != at {
                return;
            }
            node /= 2;
        }
    }

    fn rebuild(&mut self) {
        self.best.clear();
        if self.list.len() <= SCANNED {
            return;
        }
        self.best.resize(self.list.len().next_power_of_two(), NOBODY);
        for node in (1..self.best.len()).rev() {
            self.best[node] = self.better(self.winner(2 * node), self.winner(2 * node + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few values of each kind, so that ties, full seats and both workers of a container are common.
    fn seat() -> impl Strategy<Value = Seat> {
        let counts = (0..6_u64, 0..5_u32, 0..4_u32, 0..4_u32);
        (counts, 0..2_u8, prop::bool::weighted(0.9), any::<bool>()).prop_map(
            |((host, in_flight, limit, comfort), worker, is_open, is_guest)| Seat {
                host,
                in_flight,
                limit,
                comfort,
                worker,
                is_open,
                is_guest,
            },
        )
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A request comes, which these have sent back.
        Take(Vec<u64>),
        /// One of the seats gets so many in flight.
        Set(prop::sample::Index, u32),
        /// One of the seats is another now.
        Change(prop::sample::Index, Seat),
        /// Others come, or go.
        Refill(Vec<Seat>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => prop::collection::vec(0..6_u64, 0..4).prop_map(Step::Take),
            4 => (any::<prop::sample::Index>(), 0..5_u32).prop_map(|(at, n)| Step::Set(at, n)),
            1 => (any::<prop::sample::Index>(), seat()).prop_map(|(at, one)| Step::Change(at, one)),
            1 => prop::collection::vec(seat(), 0..200).prop_map(Step::Refill),
        ]
    }

    fn room(seats: &[Seat], most: u32) -> u32 {
        let of = |seat: &Seat| {
            let limit = if seat.limit == 0 { most } else { seat.limit };
            if seat.is_open { limit.saturating_sub(seat.in_flight) } else { 0 }
        };
        seats.iter().map(of).fold(0, u32::saturating_add)
    }

    proptest! {
        #[test]
        fn the_answers_are_those_of_going_through_all(
            first in prop::collection::vec(seat(), 0..200),
            steps in prop::collection::vec(step(), 1..40),
            turn in any::<usize>(),
        ) {
            let (mut seats, mut plain) = (Seats::default(), first.clone());
            seats.refill(first);
            for (nth, step) in steps.into_iter().enumerate() {
                let turn = turn.wrapping_add(nth);
                match step {
                    Step::Take(bounced) => {
                        let found = seats.place(&bounced, turn);
                        prop_assert_eq!(found, place(&plain, &bounced, turn));
                        if let Some(at) = found {
                            plain[at].in_flight += 1;
                            seats.set_in_flight(at, plain[at].in_flight);
                        }
                    }
                    Step::Set(at, in_flight) if !plain.is_empty() => {
                        let at = at.index(plain.len());
                        plain[at].in_flight = in_flight;
                        seats.set_in_flight(at, in_flight);
                    }
                    Step::Change(at, one) if !plain.is_empty() => {
                        let at = at.index(plain.len());
                        plain[at] = one;
                        seats.refill(plain.iter().copied());
                    }
                    Step::Refill(others) => {
                        plain.clone_from(&others);
                        seats.refill(others);
                    }
                    Step::Set(..) | Step::Change(..) => {}
                }
                prop_assert_eq!(seats.list(), &plain[..]);
                prop_assert_eq!(seats.place(&[], turn), place(&plain, &[], turn));
                for most in [0, 2, 100, u32::MAX] {
                    prop_assert_eq!(seats.has_room(most), room(&plain, most) > 0, "at most {}", most);
                }
            }
        }
    }

    #[test]
    fn a_sequential_load_goes_round_among_many() {
        let mut seats = Seats::default();
        let one = |host| Seat { host, is_open: true, ..Seat::default() };
        seats.refill((0..100).map(one));
        let order: Vec<_> = (0..200).filter_map(|turn| seats.place(&[], turn)).collect();
        assert_eq!(order, (0..100).chain(0..100).collect::<Vec<_>>());
    }

    #[test]
    fn who_has_bounced_a_request_is_passed_over_however_many_they_are() {
        let mut seats = Seats::default();
        let one = |host: u64| Seat { host, is_open: true, in_flight: 1, ..Seat::default() };
        seats.refill((0..100).map(|nth| Seat { worker: u8::from(nth % 2 == 1), ..one(nth / 2) }));
        let most: Vec<_> = (0..49).collect();
        assert_eq!(seats.place(&most, 7), Some(98));
        assert_eq!(seats.place(&most, 99), Some(99));
        assert_eq!(seats.place(&[&most[..], &[49]].concat(), 7), None);
    }

    #[test]
    fn room_is_where_one_more_can_be_let_go() {
        let seat = |in_flight, limit| Seat { in_flight, limit, is_open: true, ..Seat::default() };
        let with = |one: Seat, others: Seat| {
            let mut seats = Seats::default();
            seats.refill(std::iter::once(one).chain(std::iter::repeat_n(others, 99)));
            seats
        };
        // The best of them is one without a limit, which has enough already.
        assert!(with(seat(3, 4), seat(10, 0)).has_room(10));
        assert!(!with(seat(4, 4), seat(10, 0)).has_room(10));
        assert!(with(seat(4, 4), seat(10, 0)).has_room(11));
        assert!(!with(seat(4, 4), Seat { is_open: false, ..seat(0, 0) }).has_room(u32::MAX));
    }
}
