//! Where one request goes.

/// A replica that could take the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Requests it is serving.
    pub in_flight: u32,
    /// Whether it takes requests and has not sent this one back already.
    pub is_eligible: bool,
}

/// Chooses the eligible replica with the fewest requests in flight; its index in `candidates`.
///
/// Ties go round: `turn` is a number that grows with each request, and the search begins there, so that equal replicas share
/// even a purely sequential load.
pub fn place(
    candidates: impl ExactSizeIterator<Item = Candidate> + Clone,
    turn: usize,
) -> Option<usize> {
    let count = candidates.len();
    if count == 0 {
        return None;
    }
    let first = turn % count;
    let rank = |index: usize| (index + count - first) % count;
    candidates
        .enumerate()
        .filter(|(_, candidate)| candidate.is_eligible)
        .min_by_key(|(index, candidate)| (candidate.in_flight, rank(*index)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(loads: &[(u32, bool)]) -> Vec<Candidate> {
        loads.iter().map(|&(in_flight, is_eligible)| Candidate { in_flight, is_eligible }).collect()
    }

    #[test]
    fn the_least_loaded_eligible_replica_is_chosen() {
        let list = candidates(&[(3, true), (0, false), (1, true)]);
        assert_eq!(place(list.iter().copied(), 0), Some(2));
        assert_eq!(place(candidates(&[(0, false)]).iter().copied(), 0), None);
        assert_eq!(place(candidates(&[]).iter().copied(), 7), None);
    }

    #[test]
    fn equal_replicas_take_turns() {
        let list = candidates(&[(0, true); 3]);
        let order: Vec<_> = (0..6).filter_map(|turn| place(list.iter().copied(), turn)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn never_an_ineligible_one_and_never_a_busier_one(
            loads in prop::collection::vec((0..5_u32, any::<bool>()), 0..8),
            turn in any::<usize>(),
        ) {
            let list = candidates(&loads);
            let least = list.iter().filter(|c| c.is_eligible).map(|c| c.in_flight).min();
            let chosen = place(list.iter().copied(), turn).map(|index| list[index]);
            prop_assert_eq!(chosen.map(|c| c.in_flight), least);
            prop_assert!(chosen.is_none_or(|c| c.is_eligible));
        }
    }
}
