//! Our triggers and version tables in the application's schema, and views of earlier versions: what
//! is there, and how they are dropped and created.
//!
//! Arrives: names and texts. Leaves: entries in `sqlite_schema`. Owns: every text was compiled by
//! SQLite before it stands there. Runs inside the caller's write transaction, so a crash leaves all
//! or none.
//!
//! SQLite searches the whole of `sqlite_schema` after each CREATE and each DROP. That is nothing
//! for a hundred tables; for 5,000 with six objects each it takes minutes. Where it would take
//! long, triggers are written in *bulk*: they are created in an empty database in memory, beside
//! stand-ins of their tables, and the rows that SQLite made for them there are copied, as VACUUM
//! does it. Tables are always created by SQLite; where there are many, the rows of `sqlite_schema`
//! are set aside for that time ([`super::schema_rows`]).

use super::install::schema_version;
use super::schema_rows;
use crate::db::connection::DatabaseError;
use crate::db::schema::OWN_PREFIX;
use crate::db::sql::{affinity, quote};
use crate::db::table_text::TableText;
use crate::store::install::{FIXED_TABLES, PENDING};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap};

/// Entries of `sqlite_schema` that creating all objects one by one may visit: some 30 ms of work.
const ONE_BY_ONE_MAX: u64 = 100_000;

/// An object of ours.
#[derive(Clone, Debug)]
struct Object {
    kind: String,
    /// The table that it is on, in lower case.
    table: String,
    sql: String,
    /// Its place in `sqlite_schema`; None if this installation created it.
    rowid: Option<i64>,
}

/// All our objects, except the fixed tables and their view.
#[derive(Debug, Default)]
pub(super) struct Objects {
    present: BTreeMap<String, Object>,
    on_table: HashMap<String, Vec<String>>,
    /// The entries of `sqlite_schema`.
    entries: u64,
    is_bulk: bool,
    dropped: Vec<(i64, String)>,
    /// Triggers to be written in bulk, by their table.
    triggers: Vec<(String, Vec<String>)>,
}

impl Objects {
    /// Reads what is there.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(db: &Connection) -> Result<Self, DatabaseError> {
        let mut found = Self {
            entries: db.query_row("SELECT count(*) FROM main.sqlite_schema", [], |r| {
                r.get::<_, i64>(0).map(|n| u64::try_from(n).unwrap_or(0))
            })?,
            ..Self::default()
        };
        let mut read = db.prepare(
            "SELECT name, type, tbl_name, coalesce(sql, ''), rowid FROM main.sqlite_schema WHERE \
            substr(name, 1, length(?1)) = ?1 AND type IN ('table', 'view', 'trigger')",
        )?;
        let mut rows = read.query([OWN_PREFIX])?;
        while let Some(row) = rows.next()? {
            let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
            let own_name = &name[OWN_PREFIX.len()..];
            let is_fixed = match kind.as_str() {
                "table" => FIXED_TABLES.contains(&own_name),
                kind => kind == "view" && own_name == PENDING,
            };
            if is_fixed {
                continue;
            }
            let table = row.get::<_, String>(2)?.to_ascii_lowercase();
            found.insert(name, Object { kind, table, sql: row.get(3)?, rowid: Some(row.get(4)?) });
        }
        Ok(found)
    }

    fn insert(&mut self, name: String, object: Object) {
        if object.kind == "trigger" {
            self.on_table.entry(object.table.clone()).or_default().push(name.clone());
        }
        self.present.insert(name, object);
    }

    /// Decides how to create this number of objects.
    pub(super) fn expect(&mut self, objects: usize) {
        let visits = (objects as u64).saturating_mul(self.entries + objects as u64);
        self.is_bulk = visits > ONE_BY_ONE_MAX;
    }

    /// Reads what is there now, for the same way of creating.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read_again(&self, db: &Connection) -> Result<Self, DatabaseError> {
        Ok(Self { is_bulk: self.is_bulk, ..Self::read(db)? })
    }

    /// Whether triggers are written in bulk.
    pub(super) fn is_bulk(&self) -> bool {
        self.is_bulk
    }

    /// The entries of `sqlite_schema` that creating one table visits.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether there is an object of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.present.contains_key(name)
    }

    /// Whether the object is there with this text. SQLite stores a text unchanged, except for the
    /// part before the name.
    pub(super) fn fits(&self, name: &str, text: &str) -> bool {
        self.present.get(name).is_some_and(|o| {
            let (wanted, present) = (tail(text, name), tail(&o.sql, name));
            wanted == present || o.kind == "table" && holds_same_versions(wanted, present)
        })
    }

    /// The names of our triggers on a table.
    pub(super) fn triggers_on(&self, table: &str) -> Vec<String> {
        let table = table.to_ascii_lowercase();
        let names = self.on_table.get(&table).map(Vec::as_slice).unwrap_or_default();
        let stands = |n: &&String| self.present.get(*n).is_some_and(|o| o.table == table);
        names.iter().filter(stands).cloned().collect()
    }

    /// Name, type and table of every object. Triggers and views come first, because they name the
    /// tables.
    pub(super) fn all(&self) -> Vec<(String, String, String)> {
        let mut all: Vec<_> = self
            .present
            .iter()
            .map(|(name, o)| (name.clone(), o.kind.clone(), o.table.clone()))
            .collect();
        all.sort_by_key(|(_, kind, _)| kind == "table");
        all
    }

    /// Drops an object, if it is there. Returns its type.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn drop(
        &mut self,
        db: &Connection,
        name: &str,
    ) -> Result<Option<String>, DatabaseError> {
        let Some(object) = self.present.remove(name) else { return Ok(None) };
        match object.rowid {
            Some(rowid) if self.is_bulk && object.kind != "table" => {
                self.dropped.push((rowid, name.to_owned()));
            }
            _ => {
                db.execute_batch(&format!("DROP {} IF EXISTS main.{}", object.kind, quote(name)))?;
            }
        }
        self.entries = self.entries.saturating_sub(1);
        Ok(Some(object.kind))
    }

    /// Creates objects of a table. In bulk, triggers are there after [`Self::write_bulk`].
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn create(
        &mut self,
        db: &Connection,
        table: &str,
        objects: &[(&str, &str)],
    ) -> Result<(), DatabaseError> {
        let mut triggers = Vec::new();
        for &(name, sql) in objects {
            if self.is_bulk && kind_of(sql) == "trigger" {
                triggers.push(sql.to_owned());
            } else {
                db.execute_batch(sql)?;
            }
            self.created(table, name, sql);
        }
        if !triggers.is_empty() {
            self.triggers.push((table.to_owned(), triggers));
        }
        Ok(())
    }

    /// Creates tables, given as name and text. In bulk the rest of the schema is read and written
    /// once for all of them.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn create_tables(
        &mut self,
        db: &Connection,
        tables: &[(String, String)],
    ) -> Result<(), DatabaseError> {
        let create = || tables.iter().try_for_each(|(_, sql)| Ok(db.execute_batch(sql)?));
        if self.is_bulk {
            schema_rows::without_other_rows(db, create)?;
        } else {
            create()?;
        }
        for (name, sql) in tables {
            self.created(name, name, sql);
        }
        Ok(())
    }

    fn created(&mut self, table: &str, name: &str, sql: &str) {
        let kind = kind_of(sql);
        let on = if kind == "trigger" { table } else { name };
        let object = Object {
            kind: kind.to_owned(),
            table: on.to_ascii_lowercase(),
            sql: sql.to_owned(),
            rowid: None,
        };
        self.insert(name.to_owned(), object);
        self.entries += 1;
    }

    /// Writes what was created and dropped in bulk, and lets every other connection read the schema
    /// again. `before` is the schema version at the start of the transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn write_bulk(&mut self, db: &Connection, before: i64) -> Result<(), DatabaseError> {
        let dropped = std::mem::take(&mut self.dropped);
        let triggers = std::mem::take(&mut self.triggers);
        if dropped.is_empty() && triggers.is_empty() {
            return Ok(());
        }
        schema_rows::write(db, &dropped, &schema_rows::compile(&triggers)?)?;
        if schema_version(db)? == before {
            db.pragma_update(Some("main"), "schema_version", before + 1)?;
        }
        Ok(())
    }
}

fn kind_of(sql: &str) -> &'static str {
    if sql.starts_with("CREATE TRIGGER") { "trigger" } else { "table" }
}

/// Whether two version tables, from after their names on, hold the same. A tool that rebuilds a
/// table can spell the type of its key in another way (`varchar`, `VARCHAR(255)`).
fn holds_same_versions(wanted: &str, present: &str) -> bool {
    let read = |tail: &str| {
        let text = TableText::parse(&format!("CREATE TABLE versions{tail}")).ok()?;
        let columns = text.columns.into_iter().map(|column| {
            let collation = column.normal.into_iter().skip_while(|token| token != "collate");
            (column.name, affinity(&column.declared), collation.collect::<Vec<_>>())
        });
        Some((columns.collect::<Vec<_>>(), text.constraints, text.without_rowid))
    };
    read(wanted).is_some_and(|wanted| read(present) == Some(wanted))
}

fn tail<'a>(sql: &'a str, name: &str) -> &'a str {
    let quoted = quote(name);
    sql.find(&quoted).map_or(sql, |at| &sql[at + quoted.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stay_while_the_key_is_the_same_however_its_type_is_spelled() {
        let versions = |keys: &str, primary: &str| {
            format!(
                " ({keys}, hlc INTEGER NOT NULL, site INTEGER NOT NULL, digest INTEGER, PRIMARY \
                KEY ({primary})) WITHOUT ROWID"
            )
        };
        let present = versions("key0 \"varchar\" COLLATE BINARY", "key0");
        for (keys, primary, same) in [
            ("key0 \"VARCHAR(255)\" COLLATE BINARY", "key0", true),
            ("key0 \"TEXT\" COLLATE BINARY", "key0", true),
            ("key0 \"TEXT\" COLLATE NOCASE", "key0", false),
            ("key0 \"BIGINT\" COLLATE BINARY", "key0", false),
            ("key0 COLLATE BINARY", "key0", false),
            ("key0 \"TEXT\" COLLATE BINARY, key1 COLLATE BINARY", "key0, key1", false),
        ] {
            let wanted = versions(keys, primary);
            assert_eq!(holds_same_versions(&wanted, &present), same, "{keys}");
        }
        assert!(!holds_same_versions(" (key0 INTEGER PRIMARY KEY, hlc INTEGER)", &present));
    }
}
