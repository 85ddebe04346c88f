//! Runs a workload: without a sidecar, then on nodes, and reports both.

use super::drive::{Met, drive, prepare};
use super::format::Workload;
use crate::Parts;
use crate::broker::BrokerKind;
use crate::cluster::{Cluster, CpuUse, Plan, Unequal};
use crate::database::{open, sizes};
use crate::measure::latency;
use crate::report::{Floor, Report};
use crate::sample::Samples;
use crate::time::{now, since_s};
use crate::usage::memory_mb;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

const LOOK: &str = "SELECT count(*) FROM harmonylite_bench_probe WHERE id = ?1";

/// What a trial changes.
#[derive(Clone, Debug)]
pub(crate) struct Variation {
    pub(crate) settings: toml::Table,
    pub(crate) broker: BrokerKind,
    /// All connections through the VFS.
    pub(crate) vfs: bool,
}

/// What one run gave.
pub(crate) struct Results {
    pub(crate) met: Met,
    /// From a commit to a reader at another node, beside the mix.
    pub(crate) visible: Samples,
    /// From the last write until all nodes are equal.
    pub(crate) equal_s: f64,
    pub(crate) written_s: f64,
    cpu: Option<(CpuUse, CpuUse)>,
    memory_mb: Vec<Option<f64>>,
    wal_bytes: u64,
}

impl Results {
    /// The times of all transactions.
    pub(crate) fn transactions(&self) -> Samples {
        Samples::new(self.met.taken_ns.iter().flatten().copied().collect())
    }

    /// CPU of all sidecars; NaN where the system does not show it.
    pub(crate) fn sidecar_us_a_row(&self) -> f64 {
        self.cpu.as_ref().map_or(f64::NAN, |(before, after)| {
            let used = after.nodes.iter().sum::<i64>() - before.nodes.iter().sum::<i64>();
            used as f64 / 1e3 / self.met.rows.max(1) as f64
        })
    }
}

/// Measures a workload, first without a sidecar.
pub(crate) fn measure(
    parts: &Parts,
    workload: &Workload,
    report: &mut Report,
    quick: bool,
) -> Result<()> {
    let time = Duration::from_secs(if quick { workload.seconds.min(3) } else { workload.seconds });
    report.settings = toml::to_string(&workload.settings)?;
    report.group("your transactions at node 1 without a sidecar");
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let path = dir.path().join("alone.db");
    prepare(workload, &mut open(&path)?)?;
    let (alone, ()) = drive(workload, &[&path], (time / 2).max(Duration::from_secs(1)), || Ok(()))?;
    add_met(report, workload, &alone);
    report.group("your transactions beside sidecars");
    let plain = Variation { settings: toml::Table::new(), broker: BrokerKind::Plain, vfs: false };
    match trial(parts, workload, &plain, time) {
        Ok(results) => add(report, workload, &results),
        Err(error) if error.is::<Unequal>() => report.fail(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Runs a workload once on nodes of its own.
///
/// # Errors
/// [`Unequal`]: the nodes do not hold the same rows in the end.
pub(crate) fn trial(
    parts: &Parts,
    workload: &Workload,
    variation: &Variation,
    time: Duration,
) -> Result<Results> {
    let mut settings = workload.settings.clone();
    merge(&mut settings, &variation.settings);
    let mut varied = workload.clone();
    varied.writer.iter_mut().for_each(|writer| writer.vfs |= variation.vfs);
    let plan = Plan {
        nodes: workload.nodes,
        broker: variation.broker,
        prepare: &|db| prepare(workload, db),
        settings,
        patience: Duration::from_secs(workload.arrives_within),
    };
    let cluster = Cluster::start(parts, &plan)?;
    cluster.settle()?;
    let databases =
        (0..cluster.len()).map(|node| cluster.database(node)).collect::<Result<Vec<&Path>>>()?;
    let (before, began) = (cluster.cpu(), now());
    let (met, visible) = drive(&varied, &databases, time, || probe(&cluster, time))?;
    let written_s = since_s(began);
    let ended = now();
    let mut wal_bytes = 0;
    for (node, path) in databases.iter().enumerate() {
        wal_bytes = wal_bytes.max(sizes(&cluster.open(node)?, path)?.1);
    }
    cluster.settle()?;
    let memory = |node| cluster.pid(node).and_then(memory_mb).map(|(_, highest)| highest);
    Ok(Results {
        met,
        visible,
        equal_s: since_s(ended),
        written_s,
        cpu: before.zip(cluster.cpu()),
        memory_mb: (0..cluster.len()).map(memory).collect(),
        wal_bytes,
    })
}

/// Takes over all keys, those of sections one by one.
fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

/// Commits a row of its own at node 1 again and again, and looks for it at node 2.
fn probe(cluster: &Cluster, time: Duration) -> Result<Samples> {
    let (app, began) = (cluster.open(0)?, now());
    let insert = "INSERT INTO harmonylite_bench_probe VALUES (?1, 'looked for')";
    latency::series_while(cluster, LOOK, 1, &|_| began.elapsed() < time, |id| {
        app.prepare_cached(insert)?.execute([id])?;
        Ok(())
    })
}

fn add(report: &mut Report, workload: &Workload, results: &Results) {
    let met = &results.met;
    add_met(report, workload, met);
    report.add("rows changed", met.rows as f64 / results.written_s, "rows/s", Floor::None);
    report.add_times("commit to visible at node 2", &results.visible, [Floor::None; 2]);
    report.add("until all nodes are equal", results.equal_s, "s", Floor::None);
    let us = |ns: i64| ns as f64 / 1e3 / met.rows.max(1) as f64;
    if let Some((before, after)) = &results.cpu {
        report.add("CPU a row: the application", us(met.cpu_ns), "us", Floor::None);
        for (node, (before, after)) in before.nodes.iter().zip(&after.nodes).enumerate() {
            let name = format!("CPU a row: sidecar of node {}", node + 1);
            report.add(&name, us(after - before), "us", Floor::None);
        }
        report.add("CPU a row: broker", us(after.broker - before.broker), "us", Floor::None);
    }
    for (node, highest) in results.memory_mb.iter().enumerate() {
        if let Some(highest) = highest {
            let name = format!("memory of node {}'s sidecar at its highest", node + 1);
            report.add(&name, *highest, "MB", Floor::None);
        }
    }
    report.add("largest WAL", results.wal_bytes as f64 / 1e6, "MB", Floor::None);
}

fn add_met(report: &mut Report, workload: &Workload, met: &Met) {
    let seconds: f64 = met.taken_ns.iter().flatten().map(|ns| *ns as f64 / 1e9).sum();
    for (kind, taken) in workload.transaction.iter().zip(&met.taken_ns) {
        if !taken.is_empty() {
            let name = format!("\"{}\"", kind.name);
            report.add_times(&name, &Samples::new(taken.clone()), [Floor::None; 2]);
        }
    }
    report.add("transactions", met.done() as f64, "", Floor::None);
    report.add("time in one", seconds * 1e3 / met.done().max(1) as f64, "ms", Floor::None);
    let of = |failed: u64| failed as f64 * 10_000.0 / met.tried().max(1) as f64;
    for (name, failed) in [
        ("failed: the database was locked", met.busy),
        ("failed: a stale snapshot", met.stale),
        ("refused by the schema", met.refused),
    ] {
        report.add(name, of(failed), "of 10,000", Floor::None);
    }
}
