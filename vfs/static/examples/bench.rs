//! What the VFS costs, in one run: every workload with and without it in turn, so that the
//! machine's moods hit both.
//!
//! `cargo run --release -p harmonylite-vfs --example bench`

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a bench may, and reads the clock

use harmonylite_vfs::bell::{Bell, Woken};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 400;

fn open(path: &Path, vfs: &str) -> Connection {
    let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA \
        wal_autocheckpoint = 0; PRAGMA cache_size = 100",
    )
    .unwrap();
    db
}

fn time(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

/// What the machine does besides only ever adds: so not the mean.
fn low(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 20]
}

/// Both connections are on the same file: only the way to it differs.
fn compare(
    what: &str,
    per_round: u32,
    [with, without, other]: &[Connection; 3],
    body: impl Fn(&Connection),
) {
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
        // By a third one: its own cache stays warm, which would favour one of the two.
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let [a, b] = [a, b].map(|mut values| low(&mut values) / f64::from(per_round) * 1e6);
    println!("{what:<12} {a:>10.3} us with, {b:>10.3} us without: {:.3}", a / b);
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    harmonylite_vfs::register().unwrap();
    // A bell with nobody listening.
    let bell = Bell::open_or_create(&path).unwrap();
    let connections = ["harmonylite", "unix", "unix"].map(|vfs| open(&path, vfs));
    connections[1]
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) \
             INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;
             PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
    compare("autocommit", 25, &connections, |db| {
        let mut insert = db.prepare_cached("INSERT INTO t (a) VALUES (?1)").unwrap();
        for _ in 0..25 {
            insert.execute(["hello"]).unwrap();
        }
    });
    compare("bulk insert", 1000, &connections, |db| {
        db.execute_batch("BEGIN").unwrap();
        let mut insert = db.prepare_cached("INSERT INTO t (a) VALUES (?1)").unwrap();
        for _ in 0..1000 {
            insert.execute(["hello"]).unwrap();
        }
        db.execute_batch("ROLLBACK").unwrap();
    });
    compare("bulk commit", 1, &connections, |db| {
        db.execute_batch("UPDATE t SET a = a WHERE id <= 1000").unwrap();
    });
    compare("point read", 250, &connections, |db| {
        let mut read = db.prepare_cached("SELECT a FROM t WHERE id = ?1").unwrap();
        for i in 0..250_i64 {
            read.query_row([i * 7919 % 50_000 + 1], |r| r.get_ref(0).map(|_| ())).unwrap();
        }
    });
    compare("full scan", 1, &connections, |db| {
        db.query_row("SELECT sum(length(a)) FROM t WHERE id <= 5000", [], |r| r.get::<_, i64>(0))
            .unwrap();
    });

    let (before, mut each) = (bell.rings(), Vec::new());
    for _ in 0..1000 {
        each.push(harmonylite_vfs_core::bell::time_rings(&path, 1000));
    }
    assert_eq!(bell.rings() - before, 1_000_000);
    println!("ring, nobody listening: {:.1} ns", low(&mut each));

    // Ring to wake: the time that the ring noted, and the waiter's.
    let mut wakes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let db = open(&path, "harmonylite");
            for i in 0..500_u64 {
                // Uneven pauses, so that the waiter sleeps.
                std::thread::sleep(Duration::from_micros(1500 + i * 37 % 1000));
                db.execute("INSERT INTO t (a) VALUES ('x')", []).unwrap();
            }
        });
        let mut seen = bell.rings();
        let mut commits = Vec::new();
        while bell.wait(seen, Duration::from_secs(1)) == Woken::Rung {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64;
            bell.recent(seen, &mut commits);
            seen = bell.rings();
            wakes.extend(commits.first().map(|c| now.saturating_sub(c.time_ns) as f64 / 1000.0));
        }
    });
    wakes.sort_by(f64::total_cmp);
    println!(
        "ring to wake: p50 {:.1} us, p99 {:.1} us ({} wakes)",
        wakes[wakes.len() / 2],
        wakes[wakes.len() * 99 / 100],
        wakes.len()
    );
}
