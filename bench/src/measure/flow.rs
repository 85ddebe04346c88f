//! Measures how many rows arrive per second, and what a row costs each process.

use super::{arrived, in_transactions, insert, insert_document, rate};
use crate::cluster::{Cluster, CpuUse};
use crate::report::{Floor, Report};
use crate::time::{check, now};
use crate::usage::own_cpu_ns;
use anyhow::Result;
use rusqlite::Connection;
use std::time::Duration;

/// The ids do not overlap with those of the other measurements.
const BULK_FROM: i64 = 1_000_000;
const SINGLE_FROM: i64 = 100_000_000;
const UUID_END: i64 = 50_000_000;

/// The CPU that was used before: by the processes and by this thread.
pub(super) struct Before(Option<(CpuUse, i64)>);

impl Before {
    pub(super) fn look(pair: &Cluster) -> Self {
        Self(pair.cpu().zip(own_cpu_ns()))
    }

    /// Adds the CPU of a row of each process. `application` is what this thread used to write, and
    /// `when` stands before the names.
    pub(super) fn add(
        self,
        pair: &Cluster,
        report: &mut Report,
        rows: i64,
        application: Option<i64>,
        when: &str,
    ) {
        let (Some((before, _)), Some(after), Some(app)) = (self.0, pair.cpu(), application) else {
            return;
        };
        let node = |at: usize| {
            let of = |cpu: &CpuUse| cpu.nodes.get(at).copied().unwrap_or(0);
            of(&after) - of(&before)
        };
        let parts = [
            ("application (this program)", app),
            ("origin's sidecar", node(0)),
            ("broker", after.broker - before.broker),
            ("peer's sidecar", node(1)),
        ];
        for (who, ns) in parts {
            let us = ns as f64 / 1e3 / rows as f64;
            report.add(&format!("{when}CPU a row: {who}"), us, "us", Floor::None);
        }
    }

    pub(super) fn application(&self) -> Option<i64> {
        Some(own_cpu_ns()? - self.0.as_ref()?.1)
    }
}

/// Writes 100,000 rows in transactions of 1,000.
pub(crate) fn bulk(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("bulk");
    let rows = if quick { 20_000 } else { 100_000 };
    let floor = Floor::AtLeast(20_000.0);
    many(pair, report, rows, ["bulk rows written", "bulk rows arrived"], floor, |app| {
        in_transactions(app, BULK_FROM..BULK_FROM + rows, insert)?;
        Ok(BULK_FROM + rows - 1)
    })
}

/// Does the same with UUID keys and an index.
pub(crate) fn uuid(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("UUID keys");
    let rows = if quick { 10_000 } else { 100_000 };
    many(pair, report, rows, ["UUID rows written", "UUID rows arrived"], Floor::None, |app| {
        in_transactions(app, 0..rows, insert_document)?;
        // A row that is looked for, after all others.
        insert(app, UUID_END)?;
        Ok(UUID_END)
    })
}

fn many(
    pair: &Cluster,
    report: &mut Report,
    rows: i64,
    names: [&str; 2],
    floor: Floor,
    write: impl Fn(&mut Connection) -> Result<i64>,
) -> Result<()> {
    let (mut app, peer) = (pair.open(0)?, pair.open(1)?);
    let before = Before::look(pair);
    let began = now();
    let last = write(&mut app)?;
    let (written, application) = (rate(rows, began), before.application());
    arrived(pair, &peer, last)?;
    report.add(names[0], written, "rows/s", Floor::None);
    report.add(names[1], rate(rows, began), "rows/s", floor);
    pair.settle()?;
    before.add(pair, report, rows, application, "");
    Ok(())
}

/// Commits single rows as fast as one connection can.
pub(crate) fn single(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("single commits");
    let time = Duration::from_millis(if quick { 1_000 } else { 5_000 });
    let (app, peer) = (pair.open(0)?, pair.open(1)?);
    let before = Before::look(pair);
    let (began, mut rows) = (now(), 0);
    while began.elapsed() < time {
        check()?;
        insert(&app, SINGLE_FROM + rows)?;
        rows += 1;
    }
    let (written, application) = (rate(rows, began), before.application());
    arrived(pair, &peer, SINGLE_FROM + rows - 1)?;
    report.add("single commits written", written, "commits/s", Floor::None);
    let arrived = rate(rows, began);
    report.add("single commits arrived", arrived, "commits/s", Floor::AtLeast(5_000.0));
    pair.settle()?;
    before.add(pair, report, rows, application, "");
    Ok(())
}
