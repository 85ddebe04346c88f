//! Finds the changes that no trigger saw: a table that was rebuilt (created anew, filled, dropped,
//! renamed) has no triggers until the sidecar has followed.
//!
//! Arrives: tables whose triggers were away, and the digests beside their versions. Leaves: a log
//! entry for every row that is another, new or gone, and for no other row. Owns: nothing remote is
//! applied meanwhile, because a remote row would hide such a change. Works in bounded steps. The
//! place is memory only: after a crash the table is compared again, and what was logged is equal by
//! then.

use crate::db::connection::DatabaseError;
use crate::db::key_pages::next_page;
use crate::db::layout::{Layout, TableLayout, version_keys};
use crate::db::row_digest::{UNKNOWN, digest_sql};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log;
use crate::store::comparisons::{self, Comparison, Kind};
use crate::store::entry_code::KIND_FOUND;
use rusqlite::{Connection, params_from_iter};

/// The comparison under way.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    waiting: Vec<Comparison>,
    schema_version: i64,
    /// The rows are done; the versions without a row are left.
    rows_done: bool,
    after: Option<Vec<Value>>,
    found: u64,
}

impl Compare {
    /// What a database has left to be compared.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        Ok(Self { waiting: comparisons::read(db)?, ..Self::default() })
    }

    /// Whether a log entry is from before the triggers of its table were away. Its row may have
    /// changed since, so the digest of what the table holds is not that of its version.
    pub fn is_before(&self, table_id: i64, entry: i64) -> bool {
        self.waiting
            .iter()
            .any(|c| c.table_id == table_id && entry <= c.logged_upto && c.kind != Kind::Refresh)
    }

    /// Whether nothing is left.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Goes on, within the caller's write transaction, after everything in the log was absorbed.
    /// Looks at `rows_max` rows at most. Begins the table anew if the schema has changed. Rows
    /// without a version are left out until the database has joined, which gives them one. Returns
    /// the number of log entries that were added.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn step(
        &mut self,
        db: &Connection,
        layout: &Layout,
        joined: bool,
        rows_max: u64,
    ) -> Result<u64, DatabaseError> {
        if self.schema_version != layout.schema_version {
            *self = Self { schema_version: layout.schema_version, ..Self::read(db)? };
        }
        let Some(comparison) = self.waiting.first().copied() else {
            return Ok(0);
        };
        let (found, end) = match layout.by_id(comparison.table_id) {
            None => (0, None),
            Some(_) if planted(Bug::NoComparison) => (0, None),
            Some(table) => self.page(db, table, comparison, joined, rows_max)?,
        };
        self.found += found;
        self.after = end;
        let rows_end = self.after.is_none() && !self.rows_done;
        if rows_end && layout.by_id(comparison.table_id).is_some() {
            self.rows_done = true;
        } else if self.after.is_none() {
            self.finish(db, layout, comparison)?;
        }
        Ok(found)
    }

    fn finish(
        &mut self,
        db: &Connection,
        layout: &Layout,
        comparison: Comparison,
    ) -> Result<(), DatabaseError> {
        comparisons::remove(db, comparison.table_id)?;
        if let Some(table) = layout.by_id(comparison.table_id)
            && comparison.kind != Kind::Refresh
        {
            tracing::info!(table = table.name(), rows = self.found, "changed rows were found");
        }
        *self = Self { schema_version: self.schema_version, ..Self::read(db)? };
        Ok(())
    }

    fn page(
        &self,
        db: &Connection,
        table: &TableLayout,
        comparison: Comparison,
        joined: bool,
        rows_max: u64,
    ) -> Result<(u64, Option<Vec<Value>>), DatabaseError> {
        let after = self.after.as_deref();
        match (comparison.kind, self.rows_done) {
            (Kind::Refresh, false) => refresh(db, table, after, rows_max),
            (Kind::Refresh, true) => Ok((0, None)),
            (_, false) => changed(db, table, comparison, joined, after, rows_max),
            (_, true) => vanished(db, table, comparison, after, rows_max),
        }
    }
}

type Page = (u64, Option<Vec<Value>>);

/// Makes the digests of a page of versions anew.
fn refresh(
    db: &Connection,
    table: &TableLayout,
    after: Option<&[Value]>,
    rows_max: u64,
) -> Result<Page, DatabaseError> {
    let versions = quote(&table.version_table());
    let keys = version_keys(&table.schema);
    let page = next_page(db, &format!("main.{versions}"), &keys, after, rows_max)?;
    db.prepare_cached(&format!(
        "UPDATE main.{versions} AS v SET digest = (SELECT {} FROM main.{} AS t WHERE {}) WHERE {}",
        digest_sql(table, "t"),
        quote(table.name()),
        table.row_of_version(),
        page.condition
    ))?
    .execute(params_from_iter(&page.values))?;
    Ok((0, page.end))
}

/// Logs the rows of a page that have another digest or no version. One whose former columns are
/// still the same got only the values of a new column: that is derived from the version it had, so
/// it gets the next one (time 0), and a write of another node that is newer than that version wins
/// over it. So does a row of which nobody knows whether it changed.
fn changed(
    db: &Connection,
    table: &TableLayout,
    comparison: Comparison,
    joined: bool,
    after: Option<&[Value]>,
    rows_max: u64,
) -> Result<Page, DatabaseError> {
    let keys: Vec<String> =
        table.schema.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
    let from = format!("main.{} AS t", quote(table.name()));
    let page = next_page(db, &from, &keys, after, rows_max)?;
    let derived = match comparison.kind {
        Kind::CompareLoosely => "v.hlc IS NOT NULL".to_owned(),
        _ => format!(
            "v.hlc IS NOT NULL AND (v.digest IS NULL OR v.digest IN ({UNKNOWN}, {}))",
            table.digest.sql("t", comparison.new_from)
        ),
    };
    let from = format!(
        "FROM {from} LEFT JOIN main.{} AS v ON {} WHERE {} AND v.digest IS NOT {}{}",
        quote(&table.version_table()),
        table.version_of_row(),
        page.condition,
        digest_sql(table, "t"),
        if joined { "" } else { " AND v.hlc IS NOT NULL" }
    );
    let time = format!("CASE WHEN {derived} THEN 0 ELSE {} END", comparison.time_ms);
    let found =
        change_log::log_rows(db, table.id, (KIND_FOUND, &time), &keys, &from, &page.values)?;
    Ok((found as u64, page.end))
}

/// Logs the rows of a page of versions that are gone: a digest stands only beside the version of a
/// row that is there.
fn vanished(
    db: &Connection,
    table: &TableLayout,
    comparison: Comparison,
    after: Option<&[Value]>,
    rows_max: u64,
) -> Result<Page, DatabaseError> {
    let keys: Vec<String> = version_keys(&table.schema).iter().map(|k| format!("v.{k}")).collect();
    let from = format!("main.{} AS v", quote(&table.version_table()));
    let page = next_page(db, &from, &keys, after, rows_max)?;
    let from = format!(
        "FROM {from} WHERE {} AND v.digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main.{} \
        AS t WHERE {})",
        page.condition,
        quote(table.name()),
        table.row_of_version()
    );
    let keys = table.key_of_version();
    let time = match comparison.kind {
        Kind::CompareLoosely => "0".to_owned(),
        _ => format!("CASE WHEN v.digest = {UNKNOWN} THEN 0 ELSE {} END", comparison.time_ms),
    };
    let found =
        change_log::log_rows(db, table.id, (KIND_FOUND, &time), &keys, &from, &page.values)?;
    Ok((found as u64, page.end))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
