//! The rows of a running fold, in few bytes each: one transaction may change millions.
//!
//! Arrives: keys and states. Leaves: the same, by the place of the row. Owns: a row with an integer
//! key takes 28 bytes, beside up to 10 in the index, without an allocation of its own. Rows mostly
//! have their table, sites and marks in common with many others, so each row only holds the number
//! of such a `Class`. Memory only.

use crate::capture::row_index::{RowIndex, number_of};
use crate::capture::row_keys::{Identity, KeyBytes};
use crate::db::layout::TableLayout;
use crate::db::sql::{canonical_key, exact_integer};
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site, Version};
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::Arc;

/// What the entries of a row have made of it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its version.
    pub real: Version,
    /// The version of its writer before the unpublished entries, once it is known.
    pub previous: Option<Version>,
    /// The time of its version if REPLACE has removed it; 0 if that is not possible.
    pub floor: Hlc,
    /// The version before its last entry. Only for a planted bug, see
    /// [`crate::model::planted_bugs::Bug::MergedEntries`]; [`Version::NONE`] else.
    pub merged_from: Version,
    /// The marks below.
    pub marks: u8,
}

impl State {
    /// It was written.
    pub const CHANGED: u8 = 1;
    /// REPLACE may have removed it.
    pub const DISPLACED: u8 = 2;
    /// It is to be published again.
    pub const REPUBLISH: u8 = 4;
    /// It has an entry that is not published.
    pub const NEW: u8 = 8;
    /// Its version is not stored yet.
    pub const UNABSORBED: u8 = 16;
    /// It is not to be published after all.
    pub const DROPPED: u8 = 32;

    /// Creates the state of a row without entries.
    pub fn new(real: Version) -> Self {
        Self { real, previous: None, floor: Hlc(0), merged_from: Version::NONE, marks: 0 }
    }

    /// Returns whether it has this mark.
    pub fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn rare(&self) -> Option<Rare> {
        let is_rare = self.floor != Hlc(0) || self.merged_from != Version::NONE;
        is_rare.then_some(Rare { floor: self.floor, merged_from: self.merged_from })
    }
}

/// What many rows have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Class {
    table: u32,
    real: Site,
    previous: Option<Site>,
    marks: u8,
    /// Its key is in [`KeyBytes`], and the number in the row is its place there.
    has_key_bytes: bool,
    /// It has an entry in [`RowStates::rare`].
    is_rare: bool,
}

/// Packed, because padding would take an eighth of all memory.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Row {
    key: i64,
    real: Hlc,
    previous: Hlc,
    class: u32,
}

/// What few rows have.
#[derive(Clone, Copy)]
struct Rare {
    floor: Hlc,
    merged_from: Version,
}

/// Rows by their place, which is the order of their first entry.
#[derive(Default)]
pub struct RowStates {
    rows: Vec<Row>,
    classes: Vec<Class>,
    class_numbers: HashMap<Class, u32, RandomState>,
    tables: Vec<Arc<TableLayout>>,
    table_numbers: HashMap<i64, u32, RandomState>,
    keys: KeyBytes,
    index: RowIndex,
    rare: HashMap<u32, Rare, RandomState>,
    /// The integer keys that were spelled as a float.
    floats: HashMap<u32, f64, RandomState>,
    /// The numbers of the last two: a new row has one before its first entry and one after it.
    last_classes: [u32; 2],
    last_table: u32,
}

/// The place of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was here before.
    Known(usize),
    /// It is new, and has an empty state.
    New(usize),
}

impl RowStates {
    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether a row has, or had, what few rows have: a floor.
    pub fn has_rare(&self) -> bool {
        !self.rare.is_empty()
    }

    /// Returns the place of a row, and makes one if it has none.
    pub fn place(&mut self, table: &Arc<TableLayout>, key: &[Value]) -> Place {
        let number = self.table_number(table);
        let mut scratch = self.keys.take_scratch();
        let identity = Identity::of(table, key, &mut scratch);
        let Self { rows, classes, keys, index, .. } = self;
        let identity_at = |at: usize| identity_of(rows, classes, keys, at);
        let found = index.find_or_add(rows.len(), (number, identity), identity_at);
        let place = match found {
            Some(at) => Place::Known(at),
            None => {
                let at = self.rows.len();
                let has_key_bytes = !matches!(identity, Identity::Integer(_));
                let place = match identity {
                    Identity::Integer(integer) => integer,
                    Identity::Bytes(canonical) => self.keys.push(canonical, key),
                };
                if let ([Value::Real(float)], false) = (key, has_key_bytes) {
                    self.floats.insert(number_of(at), *float);
                }
                self.push(number, place, has_key_bytes);
                Place::New(at)
            }
        };
        self.keys.put_back(scratch);
        place
    }

    fn push(&mut self, table: u32, key: i64, has_key_bytes: bool) {
        let class = self.class(Class {
            table,
            real: Site(0),
            previous: None,
            marks: 0,
            has_key_bytes,
            is_rare: false,
        });
        self.rows.push(Row { key, real: Hlc(0), previous: Hlc(0), class });
    }

    /// Returns the place of a row, if it has one.
    pub fn find(&self, table: &TableLayout, key: &[Value]) -> Option<usize> {
        let number = *self.table_numbers.get(&table.id)?;
        let mut scratch = Vec::new();
        let identity = Identity::of(table, key, &mut scratch);
        let identity_at = |at: usize| identity_of(&self.rows, &self.classes, &self.keys, at);
        self.index.find(self.rows.len(), (number, identity), identity_at)
    }

    /// Returns the state of the row at this place.
    pub fn state(&self, at: usize) -> State {
        let row = self.rows[at];
        let class = self.classes[row.class as usize];
        let rare = if class.is_rare { self.rare.get(&number_of(at)) } else { None };
        State {
            real: Version { hlc: row.real, site: class.real },
            previous: class.previous.map(|site| Version { hlc: row.previous, site }),
            floor: rare.map_or(Hlc(0), |rare| rare.floor),
            merged_from: rare.map_or(Version::NONE, |rare| rare.merged_from),
            marks: class.marks,
        }
    }

    /// Replaces the state of the row at this place.
    pub fn set_state(&mut self, at: usize, state: &State) {
        let before = self.classes[self.rows[at].class as usize];
        let rare = state.rare();
        if let Some(rare) = rare {
            self.rare.insert(number_of(at), rare);
        }
        let class = self.class(Class {
            real: state.real.site,
            previous: state.previous.map(|version| version.site),
            marks: state.marks,
            is_rare: rare.is_some(),
            ..before
        });
        let row = &mut self.rows[at];
        row.real = state.real.hlc;
        row.previous = state.previous.map_or(Hlc(0), |version| version.hlc);
        row.class = class;
    }

    /// Returns the places of the rows in the order in which the trees of their tables hold them, as
    /// far as the beginning of the key tells. Writing random keys in this order visits each page
    /// once: absorbing UUIDs takes a seventh less time (docs/performance.md).
    pub fn in_key_order(&self) -> Vec<u32> {
        if let RowIndex::Ascending { .. } = self.index {
            return (0..number_of(self.count())).collect();
        }
        let mut order: Vec<(u32, u128, u32)> = (0..self.count())
            .map(|at| {
                let (table, identity) = identity_of(&self.rows, &self.classes, &self.keys, at);
                (table, identity.beginning(), number_of(at))
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, at)| at).collect()
    }

    /// Returns the table of the row at this place.
    pub fn table(&self, at: usize) -> &Arc<TableLayout> {
        &self.tables[self.classes[self.rows[at].class as usize].table as usize]
    }

    /// Returns the key of the row at this place, if it is an integer.
    pub fn integer_key(&self, at: usize) -> Option<i64> {
        let row = self.rows[at];
        let is_integer = !self.classes[row.class as usize].has_key_bytes
            && (self.floats.is_empty() || !self.floats.contains_key(&number_of(at)));
        is_integer.then_some(row.key)
    }

    /// Reads the key of the row at this place, as its first entry spells it, into the memory of
    /// another one.
    pub fn key(&self, at: usize, key: &mut Vec<Value>) {
        let row = self.rows[at];
        if self.classes[row.class as usize].has_key_bytes {
            return self.keys.read(row.key, key);
        }
        key.clear();
        key.push(match self.floats.get(&number_of(at)) {
            Some(float) => Value::Real(*float),
            None => Value::Integer(row.key),
        });
    }

    fn table_number(&mut self, table: &Arc<TableLayout>) -> u32 {
        if self.tables.get(self.last_table as usize).is_some_and(|last| last.id == table.id) {
            return self.last_table;
        }
        self.last_table = *self.table_numbers.entry(table.id).or_insert_with(|| {
            self.tables.push(Arc::clone(table));
            number_of(self.tables.len() - 1)
        });
        self.last_table
    }

    fn class(&mut self, class: Class) -> u32 {
        let [last, before] = self.last_classes;
        for known in [last, before] {
            if self.classes.get(known as usize) == Some(&class) {
                return known;
            }
        }
        let number = *self.class_numbers.entry(class).or_insert_with(|| {
            self.classes.push(class);
            number_of(self.classes.len() - 1)
        });
        self.last_classes = [number, last];
        number
    }
}

fn identity_of<'k>(
    rows: &[Row],
    classes: &[Class],
    keys: &'k KeyBytes,
    at: usize,
) -> (u32, Identity<'k>) {
    let row = rows[at];
    let class = &classes[row.class as usize];
    let identity = match class.has_key_bytes {
        true => Identity::Bytes(keys.canonical(row.key)),
        false => Identity::Integer(row.key),
    };
    (class.table, identity)
}

impl<'s> Identity<'s> {
    /// Returns what is equal exactly for keys of the same row of this table.
    fn of(table: &TableLayout, key: &[Value], scratch: &'s mut Vec<u8>) -> Self {
        let integer = match key {
            [Value::Integer(integer)] => Some(*integer),
            [Value::Real(float)] => exact_integer(*float),
            _ => None,
        };
        if let Some(integer) = integer {
            return Self::Integer(integer);
        }
        scratch.clear();
        for (value, column) in key.iter().zip(&table.schema.key) {
            canonical_key(value, column.collation, scratch);
        }
        Self::Bytes(scratch)
    }
}

#[cfg(test)]
#[path = "row_states_tests.rs"]
mod tests;
