//! Drops versions, of rows and tombstones alike, that are older than anybody can still need.
//!
//! Arrives: an idle moment of the writing actor, and the time before which versions may go. Leaves: smaller version tables,
//! a bounded number of them looked at in one transaction. Owns: nothing younger goes, and nothing while the log still needs a
//! version. A crash loses the place in the pass; the next pass begins anew.

use crate::database::DatabaseError;
use crate::layout::Layout;
use crate::names::Hlc;
use crate::planted::{Bug, planted};
use crate::sql::quote;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};

/// Where a pass over all version tables is.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    table: usize,
    /// The last key looked at in it.
    after: Option<Vec<Sql>>,
}

/// Versions looked at in one transaction: some milliseconds of work.
pub const PRUNE_ROWS_MAX: u64 = 2_000;

/// Looks at the next versions and drops those before `before_ms`. Inside the caller's write transaction, after absorb, with
/// nothing pending in the log. Returns how many were dropped, and the place to go on from; None: the pass is complete.
///
/// # Errors
/// What SQLite says.
pub fn prune(db: &Connection, layout: &Layout, pass: &Pass, before_ms: i64, rows_max: u64) -> Result<(u64, Option<Pass>), DatabaseError> {
    let Some(table) = layout.tables.get(pass.table) else { return Ok((0, None)) };
    let name = quote(&table.version_table());
    let n = table.schema.key.len();
    let keys: Vec<String> = (0..n).map(|i| format!("key{i}")).collect();
    let keys = keys.join(", ");
    let places: Vec<String> = (1..=n).map(|i| format!("?{i}")).collect();
    let places = places.join(", ");
    let from = if pass.after.is_some() { format!("WHERE ({keys}) > ({places})") } else { String::new() };
    let end: Option<Vec<Sql>> = {
        let offset = rows_max.saturating_sub(1);
        let mut read = db.prepare_cached(&format!("SELECT {keys} FROM main.{name} {from} ORDER BY {keys} LIMIT 1 OFFSET {offset}"))?;
        let mut rows = read.query(params_from_iter(pass.after.iter().flatten()))?;
        match rows.next()? {
            Some(row) => Some((0..n).map(|i| row.get(i)).collect::<rusqlite::Result<_>>()?),
            None => None,
        }
    };
    let mut bounds: Vec<String> = Vec::new();
    let mut values: Vec<Sql> = Vec::new();
    for (key, compare) in [(&pass.after, ">"), (&end, "<=")] {
        if let Some(key) = key {
            let places: Vec<String> = (0..n).map(|i| format!("?{}", values.len() + i + 1)).collect();
            bounds.push(format!("({keys}) {compare} ({})", places.join(", ")));
            values.extend(key.iter().cloned());
        }
    }
    values.push(Sql::Integer(Hlc::from_ms(before_ms).0));
    bounds.push(format!("hlc < ?{}", values.len()));
    if planted(Bug::TombstoneEarly) {
        return tombstones_early(db, table, pass.table);
    }
    let dropped =
        db.prepare_cached(&format!("DELETE FROM main.{name} WHERE {}", bounds.join(" AND ")))?.execute(params_from_iter(values))?;
    let next = match end {
        Some(after) => Pass { table: pass.table, after: Some(after) },
        None => Pass { table: pass.table + 1, after: None },
    };
    Ok((dropped as u64, (next.table < layout.tables.len()).then_some(next)))
}

fn tombstones_early(db: &Connection, table: &crate::layout::TableLayout, at: usize) -> Result<(u64, Option<Pass>), DatabaseError> {
    let same: Vec<String> = table.schema.key.iter().enumerate().map(|(i, k)| format!("v.key{i} = t.{}", quote(&k.name))).collect();
    let sql = format!(
        "DELETE FROM main.{} AS v WHERE NOT EXISTS (SELECT 1 FROM main.{} AS t WHERE {})",
        quote(&table.version_table()),
        quote(table.name()),
        same.join(" AND ")
    );
    Ok((db.execute(&sql, [])? as u64, Some(Pass { table: at + 1, after: None })))
}
