//! Whose files the guest's are: the image's user becomes the guest's, everybody else stays.
//!
//! In: two identities. Out: mappings for `/proc/<pid>/uid_map` and the user namespaces that hold them.
//! Always: a mapping is one to one over all ids, so no file belongs to nobody and no two owners become one.
//! Touches: a few descriptors of user namespaces, kept because guests of fresh containers have the same few ids.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::super::sys;

/// Namespaces kept; each is one descriptor.
const KEPT: usize = 64;

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The identities a slot exchanges: files of `from` in the image belong to `to` in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// The image's user.
    pub from: Identity,
    /// The guest's.
    pub to: Identity,
}

/// Namespaces by what they exchange, the last used one last.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    known: VecDeque<(Exchange, Rc<OwnedFd>)>,
    /// Children that were needed; waiting for their end can wait.
    children: Vec<sys::Waiting>,
}

impl Namespaces {
    /// The namespace that maps as `exchange` says; `None` where nobody becomes somebody else.
    pub(super) fn of(&mut self, exchange: Exchange) -> io::Result<Option<Rc<OwnedFd>>> {
        if exchange.from == exchange.to {
            return Ok(None);
        }
        let known = self.known.iter().position(|(known, _)| *known == exchange);
        let entry = match known.and_then(|at| self.known.remove(at)) {
            Some(entry) => entry,
            None => {
                let uids = swap(exchange.from.uid, exchange.to.uid);
                let gids = swap(exchange.from.gid, exchange.to.gid);
                let (namespace, child) = sys::user_namespace(&uids, &gids)?;
                self.children.push(child);
                (exchange, Rc::new(namespace))
            }
        };
        let namespace = Rc::clone(&entry.1);
        self.known.push_back(entry);
        if self.known.len() > KEPT {
            self.known.pop_front();
        }
        Ok(Some(namespace))
    }

    /// Ends one of the children that were needed.
    pub(super) fn settle_one(&mut self) {
        drop(self.children.pop());
    }
}

/// The mapping that exchanges two ids, a line for each range: id on disk, id seen, count.
fn swap(a: u32, b: u32) -> String {
    let (low, high) = (a.min(b), a.max(b));
    if low == high {
        return format!("0 0 {}\n", u32::MAX);
    }
    let ranges = [
        (0, 0, low),
        (low, high, 1),
        (low + 1, low + 1, high - low - 1),
        (high, low, 1),
        (high.saturating_add(1), high.saturating_add(1), u32::MAX - high.saturating_add(1)),
    ];
    let filled = ranges.into_iter().filter(|(_, _, count)| *count > 0);
    filled.map(|(disk, seen, count)| format!("{disk} {seen} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(map: &str, id: u32) -> Option<u32> {
        map.lines().find_map(|line| {
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [disk, seen, count] = numbers[..] else { panic!("{line}") };
            (id >= disk && id - disk < count).then(|| seen + (id - disk))
        })
    }

    #[test]
    fn neighbours_and_ends_are_no_special_case() {
        assert_eq!(swap(0, 1), "0 1 1\n1 0 1\n2 2 4294967293\n");
        assert_eq!(swap(100, 200_007).lines().count(), 5);
        assert_eq!(swap(7, 7), "0 0 4294967295\n");
    }

    proptest! {
        /// Two ids change places, every other stays; the kernel's "nobody", the last number, is never mapped.
        #[test]
        fn exactly_two_ids_change_places(a in 0..u32::MAX, b in 0..u32::MAX, other in 0..u32::MAX) {
            let map = swap(a, b);
            prop_assert_eq!(seen(&map, a), Some(b));
            prop_assert_eq!(seen(&map, b), Some(a));
            if other != a && other != b {
                prop_assert_eq!(seen(&map, other), Some(other));
            }
            prop_assert_eq!(seen(&map, u32::MAX), None);
        }
    }
}
