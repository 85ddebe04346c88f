//! What the applications of the shop do inside one transaction.

use super::schema::{CUSTOMERS, PRODUCTS, WAREHOUSES, WORDS};
use crate::clock;
use anyhow::{Context, Result};
use rusqlite::{OptionalExtension, Transaction, params};

const BULK_ROWS: u64 = 400;
/// Rows that everybody wants.
const HOT: i64 = 20;

/// What happens inside one transaction.
pub(super) struct Shop<'a> {
    pub(super) node: i64,
    /// The last number that this node gave away.
    pub(super) next: &'a mut i64,
    pub(super) random: &'a mut u64,
    /// Rows written.
    pub(super) rows: &'a mut u64,
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

    fn write(
        &mut self,
        tx: &Transaction<'_>,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<()> {
        *self.rows +=
            tx.prepare_cached(sql)?.execute(values).with_context(|| sql.to_owned())? as u64;
        Ok(())
    }

    /// An ordinary moment of the shop.
    pub(super) fn trade(&mut self, tx: &Transaction<'_>) -> Result<()> {
        match self.any(20) {
            0..=10 => self.order(tx),
            11..=13 => self.customer(tx),
            14 | 15 => self.reprice(tx, PRODUCTS),
            16 => self.product(tx),
            17 => self.recount(tx, PRODUCTS),
            18 => {
                let sql = "UPDATE orders SET status = 'shipped' WHERE id = (SELECT id FROM orders \
                    WHERE id >= ?1 ORDER BY id LIMIT 1)";
                let from = (1 + self.any(3)) << 40;
                let id = from + self.any(*self.next);
                self.write(tx, sql, [id])
            }
            // Only orders of this node: lines of an order that another one is changing would be
            // left alone.
            _ => {
                let id = (self.node << 40) + self.any(*self.next);
                self.write(
                    tx,
                    "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE \
                    id BETWEEN ?1 AND ?1 + 1000)",
                    [id],
                )
            }
        }
    }

    /// What everybody does to the same few rows.
    pub(super) fn contend(&mut self, tx: &Transaction<'_>) -> Result<()> {
        match self.any(4) {
            0 => {
                // The same address under another number on each node: two of them cannot stay.
                let (id, n) = (self.id(), self.any(HOT));
                let sql = "INSERT INTO customers VALUES (?1, ?2, ?3, ?4) ON CONFLICT (email) DO \
                    UPDATE SET name = excluded.name";
                self.write(
                    tx,
                    sql,
                    params![
                        id,
                        format!("newsletter-{n}@example.org"),
                        format!("Reader of node {}", self.node),
                        clock::unix_ms()
                    ],
                )
            }
            1 => self.recount(tx, HOT),
            _ => self.reprice(tx, HOT),
        }
    }

    fn order(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let (id, customer) = (self.id(), 1 + self.any(CUSTOMERS));
        self.write(
            tx,
            "INSERT INTO orders VALUES (?1, ?2, 'new', ?3)",
            params![id, customer, clock::unix_ms()],
        )?;
        for line in 1..=1 + self.any(5) {
            let (product, quantity, warehouse) =
                (1 + self.any(PRODUCTS), 1 + self.any(9), self.warehouse());
            let sql =
                "INSERT INTO order_lines SELECT ?1, ?2, id, ?4, price FROM products WHERE id = ?3";
            self.write(tx, sql, params![id, line, product, quantity])?;
            let sql = "UPDATE stock SET pieces = pieces - ?3, counted_by = 'order' WHERE \
                warehouse = ?1 AND product_id = ?2";
            self.write(tx, sql, params![warehouse, product, quantity])?;
        }
        Ok(())
    }

    fn customer(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let id = self.id();
        let values = params![
            id,
            format!("{id}@example.org"),
            format!("{} {}", self.word(), self.word()),
            clock::unix_ms()
        ];
        self.write(tx, "INSERT INTO customers VALUES (?1, ?2, ?3, ?4)", values)
    }

    /// Many rows at once.
    pub(super) fn import(&mut self, tx: &Transaction<'_>) -> Result<()> {
        (0..BULK_ROWS).try_for_each(|_| self.customer(tx))
    }

    fn reprice(&mut self, tx: &Transaction<'_>, among: i64) -> Result<()> {
        let (product, price, word) =
            (1 + self.any(among), self.any(10_000) as f64 / 97.0, self.word());
        let text = format!("now in {word}, says node {}", self.node);
        self.write(
            tx,
            "UPDATE products SET price = ?2, description = ?3 WHERE id = ?1",
            params![product, price, text],
        )
    }

    fn product(&mut self, tx: &Transaction<'_>) -> Result<()> {
        let (id, bytes) = (self.id(), 500 + self.any(8_000));
        let name = format!("{} {}", self.word(), self.word());
        self.write(
            tx,
            "INSERT INTO products VALUES (?1, ?2, 'new', ?3)",
            params![id, name, bytes as f64 / 8.0],
        )?;
        self.write(tx, "INSERT INTO pictures VALUES (?1, randomblob(?2))", [id, bytes])
    }

    fn recount(&mut self, tx: &Transaction<'_>, among: i64) -> Result<()> {
        let (warehouse, product, pieces) = (self.warehouse(), 1 + self.any(among), self.any(500));
        let by = format!("node {}", self.node);
        let there = tx
            .prepare_cached("SELECT 1 FROM products WHERE id = ?1")?
            .query_row([product], |_| Ok(()))
            .optional()?;
        there.map_or(Ok(()), |()| {
            self.write(
                tx,
                "REPLACE INTO stock VALUES (?1, ?2, ?3, ?4)",
                params![warehouse, product, pieces, by],
            )
        })
    }

    fn warehouse(&mut self) -> &'static str {
        let n = self.any(WAREHOUSES.len() as i64);
        WAREHOUSES.get(usize::try_from(n).unwrap_or(0)).copied().unwrap_or("Aarhus")
    }
}
