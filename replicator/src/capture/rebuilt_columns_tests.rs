use crate::capture::absorb::{AbsorbState, Acknowledged, absorb};
use crate::capture::compare::Compare;
use crate::capture::install::{install, load};
use crate::model::ids::Site;
use crate::model::table_filter::TableFilter;
use crate::store::sites::begin_site;
use crate::store::{meta, schema_history, tables, test_database};
use rusqlite::Connection;
use std::collections::HashSet;

const SITE: Site = Site(7);
const SCHEMA: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INT)";

/// A database with these rows, each with its version.
fn database(schema: &str, rows: &str) -> Connection {
    let db = test_database();
    db.execute_batch(schema).unwrap();
    begin_site(&db, SITE, 0).unwrap();
    meta::set(&db, meta::JOINED, true).unwrap();
    install(&db, &TableFilter::default(), 1).unwrap();
    db.execute_batch(rows).unwrap();
    let own_sites = HashSet::from([SITE]);
    let mut state = AbsorbState { site: SITE, own_sites, absorbed: 0, published: 0 };
    let layout = load(&db, &TableFilter::default()).unwrap().unwrap();
    absorb(&db, &layout, &mut state, Acknowledged::default(), i64::MAX, &Compare::default())
        .unwrap();
    db
}

/// Rebuilds the table, follows, and returns what was renamed, as `from>to`.
fn renamed(db: &Connection, columns: &str, copy: &str, then: &str) -> Vec<String> {
    let id = tables::find(db, "t").unwrap().unwrap();
    let before = schema_history::newest(db, id).unwrap().unwrap().shape;
    db.execute_batch(&format!(
        "BEGIN; CREATE TABLE new_t ({columns}); INSERT INTO new_t {copy}; DROP TABLE t; ALTER \
        TABLE new_t RENAME TO t; {then}; COMMIT"
    ))
    .unwrap_or_else(|error| panic!("{columns} {copy}: {error}"));
    install(db, &TableFilter::default(), 2).unwrap();
    let now = schema_history::newest(db, id).unwrap().unwrap().shape;
    let mut found = Vec::new();
    for column in &now.columns {
        let former = before.columns.iter().find(|c| c.id == column.id);
        if let Some(former) = former.filter(|c| c.name != column.name) {
            found.push(format!("{}>{}", former.name, column.name));
        }
    }
    found
}

fn ten(v: &str, n: &str) -> String {
    format!(
        "WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 9) INSERT INTO t \
        SELECT 'k' || i, {v}, {n} FROM s"
    )
}

/// A name, the values of `v` and `n`, the columns, the copy, what follows, what is found.
type Case = (&'static str, [&'static str; 2], [&'static str; 3], &'static [&'static str]);

const DIFFERENT: [&str; 2] = ["'v' || i", "i"];

#[test]
fn a_rename_is_what_the_digests_prove() {
    let w = "id TEXT PRIMARY KEY, w, n INT";
    let wm = "id TEXT PRIMARY KEY, w, m INT";
    let copy = "SELECT id, v, n FROM t";
    let cases: [Case; 16] = [
        ("one column", DIFFERENT, [w, copy, ""], &["v>w"]),
        ("two columns", DIFFERENT, [wm, copy, ""], &["v>w", "n>m"]),
        (
            "the key too",
            DIFFERENT,
            ["uid TEXT PRIMARY KEY, w, n INT", copy, ""],
            &["id>uid", "v>w"],
        ),
        (
            "rows that change in the same migration",
            DIFFERENT,
            [w, copy, "UPDATE t SET w = 'x' WHERE n < 4; DELETE FROM t WHERE n = 5"],
            &["v>w"],
        ),
        ("most rows changed: unknown", DIFFERENT, [w, copy, "UPDATE t SET n = 9"], &[]),
        (
            "another place, and a new column beside",
            DIFFERENT,
            ["id TEXT PRIMARY KEY, n INT, x, w", "SELECT id, n, 'new', v FROM t", ""],
            &["v>w"],
        ),
        ("NULL in most rows", ["CASE WHEN i = 3 THEN 'x' END", "i"], [w, copy, ""], &["v>w"]),
        ("NULL in all rows: nothing shows it", ["NULL", "i"], [w, copy, ""], &[]),
        ("the same value in all rows, in its place", ["'a'", "i"], [w, copy, ""], &["v>w"]),
        (
            "the same value in all rows, at the end: it may be a one-off default",
            ["'a'", "i"],
            ["id TEXT PRIMARY KEY, n INT, w", "SELECT id, n, 'a' FROM t", ""],
            &[],
        ),
        (
            "a new column with a default that all lost values have",
            ["'a'", "5"],
            ["id TEXT PRIMARY KEY, v, m INT DEFAULT '5'", "SELECT id, v, 5 FROM t", ""],
            &[],
        ),
        (
            "a column is gone and another is new",
            DIFFERENT,
            ["id TEXT PRIMARY KEY, v, m INT", "SELECT id, v, n + 1 FROM t", ""],
            &[],
        ),
        (
            "one is gone, one is renamed: the lost values hide it",
            DIFFERENT,
            ["id TEXT PRIMARY KEY, w", "SELECT id, v FROM t", ""],
            &[],
        ),
        ("nothing is new", DIFFERENT, ["id TEXT PRIMARY KEY, v", "SELECT id, v FROM t", ""], &[]),
        (
            "another type under the same name is no rename",
            DIFFERENT,
            ["id TEXT PRIMARY KEY, v, n TEXT, m INT", "SELECT id, v, n, n FROM t", ""],
            &[],
        ),
        (
            "another affinity",
            ["i", "i"],
            ["id TEXT PRIMARY KEY, v, m REAL", "SELECT id, v, n FROM t", ""],
            &[],
        ),
    ];
    for (name, [v, n], [columns, copy, then], expected) in cases {
        let db = database(SCHEMA, &ten(v, n));
        assert_eq!(renamed(&db, columns, copy, then), expected, "{name}");
    }
}

/// The first and the last rows count, whatever lies between.
#[test]
fn a_column_that_only_the_newest_rows_fill_is_found() {
    let rows = "WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 9999) \
        INSERT INTO t SELECT printf('%05d', i), CASE WHEN i > 9990 THEN i END, i FROM s";
    let db = database(SCHEMA, rows);
    let copy = "SELECT id, v, n FROM t";
    assert_eq!(renamed(&db, "id TEXT PRIMARY KEY, w, n INT", copy, ""), ["v>w"]);
}

#[test]
fn more_columns_than_are_tried_and_keys_of_another_form_are_no_rename() {
    let many = |prefix: &str| {
        let columns: Vec<String> = (0..5).map(|i| format!("{prefix}{i}")).collect();
        format!("id TEXT PRIMARY KEY, {}", columns.join(", "))
    };
    let db = database(
        &format!("CREATE TABLE t ({})", many("a")),
        "INSERT INTO t VALUES ('x', 1, 2, 3, 4, 5), ('y', 6, 7, 8, 9, 10)",
    );
    assert_eq!(renamed(&db, &many("b"), "SELECT * FROM t", ""), [""; 0]);
    // The version table has `packed0` for a text key; an integer key would be `key0`.
    let db = database(SCHEMA, &ten("'v' || i", "i"));
    let columns = "id TEXT, w, n INTEGER PRIMARY KEY";
    assert_eq!(renamed(&db, columns, "SELECT id, v, n FROM t", ""), [""; 0]);
}

/// SQLite has renamed it in the old table, of which nothing is left when the sidecar looks.
#[test]
fn a_rename_and_a_rebuild_in_one_transaction_is_a_rename() {
    let db = database(SCHEMA, &ten("'v' || i", "i"));
    db.execute_batch("ALTER TABLE t RENAME COLUMN v TO w").unwrap();
    let columns = "id TEXT PRIMARY KEY, w NOT NULL, n INT";
    assert_eq!(renamed(&db, columns, "SELECT id, w, n FROM t", ""), ["v>w"]);
}

/// Rows of a table without a key are identified by a rowid, which the copy may have changed.
#[test]
fn a_table_by_rowid_is_followed_without_a_guess() {
    let db = test_database();
    db.execute_batch("CREATE TABLE t (id, v)").unwrap();
    begin_site(&db, SITE, 0).unwrap();
    let without_key = crate::model::table_filter::WithoutKey::Rowid;
    let filter = TableFilter { without_key, ..TableFilter::default() };
    install(&db, &filter, 1).unwrap();
    db.execute_batch("CREATE TABLE n (id, w); DROP TABLE t; ALTER TABLE n RENAME TO t").unwrap();
    let (layout, _) = install(&db, &filter, 2).unwrap();
    assert_eq!(layout.by_name("t").unwrap().history.shape.columns[1].id, 3);
}

/// The write lock is held meanwhile, so large rows end it early; what was read still counts.
#[test]
fn large_rows_are_not_all_read() {
    let db = database(SCHEMA, &ten("printf('%d%.*c', i, 9000000, 'x')", "i"));
    let copy = "SELECT id, v, n FROM t";
    assert_eq!(renamed(&db, "id TEXT PRIMARY KEY, w, n INT", copy, ""), ["v>w"]);
}
