//! Brings a database that has not joined yet to the point where every row has a version.
//!
//! Arrives: a database that has consumed the streams to their end. Leaves: baseline versions for
//! rows without a version, and log entries that publish them. Runs inside one write transaction: a
//! crash repeats it.

use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::sql::{key_columns, quote};
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site};
use crate::store::{change_log, meta};
use rusqlite::{Connection, params_from_iter};

/// The version of what was there before its database joined.
pub const BASELINE: Hlc = Hlc(1);

fn unversioned(table: &TableLayout) -> String {
    let keys = &table.schema.key;
    let not_null: Vec<String> =
        keys.iter().map(|k| format!("t.{} IS NOT NULL", quote(&k.name))).collect();
    let joined: Vec<String> =
        keys.iter().enumerate().map(|(i, k)| format!("v.key{i} = t.{}", quote(&k.name))).collect();
    format!(
        "FROM main.{} AS t WHERE {} AND NOT EXISTS (SELECT 1 FROM main.{} AS v WHERE {})",
        quote(table.name()),
        not_null.join(" AND "),
        quote(&table.version_table()),
        joined.join(" AND ")
    )
}

/// Gives every row of a table that has no version the baseline version and logs it for publication.
/// Changes that the log holds must have been absorbed. Returns how many rows.
///
/// # Errors
/// SQLite's error.
pub fn baseline_table(db: &Connection, table: &TableLayout) -> Result<usize, DatabaseError> {
    baseline_rows(db, table, "TRUE", &[])
}

/// As [`baseline_table`], for rows of `t` under a condition whose parameters (from ?1 on) are
/// `values`.
///
/// # Errors
/// SQLite's error.
pub fn baseline_rows(
    db: &Connection,
    table: &TableLayout,
    condition: &str,
    values: &[Value],
) -> Result<usize, DatabaseError> {
    let columns = key_columns(table.schema.key.len()).join(", ");
    let keys: Vec<String> =
        table.schema.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
    let from = format!("{} AND {condition}", unversioned(table));
    let logged = change_log::publish_rows(db, table.id, &keys, &from, values)?;
    let site = meta::get(db, meta::SITE)?.unwrap_or(Site(0));
    assert!(site.0 > 0, "a database gets its site before it joins");
    let version = format!(
        "INSERT INTO main.{} ({columns}, hlc, site) SELECT {}, {BASELINE}, {site} {from}",
        quote(&table.version_table()),
        keys.join(", ")
    );
    db.prepare_cached(&version)?.execute(params_from_iter(values))?;
    Ok(logged)
}

/// Ends joining by `replace`: rows that the streams did not bring are removed here, and nothing is
/// published of that.
///
/// # Errors
/// SQLite's error.
pub fn replace(db: &Connection, layout: &Layout) -> Result<usize, DatabaseError> {
    let mut rows = 0;
    for table in &layout.tables {
        let keys: Vec<String> = table.schema.key.iter().map(|k| quote(&k.name)).collect();
        let of_t: Vec<String> = keys.iter().map(|k| format!("t.{k}")).collect();
        let sql = format!(
            "DELETE FROM main.{} WHERE ({}) IN (SELECT {} {})",
            quote(table.name()),
            keys.join(", "),
            of_t.join(", "),
            unversioned(table)
        );
        rows += db.execute(&sql, [])?;
    }
    meta::set(db, meta::JOINED, true)?;
    Ok(rows)
}

/// How many rows have no version, counted up to a bound.
///
/// # Errors
/// SQLite's error.
pub fn unversioned_rows(
    db: &Connection,
    layout: &Layout,
    bound: i64,
) -> Result<i64, DatabaseError> {
    let mut rows = 0;
    for table in &layout.tables {
        rows += db.query_row(
            &format!("SELECT count(*) FROM (SELECT 1 {} LIMIT ?1)", unversioned(table)),
            [bound - rows],
            |r| r.get::<_, i64>(0),
        )?;
        if rows >= bound {
            break;
        }
    }
    Ok(rows)
}

/// The site that a database without one gets, from random bits.
pub fn site_from(random: u64) -> Site {
    Site((random >> 1).max(1).cast_signed())
}
