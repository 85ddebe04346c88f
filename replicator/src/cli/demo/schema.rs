//! The shop: the kinds of tables that real databases have.
//!
//! A UNIQUE column (customers), a full text index kept by triggers (products), blobs (pictures),
//! foreign keys with a cascade and a composite key (orders, lines), a table WITHOUT ROWID (stock).

use anyhow::Result;
use rusqlite::{Connection, params};
use std::path::Path;
use std::time::Duration;

/// Products that every node knows from the beginning.
pub(super) const PRODUCTS: i64 = 200;
/// Customers that every node knows from the beginning.
pub(super) const CUSTOMERS: i64 = 100;
/// Where stock is kept.
pub(super) const WAREHOUSES: [&str; 3] = ["Aarhus", "Bologna", "Córdoba"];

const SHOP: &str = "
CREATE TABLE customers (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE COLLATE NOCASE, name \
TEXT NOT NULL, since INTEGER NOT NULL);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, \
price REAL NOT NULL);
CREATE TABLE pictures (product_id INTEGER PRIMARY KEY REFERENCES products(id), png BLOB NOT NULL);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id), status TEXT NOT \
  NULL, placed INTEGER NOT NULL);
CREATE TABLE order_lines (
  order_id INTEGER NOT NULL REFERENCES orders(id) ON DELETE CASCADE, line INTEGER NOT NULL,
  product_id INTEGER NOT NULL REFERENCES products(id), quantity INTEGER NOT NULL, price REAL NOT \
  NULL, PRIMARY KEY (order_id, line));
CREATE TABLE stock (
  warehouse TEXT NOT NULL, product_id INTEGER NOT NULL REFERENCES products(id), pieces INTEGER \
  NOT NULL, counted_by TEXT NOT NULL,
  PRIMARY KEY (warehouse, product_id)) WITHOUT ROWID;
CREATE VIRTUAL TABLE product_search USING fts5(name, description, content='products', \
content_rowid='id');
CREATE TRIGGER product_added AFTER INSERT ON products BEGIN
  INSERT INTO product_search(rowid, name, description) VALUES (new.id, new.name, new.description);
END;
CREATE TRIGGER product_removed AFTER DELETE ON products BEGIN
  INSERT INTO product_search(product_search, rowid, name, description) VALUES ('delete', old.id, \
  old.name, old.description);
END;
CREATE TRIGGER product_changed AFTER UPDATE ON products BEGIN
  INSERT INTO product_search(product_search, rowid, name, description) VALUES ('delete', old.id, \
  old.name, old.description);
  INSERT INTO product_search(rowid, name, description) VALUES (new.id, new.name, new.description);
END;
";

/// The words that products are named with, and searched for at the end.
pub(super) const WORDS: [&str; 12] = [
    "amber", "brass", "cedar", "dusk", "ember", "fjord", "granite", "harbour", "indigo", "juniper",
    "kelp", "linen",
];

/// Opens a database as any application does.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(20))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON",
    )?;
    Ok(db)
}

/// Makes an empty shop.
pub(super) fn create(path: &Path) -> Result<Connection> {
    let db = open(path)?;
    db.execute_batch(SHOP)?;
    Ok(db)
}

/// Puts the first rows in: on one node, before it is replicated.
pub(super) fn fill(db: &mut Connection) -> Result<()> {
    let tx = db.transaction()?;
    for id in 1..=PRODUCTS {
        let word = |n: i64| {
            WORDS.get(usize::try_from((id * 7 + n) % 12).unwrap_or(0)).copied().unwrap_or("plain")
        };
        let (name, text) = (
            format!("{} {} no. {id}", word(0), word(5)),
            format!("made of {} and {}", word(3), word(9)),
        );
        tx.execute(
            "INSERT INTO products VALUES (?1, ?2, ?3, ?4)",
            params![id, name, text, 1.0 + id as f64 / 3.0],
        )?;
        for warehouse in WAREHOUSES {
            tx.execute(
                "INSERT INTO stock VALUES (?1, ?2, 100, 'the first count')",
                params![warehouse, id],
            )?;
        }
    }
    for id in 1..=CUSTOMERS {
        tx.execute(
            "INSERT INTO customers VALUES (?1, ?2, ?3, 0)",
            params![id, format!("customer-{id}@example.org"), format!("Customer {id}")],
        )?;
    }
    tx.commit()?;
    Ok(())
}
