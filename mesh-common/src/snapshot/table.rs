//! A hash table that shares what did not change with its clones.
//!
//! A clone counts one reference. A change after a clone copies the one shard of 256 that it falls into: with
//! 100,000 entries some 400 of them, shallowly. Lookups hash once and follow one pointer more than a plain table.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

const SHARDS: usize = 256;

type Shard<K, V> = Arc<HashTable<(K, V)>>;

/// A hash table that is cheap to clone and cheap to change after it.
#[derive(Clone)]
pub(super) struct Table<K, V> {
    shards: Arc<[Shard<K, V>; SHARDS]>,
    length: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { shards: Arc::new(std::array::from_fn(|_| Arc::clone(&empty))), length: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Table<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = hash(key);
        self.shards[shard(hash)].find(hash, |(other, _)| other.borrow() == key).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let hash_of_key = hash(&key);
        match self.shard_mut(hash_of_key).entry(hash_of_key, |(other, _)| *other == key, |(key, _)| hash(key))
        {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(entry) => {
                entry.insert((key, value));
                self.length += 1;
            }
        }
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let hash = hash(key);
        let entry = self.shard_mut(hash).find_entry(hash, |(other, _)| other.borrow() == key).ok()?;
        let ((_, value), _) = entry.remove();
        self.length -= 1;
        Some(value)
    }

    /// Changes the value of a key, made by default where there is none, and drops it if `change` says that nothing
    /// is left of it.
    pub(super) fn update(&mut self, key: &K, change: impl FnOnce(&mut V) -> Left)
    where
        V: Default,
    {
        let hash_of_key = hash(key);
        match self.shard_mut(hash_of_key).entry(hash_of_key, |(other, _)| other == key, |(key, _)| hash(key))
        {
            Entry::Occupied(mut entry) => {
                if change(&mut entry.get_mut().1) == Left::Nothing {
                    entry.remove();
                    self.length -= 1;
                }
            }
            Entry::Vacant(entry) => {
                let mut value = V::default();
                if change(&mut value) == Left::Something {
                    entry.insert((key.clone(), value));
                    self.length += 1;
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    fn shard_mut(&mut self, hash: u64) -> &mut HashTable<(K, V)> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard(hash)])
    }
}

/// Whether a change left anything of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Something,
    Nothing,
}

impl Left {
    pub(super) fn unless(empty: bool) -> Self {
        if empty { Self::Nothing } else { Self::Something }
    }
}

// The keys are names and addresses from the cluster's own objects: a fixed seed keeps the crate free of randomness.
fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    FixedState::with_seed(0x006e_6f64_656d_6573).hash_one(key)
}

// hashbrown takes the low bits for the bucket and the top seven for its tags.
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl<K: Hash + Eq + Clone, V: Clone + PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut table = Table::default();
        table.insert(1, "one");
        let clone = table.clone();
        table.insert(1, "uno");
        table.insert(2, "two");
        assert_eq!((clone.get(&1), clone.get(&2), clone.length), (Some(&"one"), None, 1));
        assert_eq!((table.get(&1), table.get(&2), table.length), (Some(&"uno"), Some(&"two"), 2));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds(changes in proptest::collection::vec((0u16..40, any::<Option<u8>>()), 0..200)) {
            let mut table = Table::default();
            let mut model = HashMap::new();
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        table.insert(key, value);
                        model.insert(key, value);
                    }
                    None => prop_assert_eq!(table.remove(&key), model.remove(&key)),
                }
                prop_assert_eq!(table.length, model.len());
            }
            prop_assert_eq!(table.iter().map(|(key, value)| (*key, *value)).collect::<HashMap<_, _>>(), model);
        }
    }
}
