//! Measures how long an application waits for the write lock while a large transaction of another
//! node is applied, in one piece.

use crate::flow::{arrived, insert};
use crate::pair::{Pair, pause};
use crate::report::{Floor, Report};
use anyhow::{Context, Result};
use harmonylite::clock;
use rusqlite::Connection;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The ids do not overlap with those of the other measurements.
const HOLD_FROM: i64 = 5_000_000_000;
const BESIDE_FROM: i64 = 6_000_000_000;

/// Writes 100,000 rows in one transaction, while an application at the peer commits a row every few
/// milliseconds.
pub(crate) fn measure(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let rows = if quick { 20_000 } else { 100_000 };
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
    pair.settle()
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
        let began = clock::unix_ns();
        insert(db, id)?;
        worst_ns = worst_ns.max(clock::unix_ns() - began);
        pause(Duration::from_millis(5));
    }
    Ok(worst_ns)
}
