//! Things with numbers that are never used twice, in places that are.

/// Names one thing for ever: its place, and how many were there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    place: u32,
    turn: u32,
}

impl Id {
    /// A number that no other living thing has; small, and used again when this one is gone.
    pub fn place(self) -> u32 {
        self.place
    }

    /// The name with this [`Id::serial`].
    #[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
    pub fn from_serial(serial: u64) -> Self {
        Self { place: serial as u32, turn: (serial >> 32) as u32 }
    }

    /// A number that no other thing ever has.
    pub fn serial(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.place)
    }
}

/// Things by [`Id`].
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps `thing`.
    ///
    /// # Panics
    /// Beyond 2^32 things at the same time.
    pub fn insert(&mut self, thing: T) -> Id {
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place as usize];
            slot.1 = Some(thing);
            return Id { place, turn: slot.0 };
        }
        let place = u32::try_from(self.places.len()).expect("memory ends before");
        self.places.push((0, Some(thing)));
        Id { place, turn: 0 }
    }

    /// The thing, unless it is gone.
    pub fn at(&self, id: Id) -> Option<&T> {
        let (turn, thing) = self.places.get(id.place as usize)?;
        thing.as_ref().filter(|_| *turn == id.turn)
    }

    /// The thing, to be changed, unless it is gone.
    pub fn at_mut(&mut self, id: Id) -> Option<&mut T> {
        let (turn, thing) = self.places.get_mut(id.place as usize)?;
        thing.as_mut().filter(|_| *turn == id.turn)
    }

    /// Takes the thing away for ever.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        self.at(id)?;
        let slot = &mut self.places[id.place as usize];
        slot.0 += 1;
        self.free.push(id.place);
        slot.1.take()
    }

    /// The name of what is at `place` now.
    pub fn id(&self, place: u32) -> Option<Id> {
        let (turn, thing) = self.places.get(place as usize)?;
        thing.as_ref().map(|_| Id { place, turn: *turn })
    }

    /// All things, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.places.iter().enumerate().filter_map(|(place, (turn, thing))| {
            let place = u32::try_from(place).ok()?;
            Some((Id { place, turn: *turn }, thing.as_ref()?))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_used_twice_and_a_place_is() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!((slab.remove(a), slab.at(a)), (None, None));
        let c = slab.insert('c');
        assert_eq!((c.place(), slab.id(0)), (a.place(), Some(c)));
        assert_ne!(c, a);
        assert_ne!(c.serial(), a.serial());
        assert_eq!(Id::from_serial(c.serial()), c);
        *slab.at_mut(b).unwrap() = 'd';
        assert_eq!(slab.iter().map(|(_, thing)| *thing).collect::<String>(), "cd");
        assert_eq!((slab.len(), slab.is_empty()), (2, false));
    }
}
