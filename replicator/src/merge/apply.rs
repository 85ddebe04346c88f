//! The only writer of remote rows. Rows, versions and the conflict journal change in the caller's
//! transaction, which also moves the cursor, so a crash leaves all or none. Decode has already
//! rejected malformed content.
//!
//! Arrives: the rows of one admitted batch, after absorb. Leaves: for each row the greater of both
//! versions. Owns: unique clashes end the same way on every node (docs/design.md, section 2).

use crate::db::connection::DatabaseError;
use crate::db::layout::TableLayout;
use crate::merge::resolve::{Verdict, resolve};
use crate::merge::stored_row::{self, Content, same_content};
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
use rusqlite::{CachedStatement, Connection, ErrorCode, params_from_iter};
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
    /// A row with a large value clashes on a unique index, and the value was already released. The
    /// batch has to be applied again, with [`Applier::keep_large`].
    #[error("a row clashes whose large value was released")]
    Released,
}

impl ApplyError {
    /// Returns the action for this error. A refused row goes to quarantine with its batch.
    pub fn action(&self) -> Action {
        match self {
            Self::Database(error) => error.action(),
            Self::Refused { .. } => Action::Quarantine,
            Self::Released => Action::Retry,
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

/// A value of more bytes is released as soon as SQLite has its copy. SQLite builds a record of the
/// whole row beside that copy, so a large value is in memory twice, not three times.
const LARGE_BYTES: usize = 1 << 20;

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
    /// Whether large values are kept until the row is written.
    keep_large: bool,
    clashes: Vec<Clash>,
    versions: Versions<'a>,
    /// The key of the last row.
    key: Vec<Value>,
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
            keep_large: false,
            clashes: Vec::new(),
            versions: Versions::new(db),
            key: Vec::new(),
            upsert: None,
            done: Applied::default(),
        }
    }

    /// Lets every row of the batch win against a stored version beyond this time. No node sends
    /// such a version any more, and none could win against it otherwise.
    pub fn discard_beyond(&mut self, hlc_max: Hlc) {
        self.hlc_max = hlc_max;
    }

    /// Keeps large values until their row is written, so that a row that clashes still has them.
    pub fn keep_large(&mut self) {
        self.keep_large = true;
    }

    /// Applies one row. Its values may be gone afterwards.
    ///
    /// # Errors
    /// [`ApplyError::Refused`] if this database cannot hold the row. [`ApplyError::Released`] if
    /// the batch has to be applied again.
    pub fn row(&mut self, map: &Arc<TableMap>, row: &mut Row) -> Result<(), ApplyError> {
        let mut key = std::mem::take(&mut self.key);
        map.read_key(row, &mut key);
        let done = self.row_with(map, &key, row);
        if !key.iter().any(is_large) {
            self.key = key;
        }
        done
    }

    fn row_with(
        &mut self,
        map: &Arc<TableMap>,
        key: &[Value],
        row: &mut Row,
    ) -> Result<(), ApplyError> {
        let local = self.versions.get(&map.table, key)?;
        self.done.newest_ms = self.done.newest_ms.max(row.version.hlc.ms());
        let verdict = if local.hlc > self.hlc_max && row.version.hlc <= self.hlc_max {
            Verdict::Take { concurrent: true }
        } else {
            // Asked only where it counts, because hashing takes longer than the rest.
            let unknown = row.previous == row.version;
            let local_is_own = unknown && self.own_sites.contains(&local.site);
            resolve(local, row.version, row.previous, local_is_own)
        };
        match verdict {
            Verdict::Skip { concurrent } => {
                self.done.skipped += 1;
                if concurrent {
                    let here = self.read(&map.table, key)?;
                    let reason = concurrent_reason(&map.table, row, here.is_some());
                    let (lost, here) = (map.content(row), stored_row::content(here.as_ref()));
                    self.lost(map, key, reason, local, row.version, lost, here)?;
                }
            }
            Verdict::Take { concurrent } => {
                let before_joining = !self.joined && local == Version::NONE;
                if concurrent || before_joining {
                    let here = self.read(&map.table, key)?;
                    let reason = if concurrent {
                        concurrent_reason(&map.table, row, here.is_some())
                    } else {
                        conflicts::JOINED_OVER
                    };
                    if concurrent || here.is_some() {
                        let (lost, taken) = (stored_row::content(here.as_ref()), map.content(row));
                        self.lost(map, key, reason, row.version, local, lost, taken)?;
                    }
                }
                self.take(map, key, row)?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        map: &Arc<TableMap>,
        key: &[Value],
        row: &mut Row,
    ) -> Result<(), ApplyError> {
        let digest = digest_of(map, row);
        let release = !self.keep_large && has_large(row);
        let written = match row.op {
            Op::Delete => self.delete(&map.table, key),
            Op::Upsert => self.upsert(map, row, release),
        };
        match written {
            Ok(()) => {
                self.versions.put(&map.table, key, row.version, digest)?;
                self.done.taken += 1;
            }
            Err(error) if is_unique(&error) && release => return Err(ApplyError::Released),
            Err(error) if is_unique(&error) => {
                let row = Row { values: std::mem::take(&mut row.values), ..*row };
                self.clashes.push(Clash { map: Arc::clone(map), key: key.to_vec(), row });
            }
            Err(error) => return Err(refused(map, key, error)),
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
        let settled = clashes.into_iter().try_for_each(|clash| self.settle(clash));
        unique_clash::set_probing(self.db, false)?;
        settled.map(|()| self.done)
    }

    fn settle(&mut self, clash: Clash) -> Result<(), ApplyError> {
        let Clash { map, key, mut row } = clash;
        let (map, key) = (&map, &key[..]);
        let columns: Vec<&str> = map.columns.iter().map(String::as_str).collect();
        let others = unique_clash::others(self.db, &map.table, &columns, &map.values(&row))?;
        self.versions.put(&map.table, key, row.version, digest_of(map, &row))?;
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
                map.content(&row),
                None,
            )?;
            return self.compensate(&map.table, key, row.version);
        }
        for (other, version) in others.iter().zip(versions) {
            let content = self.read(&map.table, other)?;
            let lost = stored_row::content(content.as_ref());
            self.lost(map, other, conflicts::UNIQUE_CLASH, row.version, version, lost, None)?;
            self.compensate(&map.table, other, version)?;
        }
        self.upsert(map, &mut row, true).map_err(|error| refused(map, key, error))?;
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

    fn delete(&self, table: &TableLayout, key: &[Value]) -> rusqlite::Result<()> {
        self.db.prepare_cached(&table.sql.delete_row)?.execute(params_from_iter(key)).map(|_| ())
    }

    /// Writes a row. With `release` its large values are dropped once SQLite has its copies, and
    /// those end with the statement.
    fn upsert(
        &mut self,
        map: &Arc<TableMap>,
        row: &mut Row,
        release: bool,
    ) -> rusqlite::Result<()> {
        let statement = match &mut self.upsert {
            Some((of, statement)) if Arc::ptr_eq(of, map) => statement,
            other => &mut other.insert((Arc::clone(map), self.db.prepare_cached(&map.upsert)?)).1,
        };
        for (place, i) in map.used.iter().enumerate() {
            statement.raw_bind_parameter(place + 1, &row.values[*i])?;
            if release && is_large(&row.values[*i]) {
                row.values[*i] = Value::Null;
            }
        }
        let written = statement.raw_execute();
        if release {
            statement.clear_bindings();
        }
        written.map(|_| ())
    }

    fn read<'t>(
        &self,
        table: &'t TableLayout,
        key: &[Value],
    ) -> Result<Option<stored_row::StoredRow<'t>>, DatabaseError> {
        stored_row::read(self.db, table, key, self.journal.value_bytes_max())
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
        let content = content.map(|c| c.into_iter().map(|(n, part)| (n, part.lost())).collect());
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

fn digest_of(map: &TableMap, row: &Row) -> Option<i64> {
    (row.op == Op::Upsert).then(|| map.digest(row))
}

fn is_large(value: &Value) -> bool {
    matches!(value, Value::Text(bytes) | Value::Blob(bytes) if bytes.len() > LARGE_BYTES)
}

fn has_large(row: &Row) -> bool {
    row.values.iter().any(is_large)
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
#[path = "apply_tests.rs"]
mod tests;
