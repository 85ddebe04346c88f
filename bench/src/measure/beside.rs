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
}

/// Writes at node 1 as fast as it can, in transactions of 1,000 rows, while three connections of an
/// application write at node 2.
pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("beside remote rows");
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    let quiet = patient(&pair.open(1)?, QUIET_FROM, &stop_after(time / 2))?;
    let times = Samples::new(quiet.taken_ns);
    report.add_times("commit while nothing comes in", &times, [Floor::None; 2]);
    let (waits, fails, reads) = (pair.open(1)?, pair.open(1)?, pair.open(1)?);
    fails.busy_timeout(Duration::ZERO)?;
    let done = AtomicBool::new(false);
    let stop = || done.load(Ordering::Relaxed);
    let met = std::thread::scope(|scope| -> Result<[Met; 3]> {
        let writers = [
            scope.spawn(move || patient(&waits, COMMITS_FROM, &stop)),
            scope.spawn(move || impatient(&fails, &stop)),
            scope.spawn(move || deferred(&reads, &stop)),
        ];
        let sent = remote(pair, time);
        done.store(true, Ordering::Relaxed);
        let mut met = writers.map(|writer| writer.join().ok().context("a writer panicked")?);
        let [a, b, c] = met.each_mut().map(|met| std::mem::replace(met, Ok(Met::default())));
        sent?;
        Ok([a?, b?, c?])
    })?;
    add(report, met);
    pair.settle()
}

fn add(report: &mut Report, [mut patient, impatient, deferred]: [Met; 3]) {
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
}

/// Bulk rows from node 1, for a time.
fn remote(pair: &Cluster, time: Duration) -> Result<()> {
    let (mut app, peer, began, mut at) = (pair.open(0)?, pair.open(1)?, now(), REMOTE_FROM);
    while began.elapsed() < time {
        in_transactions(&mut app, at..at + 1_000, insert)?;
        at += 1_000;
        // As fast as the peer follows, not faster: otherwise the application meets rows no more.
        super::arrived(pair, &peer, at - 1)?;
    }
    Ok(())
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
