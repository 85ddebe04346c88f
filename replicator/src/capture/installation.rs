//! Installs triggers and version tables in bounded steps, each in a write transaction of its own.
//!
//! Arrives: a database whose schema may have changed. Leaves: triggers, version tables and hashes
//! that fit it. Owns: what there is to do is read without the write lock; a step holds the lock for
//! a bounded time, and does nothing if the schema has changed since. A table is registered in the
//! transaction that creates its triggers, and [`meta::SCHEMA_VERSION`] is written by the last step:
//! until then there is no layout, so nothing is published or applied. A crash between two steps
//! leaves tables that are not followed yet; the next start continues. Rows written to them
//! meanwhile get baseline versions (a new table) or are found by comparison (a known one).

use super::changed_key;
use super::follow_shape::{ChangedKey, follow_shape, present_names};
use super::install::{Installed, schema_version, table_layout};
use super::lineage::{self, TableTriggers};
use super::objects::Objects;
use super::triggers::{triggers, version_table_sql};
use crate::db::connection::DatabaseError;
use crate::db::layout::version_table;
use crate::db::schema::{Schema, TableSchema, inspect};
use crate::db::sql::quote;
use crate::model::batch::Digest;
use crate::model::table_filter::TableFilter;
use crate::store::comparisons::{self, Comparison, Kind};
use crate::store::schema_history;
use crate::store::tables::{self, Change};
use crate::store::{change_log, kept_tables, meta};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// The work of a step, in entries of `sqlite_schema` that SQLite visits: some 70 ms. Every step
/// makes every connection of the application read the whole schema again, so few steps are better
/// than short ones.
pub const STEP_VISITS: u64 = 300_000;
/// What following one table costs besides, in the same unit.
const TABLE_VISITS: u64 = 2_500;
/// What creating one version table costs besides.
const VERSIONS_VISITS: u64 = 1_000;
/// What setting one entry of `sqlite_schema` aside costs, and putting it back.
const ASIDE_VISITS: u64 = 10;
/// Tables that are followed together. The first one's version table is created with the triggers
/// of all, because a CREATE by SQLite itself lets every other connection read the new schema.
const GROUP: usize = 64;

/// What a step has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another step is needed.
    More,
    /// Everything is installed.
    Done,
    /// The schema has changed since it was read: read it again.
    Moved,
}

/// An installation under way. After an error of a step it must be read again.
#[derive(Debug)]
pub struct Installation {
    version: i64,
    schema: Schema,
    found: HashMap<String, TableTriggers>,
    objects: Objects,
    /// Tables that are followed in the first step, with what the whole schema needs; None after it.
    first: Option<First>,
    /// Tables without a version table.
    versions: VecDeque<usize>,
    groups: VecDeque<Vec<usize>>,
    done: Installed,
}

#[derive(Debug, Default)]
struct First {
    tables: Vec<usize>,
    /// A table is gone or has another name.
    renamed: bool,
}

impl Installation {
    /// Reads what there is to do. Needs no write transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection, filter: &TableFilter) -> Result<Self, DatabaseError> {
        // A read transaction of its own, unless the caller has one: everything is of one moment.
        let own = db.is_autocommit();
        if own {
            db.execute_batch("BEGIN")?;
        }
        let read = Self::read_inside(db, filter);
        if own {
            db.execute_batch("ROLLBACK")?;
        }
        read
    }

    fn read_inside(db: &Connection, filter: &TableFilter) -> Result<Self, DatabaseError> {
        let version = schema_version(db)?;
        let schema = inspect(db, filter)?;
        let unable =
            schema.skipped.iter().filter(|s| s.warn).map(|s| (s.name.clone(), s.reason.clone()));
        let mut read = Self {
            version,
            done: Installed { unable: unable.collect(), ..Installed::default() },
            found: lineage::read(db)?,
            objects: Objects::read(db)?,
            first: None,
            versions: VecDeque::new(),
            groups: VecDeque::new(),
            schema,
        };
        read.plan(db)?;
        Ok(read)
    }

    fn plan(&mut self, db: &Connection) -> Result<(), DatabaseError> {
        let known = tables::all(db)?;
        let mut first = First { renamed: self.has_renames(&known), ..First::default() };
        let (mut new, mut touched) = (Vec::new(), Vec::new());
        for (at, table) in self.schema.tables.iter().enumerate() {
            match known.get(&table.name.to_ascii_lowercase()) {
                None if !first.renamed => new.push(at),
                Some((id, Some(hash))) if *hash == table.hash => {
                    if !self.is_settled(db, table, *id)? {
                        touched.push(at);
                    }
                }
                _ => first.tables.push(at),
            }
        }
        let objects = (new.len() + touched.len() + first.tables.len()) * 6;
        self.objects.expect(objects);
        for group in new.chunks(GROUP) {
            self.versions.extend(&group[1..]);
            self.groups.push_back(group.to_vec());
        }
        self.groups.extend(touched.chunks(GROUP).map(<[usize]>::to_vec));
        self.first = Some(first);
        Ok(())
    }

    fn has_renames(&self, known: &HashMap<String, (i64, Option<Digest>)>) -> bool {
        let names: HashSet<String> =
            self.schema.tables.iter().map(|t| t.name.to_ascii_lowercase()).collect();
        let gone = known.iter().any(|(name, (_, hash))| hash.is_some() && !names.contains(name));
        let other_number = |(table, triggers): (&String, &TableTriggers)| {
            let number = triggers.witness.as_ref().map(|(id, _)| *id);
            number.is_some() && number != known.get(table).map(|(id, _)| *id)
        };
        gone || self.found.iter().any(other_number)
    }

    /// Whether nothing is to be done for a table with a known hash.
    fn is_settled(
        &self,
        db: &Connection,
        table: &TableSchema,
        id: i64,
    ) -> Result<bool, DatabaseError> {
        let Some(found) = self.found.get(&table.name.to_ascii_lowercase()) else {
            return Ok(false);
        };
        let wanted = wanted(table, id);
        let fits = wanted.iter().all(|(name, sql)| self.objects.fits(name, sql))
            && self.objects.triggers_on(&table.name).iter().all(|name| wanted.contains_key(name));
        if !fits || !found.log_every_change() {
            return Ok(false);
        }
        let Some(former) = schema_history::newest(db, id)? else { return Ok(false) };
        let (shape, lineage) = former.shape.next(table, present_names(Some(found), id));
        Ok(former.hash == table.hash && former.shape == shape && !lineage.lost_column)
    }

    /// Does one piece of the work, inside the caller's write transaction, on a connection where
    /// [`crate::store::install::create_tables`] has run. It ends after `visits` units of work, but
    /// does at least one table.
    ///
    /// # Errors
    /// SQLite's error. The caller rolls back, and reads the installation again.
    pub fn step(
        &mut self,
        db: &Connection,
        now_ms: i64,
        visits: u64,
    ) -> Result<Progress, DatabaseError> {
        if schema_version(db)? != self.version {
            return Ok(Progress::Moved);
        }
        let mut left = visits;
        if let Some(first) = self.first.take() {
            left = left.saturating_sub(first.tables.len() as u64 * TABLE_VISITS);
            self.first_step(db, &first, now_ms)?;
        }
        left = self.create_versions(db, left)?;
        let mut followed = false;
        while left > 0
            && let Some(group) = self.groups.pop_front()
        {
            left = left.saturating_sub(self.objects.entries() + group.len() as u64 * TABLE_VISITS);
            self.follow(db, &group, &HashSet::new(), now_ms)?;
            followed = true;
        }
        // After writing in bulk this connection reads the whole schema again: not under the lock.
        let is_over = self.versions.is_empty()
            && self.groups.is_empty()
            && !(followed && self.objects.is_bulk());
        if is_over {
            self.drop_strangers(db)?;
        }
        self.objects.write_bulk(db, self.version)?;
        if is_over {
            store_hash(db, self.schema.hash())?;
            meta::set(db, meta::SCHEMA_VERSION, schema_version(db)?)?;
        }
        self.version = schema_version(db)?;
        Ok(if is_over { Progress::Done } else { Progress::More })
    }

    /// The schema version that the last step left.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The schema for which it installs.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Ends the installation, outside its last transaction if there were several. Returns the
    /// schema, and what was done.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn end(self, db: &Connection) -> Result<(Schema, Installed), DatabaseError> {
        if self.objects.is_bulk() {
            // What was written in bulk is unknown to this connection.
            db.execute_batch("PRAGMA writable_schema = RESET")?;
        }
        Ok((self.schema, self.done))
    }

    fn first_step(
        &mut self,
        db: &Connection,
        first: &First,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        let keys = self.schema.tables.iter().map(|t| t.key.len()).max().unwrap_or(1);
        change_log::widen(db, keys)?;
        let mut guessed = HashSet::new();
        if first.renamed {
            guessed = lineage::follow_renames(db, &self.schema, &self.found)?;
            self.objects = self.objects.read_again(db)?;
        }
        self.follow(db, &first.tables, &guessed, now_ms)?;
        self.done.removed.extend(tables::forget_dropped(db, &self.schema)?);
        Ok(())
    }

    /// Drops our objects that belong to no replicated table.
    fn drop_strangers(&mut self, db: &Connection) -> Result<(), DatabaseError> {
        let mut names = HashSet::new();
        let mut tables = HashSet::new();
        for table in &self.schema.tables {
            names.insert(version_table(&table.name));
            tables.insert(table.name.to_ascii_lowercase());
        }
        // A dropped table may come back: then its versions show what is gone.
        let kept = tables::forgotten(db)?.into_iter().filter(|name| !self.schema.has(name));
        names.extend(kept.map(|name| version_table(&name)));
        for (name, kind, table) in self.objects.all() {
            let is_ours =
                if kind == "trigger" { tables.contains(&table) } else { names.contains(&name) };
            if !is_ours && !kept_tables::is_kept(&name) {
                self.drop_object(db, &name)?;
            }
        }
        Ok(())
    }

    fn drop_object(&mut self, db: &Connection, name: &str) -> Result<(), DatabaseError> {
        let kind = self.objects.drop(db, name)?;
        let is_go = name.ends_with("_change_log") || name.ends_with("_change_log_global");
        if is_go && kind.as_deref() == Some("table") {
            self.done.foreign_removed.push(name.to_owned());
        }
        Ok(())
    }

    /// Creates version tables. Returns what is left of the work of this step.
    fn create_versions(&mut self, db: &Connection, mut left: u64) -> Result<u64, DatabaseError> {
        let mut together = Vec::new();
        while left > 0
            && let Some(at) = self.versions.pop_front()
        {
            let table = &self.schema.tables[at];
            let (name, sql) = (version_table(&table.name), version_table_sql(table));
            if self.objects.fits(&name, &sql) {
                continue;
            }
            self.drop_object(db, &name)?;
            if together.is_empty() {
                left = left.saturating_sub(self.objects.entries() * ASIDE_VISITS);
            }
            left = left.saturating_sub(together.len() as u64 + VERSIONS_VISITS);
            together.push((name, sql));
        }
        if !together.is_empty() {
            self.objects.create_tables(db, &together)?;
        }
        Ok(left)
    }

    /// Follows some tables: registers them, stores their shapes, and brings their objects in line.
    fn follow(
        &mut self,
        db: &Connection,
        tables: &[usize],
        guessed: &HashSet<String>,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        let joined = meta::get(db, meta::JOINED)?.unwrap_or(false);
        let mut followed = Vec::with_capacity(tables.len());
        for &at in tables {
            let table = &self.schema.tables[at];
            let is_new = tables::find(db, &table.name)?.is_none();
            let registered = tables::register(db, table)?;
            match registered.change {
                Change::Added => self.done.added.push(table.name.clone()),
                Change::Schema => self.done.changed.push(table.name.clone()),
                Change::None => {}
            }
            let id = registered.id;
            let triggers_found = self.found.get(&table.name.to_ascii_lowercase());
            let (mut comparison, other_key) = follow_shape(db, table, id, triggers_found, now_ms)?;
            if let Some(comparison) = comparison.as_mut().filter(|_| guessed.contains(&table.name))
            {
                comparison.kind = Kind::CompareLoosely;
            }
            followed.push(Followed {
                at,
                id,
                is_new,
                other_key,
                carried: false,
                comparison,
                wanted: wanted(table, id),
            });
        }
        for table in &mut followed {
            self.drop_stale(db, table)?;
        }
        for table in followed {
            self.create_missing(db, table, joined)?;
        }
        Ok(())
    }

    fn drop_stale(&mut self, db: &Connection, table: &mut Followed) -> Result<(), DatabaseError> {
        if let Some(key) = &table.other_key {
            let lost = self.take_versions(db, table, key)?;
            table.carried = lost.is_some();
        }
        let on_table = self.objects.triggers_on(&self.schema.tables[table.at].name);
        for name in on_table.iter().filter(|name| !table.wanted.contains_key(*name)) {
            self.drop_object(db, name)?;
        }
        for (name, sql) in &table.wanted {
            if self.objects.has(name) && !self.objects.fits(name, sql) {
                self.drop_object(db, name)?;
            }
        }
        if table.other_key.is_some() {
            self.drop_object(db, &version_table(&self.schema.tables[table.at].name.clone()))?;
        }
        Ok(())
    }

    /// Versions and log entries name rows by the former key.
    fn take_versions(
        &self,
        db: &Connection,
        table: &Followed,
        key: &ChangedKey,
    ) -> Result<Option<u64>, DatabaseError> {
        let schema = &self.schema.tables[table.at];
        let lost = if self.objects.has(&version_table(&schema.name)) {
            changed_key::take(db, schema, table.id, (&key.former, &key.present))?
        } else {
            None
        };
        match lost {
            Some(0) => tracing::info!(
                table = schema.name,
                "rows of this table are identified by other columns now; they keep their versions"
            ),
            Some(deletes) => tracing::warn!(
                table = schema.name,
                deletes,
                "rows of this table are identified by other columns now, which nobody knows of \
                rows that are gone: deletes of the last moment, if they were not published yet, do \
                not reach the other nodes; delete these rows there"
            ),
            None => {
                let changes = change_log::forget_unpublished(db, table.id)?;
                tracing::warn!(
                    table = schema.name,
                    changes,
                    "rows of this table are identified by other columns now, and the former ones \
                    are gone; all rows are published again, deletes that were not published yet \
                    are not"
                );
            }
        }
        Ok(lost)
    }

    fn create_missing(
        &mut self,
        db: &Connection,
        followed: Followed,
        joined: bool,
    ) -> Result<(), DatabaseError> {
        let table = self.schema.tables[followed.at].clone();
        let versions = version_table(&table.name);
        // A version table without a row beside a table that was never registered is one that an
        // earlier step made.
        let mut has_versions = self.objects.has(&versions);
        if has_versions && followed.is_new {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM main.{})", quote(&versions));
            has_versions = db.query_row(&sql, [], |r| r.get(0))?;
        }
        let wanted = followed.wanted.iter().filter(|(name, _)| !self.objects.has(name));
        let missing: Vec<(&str, &str)> =
            wanted.map(|(n, sql)| (n.as_str(), sql.as_str())).collect();
        self.objects.create(db, &table.name, &missing)?;
        if followed.carried {
            changed_key::put(db, &table_layout(db, followed.id, table.clone())?)?;
            has_versions = true;
        }
        if !has_versions {
            if joined {
                let layout = table_layout(db, followed.id, table)?;
                crate::capture::baseline::baseline_table(db, &layout)?;
            }
        } else if let Some(comparison) = followed.comparison {
            if comparison.kind != Kind::Refresh {
                self.done.compared.push(table.name.clone());
            }
            comparisons::note(db, comparison)?;
        }
        Ok(())
    }
}

/// A table between its registration and its triggers.
struct Followed {
    at: usize,
    id: i64,
    is_new: bool,
    /// Its rows are identified by other columns than before.
    other_key: Option<ChangedKey>,
    /// Its versions wait to be put into a new version table.
    carried: bool,
    comparison: Option<Comparison>,
    wanted: BTreeMap<String, String>,
}

/// Name and text of all objects of a table.
fn wanted(table: &TableSchema, id: i64) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = triggers(table, id).into_iter().collect();
    wanted.insert(version_table(&table.name), version_table_sql(table));
    wanted
}

fn store_hash(db: &Connection, hash: Digest) -> Result<(), DatabaseError> {
    let known = meta::get(db, meta::SCHEMA_HASH)?;
    if known != Some(hash) {
        if let Some(known) = known {
            meta::set(db, meta::PREVIOUS_SCHEMA_HASH, known)?;
        }
        meta::set(db, meta::SCHEMA_HASH, hash)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "installation_tests.rs"]
mod tests;
