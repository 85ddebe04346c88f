use super::*;
use crate::db::objects::Objects;
use crate::db::schema_diff::{ColumnRename, Renames, changes};
use crate::model::table_filter::TableFilter;

const HERE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a');
    CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1);
    CREATE TABLE __harmonylite__x (a); CREATE TRIGGER __harmonylite__t AFTER UPDATE ON t BEGIN
    INSERT INTO __harmonylite__x VALUES (new.id); END; CREATE INDEX i ON t (v); BEGIN;";

fn database(sql: &str) -> Connection {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(sql).unwrap();
    db
}

fn text(db: &Connection, sql: &str) -> String {
    db.query_row(sql, [], |r| r.get(0)).unwrap()
}

#[test]
fn every_kind_of_change_runs_under_the_authorizer_and_keeps_the_rows_of_others() {
    for there in [
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT NOT NULL UNIQUE);
         CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); CREATE UNIQUE INDEX i ON t (v);",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w INT NOT NULL DEFAULT 3 CHECK (w > 1));
         CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); CREATE TABLE n (x UNIQUE);
         CREATE INDEX i ON t (lower(v)) WHERE w > 0; CREATE VIEW s AS SELECT v FROM t;
         CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM n; SELECT 1; END;
         CREATE TRIGGER o INSTEAD OF DELETE ON s BEGIN SELECT 2; END;",
        "CREATE TABLE t (id INTEGER PRIMARY KEY);
         CREATE TABLE c (p REFERENCES t ON DELETE CASCADE)",
        "CREATE TABLE c (p REFERENCES t ON DELETE CASCADE)",
    ] {
        let filter = TableFilter::default();
        let mut db = database(HERE);
        let (from, to) = (Objects::read(&db, &filter), Objects::read(&database(there), &filter));
        let (from, to) = (from.unwrap(), to.unwrap());
        run(&mut db, &changes(&from, &to, &Renames::default())).unwrap();
        assert!(Objects::read(&db, &filter).unwrap().is_like(&to), "{there}");
        assert_eq!(text(&db, "SELECT count(*) || '' FROM c"), "1", "{there}");
        let keys = db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY).unwrap();
        assert!(keys, "foreign keys are as before");
        db.execute_batch("COMMIT").unwrap();
        // And back, which drops what was created.
        db.execute_batch("BEGIN").unwrap();
        run(&mut db, &changes(&to, &from, &Renames::default())).unwrap();
        assert!(Objects::read(&db, &filter).unwrap().is_like(&from), "back from {there}");
    }
    let rename =
        |from: &str, to: &str| SchemaChange::RenameTable { from: from.into(), to: to.into() };
    let column = SchemaChange::RenameColumn { table: "u".into(), from: "v".into(), to: "w".into() };
    let mut db = database(HERE);
    run(&mut db, &[rename("t", "u"), column]).unwrap();
    assert_eq!(text(&db, "SELECT w FROM u"), "a");
}

#[test]
fn what_does_more_than_it_says_is_refused() {
    let table = |sql: &str| SchemaChange::CreateTable { name: "n".into(), sql: sql.into() };
    let index = |sql: &str| SchemaChange::CreateIndex {
        name: "n".into(),
        table: "t".into(),
        sql: sql.into(),
    };
    let view = |sql: &str| SchemaChange::CreateView { name: "n".into(), sql: sql.into() };
    let trigger = |sql: &str| SchemaChange::CreateTrigger {
        name: "n".into(),
        table: "t".into(),
        sql: sql.into(),
    };
    let column = |definition: &str| SchemaChange::AddColumn {
        table: "t".into(),
        column: "n".into(),
        definition: definition.into(),
    };
    let drop = |name: &str| SchemaChange::DropTable { name: name.into() };
    for change in [
        table("CREATE TABLE n AS SELECT 1"),
        table("CREATE TABLE n (a); DROP TABLE t"),
        table("CREATE TABLE m (a)"),
        table("CREATE TEMP TABLE n (a)"),
        table("CREATE TABLE n (a REFERENCES __harmonylite__x)"),
        table("DROP TABLE t"),
        table("ATTACH 'x' AS n"),
        table("CREATE VIRTUAL TABLE n USING fts5(a)"),
        index("CREATE INDEX n ON c (p)"),
        index("CREATE INDEX n ON t (v); DELETE FROM t"),
        index("CREATE INDEX m ON t (v)"),
        index("CREATE INDEX main.n ON t (v)"),
        index("CREATE INDEX n ON t (load_extension('x'))"),
        index("PRAGMA journal_mode = DELETE"),
        view("CREATE TEMP VIEW n AS SELECT 1"),
        view("CREATE VIEW n AS SELECT * FROM \"__Harmonylite__x\""),
        view("CREATE VIEW n AS SELECT 1; PRAGMA user_version = 7"),
        view("CREATE VIEW n AS SELECT 1 /* "),
        trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN DELETE FROM __harmonylite__x; END"),
        trigger("CREATE TRIGGER n AFTER INSERT ON c BEGIN SELECT 1; END"),
        trigger("CREATE TEMP TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END"),
        trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END; DELETE FROM t"),
        trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END; PRAGMA x = 1; END"),
        column("n; DROP TABLE c"),
        column("n, m"),
        column("m"),
        column("n); CREATE TABLE x (a"),
        column("n, CHECK (1)"),
        drop("__harmonylite__x"),
        drop("SQLITE_schema"),
        drop(""),
        drop("missing"),
        SchemaChange::RenameTable { from: "t".into(), to: "sqlite_x".into() },
        SchemaChange::Rebuild {
            table: "t".into(),
            sql: "CREATE TABLE c (a)".into(),
            columns: vec![("v".into(), "a".into())],
            lost: vec![],
            filled: vec![],
        },
        SchemaChange::Rebuild {
            table: "t".into(),
            sql: "CREATE TABLE t (id, n NOT NULL)".into(),
            columns: vec![("id".into(), "id".into())],
            lost: vec!["v".into()],
            filled: vec![("n".into(), "(SELECT 1)".into())],
        },
        SchemaChange::DropTrigger { name: "__harmonylite__t".into() },
    ] {
        let mut db = database(HERE);
        let before = text(&db, "SELECT group_concat(sql) FROM sqlite_schema");
        let Err(failure) = run(&mut db, std::slice::from_ref(&change)) else {
            panic!("it ran: {change:?}");
        };
        assert!(!failure.change.is_empty(), "{failure}");
        db.execute_batch("ROLLBACK").unwrap();
        assert_eq!(text(&db, "SELECT group_concat(sql) FROM sqlite_schema"), before);
        assert_eq!(text(&db, "SELECT group_concat(v) FROM t"), "a", "{change:?}");
        assert_eq!(text(&db, "SELECT user_version || '' FROM pragma_user_version"), "0");
        db.execute_batch("CREATE TABLE free (a)").unwrap();
    }
}

#[test]
fn a_rebuild_keeps_our_triggers_where_rows_stay_what_they_were() {
    const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w TEXT UNIQUE);
        INSERT INTO t VALUES (1, 'a', 'b'); CREATE TRIGGER __harmonylite__t_on_insert AFTER
        INSERT ON t BEGIN SELECT new.id; END; CREATE TRIGGER __harmonylite__t_on_rename AFTER
        UPDATE OF \"id\", \"v\", \"w\" ON t WHEN 0 BEGIN SELECT 1; END;";
    const UNIQUE: &str = "CREATE TRIGGER __harmonylite__t_on_unique AFTER INSERT ON t BEGIN
        SELECT new.w; END;";
    for (more, there, kept) in [
        ("", "(id INTEGER PRIMARY KEY, v NOT NULL, w TEXT UNIQUE)", 2),
        ("", "(id INTEGER PRIMARY KEY, n NOT NULL, w TEXT UNIQUE, x UNIQUE)", 2),
        ("", "(id INTEGER PRIMARY KEY, v NOT NULL)", 2),
        (UNIQUE, "(id INTEGER PRIMARY KEY, v NOT NULL, w TEXT UNIQUE)", 3),
        (UNIQUE, "(id INTEGER PRIMARY KEY, v NOT NULL)", 0),
        ("", "(id INTEGER PRIMARY KEY, v TEXT, w TEXT UNIQUE)", 0),
        ("", "(id INTEGER PRIMARY KEY, v ANY, w TEXT UNIQUE) STRICT", 0),
        ("", "(id INTEGER, v, w TEXT UNIQUE, PRIMARY KEY (id, v))", 0),
        ("", "(id INTEGER, v, w TEXT UNIQUE)", 0),
    ] {
        let filter = TableFilter::default();
        let mut db = database(&format!("{T}{more}"));
        let read = |db: &Connection| Objects::read(db, &filter).unwrap();
        let to = read(&database(&format!("CREATE TABLE t {there}")));
        let rename = ColumnRename { table: "t".into(), from: "v".into(), to: "n".into() };
        let renames = Renames { columns: vec![rename], ..Renames::default() };
        let changes = changes(&read(&db), &to, &renames);
        assert!(matches!(changes.last(), Some(SchemaChange::Rebuild { .. })), "{there}");
        db.execute_batch("BEGIN").unwrap();
        run(&mut db, &changes).unwrap();
        assert!(read(&db).is_like(&to), "{there}");
        let triggers = "SELECT count(*) || '' FROM sqlite_schema WHERE type = 'trigger'";
        assert_eq!(text(&db, triggers), kept.to_string(), "{more} {there}");
        db.execute_batch("INSERT INTO t (id) VALUES (2) ON CONFLICT DO NOTHING; COMMIT")
            .unwrap_or_else(|error| assert!(error.to_string().contains("NOT NULL"), "{error}"));
    }
}

#[test]
fn it_runs_only_within_a_transaction_on_one_database() {
    let add =
        [SchemaChange::CreateView { name: "n".into(), sql: "CREATE VIEW n AS SELECT 1".into() }];
    let mut db = database("");
    let failure = run(&mut db, &add).unwrap_err();
    assert!(failure.to_string().contains("no transaction"), "{failure}");
    db.execute_batch("ATTACH ':memory:' AS other; BEGIN").unwrap();
    let failure = run(&mut db, &add).unwrap_err();
    assert!(failure.to_string().contains("attached"), "{failure}");
    assert!(run(&mut db, &[]).is_ok());
}

#[test]
fn a_failure_names_the_statement_and_the_error() {
    let mut db = database("CREATE TABLE t (v); INSERT INTO t VALUES (1), (1); BEGIN");
    let sql = "CREATE UNIQUE INDEX u ON t (v)";
    let index = SchemaChange::CreateIndex { name: "u".into(), table: "t".into(), sql: sql.into() };
    let failure = run(&mut db, &[index]).unwrap_err();
    assert!(matches!(failure.cause, Cause::Sqlite(_)));
    let text = failure.to_string();
    assert!(text.contains("create index u on t") && text.contains(sql), "{text}");
    assert!(text.contains("UNIQUE constraint failed"), "{text}");
}
