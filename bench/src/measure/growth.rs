//! Measures how much larger database and WAL are than without a sidecar, with the same rows.

use super::{in_transactions, insert_document, insert_longer};
use crate::Parts;
use crate::cluster::{Cluster, Plan};
use crate::database::{open, sizes};
use crate::report::{Floor, Report};
use anyhow::Result;
use rusqlite::Connection;
use std::path::Path;

/// Fewer would measure our own tables, which take some 100 kB.
const ROWS: i64 = 100_000;

type Insert = fn(&Connection, i64) -> Result<()>;

pub(crate) fn measure(parts: &Parts, report: &mut Report, quick: bool) -> Result<()> {
    report.group("size");
    if !quick {
        joined(parts, report, "integer keys", 15.0, insert_longer)?;
        joined(parts, report, "UUID keys", 25.0, insert_document)?;
    }
    written(&Cluster::start(parts, &Plan::default())?, report, if quick { 10_000 } else { ROWS })
}

/// The rows were there before the nodes started.
fn joined(
    parts: &Parts,
    report: &mut Report,
    what: &str,
    floor: f64,
    insert: Insert,
) -> Result<()> {
    let prepare = |db: &mut Connection| {
        db.execute_batch(super::SCHEMA)?;
        in_transactions(db, 0..ROWS, insert)
    };
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let path = dir.path().join("without.db");
    let mut plain = open(&path)?;
    prepare(&mut plain)?;
    let pair = Cluster::start(parts, &Plan { prepare: &prepare, ..Plan::default() })?;
    pair.settle()?;
    let more = more(&plain, &path, &pair)? * 100.0;
    report.add(&format!("joined, {what}: database larger by"), more, "%", Floor::AtMost(floor));
    Ok(())
}

/// The rows are written while the nodes run.
fn written(pair: &Cluster, report: &mut Report, rows: i64) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let path = dir.path().join("without.db");
    let (mut plain, mut app) = (open(&path)?, pair.open(0)?);
    plain.execute_batch(super::SCHEMA)?;
    let mut compare =
        |report: &mut Report, what: &str, write: &dyn Fn(&mut Connection) -> Result<()>| {
            write(&mut plain)?;
            write(&mut app)?;
            pair.settle()?;
            let more = more(&plain, &path, pair)? * 100.0;
            report.add(&format!("{what}: database larger by"), more, "%", Floor::None);
            anyhow::Ok(())
        };
    compare(report, "integer keys inserted", &|db| in_transactions(db, 0..rows, insert_longer))?;
    compare(report, "UUID keys too", &|db| in_transactions(db, 0..rows, insert_document))?;
    compare(report, "all updated", &|db| {
        let tx = db.transaction()?;
        tx.execute_batch("UPDATE item SET price = price + 1; UPDATE document SET owner = 1")?;
        Ok(tx.commit()?)
    })?;
    for (who, node) in [("origin", 0), ("peer", 1)] {
        let wal = sizes(&pair.open(node)?, pair.database(node)?)?.1;
        report.add(&format!("WAL of the {who}"), wal as f64 / 1e6, "MB", Floor::None);
    }
    Ok(())
}

/// Returns by which fraction the database of the first node is larger.
fn more(plain: &Connection, path: &Path, pair: &Cluster) -> Result<f64> {
    let without = sizes(plain, path)?.0;
    let with = sizes(&pair.open(0)?, pair.database(0)?)?.0;
    Ok(with as f64 / without as f64 - 1.0)
}
