//! What became of a table's columns: which triggers of ours stand on it, and what SQLite has made
//! of the names in them.
//!
//! Arrives: a database whose schema may have changed. Leaves: for each table whether its changes
//! were logged all the time, its number, and the present names of its former columns. Owns: a
//! renamed column or table is recognised by what SQLite itself rewrote: the
//! trigger made by [`witness_sql`] lists all columns after OF, where a rename changes the name, but
//! a dropped column stays and stops nobody from dropping it. Reads only.

use super::triggers::trigger_name;
use crate::db::connection::DatabaseError;
use crate::db::layout::version_table;
use crate::db::schema::{OWN_PREFIX, Schema, TableSchema};
use crate::db::shape::Shape;
use crate::db::sql::{quote, rename_alone};
use crate::store::{schema_history, tables};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// Our triggers on one table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TableTriggers {
    events: [bool; 3],
    /// The table's number and the present names of its former columns, in their order.
    pub(super) witness: Option<(i64, Vec<String>)>,
}

impl TableTriggers {
    /// Whether every change is logged.
    pub(super) fn log_every_change(&self) -> bool {
        self.events == [true; 3]
    }
}

/// The trigger that keeps track of the names of columns. It never fires.
pub(super) fn witness_sql(table: &TableSchema, id: i64) -> (String, String) {
    let name = trigger_name(&table.name, "rename");
    let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let sql = format!(
        "CREATE TRIGGER main.{} AFTER UPDATE OF {} ON {} WHEN 0 BEGIN SELECT {id}; END",
        quote(&name),
        columns.join(", "),
        quote(&table.name)
    );
    (name, sql)
}

fn parse_witness(sql: &str) -> Option<(i64, Vec<String>)> {
    let (_, rest) = sql.split_once(" AFTER UPDATE OF ")?;
    let (mut names, mut rest) = (Vec::new(), rest.trim_start());
    loop {
        let (name, after) = quoted_name(rest)?;
        names.push(name);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => break,
        }
    }
    let (_, number) = rest.rsplit_once("BEGIN SELECT ")?;
    Some((number.strip_suffix("; END")?.parse().ok()?, names))
}

/// A name in double quotes at the start of the text, and what follows it.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// Our triggers, by the lower-case name of the table that they are on.
///
/// # Errors
/// SQLite's error.
pub(super) fn read(db: &Connection) -> Result<HashMap<String, TableTriggers>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT tbl_name, name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND \
        substr(name, 1, length(?1)) = ?1",
    )?;
    let mut rows = read.query([OWN_PREFIX])?;
    let mut found: HashMap<String, TableTriggers> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (table, name): (String, String) = (row.get(0)?, row.get(1)?);
        let triggers = found.entry(table.to_ascii_lowercase()).or_default();
        for (i, event) in ["_on_insert", "_on_update", "_on_delete"].iter().enumerate() {
            triggers.events[i] |= name.ends_with(event);
        }
        if name.ends_with("_on_rename") {
            triggers.witness = parse_witness(&row.get::<_, String>(2)?);
        }
    }
    Ok(found)
}

/// Lets the numbers and version tables of renamed tables follow them. A table was renamed if its
/// triggers carry the number of another name. Returns the tables that only their shape shows to
/// be a renamed one: they were rebuilt before, so their triggers are gone.
///
/// # Errors
/// SQLite's error.
pub(super) fn follow_renames(
    db: &Connection,
    schema: &Schema,
    triggers: &HashMap<String, TableTriggers>,
) -> Result<HashSet<String>, DatabaseError> {
    let numbered = |name: &str| {
        let on_table = triggers.get(&name.to_ascii_lowercase())?;
        on_table.witness.as_ref().map(|(id, _)| *id)
    };
    let mut renames = Vec::new();
    for table in &schema.tables {
        let Some(id) = numbered(&table.name) else { continue };
        let Some(former) = tables::name_of(db, id)? else { continue };
        if former.eq_ignore_ascii_case(&table.name) {
            continue;
        }
        // A table that has the former name now is the same one, rebuilt, unless its triggers carry
        // the number of another.
        let is_rebuilt = schema.has(&former) && numbered(&former).is_none_or(|other| other == id);
        if !is_rebuilt {
            renames.push(Rename { id, from: former, to: table.name.clone() });
        }
    }
    follow_all(db, &renames)?;
    let mut guessed = HashSet::new();
    for rename in alike(db, schema, triggers)? {
        guessed.insert(rename.to.clone());
        follow_all(db, &[rename])?;
    }
    Ok(guessed)
}

/// A table with another name.
#[derive(Debug)]
struct Rename {
    id: i64,
    from: String,
    to: String,
}

/// Gives numbers and version tables their new names, by way of names that no table has: two tables
/// may have exchanged theirs.
fn follow_all(db: &Connection, renames: &[Rename]) -> Result<(), DatabaseError> {
    let between = |id: i64| format!("sqlite_renamed_{id}");
    for Rename { id, from, to } in renames {
        tracing::info!(from, to, "a table was renamed");
        tables::rename(db, *id, &between(*id))?;
        rename_versions(db, from, &between(*id))?;
    }
    for Rename { id, to, .. } in renames {
        tables::rename(db, *id, to)?;
        rename_versions(db, &between(*id), to)?;
    }
    Ok(())
}

fn rename_versions(db: &Connection, from: &str, to: &str) -> Result<(), DatabaseError> {
    let exists: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1)",
        [version_table(from)],
        |r| r.get(0),
    )?;
    if !exists {
        return Ok(());
    }
    let (from, to) = (version_table(from), version_table(to));
    Ok(db.execute_batch(&format!(
        "DROP TABLE IF EXISTS main.{}; {}",
        quote(&to),
        rename_alone(&from, &to)
    ))?)
}

/// Pairs of a replicated table that is gone, with its number, and a new one that has none of our
/// triggers, where both have the same shape and no third table has it.
fn alike(
    db: &Connection,
    schema: &Schema,
    triggers: &HashMap<String, TableTriggers>,
) -> Result<Vec<Rename>, DatabaseError> {
    let mut gone = Vec::new();
    for (id, name) in tables::replicated(db)? {
        if !schema.has(&name)
            && let Some(kept) = schema_history::newest(db, id)?
        {
            gone.push((id, name, kept.shape));
        }
    }
    let mut new = Vec::new();
    for table in schema.tables.iter().filter(|_| !gone.is_empty()) {
        if !triggers.contains_key(&table.name.to_ascii_lowercase())
            && tables::find(db, &table.name)?.is_none()
        {
            new.push(table);
        }
    }
    let mut pairs = Vec::new();
    for (id, name, shape) in &gone {
        let same: Vec<_> = new.iter().filter(|table| shape.is_like(&Shape::first(table))).collect();
        let rivals = gone.iter().filter(|(_, _, other)| shape.is_like(other)).count();
        if let (&[table], 1) = (same.as_slice(), rivals) {
            pairs.push(Rename { id: *id, from: name.clone(), to: table.name.clone() });
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::inspect;
    use crate::model::table_filter::TableFilter;

    fn witness(db: &Connection, table: &str) -> Option<(i64, Vec<String>)> {
        read(db).unwrap().remove(table).and_then(|t| t.witness)
    }

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|c| (*c).to_owned()).collect()
    }

    /// SQLite is the judge: what it makes of the trigger is what is read back.
    #[test]
    fn renames_are_followed_and_dropped_columns_stay() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, \"a \"\"b\"\"\", c, d)").unwrap();
        let schema = inspect(&db, &TableFilter::default()).unwrap();
        db.execute_batch(&witness_sql(&schema.tables[0], 7).1).unwrap();
        for (ddl, table, columns) in [
            ("", "t", ["id", "a \"b\"", "c", "d"]),
            ("ALTER TABLE t RENAME COLUMN c TO \"select\"", "t", ["id", "a \"b\"", "select", "d"]),
            ("ALTER TABLE t RENAME COLUMN \"a \"\"b\"\"\" TO a", "t", ["id", "a", "select", "d"]),
            ("ALTER TABLE t DROP COLUMN d", "t", ["id", "a", "select", "d"]),
            ("ALTER TABLE t ADD COLUMN d", "t", ["id", "a", "select", "d"]),
            ("ALTER TABLE t RENAME TO \"U u\"", "u u", ["id", "a", "select", "d"]),
            ("ALTER TABLE \"U u\" RENAME a TO \",\"", "u u", ["id", ",", "select", "d"]),
        ] {
            db.execute_batch(ddl).unwrap();
            assert_eq!(witness(&db, table), Some((7, names(&columns))), "{ddl}");
        }
        db.execute_batch("INSERT INTO \"U u\" VALUES (1, 2, 3, 4); UPDATE \"U u\" SET d = 5")
            .unwrap();
        assert!(!read(&db).unwrap()["u u"].log_every_change());
    }

    #[test]
    fn what_is_no_witness_is_none() {
        for sql in [
            "",
            "CREATE TRIGGER x AFTER UPDATE OF \"a ON t WHEN 0 BEGIN SELECT 1; END",
            "CREATE TRIGGER x AFTER UPDATE OF a ON t WHEN 0 BEGIN SELECT 1; END",
            "CREATE TRIGGER x AFTER UPDATE OF \"a\" ON t WHEN 0 BEGIN SELECT y; END",
        ] {
            assert_eq!(parse_witness(sql), None, "{sql}");
        }
    }
}
