//! The only writer of remote rows. Rows, versions and the conflict journal change in the caller's
//! transaction, which also moves the cursor, so a crash leaves all or none. Decode has already
//! rejected malformed content.
//!
//! Arrives: the rows of one admitted batch, after absorb. Leaves: for each row the greater of both
//! versions. Owns: unique clashes end the same way on every node (docs/design.md, section 2).

use crate::db::connection::DatabaseError;
use crate::db::layout::TableLayout;
use crate::merge::resolve::{Verdict, resolve};
use crate::merge::table_map::TableMap;
use crate::merge::unique_clash;
use crate::model::action::Action;
use crate::model::batch::{Op, Row, Value};
use crate::model::bookkeeping;
use crate::model::ids::{Hlc, Site, Version};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log;
use crate::store::conflicts::{self, JournalBounds, Loss};
use crate::store::versions::Versions;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params_from_iter};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

/// The reason why a batch could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An error of the database itself: busy, full, damaged.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// This database can never hold the row as it is.
    #[error("table {table}, row {key}: {reason}")]
    Refused {
        /// The table.
        table: String,
        /// The key as JSON of SQL literals.
        key: String,
        /// The error message of SQLite.
        reason: String,
    },
}

impl ApplyError {
    /// Returns the action for this error. A refused row goes to quarantine with its batch.
    pub fn action(&self) -> Action {
        match self {
            Self::Database(error) => error.action(),
            Self::Refused { .. } => Action::Quarantine,
        }
    }
}

impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The counts of one applied batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that were newer, and were written.
    pub taken: u64,
    /// Rows that were older than ours, or equal.
    pub skipped: u64,
    /// Losses written to the journal.
    pub conflicts: u64,
    /// Those of them that are two inserts under one key.
    pub inserted_twice: u64,
    /// Their tables, each once.
    pub inserted_twice_tables: Vec<String>,
    /// Deletes because of unique clashes. They are logged for publication.
    pub compensated: u64,
    /// The greatest remote wall-clock time, unix milliseconds.
    pub newest_ms: i64,
}

struct Clash {
    map: Arc<TableMap>,
    key: Vec<Value>,
    row: Row,
}

/// Applies one batch, row by row.
pub struct Applier<'a> {
    db: &'a Connection,
    site: Site,
    own_sites: &'a HashSet<Site>,
    joined: bool,
    now_ms: i64,
    journal: JournalBounds,
    /// A stored version with a greater time is one that no node sends, so it loses.
    hlc_max: Hlc,
    clashes: Vec<Clash>,
    versions: Versions<'a>,
    /// The upsert statement of the table of the last row.
    upsert: Option<(Arc<TableMap>, CachedStatement<'a>)>,
    done: Applied,
}

impl<'a> Applier<'a> {
    /// Starts a batch. The caller has absorbed the log in the same transaction.
    pub fn new(
        db: &'a Connection,
        site: Site,
        own_sites: &'a HashSet<Site>,
        joined: bool,
        now_ms: i64,
        journal: JournalBounds,
    ) -> Self {
        Self {
            db,
            site,
            own_sites,
            joined,
            now_ms,
            journal,
            hlc_max: Hlc(i64::MAX),
            clashes: Vec::new(),
            versions: Versions::new(db),
            upsert: None,
            done: Applied::default(),
        }
    }

    /// Lets every row of the batch win against a stored version beyond this time. No node sends
    /// such a version any more, and none could win against it otherwise.
    pub fn discard_beyond(&mut self, hlc_max: Hlc) {
        self.hlc_max = hlc_max;
    }

    /// Applies one row.
    ///
    /// # Errors
    /// [`ApplyError::Refused`] if this database cannot hold the row.
    pub fn row(&mut self, map: &Arc<TableMap>, row: &Row) -> Result<(), ApplyError> {
        let key = map.key_of(row);
        let local = self.versions.get(&map.table, &key)?;
        self.done.newest_ms = self.done.newest_ms.max(row.version.hlc.ms());
        let verdict = if local.hlc > self.hlc_max && row.version.hlc <= self.hlc_max {
            Verdict::Take { concurrent: true }
        } else {
            resolve(local, row.version, row.previous, self.own_sites.contains(&local.site))
        };
        match verdict {
            Verdict::Skip { concurrent } => {
                self.done.skipped += 1;
                if concurrent {
                    let here = self.read(&map.table, &key)?;
                    let reason = concurrent_reason(&map.table, row, here.is_some());
                    let (lost, here) = (map.content(row), by_reference(here.as_ref()));
                    self.lost(map, &key, reason, local, row.version, lost, here)?;
                }
            }
            Verdict::Take { concurrent } => {
                let before_joining = !self.joined && local == Version::NONE;
                if concurrent || before_joining {
                    let here = self.read(&map.table, &key)?;
                    let reason = if concurrent {
                        concurrent_reason(&map.table, row, here.is_some())
                    } else {
                        conflicts::JOINED_OVER
                    };
                    if concurrent || here.is_some() {
                        let (lost, taken) = (by_reference(here.as_ref()), map.content(row));
                        self.lost(map, &key, reason, row.version, local, lost, taken)?;
                    }
                }
                self.take(map, key, row)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, map: &Arc<TableMap>, key: Vec<Value>, row: &Row) -> Result<(), ApplyError> {
        let written = match row.op {
            Op::Delete => self.delete(&map.table, &key),
            Op::Upsert => self.upsert(map, row),
        };
        match written {
            Ok(()) => {
                self.store_version(map, &key, row)?;
                self.done.taken += 1;
            }
            Err(error) if is_unique(&error) => {
                self.clashes.push(Clash { map: Arc::clone(map), key, row: row.clone() })
            }
            Err(error) => return Err(refused(map, &key, error)),
        }
        Ok(())
    }

    /// Ends the batch. Removes the old contents of all clashing rows and retries them, because two
    /// rows may swap values in one transaction. If rows still clash, the greater version wins.
    ///
    /// # Errors
    /// The errors of [`Applier::row`].
    pub fn finish(mut self) -> Result<Applied, ApplyError> {
        let mut clashes = std::mem::take(&mut self.clashes);
        if clashes.is_empty() {
            return Ok(self.done);
        }
        for clash in &clashes {
            self.delete(&clash.map.table, &clash.key)?;
        }
        clashes.sort_by(|a, b| {
            (a.row.version, a.map.table.id)
                .cmp(&(b.row.version, b.map.table.id))
                .then_with(|| a.map.table.canonical(&a.key).cmp(&b.map.table.canonical(&b.key)))
        });
        unique_clash::set_probing(self.db, true)?;
        let settled = clashes.iter().try_for_each(|clash| self.settle(clash));
        unique_clash::set_probing(self.db, false)?;
        settled.map(|()| self.done)
    }

    fn settle(&mut self, clash: &Clash) -> Result<(), ApplyError> {
        let Clash { map, key, row } = clash;
        let columns: Vec<&str> = map.columns.iter().map(String::as_str).collect();
        let others = unique_clash::others(self.db, &map.table, &columns, &map.values(row))?;
        self.store_version(map, key, row)?;
        let mut versions = Vec::with_capacity(others.len());
        for other in &others {
            versions.push(self.versions.get(&map.table, other)?);
        }
        if let Some(stronger) = versions.iter().copied().filter(|v| *v >= row.version).max() {
            self.lost(
                map,
                key,
                conflicts::UNIQUE_CLASH,
                stronger,
                row.version,
                map.content(row),
                None,
            )?;
            return self.compensate(&map.table, key, row.version);
        }
        for (other, version) in others.iter().zip(versions) {
            let content = self.read(&map.table, other)?;
            let lost = by_reference(content.as_ref());
            self.lost(map, other, conflicts::UNIQUE_CLASH, row.version, version, lost, None)?;
            self.compensate(&map.table, other, version)?;
        }
        self.upsert(map, row).map_err(|error| refused(map, key, error))?;
        self.done.taken += 1;
        Ok(())
    }

    /// Deletes the loser of a unique clash, with the version just above its last one. The delete is
    /// published.
    fn compensate(
        &mut self,
        table: &TableLayout,
        key: &[Value],
        had: Version,
    ) -> Result<(), ApplyError> {
        self.delete(table, key)?;
        let hlc = if planted(Bug::CompensationNow) {
            had.hlc.next().max(Hlc::from_ms(self.now_ms))
        } else {
            had.hlc.next()
        };
        self.versions.put(table, key, Version { hlc, site: self.site }, None)?;
        if !planted(Bug::SilentCompensation) {
            log_for_publication(self.db, table, key)?;
        }
        self.done.compensated += 1;
        Ok(())
    }

    fn store_version(
        &mut self,
        map: &TableMap,
        key: &[Value],
        row: &Row,
    ) -> Result<(), DatabaseError> {
        let digest = (row.op == Op::Upsert).then(|| map.digest(row));
        self.versions.put(&map.table, key, row.version, digest)
    }

    fn delete(&self, table: &TableLayout, key: &[Value]) -> rusqlite::Result<()> {
        self.db.prepare_cached(&table.sql.delete_row)?.execute(params_from_iter(key)).map(|_| ())
    }

    fn upsert(&mut self, map: &Arc<TableMap>, row: &Row) -> rusqlite::Result<()> {
        let statement = match &mut self.upsert {
            Some((of, statement)) if Arc::ptr_eq(of, map) => statement,
            other => &mut other.insert((Arc::clone(map), self.db.prepare_cached(&map.upsert)?)).1,
        };
        for (place, i) in map.used.iter().enumerate() {
            statement.raw_bind_parameter(place + 1, &row.values[*i])?;
        }
        statement.raw_execute().map(|_| ())
    }

    /// Reads our content of a row, by column.
    fn read<'t>(
        &self,
        table: &'t TableLayout,
        key: &[Value],
    ) -> Result<Option<Vec<(&'t str, Value)>>, ApplyError> {
        let mut statement = self.db.prepare_cached(&table.sql.select_row)?;
        let row = statement
            .query_row(params_from_iter(key), |r| {
                table
                    .batch_columns
                    .iter()
                    .enumerate()
                    .map(|(i, c)| Ok((c.as_str(), r.get_ref(i)?.into())))
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .optional()?;
        Ok(row)
    }

    /// Records a loss, unless winner and loser have the same content.
    #[allow(clippy::too_many_arguments)]
    fn lost(
        &mut self,
        map: &TableMap,
        key: &[Value],
        reason: &'static str,
        winner: Version,
        loser: Version,
        content: Option<Content<'_>>,
        against: Option<Content<'_>>,
    ) -> Result<(), ApplyError> {
        if reason != conflicts::UNIQUE_CLASH && same_content(content.as_deref(), against.as_deref())
        {
            return Ok(());
        }
        let loss = Loss { table: &map.table, key, reason, winner, loser, content };
        if !conflicts::record(self.db, &loss, self.now_ms, self.journal)? {
            return Ok(());
        }
        self.done.conflicts += 1;
        if reason == conflicts::INSERTED_TWICE {
            self.done.inserted_twice += 1;
            let tables = &mut self.done.inserted_twice_tables;
            if !tables.iter().any(|name| name == map.table.name()) {
                tables.push(map.table.name().to_owned());
            }
        }
        Ok(())
    }
}

/// The kind of a conflict of two writes, neither of which had seen the other. A writer that knew no
/// version of the row has inserted it. If there is a row here under its key, it is another one,
/// unless a migration tool has recorded the same migration on both nodes.
fn concurrent_reason(table: &TableLayout, row: &Row, exists_here: bool) -> &'static str {
    let is_new = row.op == Op::Upsert && row.previous == Version::NONE;
    if is_new && exists_here && !is_bookkeeping(table) {
        conflicts::INSERTED_TWICE
    } else {
        conflicts::CONCURRENT
    }
}

fn is_bookkeeping(table: &TableLayout) -> bool {
    let columns =
        || Ok::<_, Infallible>(table.schema.columns.iter().map(|c| c.name.clone()).collect());
    bookkeeping::find(table.name(), columns).is_ok_and(|found| found.is_some())
}

/// The content of a row, by column. Not copied: a value may be large.
type Content<'a> = Vec<(&'a str, &'a Value)>;

fn by_reference<'a>(content: Option<&'a Vec<(&'a str, Value)>>) -> Option<Content<'a>> {
    content.map(|columns| columns.iter().map(|(name, value)| (*name, value)).collect())
}

/// Returns whether both rows are equal in every common column.
fn same_content(a: Option<&[(&str, &Value)]>, b: Option<&[(&str, &Value)]>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a
            .iter()
            .all(|(name, value)| b.iter().find(|(n, _)| n == name).is_none_or(|(_, v)| v == value)),
        _ => false,
    }
}

/// Logs a row for publication. Its version is already stored.
///
/// # Errors
/// SQLite's error.
pub fn log_for_publication(
    db: &Connection,
    table: &TableLayout,
    key: &[Value],
) -> Result<(), DatabaseError> {
    change_log::publish_row(db, table.id, key)
}

fn is_unique(error: &rusqlite::Error) -> bool {
    error.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}

fn refused(map: &TableMap, key: &[Value], error: rusqlite::Error) -> ApplyError {
    use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch, Unknown};
    // rusqlite reports no error code for SQL that does not compile.
    let uncompiled = matches!(error, rusqlite::Error::SqlInputError { .. });
    if !uncompiled
        && !matches!(
            error.sqlite_error_code(),
            Some(ConstraintViolation | TypeMismatch | TooBig | Unknown)
        )
    {
        return error.into();
    }
    ApplyError::Refused {
        table: map.table.name().to_owned(),
        key: conflicts::key_text(&map.table, key),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;

    /// With migrations that only partly travel, Knex records the others on every node, each with
    /// its own time, under the same number.
    #[test]
    fn the_same_migration_on_two_nodes_is_no_clash_of_ids() {
        let db = test_database();
        let columns = "(id INTEGER PRIMARY KEY, migration_time)";
        db.execute_batch(&format!(
            "CREATE TABLE knex_migrations {columns}; CREATE TABLE person {columns}"
        ))
        .unwrap();
        let filter = TableFilter { migrations_travel: true, ..TableFilter::default() };
        let layout = install(&db, &filter, 0).unwrap().0;
        let row = Row {
            version: Version::NONE,
            previous: Version::NONE,
            op: Op::Upsert,
            values: Vec::new(),
        };
        let reason = |table| concurrent_reason(layout.by_name(table).unwrap(), &row, true);
        assert_eq!(reason("person"), conflicts::INSERTED_TWICE);
        assert_eq!(reason("knex_migrations"), conflicts::CONCURRENT);
    }
}
