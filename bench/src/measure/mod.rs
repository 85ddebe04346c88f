//! The measurements, in the order in which they run.

mod bare;
mod beside;
mod catch_up;
mod conflicts;
mod cost;
mod deferred;
mod flow;
mod growth;
mod hold;
mod idle;
pub(crate) mod latency;
mod series;
mod snapshots;

pub(crate) use beside::failed;

use crate::Parts;
use crate::broker::BrokerKind;
use crate::cluster::{Cluster, Plan};
use crate::options::{Measurement, Options};
use crate::random;
use crate::report::Report;
use anyhow::Result;
use rusqlite::{Connection, params};
use std::time::Instant;

/// The tables of the measurements: integer keys, and UUID keys with an index.
pub(crate) const SCHEMA: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL, note TEXT);
CREATE TABLE document (id TEXT PRIMARY KEY, owner INTEGER NOT NULL, body TEXT);
CREATE INDEX document_owner ON document (owner);";
/// Rows of a transaction of the bulk measurements.
const PER_TRANSACTION: i64 = 1_000;
const ON_THE_PAIR: [Measurement; 8] = [
    Measurement::Bulk,
    Measurement::Uuid,
    Measurement::Single,
    Measurement::Latency,
    Measurement::Idle,
    Measurement::Beside,
    Measurement::CatchUp,
    Measurement::Hold,
];

/// Returns how many steps the progress shows.
pub(crate) fn steps(options: &Options) -> usize {
    let others = [Measurement::Cost, Measurement::Conflicts, Measurement::Growth];
    let all = ON_THE_PAIR.into_iter().chain(others).chain(Measurement::BY_NAME);
    let synced = usize::from(options.wants(Measurement::Latency));
    all.filter(|part| options.wants(*part)).count() + synced
}

/// Runs all that the options name.
pub(crate) fn all(parts: &Parts, options: &Options, report: &mut Report) -> Result<()> {
    if options.wants(Measurement::Cost) {
        // This comes first, while nothing else runs.
        cost::measure(parts, report, options.quick)?;
    }
    if ON_THE_PAIR.into_iter().any(|part| options.wants(part)) {
        let pair = Cluster::start(parts, &Plan::default())?;
        on_the_pair(&pair, options, report)?;
    }
    if options.wants(Measurement::Latency) {
        let plan = Plan { broker: BrokerKind::Synced, ..Plan::default() };
        latency::measure_synced(&Cluster::start(parts, &plan)?, report, options.quick)?;
    }
    if options.wants(Measurement::Conflicts) {
        let plan = Plan { nodes: 3, ..Plan::default() };
        conflicts::measure(&Cluster::start(parts, &plan)?, report, options.quick)?;
    }
    if options.wants(Measurement::Growth) {
        growth::measure(parts, report, options.quick)?;
    }
    if options.wants(Measurement::Deferred) {
        deferred::measure(parts, report, options.scale(options.transactions, 300))?;
    }
    for kind in [Measurement::SeriesInteger, Measurement::SeriesUuid, Measurement::SeriesUuid7] {
        if options.wants(kind) {
            series::measure(parts, report, kind, options)?;
        }
    }
    if options.wants(Measurement::Snapshots) {
        snapshots::measure(parts, report, options.quick)?;
    }
    Ok(())
}

fn on_the_pair(pair: &Cluster, options: &Options, report: &mut Report) -> Result<()> {
    let quick = options.quick;
    if options.wants(Measurement::Idle) {
        // Before the others, which use memory.
        idle::measure(pair, report, quick)?;
    }
    if options.wants(Measurement::Bulk) {
        flow::bulk(pair, report, quick)?;
    }
    if options.wants(Measurement::Uuid) {
        flow::uuid(pair, report, quick)?;
    }
    if options.wants(Measurement::Single) {
        flow::single(pair, report, quick)?;
    }
    if options.wants(Measurement::Latency) {
        latency::measure(pair, report, quick)?;
    }
    if options.wants(Measurement::Beside) {
        beside::measure(pair, report, quick)?;
    }
    if options.wants(Measurement::CatchUp) {
        catch_up::measure(pair, report, quick)?;
    }
    if options.wants(Measurement::Hold) {
        hold::measure(pair, report, quick)?;
    }
    Ok(())
}

/// Inserts a row of some 80 bytes.
pub(crate) fn insert(db: &Connection, id: i64) -> Result<()> {
    insert_item(db, id, "a few words about it, as there often are")
}

/// Inserts a row of some 160 bytes.
pub(crate) fn insert_longer(db: &Connection, id: i64) -> Result<()> {
    insert_item(
        db,
        id,
        "a few words about it, as there often are, and then a few more, because a row of a \
        real application has an average of 160 bytes",
    )
}

fn insert_item(db: &Connection, id: i64, note: &str) -> Result<()> {
    let values = params![id, format!("item number {id}"), id as f64 / 7.0, note];
    db.prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, ?4)")?.execute(values)?;
    Ok(())
}

/// Inserts a row of some 160 bytes under a key that looks random. The same number gives the same.
pub(crate) fn insert_document(db: &Connection, number: i64) -> Result<()> {
    document(db, &random::uuid(number.unsigned_abs()), number)
}

/// Inserts such a row under a key that begins with a time.
pub(crate) fn insert_timed_document(db: &Connection, number: i64) -> Result<()> {
    document(db, &random::uuid7(number.unsigned_abs()), number)
}

fn document(db: &Connection, key: &str, number: i64) -> Result<()> {
    let body = "what somebody wrote on a rainy afternoon, and nobody has read since that day";
    let values = params![key, number % 1_000, body];
    db.prepare_cached("INSERT INTO document VALUES (?1, ?2, ?3)")?.execute(values)?;
    Ok(())
}

/// Writes rows in transactions of 1,000.
pub(crate) fn in_transactions(
    app: &mut Connection,
    rows: std::ops::Range<i64>,
    one: impl Fn(&Connection, i64) -> Result<()>,
) -> Result<()> {
    for start in rows.clone().step_by(PER_TRANSACTION as usize) {
        crate::time::check()?;
        let tx = app.transaction()?;
        (start..(start + PER_TRANSACTION).min(rows.end)).try_for_each(|id| one(&tx, id))?;
        tx.commit()?;
    }
    Ok(())
}

/// Waits for the last row. Batches arrive in order, so all rows are there then.
pub(crate) fn arrived(cluster: &Cluster, peer: &Connection, last: i64) -> Result<()> {
    let sql = "SELECT count(*) FROM item WHERE id = ?1";
    cluster.wait("the last row", || Ok(crate::database::count(peer, sql, last)? == 1))
}

/// Returns rows a second since a moment.
pub(crate) fn rate(rows: i64, began: Instant) -> f64 {
    rows as f64 * 1e9 / crate::time::since_ns(began).max(1) as f64
}
