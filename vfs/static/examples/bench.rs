//! What the VFS costs, in one run: every workload with and without it in turn, so that the machine's moods hit both.
//!
//! `cargo run --release -p harmonylite-vfs --example bench`

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a bench may, and reads the clock

use harmonylite_vfs::bell::{Bell, Woken};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 80;

fn open(path: &Path, vfs: bool) -> Connection {
    let db = if vfs {
        harmonylite_vfs::open(path).unwrap()
    } else {
        Connection::open_with_flags_and_vfs(path, OpenFlags::default(), "unix").unwrap()
    };
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 100")
        .unwrap();
    db
}

/// A database with 50,000 rows, and a bell beside it (with nobody listening).
fn database(directory: &Path, name: &str, vfs: bool) -> (Connection, Bell) {
    let path = directory.join(name);
    let db = open(&path, vfs);
    db.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE)",
    )
    .unwrap();
    drop(db);
    let bell = Bell::open_or_create(&path).unwrap();
    (open(&path, vfs), bell)
}

fn time(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

fn quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}

fn compare(what: &str, per_round: u32, with: &Connection, without: &Connection, body: impl Fn(&Connection)) {
    body(with);
    body(without);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Each goes first every other time.
        if round % 2 == 0 {
            a.push(time(|| body(with)));
            b.push(time(|| body(without)));
        } else {
            b.push(time(|| body(without)));
            a.push(time(|| body(with)));
        }
        for db in [with, without] {
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    // The lower quartile: what the machine does besides only ever adds.
    let ratio = quartile(a.clone()) / quartile(b.clone());
    let each = |values: Vec<f64>| quartile(values) / f64::from(per_round) * 1e6;
    println!("{what:<12} {:>10.3} us with, {:>10.3} us without: {ratio:.3}", each(a), each(b));
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let (with, bell) = database(directory.path(), "with.db", true);
    let (without, _silent) = database(directory.path(), "without.db", false);
    compare("autocommit", 300, &with, &without, |db| {
        let mut insert = db.prepare_cached("INSERT INTO t (a) VALUES (?1)").unwrap();
        for _ in 0..300 {
            insert.execute(["hello"]).unwrap();
        }
    });
    compare("bulk insert", 10_000, &with, &without, |db| {
        db.execute_batch("BEGIN").unwrap();
        let mut insert = db.prepare_cached("INSERT INTO t (a) VALUES (?1)").unwrap();
        for _ in 0..10_000 {
            insert.execute(["hello"]).unwrap();
        }
        db.execute_batch("ROLLBACK").unwrap();
    });
    compare("bulk commit", 1, &with, &without, |db| {
        db.execute_batch("UPDATE t SET a = a WHERE id <= 5000").unwrap();
    });
    compare("point read", 3000, &with, &without, |db| {
        let mut read = db.prepare_cached("SELECT a FROM t WHERE id = ?1").unwrap();
        for i in 0..3000_i64 {
            read.query_row([i * 7919 % 50_000 + 1], |r| r.get_ref(0).map(|_| ())).unwrap();
        }
    });
    compare("full scan", 1, &with, &without, |db| {
        db.query_row("SELECT sum(length(a)) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
    });

    // The ring alone, nobody listening: from outside it cannot be told from the commit, so the bell's own code is timed.
    let rings = 2_000_000;
    let before = bell.rings();
    let each = harmonylite_vfs_core::bell::time_rings(&directory.path().join("with.db"), rings);
    assert_eq!(bell.rings() - before, rings);
    println!("ring, nobody listening: {each:.1} ns");

    // Ring to wake: the time that the ring noted, and the waiter's.
    let path = directory.path().join("with.db");
    let mut wakes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let db = open(&path, true);
            for i in 0..500_u64 {
                // Uneven pauses, so that the waiter sleeps.
                std::thread::sleep(Duration::from_micros(1500 + i * 37 % 1000));
                db.execute("INSERT INTO t (a) VALUES ('x')", []).unwrap();
            }
        });
        let mut seen = bell.rings();
        let mut commits = Vec::new();
        while bell.wait(seen, Duration::from_secs(1)) == Woken::Rung {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
            bell.recent(seen, &mut commits);
            seen = bell.rings();
            wakes.extend(commits.first().map(|c| now.saturating_sub(c.time_ns) as f64 / 1000.0));
        }
    });
    wakes.sort_by(f64::total_cmp);
    println!("ring to wake: p50 {:.1} us, p99 {:.1} us ({} wakes)", wakes[wakes.len() / 2], wakes[wakes.len() * 99 / 100], wakes.len());
}
