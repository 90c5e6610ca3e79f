//! Whether a request that has just arrived runs, waits, or is turned away.
//!
//! In: a [`Load`]. Out: an [`Admission`]; nothing is changed here.
//! Units: requests. Health checks are neither counted nor limited.
//! Always: equal loads get equal answers; nobody runs while others wait; what waits is bounded.
//! Touches: nothing. `http` and `worker::queue` act on the answer and count.
//! Source: `max_inflight` of both watchdogs, which have no queue and refuse the excess at once: port 8080 does the same, so
//! only requests on a lane ever wait. The short queue in front of a limit is that of knative's queue-proxy.

/// What a worker has to do at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Admitted and not yet answered.
    pub(crate) in_flight: usize,
    /// Most that may be in flight; `None` is unlimited.
    pub(crate) limit: Option<usize>,
    /// Waiting for a place.
    pub(crate) queued: usize,
    /// Most that may wait.
    pub(crate) queue_max: usize,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes to a worker.
    Run,
    /// It waits for a place below the limit that is reached.
    Queue { limit: usize },
    /// It is turned away with the limit that is reached.
    Refuse { limit: usize },
}

/// Decides about one more request under `load`.
pub(crate) const fn admit(load: Load) -> Admission {
    match load.limit {
        Some(limit) if load.in_flight >= limit || load.queued > 0 => {
            if load.queued < load.queue_max {
                Admission::Queue { limit }
            } else {
                Admission::Refuse { limit }
            }
        }
        _ => Admission::Run,
    }
}

/// How many of those that wait may run now.
pub(crate) const fn released(load: Load) -> usize {
    let free = match load.limit {
        Some(limit) => limit.saturating_sub(load.in_flight),
        None => load.queued,
    };
    if free < load.queued { free } else { load.queued }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(in_flight: usize, limit: Option<usize>) -> Load {
        Load { in_flight, limit, queued: 0, queue_max: 0 }
    }

    #[test]
    fn without_a_queue_the_limit_is_the_most_that_run_at_once() {
        let at = |in_flight, limit| admit(load(in_flight, limit));
        assert_eq!(at(0, None), Admission::Run);
        assert_eq!(at(1_000_000, None), Admission::Run);
        assert_eq!(at(0, Some(1)), Admission::Run);
        assert_eq!(at(1, Some(1)), Admission::Refuse { limit: 1 });
        assert_eq!(at(4, Some(5)), Admission::Run);
        assert_eq!(at(6, Some(5)), Admission::Refuse { limit: 5 });
    }

    #[test]
    fn the_excess_waits_while_there_is_room_and_nobody_overtakes() {
        let at =
            |in_flight, queued| admit(Load { in_flight, limit: Some(2), queued, queue_max: 3 });
        assert_eq!(at(1, 0), Admission::Run);
        assert_eq!(at(2, 0), Admission::Queue { limit: 2 });
        assert_eq!(at(2, 2), Admission::Queue { limit: 2 });
        assert_eq!(at(2, 3), Admission::Refuse { limit: 2 });
        assert_eq!(
            at(1, 1),
            Admission::Queue { limit: 2 },
            "a place is free, but not for the last to come"
        );
    }

    proptest! {
        /// Whatever comes and goes, and however the limit moves: no place stays empty while somebody waits, and the limit
        /// is exceeded only by those who were admitted under a higher one.
        #[test]
        fn places_and_queue_stay_in_their_bounds(
            steps in proptest::collection::vec((0_u8..4, 1_usize..6), 0..200), queue_max in 0_usize..4,
        ) {
            let (mut in_flight, mut queued, mut limit) = (0_usize, 0_usize, 3_usize);
            for (step, number) in steps {
                let mut highest = in_flight.max(limit);
                let load = |in_flight, queued, limit| Load { in_flight, limit: Some(limit), queued, queue_max };
                match step {
                    0 | 1 => match admit(load(in_flight, queued, limit)) {
                        Admission::Run => in_flight += 1,
                        Admission::Queue { .. } => queued += 1,
                        Admission::Refuse { .. } => prop_assert!(queued == queue_max),
                    },
                    2 => in_flight = in_flight.saturating_sub(1),
                    _ => limit = number,
                }
                highest = highest.max(limit);
                let free = released(load(in_flight, queued, limit));
                (in_flight, queued) = (in_flight + free, queued - free);
                prop_assert!(in_flight <= highest && queued <= queue_max);
                prop_assert!(queued == 0 || in_flight >= limit);
            }
        }
    }
}
