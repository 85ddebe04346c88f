//! Finds the place of a row by its identity.
//!
//! Arrives: a table and an identity. Leaves: the place of the row. Owns: rows with ascending
//! integer keys, as a bulk load has, need no memory here and no hashing. The first row out of this
//! order lets all be hashed. Memory only.

use crate::capture::row_keys::Identity;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::cmp::Ordering;
use std::hash::BuildHasher;

/// The number of a table and the identity of a row in it.
pub type Key<'k> = (u32, Identity<'k>);

/// The places of rows.
pub enum RowIndex {
    /// All keys are integers, and in ascending order. With the place after the last one found:
    /// rows that are changed again mostly come in the same order again.
    Ascending { next: usize },
    /// The places by the hash of the key.
    Hashed { places: HashTable<u32>, hasher: RandomState },
}

impl Default for RowIndex {
    fn default() -> Self {
        Self::Ascending { next: 0 }
    }
}

impl RowIndex {
    /// Returns the place of a row among `rows`. `key_at` returns the key of the row at a place.
    pub fn find<'k>(
        &self,
        rows: usize,
        key: Key<'_>,
        key_at: impl Fn(usize) -> Key<'k>,
    ) -> Option<usize> {
        match self {
            // A row that was appended since.
            Self::Ascending { .. } if rows == 0 || key_at(rows - 1) < key => None,
            Self::Ascending { .. } => search(rows, key, key_at),
            Self::Hashed { places, hasher } => places
                .find(hasher.hash_one(key), |at| key_at(*at as usize) == key)
                .map(|at| *at as usize),
        }
    }

    /// Returns the place of a row among `rows`. If it has none, its place is `rows` from now on,
    /// and the caller adds it there.
    pub fn find_or_add<'k>(
        &mut self,
        rows: usize,
        key: Key<'_>,
        key_at: impl Fn(usize) -> Key<'k>,
    ) -> Option<usize> {
        if let Self::Ascending { next } = self {
            let is_integer = matches!(key.1, Identity::Integer(_));
            if is_integer && (rows == 0 || key_at(rows - 1) < key) {
                return None;
            }
            let found = match *next < rows && key_at(*next) == key {
                true => Some(*next),
                false => search(rows, key, &key_at),
            };
            if let Some(at) = found {
                *next = at + 1;
                return found;
            }
            *self = Self::hashed(rows, &key_at);
        }
        let Self::Hashed { places, hasher } = self else { return None };
        let hash = hasher.hash_one(key);
        let found = places.find(hash, |at| key_at(*at as usize) == key).map(|at| *at as usize);
        if found.is_none() {
            places.insert_unique(hash, number_of(rows), |at| hasher.hash_one(key_at(*at as usize)));
        }
        found
    }

    fn hashed<'k>(rows: usize, key_at: impl Fn(usize) -> Key<'k>) -> Self {
        let hasher = RandomState::default();
        let mut places = HashTable::with_capacity(rows + 1);
        let hash = |at: &u32| hasher.hash_one(key_at(*at as usize));
        for at in (0..rows).map(number_of) {
            places.insert_unique(hash(&at), at, hash);
        }
        Self::Hashed { places, hasher }
    }
}

/// Places fit in 32 bits: four billion rows would take more than 100 GB.
pub fn number_of(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Searches among rows in ascending order.
fn search<'k>(rows: usize, key: Key<'_>, key_at: impl Fn(usize) -> Key<'k>) -> Option<usize> {
    let (mut from, mut to) = (0, rows);
    while from < to {
        let middle = from + (to - from) / 2;
        match key_at(middle).cmp(&key) {
            Ordering::Less => from = middle + 1,
            Ordering::Greater => to = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}
