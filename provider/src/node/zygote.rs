//! Whose interpreter waits in a standby container, and what to do about it now.
//!
//! In: functions that nothing serves and whose interpreter could wait, those that do, how many there may be. Out: whom to hold next,
//! whom to let go.
//! Always: at most as many as may be; one of a revision that is no longer wanted goes at once; one whose function was called less
//! lately than others, or is served meanwhile, goes only when another one needs its place.
//! Touches: nothing.
//! Why those called last: no rule that does not know the future is better by more than least-recently-used is, for as many places
//! (Sleator and Tarjan, "Amortized Efficiency of List Update and Paging Rules", 1985).

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use crate::engine::ReplicaId;

/// A function at zero whose interpreter could wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which function.
    pub key: FunctionKey,
    /// When it was last called.
    pub called: Moment,
}

/// An interpreter that waits, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zygote {
    /// The container.
    pub host: ReplicaId,
    /// Whose.
    pub key: FunctionKey,
    /// Whether it is of a revision that is no longer wanted.
    pub is_stale: bool,
}

/// What to do about zygotes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Have this function's interpreter wait.
    Hold(FunctionKey),
    /// Have this container's wait no longer.
    LetGo(ReplicaId),
}

/// What to do so that the `most` candidates called last have their interpreters waiting.
pub fn steps(most: usize, mut candidates: Vec<Candidate>, zygotes: &[Zygote]) -> Vec<Step> {
    // Ties, which a clock leaves, by name: the answer must not depend on the order in which they came.
    candidates.sort_by(|a, b| (b.called, &a.key).cmp(&(a.called, &b.key)));
    candidates.truncate(most);
    let is_wanted = |key: &FunctionKey| candidates.iter().any(|one| one.key == *key);
    let (stale, fresh): (Vec<_>, Vec<_>) = zygotes.iter().partition(|zygote| zygote.is_stale);
    let mut steps: Vec<_> = stale.iter().map(|one| Step::LetGo(one.host.clone())).collect();
    let mut room = most.saturating_sub(fresh.len());
    let mut least = fresh.iter().filter(|zygote| !is_wanted(&zygote.key));
    let surplus = fresh.len().saturating_sub(most);
    steps.extend(least.by_ref().take(surplus).map(|one| Step::LetGo(one.host.clone())));
    let has = |key: &FunctionKey| fresh.iter().any(|zygote| zygote.key == *key);
    for candidate in candidates.iter().filter(|one| !has(&one.key)) {
        if room > 0 {
            room -= 1;
            steps.push(Step::Hold(candidate.key.clone()));
        } else {
            // Its place is free once it has gone, when this is asked again.
            steps.extend(least.next().map(|one| Step::LetGo(one.host.clone())));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::{FunctionName, Namespace};
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            namespace: Namespace::parse("n").unwrap(),
            name: FunctionName::parse(name).unwrap(),
        }
    }

    fn candidates(called: &[(&str, u64)]) -> Vec<Candidate> {
        let one = |(name, ms): &(&str, u64)| Candidate {
            key: key(name),
            called: Moment::from_millis(*ms),
        };
        called.iter().map(one).collect()
    }

    fn zygote(name: &str, is_stale: bool) -> Zygote {
        Zygote { host: ReplicaId(format!("of-{name}")), key: key(name), is_stale }
    }

    fn hold(name: &str) -> Step {
        Step::Hold(key(name))
    }

    fn let_go(name: &str) -> Step {
        Step::LetGo(ReplicaId(format!("of-{name}")))
    }

    #[test]
    fn those_called_last_wait() {
        let called = candidates(&[("a", 5), ("b", 9), ("c", 7)]);
        assert_eq!(steps(2, called.clone(), &[]), [hold("b"), hold("c")]);
        assert_eq!(steps(0, called.clone(), &[]), []);
        assert_eq!(steps(2, called.clone(), &[zygote("c", false)]), [hold("b")]);
        let (b, c) = (zygote("b", false), zygote("c", false));
        assert_eq!(steps(2, called, &[b, c]), []);
    }

    #[test]
    fn one_whose_place_is_needed_goes_first() {
        let called = candidates(&[("a", 5), ("b", 9)]);
        assert_eq!(steps(1, called.clone(), &[zygote("a", false)]), [let_go("a")]);
        assert_eq!(steps(1, called.clone(), &[zygote("served", false)]), [let_go("served")]);
        let both = [zygote("served", false), zygote("b", false)];
        assert_eq!(steps(2, called, &both), [let_go("served")]);
        let nobody_else = steps(1, vec![], &[zygote("served", false)]);
        assert_eq!(nobody_else, [], "it may be called again");
    }

    #[test]
    fn what_is_stale_goes_and_is_made_anew() {
        let called = candidates(&[("a", 5)]);
        assert_eq!(steps(1, called, &[zygote("a", true)]), [let_go("a"), hold("a")]);
        assert_eq!(steps(1, vec![], &[zygote("gone", true)]), [let_go("gone")]);
    }

    proptest! {
        /// Carried out until there is nothing to do, which is soon, they are those called last, and never too many.
        #[test]
        fn settles_on_those_called_last(
            most in 0..5_usize,
            called in proptest::collection::btree_map(0..20_u8, 0..50_u64, 0..20),
            held in proptest::collection::btree_map(0..20_u8, any::<bool>(), 0..8),
        ) {
            let name = |number: &u8| format!("f{number}");
            let all: Vec<_> = called.iter().map(|(number, ms)| Candidate {
                key: key(&name(number)),
                called: Moment::from_millis(*ms),
            }).collect();
            let mut zygotes: Vec<_> =
                held.iter().map(|(number, stale)| zygote(&name(number), *stale)).collect();
            for round in 0..6 {
                let todo = steps(most, all.clone(), &zygotes);
                if todo.is_empty() {
                    break;
                }
                prop_assert!(round < 5, "it does not settle: {todo:?}");
                for step in todo {
                    match step {
                        Step::LetGo(host) => zygotes.retain(|one| one.host != host),
                        Step::Hold(key) => {
                            let host = ReplicaId(format!("of-{}", key.name));
                            zygotes.push(Zygote { host, key, is_stale: false });
                        }
                    }
                }
            }
            prop_assert!(zygotes.len() <= most.max(held.len()));
            let mut best = all;
            best.sort_by(|a, b| (b.called, &a.key).cmp(&(a.called, &b.key)));
            for one in best.iter().take(most) {
                prop_assert!(zygotes.iter().any(|zygote| zygote.key == one.key));
            }
        }
    }
}
