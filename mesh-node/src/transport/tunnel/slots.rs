//! A slab whose keys are never mistaken: each carries a generation, so a key that outlives its entry finds nothing.

use slab::Slab;

/// Names an entry for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// Bits of a generation in a key, so that kind, generation and index fit into epoll's 64 bits.
const GENERATION_BITS: u32 = 28;

/// Entries by [`Key`].
#[derive(Debug)]
pub(in crate::transport) struct Slots<T> {
    slab: Slab<(u32, T)>,
    next_generation: u32,
}

impl Key {
    /// As a number below 2^60.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let generation = (bits >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
        Self { index: bits as u32, generation }
    }
}

impl<T> Slots<T> {
    pub(in crate::transport) fn new() -> Self {
        Self { slab: Slab::new(), next_generation: 0 }
    }

    pub(in crate::transport) fn insert(&mut self, value: T) -> Key {
        self.next_generation = (self.next_generation + 1) & ((1 << GENERATION_BITS) - 1);
        let generation = self.next_generation;
        let index = self.slab.insert((generation, value));
        Key { index: u32::try_from(index).expect("descriptors are far fewer than 2^32"), generation }
    }

    pub(in crate::transport) fn get(&self, key: Key) -> Option<&T> {
        match self.slab.get(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(in crate::transport) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slab.get_mut(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(in crate::transport) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index as usize).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slab
            .iter()
            .map(|(index, (generation, value))| (Key { index: index as u32, generation: *generation }, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slab.iter_mut().map(|(_, (_, value))| value)
    }

    /// The keys of now, to go through while entries come and go.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_the_next_entry_in_its_place() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&'b')));
        assert_eq!(Key::from_bits(second.to_bits()), second);
    }
}
