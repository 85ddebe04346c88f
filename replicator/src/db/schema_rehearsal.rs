//! Makes changes of another node first on an empty copy of the schema, and then here.
//!
//! Arrives: the objects of this database, and changes one by one. Leaves: the changed schema, or
//! the statement that failed; the caller then rolls back. Owns: on the copy SQLite's authorizer
//! refuses whatever a change does beyond what it says (`schema_run`). The writing connection itself
//! is borrowed by its transaction and cannot get an authorizer.

use crate::db::objects::Objects;
use crate::db::schema_change::SchemaChange;
use crate::db::schema_run::{self, Failure};
use rusqlite::Connection;

/// The copy.
pub struct Rehearsal {
    copy: Connection,
}

impl Rehearsal {
    /// Creates the objects in an empty database.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn new(objects: &Objects) -> rusqlite::Result<Self> {
        let copy = Connection::open_in_memory()?;
        // The legacy form compiles no view or trigger: they can name what is not copied.
        copy.execute_batch("PRAGMA legacy_alter_table = ON; BEGIN")?;
        for table in &objects.tables {
            copy.execute_batch(&table.sql)?;
        }
        for object in objects.others.iter().filter(|o| o.is_changeable()) {
            copy.execute_batch(&object.sql)?;
        }
        Ok(Self { copy })
    }

    /// Makes a change on the copy, and then in `db`, which is within a transaction.
    ///
    /// # Errors
    /// [`Failure`]; the caller rolls back.
    pub fn run(&mut self, db: &Connection, change: &SchemaChange) -> Result<(), Failure> {
        schema_run::run(&mut self.copy, std::slice::from_ref(change))?;
        schema_run::run_again(db, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table_filter::TableFilter;

    #[test]
    fn what_does_more_than_it_says_never_reaches_the_database() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a');
             CREATE VIEW w AS SELECT x FROM somewhere_else; CREATE VIRTUAL TABLE f USING fts5(a);",
        )
        .unwrap();
        let objects = Objects::read(&db, &TableFilter::default()).unwrap();
        let mut rehearsal = Rehearsal::new(&objects).unwrap();
        let view = |sql: &str| SchemaChange::CreateView { name: "n".into(), sql: sql.into() };
        let index = SchemaChange::CreateIndex {
            name: "n".into(),
            table: "t".into(),
            sql: "CREATE INDEX n ON t (load_extension('x'))".into(),
        };
        for refused in [view("CREATE VIEW n AS SELECT 1; DELETE FROM t"), index] {
            assert!(rehearsal.run(&db, &refused).is_err(), "{refused:?}");
        }
        let text = |sql: &str| -> i64 { db.query_row(sql, [], |r| r.get(0)).unwrap() };
        assert_eq!(text("SELECT count(*) FROM t"), 1);
        assert_eq!(text("SELECT count(*) FROM sqlite_schema WHERE name = 'n'"), 0);
        rehearsal.run(&db, &view("CREATE VIEW n AS SELECT v FROM t")).unwrap();
        let drop = SchemaChange::DropView { name: "n".into() };
        rehearsal.run(&db, &drop).unwrap();
        assert_eq!(text("SELECT count(*) FROM sqlite_schema WHERE name = 'n'"), 0);
    }
}
