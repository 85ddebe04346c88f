//! Goal: `harmonylite_lag()` and `harmonylite_wait()` never say that a change has left the machine
//! when it has not. Method: the two tables that they read, made by hand, and a bell in the place of
//! the sidecar.

#![allow(clippy::unwrap_used, missing_docs)] // a test may

use harmonylite_vfs::bell::{Bell, Progress};
use rusqlite::Connection;
use std::path::PathBuf;

fn fixture() -> (tempfile::TempDir, PathBuf, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = harmonylite_vfs::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE __harmonylite__meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
         CREATE TABLE __harmonylite__change_log (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, \
         table_id INTEGER, kind INTEGER, key0);
         INSERT INTO __harmonylite__meta VALUES ('site', 42), ('published', 0);",
    )
    .unwrap();
    (directory, path, db)
}

fn change(db: &Connection, age_ms: i64) {
    let time = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";
    db.execute(
        &format!("INSERT INTO __harmonylite__change_log (time) VALUES ({time} - ?1)"),
        [age_ms],
    )
    .unwrap();
}

fn lag(db: &Connection) -> Option<i64> {
    db.query_row("SELECT harmonylite_lag()", [], |r| r.get(0)).unwrap()
}

fn wait(db: &Connection, timeout_ms: i64) -> i64 {
    db.query_row("SELECT harmonylite_wait(?1)", [timeout_ms], |r| r.get(0)).unwrap()
}

#[test]
fn a_database_without_harmonylite_has_no_lag() {
    let db = harmonylite_vfs::open(":memory:").unwrap();
    assert_eq!((lag(&db), wait(&db, 10)), (None, 0));
    let version: String =
        db.query_row("SELECT harmonylite_vfs_version()", [], |r| r.get(0)).unwrap();
    assert_eq!(version, harmonylite_vfs::VERSION);
    assert!(
        db.query_row("SELECT harmonylite_version()", [], |_| Ok(())).is_err(),
        "silences triggers of HarmonyLite (Go)"
    );
}

#[test]
fn without_a_sidecar_lag_grows_and_wait_gives_up() {
    let (_directory, _path, db) = fixture();
    assert_eq!((lag(&db), wait(&db, 0)), (Some(0), 1), "nothing was written yet");
    change(&db, 5000);
    let first = lag(&db).unwrap();
    assert!((5000..60_000).contains(&first), "{first}");
    assert_eq!(wait(&db, 30), 0);
    assert!(lag(&db).unwrap() > first);
    // What the sidecar wrote down before it ended.
    db.execute_batch("UPDATE __harmonylite__meta SET value = 1 WHERE key = 'published'").unwrap();
    assert_eq!((lag(&db), wait(&db, 0)), (Some(0), 1));
}

#[test]
fn a_sidecar_says_what_left() {
    let (_directory, path, db) = fixture();
    let bell = Bell::open_or_create(&path).unwrap();
    change(&db, 0);
    change(&db, 0);
    bell.publish_progress(Progress { site: 42, published: 1 });
    assert_eq!(wait(&db, 20), 0, "one of two");
    bell.publish_progress(Progress { site: 41, published: 2 });
    assert_eq!(wait(&db, 20), 0, "of another life of this database");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let db = harmonylite_vfs::open(&path).unwrap();
            wait(&db, 60_000)
        });
        bell.publish_progress(Progress { site: 42, published: 2 });
        assert_eq!(waiting.join().unwrap(), 1);
    });
    assert_eq!(lag(&db), Some(0));
    // A sidecar that ended counts no more: the database says 0.
    drop(bell);
    assert_eq!(wait(&db, 20), 0);
}

#[test]
fn inside_a_transaction_there_is_nothing_to_wait_for() {
    let (_directory, _path, db) = fixture();
    db.execute_batch("BEGIN").unwrap();
    change(&db, 0);
    let error = db.query_row("SELECT harmonylite_wait(60000)", [], |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("COMMIT first"), "{error}");
    assert!(lag(&db).is_some());
}

#[test]
fn an_interrupted_statement_ends() {
    let (_directory, _path, db) = fixture();
    change(&db, 0);
    let handle = db.get_interrupt_handle();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Again and again: an interrupt before the statement starts has no effect.
            while told.recv_timeout(std::time::Duration::from_millis(50)).is_err() {
                handle.interrupt();
            }
        });
        assert!(db.query_row("SELECT harmonylite_wait(60000)", [], |_| Ok(())).is_err());
        tell.send(()).unwrap();
    });
}
