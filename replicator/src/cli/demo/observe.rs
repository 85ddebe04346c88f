//! Reads each node's status and its number of rows a few times a second.

use super::super::control;
use super::interrupt::Interrupt;
use super::schema;
use crate::db::lockfile::{Sidecar, sidecar};
use crate::model::status::Status;
use anyhow::Result;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(200);
const ROWS: &str = "SELECT (SELECT count(*) FROM customers) + (SELECT count(*) FROM products) + \
    (SELECT count(*) FROM pictures)
    + (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_lines) + (SELECT count(*) FROM \
    stock)";

/// The last observation of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// The node's status; None if it does not answer.
    pub(super) status: Option<Status>,
    pub(super) rows: u64,
    /// The number of observations so far.
    pub(super) number: u64,
}

/// Observes a node until it is dropped.
pub(super) struct Observer {
    last: Arc<Mutex<Look>>,
    end: Interrupt,
}

impl Observer {
    /// Begins to observe.
    pub(super) fn start(path: PathBuf) -> Result<Self> {
        let observer = Self { last: Arc::default(), end: Interrupt::default() };
        let db = schema::open(&path)?;
        let (last, end) = (Arc::clone(&observer.last), observer.end.clone());
        // The thread is not joined: it may wait for an answer of a killed node.
        std::thread::Builder::new().name("observer".to_owned()).spawn(move || {
            let mut number = 0;
            while end.pause(EVERY).is_ok() {
                number += 1;
                *last.lock() = Look { status: ask(&path).ok().flatten(), rows: rows(&db), number };
            }
        })?;
        Ok(observer)
    }

    /// The last observation.
    pub(super) fn look(&self) -> Look {
        self.last.lock().clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end.set();
    }
}

fn ask(path: &Path) -> Result<Option<Status>> {
    let Sidecar::Running(owner) = sidecar(path)? else { return Ok(None) };
    let answer = control::ask(owner.as_ref(), "GET", "/status")?;
    Ok(serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 200))
}

fn rows(db: &Connection) -> u64 {
    let count = db.prepare_cached(ROWS).and_then(|mut s| s.query_row([], |r| r.get::<_, i64>(0)));
    count.unwrap_or(0).max(0).cast_unsigned()
}
