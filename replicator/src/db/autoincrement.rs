//! Which tables let SQLite number their rows by AUTOINCREMENT.
//!
//! Arrives: the tables of a schema, and their texts in `sqlite_schema`. Leaves: the same tables,
//! marked. No pragma reports it, so the texts are read. Reads only.

use crate::db::schema::{KeyKind, TableSchema};
use crate::db::sql_tokens::tokens;
use rusqlite::Connection;
use std::collections::HashSet;

const AUTOINCREMENT: &str = "autoincrement";

/// Marks the tables among these. One search for all of them: the schema may have many thousand
/// entries.
///
/// # Errors
/// SQLite's error.
pub(super) fn mark(db: &Connection, found: &mut [TableSchema]) -> rusqlite::Result<()> {
    let mut texts = db.prepare(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE \
        '%AUTOINCREMENT%'",
    )?;
    // The word may also be a name or a text.
    let is_meant = |sql: &str| tokens(sql).is_ok_and(|all| all.iter().any(|t| t.is(AUTOINCREMENT)));
    let named = texts.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let mut names = HashSet::new();
    for text in named {
        let (name, sql) = text?;
        if is_meant(&sql) {
            names.insert(name);
        }
    }
    for table in found.iter_mut().filter(|t| t.key_kind == KeyKind::Integer) {
        table.autoincrement = names.contains(&table.name);
    }
    Ok(())
}
