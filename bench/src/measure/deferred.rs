//! Counts deferred transactions of an application that fail because somebody else has written
//! between their SELECT and their INSERT. No busy timeout helps against that.
//!
//! One connection runs `BEGIN; SELECT; 1-30 ms; INSERT; COMMIT`, with a pause of 0-5 ms after each
//! transaction: without a sidecar, beside a sidecar whose peer is idle, and while the peer commits
//! 20 times a second.

use crate::Parts;
use crate::cluster::{Cluster, Plan};
use crate::database::open;
use crate::random::Random;
use crate::report::{Floor, Report};
use crate::time::pause;
use anyhow::{Result, anyhow};
use rusqlite::{Connection, ErrorCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The pause of the peer between two commits.
const PEER_PAUSE: Duration = Duration::from_millis(50);
const INSERT: &str = "INSERT INTO item VALUES (NULL, 'deferred', 1, NULL)";

pub(crate) fn measure(parts: &Parts, report: &mut Report, count: u64) -> Result<()> {
    report.group("deferred transactions");
    let dir = tempfile::tempdir()?;
    let alone = open(&dir.path().join("alone.db"))?;
    alone.execute_batch(super::SCHEMA)?;
    let few = count.min(500);
    add(report, "without a sidecar", failures(&alone, few)?, few, Floor::AtMost(0.0));
    let pair = Cluster::start(parts, &Plan::default())?;
    let app = pair.open(0)?;
    add(report, "with an idle peer", failures(&app, count)?, count, Floor::AtMost(0.0));
    let (stop, peer) = (AtomicBool::new(false), pair.open(1)?);
    let failed = std::thread::scope(|scope| {
        let stopped = &stop;
        let peer = scope.spawn(move || write(&peer, stopped));
        let failed = failures(&app, count);
        stop.store(true, Ordering::Relaxed);
        peer.join().map_err(|_| anyhow!("the peer's thread panicked"))??;
        failed
    })?;
    add(report, "while the peer writes", failed, count, Floor::AtMost(10.0));
    Ok(())
}

fn add(report: &mut Report, what: &str, failed: u64, count: u64, floor: Floor) {
    let name = format!("deferred transactions that fail, {what}");
    report.add(&name, failed as f64 * 10_000.0 / count.max(1) as f64, "of 10,000", floor);
}

/// Returns how many of `count` deferred transactions fail.
fn failures(db: &Connection, count: u64) -> Result<u64> {
    let mut random = Random::new(1);
    let mut up_to = |most_us: u64| Duration::from_micros(random.below(most_us));
    let mut failed = 0;
    for _ in 0..count {
        let result = transaction(db, Duration::from_millis(1) + up_to(29_000));
        match result {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                failed += 1;
                db.execute_batch("ROLLBACK")?;
            }
            result => result?,
        }
        pause(up_to(5_000))?;
    }
    Ok(failed)
}

fn transaction(db: &Connection, think: Duration) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN")?;
    db.prepare_cached("SELECT max(id) FROM item")?.query_row([], |r| r.get::<_, Option<i64>>(0))?;
    std::thread::park_timeout(think);
    db.prepare_cached(INSERT)?.execute([])?;
    db.execute_batch("COMMIT")
}

/// Commits at the peer until `stop`.
fn write(peer: &Connection, stop: &AtomicBool) -> Result<()> {
    let mut id = -1_000;
    while !stop.load(Ordering::Relaxed) {
        peer.execute("INSERT INTO item VALUES (?1, 'peer', 2, NULL)", [id])?;
        id -= 1;
        pause(PEER_PAUSE)?;
    }
    Ok(())
}
