//! Reads and stores the versions of rows, optimised for many in sequence.
//!
//! Arrives: a table and a key. Leaves: the version read or stored. Keeps the prepared statements of
//! recently used tables, because rusqlite's own cache hashes the statement's text and reorders its
//! list each time, which takes a tenth of applying a row. The caller's transaction decides what a
//! crash leaves.

use crate::db::connection::DatabaseError;
use crate::db::layout::TableLayout;
use crate::db::packed_key::{Packed, pack};
use crate::db::schema::KeyKind;
use crate::model::batch::Value;
use crate::model::ids::Version;
use crate::store::site_numbers::SiteNumbers;
use rusqlite::{CachedStatement, Connection, OptionalExtension, ToSql, params_from_iter};

/// The most tables with kept statements: more than a transaction usually writes to.
const TABLES_MAX: usize = 8;

/// Access to the versions in one database. Its user drops it at the end of a transaction at the
/// latest, because the tables must not change meanwhile, and only through it.
pub struct Versions<'a> {
    db: &'a Connection,
    sites: SiteNumbers,
    last: Vec<Statements<'a>>,
}

struct Statements<'a> {
    table: i64,
    get: CachedStatement<'a>,
    /// Made when they are needed: the reading connection never stores a version.
    put: Option<CachedStatement<'a>>,
    put_stored: Option<CachedStatement<'a>>,
    put_range: Option<CachedStatement<'a>>,
    /// How often a version of an integer key was read.
    reads: u8,
    /// The greatest integer key with a version, once it is known.
    greatest: Option<i64>,
}

/// After so many reads of one table it is worth a statement to know the greatest key. Rows are
/// mostly appended, and no row beyond it has a version.
const READS_FEW: u8 = 2;

impl Statements<'_> {
    /// Returns whether this integer key is beyond all that have a version.
    fn is_beyond(
        &mut self,
        db: &Connection,
        table: &TableLayout,
        key: i64,
    ) -> Result<bool, DatabaseError> {
        let greatest = match self.greatest {
            Some(greatest) => greatest,
            None if self.reads < READS_FEW => {
                self.reads += 1;
                return Ok(false);
            }
            None => {
                let mut read = db.prepare_cached(&table.sql.version_greatest)?;
                let greatest: Option<i64> = read.query_row([], |r| r.get(0))?;
                *self.greatest.insert(greatest.unwrap_or(i64::MIN))
            }
        };
        Ok(key > greatest)
    }

    fn note_put(&mut self, key: &[Value]) {
        if let [Value::Integer(key)] = key {
            self.note_integer(*key);
        }
    }

    fn note_integer(&mut self, key: i64) {
        if let Some(greatest) = &mut self.greatest {
            *greatest = (*greatest).max(key);
        }
    }
}

impl<'a> Versions<'a> {
    /// Creates the access to this database.
    pub fn new(db: &'a Connection) -> Self {
        Self { db, sites: SiteNumbers::default(), last: Vec::new() }
    }

    fn of(&mut self, table: &TableLayout) -> Result<&mut Statements<'a>, DatabaseError> {
        let at = match self.last.iter().position(|s| s.table == table.id) {
            Some(at) => at,
            None => {
                if self.last.len() == TABLES_MAX {
                    self.last.swap_remove(0);
                }
                self.last.push(Statements {
                    table: table.id,
                    get: self.db.prepare_cached(&table.sql.version_get)?,
                    put: None,
                    put_stored: None,
                    put_range: None,
                    reads: 0,
                    greatest: None,
                });
                self.last.len() - 1
            }
        };
        Ok(&mut self.last[at])
    }

    /// Returns the stored version of a row; [`Version::NONE`] if there is none.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn get(&mut self, table: &TableLayout, key: &[Value]) -> Result<Version, DatabaseError> {
        let db = self.db;
        let statements = self.of(table)?;
        if table.schema.key_kind != KeyKind::Columns
            && let [Value::Integer(key)] = key
            && statements.is_beyond(db, table, *key)?
        {
            return Ok(Version::NONE);
        }
        let key = packed(table, key);
        let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?));
        let Some((hlc, stored)) =
            statements.get.query_row(params_from_iter(key), read).optional()?
        else {
            return Ok(Version::NONE);
        };
        Ok(Version { hlc, site: self.sites.site(db, stored)? })
    }

    /// Stores the version of a row and the digest of its content; None for a row that is gone.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn put(
        &mut self,
        table: &TableLayout,
        key: &[Value],
        version: Version,
        digest: Option<i64>,
    ) -> Result<(), DatabaseError> {
        let db = self.db;
        let site = self.sites.number(db, version.site)?;
        let statements = self.of(table)?;
        statements.note_put(key);
        let put = match &mut statements.put {
            Some(put) => put,
            none => none.insert(db.prepare_cached(&table.sql.version_put)?),
        };
        bind(put, packed(table, key), version, site)?;
        put.raw_bind_parameter(key.len() + 3, digest)?;
        put.raw_execute()?;
        Ok(())
    }

    /// Stores the version of a row and the digest of what the table holds.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn put_stored(
        &mut self,
        table: &TableLayout,
        key: &[Value],
        version: Version,
    ) -> Result<(), DatabaseError> {
        let db = self.db;
        let site = self.sites.number(db, version.site)?;
        let statements = self.of(table)?;
        statements.note_put(key);
        let put = match &mut statements.put_stored {
            Some(put) => put,
            none => none.insert(db.prepare_cached(&table.sql.version_put_stored)?),
        };
        bind(put, key.iter(), version, site)?;
        for (i, value) in packed(table, key).enumerate() {
            put.raw_bind_parameter(key.len() + 3 + i, value)?;
        }
        put.raw_execute()?;
        Ok(())
    }

    /// Stores one version for all rows with the keys from `first` to `last` in a table with an
    /// integer key, and the digest of what the table holds. One statement for many neighbours makes
    /// absorb a third quicker (docs/performance.md).
    ///
    /// # Errors
    /// SQLite's error.
    pub fn put_range(
        &mut self,
        table: &TableLayout,
        (first, last): (i64, i64),
        version: Version,
    ) -> Result<(), DatabaseError> {
        let db = self.db;
        let site = self.sites.number(db, version.site)?;
        let statements = self.of(table)?;
        let (Some(sql), true) = (&table.sql.version_put_range, first < last) else {
            return self.put_each(table, (first, last), version);
        };
        statements.note_integer(last);
        let put = match &mut statements.put_range {
            Some(put) => put,
            none => none.insert(db.prepare_cached(sql)?),
        };
        bind(put, [first, last].into_iter(), version, site)?;
        let stored = put.raw_execute()?;
        if last.abs_diff(first) + 1 == stored as u64 {
            return Ok(());
        }
        // Rows that are gone have a version too.
        self.put_each(table, (first, last), version)
    }

    fn put_each(
        &mut self,
        table: &TableLayout,
        (first, last): (i64, i64),
        version: Version,
    ) -> Result<(), DatabaseError> {
        (first..=last).try_for_each(|key| self.put_stored(table, &[Value::Integer(key)], version))
    }
}

/// A key as the version table holds it.
fn packed<'v>(table: &'v TableLayout, key: &'v [Value]) -> impl Iterator<Item = Packed<'v>> {
    key.iter().zip(&table.packs).map(|(value, packs)| {
        let value = value.into();
        if *packs { pack(value) } else { Packed::Same(value) }
    })
}

fn bind(
    put: &mut CachedStatement<'_>,
    key: impl Iterator<Item = impl ToSql>,
    version: Version,
    site: i64,
) -> Result<(), DatabaseError> {
    let mut at = 1;
    for value in key {
        put.raw_bind_parameter(at, value)?;
        at += 1;
    }
    put.raw_bind_parameter(at, version.hlc)?;
    put.raw_bind_parameter(at + 1, site)?;
    Ok(())
}
