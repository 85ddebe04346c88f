//! Measures how many rows arrive per second.

use crate::pair::{Pair, count};
use crate::report::{Floor, Report};
use anyhow::Result;
use harmonylite::clock;
use rusqlite::{Connection, params};

const INSERT: &str = "INSERT INTO item VALUES (?1, ?2, ?3, ?4)";
const BULK_TX_ROWS: i64 = 1_000;
/// The ids do not overlap with those of the other measurements.
const BULK_FROM: i64 = 1_000_000;
const SINGLE_FROM: i64 = 100_000_000;

/// Writes 100,000 rows in transactions of 1,000.
pub(crate) fn bulk(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let rows = if quick { 20_000 } else { 100_000 };
    let (mut app, peer) = (pair.open(0)?, pair.open(1)?);
    let began = clock::unix_ns();
    for start in (0..rows).step_by(BULK_TX_ROWS as usize) {
        let tx = app.transaction()?;
        (start..start + BULK_TX_ROWS).try_for_each(|i| insert(&tx, BULK_FROM + i))?;
        tx.commit()?;
    }
    let written = clock::unix_ns();
    arrived(pair, &peer, BULK_FROM + rows - 1)?;
    report.add("bulk rows written", rate(rows, began, written), "rows/s", Floor::None);
    report.add(
        "bulk rows arrived",
        rate(rows, began, clock::unix_ns()),
        "rows/s",
        Floor::AtLeast(20_000.0),
    );
    pair.settle()
}

/// Commits single rows as fast as one connection can.
pub(crate) fn single(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let ms = if quick { 1_000 } else { 5_000 };
    let (app, peer) = (pair.open(0)?, pair.open(1)?);
    let (began, ends) = (clock::unix_ns(), clock::mono_ms() + ms);
    let mut rows = 0;
    while clock::mono_ms() < ends {
        insert(&app, SINGLE_FROM + rows)?;
        rows += 1;
    }
    let written = clock::unix_ns();
    arrived(pair, &peer, SINGLE_FROM + rows - 1)?;
    report.add("single commits written", rate(rows, began, written), "commits/s", Floor::None);
    report.add(
        "single commits arrived",
        rate(rows, began, clock::unix_ns()),
        "commits/s",
        Floor::AtLeast(5_000.0),
    );
    pair.settle()
}

pub(crate) fn insert(db: &Connection, id: i64) -> Result<()> {
    let values = params![
        id,
        format!("item number {id}"),
        id as f64 / 7.0,
        "a few words about it, as there often are"
    ];
    db.prepare_cached(INSERT)?.execute(values)?;
    Ok(())
}

/// Waits for the last row. Batches arrive in order, so all rows are there then.
pub(crate) fn arrived(pair: &Pair, peer: &Connection, last: i64) -> Result<()> {
    pair.wait("the last row", || {
        Ok(count(peer, "SELECT count(*) FROM item WHERE id = ?1", last)? == 1)
    })
}

fn rate(rows: i64, from_ns: i64, to_ns: i64) -> f64 {
    rows as f64 * 1e9 / (to_ns - from_ns).max(1) as f64
}
