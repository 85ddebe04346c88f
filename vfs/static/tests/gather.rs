//! Goal: a WAL whose frames are gathered is to all others what it would be without. Method: one
//! connection gathers, with a cache so small that its transactions spill; a plain one writes and
//! reads between its transactions; they are compared with a model. The kernel's counters show that
//! writes are gathered; a limit of the file's size makes them fail.

#![allow(clippy::unwrap_used, missing_docs)] // a test may

use harmonylite_vfs::GATHERING_VFS_NAME;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn open(path: &Path, vfs: &str) -> Connection {
    harmonylite_vfs::register_gathering().unwrap();
    let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").unwrap();
    db
}

fn check(db: &Connection) {
    let answer: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

/// Calls of write and pwrite of this thread.
fn writes() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap();
    line.parse().unwrap()
}

/// Calls of write that a transaction of so many pages takes.
fn writes_of_a_transaction(vfs: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("app.db"), vfs);
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        .unwrap();
    let before = writes();
    db.execute_batch(
        "INSERT INTO t SELECT value, randomblob(4000) FROM (WITH RECURSIVE n(value) AS (SELECT 1 \
        UNION ALL SELECT value + 1 FROM n WHERE value < 300) SELECT value FROM n)",
    )
    .unwrap();
    let calls = writes() - before;
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

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
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

/// Not a test of its own: what the next one starts, with a limit of the file's size.
#[test]
fn write_with_a_limit() {
    let Ok(path) = std::env::var("GATHER_DATABASE") else { return };
    let db = open(Path::new(&path), GATHERING_VFS_NAME);
    db.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    // SAFETY: no other thread of this process handles signals; a limit of this process alone.
    let limit = |bytes| unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    };
    // So large that it fails in the middle, at its end, or not at all.
    for (bytes, rows) in [(20_000, 300), (500_000, 300), (80_000, 20), (20_000, 1)] {
        limit(bytes);
        let result = db.execute(
            "INSERT INTO t SELECT NULL, 1, randomblob(4000) FROM (WITH RECURSIVE n(value) AS \
            (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < ?1) SELECT value FROM n)",
            [rows],
        );
        assert!(result.is_err(), "{rows} rows fit into {bytes} bytes");
        assert!(db.is_autocommit());
        limit(libc::RLIM_INFINITY);
        db.execute("INSERT INTO t VALUES (NULL, 2, NULL)", []).unwrap();
    }
}

#[test]
fn a_write_that_fails_fails_its_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = open(&path, "unix");
    db.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)").unwrap();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "write_with_a_limit", "--nocapture", "--test-threads=1"])
        .env("GATHER_DATABASE", &path)
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
    let sums: (i64, i64) =
        db.query_row("SELECT count(*), sum(b) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    assert_eq!(sums, (4, 8), "only what was committed");
    check(&db);
}
