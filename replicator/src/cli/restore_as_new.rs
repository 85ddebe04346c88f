//! Writes a row that lost its number to another node's row as a row of its own.
//!
//! Arrives: an entry of the conflict journal whose table is keyed by an INTEGER PRIMARY KEY.
//! Leaves: an INSERT of an ordinary connection, for which SQLite chooses the number; it is captured
//! like any other. Owns: the row that won stays as it is. The entry goes in the same transaction.

use super::exit::{Exit, Failure};
use super::restore::{differs, key_values, layout, values};
use crate::db::layout::TableLayout;
use crate::db::schema::KeyKind;
use crate::db::sql::{literal, quote};
use crate::model::batch::Value;
use crate::model::table_filter::TableFilter;
use crate::store::conflicts::{self, Conflict};
use anyhow::Result;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};

/// Restores one conflict as a new row, and returns a report for people.
pub(super) fn restore(
    db: &mut Connection,
    filter: &TableFilter,
    conflict: &Conflict,
) -> Result<String> {
    let table = layout(db, filter, conflict)?;
    let pairs = new_row(&table, conflict)?;
    let old: Vec<String> = key_values(&table, conflict)?.iter().map(literal).collect();
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let new = insert(&transaction, &table, &pairs)?;
    conflicts::remove(&transaction, conflict.id)?;
    let referring = referring(&transaction, table.name())?;
    transaction.commit()?;
    let (name, old) = (table.name(), old.join(", "));
    let mut done = format!(
        "{name}: the row that lost its id {old} is there again as {new}, a new write of this node\n"
    );
    if !referring.is_empty() {
        done += &format!(
            "rows in {} that refer to {old} belong to the row that won, or were meant for this \
            one: only you can tell\n",
            referring.join(", ")
        );
    }
    done += "other nodes list the same conflict: restore it on one node only, clear the others\n";
    Ok(done)
}

/// The columns of the lost row without its number.
fn new_row(table: &TableLayout, conflict: &Conflict) -> Result<Vec<(String, Value)>> {
    if table.schema.key_kind != KeyKind::Integer {
        let what = format!(
            "the key of {} is not an INTEGER PRIMARY KEY, so SQLite cannot choose another",
            table.name()
        );
        let hint = "`harmonylite conflicts show` prints the content: insert it under a key of your \
            choice";
        return Err(Failure::new(Exit::General, what, hint).into());
    }
    if conflict.content.is_none() {
        let what = format!("conflict {}: the losing write was a delete", conflict.id);
        return Err(Failure::new(Exit::General, what, "restore it without --new-id").into());
    }
    let mut pairs = values(conflict, conflict.content.as_deref())?;
    for (name, _) in &pairs {
        if !table.batch_columns.iter().any(|c| c.eq_ignore_ascii_case(name)) {
            return Err(differs(conflict, &format!("the column {name} no longer exists")).into());
        }
    }
    pairs.retain(|(name, _)| !name.eq_ignore_ascii_case(&table.schema.key[0].name));
    Ok(pairs)
}

fn insert(db: &Connection, table: &TableLayout, pairs: &[(String, Value)]) -> Result<i64> {
    let names: Vec<String> = pairs.iter().map(|(name, _)| quote(name)).collect();
    let sql = match names.is_empty() {
        true => format!("INSERT INTO main.{} DEFAULT VALUES", quote(table.name())),
        false => format!(
            "INSERT OR ABORT INTO main.{} ({}) VALUES ({})",
            quote(table.name()),
            names.join(", "),
            vec!["?"; names.len()].join(", ")
        ),
    };
    db.execute(&sql, params_from_iter(pairs.iter().map(|(_, value)| value))).map_err(|error| {
        let hint = "another row has its place already: change that one, or insert this by hand";
        Failure::new(Exit::General, format!("{}: {error}", table.name()), hint)
    })?;
    Ok(db.last_insert_rowid())
}

/// The tables with a foreign key to this one.
fn referring(db: &Connection, table: &str) -> Result<Vec<String>> {
    let mut read = db.prepare(
        "SELECT DISTINCT t.name FROM pragma_table_list AS t, pragma_foreign_key_list(t.name) AS f \
        WHERE t.schema = 'main' AND t.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE \
        ORDER BY 1",
    )?;
    Ok(read.query_map([table], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install;
    use crate::store::install as own_tables;

    fn database() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE \"or der\" (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT, code UNIQUE);
             CREATE TABLE line (id INTEGER PRIMARY KEY, o REFERENCES \"or der\" (id));
             CREATE TABLE named (name TEXT PRIMARY KEY, v);
             INSERT INTO \"or der\" VALUES (42, 'won', 1);",
        )
        .unwrap();
        own_tables::create_tables(&db, std::path::Path::new("x")).unwrap();
        install::install(&db, &TableFilter::default(), 1).unwrap();
        db
    }

    fn conflict(table: &str, key: &str, content: Option<&str>) -> Conflict {
        Conflict {
            id: 1,
            time_ms: 1,
            table: table.into(),
            key: key.into(),
            reason: conflicts::INSERTED_TWICE.into(),
            winner: String::new(),
            loser: String::new(),
            content: content.map(str::to_owned),
        }
    }

    #[test]
    fn the_lost_row_gets_a_free_id_and_is_captured() {
        let mut db = database();
        let lost =
            conflict("or der", r#"{"id":"42"}"#, Some(r#"{"id":"42","item":"'lost'","code":"2"}"#));
        let done = restore(&mut db, &TableFilter::default(), &lost).unwrap();
        assert!(done.contains("id 42 is there again as 43") && done.contains("line"), "{done}");
        let rows: String = db
            .query_row("SELECT group_concat(id || item || code) FROM \"or der\"", [], |r| r.get(0))
            .unwrap();
        assert_eq!(rows, "42won1,43lost2");
        let logged: i64 = db
            .query_row("SELECT count(*) FROM __harmonylite__change_log", [], |r| r.get(0))
            .unwrap();
        assert!(logged > 0);
    }

    #[test]
    fn what_cannot_get_an_id_is_refused_and_changes_nothing() {
        let mut db = database();
        for (lost, expected) in [
            (
                conflict("named", r#"{"name":"'a'"}"#, Some(r#"{"name":"'a'","v":"1"}"#)),
                "is not an",
            ),
            (conflict("or der", r#"{"id":"42"}"#, None), "was a delete"),
            (
                conflict("or der", r#"{"id":"42"}"#, Some(r#"{"id":"42","code":"1"}"#)),
                "UNIQUE constraint",
            ),
            (conflict("or der", r#"{"id":"42"}"#, Some(r#"{"gone":"1"}"#)), "no longer exists"),
        ] {
            let refused = restore(&mut db, &TableFilter::default(), &lost).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        let count: i64 = db.query_row("SELECT count(*) FROM \"or der\"", [], |r| r.get(0)).unwrap();
        assert_eq!(count, 1);
    }
}
