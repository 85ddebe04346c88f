//! Measures how many rows arrive per second, and what a row costs each process.

use super::{arrived, in_transactions, insert, insert_document, rate};
use crate::cluster::{Cluster, CpuUse};
use crate::database::open;
use crate::report::{Floor, Report};
use crate::sample::median;
use crate::time::{check, now};
use crate::usage::own_cpu_ns;
use anyhow::Result;
use rusqlite::Connection;
use std::time::Duration;

/// The ids do not overlap with those of the other measurements.
const BULK_FROM: i64 = 1_000_000;
const SINGLE_FROM: i64 = 100_000_000;
const UUID_END: i64 = 50_000_000;
/// What a single commit may cost the origin's sidecar: so much CPU, us, or this share of the
/// application's own.
const SINGLE_US: f64 = 24.0;
const SINGLE_SHARE: f64 = 0.7;

/// The CPU that was used before: by the processes and by this thread.
pub(super) struct Before(Option<(CpuUse, i64)>);

impl Before {
    pub(super) fn look(pair: &Cluster) -> Self {
        Self(pair.cpu().zip(own_cpu_ns()))
    }

    /// Returns the CPU of a row of each process. `application` is what this thread used to write.
    pub(super) fn costs(
        self,
        pair: &Cluster,
        rows: i64,
        application: Option<i64>,
    ) -> Option<Costs> {
        let ((before, _), after) = (self.0?, pair.cpu()?);
        let us = |ns: i64| ns as f64 / 1e3 / rows as f64;
        let node = |at: usize| {
            let of = |cpu: &CpuUse| cpu.nodes.get(at).copied().unwrap_or(0);
            us(of(&after) - of(&before))
        };
        Some(Costs {
            application: us(application?),
            origin: node(0),
            broker: us(after.broker - before.broker),
            peer: node(1),
        })
    }

    pub(super) fn application(&self) -> Option<i64> {
        Some(own_cpu_ns()? - self.0.as_ref()?.1)
    }
}

/// The CPU of a row of each process, us.
pub(super) struct Costs {
    pub(super) application: f64,
    pub(super) origin: f64,
    pub(super) broker: f64,
    pub(super) peer: f64,
}

impl Costs {
    /// Adds them; `when` stands before the names. The floors are those of the origin's sidecar and
    /// the peer's.
    pub(super) fn add(&self, report: &mut Report, when: &str, floors: [Floor; 2]) {
        let [origin, peer] = floors;
        for (who, us, floor) in [
            ("application (this program)", self.application, Floor::None),
            ("origin's sidecar", self.origin, origin),
            ("broker", self.broker, Floor::None),
            ("peer's sidecar", self.peer, peer),
        ] {
            report.add(&format!("{when}CPU a row: {who}"), us, "us", floor);
        }
    }
}

/// Returns the CPU that the same writes take without us, in us a row.
fn alone(rows: i64, write: impl Fn(&mut Connection) -> Result<i64>) -> Result<Option<f64>> {
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let mut db = open(&dir.path().join("without.db"))?;
    db.execute_batch(super::SCHEMA)?;
    let before = own_cpu_ns();
    write(&mut db)?;
    let used = own_cpu_ns().zip(before).map(|(after, before)| after - before);
    Ok(used.map(|ns| ns as f64 / 1e3 / rows as f64))
}

/// Writes 100,000 rows in transactions of 1,000, several times. Reports the medians: one takes half
/// a second, in which other work of the machine counts.
pub(crate) fn bulk(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("bulk");
    let (rows, times) = if quick { (20_000, 1) } else { (100_000, 5) };
    let mut runs = Vec::new();
    for from in (0..times).map(|run| BULK_FROM + run * rows) {
        runs.push(Run::of(pair, rows, |app| {
            in_transactions(app, from..from + rows, insert)?;
            Ok(from + rows - 1)
        })?);
    }
    let floors = Some(BulkFloors { arrived: 120_000.0, origin: 4.0, peer: 2.0 });
    Run::middle(&runs).add(report, ["bulk rows written", "bulk rows arrived"], floors);
    Ok(())
}

/// Does the same with UUID keys and an index, once.
pub(crate) fn uuid(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("UUID keys");
    let rows = if quick { 10_000 } else { 100_000 };
    let run = Run::of(pair, rows, |app| {
        in_transactions(app, 0..rows, insert_document)?;
        // A row that is looked for, after all others.
        insert(app, UUID_END)?;
        Ok(UUID_END)
    })?;
    run.add(report, ["UUID rows written", "UUID rows arrived"], None);
    Ok(())
}

/// Floors of rows in bulk: how many arrive a second, and the CPU of a row as multiple of SQLite
/// alone.
struct BulkFloors {
    arrived: f64,
    origin: f64,
    peer: f64,
}

/// What many rows took: rows a second, and the CPU of a row without us and with us.
struct Run {
    written: f64,
    arrived: f64,
    cpu: Option<(f64, Costs)>,
}

impl Run {
    fn of(
        pair: &Cluster,
        rows: i64,
        write: impl Fn(&mut Connection) -> Result<i64>,
    ) -> Result<Self> {
        let alone = alone(rows, &write)?;
        let (mut app, peer) = (pair.open(0)?, pair.open(1)?);
        let before = Before::look(pair);
        let began = now();
        let last = write(&mut app)?;
        let (written, application) = (rate(rows, began), before.application());
        arrived(pair, &peer, last)?;
        let arrived = rate(rows, began);
        pair.settle()?;
        let cpu = alone.zip(before.costs(pair, rows, application));
        Ok(Self { written, arrived, cpu })
    }

    /// The median of each figure.
    fn middle(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        let cpus: Vec<_> = runs.iter().filter_map(|run| run.cpu.as_ref()).collect();
        let cpu = |figure: fn(&Costs) -> f64| median(cpus.iter().map(|c| figure(&c.1)).collect());
        let costs = || Costs {
            application: cpu(|c| c.application),
            origin: cpu(|c| c.origin),
            broker: cpu(|c| c.broker),
            peer: cpu(|c| c.peer),
        };
        Self {
            written: of(|run| run.written),
            arrived: of(|run| run.arrived),
            cpu: (!cpus.is_empty()).then(|| (median(cpus.iter().map(|c| c.0).collect()), costs())),
        }
    }

    fn add(&self, report: &mut Report, names: [&str; 2], floors: Option<BulkFloors>) {
        report.add(names[0], self.written, "rows/s", Floor::None);
        let floor = floors.as_ref().map_or(Floor::None, |floors| Floor::AtLeast(floors.arrived));
        report.add(names[1], self.arrived, "rows/s", floor);
        if let Some((alone, costs)) = &self.cpu {
            report.add("CPU a row: SQLite alone", *alone, "us", Floor::None);
            let most = |times: f64| Floor::AtMost(times * alone);
            let floors = floors.map_or([Floor::None; 2], |f| [most(f.origin), most(f.peer)]);
            costs.add(report, "", floors);
        }
    }
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
    if let Some(costs) = before.costs(pair, rows, application) {
        let most = SINGLE_US.max(SINGLE_SHARE * costs.application);
        costs.add(report, "", [Floor::AtMost(most), Floor::None]);
    }
    Ok(())
}
