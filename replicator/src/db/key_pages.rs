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
    let n = keys.len();
    let columns = keys.join(", ");
    let places =
        |first: usize| (first..first + n).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ");
    let mut conditions: Vec<String> = keys.iter().map(|k| format!("{k} IS NOT NULL")).collect();
    if after.is_some() {
        conditions.push(format!("({columns}) > ({})", places(1)));
    }
    let mut values: Vec<Value> = after.unwrap_or_default().to_vec();
    let offset = rows_max.saturating_sub(1).min(i64::MAX as u64);
    let end: Option<Vec<Value>> = {
        let sql = format!(
            "SELECT {columns} FROM {from} WHERE {} ORDER BY {columns} LIMIT 1 OFFSET {offset}",
            conditions.join(" AND ")
        );
        let mut read = db.prepare_cached(&sql)?;
        let mut rows = read.query(params_from_iter(&values))?;
        match rows.next()? {
            Some(row) => Some(
                (0..n).map(|i| row.get_ref(i).map(Value::from)).collect::<rusqlite::Result<_>>()?,
            ),
            None => None,
        }
    };
    if let Some(end) = &end {
        conditions.push(format!("({columns}) <= ({})", places(values.len() + 1)));
        values.extend(end.iter().cloned());
    }
    Ok(KeyPage { condition: conditions.join(" AND "), values, end })
}
