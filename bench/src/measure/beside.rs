//! Measures what an application pays while rows of another node come in: how long its commits take,
//! and how many of its transactions fail, with a busy timeout and without.

use super::{in_transactions, insert};
use crate::cluster::Cluster;
use crate::report::{Floor, Report};
use crate::sample::Samples;
use crate::time::{check, now, pause, since_ns};
use anyhow::{Context, Result};
use rusqlite::{Connection, ErrorCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The ids do not overlap with those of the other measurements.
const QUIET_FROM: i64 = 300_000_000;
const COMMITS_FROM: i64 = 310_000_000;
const IMPATIENT_FROM: i64 = 320_000_000;
const DEFERRED_FROM: i64 = 330_000_000;
const REMOTE_FROM: i64 = 2_000_000_000;
const PACE: Duration = Duration::from_millis(5);

/// What one connection met.
#[derive(Default)]
struct Met {
    taken_ns: Vec<i64>,
    tried: u64,
    busy: u64,
    snapshot: u64,
    /// Rows of the other node that came in meanwhile.
    remote: u64,
}

/// Writes at node 1 as fast as node 2 follows, in transactions of 1,000 rows, while a connection of
/// an application writes at node 2. The three kinds one after the other: they would meet each
/// other's locks otherwise.
pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("beside remote rows");
    let time = Duration::from_millis(if quick { 1_000 } else { 4_000 });
    let quiet = patient(&pair.open(1)?, QUIET_FROM, &stop_after(time))?;
    let times = Samples::new(quiet.taken_ns);
    report.add_times("commit while nothing comes in", &times, [Floor::None; 2]);
    let mut at = REMOTE_FROM;
    let mut beside = |kind: fn(&Connection, &dyn Fn() -> bool) -> Result<Met>| -> Result<Met> {
        let (app, done) = (pair.open(1)?, AtomicBool::new(false));
        let (met, next) = std::thread::scope(|scope| {
            let stop = || done.load(Ordering::Relaxed);
            let writer = scope.spawn(move || kind(&app, &stop));
            let next = remote(pair, time, at);
            done.store(true, Ordering::Relaxed);
            (writer.join(), next)
        });
        let from = std::mem::replace(&mut at, next?);
        let remote = at.abs_diff(from);
        Ok(Met { remote, ..met.ok().context("a writer panicked")?? })
    };
    let met = [
        beside(|db, stop| patient(db, COMMITS_FROM, stop))?,
        beside(impatient)?,
        beside(deferred)?,
    ];
    add(report, met, time);
    pair.settle()
}

fn add(report: &mut Report, [mut patient, impatient, deferred]: [Met; 3], time: Duration) {
    let times = Samples::new(std::mem::take(&mut patient.taken_ns));
    report.add_times("commit while rows come in", &times, [Floor::None; 2]);
    report.add("the longest", times.worst(), "ms", Floor::None);
    let share = |failed: u64, of: &Met| failed as f64 * 10_000.0 / of.tried.max(1) as f64;
    let unit = "of 10,000";
    report.add(
        "busy errors without a busy timeout",
        share(impatient.busy, &impatient),
        unit,
        Floor::None,
    );
    report.add("busy errors with one", share(patient.busy, &patient), unit, Floor::None);
    let stale = share(deferred.snapshot, &deferred);
    report.add("deferred transactions with a stale snapshot", stale, unit, Floor::None);
    let locked = share(deferred.busy, &deferred);
    report.add("deferred transactions that meet the write lock", locked, unit, Floor::None);
    for (beside, met) in [("commits", &patient), ("deferred transactions", &deferred)] {
        let name = format!("rows that come in beside {beside}");
        report.add(&name, met.remote as f64 / time.as_secs_f64(), "rows/s", Floor::None);
    }
}

/// Bulk rows from node 1, for a time. Returns the next id.
fn remote(pair: &Cluster, time: Duration, mut at: i64) -> Result<i64> {
    let (mut app, peer, began) = (pair.open(0)?, pair.open(1)?, now());
    while began.elapsed() < time {
        in_transactions(&mut app, at..at + 1_000, insert)?;
        at += 1_000;
        // As fast as the peer follows, not faster: otherwise the application meets rows no more.
        super::arrived(pair, &peer, at - 1)?;
    }
    Ok(at)
}

fn stop_after(time: Duration) -> impl Fn() -> bool {
    let began = now();
    move || began.elapsed() >= time
}

/// Commits rows with a busy timeout.
fn patient(db: &Connection, from: i64, stop: &dyn Fn() -> bool) -> Result<Met> {
    paced(from, stop, |id| insert(db, id))
}

/// Commits rows without one.
fn impatient(db: &Connection, stop: &dyn Fn() -> bool) -> Result<Met> {
    db.busy_timeout(Duration::ZERO)?;
    paced(IMPATIENT_FROM, stop, |id| insert(db, id))
}

/// Reads, then writes, in one deferred transaction.
fn deferred(db: &Connection, stop: &dyn Fn() -> bool) -> Result<Met> {
    paced(DEFERRED_FROM, stop, |id| {
        db.execute_batch("BEGIN")?;
        let work = (|| {
            db.prepare_cached("SELECT max(id) FROM item")?
                .query_row([], |r| r.get::<_, Option<i64>>(0))?;
            pause(Duration::from_millis(2))?;
            insert(db, id)?;
            Ok(db.execute_batch("COMMIT")?)
        })();
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK")?;
        }
        work
    })
}

fn paced(from: i64, stop: &dyn Fn() -> bool, write: impl Fn(i64) -> Result<()>) -> Result<Met> {
    let mut met = Met::default();
    for id in from.. {
        check()?;
        if stop() {
            break;
        }
        let began = now();
        met.tried += 1;
        match write(id) {
            Ok(()) => met.taken_ns.push(since_ns(began)),
            Err(error) => match failed(&error) {
                Some(true) => met.snapshot += 1,
                Some(false) => met.busy += 1,
                None => return Err(error),
            },
        }
        pause(PACE)?;
    }
    Ok(met)
}

/// Returns whether a busy error is that of a stale snapshot; nothing for another error.
pub(crate) fn failed(error: &anyhow::Error) -> Option<bool> {
    let error = error.downcast_ref::<rusqlite::Error>()?.sqlite_error()?;
    let snapshot = error.extended_code == rusqlite::ffi::SQLITE_BUSY_SNAPSHOT;
    (error.code == ErrorCode::DatabaseBusy).then_some(snapshot)
}
