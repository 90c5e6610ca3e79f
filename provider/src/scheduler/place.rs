//! Where one request goes.
//!
//! In: the workers that may serve a function, counted one by one, and who has sent this request back already. Out: the one to
//! reserve a place on, or that there is no room.
//! Always: never a worker without room, never one of a container in `bounced`; one below its comfort before one that is not, and
//! among those an owner's before a guest's; among equals the one with the least in flight against its capacity; ties go round.
//! Cost: one pass over a dense list of 32-byte entries; [`super::Seats`] gives the same answers for less where there are many.

/// One worker that serves the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seat {
    /// The cluster's number of its container.
    pub host: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Most it takes at once; 0 is without limit.
    pub limit: u32,
    /// How many it takes with ease: above it, guests help. 0 is as many as `limit`.
    pub comfort: u32,
    /// Which worker of the container.
    pub worker: u8,
    /// Whether it takes requests now.
    pub is_open: bool,
    /// Whether its container belongs to another function, or to none.
    pub is_guest: bool,
}

/// The capacity that workers without a limit are compared by.
const UNLIMITED: u32 = 1 << 16;

impl Seat {
    /// Whether one more request has room.
    pub const fn has_room(&self) -> bool {
        self.is_open && (self.limit == 0 || self.in_flight < self.limit)
    }

    const fn capacity(&self) -> u32 {
        if self.limit == 0 { UNLIMITED } else { self.limit }
    }

    const fn is_beyond_comfort(&self) -> bool {
        let comfort = if self.comfort == 0 { self.capacity() } else { self.comfort };
        self.in_flight >= comfort
    }

    /// Whether it would be the worse choice than `other`.
    pub(super) const fn is_worse_than(&self, other: &Self) -> bool {
        let (full, other_full) = (self.is_beyond_comfort(), other.is_beyond_comfort());
        if full != other_full {
            return full;
        }
        // Where nobody is at ease any more, whose container it is no longer matters: the load is shared.
        if !full && self.is_guest != other.is_guest {
            return self.is_guest;
        }
        let mine = self.in_flight as u64 * other.capacity() as u64;
        let others = other.in_flight as u64 * self.capacity() as u64;
        mine > others || (mine == others && self.in_flight > other.in_flight)
    }
}

/// Chooses the best seat with room; its index in `seats`.
///
/// Ties go round: `turn` is a number that grows with each request, and the search begins there, so that equal workers share
/// even a purely sequential load.
pub fn place(seats: &[Seat], bounced: &[u64], turn: usize) -> Option<usize> {
    let first = turn.checked_rem(seats.len())?;
    let (before, after) = seats.split_at(first);
    let mut best: Option<(usize, &Seat)> = None;
    let from_turn = after.iter().enumerate().map(|(index, seat)| (index + first, seat));
    for (index, seat) in from_turn.chain(before.iter().enumerate()) {
        let is_better = best.is_none_or(|(_, chosen)| chosen.is_worse_than(seat));
        if is_better && seat.has_room() && !bounced.contains(&seat.host) {
            best = Some((index, seat));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seat(host: u64, in_flight: u32, limit: u32) -> Seat {
        Seat { host, in_flight, limit, is_open: true, ..Seat::default() }
    }

    #[test]
    fn the_least_loaded_against_its_capacity_is_chosen() {
        for (seats, expected) in [
            (vec![seat(0, 3, 0), Seat { is_open: false, ..seat(1, 0, 0) }, seat(2, 1, 0)], Some(2)),
            (vec![Seat { is_open: false, ..seat(0, 0, 0) }], None),
            (vec![], None),
            (vec![seat(0, 5, 10), seat(1, 2, 3)], Some(0)),
            (vec![seat(0, 4, 4), seat(1, 9, 10)], Some(1)),
            (vec![seat(0, 4, 4), seat(1, 10, 10)], None),
        ] {
            assert_eq!(place(&seats, &[], 0), expected, "{seats:?}");
        }
    }

    #[test]
    fn both_workers_of_a_container_are_counted_one_by_one() {
        let mut seats = [seat(7, 0, 1), Seat { worker: 1, ..seat(7, 0, 1) }];
        let first = place(&seats, &[], 0).unwrap();
        seats[first].in_flight += 1;
        let second = place(&seats, &[], 1).unwrap();
        seats[second].in_flight += 1;
        assert_ne!(first, second);
        assert_eq!(place(&seats, &[], 2), None);
    }

    #[test]
    fn guests_serve_once_no_owner_is_at_ease() {
        let owner = |in_flight| Seat { comfort: 2, ..seat(0, in_flight, 0) };
        let guest = Seat { is_guest: true, ..seat(1, 0, 0) };
        assert_eq!(place(&[owner(1), guest], &[], 1), Some(0));
        assert_eq!(place(&[owner(2), guest], &[], 0), Some(1));
        let busy = |in_flight| Seat { comfort: 2, in_flight, ..guest };
        assert_eq!(place(&[owner(5), busy(3)], &[], 0), Some(1));
        assert_eq!(place(&[owner(3), busy(5)], &[], 1), Some(0));
    }

    #[test]
    fn equal_seats_take_turns() {
        let seats = [seat(0, 0, 0), seat(1, 0, 0), seat(2, 0, 0)];
        let order: Vec<_> = (0..6).filter_map(|turn| place(&seats, &[], turn)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn never_one_without_room_nor_one_that_bounced_nor_a_worse_one(
            seats in prop::collection::vec((0..5_u32, 0..5_u32, any::<bool>(), any::<bool>(), 0..4_u64), 0..8),
            bounced in prop::collection::vec(0..4_u64, 0..3),
            turn in any::<usize>(),
        ) {
            let seats: Vec<_> = seats.iter().map(|&(in_flight, limit, is_open, is_guest, host)| {
                Seat { in_flight, limit, is_open, is_guest, host, ..Seat::default() }
            }).collect();
            let fits = |seat: &&Seat| seat.has_room() && !bounced.contains(&seat.host);
            match place(&seats, &bounced, turn) {
                None => prop_assert!(!seats.iter().any(|seat| fits(&seat))),
                Some(index) => {
                    prop_assert!(fits(&&seats[index]));
                    prop_assert!(seats.iter().filter(fits).all(|seat| !seats[index].is_worse_than(seat)));
                }
            }
        }
    }
}
