//! Lets what could not be made of other nodes' migrations follow later changes of the schema.
//!
//! Arrives: changes that were made, here or by another node, and the objects after them. Leaves:
//! the noted objects (`store/unmade_objects.rs`) with the present names of their table and columns,
//! and without those that went with their table. Owns: what could still be made is never forgotten.
//! The transaction decides what a crash leaves.

use crate::db::connection::DatabaseError;
use crate::db::objects::{Kind, Objects};
use crate::db::schema_change::SchemaChange;
use crate::db::schema_run;
use crate::db::sql::quote;
use crate::store::unmade_objects::{self, Unmade};
use rusqlite::Connection;

/// Forgets what these changes drop, and renames what they rename. `objects` are those after all of
/// them.
///
/// # Errors
/// SQLite's error.
pub fn follow(
    db: &Connection,
    objects: &Objects,
    changes: &[SchemaChange],
) -> Result<(), DatabaseError> {
    if !unmade_objects::any(db)? {
        return Ok(());
    }
    for change in changes {
        match change {
            SchemaChange::DropIndex { name } => unmade_objects::remove(db, Kind::Index, name)?,
            SchemaChange::DropTrigger { name } => unmade_objects::remove(db, Kind::Trigger, name)?,
            // The indexes and triggers of a rebuilt table go too.
            SchemaChange::DropTable { name: table }
            | SchemaChange::DropView { name: table }
            | SchemaChange::Rebuild { table, .. } => unmade_objects::remove_of(db, table)?,
            _ => {}
        }
    }
    for unmade in unmade_objects::all(db)? {
        let change = present(objects, &unmade.change, changes);
        if change != unmade.change {
            unmade_objects::put(db, &Unmade { change, ..unmade })?;
        }
    }
    Ok(())
}

/// Returns an object that could not be made under the names that these later changes gave its table
/// and columns. Where that cannot be told it stays as it is: people see it in `status`.
pub fn present(objects: &Objects, change: &SchemaChange, later: &[SchemaChange]) -> SchemaChange {
    let renames: Vec<_> = later.iter().filter_map(inverse).collect();
    let renamed = if renames.is_empty() { Ok(None) } else { renamed(objects, &renames, change) };
    renamed.ok().flatten().unwrap_or_else(|| change.clone())
}

/// The statements that undo a rename, and that do it.
fn inverse(change: &SchemaChange) -> Option<(String, String)> {
    let table =
        |from: &str, to: &str| format!("ALTER TABLE main.{} RENAME TO {}", quote(from), quote(to));
    let column = |table: &str, from: &str, to: &str| {
        let (table, from, to) = (quote(table), quote(from), quote(to));
        format!("ALTER TABLE main.{table} RENAME COLUMN {from} TO {to}")
    };
    match change {
        SchemaChange::RenameTable { from, to } => Some((table(to, from), table(from, to))),
        SchemaChange::RenameColumn { table, from, to } => {
            Some((column(table, to, from), column(table, from, to)))
        }
        _ => None,
    }
}

/// Returns an object under the names after these renames, as SQLite writes them: it is made on an
/// empty copy of the tables under their former names, and the copy is renamed.
fn renamed(
    objects: &Objects,
    renames: &[(String, String)],
    change: &SchemaChange,
) -> rusqlite::Result<Option<SchemaChange>> {
    let Some(object) = change.plain_object() else { return Ok(None) };
    let mut copy = Connection::open_in_memory()?;
    copy.execute_batch("BEGIN")?;
    for table in &objects.tables {
        copy.execute_batch(&table.sql)?;
    }
    for (undo, _) in renames.iter().rev() {
        copy.execute_batch(undo)?;
    }
    if schema_run::run(&mut copy, std::slice::from_ref(change)).is_err() {
        return Ok(None);
    }
    for (_, rename) in renames {
        copy.execute_batch(rename)?;
    }
    let text = "SELECT tbl_name, sql FROM sqlite_schema WHERE type = ?1 AND name = ?2";
    let (table, sql) = copy
        .query_row(text, (object.kind.word(), object.name), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let name = object.name.to_owned();
    Ok(match object.kind {
        Kind::Index => Some(SchemaChange::CreateIndex { name, table, sql }),
        Kind::Trigger => Some(SchemaChange::CreateTrigger { name, table, sql }),
        Kind::View => Some(SchemaChange::CreateView { name, sql }),
        Kind::Table | Kind::Virtual => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::NodeId;
    use crate::model::table_filter::TableFilter;
    use crate::store::test_database;

    fn index(name: &str, column: &str) -> SchemaChange {
        let sql = format!("CREATE INDEX {name} ON item (json_extract({column}, '$'))");
        SchemaChange::CreateIndex { name: name.into(), table: "item".into(), sql }
    }

    fn text(s: &str) -> String {
        s.to_owned()
    }

    #[test]
    fn what_was_not_made_follows_renames_and_goes_with_its_table() {
        let db = test_database();
        db.execute_batch("CREATE TABLE post (id, title, price); CREATE TABLE log (x)").unwrap();
        let trigger = SchemaChange::CreateTrigger {
            name: text("seen"),
            table: text("ITEM"),
            sql: text(
                "CREATE TRIGGER seen AFTER INSERT ON item BEGIN \
                INSERT INTO log SELECT name FROM item; END",
            ),
        };
        let view = SchemaChange::CreateView {
            name: text("names"),
            sql: text("CREATE VIEW names AS SELECT name FROM item"),
        };
        let lost = SchemaChange::CreateView {
            name: text("lost"),
            sql: text("CREATE VIEW lost AS SELECT name FROM item, nothing"),
        };
        for change in [index("by_name", "name"), index("by_price", "price"), trigger, view, lost] {
            let (node, error) = (NodeId(2), String::new());
            unmade_objects::put(&db, &Unmade { node, since_ms: 1, change, error }).unwrap();
        }
        let objects = Objects::read(&db, &TableFilter::default()).unwrap();
        let rename_table =
            |from: &str, to: &str| SchemaChange::RenameTable { from: text(from), to: text(to) };
        let changes = [
            SchemaChange::DropIndex { name: text("by_price") },
            rename_table("item", "article"),
            SchemaChange::RenameColumn {
                table: text("article"),
                from: text("name"),
                to: text("title"),
            },
            rename_table("article", "post"),
        ];
        follow(&db, &objects, &changes).unwrap();
        let listed = || -> Vec<String> {
            let all = unmade_objects::list(&db).unwrap();
            all.into_iter().map(|unmade| unmade.statement).collect()
        };
        assert_eq!(
            listed(),
            [
                "CREATE INDEX by_name ON \"post\" (json_extract(\"title\", '$'))",
                "CREATE TRIGGER seen AFTER INSERT ON \"post\" BEGIN \
                INSERT INTO log SELECT \"title\" FROM \"post\"; END",
                "CREATE VIEW names AS SELECT \"title\" FROM \"post\"",
                "CREATE VIEW lost AS SELECT name FROM item, nothing",
            ]
        );
        let rebuild = SchemaChange::Rebuild {
            table: text("post"),
            sql: String::new(),
            columns: Vec::new(),
            lost: Vec::new(),
            filled: Vec::new(),
        };
        follow(&db, &objects, &[rebuild]).unwrap();
        assert_eq!(listed().len(), 2, "the views do not go with the table");
    }
}
