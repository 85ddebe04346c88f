//! Our content of a row that another one meets: for the comparison with it, and for the journal.
//!
//! Arrives: a key. Leaves: the values of the row; of those that the journal does not keep only the
//! size and a digest. Owns: a conflict of large values does not hold ours beside the other in
//! memory. Changes nothing.

use crate::db::connection::DatabaseError;
use crate::db::layout::TableLayout;
use crate::db::row_digest::{value_digest, value_digest_sql};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::store::conflicts::LostValue;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

/// A row of ours, by column.
pub(super) type StoredRow<'t> = Vec<(&'t str, StoredValue)>;

/// A value of ours.
#[derive(Debug, PartialEq)]
pub(super) enum StoredValue {
    /// Of ordinary size.
    Whole(Value),
    /// Larger than the journal keeps.
    Large(LargeValue),
}

/// What is known of a value that was not read into memory.
#[derive(Debug, PartialEq)]
pub(super) struct LargeValue {
    /// Its bytes in the database.
    bytes: u64,
    /// See [`value_digest`].
    digest: i64,
}

/// The content of a row, by column. Not copied: a value may be large.
pub(super) type Content<'a> = Vec<(&'a str, Part<'a>)>;

/// A value of a row, ours or another's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Whole(&'a Value),
    Large(&'a LargeValue),
}

impl<'a> Part<'a> {
    /// What the journal keeps of it.
    pub(super) fn lost(self) -> LostValue<'a> {
        match self {
            Self::Whole(value) => LostValue::Whole(value),
            Self::Large(large) => LostValue::Size(large.bytes),
        }
    }

    /// Whether both are the same value; two large ones differ with the same digest once in 2^64.
    fn is_same(self, other: Part<'_>) -> bool {
        match (self, other) {
            (Part::Whole(a), Part::Whole(b)) => a == b,
            (Part::Whole(whole), Part::Large(large)) | (Part::Large(large), Part::Whole(whole)) => {
                large.digest == value_digest(whole)
            }
            (Part::Large(a), Part::Large(b)) => a.digest == b.digest,
        }
    }
}

/// Returns the content of a row of ours, as it was read.
pub(super) fn content<'a>(row: Option<&'a StoredRow<'_>>) -> Option<Content<'a>> {
    let part = |value: &'a StoredValue| match value {
        StoredValue::Whole(value) => Part::Whole(value),
        StoredValue::Large(large) => Part::Large(large),
    };
    row.map(|columns| columns.iter().map(|(name, value)| (*name, part(value))).collect())
}

/// Returns whether both rows are equal in every common column.
pub(super) fn same_content(a: Option<&[(&str, Part<'_>)]>, b: Option<&[(&str, Part<'_>)]>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().all(|(name, value)| {
            b.iter().find(|(n, _)| n == name).is_none_or(|(_, other)| value.is_same(*other))
        }),
        _ => false,
    }
}

/// Reads a row of ours. A value of more bytes than `most` stays in the database.
///
/// # Errors
/// SQLite's error.
pub(super) fn read<'t>(
    db: &Connection,
    table: &'t TableLayout,
    key: &[Value],
    most: usize,
) -> Result<Option<StoredRow<'t>>, DatabaseError> {
    let names = || table.batch_columns.iter().map(String::as_str);
    let Some(sizes) = sizes(db, table, key)? else { return Ok(None) };
    let is_large = |i: usize| sizes[i] > most as u64;
    if !(0..sizes.len()).any(is_large) {
        let mut statement = db.prepare_cached(&table.sql.select_row)?;
        let row = statement.query_row(params_from_iter(key), |r| {
            let whole = |(i, name)| Ok((name, StoredValue::Whole(r.get_ref(i)?.into())));
            names().enumerate().map(whole).collect()
        });
        return Ok(row.optional()?);
    }
    let columns = names().enumerate().map(|(i, name)| match is_large(i) {
        true => value_digest_sql(&quote(name)),
        false => quote(name),
    });
    let row = db.query_row(&select(table, columns), params_from_iter(key), |r| {
        let value = |(i, name)| {
            let value = match is_large(i) {
                true => StoredValue::Large(LargeValue { bytes: sizes[i], digest: r.get(i)? }),
                false => StoredValue::Whole(r.get_ref(i)?.into()),
            };
            Ok((name, value))
        };
        names().enumerate().map(value).collect()
    });
    Ok(row.optional()?)
}

/// The bytes of each value, which SQLite knows without reading it.
fn sizes(
    db: &Connection,
    table: &TableLayout,
    key: &[Value],
) -> Result<Option<Vec<u64>>, DatabaseError> {
    let size = |name: &String| format!("octet_length({})", quote(name));
    let sql = select(table, table.batch_columns.iter().map(size));
    let mut statement = db.prepare_cached(&sql)?;
    let row = statement.query_row(params_from_iter(key), |r| {
        let size = |i| Ok(r.get::<_, Option<i64>>(i)?.unwrap_or(0).cast_unsigned());
        (0..table.batch_columns.len()).map(size).collect()
    });
    Ok(row.optional()?)
}

fn select(table: &TableLayout, columns: impl Iterator<Item = String>) -> String {
    format!(
        "SELECT {} FROM main.{} WHERE {}",
        columns.collect::<Vec<_>>().join(", "),
        quote(table.name()),
        table.key_condition()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;

    #[test]
    fn a_large_value_stays_in_the_database_and_is_still_compared() {
        let db = test_database();
        crate::db::row_digest::register(&db).unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)").unwrap();
        let layout = install(&db, &TableFilter::default(), 0).unwrap().0;
        let table = layout.by_name("t").unwrap();
        let (id, small) = (Value::Integer(1), Value::Blob(vec![7; 100]));
        let text = |len: usize| Value::Text(vec![b'x'; len]);
        let mut other = vec![b'x'; 101];
        other[50] = b'y';
        for (stored, met, same) in [
            (text(101), text(101), true),
            (text(101), Value::Text(other), false),
            (text(101), text(102), false),
            (text(101), Value::Blob(vec![b'x'; 101]), false),
            (text(101), Value::Null, false),
            (text(100), text(100), true),
            (text(100), text(99), false),
        ] {
            db.execute("INSERT OR REPLACE INTO t VALUES (1, ?1, ?2)", (&stored, &small)).unwrap();
            let row = read(&db, table, std::slice::from_ref(&id), 100).unwrap().unwrap();
            let is_large = matches!(stored, Value::Text(ref b) if b.len() > 100);
            assert_eq!(matches!(row[1].1, StoredValue::Large(_)), is_large);
            assert_eq!(row[2], ("b", StoredValue::Whole(small.clone())));
            let theirs =
                [("id", &id), ("a", &met), ("b", &small)].map(|(name, v)| (name, Part::Whole(v)));
            let ours = content(Some(&row));
            assert_eq!(same_content(ours.as_deref(), Some(&theirs)), same, "{met:?}");
            assert_eq!(same_content(Some(&theirs), ours.as_deref()), same, "{met:?}");
        }
        assert!(read(&db, table, &[Value::Integer(2)], 100).unwrap().is_none());
    }
}
