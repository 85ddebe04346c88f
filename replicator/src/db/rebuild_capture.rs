//! Keeps our triggers on a table that this program itself rebuilds.
//!
//! Arrives: a table before and after its rebuild, within one transaction. Leaves: our triggers, put
//! back where every row still is what it was. Owns: a table without triggers counts as changed
//! unseen, its rows are compared and may get newer versions; here nobody else could write, so that
//! would let copies win over real changes. Where a value, or a key, may have become another one,
//! the triggers stay away, and the rows are compared. A crash leaves the table as it was.

use crate::db::schema::OWN_PREFIX;
use crate::db::sql::{Affinity, affinity};
use crate::db::sql_tokens::{ident, tokens};
use rusqlite::Connection;

/// The end of the name of the trigger that lists all columns, and may list dropped ones.
const WITNESS: &str = "_on_rename";

/// A stored column.
#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: String,
    affinity: Affinity,
    key_position: i64,
}

/// A table before its rebuild.
#[derive(Debug)]
pub(super) struct Capture {
    table: String,
    /// Names and texts of our triggers.
    triggers: Vec<(String, String)>,
    columns: Vec<Column>,
    options: (bool, bool),
}

impl Capture {
    /// Reads a table and our triggers on it.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(db: &Connection, table: &str) -> rusqlite::Result<Self> {
        let mut list = db.prepare(
            "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 \
            COLLATE NOCASE AND substr(name, 1, length(?2)) = ?2 ORDER BY rowid",
        )?;
        let triggers = list
            .query_map([table, OWN_PREFIX], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut list = db.prepare(
            "SELECT name, type, pk FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0",
        )?;
        let columns = list
            .query_map([table], |row| {
                Ok(Column {
                    name: row.get::<_, String>(0)?.to_ascii_lowercase(),
                    affinity: affinity(&row.get::<_, String>(1)?),
                    key_position: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let options = db.query_row(
            "SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE \
            NOCASE",
            [table],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(Self { table: table.to_owned(), triggers, columns, options })
    }

    /// Creates the triggers again on the rebuilt table, all or none.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn put_back(&self, db: &Connection) -> rusqlite::Result<()> {
        let now = Self::read(db, &self.table)?;
        let (kept, lost): (Vec<&Column>, Vec<&Column>) = self
            .columns
            .iter()
            .partition(|column| now.columns.iter().any(|present| present.name == column.name));
        let key = |columns: &[Column]| -> Vec<(i64, String)> {
            let keys = columns.iter().filter(|c| c.key_position > 0);
            let mut names: Vec<_> = keys.map(|c| (c.key_position, c.name.clone())).collect();
            names.sort();
            names
        };
        let same_values = kept.iter().all(|column| now.columns.contains(column));
        // Without a key the rowid is it, and has been copied under a name that no column has.
        let same_key = key(&self.columns) == key(&now.columns);
        let names_lost = self
            .triggers
            .iter()
            .filter(|(name, _)| !name.ends_with(WITNESS))
            .any(|(_, sql)| lost.iter().any(|column| mentions(sql, &column.name)));
        if same_values && same_key && self.options == now.options && !names_lost {
            for (_, sql) in &self.triggers {
                db.execute_batch(sql)?;
            }
        }
        Ok(())
    }
}

fn mentions(sql: &str, column: &str) -> bool {
    let wanted = ident(column);
    tokens(sql).map_or(true, |all| {
        all.iter().any(|token| token.name().is_some_and(|name| ident(&name) == wanted))
    })
}
