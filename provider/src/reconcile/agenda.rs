//! Which functions are to be planned, and when.
//!
//! Always: each due function once; those that waited for something which others had come first, in the order in which they began
//! to wait.
//! Cost: what happened to some functions costs nothing for the others, except that a change of the catalog is found by one pass
//! over it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use crate::catalog::Functions;

/// What is to be planned.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// The catalog as it was last looked at.
    known: Arc<Functions>,
    /// Functions to look at again, by time; and the same by function.
    times: BTreeSet<(Moment, FunctionKey)>,
    by_key: HashMap<FunctionKey, Moment>,
    /// Functions that miss replicas while too many starts are under way.
    starved: Queue,
    /// Functions that nothing serves, without a place as a guest; and others that would have one.
    unserved: Queue,
    short: Queue,
    /// Functions whose images are to be looked at when there is time.
    unseen: Queue,
}

/// Functions that wait, each once, in the order in which they began to.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<FunctionKey>,
    members: HashSet<FunctionKey>,
}

impl Queue {
    fn push(&mut self, key: &FunctionKey) {
        if self.members.insert(key.clone()) {
            self.order.push_back(key.clone());
        }
    }

    /// Hands the first `most` to `add`; how many there were.
    fn take(&mut self, most: usize, mut add: impl FnMut(FunctionKey)) -> usize {
        let count = most.min(self.order.len());
        for key in self.order.drain(..count) {
            self.members.remove(&key);
            add(key);
        }
        count
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

/// What there is for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Room {
    /// Starts that may begin.
    pub(super) starts: usize,
    /// Visits that may begin.
    pub(super) visits: usize,
    /// Images that may be looked up.
    pub(super) lookups: usize,
}

impl Agenda {
    /// Every function to be planned now, each once; of those that wait for something, as many as there is `room` for.
    pub(super) fn due(
        &mut self,
        functions: &Arc<Functions>,
        dirty: HashSet<FunctionKey>,
        room: Room,
        now: Moment,
    ) -> Vec<FunctionKey> {
        let mut due = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |key: FunctionKey| {
            if seen.insert(key.clone()) {
                due.push(key);
            }
        };
        let visits = self.unserved.take(room.visits, &mut add);
        self.starved.take(room.starts, &mut add);
        self.short.take(room.visits - visits, &mut add);
        self.unseen.take(room.lookups, &mut add);
        while let Some((at, _)) = self.times.first()
            && *at <= now
        {
            let Some((_, key)) = self.times.pop_first() else { break };
            self.by_key.remove(&key);
            add(key);
        }
        dirty.into_iter().for_each(&mut add);
        self.changed(functions).into_iter().for_each(&mut add);
        due
    }

    /// Functions that differ from when this was last asked.
    fn changed(&mut self, functions: &Arc<Functions>) -> Vec<FunctionKey> {
        if Arc::ptr_eq(&self.known, functions) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.known, Arc::clone(functions));
        let is_new = |key: &FunctionKey, function| {
            before.get(key).is_none_or(|old| !Arc::ptr_eq(old, function))
        };
        let new = functions.iter().filter(|(key, function)| is_new(key, function));
        let gone = before.keys().filter(|key| !functions.contains_key(*key));
        new.map(|(key, _)| key).chain(gone).cloned().collect()
    }

    /// Plans `key` at `at`; an earlier time that was set before holds no more, since it has been planned meanwhile.
    pub(super) fn look_at(&mut self, key: &FunctionKey, at: Moment) {
        if let Some(old) = self.by_key.insert(key.clone(), at) {
            self.times.remove(&(old, key.clone()));
        }
        self.times.insert((at, key.clone()));
    }

    /// Plans `key` again as soon as a start may begin.
    pub(super) fn wait_for_start(&mut self, key: &FunctionKey) {
        self.starved.push(key);
    }

    /// Whether some function waits for a start.
    pub(super) fn is_anyone_starved(&self) -> bool {
        self.starved.len() > 0
    }

    /// Plans `key` again as soon as there is a place for a guest; those that nothing serves go first.
    pub(super) fn wait_for_place(&mut self, key: &FunctionKey, is_unserved: bool) {
        let queue = if is_unserved { &mut self.unserved } else { &mut self.short };
        queue.push(key);
    }

    /// Plans `key` again as soon as there is time to look at its image.
    pub(super) fn wait_for_lookup(&mut self, key: &FunctionKey) {
        self.unseen.push(key);
    }

    /// Whether functions that nothing serves wait for a place.
    pub(super) fn has_unserved(&self) -> bool {
        self.unserved.len() > 0
    }

    /// How many wait for a place.
    pub(super) fn waiting_for_places(&self) -> usize {
        self.unserved.len() + self.short.len()
    }

    /// When the next function is due by time.
    pub(super) fn next(&self) -> Option<Moment> {
        self.times.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyperfaas_protocol::{FunctionName, Namespace};

    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse(name).unwrap(),
        }
    }

    fn names(keys: &[FunctionKey]) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn each_due_function_once_and_the_starved_first() {
        let mut agenda = Agenda::default();
        let (functions, at) = (Arc::new(Functions::new()), Moment::from_millis);
        agenda.look_at(&key("late"), at(500));
        agenda.look_at(&key("a"), at(90));
        agenda.look_at(&key("a"), at(10));
        agenda.wait_for_start(&key("s"));
        agenda.wait_for_start(&key("a"));
        agenda.wait_for_start(&key("s"));
        let dirty = || HashSet::from([key("a")]);
        let starts = |starts| Room { starts, ..Room::default() };
        assert_eq!(names(&agenda.due(&functions, dirty(), starts(0), at(5))), ["a"]);
        assert_eq!(names(&agenda.due(&functions, HashSet::new(), starts(1), at(5))), ["s"]);
        agenda.wait_for_start(&key("s"));
        assert!(agenda.is_anyone_starved());
        assert_eq!(names(&agenda.due(&functions, dirty(), starts(4), at(20))), ["a", "s"]);
        assert!(!agenda.is_anyone_starved());
        assert_eq!(agenda.next(), Some(at(500)));
        assert!(agenda.due(&functions, HashSet::new(), starts(4), at(20)).is_empty());
        let end = at(500).after(Duration::from_secs(1));
        assert_eq!(names(&agenda.due(&functions, HashSet::new(), starts(4), end)), ["late"]);
    }

    #[test]
    fn places_go_to_those_that_nothing_serves_before_all_others_and_in_turn() {
        let mut agenda = Agenda::default();
        let functions = Arc::new(Functions::new());
        let due = |agenda: &mut Agenda, room| {
            let keys = agenda.due(&functions, HashSet::new(), room, Moment::ZERO);
            names(&keys).join(" ")
        };
        agenda.wait_for_place(&key("served"), false);
        for name in ["a", "b", "c", "a"] {
            agenda.wait_for_place(&key(name), true);
            agenda.wait_for_lookup(&key(&format!("l{name}")));
        }
        let room = Room { visits: 2, lookups: 1, ..Room::default() };
        assert_eq!(due(&mut agenda, Room::default()), "");
        assert_eq!(due(&mut agenda, room), "a b la");
        assert!(agenda.has_unserved());
        assert_eq!(due(&mut agenda, room), "c served lb");
        assert_eq!(agenda.waiting_for_places(), 0);
        assert_eq!(due(&mut agenda, room), "lc");
    }
}
