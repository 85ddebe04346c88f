use super::*;
use crate::capture::install::{install, load};
use crate::clock;
use crate::db::connection::open_writer;
use crate::store::entry_code::of_table;
use crate::store::install::create_tables;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NOW_MS: i64 = 1_700_000_000_000;

fn database(dir: &Path, tables: usize) -> Connection {
    let path = dir.join(format!("{tables}.db"));
    Connection::open(&path).unwrap();
    let db = open_writer(&path).unwrap();
    db.execute_batch("PRAGMA synchronous = OFF; BEGIN").unwrap();
    for i in 0..tables {
        db.execute_batch(&format!("CREATE TABLE t{i} (id INTEGER PRIMARY KEY, a TEXT, b)"))
            .unwrap();
    }
    create_tables(&db, &path).unwrap();
    db.execute_batch("COMMIT").unwrap();
    db
}

/// What an installation took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// The operations of SQLite's virtual machine, in thousands: all, and the most in one step.
    operations: u64,
    most_operations: u64,
    ms: u64,
    longest_ms: u64,
    steps: u64,
}

/// One step in a transaction of its own.
fn step(db: &Connection, installation: &mut Installation, visits: u64) -> Progress {
    db.query_row("SELECT count(*) FROM t0 WHERE FALSE", [], |_| Ok(())).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let progress = installation.step(db, NOW_MS, visits).unwrap();
    db.execute_batch("COMMIT").unwrap();
    progress
}

fn install_all(db: &mut Connection) -> Cost {
    let operations = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&operations);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    db.progress_handler(1_000, Some(count)).unwrap();
    let (mut cost, start) = (Cost::default(), clock::mono_ms());
    let mut installation = Installation::read(db, &TableFilter::default()).unwrap();
    let mut progress = Progress::More;
    while progress != Progress::Done {
        let (before, began) = (operations.load(Ordering::Relaxed), clock::mono_ms());
        progress = step(db, &mut installation, STEP_VISITS);
        let used = operations.load(Ordering::Relaxed) - before;
        cost.most_operations = cost.most_operations.max(used);
        cost.longest_ms = cost.longest_ms.max(clock::mono_ms() - began);
        cost.steps += 1;
    }
    installation.end(db).unwrap();
    db.progress_handler(0, None::<fn() -> bool>).unwrap();
    cost.ms = clock::mono_ms() - start;
    cost.operations = operations.load(Ordering::Relaxed);
    println!("{cost:?}");
    cost
}

fn count(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |r| r.get(0)).unwrap()
}

/// Four times the tables take some four times as long, not sixteen times. The machine may be busy,
/// so the best of three counts, and work is counted in operations where it can be.
#[test]
fn many_tables_are_installed_in_bounded_steps_and_nearly_linear_time() {
    let best = |tables: usize| {
        let runs = (0..3).map(|_| {
            let dir = tempfile::tempdir().unwrap();
            let mut db = database(dir.path(), tables);
            let cost = install_all(&mut db);
            let layout = load(&db, &TableFilter::default()).unwrap().unwrap();
            assert_eq!(layout.tables.len(), tables);
            let ok: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
            assert_eq!(ok, "ok");
            cost
        });
        runs.min_by_key(|cost| cost.ms).unwrap()
    };
    let (few, many) = (best(400), best(1_600));
    assert!(many.ms < few.ms.max(20) * 10, "400 and 1,600 tables took {few:?} and {many:?}");
    // Created one by one, the triggers alone take 500 million operations.
    assert!(many.operations < 50_000, "{many:?}");
    assert!(many.most_operations < 1_500 && many.steps > 10, "a step is not bounded: {many:?}");
}

/// A table that comes later costs little, however many there are.
#[test]
fn one_more_table_among_many_takes_the_lock_for_a_short_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = database(dir.path(), 2_000);
    install_all(&mut db);
    for i in 0..3 {
        db.execute_batch(&format!("CREATE TABLE later{i} (id TEXT PRIMARY KEY, x UNIQUE)"))
            .unwrap();
        let cost = install_all(&mut db);
        assert!(cost.most_operations < 1_000, "{cost:?}");
    }
}

#[test]
fn what_is_written_in_bulk_is_what_sqlite_would_have_written() {
    let tables = "CREATE TABLE \"a \"\"b\" (\"x y\" TEXT PRIMARY KEY, \"é\" UNIQUE); CREATE \
                  TABLE c (id INTEGER PRIMARY KEY, a, b, UNIQUE (a, b)); CREATE TABLE d (x \
                  PRIMARY KEY, y) WITHOUT ROWID;";
    let schema = |is_bulk: bool, visits: u64| -> Vec<(String, String, String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path(), 3);
        db.execute_batch("PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = DELETE; VACUUM")
            .unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        assert_eq!(count(&db, "PRAGMA auto_vacuum"), 1);
        db.execute_batch(tables).unwrap();
        let mut installation = Installation::read(&db, &TableFilter::default()).unwrap();
        installation.objects.expect(if is_bulk { 1_000_000 } else { 0 });
        while step(&db, &mut installation, visits) != Progress::Done {}
        installation.end(&db).unwrap();
        let ok: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(ok, "ok");
        let application = Connection::open(dir.path().join("3.db")).unwrap();
        application
            .execute_batch("INSERT INTO c VALUES (1, 2, 3); REPLACE INTO c VALUES (2, 2, 3)")
            .unwrap();
        assert_eq!(count(&db, "SELECT count(*) FROM __harmonylite__change_log"), 3);
        let mut read = db
            .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
            .unwrap();
        let rows = read
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3).unwrap_or_default())));
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    };
    let one_by_one = schema(false, 1);
    for visits in [1, STEP_VISITS] {
        assert_eq!(schema(true, visits), one_by_one, "steps of {visits}");
    }
}

/// A node dies between two steps, the application goes on, and the next start finds what it wrote.
#[test]
fn nothing_is_lost_if_the_installation_ends_between_two_steps() {
    let filter = TableFilter::default();
    for joined in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path(), 200);
        meta::set(&db, meta::SITE, crate::model::ids::Site(7)).unwrap();
        meta::set(&db, meta::JOINED, joined).unwrap();
        let application = Connection::open(dir.path().join("200.db")).unwrap();
        let mut ends = 0;
        // Each life of the node does one more step than the one before.
        for steps in 1.. {
            let mut installation = Installation::read(&db, &filter).unwrap();
            assert!(installation.objects.is_bulk() || steps > 1);
            let mut progress = Progress::More;
            for _ in 0..steps {
                progress = step(&db, &mut installation, 1);
                if progress == Progress::Done {
                    break;
                }
            }
            let id = 1_000 + steps;
            for table in ["t0", "t1", "t40", "t199"] {
                application
                    .execute(&format!("INSERT INTO {table} (id) VALUES (?1)"), [id])
                    .unwrap();
            }
            if progress == Progress::Done {
                installation.end(&db).unwrap();
                break;
            }
            assert!(load(&db, &filter).unwrap().is_none(), "a part is not announced");
            ends += 1;
        }
        assert!(ends > 3);
        let (layout, _) = install(&db, &filter, NOW_MS).unwrap();
        assert_eq!(layout.tables.len(), 200);
        for table in ["t0", "t1", "t40", "t199"] {
            let id = layout.by_name(table).unwrap().id;
            // A row without a version is in the log, or gets one when the database joins.
            let lost = count(
                &db,
                &format!(
                    "SELECT count(*) FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM \
                    __harmonylite__{table}_version WHERE key0 = t.id) AND NOT EXISTS (SELECT 1 \
                    FROM __harmonylite__change_log WHERE table_id = {id} AND key0 = t.id)"
                ),
            );
            let compared =
                comparisons::read(&db).unwrap().iter().any(|comparison| comparison.table_id == id);
            assert!(!joined || lost == 0 || compared, "{table}: {lost} rows");
        }
    }
}

/// The schema moves between two steps: nothing is done with what was read before.
#[test]
fn a_change_of_the_schema_between_two_steps_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let db = database(dir.path(), 200);
    let mut installation = Installation::read(&db, &TableFilter::default()).unwrap();
    assert_eq!(step(&db, &mut installation, 1), Progress::More);
    let application = Connection::open(dir.path().join("200.db")).unwrap();
    application.execute_batch("DROP TABLE t5; ALTER TABLE t6 RENAME TO u6").unwrap();
    assert_eq!(step(&db, &mut installation, 1), Progress::Moved);
    let (layout, _) = install(&db, &TableFilter::default(), NOW_MS).unwrap();
    assert!(layout.by_name("t5").is_none() && layout.by_name("u6").is_some());
    assert_eq!(
        count(&db, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%\\_t5\\_%' ESCAPE '\\'"),
        0
    );
}

/// A table of an earlier build that was replicated by its rowid has a unique index: versions and
/// unpublished entries by rowid must not count for rows with another key.
#[test]
fn another_key_makes_versions_again_and_forgets_unpublished_entries() {
    let dir = tempfile::tempdir().unwrap();
    let db = database(dir.path(), 1);
    meta::set(&db, meta::SITE, crate::model::ids::Site(7)).unwrap();
    meta::set(&db, meta::JOINED, true).unwrap();
    db.execute_batch("CREATE TABLE p (user INTEGER NOT NULL, v)").unwrap();
    let by_rowid = TableFilter {
        without_key: crate::model::table_filter::WithoutKey::Rowid,
        ..TableFilter::default()
    };
    let (layout, _) = install(&db, &by_rowid, NOW_MS).unwrap();
    let id = layout.by_name("p").unwrap().id;
    let application = Connection::open(dir.path().join("1.db")).unwrap();
    application
        .execute_batch("INSERT INTO p VALUES (10, 'a'), (20, 'b'); DELETE FROM p WHERE user = 20")
        .unwrap();
    let logged = format!(
        "SELECT count(*) FROM __harmonylite__change_log WHERE {} AND table_id NOT LIKE '% -'",
        of_table(id)
    );
    assert_eq!(count(&db, &logged), 3);
    application.execute_batch("CREATE UNIQUE INDEX i ON p (user)").unwrap();
    let (layout, installed) = install(&db, &TableFilter::default(), NOW_MS).unwrap();
    assert_eq!((layout.by_name("p").unwrap().id, installed.changed), (id, vec!["p".to_owned()]));
    let keys = "SELECT sum(key0) FROM __harmonylite__p_version";
    assert_eq!(count(&db, keys), 10, "the row that is there has a version by its key");
    assert_eq!(count(&db, &format!("{logged} AND key0 = 10")), 1, "and is published");
    assert_eq!(count(&db, &logged), 1, "nothing by rowid is left");

    // Without the index and without the option it is not replicated any more.
    application.execute_batch("DROP INDEX i").unwrap();
    let (layout, installed) = install(&db, &TableFilter::default(), NOW_MS).unwrap();
    assert!(layout.by_name("p").is_none());
    assert_eq!(installed.removed, ["p"]);
    assert!(installed.unable.iter().any(|(table, why)| table == "p" && why.contains("no PRIMARY")));
    let ours = "SELECT count(*) FROM sqlite_schema WHERE tbl_name = 'p' AND type = 'trigger'";
    assert_eq!(count(&db, ours), 0);
}
