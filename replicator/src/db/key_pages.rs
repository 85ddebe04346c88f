//! Reads the rows of a table in the order of its key, a bounded number at a time.
//!
//! Arrives: the end of the last page. Leaves: the bounds of the next one, as SQL. Owns: no
//! statement reads more rows than the bound, because work under the write lock delays the
//! application. Reads only.

use crate::db::connection::DatabaseError;
use crate::model::batch::Value;
use rusqlite::{Connection, params_from_iter};

/// A page: a range of rows in key order.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPage {
    /// A condition for WHERE, with parameters from ?1 on.
    pub condition: String,
    /// The parameters of the condition.
    pub values: Vec<Value>,
    /// The key of the last row; None on the last page.
    pub end: Option<Vec<Value>>,
    /// The rows that were read to find its end.
    pub rows_read: u64,
}

/// Returns the next page of at most `rows_max` rows of `from` (a FROM clause) after the key
/// `after`. `keys` are the expressions of the key's columns. Rows with NULL in the key are left
/// out.
///
/// # Errors
/// SQLite's error.
pub fn next_page(
    db: &Connection,
    from: &str,
    keys: &[String],
    after: Option<&[Value]>,
    rows_max: u64,
) -> Result<KeyPage, DatabaseError> {
    let columns = keys.join(", ");
    let (condition, values) = after_key(keys, after);
    // The limit bounds what SQLite sorts, where no index has the order.
    let sql = format!(
        "SELECT {columns} FROM {from} WHERE {condition} ORDER BY {columns} LIMIT {}",
        rows_max.clamp(1, i64::MAX as u64)
    );
    let mut read = db.prepare_cached(&sql)?;
    let mut rows = read.query(params_from_iter(&values))?;
    let mut rows_read = 0;
    while let Some(row) = rows.next()? {
        rows_read += 1;
        if rows_read >= rows_max {
            let end = (0..keys.len()).map(|i| row.get_ref(i).map(Value::from));
            let end = end.collect::<rusqlite::Result<_>>()?;
            return Ok(KeyPage { rows_read, ..page_upto(keys, after, end) });
        }
    }
    Ok(KeyPage { condition, values, end: None, rows_read })
}

/// Returns the page of the rows after the key `after`, up to the key `end`. No row is read for it.
pub fn page_upto(keys: &[String], after: Option<&[Value]>, end: Vec<Value>) -> KeyPage {
    let (condition, mut values) = after_key(keys, after);
    let (columns, places) = (keys.join(", "), places(values.len() + 1, keys.len()));
    values.extend(end.iter().cloned());
    KeyPage {
        condition: format!("{condition} AND ({columns}) <= ({places})"),
        values,
        end: Some(end),
        rows_read: 0,
    }
}

fn after_key(keys: &[String], after: Option<&[Value]>) -> (String, Vec<Value>) {
    let mut conditions: Vec<String> = keys.iter().map(|k| format!("{k} IS NOT NULL")).collect();
    if after.is_some() {
        conditions.push(format!("({}) > ({})", keys.join(", "), places(1, keys.len())));
    }
    (conditions.join(" AND "), after.unwrap_or_default().to_vec())
}

fn places(first: usize, count: usize) -> String {
    (first..first + count).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ")
}
