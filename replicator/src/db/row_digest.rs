//! The digest of a row's content, which stands beside its version.
//!
//! Arrives: the values of a row. Leaves: one integer. Owns: two contents of a row have the same
//! digest only by an accident of one in 2^64, and a column that is added or renamed changes no
//! digest: the digest is a sum over the columns, each hashed under the column's number, and a value
//! that rows have which were there before their column counts nothing. Pure; as an SQL function it
//! works on the connections that [`register`] was called for.

use crate::db::layout::TableLayout;
use crate::db::shape::ShapeColumn;
use crate::db::sql::{literal, quote};
use crate::model::batch::Value;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The SQL function: `(sum so far, numbers, value, value, ...)`. The numbers of the columns are
/// bytes ([`numbers`]), because they are read for each row.
const FUNCTION: &str = "__harmonylite__digest";
/// SQLite's limit on arguments is 127 in older builds.
const VALUES_MAX: usize = 100;
/// Stands for NULL in a column whose older rows have another value.
const NULL_MARK: &[u8] = b"\xb7\x0eharmonylite NULL\x9d\x42";

/// Stands beside a version whose content is not known any more: the next comparison finds a
/// difference. A content has this digest once in 2^64.
pub const UNKNOWN: i64 = 0x756e_6b6e_6f77_6e21;

/// The columns of a table as digests see them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RowDigest {
    columns: Vec<(String, u32, Option<Value>)>,
}

fn hash(id: u32, value: ValueRef<'_>) -> u64 {
    let seed = |kind: u64| (u64::from(id) << 3) | kind;
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(i) => xxh3_64_with_seed(&i.to_le_bytes(), seed(1)),
        // -0.0 equals 0.0 for SQLite.
        ValueRef::Real(r) => xxh3_64_with_seed(&(r + 0.0).to_bits().to_le_bytes(), seed(2)),
        ValueRef::Text(t) => xxh3_64_with_seed(t, seed(3)),
        ValueRef::Blob(b) => xxh3_64_with_seed(b, seed(4)),
    }
}

impl RowDigest {
    /// Over columns of a shape. `absent` gives the value of a literal in a column of the type.
    pub fn new(
        columns: &[ShapeColumn],
        mut absent: impl FnMut(&str, &str) -> Option<Value>,
    ) -> Self {
        let columns = columns.iter().map(|c| {
            let value = c.absent.as_deref().and_then(|text| absent(text, &c.declared));
            (c.name.clone(), c.id, value.filter(|v| *v != Value::Null))
        });
        Self { columns: columns.collect() }
    }

    /// The names of the columns, in the order of [`RowDigest::of`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _, _)| name.as_str())
    }

    /// The digest of a row, from the value of each column; None counts as the value that older rows
    /// have.
    pub fn of<'v>(&self, values: impl Iterator<Item = Option<&'v Value>>) -> i64 {
        let one = |(at, value): (usize, Option<&Value>)| value.map(|v| self.part(at, v.into()));
        let parts = values.take(self.columns.len()).enumerate().filter_map(one);
        parts.fold(0, i64::wrapping_add)
    }

    /// What the value of the column at this place adds to the digest. The digest is the sum, which
    /// wraps.
    pub fn part(&self, at: usize, value: ValueRef<'_>) -> i64 {
        let (_, id, absent) = &self.columns[at];
        let part = match (value, absent) {
            (value, Some(absent)) if value == ValueRef::from(absent) => 0,
            (ValueRef::Null, Some(_)) => hash(*id, ValueRef::Blob(NULL_MARK)),
            (value, _) => hash(*id, value),
        };
        part.cast_signed()
    }

    /// The digest of a row of `row` (an alias) as an SQL expression, over the columns whose number
    /// is below `below`.
    pub fn sql(&self, row: &str, below: u32) -> String {
        let columns: Vec<_> = self.columns.iter().filter(|(_, id, _)| *id < below).collect();
        let mut expression = "0".to_owned();
        for columns in columns.chunks(VALUES_MAX) {
            let ids = numbers(columns.iter().map(|(_, id, _)| *id));
            let values: Vec<String> = columns
                .iter()
                .map(|(name, _, absent)| {
                    let column = format!("{row}.{}", quote(name));
                    match absent.as_ref().map(literal) {
                        None => column,
                        Some(absent) => format!(
                            "CASE WHEN typeof({column}) = typeof({absent}) AND {column} IS \
                            {absent} COLLATE BINARY THEN NULL WHEN {column} IS NULL THEN {} ELSE \
                            {column} END",
                            literal(&Value::Blob(NULL_MARK.to_vec()))
                        ),
                    }
                })
                .collect();
            expression = format!("{FUNCTION}({expression}, {ids}, {})", values.join(", "));
        }
        expression
    }
}

/// The digest of a row of the table as it is now, as an SQL expression on the alias `row`.
pub fn digest_sql(table: &TableLayout, row: &str) -> String {
    table.digest.sql(row, u32::MAX)
}

/// The digest of one value, under the type that it has.
pub fn value_digest(value: &Value) -> i64 {
    hash(1, value.into()).cast_signed()
}

/// [`value_digest`] as an SQL expression on an expression.
pub fn value_digest_sql(expression: &str) -> String {
    format!("{FUNCTION}(0, {}, {expression})", numbers([1].into_iter()))
}

/// The numbers of columns as an SQL literal, four bytes each.
fn numbers(ids: impl Iterator<Item = u32>) -> String {
    literal(&Value::Blob(ids.flat_map(u32::to_le_bytes).collect()))
}

/// Makes the SQL function known to a connection.
///
/// # Errors
/// SQLite's error.
pub fn register(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    db.create_scalar_function(FUNCTION, -1, flags, |context| {
        let (ids, _) = context.get_raw(1).as_blob()?.as_chunks();
        let mut sum = context.get::<i64>(0)?.cast_unsigned();
        for (i, id) in ids.iter().enumerate() {
            let id = u32::from_le_bytes(*id);
            sum = sum.wrapping_add(hash(id, value_at(context, i + 2)?));
        }
        Ok(sum.cast_signed())
    })
}

fn value_at<'c>(context: &'c Context<'_>, i: usize) -> rusqlite::Result<ValueRef<'c>> {
    if i < context.len() {
        return Ok(context.get_raw(i));
    }
    Err(rusqlite::Error::InvalidParameterCount(context.len(), i + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(u32, &str, Option<&str>)]) -> Vec<ShapeColumn> {
        let column = |(id, name, absent): &(u32, &str, Option<&str>)| ShapeColumn {
            id: *id,
            name: (*name).to_owned(),
            declared: String::new(),
            absent: absent.map(str::to_owned),
        };
        columns.iter().map(column).collect()
    }

    fn digest(columns: &[(u32, &str, Option<&str>)]) -> RowDigest {
        let db = Connection::open_in_memory().unwrap();
        RowDigest::new(&shape(columns), |text, _| {
            db.query_row(&format!("SELECT {text}"), [], |r| Ok(r.get_ref(0)?.into())).ok()
        })
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    /// The function in SQL and the one here are the same, whatever the values.
    #[test]
    fn sql_and_rust_agree() {
        let db = Connection::open_in_memory().unwrap();
        register(&db).unwrap();
        db.execute_batch("CREATE TABLE t (a, \"b \"\"\", c)").unwrap();
        let digest = digest(&[(1, "a", None), (2, "b \"", Some("'d'")), (5, "c", Some("5"))]);
        let values = [
            Value::Null,
            Value::Integer(5),
            Value::Real(5.0),
            Value::Real(-0.0),
            text(""),
            text("d"),
            text("D"),
            Value::Text(vec![0xff, 0]),
            Value::Blob(b"d".to_vec()),
            Value::Blob(NULL_MARK.to_vec()),
        ];
        let mut seen = std::collections::HashMap::new();
        for a in &values {
            for b in &values {
                for c in &values {
                    db.execute("DELETE FROM t", []).unwrap();
                    db.execute("INSERT INTO t VALUES (?1, ?2, ?3)", (a, b, c)).unwrap();
                    let sql = format!("SELECT {} FROM t AS x", digest.sql("x", u32::MAX));
                    let stored: i64 = db.query_row(&sql, [], |r| r.get(0)).unwrap();
                    let row = [a, b, c].map(Some);
                    assert_eq!(stored, digest.of(row.into_iter()), "{row:?}");
                    seen.insert(stored, format!("{row:?}"));
                }
            }
        }
        // NULL in a column with a former value has the digest of a mark, which is a blob.
        assert_eq!(seen.len(), 10 * 9 * 9);
    }

    #[test]
    fn added_and_renamed_columns_change_nothing() {
        let before = digest(&[(1, "a", None), (2, "b", None)]);
        let after = digest(&[(1, "a", None), (3, "n", None), (2, "w", None), (4, "m", Some("7"))]);
        let (a, b) = (text("x"), Value::Integer(3));
        let old = before.of([Some(&a), Some(&b)].into_iter());
        let seven = Value::Integer(7);
        for (n, m, same) in [
            (None, None, true),
            (Some(&Value::Null), Some(&seven), true),
            (Some(&a), Some(&seven), false),
            (None, Some(&Value::Null), false),
        ] {
            let new = after.of([Some(&a), n, Some(&b), m].into_iter());
            assert_eq!(new == old, same, "{n:?} {m:?}");
        }
        assert_ne!(before.of([Some(&b), Some(&a)].into_iter()), old, "columns count apart");
        assert_eq!(digest(&[]).of(std::iter::empty()), 0);
    }

    #[test]
    fn wide_tables_have_one_digest() {
        let db = Connection::open_in_memory().unwrap();
        register(&db).unwrap();
        let names: Vec<String> = (0..350).map(|i| format!("c{i}")).collect();
        db.execute_batch(&format!("CREATE TABLE t ({})", names.join(", "))).unwrap();
        db.execute_batch("INSERT INTO t (c0, c120, c349) VALUES (1, 'x', 2.5)").unwrap();
        let columns: Vec<(u32, &str, Option<&str>)> =
            names.iter().enumerate().map(|(i, n)| (i as u32 + 1, n.as_str(), None)).collect();
        let digest = digest(&columns);
        let (one, x, half) = (Value::Integer(1), text("x"), Value::Real(2.5));
        let value = |i| match i {
            0 => Some(&one),
            120 => Some(&x),
            349 => Some(&half),
            _ => Some(&Value::Null),
        };
        let sql = format!("SELECT {} FROM t AS x", digest.sql("x", u32::MAX));
        let stored: i64 = db.query_row(&sql, [], |r| r.get(0)).unwrap();
        assert_eq!(stored, digest.of((0..350).map(value)));
    }
}
