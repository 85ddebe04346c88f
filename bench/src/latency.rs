//! Measures the time from the end of a commit until a reader at the peer sees it.

use crate::bare;
use crate::flow::insert;
use crate::pair::{Pair, count, pause};
use crate::report::{Floor, Report};
use anyhow::Result;
use harmonylite::clock;
use rusqlite::Connection;
use std::time::Duration;

const FROM: i64 = 200_000_000;
/// 50 commits a second.
pub(crate) const PACE: Duration = Duration::from_millis(20);
/// The reader's own share of the measured time.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// The first commits do not count: they measure connections, caches and statements.
pub(crate) const WARM_UP: i64 = 20;

fn commits(quick: bool) -> i64 {
    if quick { 100 } else { 500 }
}

/// Measures with the operating system's VFS (the file watcher notices commits) and with ours (the
/// bell rings).
pub(crate) fn measure(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let commits = commits(quick);
    let plain = series(pair, &pair.open(0)?, FROM, commits)?;
    report.add("commit to visible, median", quantile(&plain, 50), "ms", Floor::AtMost(5.0));
    report.add("commit to visible, p99", quantile(&plain, 99), "ms", Floor::None);
    let rung = series(pair, &open_ringing(pair)?, FROM + 100_000, commits)?;
    report.add(
        "commit to visible with the VFS, median",
        quantile(&rung, 50),
        "ms",
        Floor::AtMost(1.0),
    );
    report.add(
        "commit to visible with the VFS, p99",
        quantile(&rung, 99),
        "ms",
        Floor::AtMost(4.0),
    );
    if let Some(url) = pair.broker_url() {
        bare::measure(url, report, commits)?;
    }
    pair.settle()
}

/// Measures with a broker that syncs each message before it acknowledges and delivers it.
pub(crate) fn measure_synced(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let rung = series(pair, &open_ringing(pair)?, FROM, commits(quick))?;
    report.add("  the same, embedded broker, median", quantile(&rung, 50), "ms", Floor::None);
    report.add("  the same, embedded broker, p99", quantile(&rung, 99), "ms", Floor::None);
    pair.settle()
}

fn open_ringing(pair: &Pair) -> Result<Connection> {
    let app = harmonylite_vfs::open(pair.database(0)?)?;
    app.busy_timeout(Duration::from_secs(20))?;
    app.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(app)
}

/// Returns the nanoseconds from commit to visible, sorted.
fn series(pair: &Pair, app: &Connection, from: i64, commits: i64) -> Result<Vec<i64>> {
    // By default the kernel lengthens a short pause by 50 us.
    #[cfg(target_os = "linux")]
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let peer = pair.open(1)?;
    let mut taken_ns = Vec::new();
    for i in 0..WARM_UP + commits {
        let next = clock::unix_ns() + PACE.as_nanos() as i64;
        insert(app, from + i)?;
        let committed = clock::unix_ns();
        let gives_up = committed + 60_000_000_000;
        let mut version = 0;
        loop {
            // Reading the data version disturbs the measured processes less than searching the row.
            let now = peer
                .prepare_cached("PRAGMA data_version")?
                .query_row([], |r| r.get::<_, i64>(0))?;
            if std::mem::replace(&mut version, now) != now
                && count(&peer, "SELECT count(*) FROM item WHERE id = ?1", from + i)? == 1
            {
                break;
            }
            anyhow::ensure!(
                clock::unix_ns() < gives_up,
                "a commit has not become visible after 60 s\n{}",
                pair.what_they_say()
            );
            pause(LOOK_EVERY);
        }
        if i >= WARM_UP {
            taken_ns.push(clock::unix_ns() - committed);
        }
        pause(Duration::from_nanos(u64::try_from(next - clock::unix_ns()).unwrap_or(0)));
    }
    taken_ns.sort_unstable();
    Ok(taken_ns)
}

/// Returns the quantile in milliseconds.
pub(crate) fn quantile(sorted_ns: &[i64], share: usize) -> f64 {
    sorted_ns
        .get((sorted_ns.len() * share / 100).min(sorted_ns.len().saturating_sub(1)))
        .map_or(f64::NAN, |ns| *ns as f64 / 1e6)
}
