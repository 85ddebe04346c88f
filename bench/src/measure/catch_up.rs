//! Measures how fast a node catches up that was stopped while others wrote.

use super::{arrived, in_transactions, insert, rate};
use crate::cluster::Cluster;
use crate::report::{Floor, Report};
use crate::time::{now, since_s};
use anyhow::Result;

/// The ids do not overlap with those of the other measurements.
const FROM: i64 = 400_000_000;

pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("after an outage");
    let rows = if quick { 20_000 } else { 200_000 };
    pair.stop(1)?;
    in_transactions(&mut pair.open(0)?, FROM..FROM + rows, insert)?;
    let (began, peer) = (now(), pair.open(1)?);
    pair.resume(1)?;
    pair.wait("the first row", || {
        Ok(crate::database::count(&peer, "SELECT count(*) FROM item WHERE id = ?1", FROM)? == 1)
    })?;
    report.add("start to the first row", since_s(began) * 1e3, "ms", Floor::None);
    let first = now();
    arrived(pair, &peer, FROM + rows - 1)?;
    report.add("caught up, start included", rate(rows, began), "rows/s", Floor::None);
    let floor = Floor::AtLeast(120_000.0);
    report.add("caught up, from the first row", rate(rows, first), "rows/s", floor);
    pair.settle()
}
