use super::*;
use crate::model::table_filter::TableFilter;
use rusqlite::Connection;

/// Two schemas, with rows in the first.
struct Case {
    from: &'static str,
    to: &'static str,
    /// `old>new` for a table, `table.old>new` for a column.
    renames: &'static str,
    /// The changes in words.
    words: &'static str,
    /// A query, and its rows as text.
    rows: [&'static str; 2],
}

fn database(sql: &str) -> Connection {
    let db = Connection::open_in_memory().unwrap();
    // As on every connection of ours: a dropped table must not delete rows elsewhere.
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(sql).unwrap();
    db
}

fn objects(db: &Connection) -> Objects {
    Objects::read(db, &TableFilter::default()).unwrap()
}

fn renames(text: &str) -> Renames {
    let mut renames = Renames::default();
    for (from, to) in text.split_whitespace().filter_map(|pair| pair.split_once('>')) {
        match from.split_once('.') {
            None => renames.tables.push((from.to_owned(), to.to_owned())),
            Some((table, from)) => renames.columns.push(ColumnRename {
                table: table.to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
            }),
        }
    }
    renames
}

fn words(changes: &[SchemaChange]) -> String {
    changes.iter().map(SchemaChange::words).collect::<Vec<_>>().join("; ")
}

fn run(db: &Connection, changes: &[SchemaChange]) {
    for sql in changes.iter().flat_map(|c| c.statements().unwrap()) {
        db.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Runs the changes on a real database, and back again.
fn check(case: &Case) {
    let (db, target) = (database(case.from), database(case.to));
    let start = objects(&db);
    let found = changes(&start, &objects(&target), &renames(case.renames));
    assert_eq!(words(&found), case.words, "{} | {}", case.from, case.to);
    run(&db, &found);
    let reached = objects(&db);
    assert!(reached.is_like(&objects(&target)), "{} | {}: {reached:?}", case.from, case.to);
    let left = changes(&reached, &objects(&target), &Renames::default());
    assert_eq!(left, [], "{}", case.from);
    let [query, expected] = case.rows;
    let rows: Option<String> = db.query_row(query, [], |r| r.get(0)).unwrap();
    assert_eq!(rows.unwrap_or_default(), expected, "{} | {}", case.from, case.to);
    db.execute_batch("PRAGMA integrity_check").unwrap();
    let back = changes(&reached, &start, &Renames::default());
    let empty = database(case.to);
    run(&empty, &back);
    assert!(objects(&empty).is_like(&start), "back: {} | {}", case.from, case.to);
}

const V: &str = "SELECT group_concat(id || v, ',') FROM t";

#[test]
fn columns_are_altered_where_sqlite_can() {
    const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')";
    for (from, to, renames, words, rows) in [
        (T, "CREATE TABLE T (v, \"id\" integer primary key)", "", "", [V, "1a"]),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n  TEXT NOT NULL DEFAULT 'x', v)",
            "",
            "add to table t column n TEXT NOT NULL DEFAULT 'x'",
            ["SELECT n || v FROM t", "xa"],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w); INSERT INTO t VALUES (1, 'a', 2)",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
            "",
            "drop column w of table t, with its values",
            [V, "1a"],
        ),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, w)",
            "t.v>w",
            "rename column v of table t to w",
            ["SELECT w FROM t", "a"],
        ),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, w)",
            "",
            "drop column v of table t, with its values; add to table t column w",
            ["SELECT w FROM t", ""],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v CHECK (v > 0), w AS (v + 1), UNIQUE (v)); \
             CREATE TABLE c (x REFERENCES t (v)); CREATE INDEX i ON t (v) WHERE v > 1; \
             INSERT INTO t VALUES (1, 2)",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n CHECK (n > 0), w AS (n + 1), UNIQUE (n)); \
             CREATE TABLE c (x REFERENCES t (n)); CREATE INDEX i ON t (n) WHERE n > 1",
            "t.v>n",
            "rename column v of table t to n",
            ["SELECT n || w FROM t", "23"],
        ),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, g AS (v || '!') VIRTUAL)",
            "",
            "add to table t column g AS (v || '!') VIRTUAL",
            ["SELECT g FROM t", "a!"],
        ),
    ] {
        check(&Case { from, to, renames, words, rows });
    }
}

#[test]
fn tables_are_rebuilt_where_sqlite_cannot_alter_them() {
    const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')";
    const REBUILD: &str = "rebuild table t, with its rows";
    for (from, to, renames, words, rows) in [
        (T, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL)", "", REBUILD, [V, "1a"]),
        (T, "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", "", REBUILD, [V, "1a"]),
        (T, "CREATE TABLE t (id INTEGER PRIMARY KEY, v, UNIQUE (v))", "", REBUILD, [V, "1a"]),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, d DEFAULT CURRENT_TIMESTAMP)",
            "",
            REBUILD,
            [V, "1a"],
        ),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, s AS (v || 1) STORED)",
            "",
            REBUILD,
            ["SELECT s FROM t", "a1"],
        ),
        (T, "CREATE TABLE t (id TEXT PRIMARY KEY, v) WITHOUT ROWID", "", REBUILD, [V, "1a"]),
        (T, "CREATE TABLE t (id INTEGER PRIMARY KEY, v ANY) STRICT", "", REBUILD, [V, "1a"]),
        (
            T,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, w TEXT NOT NULL)",
            "t.v>w",
            "rename column v of table t to w; rebuild table t, with its rows",
            ["SELECT w FROM t", "a"],
        ),
        (
            "CREATE TABLE t (v); INSERT INTO t (rowid, v) VALUES (7, 'a')",
            "CREATE TABLE t (v TEXT)",
            "",
            REBUILD,
            ["SELECT rowid || v FROM t", "7a"],
        ),
        (
            "CREATE TABLE t (rowid, v); INSERT INTO t (_rowid_, v, rowid) VALUES (7, 'a', 8)",
            "CREATE TABLE t (rowid, v TEXT)",
            "",
            REBUILD,
            ["SELECT _rowid_ || v || rowid FROM t", "7a8"],
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w); CREATE UNIQUE INDEX u ON t (w); \
             INSERT INTO t VALUES (1, 'a', 5)",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
            "",
            "rebuild table t, with its rows, but without column w",
            [V, "1a"],
        ),
    ] {
        check(&Case { from, to, renames, words, rows });
    }
}

#[test]
fn indexes_views_and_triggers_make_room_and_come_back() {
    const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w); INSERT INTO t VALUES (1, 2, 3)";
    let from = format!(
        "{T}; CREATE INDEX i ON t (w); CREATE VIEW a AS SELECT w FROM t; \
         CREATE VIEW b AS SELECT * FROM a; CREATE TABLE o (x);
         CREATE TRIGGER r AFTER INSERT ON o BEGIN UPDATE t SET w = 1; END;
         CREATE TRIGGER k INSTEAD OF INSERT ON b BEGIN SELECT 1; END;"
    );
    let to = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE o (x);
         CREATE VIEW b AS SELECT 1;";
    let case = |from: &'static str, to, words, rows| Case { from, to, renames: "", words, rows };
    check(&case(
        from.leak(),
        to,
        "drop trigger r; drop trigger k; drop view a; drop view b; drop index i; \
         drop column w of table t, with its values; create view b",
        ["SELECT v || '' FROM t", "2"],
    ));
    check(&case(
        "CREATE TABLE t (a); CREATE VIEW w AS SELECT a FROM t; CREATE INDEX i ON t (a);
         CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END; INSERT INTO t VALUES (4);",
        "CREATE TABLE t (a INT); CREATE VIEW w AS SELECT a FROM t; CREATE INDEX i ON t (a);
         CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END;",
        "drop trigger r; drop view w; rebuild table t, with its rows; create index i on t; \
         create view w; create trigger r on t",
        ["SELECT a || '' FROM w", "4"],
    ));
    check(&case(
        "CREATE TABLE t (a); CREATE INDEX i ON t (a); CREATE INDEX j ON t (a)",
        "CREATE TABLE t (a); create index I on T(\"a\"); CREATE UNIQUE INDEX j ON t (a)",
        "drop index j; create index j on t",
        ["SELECT '1'", "1"],
    ));
    check(&case(
        "CREATE TABLE t (a); CREATE TABLE u (a); CREATE VIEW w AS SELECT 1",
        "CREATE TABLE t (a); CREATE TABLE w (a)",
        "drop view w; drop table u, with its rows; create table w",
        ["SELECT '1'", "1"],
    ));
}

#[test]
fn tables_are_renamed_with_what_names_them() {
    for (from, to, renames, words, rows) in [
        (
            "CREATE TABLE a (id INTEGER PRIMARY KEY, p REFERENCES a, v); CREATE INDEX i ON a (v);
             CREATE TABLE c (a REFERENCES a (id)); CREATE VIEW w AS SELECT v FROM a;
             INSERT INTO a VALUES (1, 1, 'x')",
            "CREATE TABLE b (id INTEGER PRIMARY KEY, p REFERENCES b, v); CREATE INDEX i ON b (v);
             CREATE TABLE c (a REFERENCES b (id)); CREATE VIEW w AS SELECT v FROM b;",
            "a>b",
            "drop view w; rename table a to b; create view w",
            ["SELECT v FROM w", "x"],
        ),
        (
            "CREATE TABLE a (id INTEGER PRIMARY KEY, v); INSERT INTO a VALUES (1, 'x')",
            "CREATE TABLE b (id INTEGER PRIMARY KEY, w TEXT)",
            "a>b b.v>w",
            "rename table a to b; rename column v of table b to w; rebuild table b, with its rows",
            ["SELECT w FROM b", "x"],
        ),
        (
            "CREATE TABLE a (v); CREATE TABLE b (v); INSERT INTO a VALUES ('x')",
            "CREATE TABLE b (v); CREATE TABLE c (v)",
            "a>b b>c",
            "rename table b to c; rename table a to b",
            ["SELECT v FROM b", "x"],
        ),
        (
            "CREATE TABLE a (v); CREATE TABLE b (w); INSERT INTO a VALUES ('x')",
            "CREATE TABLE b (v)",
            "a>b",
            "drop table b, with its rows; rename table a to b",
            ["SELECT v FROM b", "x"],
        ),
        (
            "CREATE TABLE a (v); CREATE TABLE b (v); INSERT INTO a VALUES ('x')",
            "CREATE TABLE a (v); CREATE TABLE b (v)",
            "a>b b>a",
            "",
            ["SELECT v FROM a", "x"],
        ),
        (
            "CREATE TABLE a (v); INSERT INTO a VALUES ('x')",
            "CREATE TABLE b (v)",
            "",
            "drop table a, with its rows; create table b",
            ["SELECT count(*) || '' FROM b", "0"],
        ),
    ] {
        check(&Case { from, to, renames, words, rows });
    }
}

#[test]
fn only_what_adds_is_additive() {
    let to = "CREATE TABLE t (a, b INT); CREATE TABLE n (x); CREATE UNIQUE INDEX i ON t (b);
        CREATE VIEW w AS SELECT 1; CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END;";
    let (old, new) = (objects(&database("CREATE TABLE t (a)")), objects(&database(to)));
    let there = changes(&old, &new, &Renames::default());
    assert_eq!(there.len(), 5);
    assert!(there.iter().all(SchemaChange::is_additive), "{there:?}");
    let back = changes(&new, &old, &Renames::default());
    assert_eq!(
        words(&back),
        "drop trigger r; drop view w; drop table n, with its rows; \
         rebuild table t, with its rows, but without column b"
    );
    assert!(!back.iter().any(SchemaChange::is_additive), "{back:?}");
    let virtual_table =
        objects(&database("CREATE TABLE t (a); CREATE VIRTUAL TABLE f USING fts5(x)"));
    assert_eq!(changes(&virtual_table, &old, &Renames::default()), []);
    assert_eq!(changes(&old, &virtual_table, &Renames::default()), []);
}
