//! Gives every row of a joining database a version.
//!
//! Arrives: a database that has consumed the streams to their end. Leaves: baseline versions for
//! rows without a version, and log entries that publish them. Runs inside one write transaction;
//! after a crash it is repeated.

use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout, version_keys};
use crate::db::row_digest::digest_sql;
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site};
use crate::store::site_numbers::SiteNumbers;
use crate::store::{change_log, meta};
use rusqlite::{Connection, params_from_iter};

/// The version of rows that existed before their database joined.
pub const BASELINE: Hlc = Hlc(1);

/// Returns the FROM and WHERE clause of the rows `t` of a table that have no version.
pub fn unversioned(table: &TableLayout) -> String {
    let keys = &table.schema.key;
    let not_null: Vec<String> =
        keys.iter().map(|k| format!("t.{} IS NOT NULL", quote(&k.name))).collect();
    format!(
        "FROM main.{} AS t WHERE {} AND NOT EXISTS (SELECT 1 FROM main.{} AS v WHERE {})",
        quote(table.name()),
        not_null.join(" AND "),
        quote(&table.version_table()),
        table.version_of_row()
    )
}

/// Gives the baseline version to every row of a table without one, and logs the row for
/// publication. All changes in the log must be absorbed. Returns the number of rows.
///
/// # Errors
/// SQLite's error.
pub fn baseline_table(db: &Connection, table: &TableLayout) -> Result<usize, DatabaseError> {
    baseline_rows(db, table, "TRUE", &[])
}

/// Does the same as [`baseline_table`] for the rows of `t` that match a condition. `values` are the
/// parameters of the condition, from ?1 on.
///
/// # Errors
/// SQLite's error.
pub fn baseline_rows(
    db: &Connection,
    table: &TableLayout,
    condition: &str,
    values: &[Value],
) -> Result<usize, DatabaseError> {
    let columns = version_keys(&table.schema).join(", ");
    let keys: Vec<String> =
        table.schema.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
    let from = format!("{} AND {condition}", unversioned(table));
    let logged = change_log::publish_rows(db, table.id, &keys, &from, values)?;
    let site = meta::get(db, meta::SITE)?.unwrap_or(Site(0));
    assert!(site.0 > 0, "a database gets its site before it joins");
    let number = SiteNumbers::default().number(db, site)?;
    let version = format!(
        "INSERT INTO main.{} ({columns}, hlc, site, digest) SELECT {}, {BASELINE}, {number}, {} \
        {from}",
        quote(&table.version_table()),
        table.packed(&keys).join(", "),
        digest_sql(table, "t")
    );
    db.prepare_cached(&version)?.execute(params_from_iter(values))?;
    Ok(logged)
}

/// Ends joining by `replace`: removes the rows that the streams did not bring. The removal is not
/// published.
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

/// Counts the rows without a version, up to a bound.
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

/// Returns a new site made of random bits.
pub fn site_from(random: u64) -> Site {
    Site((random >> 1).max(1).cast_signed())
}
