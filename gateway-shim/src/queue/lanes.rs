//! Whose messages may be delivered now: one lane a function, its messages in the order in which they are due.
//!
//! In: what was kept, taken and settled. Out: the next function to fetch messages of, and how many.
//! Units: messages; times are Unix milliseconds.
//! Always: a message is in flight at most once; a function has at most its limit in flight, all together at most `workers`;
//! the longest-due function comes first. A lane takes memory for what is in flight, not for what waits.
//! Touches: nothing. `store` holds the messages, `pump` fetches and delivers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Where a waiting message is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Whose it is, as `name.namespace`.
    pub(crate) function: Arc<str>,
    /// When it may be delivered.
    pub(crate) due_ms: u64,
    /// Its number, unique for ever.
    pub(crate) id: u64,
}

/// What one function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneView {
    /// Messages kept, those in flight included.
    pub(crate) depth: u64,
    /// Being delivered.
    pub(crate) running: usize,
}

#[derive(Debug, Default)]
struct Lane {
    depth: u64,
    /// Fetched and not settled yet: still kept, but not to be fetched again.
    taken: HashSet<u64>,
    /// Places used of the function's limit.
    running: usize,
    /// What the last fetch granted as the limit; unknown before the first.
    limit: Option<usize>,
    /// When the first message that is not taken is due; `None` when there is none.
    next_ms: Option<u64>,
    /// Whether somebody is fetching for this lane.
    is_fetching: bool,
}

/// All functions that have messages.
#[derive(Debug)]
pub(crate) struct Lanes {
    workers: usize,
    running: usize,
    by_function: HashMap<Arc<str>, Lane>,
    /// Lanes that may be fetched for, by when their first message is due.
    open: BTreeSet<(u64, Arc<str>)>,
}

/// The right to fetch for one function; ends with [`Lanes::fetched`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) function: Arc<str>,
}

impl Lanes {
    /// Lanes without messages; at most `workers` are delivered at a time.
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, running: 0, by_function: HashMap::new(), open: BTreeSet::new() }
    }

    /// A message has been kept, or `count` were found at the start.
    pub(crate) fn kept(&mut self, function: &Arc<str>, due_ms: u64, count: u64) {
        self.change(function, |lane| {
            lane.depth += count;
            lane.next_ms = Some(lane.next_ms.map_or(due_ms, |next| next.min(due_ms)));
        });
    }

    /// The function whose turn it is at `now_ms`; nobody else gets a turn for it until [`Self::fetched`].
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Turn> {
        if self.running >= self.workers {
            return None;
        }
        let (_, function) = self.open.first().filter(|(due_ms, _)| *due_ms <= now_ms)?.clone();
        self.change(&function, |lane| lane.is_fetching = true);
        Some(Turn { function })
    }

    /// When the next lane will be due; `None` when only a change can make one so.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        if self.running >= self.workers {
            return None;
        }
        self.open.first().map(|(due_ms, _)| *due_ms)
    }

    /// Reserves as many deliveries for `turn` as are free, where the function may have `limit`.
    pub(crate) fn reserve(&mut self, turn: &Turn, limit: usize) -> usize {
        let limit = limit.max(1);
        let mut free = self.workers.saturating_sub(self.running);
        self.change(&turn.function, |lane| {
            lane.limit = Some(limit);
            free = free.min(limit.saturating_sub(lane.running));
            lane.running += free;
            // Whatever is kept from now on counts on top of what the fetch will find.
            lane.next_ms = None;
        });
        self.running += free;
        free
    }

    /// Numbers of `function`'s messages that are not to be fetched.
    pub(crate) fn taken(&self, function: &str) -> HashSet<u64> {
        self.by_function.get(function).map(|lane| lane.taken.clone()).unwrap_or_default()
    }

    /// Ends `turn`: of `reserved` deliveries those of `ids` begin; `next_ms` is when the first message left is due.
    pub(crate) fn fetched(
        &mut self,
        turn: &Turn,
        reserved: usize,
        ids: &[u64],
        next_ms: Option<u64>,
    ) {
        let unused = reserved - ids.len();
        self.running -= unused;
        self.change(&turn.function, |lane| {
            lane.is_fetching = false;
            lane.running -= unused;
            lane.taken.extend(ids);
            lane.next_ms = [lane.next_ms, next_ms].into_iter().flatten().min();
        });
    }

    /// A delivery has ended, its message is about to be settled: the place is free for the next one.
    pub(crate) fn released(&mut self, function: &Arc<str>) {
        self.running -= 1;
        self.change(function, |lane| lane.running -= 1);
    }

    /// A message is not kept any more, or not at its old place: it was delivered, buried, or is due again at `due_ms`.
    pub(crate) fn settled(&mut self, place: &Place, due_ms: Option<u64>) {
        self.change(&place.function, |lane| {
            lane.taken.remove(&place.id);
            match due_ms {
                Some(due_ms) => {
                    lane.next_ms = Some(lane.next_ms.map_or(due_ms, |next| next.min(due_ms)));
                }
                None => lane.depth = lane.depth.saturating_sub(1),
            }
        });
    }

    /// A shared queue was looked at: it holds `depths` messages by function, those in flight anywhere included.
    ///
    /// What is not in flight here may be for others to deliver, or may not be due; only a fetch tells.
    pub(crate) fn observed(&mut self, depths: &[(Arc<str>, u64)], now_ms: u64) {
        let present: HashSet<&str> = depths.iter().map(|(function, _)| &**function).collect();
        let absent: Vec<_> =
            self.by_function.keys().filter(|name| !present.contains(&***name)).cloned().collect();
        for function in absent {
            self.change(&function, |lane| lane.depth = 0);
        }
        for (function, depth) in depths {
            self.change(function, |lane| {
                lane.depth = *depth;
                if usize::try_from(*depth).unwrap_or(usize::MAX) > lane.taken.len() {
                    lane.next_ms = Some(lane.next_ms.map_or(now_ms, |next| next.min(now_ms)));
                }
            });
        }
    }

    /// How many functions have messages.
    pub(crate) fn functions(&self) -> usize {
        self.by_function.len()
    }

    /// Whether `function` has messages.
    pub(crate) fn has(&self, function: &str) -> bool {
        self.by_function.contains_key(function)
    }

    /// Deliveries under way.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// All functions with messages, in no order.
    pub(crate) fn views(&self) -> Vec<(Arc<str>, LaneView)> {
        let view = |lane: &Lane| LaneView { depth: lane.depth, running: lane.running };
        self.by_function.iter().map(|(name, lane)| (Arc::clone(name), view(lane))).collect()
    }

    /// Changes a lane and puts it where it then belongs; an empty one is forgotten.
    fn change(&mut self, function: &Arc<str>, change: impl FnOnce(&mut Lane)) {
        let lane = self.by_function.entry(Arc::clone(function)).or_default();
        if let Some(due_ms) = lane.open_at() {
            self.open.remove(&(due_ms, Arc::clone(function)));
        }
        change(lane);
        if let Some(due_ms) = lane.open_at() {
            self.open.insert((due_ms, Arc::clone(function)));
        } else if lane.is_over() {
            self.by_function.remove(function);
        }
    }
}

impl Lane {
    /// When messages may be fetched for this lane.
    fn open_at(&self) -> Option<u64> {
        let is_full = self.limit.is_some_and(|limit| self.running >= limit);
        self.next_ms.filter(|_| !is_full && !self.is_fetching)
    }

    fn is_over(&self) -> bool {
        self.depth == 0 && self.running == 0 && self.taken.is_empty() && !self.is_fetching
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn the_longest_due_function_comes_first_and_only_once() {
        let mut lanes = Lanes::new(8);
        lanes.kept(&name("late"), 20, 1);
        lanes.kept(&name("early"), 10, 1);
        lanes.kept(&name("future"), 99, 1);
        assert_eq!(&*lanes.next(50).unwrap().function, "early");
        assert_eq!(&*lanes.next(50).unwrap().function, "late");
        assert_eq!(lanes.next(50), None);
        assert_eq!(lanes.wakes_at(), Some(99));
    }

    #[test]
    fn a_function_gets_its_limit_and_all_together_the_workers() {
        let mut lanes = Lanes::new(3);
        for function in ["a", "b"] {
            lanes.kept(&name(function), 1, 10);
        }
        let (a, b) = (lanes.next(5).unwrap(), lanes.next(5).unwrap());
        assert_eq!(lanes.reserve(&a, 2), 2);
        assert_eq!(lanes.reserve(&b, 2), 1, "one worker is left");
        lanes.fetched(&a, 2, &[1, 2], Some(1));
        lanes.fetched(&b, 1, &[3], Some(1));
        assert_eq!((lanes.next(5), lanes.wakes_at()), (None, None));
        lanes.released(&name("a"));
        assert_eq!(
            &*lanes.next(5).unwrap().function,
            "a",
            "b is first by name order only when a is full"
        );
        assert_eq!(lanes.taken("a").len(), 2, "not settled yet, so not to be fetched again");
        lanes.settled(&Place { function: name("a"), due_ms: 1, id: 1 }, None);
        assert_eq!(lanes.taken("a").len(), 1);
    }

    #[test]
    fn what_is_kept_during_a_fetch_is_not_forgotten() {
        let mut lanes = Lanes::new(4);
        lanes.kept(&name("f"), 1, 1);
        let turn = lanes.next(1).unwrap();
        let reserved = lanes.reserve(&turn, 4);
        lanes.kept(&name("f"), 2, 1);
        lanes.fetched(&turn, reserved, &[1], None);
        assert_eq!(&*lanes.next(2).unwrap().function, "f");
    }

    #[test]
    fn what_a_shared_queue_holds_replaces_what_was_known() {
        let mut lanes = Lanes::new(4);
        lanes.kept(&name("mine"), 1, 1);
        let turn = lanes.next(1).unwrap();
        let reserved = lanes.reserve(&turn, 4);
        lanes.fetched(&turn, reserved, &[1], None);
        lanes.observed(&[(name("mine"), 1), (name("theirs"), 3)], 5);
        assert_eq!(&*lanes.next(5).unwrap().function, "theirs");
        assert_eq!(lanes.next(5), None, "the only one of mine is in flight");
        lanes.observed(&[(name("theirs"), 3)], 6);
        assert!(lanes.has("mine"), "still in flight");
        lanes.released(&name("mine"));
        lanes.settled(&Place { function: name("mine"), due_ms: 1, id: 1 }, None);
        assert!(!lanes.has("mine"));
    }

    proptest! {
        /// A plain model: every message is delivered once, limits hold, and no lane is left at the end.
        #[test]
        fn nothing_is_lost_doubled_or_left(
            work in prop::collection::vec((0..4u8, 0..3u8), 1..60), workers in 1..5usize, limit in 1..4usize,
        ) {
            let mut lanes = Lanes::new(workers);
            let mut stored: BTreeMap<(Arc<str>, u64, u64), ()> = BTreeMap::new();
            for (id, (function, _)) in work.iter().enumerate() {
                let function = name(&format!("f{function}"));
                stored.insert((function.clone(), 0, id as u64), ());
                lanes.kept(&function, 0, 1);
            }
            let (mut now, mut flying, mut done, mut retried) = (0, Vec::new(), 0, HashSet::new());
            while done < work.len() {
                now += 1;
                while let Some(turn) = lanes.next(now) {
                    let reserved = lanes.reserve(&turn, limit);
                    let taken = lanes.taken(&turn.function);
                    let mut rows = stored.keys()
                        .filter(|(f, _, id)| *f == turn.function && !taken.contains(id)).cloned();
                    let fetched: Vec<_> = rows.by_ref().take(reserved).filter(|row| row.1 <= now).collect();
                    let first_left = stored.keys()
                        .find(|row| row.0 == turn.function && !taken.contains(&row.2) && !fetched.contains(row));
                    let ids: Vec<_> = fetched.iter().map(|row| row.2).collect();
                    lanes.fetched(&turn, reserved, &ids, first_left.map(|row| row.1));
                    flying.extend(fetched);
                    prop_assert!(flying.len() <= workers && lanes.running() == flying.len());
                    for f in 0..4u8 {
                        let f = name(&format!("f{f}"));
                        prop_assert!(flying.iter().filter(|row| row.0 == f).count() <= limit);
                    }
                }
                let Some(row) = flying.pop() else { continue };
                let place = Place { function: row.0.clone(), due_ms: row.1, id: row.2 };
                lanes.released(&place.function);
                stored.remove(&row);
                let wants_retry = work[usize::try_from(row.2).unwrap()].1 == 0;
                if wants_retry && retried.insert(row.2) {
                    stored.insert((row.0, now + 3, row.2), ());
                    lanes.settled(&place, Some(now + 3));
                } else {
                    lanes.settled(&place, None);
                    done += 1;
                }
            }
            prop_assert!(stored.is_empty());
            prop_assert_eq!((lanes.functions(), lanes.running(), lanes.open.len()), (0, 0, 0));
        }
    }
}
