//! Measures the cost of capture for the application: the same writes with the triggers and without,
//! in turns, in one run.
//!
//! A sidecar has prepared the database and runs no more, so nothing else is measured.

use super::insert_longer;
use crate::Parts;
use crate::cluster::{Cluster, Plan};
use crate::database::open;
use crate::report::{Floor, Report};
use crate::sample::median;
use crate::time::{check, now, since_ns};
use anyhow::{Context, Result};
use rusqlite::Connection;
use std::path::Path;

/// Each kind of write, and its floor.
const NAMES: [(&str, f64); 4] = [
    ("cost of autocommit insert", 1.45),
    ("cost of bulk insert", 1.5),
    ("cost of bulk update", 2.0),
    ("cost of bulk delete", 2.2),
];

pub(crate) fn measure(parts: &Parts, report: &mut Report, quick: bool) -> Result<()> {
    report.group("cost to the application");
    let (rounds, commits, rows) = if quick { (3, 500, 10_000) } else { (9, 2_000, 50_000) };
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let prepared = dir.path().join("prepared.db");
    captured(parts, &prepared)?;
    let (mut ratios, mut extra_us): ([Vec<f64>; 4], [Vec<f64>; 4]) = Default::default();
    for round in 0..rounds {
        let without = dir.path().join(format!("without-{round}.db"));
        let with = dir.path().join(format!("with-{round}.db"));
        open(&without)?.execute_batch(super::SCHEMA)?;
        std::fs::copy(&prepared, &with)?;
        // Measure in turns, so that a busy neighbour affects both. Each one is first every other
        // time.
        let (plain, logged) = if round % 2 == 0 {
            let plain = writes(&without, commits, rows)?;
            (plain, writes(&with, commits, rows)?)
        } else {
            let logged = writes(&with, commits, rows)?;
            (writes(&without, commits, rows)?, logged)
        };
        let writes = [commits, rows, rows, rows];
        for ((((ratios, extra), plain), logged), count) in
            ratios.iter_mut().zip(&mut extra_us).zip(plain).zip(logged).zip(writes)
        {
            ratios.push(logged as f64 / plain.max(1) as f64);
            extra.push((logged - plain) as f64 / 1e3 / count as f64);
        }
    }
    for (((name, most), ratios), extra) in NAMES.into_iter().zip(ratios).zip(extra_us) {
        report.add(name, median(ratios), "times", Floor::AtMost(most));
        report.add(&name.replace("cost of", "  more for one"), median(extra), "us", Floor::None);
    }
    Ok(())
}

/// Lets a sidecar add its tables and triggers to a database, and copies that when it has ended.
fn captured(parts: &Parts, to: &Path) -> Result<()> {
    let cluster = Cluster::start(parts, &Plan::default())?;
    cluster.stop(0)?;
    let db = cluster.open(0)?;
    let triggers =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'item'";
    let triggers = db.query_row(triggers, [], |r| r.get::<_, i64>(0))?;
    anyhow::ensure!(triggers >= 3, "the sidecar has made {triggers} triggers, not one a kind");
    let name = to.to_str().context("the path is not UTF-8")?;
    db.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}

/// Returns the nanoseconds of each kind of write.
fn writes(path: &Path, commits: i64, rows: i64) -> Result<[i64; 4]> {
    let mut db = open(path)?;
    let autocommit = timed(|| (0..commits).try_for_each(|id| insert_longer(&db, id)))?;
    let ids = 1_000_000..1_000_000 + rows;
    let inserts = bulk(&mut db, |tx| ids.clone().try_for_each(|id| insert_longer(tx, id)))?;
    let updates = bulk(&mut db, |tx| {
        Ok(tx.execute_batch(
            "UPDATE item SET price = price + 1, note = 'changed' WHERE id >= 1000000",
        )?)
    })?;
    let deletes =
        bulk(&mut db, |tx| Ok(tx.execute_batch("DELETE FROM item WHERE id >= 1000000")?))?;
    Ok([autocommit, inserts, updates, deletes])
}

fn bulk(db: &mut Connection, work: impl FnOnce(&Connection) -> Result<()>) -> Result<i64> {
    // The WAL of the previous write must not count for this one.
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    timed(|| {
        let tx = db.transaction()?;
        work(&tx)?;
        Ok(tx.commit()?)
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<i64> {
    check()?;
    let began = now();
    work()?;
    Ok(since_ns(began))
}
