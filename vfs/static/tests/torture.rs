//! Goal: processes with the VFS and without it share one database, under constant checkpoints of
//! all kinds and SIGKILL, and not one acknowledged row is lost, not one is there twice, and the
//! file is sound. Method: writers with the VFS (this test, started again) of which some are killed;
//! writers as the sidecar's, which gather frames and often roll back; a plain writer in Python, one
//! through the sqlite3 shell; a checkpointer; a sidecar that waits on the bell and reads. A writer
//! says each row's number after its commit.
//! `HARMONYLITE_TORTURE_ROUNDS` and `_ROWS` make it longer (`make torture`).

#![allow(clippy::unwrap_used, missing_docs)] // a test may

use harmonylite_vfs::bell::{Bell, Woken};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

fn number(name: &str, otherwise: i64) -> i64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap())
}

/// The number of the first writer that gathers frames.
const GATHERING: i64 = 20;

fn open_gathering(path: &str) -> Connection {
    harmonylite_vfs::register_gathering().unwrap();
    let flags = rusqlite::OpenFlags::default();
    let vfs = harmonylite_vfs::GATHERING_VFS_NAME;
    let db = Connection::open_with_flags_and_vfs(path, flags, vfs).unwrap();
    db.execute_batch("PRAGMA cache_size = 5").unwrap();
    db
}

/// Not a test of its own: the writer that the torture starts.
#[test]
fn writer_with_the_vfs() {
    let Ok(path) = std::env::var("TORTURE_DATABASE") else { return };
    let (writer, rows) = (number("TORTURE_WRITER", 0), number("TORTURE_ROWS", 0));
    let gathers = writer >= GATHERING;
    let db = if gathers { open_gathering(&path) } else { harmonylite_vfs::open(path).unwrap() };
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    db.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    let mut out = std::io::stdout().lock();
    for i in 0..rows {
        if gathers {
            // More than the cache holds: some pages leave it for the WAL.
            db.execute_batch(
                "BEGIN IMMEDIATE; INSERT INTO t SELECT -1, value, randomblob(3000) FROM (WITH \
                RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < \
                12) SELECT value FROM n); ROLLBACK",
            )
            .unwrap();
        }
        db.execute("INSERT INTO t VALUES (?1, ?2, randomblob(?3))", [writer, i, i % 7 * 300])
            .unwrap();
        writeln!(out, "row {i}").unwrap();
        if i % 50 == 0 {
            let mode =
                ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][usize::try_from(i / 50 % 4).unwrap()];
            db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        }
    }
}

fn start_writer(path: &Path, writer: i64, rows: i64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_with_the_vfs", "--nocapture", "--test-threads=1"])
        .env("TORTURE_DATABASE", path)
        .env("TORTURE_WRITER", writer.to_string())
        .env("TORTURE_ROWS", rows.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

const PYTHON: &str = r#"
import sqlite3, sys
path, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=60, isolation_level=None)
for i in range(rows):
    db.execute("INSERT INTO t VALUES (?, ?, randomblob(200))", (writer, i))
    print("row", i, flush=True)
"#;

const CHECKPOINTER: &str = r#"
import sqlite3, sys
modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
i = 0
while True:
    db = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
    for _ in range(20):
        try:
            db.execute("PRAGMA wal_checkpoint(%s)" % modes[i % 4]).fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error): raise
        i += 1
    db.close()
"#;

/// Rows acknowledged, from what a writer said. Kills it after so many of them, if so wished.
fn listen(mut child: Child, kill_after: Option<i64>) -> (i64, bool) {
    let mut acknowledged = 0;
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(row) = line.rsplit_once("row ").and_then(|(_, n)| n.parse::<i64>().ok()) {
            assert_eq!(row, acknowledged, "in order");
            acknowledged += 1;
            if kill_after.is_some_and(|n| acknowledged >= n) && !killed {
                killed = true;
                child.kill().unwrap(); // goes on with what it had said already
            }
        }
    }
    let ended = child.wait().unwrap();
    assert!(killed || ended.success(), "{ended}");
    (acknowledged, killed)
}

/// What is there of one writer's rows: as many as acknowledged, one more if it was killed before it
/// could say so.
fn check(db: &Connection, writer: i64, acknowledged: i64, killed: bool) {
    let sql =
        "SELECT count(*), count(DISTINCT i), coalesce(max(i) + 1, 0) FROM t WHERE writer = ?1";
    let (rows, distinct, next): (i64, i64, i64) =
        db.query_row(sql, [writer], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
    assert!(
        (rows, rows) == (distinct, next),
        "writer {writer}: {rows} rows, {distinct} distinct, up to {next}"
    );
    let exact = rows == acknowledged;
    assert!(
        exact || killed && rows == acknowledged + 1,
        "writer {writer}: {rows} rows, {acknowledged} acknowledged, killed: {killed}"
    );
}

fn round(round: i64, rows: i64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (writer INTEGER, i INTEGER, data BLOB); CREATE \
        INDEX by_i ON t (i, writer)",
    )
    .unwrap();
    let bell = Bell::open_or_create(&path).unwrap();
    let done = AtomicBool::new(false);
    let mut checkpointer =
        Command::new("python3").args(["-c", CHECKPOINTER]).arg(&path).spawn().unwrap();
    let (rings, results) = std::thread::scope(|scope| {
        let sidecar = scope.spawn(|| {
            let (mut seen, mut wakes) = (0, 0);
            let db = Connection::open(&path).unwrap();
            let mut read = db.prepare("SELECT max(rowid) FROM t").unwrap();
            while !done.load(SeqCst) {
                if bell.wait(seen, Duration::from_millis(100)) == Woken::Rung {
                    wakes += 1;
                }
                // Read before: rows of killed writers count too, each ring is at least one row.
                let rings = bell.rings();
                let last: i64 =
                    read.query_row([], |r| r.get::<_, Option<i64>>(0)).unwrap().unwrap_or(0);
                assert!(last.cast_unsigned() >= rings, "{rings} rings, {last} rows to be seen");
                seen = rings;
            }
            wakes
        });
        let mut writers = Vec::new();
        for writer in (0..4).chain(GATHERING..GATHERING + 2) {
            // Half of them are killed, at another row each round.
            let kill_after = (writer % 2 == 1).then(|| (round * 37 + writer * 11) % rows + 1);
            let child = start_writer(&path, writer, rows);
            writers.push(scope.spawn(move || (writer, listen(child, kill_after))));
        }
        let python = Command::new("python3")
            .args(["-c", PYTHON])
            .arg(&path)
            .args(["10", &rows.to_string()])
            .stdout(Stdio::piped())
            .spawn();
        writers.push(scope.spawn(move || (10, listen(python.unwrap(), None))));
        let shell = scope.spawn(|| {
            // A whole process a row, as a script would.
            for i in 0..rows / 10 {
                let sql = format!("INSERT INTO t VALUES (11, {i}, randomblob(100))");
                let done = Command::new("sqlite3")
                    .args(["-cmd", ".timeout 60000"])
                    .arg(&path)
                    .arg(sql)
                    .status()
                    .unwrap();
                assert!(done.success());
            }
            (11, (rows / 10, false))
        });
        let mut results: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        results.push(shell.join().unwrap());
        done.store(true, SeqCst);
        bell.interrupt();
        (sidecar.join().unwrap(), results)
    });
    checkpointer.kill().unwrap();
    checkpointer.wait().unwrap();
    let sound: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let mut acknowledged_with_vfs = 0;
    for (writer, (acknowledged, killed)) in results {
        check(&db, writer, acknowledged, killed);
        acknowledged_with_vfs += if writer < 10 { acknowledged } else { 0 };
    }
    // A writer may be killed between commit and ring: at most one ring each is lost.
    assert!(
        bell.rings() + 2 >= acknowledged_with_vfs.cast_unsigned(),
        "{} rings of {acknowledged_with_vfs}",
        bell.rings()
    );
    println!(
        "round {round}: {acknowledged_with_vfs} rows with the VFS, {} rings, {rings} wakes, sound",
        bell.rings()
    );
}

#[test]
fn nothing_is_lost_whoever_writes() {
    for i in 0..number("HARMONYLITE_TORTURE_ROUNDS", 1) {
        round(i, number("HARMONYLITE_TORTURE_ROWS", 200));
    }
}
