//! Goal: a WAL whose frames are gathered is to all others what it would be without. Method: one
//! connection gathers, with a cache so small that its transactions spill; a plain one writes and
//! reads between its transactions; they are compared with a model. In place of `pwrite` stands a
//! function that counts, and whose disk can be full.

#![cfg(target_os = "linux")] // where it says that the disk is full differs elsewhere
#![allow(clippy::unwrap_used, missing_docs)] // a test may

mod random;

use harmonylite_vfs::GATHERING_VFS_NAME;
use random::Random;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// How many bytes the disk of this thread still takes.
    static ROOM: Cell<usize> = const { Cell::new(usize::MAX) };
    /// How often this thread has written.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Writes and counts, as long as there is room.
unsafe extern "C" fn pwrite(
    fd: c_int,
    bytes: *const c_void,
    size: usize,
    at: libc::off_t,
) -> isize {
    let Some(left) = ROOM.get().checked_sub(size) else {
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = libc::ENOSPC };
        return -1;
    };
    ROOM.set(left);
    CALLS.set(CALLS.get() + 1);
    // SAFETY: the arguments of the caller.
    unsafe { libc::pwrite(fd, bytes, size, at) }
}

type Pwrite = unsafe extern "C" fn(c_int, *const c_void, usize, libc::off_t) -> isize;
type AnyCall = unsafe extern "C" fn();

/// Puts it in place of the system call, in all VFSs that are built on this one.
fn replace_pwrite() {
    // SAFETY: the unix VFS, which lives as long as the process; a function of the type that it
    // calls, whichever of the two names it uses.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(c"unix".as_ptr());
        for name in [c"pwrite", c"pwrite64"] {
            let set = (*vfs).xSetSystemCall.unwrap();
            set(vfs, name.as_ptr(), Some(std::mem::transmute::<Pwrite, AnyCall>(pwrite)));
        }
    }
}

fn open(path: &Path, vfs: &str) -> Connection {
    static ONCE: Once = Once::new();
    harmonylite_vfs::register_gathering().unwrap();
    ONCE.call_once(replace_pwrite);
    let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").unwrap();
    db
}

fn check(db: &Connection) {
    let answer: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

/// Calls of write that a transaction of so many pages takes.
fn writes_of_a_transaction(vfs: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("app.db"), vfs);
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        .unwrap();
    let before = CALLS.get();
    db.execute_batch(
        "INSERT INTO t SELECT value, randomblob(4000) FROM (WITH RECURSIVE n(value) AS (SELECT 1 \
        UNION ALL SELECT value + 1 FROM n WHERE value < 300) SELECT value FROM n)",
    )
    .unwrap();
    let calls = CALLS.get() - before;
    check(&db);
    calls
}

#[test]
fn frames_are_written_in_runs() {
    let (plain, gathered) =
        (writes_of_a_transaction("unix"), writes_of_a_transaction(GATHERING_VFS_NAME));
    assert!(plain >= 600, "{plain}");
    assert!(gathered * 20 < plain, "{gathered} of {plain}");
}

type Rows = BTreeMap<i64, i64>;

fn rows(db: &Connection) -> Rows {
    let mut read = db.prepare_cached("SELECT a, b FROM t").unwrap();
    read.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Writes some rows, of which a few pages spill from the cache.
fn change(db: &Connection, model: &mut Rows, random: &mut Random) {
    for _ in 0..random.below(40) {
        let (a, b) = (random.below(300).cast_signed(), random.below(1 << 30).cast_signed());
        db.prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2, randomblob(1500))")
            .unwrap()
            .execute([a, b])
            .unwrap();
        model.insert(a, b);
    }
}

/// One transaction of any end, with a savepoint that may be rolled back.
fn transaction(db: &Connection, model: &mut Rows, random: &mut Random) {
    let mut inside = model.clone();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    change(db, &mut inside, random);
    let saved = inside.clone();
    db.execute_batch("SAVEPOINT s").unwrap();
    change(db, &mut inside, random);
    if random.below(3) == 0 {
        db.execute_batch("ROLLBACK TO s").unwrap();
        inside = saved;
        change(db, &mut inside, random);
    }
    // Not always: what is read is written first.
    if random.below(2) == 0 {
        assert_eq!(rows(db), inside);
    }
    if random.below(3) == 0 {
        db.execute_batch("ROLLBACK").unwrap();
    } else {
        db.execute_batch("COMMIT").unwrap();
        *model = inside;
    }
}

fn play(seed: u64) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("app.db");
    let mut random = Random(seed);
    let gathering = open(&path, GATHERING_VFS_NAME);
    gathering
        .execute_batch("PRAGMA cache_size = 5; CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)")
        .unwrap();
    let plain = open(&path, "unix");
    plain.execute_batch("PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = 20").unwrap();
    let mut model = Rows::new();
    for _ in 0..120 {
        match random.below(8) {
            0..=3 => transaction(&gathering, &mut model, &mut random),
            4..=6 => transaction(&plain, &mut model, &mut random),
            _ => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
                    [usize::try_from(random.below(4)).unwrap()];
                let db = if random.below(2) == 0 { &gathering } else { &plain };
                db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
            }
        }
        assert_eq!(rows(&plain), model, "seed {seed}");
        // Not always: what is still gathered when others write shall meet them.
        if random.below(4) == 0 {
            assert_eq!(rows(&gathering), model, "seed {seed}");
        }
    }
    assert_eq!(rows(&gathering), model, "seed {seed}");
    check(&plain);
    // What a machine finds that was killed now: the files as they are.
    let copy = directory.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
    let recovered = open(&copy, "unix");
    assert_eq!(rows(&recovered), model, "seed {seed}, recovered");
    check(&recovered);
}

#[test]
fn others_read_and_write_between_the_transactions() {
    let seeds: u64 = std::env::var("HARMONYLITE_SEEDS").map_or(40, |n| n.parse().unwrap());
    (0..seeds).for_each(play);
}

fn open_with_index(path: &Path) -> Connection {
    let db = open(path, GATHERING_VFS_NAME);
    db.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a INTEGER PRIMARY KEY, b, c); \
        CREATE UNIQUE INDEX by_b ON t (b, a)",
    )
    .unwrap();
    db
}

/// Only the rows that were committed are there.
fn check_committed(path: &Path, rows: i64) {
    let db = open(path, "unix");
    let sums: (i64, i64) =
        db.query_row("SELECT count(*), sum(b) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    assert_eq!(sums, (rows, rows));
    check(&db);
}

#[test]
fn a_full_disk_fails_the_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = open_with_index(&path);
    // It is full in the middle, or when the transaction ends.
    for (i, (room, rows)) in
        (1..).zip([(20_000, 300), (500_000, 300), (80_000, 20), (3_000, 1), (0, 1)])
    {
        ROOM.set(room);
        let result = db.execute(
            "INSERT INTO t SELECT NULL, 2, randomblob(4000) FROM (WITH RECURSIVE n(value) AS \
            (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < ?1) SELECT value FROM n)",
            [rows],
        );
        assert_eq!(result.unwrap_err().sqlite_error_code(), Some(ErrorCode::DiskFull));
        assert!(db.is_autocommit());
        ROOM.set(usize::MAX);
        db.execute("INSERT INTO t VALUES (NULL, 1, NULL)", []).unwrap();
        check_committed(&path, i);
    }
}

/// SQLite takes for written what has left the cache and is then lost by a read, or by another
/// write, that finds the disk full. It must not commit without it, even if there is room again.
#[test]
fn what_is_lost_is_not_committed() {
    for by_write in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        let db = open_with_index(&path);
        db.execute_batch("PRAGMA cache_size = 5; BEGIN").unwrap();
        let insert = "INSERT INTO t VALUES (NULL, 2, randomblob(4000))";
        for _ in 0..16 {
            db.execute(insert, []).unwrap();
        }
        ROOM.set(0);
        let full = if by_write {
            (0..40).find_map(|_| db.execute(insert, []).err())
        } else {
            // It can fail by its index, so only the statement is rolled back.
            db.execute("INSERT INTO t SELECT NULL, 2, substr(c, 1, 10) FROM t", []).err()
        };
        assert_eq!(full.unwrap().sqlite_error_code(), Some(ErrorCode::DiskFull));
        assert_eq!(db.is_autocommit(), by_write);
        ROOM.set(usize::MAX);
        if !db.is_autocommit() {
            assert!(db.execute(insert, []).is_err() || db.execute_batch("COMMIT").is_err());
            assert!(db.is_autocommit() || db.execute_batch("ROLLBACK").is_ok());
        }
        db.execute("INSERT INTO t VALUES (NULL, 1, NULL)", []).unwrap();
        check_committed(&path, 1);
    }
}
