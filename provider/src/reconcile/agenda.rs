//! Which functions are to be planned, and when.
//!
//! Always: each due function once; those that waited for a start to end come first, in the order in which they began to wait.
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
    /// Functions that miss replicas while too many starts are under way, each once; and the same to look up.
    starved: VecDeque<FunctionKey>,
    is_starved: HashSet<FunctionKey>,
}

impl Agenda {
    /// Every function to be planned now, each once; of those that wait for a start, as many as `starts` may begin.
    pub(super) fn due(
        &mut self,
        functions: &Arc<Functions>,
        dirty: HashSet<FunctionKey>,
        starts: usize,
        now: Moment,
    ) -> Vec<FunctionKey> {
        let mut due = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |key: FunctionKey| {
            if seen.insert(key.clone()) {
                due.push(key);
            }
        };
        for key in self.starved.drain(..starts.min(self.starved.len())) {
            self.is_starved.remove(&key);
            add(key);
        }
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
        if self.is_starved.insert(key.clone()) {
            self.starved.push_back(key.clone());
        }
    }

    /// Whether some function waits for a start.
    pub(super) fn is_anyone_starved(&self) -> bool {
        !self.starved.is_empty()
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
        assert_eq!(names(&agenda.due(&functions, dirty(), 0, at(5))), ["a"]);
        assert_eq!(names(&agenda.due(&functions, HashSet::new(), 1, at(5))), ["s"]);
        agenda.wait_for_start(&key("s"));
        assert!(agenda.is_anyone_starved());
        assert_eq!(names(&agenda.due(&functions, dirty(), 4, at(20))), ["a", "s"]);
        assert!(!agenda.is_anyone_starved());
        assert_eq!(agenda.next(), Some(at(500)));
        assert!(agenda.due(&functions, HashSet::new(), 4, at(20)).is_empty());
        let end = at(500).after(Duration::from_secs(1));
        assert_eq!(names(&agenda.due(&functions, HashSet::new(), 4, end)), ["late"]);
    }
}
