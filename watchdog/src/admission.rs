//! Whether a request that has just arrived runs or is refused.
//!
//! In: a [`Load`]. Out: an [`Admission`]; nothing is changed here.
//! Units: requests. Health checks are neither counted nor limited.
//! Always: equal loads get equal answers.
//! Touches: nothing. `http` acts on the answer and counts.
//! Source: `max_inflight` of both watchdogs: no queue, the excess is refused at once.

/// What the watchdog has to do at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Admitted and not yet answered.
    pub(crate) in_flight: usize,
    /// Most that may be in flight; `None` is unlimited.
    pub(crate) limit: Option<usize>,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes to a worker.
    Run,
    /// It is turned away with the limit that is reached.
    Refuse { limit: usize },
}

/// Decides about one more request under `load`.
pub(crate) const fn admit(load: Load) -> Admission {
    match load.limit {
        Some(limit) if load.in_flight >= limit => Admission::Refuse { limit },
        _ => Admission::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_most_that_run_at_once() {
        let at = |in_flight, limit| admit(Load { in_flight, limit });
        assert_eq!(at(0, None), Admission::Run);
        assert_eq!(at(1_000_000, None), Admission::Run);
        assert_eq!(at(0, Some(1)), Admission::Run);
        assert_eq!(at(1, Some(1)), Admission::Refuse { limit: 1 });
        assert_eq!(at(4, Some(5)), Admission::Run);
        assert_eq!(at(6, Some(5)), Admission::Refuse { limit: 5 });
    }
}
