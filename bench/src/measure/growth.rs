//! Measures how much larger database and WAL are than without a sidecar, after the same writes.

use super::{in_transactions, insert, insert_document};
use crate::cluster::Cluster;
use crate::database::{open, sizes};
use crate::report::{Floor, Report};
use anyhow::Result;
use rusqlite::Connection;

pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("size");
    let rows = if quick { 10_000 } else { 100_000 };
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let path = dir.path().join("without.db");
    let (mut plain, mut app) = (open(&path)?, pair.open(0)?);
    plain.execute_batch(super::SCHEMA)?;
    let empty = [sizes(&plain, &path)?.0, sizes(&app, pair.database(0)?)?.0];
    let mut compare =
        |report: &mut Report, what: &str, write: &dyn Fn(&mut Connection) -> Result<()>| {
            write(&mut plain)?;
            write(&mut app)?;
            pair.settle()?;
            let without = sizes(&plain, &path)?.0 - empty[0];
            let with = sizes(&app, pair.database(0)?)?.0 - empty[1];
            let more = (with as f64 / without as f64 - 1.0) * 100.0;
            report.add(&format!("database larger by, {what}"), more, "%", Floor::None);
            anyhow::Ok(())
        };
    compare(report, "integer keys inserted", &|db| in_transactions(db, 0..rows, insert))?;
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
