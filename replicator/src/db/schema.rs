//! Reads the application's schema: the replicated tables, their keys, and the hash.
//!
//! Arrives: a connection and the table filter. Leaves: one [`TableSchema`] for each table that can
//! be replicated and one [`Skipped`] for each that cannot, with the reason. Reads only; a crash
//! here loses nothing.

use crate::db::autoincrement;
use crate::db::sql::{Collation, quote};
use crate::db::table_list::table_list;
use crate::db::unique_probe::Probe;
use crate::model::batch::Digest;
use crate::model::bookkeeping;
use crate::model::table_filter::{Selection, TableFilter, WithoutKey};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use sha2::{Digest as _, Sha256};

/// The prefix of all our own tables, views and triggers.
pub const OWN_PREFIX: &str = "__harmonylite__";

/// Why a table that a migration tool made is not replicated.
pub const REBUILD: &str = "a migration tool rebuilds another table with it; if no migration runs, \
    one has failed and left it behind";

/// Why a table without a key is not replicated, and what to do.
pub const NO_IDENTITY: &str = "its rows have no identity: it has no PRIMARY KEY, and no UNIQUE \
    index over NOT NULL columns. Add one, or set tables.without_key = \"rowid\" and accept that \
    VACUUM and inserts on two nodes mix up rows";

/// A replicated column. Generated columns are not replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its declared type, as written.
    pub declared: String,
    /// NOT NULL.
    pub not_null: bool,
    /// The text of its DEFAULT. Not part of the hash: tools leave one-off defaults that differ from
    /// node to node.
    pub default: Option<String>,
}

/// One column of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name, or the name under which the rowid can be reached.
    pub name: String,
    /// Its declared type; empty if the version table must not declare one.
    pub declared: String,
    /// How its values are compared by the key's index.
    pub collation: Collation,
}

/// A UNIQUE constraint or index besides the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// Its name.
    pub name: String,
    /// Its columns with their collations; None for an expression.
    pub columns: Vec<Option<(String, String)>>,
    /// It has a WHERE.
    pub partial: bool,
    /// CREATE INDEX text, empty for a constraint.
    pub sql: String,
    /// How a row that clashes on it is found; None if its text cannot be repeated in a trigger.
    pub probe: Option<Probe>,
}

impl UniqueIndex {
    /// What makes it the same index: its columns, each under the name that `column` gives it, with
    /// their collations, and the text of one that is partial or over an expression.
    pub fn text(&self, column: impl Fn(&str) -> String) -> String {
        let parts: Vec<String> = self
            .columns
            .iter()
            .map(|part| {
                part.as_ref().map_or("expression".to_owned(), |(name, collation)| {
                    format!("{} {}", column(name), collation.to_ascii_uppercase())
                })
            })
            .collect();
        // Two nodes may spell the same index differently. The text counts only where it decides
        // what is unique.
        let special = self.partial || self.columns.contains(&None);
        let words = self.sql.split_whitespace().skip(4).filter(|_| special);
        format!("unique {} {}", parts.join(","), words.collect::<Vec<_>>().join(" "))
    }
}

/// How a row of a table is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// INTEGER PRIMARY KEY, which is the rowid.
    Integer,
    /// Any other PRIMARY KEY; without one, a UNIQUE index over NOT NULL columns.
    Columns,
    /// Neither: the rowid, which VACUUM may renumber. Only if the configuration asks for it.
    Rowid,
}

/// A table that is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    /// Its name.
    pub name: String,
    /// Its stored columns in their order.
    pub columns: Vec<Column>,
    /// Its key in key order.
    pub key: Vec<KeyColumn>,
    /// What the key is.
    pub key_kind: KeyKind,
    /// A name under which an application can choose a rowid that is not the key.
    pub free_rowid: Option<&'static str>,
    /// SQLite numbers its rows and keeps the last number in `sqlite_sequence`.
    pub autoincrement: bool,
    /// Unique indexes besides the key.
    pub unique: Vec<UniqueIndex>,
    /// The hash over names, types, keys and unique indexes (docs/design.md section 5).
    pub hash: Digest,
}

impl TableSchema {
    /// Whether rows are identified by the rowid alone.
    pub fn has_rowid_key(&self) -> bool {
        self.key_kind == KeyKind::Rowid
    }

    /// Whether this is the name under which the rowid is the key.
    pub fn is_rowid(&self, name: &str) -> bool {
        self.has_rowid_key() && self.key.iter().any(|k| k.name.eq_ignore_ascii_case(name))
    }
}

/// A table that is not replicated, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// The reason, for people.
    pub reason: String,
    /// Whether doctor warns of it.
    pub warn: bool,
    /// Whether the table filter excludes the table, so that its incoming rows are skipped.
    pub by_choice: bool,
}

/// The schema as the replicator sees it.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Replicated tables, by name.
    pub tables: Vec<TableSchema>,
    /// The others.
    pub skipped: Vec<Skipped>,
}

impl Schema {
    /// Whether there is a table of this name, replicated or not.
    pub fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|t| t.name.eq_ignore_ascii_case(table))
            || self.skipped.iter().any(|s| s.name.eq_ignore_ascii_case(table))
    }

    /// Hash over all replicated tables.
    pub fn hash(&self) -> Digest {
        let mut all = Sha256::new();
        for table in &self.tables {
            all.update(table.name.to_ascii_lowercase().as_bytes());
            all.update([0]);
            all.update(table.hash);
        }
        all.finalize().into()
    }
}

/// Reads the schema of `main`.
///
/// # Errors
/// SQLite's error, for instance a damaged schema.
pub fn inspect(db: &Connection, filter: &TableFilter) -> rusqlite::Result<Schema> {
    let mut found = Schema::default();
    // table_list reports virtual and shadow tables. Our own SQLite has it; only triggers must run
    // on old versions.
    let list = table_list(db, ("name, type, wr, strict", "ORDER BY name COLLATE NOCASE"), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?))
    })?;
    for (name, kind, without_rowid, strict) in list {
        if name.starts_with("sqlite_") || name.starts_with(OWN_PREFIX) || kind == "view" {
            continue;
        }
        let skip = |reason: &str, warn| Skipped {
            name: name.clone(),
            reason: reason.to_owned(),
            warn,
            by_choice: false,
        };
        match kind.as_str() {
            "virtual" => found.skipped.push(skip(
                "a virtual table: its content comes from other tables or from outside",
                false,
            )),
            "shadow" => found.skipped.push(skip("an internal table of a virtual table", false)),
            _ => match filter.select(&name, || column_names(db, &name))? {
                Selection::Selected => match read_table(db, &name, without_rowid, strict)? {
                    Ok(table)
                        if table.has_rowid_key()
                            && filter.without_key == WithoutKey::Skip
                            && !bookkeeping::has_null_keys(&name) =>
                    {
                        found.skipped.push(skip(NO_IDENTITY, true))
                    }
                    Ok(table) => found.tables.push(table),
                    Err(reason) => found.skipped.push(skip(&reason, true)),
                },
                Selection::Excluded => found.skipped.push(Skipped {
                    by_choice: true,
                    ..skip("excluded by the configuration (tables.include, tables.exclude)", false)
                }),
                Selection::Rebuild => {
                    found.skipped.push(Skipped { by_choice: true, ..skip(REBUILD, false) })
                }
                Selection::Bookkeeping(tool) => {
                    found.skipped.push(Skipped { by_choice: true, ..skip(&tool.reason(), false) })
                }
            },
        }
    }
    autoincrement::mark(db, &mut found.tables)?;
    skip_unwritable(db, &mut found)?;
    Ok(found)
}

/// Removes the tables that this program cannot write to, because their indexes or generated columns
/// call functions or collations that the application registers. It compiles a write to each table.
/// As on the writing connection, triggers, foreign keys and CHECKs do not matter.
fn skip_unwritable(db: &Connection, found: &mut Schema) -> rusqlite::Result<()> {
    let switches =
        [DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY];
    let before = [db.db_config(switches[0])?, db.db_config(switches[1])?];
    let checks: bool = db.query_row("PRAGMA ignore_check_constraints", [], |r| r.get(0))?;
    let set = |values: [bool; 2], ignored: bool| -> rusqlite::Result<()> {
        for (switch, value) in switches.into_iter().zip(values) {
            db.set_db_config(switch, value)?;
        }
        db.pragma_update(None, "ignore_check_constraints", ignored)
    };
    set([false, false], true)?;
    let skipped = &mut found.skipped;
    found.tables.retain(|table| match unwritable(db, table) {
        None => true,
        Some(why) => {
            let reason = format!(
                "a write to it needs something that only the application \
                registers: {why}"
            );
            skipped.push(Skipped {
                name: table.name.clone(),
                reason,
                warn: true,
                by_choice: false,
            });
            false
        }
    });
    set(before, checks)
}

/// Returns why no write to the table can be compiled.
fn unwritable(db: &Connection, table: &TableSchema) -> Option<String> {
    let name = quote(&table.name);
    let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let places = vec!["?"; columns.len()].join(", ");
    let same: Vec<String> = columns.iter().map(|c| format!("{c} = {c}")).collect();
    let writes = [
        format!("INSERT INTO main.{name} ({}) VALUES ({places})", columns.join(", ")),
        format!("UPDATE main.{name} SET {}", same.join(", ")),
        format!("DELETE FROM main.{name}"),
    ];
    match writes.iter().find_map(|sql| db.prepare(sql).err())? {
        rusqlite::Error::SqlInputError { msg, .. } => Some(msg),
        rusqlite::Error::SqliteFailure(error, Some(msg)) if error.code == ErrorCode::Unknown => {
            Some(msg)
        }
        // A lock or a failing disk proves nothing about the table.
        _ => None,
    }
}

struct RawColumn {
    column: Column,
    key_position: i64,
    generated: bool,
}

fn read_table(
    db: &Connection,
    name: &str,
    without_rowid: bool,
    strict: bool,
) -> rusqlite::Result<Result<TableSchema, String>> {
    let raw = read_columns(db, name)?;
    let (mut primary, mut unique) = read_indexes(db, name, &raw)?;
    let mut key_columns: Vec<&RawColumn> = raw.iter().filter(|c| c.key_position > 0).collect();
    key_columns.sort_by_key(|c| c.key_position);
    if primary.is_some() && !without_rowid && bookkeeping::has_null_keys(name) {
        key_columns.clear();
    }
    let integer = !without_rowid && primary.is_none() && key_columns.len() == 1;
    let identity = if key_columns.is_empty() { take_identity(&raw, &mut unique) } else { None };
    if let Some(index) = &identity {
        let parts: Vec<&(String, String)> = index.columns.iter().flatten().collect();
        let named = |n: &str| raw.iter().find(|c| c.column.name.eq_ignore_ascii_case(n));
        key_columns = parts.iter().filter_map(|(n, _)| named(n)).collect();
        primary = Some(parts.into_iter().cloned().collect());
    }
    let rowid_name = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|alias| !raw.iter().any(|c| c.column.name.eq_ignore_ascii_case(alias)));
    let mut key = Vec::new();
    let key_kind = if key_columns.is_empty() {
        let Some(alias) = rowid_name else {
            return Ok(Err(
                "no PRIMARY KEY, and columns hide all names of the rowid: add a PRIMARY KEY"
                    .to_owned(),
            ));
        };
        key.push(KeyColumn {
            name: alias.to_owned(),
            declared: "INTEGER".to_owned(),
            collation: Collation::Binary,
        });
        KeyKind::Rowid
    } else {
        for column in key_columns {
            let collation = primary
                .as_ref()
                .and_then(|p| p.iter().find(|(n, _)| n.eq_ignore_ascii_case(&column.column.name)))
                .map_or("BINARY", |(_, c)| c);
            let Some(collation) = Collation::named(collation) else {
                return Ok(Err(format!(
                    "its key uses the collation {collation}, which only the application registers"
                )));
            };
            if column.generated {
                return Ok(Err(format!("its key column {} is generated", column.column.name)));
            }
            // ANY keeps storage classes in a STRICT table, but means NUMERIC in any other.
            let declared = if strict && column.column.declared.eq_ignore_ascii_case("ANY") {
                String::new()
            } else {
                column.column.declared.clone()
            };
            key.push(KeyColumn { name: column.column.name.clone(), declared, collation });
        }
        if integer { KeyKind::Integer } else { KeyKind::Columns }
    };
    if let Some(foreign) = unique
        .iter()
        .flat_map(|u| u.columns.iter().flatten())
        .find(|(_, c)| Collation::named(c).is_none())
    {
        return Ok(Err(format!(
            "a unique index uses the collation {}, which only the application registers",
            foreign.1
        )));
    }
    let hash = table_hash(name, &raw, (&identity, &unique), without_rowid, &key);
    let columns = raw.into_iter().filter(|c| !c.generated).map(|c| c.column).collect();
    let name = name.to_owned();
    let free_rowid = rowid_name.filter(|_| !without_rowid && key_kind == KeyKind::Columns);
    let autoincrement = false;
    Ok(Ok(TableSchema { name, columns, key, key_kind, free_rowid, autoincrement, unique, hash }))
}

/// Takes the index whose columns are the key of a table without a PRIMARY KEY.
fn take_identity(raw: &[RawColumn], unique: &mut Vec<UniqueIndex>) -> Option<UniqueIndex> {
    let stored: Vec<&Column> = raw.iter().filter(|c| !c.generated).map(|c| &c.column).collect();
    super::identity::choose(unique, &stored).map(|at| unique.remove(at))
}

fn column_names(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    Ok(read_columns(db, table)?.into_iter().map(|raw| raw.column.name).collect())
}

fn read_columns(db: &Connection, table: &str) -> rusqlite::Result<Vec<RawColumn>> {
    let mut statement = db.prepare(
        "SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM \
        pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let rows = statement.query_map([table], |row| {
        Ok(RawColumn {
            column: Column {
                name: row.get(0)?,
                declared: row.get(1)?,
                not_null: row.get(2)?,
                default: row.get(5)?,
            },
            key_position: row.get(3)?,
            generated: row.get::<_, i64>(4)? >= 2,
        })
    })?;
    rows.collect()
}

type Indexes = (Option<Vec<(String, String)>>, Vec<UniqueIndex>);

/// The primary key's own index, if it has one, and all other unique indexes.
fn read_indexes(db: &Connection, table: &str, raw: &[RawColumn]) -> rusqlite::Result<Indexes> {
    let mut list = db.prepare(
        "SELECT name, origin, partial FROM pragma_index_list(?1, 'main') \
        WHERE \"unique\" ORDER BY name",
    )?;
    let mut columns = db.prepare(
        "SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno",
    )?;
    let mut text = db.prepare(
        "SELECT coalesce(sql, '') FROM main.sqlite_schema WHERE type = 'index' AND name = ?1",
    )?;
    let (mut primary, mut unique) = (None, Vec::new());
    let mut rows = list.query([table])?;
    while let Some(row) = rows.next()? {
        let (name, origin, partial): (String, String, bool) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let parts: Vec<(Option<String>, String)> = columns
            .query_map([&name], |c| Ok((c.get(0)?, c.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let named = || parts.iter().map(|(n, c)| n.clone().map(|n| (n, c.clone())));
        if origin == "pk" {
            primary = Some(named().flatten().collect());
        } else {
            // The index of a WITHOUT ROWID table's key has no entry in sqlite_schema, others do.
            let sql: String =
                text.query_map([&name], |r| r.get(0))?.next().transpose()?.unwrap_or_default();
            let columns: Vec<Option<(String, String)>> = named().collect();
            let collations = parts.iter().map(|(_, collation)| collation.clone()).collect();
            let in_table = || raw.iter().map(|c| (c.column.name.as_str(), c.generated));
            let plain = columns.iter().flatten().map(|(name, _)| name.clone()).collect();
            let probe = if partial || columns.contains(&None) {
                Probe::of_text(db, table, &sql, collations, in_table())
            } else {
                Some(Probe::of_columns(plain, collations, in_table()))
            };
            unique.push(UniqueIndex { name, columns, partial, sql, probe });
        }
    }
    Ok((primary, unique))
}

/// Returns the hash of a canonical text of the table, with the columns sorted by name, so that
/// their order does not matter.
fn table_hash(
    name: &str,
    columns: &[RawColumn],
    (identity, unique): (&Option<UniqueIndex>, &[UniqueIndex]),
    without_rowid: bool,
    key: &[KeyColumn],
) -> Digest {
    let mut lines: Vec<String> = columns
        .iter()
        .map(|c| {
            let collation =
                key.iter().find(|k| k.name == c.column.name).map_or("", |k| k.collation.name());
            format!(
                "column {} {} notnull={} key={} {collation} generated={}",
                quote(&c.column.name.to_ascii_lowercase()),
                quote(&c.column.declared.to_ascii_uppercase()),
                c.column.not_null,
                c.key_position,
                c.generated
            )
        })
        .collect();
    let line = |index: &UniqueIndex| index.text(|name| quote(&name.to_ascii_lowercase()));
    lines.extend(identity.iter().map(|index| format!("identity {}", line(index))));
    lines.extend(unique.iter().map(line));
    lines.sort();
    lines.dedup();
    let text = format!(
        "table {} rowid={}\n{}",
        quote(&name.to_ascii_lowercase()),
        !without_rowid,
        lines.join("\n")
    );
    Sha256::digest(text.as_bytes()).into()
}
