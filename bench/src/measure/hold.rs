//! Measures how long an application waits for the write lock while a large transaction of another
//! node is applied, in one piece, and the memory that it takes.

use super::{arrived, insert};
use crate::cluster::Cluster;
use crate::report::{Floor, Report};
use crate::time::{now, pause, since_ns};
use crate::usage::{memory_mb, reset_highest};
use anyhow::{Context, Result};
use rusqlite::Connection;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The ids do not overlap with those of the other measurements.
const HOLD_FROM: i64 = 5_000_000_000;
const BESIDE_FROM: i64 = 6_000_000_000;

/// Writes 100,000 rows in one transaction, while an application at the peer commits a row every few
/// milliseconds.
pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("one large transaction");
    let rows = if quick { 20_000 } else { 100_000 };
    let pids = [pair.pid(0), pair.pid(1)];
    pids.into_iter().flatten().for_each(reset_highest);
    let (mut app, peer, beside) = (pair.open(0)?, pair.open(1)?, pair.open(1)?);
    let stop = AtomicBool::new(false);
    let worst_ns = std::thread::scope(|scope| -> Result<i64> {
        let stopped = &stop;
        let writer = scope.spawn(move || commit_until(&beside, stopped));
        let sent = send(&mut app, rows).and_then(|()| arrived(pair, &peer, HOLD_FROM + rows - 1));
        stop.store(true, Ordering::Relaxed);
        let worst_ns = writer.join().ok().context("the application at the peer panicked")??;
        sent.map(|()| worst_ns)
    })?;
    report.add(
        &format!("longest wait at the peer, {rows} rows"),
        worst_ns as f64 / 1e6,
        "ms",
        Floor::None,
    );
    pair.settle()?;
    for (who, pid) in ["origin's", "peer's"].into_iter().zip(pids) {
        if let Some((_, highest)) = pid.and_then(memory_mb) {
            let name = format!("memory of the {who} sidecar at its highest");
            report.add(&name, highest, "MB", Floor::None);
        }
    }
    Ok(())
}

fn send(app: &mut Connection, rows: i64) -> Result<()> {
    let tx = app.transaction()?;
    (0..rows).try_for_each(|i| insert(&tx, HOLD_FROM + i))?;
    Ok(tx.commit()?)
}

fn commit_until(db: &Connection, stop: &AtomicBool) -> Result<i64> {
    let mut worst_ns = 0;
    for id in BESIDE_FROM.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = now();
        insert(db, id)?;
        worst_ns = worst_ns.max(since_ns(began));
        pause(Duration::from_millis(5))?;
    }
    Ok(worst_ns)
}
