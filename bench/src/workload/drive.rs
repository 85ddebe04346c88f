//! The application: connections that run the mix for a time.

use super::format::{Transaction, Workload};
use super::values::Values;
use crate::database::{open, open_ringing};
use crate::measure::failed;
use crate::time::{check, now, pause, since_ns};
use anyhow::{Context, Result};
use rusqlite::{Connection, ErrorCode};
use std::path::Path;
use std::time::Duration;

/// What the connections met, by transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    /// Of each kind of transaction, in the order of the file.
    pub(crate) taken_ns: Vec<Vec<i64>>,
    pub(crate) rows: u64,
    pub(crate) busy: u64,
    /// Deferred transactions whose snapshot had become stale.
    pub(crate) stale: u64,
    /// What the schema refused: a key that is there, a CHECK.
    pub(crate) refused: u64,
    /// CPU of the connections' threads, where the system shows it.
    pub(crate) cpu_ns: i64,
}

impl Met {
    pub(crate) fn done(&self) -> usize {
        self.taken_ns.iter().map(Vec::len).sum()
    }

    pub(crate) fn tried(&self) -> u64 {
        self.done() as u64 + self.busy + self.stale + self.refused
    }

    fn add(&mut self, other: Self) {
        self.taken_ns.resize(other.taken_ns.len().max(self.taken_ns.len()), Vec::new());
        for (mine, theirs) in self.taken_ns.iter_mut().zip(other.taken_ns) {
            mine.extend(theirs);
        }
        self.rows += other.rows;
        self.busy += other.busy;
        self.stale += other.stale;
        self.refused += other.refused;
        self.cpu_ns += other.cpu_ns;
    }
}

/// Fills a database as `setup` says: the same rows in each.
pub(crate) fn prepare(workload: &Workload, db: &mut Connection) -> Result<()> {
    db.execute_batch(&workload.schema)?;
    for setup in &workload.setup {
        let mut values = Values::new(1, 0, 1);
        let tx = db.transaction()?;
        for _ in 0..setup.repeat {
            check()?;
            values.run(&tx, setup).with_context(|| format!("setup {:?}", setup.name))?;
        }
        tx.commit()?;
    }
    Ok(())
}

/// One connection with what it does.
struct Client<'a> {
    db: Connection,
    kinds: Vec<(usize, &'a Transaction)>,
    pace: Option<Duration>,
    values: Values,
}

/// Runs the mix on databases, of which the first is node 1's. Writers of nodes without one rest.
/// `beside` runs in this thread meanwhile, and ends by itself.
pub(crate) fn drive<T>(
    workload: &Workload,
    databases: &[&Path],
    time: Duration,
    beside: impl FnOnce() -> Result<T>,
) -> Result<(Met, T)> {
    let clients = clients(workload, databases)?;
    std::thread::scope(|scope| {
        let kinds = workload.transaction.len();
        let running: Vec<_> =
            clients.into_iter().map(|c| scope.spawn(move || write(c, kinds, time))).collect();
        let beside = beside();
        let mut met = Met::default();
        for client in running {
            met.add(client.join().ok().context("a connection's thread panicked")??);
        }
        Ok((met, beside?))
    })
}

fn clients<'a>(workload: &'a Workload, databases: &[&Path]) -> Result<Vec<Client<'a>>> {
    let all: u64 = workload.writer.iter().map(|writer| writer.connections).sum();
    let first = workload.setup.iter().map(|setup| setup.repeat).max().unwrap_or(0) + 1;
    let (mut clients, mut at) = (Vec::new(), 0);
    for writer in &workload.writer {
        for _ in 0..writer.connections {
            let values = Values::new(first, at, all);
            at += 1;
            let Some(path) = databases.get(writer.node.get_ref() - 1) else { continue };
            let named = |t: &Transaction| {
                let mut names = writer.transactions.iter();
                writer.transactions.is_empty() || names.any(|name| *name.get_ref() == t.name)
            };
            clients.push(Client {
                db: if writer.vfs { open_ringing(path)? } else { open(path)? },
                kinds: workload.transaction.iter().enumerate().filter(|(_, t)| named(t)).collect(),
                pace: writer
                    .rate
                    .as_ref()
                    .map(|rate| Duration::from_secs_f64(1.0 / rate.get_ref())),
                values,
            });
        }
    }
    Ok(clients)
}

fn write(mut client: Client, kinds: usize, time: Duration) -> Result<Met> {
    let mut met = Met { taken_ns: vec![Vec::new(); kinds], ..Met::default() };
    let before = crate::usage::own_cpu_ns();
    let (began, weights) = (now(), client.kinds.iter().map(|(_, t)| t.weight).sum());
    let mut next = began;
    while began.elapsed() < time {
        check()?;
        let mut at = client.values.below(weights);
        let chosen = client.kinds.iter().find(|(_, t)| {
            let here = at < t.weight;
            at = at.saturating_sub(t.weight);
            here
        });
        let Some((kind, transaction)) = chosen.copied() else { break };
        let start = now();
        match run(&client.db, &mut client.values, transaction) {
            Ok(rows) => {
                met.rows += rows;
                if let Some(taken) = met.taken_ns.get_mut(kind) {
                    taken.push(since_ns(start));
                }
            }
            Err(error) => count(&mut met, error, transaction)?,
        }
        if let Some(pace) = client.pace {
            // A connection that is late does not hurry afterwards.
            next = (next + pace).max(start);
            pause(next.saturating_duration_since(now()))?;
        }
    }
    let used = crate::usage::own_cpu_ns().zip(before);
    met.cpu_ns = used.map_or(0, |(after, before)| after - before);
    Ok(met)
}

fn run(db: &Connection, values: &mut Values, transaction: &Transaction) -> Result<u64> {
    db.execute_batch(if transaction.deferred { "BEGIN" } else { "BEGIN IMMEDIATE" })?;
    let work = (|| {
        let mut rows = 0;
        for _ in 0..transaction.repeat {
            rows += values.run(db, transaction)?;
        }
        db.execute_batch("COMMIT")?;
        Ok(rows)
    })();
    if !db.is_autocommit() {
        db.execute_batch("ROLLBACK")?;
    }
    work
}

/// Counts an error that an application may meet; returns any other.
fn count(met: &mut Met, error: anyhow::Error, transaction: &Transaction) -> Result<()> {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    match failed(&error) {
        Some(true) => met.stale += 1,
        Some(false) => met.busy += 1,
        None if code == Some(ErrorCode::ConstraintViolation) => met.refused += 1,
        None => return Err(error.context(format!("transaction {:?}", transaction.name))),
    }
    Ok(())
}
