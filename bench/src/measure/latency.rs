//! Measures the time from the end of a commit until a reader at the peer sees it.

use super::{bare, insert};
use crate::cluster::Cluster;
use crate::database::{count, open_ringing};
use crate::report::{Floor, Report};
use crate::sample::Samples;
use crate::time::{now, pause, since_ns};
use anyhow::Result;
use rusqlite::Connection;
use std::time::Duration;

const FROM: i64 = 200_000_000;
/// 50 commits a second.
pub(crate) const PACE: Duration = Duration::from_millis(20);
/// The reader's own share of the measured time.
const LOOK_EVERY: Duration = Duration::from_micros(50);
const GIVES_UP: Duration = Duration::from_secs(60);
/// The first commits do not count: they measure connections, caches and statements.
pub(crate) const WARM_UP: i64 = 20;
const ITEM: &str = "SELECT count(*) FROM item WHERE id = ?1";

fn commits(quick: bool) -> i64 {
    if quick { 100 } else { 1_000 }
}

/// Measures with the operating system's VFS (the file watcher notices commits) and with ours (the
/// bell rings).
pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("latency");
    let commits = commits(quick);
    let plain = of_items(pair, &pair.open(0)?, FROM, commits)?;
    report.add_times("commit to visible", &plain, [Floor::None; 2]);
    let rung = of_items(pair, &open_ringing(pair.database(0)?)?, FROM + 100_000, commits)?;
    let floors = [Floor::AtMost(1.0), Floor::AtMost(4.0)];
    report.add_times("commit to visible with the VFS", &rung, floors);
    let broker_ms = bare::measure(&pair.broker_url(), report, commits)?;
    let times = plain.quantile(500) / broker_ms;
    report.add("commit to visible, to the broker alone", times, "times", Floor::AtMost(2.6));
    pair.settle()
}

/// Measures with a broker that syncs each message before it acknowledges and delivers it.
pub(crate) fn measure_synced(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("latency, broker that syncs");
    let rung = of_items(pair, &open_ringing(pair.database(0)?)?, FROM, commits(quick))?;
    let name = "with the VFS, a broker that syncs as the embedded one";
    report.add_times(name, &rung, [Floor::None; 2]);
    pair.settle()
}

fn of_items(pair: &Cluster, app: &Connection, from: i64, commits: i64) -> Result<Samples> {
    series_while(pair, ITEM, from, &|i| i < WARM_UP + commits, |id| insert(app, id))
}

/// Writes rows at node 1 at a pace, while `more` wants them (it gets how many were written), and
/// looks for each at node 2 with a statement that counts it.
pub(crate) fn series_while(
    pair: &Cluster,
    look: &str,
    from: i64,
    more: &dyn Fn(i64) -> bool,
    write: impl Fn(i64) -> Result<()>,
) -> Result<Samples> {
    // By default the kernel lengthens a short pause by 50 us.
    #[cfg(target_os = "linux")]
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let peer = pair.open(1)?;
    let mut taken_ns = Vec::new();
    for i in (0..).take_while(|i| more(*i)) {
        let next = now() + PACE;
        write(from + i)?;
        let committed = now();
        wait_for(pair, &peer, look, from + i)?;
        taken_ns.push(since_ns(committed));
        pause(next.saturating_duration_since(now()))?;
    }
    // A slow run that has only a few keeps half of them.
    taken_ns.drain(..taken_ns.len().min(WARM_UP as usize * 2) / 2);
    Ok(Samples::new(taken_ns))
}

fn wait_for(pair: &Cluster, peer: &Connection, look: &str, id: i64) -> Result<()> {
    let gives_up = now() + GIVES_UP;
    let mut version = 0;
    loop {
        // Reading the data version disturbs the measured processes less than searching the row.
        let seen =
            peer.prepare_cached("PRAGMA data_version")?.query_row([], |r| r.get::<_, i64>(0))?;
        if std::mem::replace(&mut version, seen) != seen && count(peer, look, id)? == 1 {
            return Ok(());
        }
        anyhow::ensure!(
            now() < gives_up,
            "a commit has not become visible after {} s\n{}",
            GIVES_UP.as_secs(),
            pair.what_they_report()
        );
        pause(LOOK_EVERY)?;
    }
}
