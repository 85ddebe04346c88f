//! Several nodes write the same rows at once. Measured: how fast, and how long until all are equal.
//! That they end equal is checked, value by value; if they do not, the run has failed.

use super::{in_transactions, insert, rate};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::report::{Floor, Report};
use crate::time::{check, now, since_s};
use anyhow::{Context, Result};
use rusqlite::Connection;
use std::time::Duration;

/// The rows that all nodes change.
const ROWS: i64 = 1_000;

pub(crate) fn measure(cluster: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("conflicts");
    in_transactions(&mut cluster.open(0)?, 0..ROWS, insert)?;
    cluster.settle()?;
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    let apps = (0..cluster.len()).map(|node| cluster.open(node)).collect::<Result<Vec<_>>>()?;
    let began = now();
    let written = std::thread::scope(|scope| -> Result<i64> {
        let writers: Vec<_> = apps
            .into_iter()
            .enumerate()
            .map(|(node, app)| scope.spawn(move || write(&app, node as u64, time)))
            .collect();
        writers.into_iter().map(|w| w.join().ok().context("a writer panicked")?).sum()
    })?;
    report.add(
        "transactions of three nodes on 1,000 rows",
        rate(written, began),
        "/s",
        Floor::None,
    );
    let ended = now();
    match cluster.settle() {
        Ok(()) => report.add("until all nodes are equal", since_s(ended), "s", Floor::None),
        Err(error) if error.is::<crate::cluster::Unequal>() => report.fail(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Changes, removes and inserts rows, one to three a transaction. Returns how many transactions.
fn write(app: &Connection, seed: u64, time: Duration) -> Result<i64> {
    let (mut random, began, mut done) = (Random::new(seed), now(), 0);
    while began.elapsed() < time {
        check()?;
        app.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..=random.below(3) {
            let id = i64::try_from(random.below(ROWS as u64))?;
            match random.below(10) {
                0 => app.prepare_cached("DELETE FROM item WHERE id = ?1")?.execute([id])?,
                1 => app
                    .prepare_cached("INSERT OR REPLACE INTO item VALUES (?1, 'again', 0, NULL)")?
                    .execute([id])?,
                _ => app
                    .prepare_cached("UPDATE item SET price = price + ?2 WHERE id = ?1")?
                    .execute([id, i64::try_from(seed)? + 1])?,
            };
        }
        app.execute_batch("COMMIT")?;
        done += 1;
        // Somebody else may have the lock now.
        std::thread::park_timeout(Duration::from_micros(100));
    }
    Ok(done)
}
