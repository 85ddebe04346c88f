//! Reads and stores the versions of rows, many in a row.
//!
//! Arrives: a table and a key. Leaves: the version, or a stored one. The statements of the tables
//! that came last are kept at hand: rusqlite's own cache costs a hash of the statement's text and
//! moves in its list each time, a tenth of what applying a row takes. A crash leaves what the
//! caller's transaction leaves.

use crate::db::connection::DatabaseError;
use crate::db::ids::version_from;
use crate::db::layout::TableLayout;
use crate::model::batch::Value;
use crate::model::ids::Version;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params_from_iter};

/// Tables whose statements are kept: more than a transaction usually writes to.
const TABLES_MAX: usize = 8;

/// The versions in one database. Lives no longer than a transaction: the tables must not change
/// meanwhile.
pub struct Versions<'a> {
    db: &'a Connection,
    last: Vec<Statements<'a>>,
}

struct Statements<'a> {
    table: i64,
    get: CachedStatement<'a>,
    put: CachedStatement<'a>,
}

impl<'a> Versions<'a> {
    /// Of this database.
    pub fn new(db: &'a Connection) -> Self {
        Self { db, last: Vec::new() }
    }

    fn of(&mut self, table: &TableLayout) -> Result<&mut Statements<'a>, DatabaseError> {
        let at = match self.last.iter().position(|s| s.table == table.id) {
            Some(at) => at,
            None => {
                if self.last.len() == TABLES_MAX {
                    self.last.swap_remove(0);
                }
                let (get, put) = (
                    self.db.prepare_cached(&table.sql.version_get)?,
                    self.db.prepare_cached(&table.sql.version_put)?,
                );
                self.last.push(Statements { table: table.id, get, put });
                self.last.len() - 1
            }
        };
        Ok(&mut self.last[at])
    }

    /// The stored version of a row; [`Version::NONE`] if it was never seen.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn get(&mut self, table: &TableLayout, key: &[Value]) -> Result<Version, DatabaseError> {
        let get = &mut self.of(table)?.get;
        Ok(get
            .query_row(params_from_iter(key), |r| version_from(r, 0))
            .optional()?
            .unwrap_or(Version::NONE))
    }

    /// Stores the version of a row.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn put(
        &mut self,
        table: &TableLayout,
        key: &[Value],
        version: Version,
    ) -> Result<(), DatabaseError> {
        let put = &mut self.of(table)?.put;
        for (i, value) in key.iter().enumerate() {
            put.raw_bind_parameter(i + 1, value)?;
        }
        put.raw_bind_parameter(key.len() + 1, version.hlc)?;
        put.raw_bind_parameter(key.len() + 2, version.site)?;
        put.raw_execute()?;
        Ok(())
    }
}
