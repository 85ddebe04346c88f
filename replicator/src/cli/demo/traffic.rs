//! The applications: one writer per node, on ordinary connections, unaware of replication.

use super::interrupt::Interrupt;
use super::schema;
use super::shop::Shop;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between transactions: 200 a second on each node leave the machine some capacity.
const PACE: Duration = Duration::from_millis(5);
/// One transaction in this many is a large one.
const BULK_EVERY: u64 = 400;

/// The counters of one writer.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) transactions: AtomicU64,
    pub(super) rows: AtomicU64,
}

/// All writers.
pub(super) struct Traffic {
    pub(super) tallies: Vec<Arc<Tally>>,
    same_rows: Arc<AtomicBool>,
    end: Interrupt,
    failure: Arc<Mutex<Option<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts a writer on each database; databases belong to nodes 1, 2, 3...
    pub(super) fn start(databases: Vec<PathBuf>) -> Result<Self> {
        let mut traffic = Self {
            tallies: Vec::new(),
            same_rows: Arc::default(),
            end: Interrupt::default(),
            failure: Arc::default(),
            threads: Vec::new(),
        };
        for (i, path) in databases.into_iter().enumerate() {
            let tally = Arc::new(Tally::default());
            traffic.tallies.push(Arc::clone(&tally));
            let (same_rows, end, failure) =
                (Arc::clone(&traffic.same_rows), traffic.end.clone(), Arc::clone(&traffic.failure));
            let mut writer = Writer {
                node: i as i64 + 1,
                next: 0,
                random: i as u64 + 1,
                db: schema::open(&path)?,
            };
            let work = move || {
                if let Err(error) = writer.run(&tally, &same_rows, &end) {
                    *failure.lock() =
                        Some(format!("the application of node {} failed: {error:#}", writer.node));
                }
            };
            traffic
                .threads
                .push(std::thread::Builder::new().name(format!("shop-{}", i + 1)).spawn(work)?);
        }
        Ok(traffic)
    }

    /// Makes all writers write the same few rows, or stops that.
    pub(super) fn same_rows(&self, same: bool) {
        self.same_rows.store(same, Relaxed);
    }

    /// Fails if a writer has failed.
    pub(super) fn check(&self) -> Result<()> {
        self.failure.lock().as_ref().map_or(Ok(()), |why| Err(anyhow::anyhow!("{why}")))
    }

    /// Stops all writers after their current transactions.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.end.set();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        }
        self.check()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

struct Writer {
    node: i64,
    next: i64,
    random: u64,
    db: Connection,
}

impl Writer {
    fn run(&mut self, tally: &Tally, same_rows: &AtomicBool, end: &Interrupt) -> Result<()> {
        while !end.is_set() {
            let count = tally.transactions.load(Relaxed);
            let mut rows = 0;
            let mut shop = Shop {
                node: self.node,
                next: &mut self.next,
                random: &mut self.random,
                rows: &mut rows,
            };
            // Take the write lock first: an upgrade of a read transaction fails at once if another
            // connection wrote meanwhile.
            let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            match same_rows.load(Relaxed) {
                true => shop.contend(&tx).context("the same rows")?,
                false if count % BULK_EVERY == BULK_EVERY / 2 => {
                    shop.import(&tx).context("an import")?
                }
                false => shop.trade(&tx)?,
            }
            tx.commit()?;
            tally.rows.fetch_add(rows, Relaxed);
            tally.transactions.fetch_add(1, Relaxed);
            let _ = end.pause(PACE);
        }
        Ok(())
    }
}
