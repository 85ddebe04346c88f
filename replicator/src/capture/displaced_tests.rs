use crate::capture::install::install;
use crate::db::sql::literal;
use crate::model::batch::Value;
use crate::model::table_filter::TableFilter;
use crate::store::entry_code::{KIND, KIND_DISPLACED};
use crate::store::test_database;
use rusqlite::{Connection, StatementStatus};

fn installed(schema: &str) -> Connection {
    let db = test_database();
    db.execute_batch(schema).unwrap();
    install(&db, &TableFilter::default(), 0).unwrap();
    db
}

/// The keys of the log's displaced rows, each as text.
fn displaced(db: &Connection) -> Vec<String> {
    let sql = format!(
        "SELECT * FROM __harmonylite__change_log WHERE {KIND} = {KIND_DISPLACED} ORDER BY id"
    );
    let mut read = db.prepare(&sql).unwrap();
    let columns = 3..read.column_count();
    let key = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        let values: Vec<Value> =
            columns.clone().map(|i| row.get_ref(i).map(Value::from)).collect::<Result<_, _>>()?;
        let given = values.iter().filter(|v| **v != Value::Null).map(literal);
        Ok(given.collect::<Vec<_>>().join(",").replace('\'', ""))
    };
    read.query_map([], key).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_that_replace_removes_are_logged() {
    for (schema, writes, expected) in [
        (
            "CREATE TABLE t (id TEXT PRIMARY KEY, v, \"oid\")",
            "INSERT INTO t(rowid, id) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (-7, 'd');
             REPLACE INTO t(rowid, id) VALUES (1, 'e');
             REPLACE INTO t(_rowid_, id) VALUES (-7, 'f');
             UPDATE OR REPLACE t SET rowid = 2 WHERE id = 'e'; REPLACE INTO t(id) VALUES ('e');
             REPLACE INTO t(rowid, id, oid) VALUES (9, 'g', 3)",
            vec!["a", "d", "b"],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, email UNIQUE)",
            "INSERT INTO t VALUES (1, 'a'), (2, 'b'); REPLACE INTO t VALUES (3, 'a');
             UPDATE OR REPLACE t SET email = 'b' WHERE id = 3; UPDATE t SET email = 'b';",
            vec!["1", "2"],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, email, active);
             CREATE UNIQUE INDEX ux ON t(email) WHERE active = 1",
            "INSERT INTO t VALUES (1, 'x', 1), (2, 'x', 0), (3, 'x', 0);
             UPDATE OR REPLACE t SET active = 1 WHERE id = 2; REPLACE INTO t VALUES (4, 'x', 0);
             REPLACE INTO t VALUES (5, 'x', 1)",
            vec!["1", "2"],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, email);
             CREATE UNIQUE INDEX ux ON t(lower(email) DESC, \"id\" % 2)",
            "INSERT INTO t VALUES (1, 'x'), (2, 'X'); REPLACE INTO t VALUES (3, 'X');
             UPDATE OR REPLACE t SET id = 6 WHERE id = 3",
            vec!["1", "2"],
        ),
        (
            "CREATE TABLE t (a, b, e COLLATE NOCASE, PRIMARY KEY (a, b)) WITHOUT ROWID;
             CREATE UNIQUE INDEX ux ON t(e /* the name */ ASC) WHERE t.e > '' -- at the end",
            "INSERT INTO t VALUES (1, 1, 'x'), (1, 2, ''), (1, 3, '');
             REPLACE INTO t VALUES (2, 1, 'X')",
            vec!["1,1"],
        ),
        (
            "CREATE TABLE t (id TEXT PRIMARY KEY, j, e AS (j ->> '$.e') UNIQUE)",
            "INSERT INTO t(id, j) VALUES ('p', '{\"e\":1}');
             REPLACE INTO t VALUES ('q', '{\"e\":1}');
             INSERT INTO t(id, j) VALUES ('r', '{}');
             UPDATE OR REPLACE t SET j = '{\"e\":1}' WHERE id = 'r'",
            vec!["p", "q"],
        ),
        (
            "CREATE TABLE \"new\" (id INTEGER PRIMARY KEY, \"old\", \"new\");
             CREATE UNIQUE INDEX ux ON \"new\"(abs(\"old\")) WHERE \"new\" IS NULL",
            "INSERT INTO \"new\" VALUES (1, 5, NULL), (2, 5, 1);
             REPLACE INTO \"new\" VALUES (3, -5, NULL)",
            vec!["1"],
        ),
    ] {
        let db = installed(schema);
        db.execute_batch(writes).unwrap_or_else(|e| panic!("{schema}: {e}"));
        assert_eq!(displaced(&db), expected, "{schema}");
    }
}

#[test]
fn an_indexed_column_can_be_dropped_while_our_triggers_stand() {
    for (schema, index, column) in [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, email, v)", "t(email)", "email"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, email, v)", "t(v, email)", "email"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, email, v)", "t(v) WHERE email > 1", "email"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, email, v)", "t(lower(email))", "email"),
        ("CREATE TABLE t (a, b, email, v, PRIMARY KEY (a, b))", "t(email, b)", "email"),
    ] {
        let db = installed(&format!("{schema}; CREATE UNIQUE INDEX ux ON {index};"));
        db.execute_batch(&format!(
            "BEGIN; DROP INDEX ux; ALTER TABLE t DROP COLUMN {column}; INSERT OR REPLACE INTO t \
            DEFAULT VALUES; UPDATE OR REPLACE t SET v = 5; COMMIT; INSERT INTO t(v) VALUES (6);"
        ))
        .unwrap_or_else(|e| panic!("{index}: {e}"));
        assert_eq!(displaced(&db), [""; 0], "{index}");
    }
}

#[test]
fn the_probe_scans_no_table() {
    for index in [
        "t(email)",
        "t(email) WHERE email != ''",
        "t(lower(email)) WHERE v = 1 AND w IS NOT NULL",
        "t(email COLLATE NOCASE, v)",
        "t(email || v) WHERE w > 0 OR v > 0",
    ] {
        let db = installed(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, email, v, w);
             CREATE UNIQUE INDEX ux ON {index};
             WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT i, 'e' || i, 1, 1 FROM n;"
        ));
        for write in [
            "INSERT INTO t VALUES (1000, 'new', 1, 1)",
            "UPDATE t SET email = 'newer', v = 2 WHERE id = 1000",
        ] {
            let mut statement = db.prepare(write).unwrap();
            assert_eq!(statement.execute([]).unwrap(), 1);
            let steps = statement.get_status(StatementStatus::FullscanStep);
            assert!(steps < 10, "{index}: {steps} rows are read by {write}");
        }
    }
}
