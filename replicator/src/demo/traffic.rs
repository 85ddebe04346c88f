//! The applications: one writer a node, through ordinary connections, not knowing that anything is replicated.

use super::interrupt::Interrupt;
use super::schema::{self, CUSTOMERS, PRODUCTS, WAREHOUSES, WORDS};
use anyhow::{Context, Result};
use harmonylite::clock;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// One transaction in so long: 200 a second on each node leave the machine some room.
const PACE: Duration = Duration::from_millis(5);
/// Every so many transactions comes a large one.
const BULK_EVERY: u64 = 400;
const BULK_ROWS: u64 = 400;
/// Rows that everybody wants.
const HOT: i64 = 20;

/// What one writer has done.
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
        let mut traffic =
            Self { tallies: Vec::new(), same_rows: Arc::default(), end: Interrupt::default(), failure: Arc::default(), threads: Vec::new() };
        for (i, path) in databases.into_iter().enumerate() {
            let tally = Arc::new(Tally::default());
            traffic.tallies.push(Arc::clone(&tally));
            let (same_rows, end, failure) = (Arc::clone(&traffic.same_rows), traffic.end.clone(), Arc::clone(&traffic.failure));
            let mut writer = Writer { node: i as i64 + 1, next: 0, random: i as u64 + 1, db: schema::open(&path)? };
            let work = move || {
                if let Err(error) = writer.run(&tally, &same_rows, &end) {
                    *failure.lock() = Some(format!("the application of node {} failed: {error:#}", writer.node));
                }
            };
            traffic.threads.push(std::thread::Builder::new().name(format!("shop-{}", i + 1)).spawn(work)?);
        }
        Ok(traffic)
    }

    /// From now on everybody writes the same few rows, or no longer.
    pub(super) fn same_rows(&self, same: bool) {
        self.same_rows.store(same, Relaxed);
    }

    /// Why a writer failed.
    pub(super) fn check(&self) -> Result<()> {
        self.failure.lock().as_ref().map_or(Ok(()), |why| Err(anyhow::anyhow!("{why}")))
    }

    /// Ends the transactions under way and writes no more.
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
            let mut shop = Shop { node: self.node, next: &mut self.next, random: &mut self.random, rows: &mut rows };
            // The write lock first: upgrading a read transaction fails at once when another one wrote meanwhile.
            let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            match same_rows.load(Relaxed) {
                true => shop.contend(&tx).context("the same rows")?,
                false if count % BULK_EVERY == BULK_EVERY / 2 => shop.import(&tx).context("an import")?,
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

/// What happens inside one transaction.
struct Shop<'a> {
    node: i64,
    next: &'a mut i64,
    random: &'a mut u64,
    rows: &'a mut u64,
}

impl Shop<'_> {
    /// xorshift: the same traffic each time, as far as time allows.
    fn any(&mut self, below: i64) -> i64 {
        *self.random ^= *self.random << 13;
        *self.random ^= *self.random >> 7;
        *self.random ^= *self.random << 17;
        ((*self.random >> 11) % below.max(1).unsigned_abs()).cast_signed()
    }

    fn word(&mut self) -> &'static str {
        let n = self.any(WORDS.len() as i64);
        WORDS.get(usize::try_from(n).unwrap_or(0)).copied().unwrap_or("plain")
    }

    /// Keys of different nodes never meet: the node is their upper half.
    fn id(&mut self) -> i64 {
        *self.next += 1;
        (self.node << 40) + *self.next
    }

    fn write(&mut self, tx: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        *self.rows += tx.prepare_cached(sql)?.execute(values).with_context(|| sql.to_owned())? as u64;
        Ok(())
    }

    /// An ordinary moment of the shop.
    fn trade(&mut self, tx: &Transaction<'_>) -> Result<()> {
        match self.any(20) {
            0..=10 => self.order(tx),
            11..=13 => self.customer(tx),
            14 | 15 => self.reprice(tx, PRODUCTS),
            16 => self.product(tx),
            17 => self.recount(tx, PRODUCTS),
            18 => {
                let sql = "UPDATE orders SET status = 'shipped' WHERE id = (SELECT id FROM orders WHERE id >= ?1 ORDER BY id LIMIT 1)";
                let from = (1 + self.any(3)) << 40;
                let id = from + self.any(*self.next);
                self.write(tx, sql, [id])
            }
            // Only orders of this node: lines of an order that another one is changing would be left alone.
            _ => {
                let id = (self.node << 40) + self.any(*self.next);
                self.write(tx, "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE id BETWEEN ?1 AND ?1 + 1000)", [id])
            }
        }
    }

    /// What everybody does to the same few rows.
    fn contend(&mut self, tx: &Transaction<'_>) -> Result<()> {
        match self.any(4) {
            0 => {
                // The same address under another number on each node: two of them cannot stay.
                let (id, n) = (self.id(), self.any(HOT));
                let sql = "INSERT INTO customers VALUES (?1, ?2, ?3, ?4) ON CONFLICT (email) DO UPDATE SET name = excluded.name";
                self.write(tx, sql, params![id, format!("newsletter-{n}@example.org"), format!("Reader of node {}", self.node), clock::unix_ms()])
            }
            1 => self.recount(tx, HOT),
            _ => self.reprice(tx, HOT),
        }
    }

    fn order(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let (id, customer) = (self.id(), 1 + self.any(CUSTOMERS));
        self.write(tx, "INSERT INTO orders VALUES (?1, ?2, 'new', ?3)", params![id, customer, clock::unix_ms()])?;
        for line in 1..=1 + self.any(5) {
            let (product, quantity, warehouse) = (1 + self.any(PRODUCTS), 1 + self.any(9), self.warehouse());
            let sql = "INSERT INTO order_lines SELECT ?1, ?2, id, ?4, price FROM products WHERE id = ?3";
            self.write(tx, sql, params![id, line, product, quantity])?;
            let sql = "UPDATE stock SET pieces = pieces - ?3, counted_by = 'order' WHERE warehouse = ?1 AND product_id = ?2";
            self.write(tx, sql, params![warehouse, product, quantity])?;
        }
        Ok(())
    }

    fn customer(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let id = self.id();
        let values = params![id, format!("{id}@example.org"), format!("{} {}", self.word(), self.word()), clock::unix_ms()];
        self.write(tx, "INSERT INTO customers VALUES (?1, ?2, ?3, ?4)", values)
    }

    fn import(&mut self, tx: &Transaction<'_>) -> Result<()> {
        (0..BULK_ROWS).try_for_each(|_| self.customer(tx))
    }

    fn reprice(&mut self, tx: &Transaction<'_>, among: i64) -> Result<()> {
        let (product, price, word) = (1 + self.any(among), self.any(10_000) as f64 / 97.0, self.word());
        let text = format!("now in {word}, says node {}", self.node);
        self.write(tx, "UPDATE products SET price = ?2, description = ?3 WHERE id = ?1", params![product, price, text])
    }

    fn product(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let (id, bytes) = (self.id(), 500 + self.any(8_000));
        let name = format!("{} {}", self.word(), self.word());
        self.write(tx, "INSERT INTO products VALUES (?1, ?2, 'new', ?3)", params![id, name, bytes as f64 / 8.0])?;
        self.write(tx, "INSERT INTO pictures VALUES (?1, randomblob(?2))", [id, bytes])
    }

    fn recount(&mut self, tx: &Transaction<'_>, among: i64) -> Result<()> {
        let (warehouse, product, pieces) = (self.warehouse(), 1 + self.any(among), self.any(500));
        let by = format!("node {}", self.node);
        let there = tx.prepare_cached("SELECT 1 FROM products WHERE id = ?1")?.query_row([product], |_| Ok(())).optional()?;
        there.map_or(Ok(()), |()| self.write(tx, "REPLACE INTO stock VALUES (?1, ?2, ?3, ?4)", params![warehouse, product, pieces, by]))
    }

    fn warehouse(&mut self) -> &'static str {
        let n = self.any(WAREHOUSES.len() as i64);
        WAREHOUSES.get(usize::try_from(n).unwrap_or(0)).copied().unwrap_or("Aarhus")
    }
}
