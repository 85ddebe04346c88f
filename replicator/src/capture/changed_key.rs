//! Carries the versions of a table over to another key.
//!
//! Arrives: a table whose rows are identified by other columns than before, and its former shape.
//! Leaves: versions and log entries under the new key. Owns: a row keeps its version, so that
//! neither an older write of another node wins nor a deleted row comes back; what cannot be carried
//! over is counted. Runs inside one write transaction: between [`take`] and [`put`] the version
//! table is made anew.

use crate::db::connection::DatabaseError;
use crate::db::layout::{TableLayout, version_keys, version_table};
use crate::db::packed_key::{PACK, UNPACK, packs};
use crate::db::schema::{KeyColumn, TableSchema};
use crate::db::shape::Shape;
use crate::db::sql::{Collation, key_columns, quote};
use crate::store::change_log;
use crate::store::entry_code::of_table;
use rusqlite::Connection;

/// Holds what is carried, between the two steps.
const CARRIED: &str = "temp.__harmonylite__carried";

/// The former key of a table.
struct FormerKey {
    /// The present names of its columns, quoted.
    columns: Vec<String>,
    /// The columns of the version table, as the table has them.
    of_version: Vec<String>,
    /// The condition that finds the version `v` of a row `t`.
    version_of_row: String,
    /// The new key, in columns of the former one; None if it has another column.
    new: Option<Vec<usize>>,
}

/// None if a column of the former key is not there any more.
fn former_key(table: &TableSchema, former: &Shape, present: &Shape) -> Option<FormerKey> {
    let mut key = FormerKey {
        columns: Vec::new(),
        of_version: Vec::new(),
        version_of_row: String::new(),
        new: None,
    };
    let mut same = Vec::new();
    let mut names = Vec::new();
    for (i, (name, collation)) in former.key.iter().zip(&former.key_collations).enumerate() {
        let then = former.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))?;
        let now = present.columns.iter().find(|c| c.id == then.id)?;
        let column = KeyColumn {
            name: now.name.clone(),
            declared: then.declared.clone(),
            collation: Collation::named(collation)?,
        };
        let quoted = quote(&now.name);
        if packs(&column) {
            key.of_version.push(format!("{UNPACK}(v.packed{i})"));
            same.push(format!("v.packed{i} = {PACK}(t.{quoted})"));
        } else {
            key.of_version.push(format!("v.key{i}"));
            same.push(format!("v.key{i} = t.{quoted}"));
        }
        key.columns.push(quoted);
        names.push(now.name.as_str());
    }
    let place = |k: &KeyColumn| names.iter().position(|name| name.eq_ignore_ascii_case(&k.name));
    key.new = table.key.iter().map(place).collect();
    key.version_of_row = same.join(" AND ");
    (!key.columns.is_empty()).then_some(key)
}

/// Puts aside the versions of a table before its version table is dropped, and forgets the log
/// entries under the former key. None if nothing can be carried over. Otherwise the number of
/// deletes that are lost: the new key has a column that the former one has not, so nothing is known
/// of it where there is no row.
///
/// # Errors
/// SQLite's error.
pub(super) fn take(
    db: &Connection,
    table: &TableSchema,
    table_id: i64,
    (former, present): (&Shape, &Shape),
) -> Result<Option<u64>, DatabaseError> {
    let Some(key) = former_key(table, former, present) else { return Ok(None) };
    let pending = format!(
        "SELECT {} FROM main.{} WHERE {} AND id > coalesce((SELECT value FROM \
        main.__harmonylite__meta WHERE key = 'published'), 0)",
        key_columns(key.columns.len()).join(", "),
        change_log::NAME,
        of_table(table_id)
    );
    let taking = Taking { db, table, key: &key, pending };
    taking.rows()?;
    let lost = match &key.new {
        Some(places) => taking.gone(places).map(|()| 0)?,
        None => taking.lost()?,
    };
    change_log::forget_unpublished(db, table_id)?;
    Ok(Some(lost))
}

/// The versions of one table while they are put aside.
struct Taking<'a> {
    db: &'a Connection,
    table: &'a TableSchema,
    key: &'a FormerKey,
    /// Selects the former keys of changes that are not published.
    pending: String,
}

impl Taking<'_> {
    fn is_pending(&self, key: &[String]) -> String {
        format!("({}) IN ({})", key.join(", "), self.pending)
    }

    fn versions(&self) -> String {
        quote(&version_table(&self.table.name))
    }

    /// Puts aside the versions of rows that are there.
    fn rows(&self) -> Result<(), DatabaseError> {
        let new: Vec<String> =
            self.table.key.iter().map(|k| format!("t.{}", quote(&k.name))).collect();
        let old: Vec<String> = self.key.columns.iter().map(|c| format!("t.{c}")).collect();
        let aliased = |expressions: &[String], name: &str| -> String {
            let one = |(i, e): (usize, &String)| format!("{e} AS {name}{i}");
            expressions.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
        };
        Ok(self.db.execute_batch(&format!(
            "CREATE TEMP TABLE __harmonylite__carried AS SELECT {}, {}, v.hlc, v.site, v.digest, \
            {} AS pending, 1 AS is_row FROM main.{} AS t JOIN main.{} AS v ON {}",
            aliased(&new, "new"),
            aliased(&old, "old"),
            self.is_pending(&old),
            quote(&self.table.name),
            self.versions(),
            self.key.version_of_row
        ))?)
    }

    /// Is true for the versions `v` of rows that are gone.
    fn is_gone(&self) -> String {
        let old: Vec<String> = (0..self.key.columns.len()).map(|i| format!("old{i}")).collect();
        format!(
            "({}) NOT IN (SELECT {} FROM {CARRIED} WHERE is_row)",
            self.key.of_version.join(", "),
            old.join(", ")
        )
    }

    /// Puts aside the versions of rows that are gone. `places` are the columns of the new key in
    /// the former one.
    fn gone(&self, places: &[usize]) -> Result<(), DatabaseError> {
        let of_version = &self.key.of_version;
        let of_new: Vec<&str> = places.iter().map(|at| of_version[*at].as_str()).collect();
        Ok(self.db.execute_batch(&format!(
            "INSERT INTO {CARRIED} SELECT {}, {}, v.hlc, v.site, v.digest, {}, 0 FROM main.{} AS \
            v WHERE {}",
            of_new.join(", "),
            of_version.join(", "),
            self.is_pending(of_version),
            self.versions(),
            self.is_gone()
        ))?)
    }

    /// Counts the deletes that cannot be carried over.
    fn lost(&self) -> Result<u64, DatabaseError> {
        let sql = format!(
            "SELECT count(*) FROM main.{} AS v WHERE {} AND (v.digest IS NOT NULL OR {})",
            self.versions(),
            self.is_gone(),
            self.is_pending(&self.key.of_version)
        );
        Ok(self.db.query_row(&sql, [], |r| r.get::<_, i64>(0))?.cast_unsigned())
    }
}

/// Puts the versions into the new version table, and logs what waits to be published.
///
/// # Errors
/// SQLite's error.
pub(super) fn put(db: &Connection, table: &TableLayout) -> Result<(), DatabaseError> {
    let new: Vec<String> = (0..table.schema.key.len()).map(|i| format!("c.new{i}")).collect();
    let not_null: Vec<String> = new.iter().map(|key| format!("{key} IS NOT NULL")).collect();
    let not_null = not_null.join(" AND ");
    // Where rows that are gone had the same part of the key, the newest delete counts, and a row
    // that is there counts more.
    db.execute_batch(&format!(
        "INSERT INTO main.{} ({}, hlc, site, digest) SELECT {}, c.hlc, c.site, c.digest FROM \
        {CARRIED} AS c WHERE {not_null} ORDER BY c.is_row DESC, c.hlc DESC ON CONFLICT DO NOTHING",
        quote(&table.version_table()),
        version_keys(&table.schema).join(", "),
        table.packed(&new).join(", ")
    ))?;
    let from = format!("FROM {CARRIED} AS c WHERE c.pending AND {not_null}");
    change_log::publish_rows(db, table.id, &new, &from, &[])?;
    Ok(db.execute_batch(&format!("DROP TABLE {CARRIED}"))?)
}

#[cfg(test)]
#[path = "changed_key_tests.rs"]
mod tests;
