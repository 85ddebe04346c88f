use super::*;
use crate::store::change_log::{for_each, mark};
use crate::store::{meta, test_database};
use std::path::Path;

/// Of the entries of [`former_database`], as the program with format 4 computed them.
const MARKS_OF_FORMAT_4: [u64; 5] = [
    0x6707357198349b39,
    0x62263068e23c39f2,
    0x387525a3799ec794,
    0x98442da7dc8266c8,
    0x67978230b0ce66fc,
];

const OWN: &str = "CREATE TRIGGER \"__harmonylite__t_change_log_on_x\" BEFORE INSERT ON \"t\" ";

#[test]
fn the_kind_goes_into_the_code_and_nothing_else_changes() {
    for (former, present) in [
        (
            "BEGIN INSERT INTO __harmonylite__change_log (table_id, kind, key0, key1) SELECT \
             12, 1, \"kind, x\", \"b\" FROM \"t\" WHERE x = ')'; INSERT INTO \
             __harmonylite__change_log (table_id, kind, key0, key1) SELECT 12, 1, \"a\" FROM \
             u; END",
            "BEGIN INSERT INTO __harmonylite__change_log (table_id, key0, key1) SELECT -97, \
             \"kind, x\", \"b\" FROM \"t\" WHERE x = ')'; INSERT INTO \
             __harmonylite__change_log (table_id, key0, key1) SELECT -97, \"a\" FROM u; END",
        ),
        (
            "BEGIN INSERT INTO __harmonylite__change_log (time, table_id, kind, key0) VALUES \
             (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER), 3, 0, \
             NEW.\"a\"); END",
            "BEGIN INSERT INTO __harmonylite__change_log (time, table_id, key0) VALUES \
             (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER), 3, NEW.\"a\"); \
             END",
        ),
    ] {
        let (former, present) = (format!("{OWN}{former}"), format!("{OWN}{present}"));
        assert_eq!(rewritten(&former).as_deref(), Some(&*present));
        assert_eq!(rewritten(&present).as_deref(), Some(&*present));
    }
    for strange in ["(kind, key0) VALUES (1, 2)", "(table_id, kind) VALUES (x, 1)", "(kind"] {
        let sql = format!("{OWN}BEGIN INSERT INTO __harmonylite__change_log {strange}; END");
        assert_eq!(rewritten(&sql), None, "{strange}");
    }
}

/// The log of format `found`, with these declarations of time and kind, an application's table
/// and the trigger of that format.
fn former_database(found: i64, time: &str, kind: &str) -> Connection {
    let db = test_database();
    db.execute_batch(&format!(
        "DROP VIEW __harmonylite__pending; DROP TABLE __harmonylite__change_log;
         CREATE TABLE __harmonylite__change_log (id INTEGER PRIMARY KEY, time {time}, table_id
           INTEGER NOT NULL, kind {kind}, prev_hlc INTEGER, prev_site INTEGER, key0, key1);
         CREATE TABLE t (a);
         {OWN} BEGIN INSERT INTO __harmonylite__change_log (time, table_id, kind, key0) SELECT \
         5, 3, 1, NEW.a; END;
         INSERT INTO __harmonylite__change_log VALUES (4, 1000, 3, 0, NULL, NULL, 7, NULL),
           (5, 1001, 3, 0, 65, 9, 'x', 'y'), (6, 1002, 3, 3, -1, NULL, 8, NULL),
           (7, 0, 70000, 2, NULL, NULL, 9, NULL), (9, 1003, 0, 4, NULL, NULL, NULL, NULL)",
    ))
    .unwrap();
    meta::set(&db, meta::FORMAT, found).unwrap();
    db
}

/// What an earlier version has logged is still there, and known by the same marks.
#[test]
fn the_log_of_a_former_format_keeps_its_entries() {
    for (found, time, kind) in [
        (2, "INTEGER NOT NULL", "INTEGER NOT NULL"),
        (3, "INTEGER NOT NULL DEFAULT (1)", "INTEGER NOT NULL DEFAULT 0"),
        (4, "DEFAULT (julianday())", "DEFAULT 0"),
    ] {
        let db = former_database(found, time, kind);
        for _ in 0..2 {
            install::create_tables(&db, Path::new("app.db")).unwrap();
        }
        let mut seen = Vec::new();
        for_each(&db, 2, 0, i64::MAX, |e| {
            let previous = e.previous.map(|version| (version.hlc.0, version.site.0));
            seen.push((e.id, e.time_ms, e.table_id, e.kind, previous));
            Ok(())
        })
        .unwrap();
        let entries = [
            (4, 1000, 3, 0, None),
            (5, 1001, 3, 0, Some((65, 9))),
            (7, 0, 70_000, 2, None),
            (9, 1003, 0, 4, None),
        ];
        assert_eq!(seen, entries, "format {found}");
        let marks = [4, 5, 6, 7, 9].map(|id| mark(&db, id).unwrap().unwrap().hash);
        assert_eq!(marks, MARKS_OF_FORMAT_4, "format {found}");
        db.execute_batch("INSERT INTO t VALUES ('new')").unwrap();
        let sql = "SELECT time, table_id, key0 FROM __harmonylite__change_log WHERE id = 10";
        let logged: (i64, i64, String) =
            db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
        assert_eq!(logged, (5, -25, "new".into()), "by the trigger, displaced");
        let sql = "SELECT count(*), sum(changed_at > '1970') FROM __harmonylite__pending";
        let shown = db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!((6, 6), shown);
    }
}

/// Each change of the schema searches all of it: with thousands of tables the application would
/// wait for minutes.
#[test]
fn the_schema_is_not_changed_once_for_each_trigger() {
    let changes = |tables: usize| -> i64 {
        let db = former_database(4, "", "");
        for i in 0..tables {
            let own = OWN.replace("t_change", &format!("u{i}_change"));
            let own = own.replace("ON \"t\"", &format!("ON u{i}"));
            db.execute_batch(&format!(
                "CREATE TABLE u{i} (a); {own} BEGIN INSERT INTO __harmonylite__change_log \
                (table_id, kind, key0) SELECT 4, 1, NEW.a; END"
            ))
            .unwrap();
        }
        let version =
            || -> i64 { db.query_row("PRAGMA main.schema_version", [], |r| r.get(0)).unwrap() };
        let before = version();
        install::create_tables(&db, Path::new("app.db")).unwrap();
        for i in 0..tables {
            db.execute_batch(&format!("INSERT INTO u{i} VALUES (1)")).unwrap();
        }
        version() - before
    };
    assert_eq!(changes(20), changes(0));
}

#[test]
fn a_trigger_that_is_not_understood_goes() {
    let db = former_database(4, "", "");
    db.execute_batch(
        "DROP TRIGGER __harmonylite__t_change_log_on_x; CREATE TRIGGER \
         __harmonylite__t_change_log_on_y AFTER INSERT ON t BEGIN INSERT INTO \
         __harmonylite__change_log (kind, key0) VALUES (1, 1); END",
    )
    .unwrap();
    install::create_tables(&db, Path::new("app.db")).unwrap();
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
}
