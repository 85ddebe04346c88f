use super::*;
use crate::model::table_filter::TableFilter;
use rusqlite::Connection;

fn objects(sql: &str) -> Objects {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(sql).unwrap();
    Objects::read(&db, &TableFilter::default()).unwrap()
}

const HERE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w INT); CREATE TABLE u (a, b);
    CREATE INDEX i ON t (v); CREATE VIEW w AS SELECT 1;
    CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END;";

#[test]
fn what_is_made_is_recognised_and_what_contradicts_is_never_made() {
    let here = objects(HERE);
    let text = |s: &str| s.to_owned();
    let rebuild = |sql: &str, copied: &[&str], lost: &[&str]| SchemaChange::Rebuild {
        table: text("t"),
        sql: text(sql),
        columns: copied.iter().map(|c| (text(c), text(c))).collect(),
        lost: lost.iter().map(|c| text(c)).collect(),
        filled: Vec::new(),
    };
    let create = |sql: &str| SchemaChange::CreateTable { name: text("t"), sql: text(sql) };
    let rename =
        |from: &str, to: &str| SchemaChange::RenameTable { from: text(from), to: text(to) };
    let add = |column: &str, definition: &str| SchemaChange::AddColumn {
        table: text("T"),
        column: text(column),
        definition: text(definition),
    };
    let rename_column = |from: &str, to: &str| SchemaChange::RenameColumn {
        table: text("t"),
        from: text(from),
        to: text(to),
    };
    let drop = |column: &str| SchemaChange::DropColumn { table: text("t"), column: text(column) };
    let index = |name: &str, sql: &str| SchemaChange::CreateIndex {
        name: text(name),
        table: text("t"),
        sql: text(sql),
    };
    for (change, expected) in [
        (create("create table t (ID integer primary key, V text, w int)"), "made"),
        (create("CREATE TABLE t (id INTEGER PRIMARY KEY)"), "another definition"),
        (create("DROP TABLE t"), "t"),
        (SchemaChange::CreateTable { name: text("n"), sql: text("CREATE TABLE n (a)") }, "open"),
        (SchemaChange::DropTable { name: text("T") }, "open"),
        (SchemaChange::DropTable { name: text("gone") }, "made"),
        (rename("t", "n"), "open"),
        (rename("gone", "T"), "made"),
        (rename("t", "u"), "exists here as well"),
        (rename("x", "y"), "made"),
        (rename("t", "T"), "open"),
        (add("n", "n TEXT"), "open"),
        (SchemaChange::DropColumn { table: text("x"), column: text("v") }, "made"),
        (add("v", "\"v\"  text"), "made"),
        (add("v", "v TEXT NOT NULL DEFAULT ''"), "another one"),
        (rename_column("v", "n"), "open"),
        (rename_column("gone", "v"), "made"),
        (rename_column("v", "w"), "exists here as well"),
        (drop("v"), "open"),
        (drop("gone"), "made"),
        (rebuild("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w INT)", &[], &[]), "made"),
        (rebuild("CREATE TABLE t (id, v, w)", &["rowid", "id", "v", "w"], &[]), "open"),
        (rebuild("CREATE TABLE t (id, v)", &["id", "v"], &["W"]), "open"),
        (rebuild("CREATE TABLE t (id, v)", &["id", "v"], &[]), "has a column w"),
        (rebuild("CREATE TABLE t (id, v, w, x)", &["id", "v", "w", "x"], &[]), "no column x"),
        (index("I", "CREATE INDEX i ON t ( V )"), "made"),
        (index("i", "CREATE INDEX i ON t (w)"), "made"),
        (index("n", "CREATE INDEX n ON t (w)"), "open"),
        (SchemaChange::DropIndex { name: text("i") }, "open"),
        (SchemaChange::DropView { name: text("x") }, "made"),
        (SchemaChange::DropTrigger { name: text("R") }, "open"),
    ] {
        let found = match state(&here, &change) {
            ChangeState::Made => text("made"),
            ChangeState::Open => text("open"),
            ChangeState::Contradicts(why) => why,
        };
        assert!(found.contains(expected), "{change:?}: {found}");
    }
}

/// Changes are sent again when rows were lost, to nodes that have run them by hand too.
#[test]
fn what_a_later_change_undoes_or_has_moved_is_not_made_again() {
    let text = |s: &str| s.to_owned();
    let create = |name: &str, columns: &str| SchemaChange::CreateTable {
        name: text(name),
        sql: format!("CREATE TABLE {name} ({columns})"),
    };
    let drop = |name: &str| SchemaChange::DropTable { name: text(name) };
    let rename =
        |from: &str, to: &str| SchemaChange::RenameTable { from: text(from), to: text(to) };
    let index = |name: &str, table: &str| SchemaChange::CreateIndex {
        name: text(name),
        table: text(table),
        sql: format!("CREATE INDEX {name} ON {table} (a)"),
    };
    let add = |column: &str| SchemaChange::AddColumn {
        table: text("u"),
        column: text(column),
        definition: text(column),
    };
    let rename_column = |from: &str, to: &str| SchemaChange::RenameColumn {
        table: text("u"),
        from: text(from),
        to: text(to),
    };
    let rebuild = |copied: &[&str]| SchemaChange::Rebuild {
        table: text("u"),
        sql: text("CREATE TABLE u (a, b, c)"),
        columns: copied.iter().map(|c| (text(c), text(c))).collect(),
        lost: Vec::new(),
        filled: Vec::new(),
    };
    let drop_index = |name: &str| SchemaChange::DropIndex { name: text(name) };
    let drop_column =
        |column: &str| SchemaChange::DropColumn { table: text("u"), column: text(column) };
    let here = objects(HERE);
    for (changes, made) in [
        // Tables: `t` and `u (a, b)` are here.
        (vec![create("n", "a"), rename("n", "m"), rename("m", "U")], true),
        (vec![create("n", "a"), rename("n", "m")], false),
        (vec![create("n", "a"), drop("n")], true),
        (vec![create("n", "a"), rename("n", "m"), drop("m")], true),
        (vec![drop("u"), create("u", "b, a")], true),
        (vec![drop("u"), create("u", "a")], false),
        (vec![drop("u")], false),
        // Objects: `i` is here, `j` is not.
        (vec![index("j", "u"), drop_index("J")], true),
        (vec![index("j", "u"), drop_index("k")], false),
        (vec![index("j", "u"), rename("u", "x"), drop("x")], true),
        (vec![index("j", "u"), drop("x")], false),
        (vec![index("j", "u"), rebuild(&["a"])], true),
        (vec![rebuild(&["a"]), index("j", "u")], false),
        // Columns.
        (vec![add("c"), drop_column("C")], true),
        (vec![add("c"), rename_column("c", "d"), drop_column("d")], true),
        (vec![add("c"), rename_column("c", "d"), drop_column("c")], false),
        (vec![add("c"), rebuild(&["a", "b"])], true),
        (vec![add("c"), rebuild(&["a", "b", "c"])], false),
    ] {
        assert_eq!(state_among(&here, &changes, 0) == ChangeState::Made, made, "{changes:?}");
    }
    let other = [create("u", "x"), add("y"), drop("u")];
    assert!(matches!(state_among(&here, &other, 0), ChangeState::Contradicts(_)), "ours stays");
}
