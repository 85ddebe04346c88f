//! The application writes while a thousand tables are installed.
//!
//! Goal: no write of the application waits long, whatever the number of tables, and every table is
//! replicated in the end. The story: 2,000 tables locked an application out for 18 s.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, converge, eventually, number, open};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TABLES: usize = 1_000;
/// A step takes some 50 ms. Test machines are busy, and the application itself reads a schema of
/// 8,000 objects after each step. Without steps the lock was held for 13 s.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn schema() -> String {
    let mut schema = "CREATE TABLE w (id TEXT PRIMARY KEY);".to_owned();
    for i in 1..TABLES {
        write!(schema, "CREATE TABLE t{i} (id TEXT PRIMARY KEY, v);").unwrap();
    }
    format!("BEGIN; {schema} COMMIT")
}

#[test]
fn the_application_writes_while_a_thousand_tables_are_installed() {
    let mut cluster = Cluster::new(2, &schema());
    let db = cluster.nodes[0].app();
    let path = cluster.nodes[0].db.clone();
    let stop = AtomicBool::new(false);
    let (longest, writes, took) = std::thread::scope(|scope| {
        let application = scope.spawn(|| {
            let db = open(&path);
            let (mut longest, mut writes) = (Duration::ZERO, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                number(&db, "SELECT count(*) FROM w WHERE id = ''");
                let start = Instant::now();
                db.execute("INSERT INTO w VALUES (?1)", [writes]).unwrap();
                longest = longest.max(start.elapsed());
                writes += 1;
                std::thread::yield_now();
            }
            (longest, writes)
        });
        let start = Instant::now();
        cluster.nodes[0].start();
        cluster.nodes[0].ready();
        let took = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let (longest, writes) = application.join().unwrap();
        (longest, writes, took)
    });
    // On a busy machine each step takes longer; in one step a write would wait nearly all the time.
    let most = WAIT_MAX.max(took * 3 / 4);
    assert!(longest < most, "a write waited {longest:?} of {took:?}");
    assert!(writes > 20, "{writes} writes");
    let installed = "SELECT count(*) FROM __harmonylite__table WHERE hash IS NOT NULL";
    assert_eq!(number(&db, installed), TABLES as i64);

    cluster.nodes[1].start();
    cluster.nodes[1].ready();
    db.execute_batch("INSERT INTO t1 VALUES ('a', 1); INSERT INTO t999 VALUES ('b', 2)").unwrap();
    db.execute_batch("CREATE TABLE later (id TEXT PRIMARY KEY)").unwrap();
    eventually("the new table is followed", || number(&db, installed) == TABLES as i64 + 1);
    let two = cluster.nodes[1].app();
    two.execute_batch("CREATE TABLE later (id TEXT PRIMARY KEY)").unwrap();
    db.execute_batch("INSERT INTO later VALUES ('c')").unwrap();
    converge(&[&cluster.nodes[0], &cluster.nodes[1]]);
    assert_eq!(number(&two, "SELECT count(*) FROM later"), 1);
}
