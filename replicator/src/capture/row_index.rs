//! Finds the state of a row by its identity, optimised for integer keys.
//!
//! Arrives: a table and a key in any spelling. Leaves: the place of the row's state. Owns: two
//! spellings of one key (`COLLATE NOCASE`, 1 and 1.0) give one place. Pure.

use crate::db::layout::TableLayout;
use crate::db::sql::exact_integer;
use crate::model::batch::Value;
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// The places of rows.
#[derive(Default)]
pub struct RowIndex {
    integers: HashMap<(i64, i64), usize, RandomState>,
    /// By canonical bytes ([`TableLayout::canonical`]).
    others: HashMap<Vec<u8>, usize, RandomState>,
    /// The canonical bytes of the last key.
    canonical: Vec<u8>,
}

impl RowIndex {
    /// Returns the place of a row.
    pub fn get(&self, table: &TableLayout, key: &[Value]) -> Option<usize> {
        match integer(key) {
            Some(integer) => self.integers.get(&(table.id, integer)).copied(),
            None if self.others.is_empty() => None,
            None => self.others.get(&table.canonical(key)).copied(),
        }
    }

    /// Returns the place of a row. If it has none, it gets `next`, and the result is an error.
    pub fn get_or_insert(
        &mut self,
        table: &TableLayout,
        key: &[Value],
        next: usize,
    ) -> Result<usize, Vacant> {
        use std::collections::hash_map::Entry;
        if let Some(integer) = integer(key) {
            return match self.integers.entry((table.id, integer)) {
                Entry::Occupied(at) => Ok(*at.get()),
                Entry::Vacant(place) => {
                    place.insert(next);
                    Err(Vacant)
                }
            };
        }
        self.canonical.clear();
        table.canonical_into(key, &mut self.canonical);
        if let Some(at) = self.others.get(&self.canonical) {
            return Ok(*at);
        }
        self.others.insert(self.canonical.clone(), next);
        Err(Vacant)
    }
}

/// The row had no place yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Vacant;

/// Returns the key as an integer, if it is one for SQLite.
fn integer(key: &[Value]) -> Option<i64> {
    match key {
        [Value::Integer(i)] => Some(*i),
        [Value::Real(r)] => exact_integer(*r),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;

    #[test]
    fn two_spellings_of_a_key_are_one_row_and_tables_are_apart() {
        let db = test_database();
        db.execute_batch(
            "CREATE TABLE a (k TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE b (k PRIMARY KEY);
            CREATE TABLE c (x, y, PRIMARY KEY (x, y)) WITHOUT ROWID",
        )
        .unwrap();
        let (layout, _) = install(&db, &TableFilter::default(), 0).unwrap();
        let text = |text: &str| Value::Text(text.into());
        let rows: [(&str, Vec<Value>, usize); 9] = [
            ("a", vec![text("x")], 0),
            ("a", vec![text("X")], 0),
            ("b", vec![text("X")], 2),
            ("b", vec![Value::Integer(1)], 3),
            ("b", vec![Value::Real(1.0)], 3),
            ("b", vec![Value::Real(1.5)], 5),
            ("b", vec![text("1")], 6),
            ("c", vec![Value::Integer(1), Value::Integer(2)], 7),
            ("c", vec![Value::Real(1.0), Value::Integer(2)], 7),
        ];
        let mut index = RowIndex::default();
        for (place, (table, key, expected)) in rows.iter().enumerate() {
            let table = layout.by_name(table).unwrap();
            let before = index.get(table, key);
            assert_eq!(before.unwrap_or(place), *expected, "{} {key:?}", table.name());
            let got = index.get_or_insert(table, key, place);
            assert_eq!(got.unwrap_or(place), *expected, "{} {key:?}", table.name());
        }
    }
}
