//! Knows every committed write and its version, and compares the nodes' rows with them. It computes
//! the versions independently, by the rule of docs/design.md, section 2.

use crate::application::{TABLES, Table, canonical, mark_column, row_expression};
use crate::stored_versions::{Version, condition, exists, stored_version, versions};
use harmonylite::model::batch::Value;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, BTreeSet};

/// (table, key).
pub type Key = (usize, String);

/// A committed write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The row after the write; None if it was deleted.
    pub content: Option<String>,
    /// Earlier contents of the same version, from before a power cut. Other nodes may have seen
    /// them.
    former: Vec<Option<String>>,
    /// The node whose application wrote it.
    pub node: usize,
    log_id: i64,
    /// Whether it must never be lost. After a power cut this is false for a write that was neither
    /// synced nor published.
    pub firm: bool,
}

impl Write {
    /// Returns whether the disk of its node has lost it.
    pub fn is_lost_by_disk(&self) -> bool {
        self.log_id < 0
    }

    fn might_be(&self, row: Option<&String>) -> bool {
        self.content.as_ref() == row || self.former.iter().any(|f| f.as_ref() == row)
    }
}

/// How a write reaches a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It must not be there.
    Never,
    /// It may be there.
    Perhaps,
    /// It must not be lost.
    Always,
}

/// All committed writes.
#[derive(Default)]
pub struct Oracle {
    writes: BTreeMap<Key, BTreeMap<Version, Write>>,
    last_log: BTreeMap<usize, i64>,
    /// The number of committed transactions with changes.
    pub transactions: u64,
}

struct Entry {
    id: i64,
    time: i64,
    kind: i64,
    key: Vec<Value>,
}

/// Reads a fact of a database.
///
/// # Errors
/// SQLite's error.
pub fn meta(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    Ok(db
        .prepare_cached("SELECT value FROM __harmonylite__meta WHERE key = ?1")?
        .query_row([name], |r| r.get(0))
        .optional()?
        .unwrap_or(0))
}

fn last_log(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("SELECT coalesce(max(id), 0) FROM __harmonylite__change_log")?
        .query_row([], |r| r.get(0))
}

/// Returns a row as text, exact to the byte; None if it does not exist.
fn row_text(db: &Connection, table: &Table, key: &[Value]) -> rusqlite::Result<Option<String>> {
    let names: Vec<String> = table.key.iter().map(|k| (*k).to_owned()).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        row_expression(db, table)?,
        table.name_now(db)?,
        condition(&names, 1)
    );
    db.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(key), |r| r.get(0)).optional()
}

/// Returns the rows of a table by key.
pub fn rows(db: &Connection, table: &Table) -> rusqlite::Result<BTreeMap<String, String>> {
    if !exists(db, table, table.name)? {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT {}, {} FROM {}",
        row_expression(db, table)?,
        table.key.join(", "),
        table.name_now(db)?
    );
    let mut read = db.prepare_cached(&sql)?;
    let found = read.query_map([], |r| {
        let key: Vec<Value> = (0..table.key.len())
            .map(|i| r.get_ref(i + 1).map(Value::from))
            .collect::<rusqlite::Result<_>>()?;
        Ok((canonical(table, &key), r.get(0)?))
    })?;
    found.collect()
}

/// Finds a pair of rows that is not whole. Both rows of a pair are always written together.
///
/// # Errors
/// SQLite's error.
pub fn broken_pair(db: &Connection) -> rusqlite::Result<Option<i64>> {
    let mark = mark_column(db)?;
    db.prepare_cached(&format!(
        "SELECT id / 2 FROM pair GROUP BY id / 2 HAVING count(*) <> 2 OR min({mark}) <> \
        max({mark}) LIMIT 1",
    ))?
    .query_row([], |r| r.get(0))
    .optional()
}

impl Oracle {
    /// Records rows that exist before a database joins, or before their table is captured.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn populated(
        &mut self,
        node: usize,
        site: i64,
        db: &Connection,
        since: i64,
        firm: bool,
    ) -> Result<(), String> {
        for (t, table) in TABLES.iter().enumerate().filter(|(_, t)| t.since == since) {
            for (key, content) in rows(db, table).map_err(|e| e.to_string())? {
                let write =
                    Write { content: Some(content), former: Vec::new(), node, log_id: 0, firm };
                self.writes.entry((t, key)).or_default().insert((1, site), write);
            }
        }
        Ok(())
    }

    /// Records that the rows which were there before a node joined must not be lost.
    pub fn populated_stays(&mut self, node: usize) {
        let writes = self.writes.values_mut().flat_map(BTreeMap::values_mut);
        for write in writes.filter(|write| write.node == node && write.log_id == 0) {
            write.firm = true;
        }
    }

    /// Follows the log of a node from its present end.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn follow(&mut self, node: usize, db: &Connection) -> Result<(), String> {
        self.last_log.insert(node, last_log(db).map_err(|e| e.to_string())?);
        Ok(())
    }

    /// Records a commit of a node's application.
    ///
    /// # Errors
    /// A version with two contents.
    pub fn committed(&mut self, node: usize, db: &Connection) -> Result<(), String> {
        self.commit(node, db).map_err(|e| e.to_string())?
    }

    fn commit(&mut self, node: usize, db: &Connection) -> rusqlite::Result<Result<(), String>> {
        let seen = self.last_log.get(&node).copied().unwrap_or(0);
        let (absorbed, site) = (meta(db, "absorbed")?, meta(db, "site")?);
        let mut by_key: BTreeMap<Key, Vec<Entry>> = BTreeMap::new();
        let mut read = db.prepare_cached(
            "SELECT l.id, l.time, CASE WHEN l.code < 0 THEN -l.code & 7 ELSE 0 END, t.name, \
             l.key0, l.key1 FROM (SELECT *, CAST(table_id AS INTEGER) AS code FROM \
             __harmonylite__change_log) AS l JOIN __harmonylite__table AS t ON t.id = CASE WHEN \
             l.code < 0 THEN -l.code >> 3 ELSE l.code END WHERE l.id > ?1 ORDER BY l.id",
        )?;
        let mut entries = read.query([absorbed.min(seen)])?;
        while let Some(r) = entries.next()? {
            let name: String = r.get(3)?;
            let Some(t) = TABLES.iter().position(|t| t.is_named(&name)) else { continue };
            let key: Vec<Value> = (0..TABLES[t].key.len())
                .map(|i| r.get_ref(4 + i).map(Value::from))
                .collect::<rusqlite::Result<_>>()?;
            let time = match r.get_ref(1)? {
                ValueRef::Real(days) => ((days - 2_440_587.5) * 86_400_000.0).round() as i64,
                ms => ms.as_i64()?,
            };
            let entry = Entry { id: r.get(0)?, time, kind: r.get(2)?, key };
            if entry.id > absorbed && entry.kind != 2 {
                by_key.entry((t, canonical(&TABLES[t], &entry.key))).or_default().push(entry);
            }
        }
        let mut changed = false;
        for (key, entries) in by_key {
            let Some(last) = entries.last().filter(|e| e.id > seen) else { continue };
            let table = &TABLES[key.0];
            let content = row_text(db, table, &last.key)?;
            let Some(version) = version_after(
                stored_version(db, table, &last.key)?,
                site,
                &entries,
                content.is_none(),
            ) else {
                continue;
            };
            changed = true;
            let mut write =
                Write { content, former: Vec::new(), node, log_id: last.id, firm: true };
            if let Some(known) = self
                .writes
                .entry(key.clone())
                .or_default()
                .get(&version)
                .filter(|k| k.content != write.content)
            {
                if known.firm && known.log_id < 0 {
                    // A power cut took it from this database, but the stream has it. The database
                    // is about to start a new incarnation, which will give the versions of its
                    // present writes.
                    self.writes
                        .entry(key)
                        .or_default()
                        .insert((version.0, pending_site(node)), write);
                    continue;
                }
                if known.firm {
                    let contents = (&known.content, &write.content);
                    return Ok(Err(format!(
                        "version {version:?} of {key:?} stands for two contents: {contents:?}"
                    )));
                }
                write.former = known.former.clone();
                write.former.push(known.content.clone());
            }
            self.writes.entry(key).or_default().insert(version, write);
        }
        self.transactions += u64::from(changed);
        self.last_log.insert(node, last_log(db)?);
        Ok(Ok(()))
    }

    /// Records a power cut. The node's database is again at its last sync. Later writes may be
    /// lost, except those that the broker has acknowledged and keeps (log entries up to
    /// `acknowledged`).
    ///
    /// # Errors
    /// SQLite's error.
    pub fn power_cut(
        &mut self,
        node: usize,
        db: &Connection,
        acknowledged: i64,
    ) -> Result<u64, String> {
        let read = |name| meta(db, name).map_err(|e| e.to_string());
        let (end, absorbed, site) =
            (last_log(db).map_err(|e| e.to_string())?, read("absorbed")?, read("site")?);
        let mut lost = 0;
        for (version, write) in
            self.writes.values_mut().flat_map(BTreeMap::iter_mut).filter(|(_, w)| w.node == node)
        {
            let known = write.log_id <= acknowledged;
            if write.log_id > end {
                lost += u64::from(write.firm && !known);
                write.firm &= known;
                // Log ids start again from there.
                write.log_id = -1;
            } else if write.log_id > absorbed {
                // It is still in the log, and gets its version from the incarnation with which the
                // database continues.
                write.firm = version.1 == site || write.firm && known;
            }
        }
        self.last_log.insert(node, end);
        Ok(lost)
    }

    /// Returns the writes of a node that have no version in its database yet.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn unsent(
        &self,
        node: usize,
        db: &Connection,
    ) -> Result<Vec<(Key, Version, Write)>, String> {
        let read = |name| meta(db, name).map_err(|e| e.to_string());
        let (absorbed, site) = (read("absorbed")?, read("site")?);
        let of_key = |(key, writes): (&Key, &BTreeMap<Version, Write>)| {
            let unsent = writes.iter().filter(|(version, write)| {
                write.node == node
                    && write.log_id > absorbed
                    && (version.1 == site || version.1 == pending_site(node))
            });
            unsent
                .map(|(version, write)| (key.clone(), *version, write.clone()))
                .collect::<Vec<_>>()
        };
        Ok(self.writes.iter().flat_map(of_key).collect())
    }

    /// Records that a node lost its disk and has the image of another, with `unsent` changes, now.
    /// What the broker has acknowledged and keeps (log entries up to `acknowledged`) must not be
    /// lost. Returns how many writes may be.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn disk_lost(
        &mut self,
        node: usize,
        db: &Connection,
        acknowledged: i64,
        unsent: Vec<(Key, Version, Write)>,
    ) -> Result<u64, String> {
        let mut lost = 0;
        for write in self.writes.values_mut().flat_map(BTreeMap::values_mut) {
            if write.node != node || write.log_id < 0 {
                continue;
            }
            let is_known = write.log_id > 0 && write.log_id <= acknowledged;
            lost += u64::from(write.firm && !is_known);
            write.firm &= is_known;
            write.log_id = -1;
        }
        for (key, version, write) in unsent {
            let restored = (version.0, pending_site(node));
            self.writes.entry(key).or_default().insert(restored, Write { node, ..write });
        }
        self.follow(node, db)?;
        Ok(lost)
    }

    /// Records a new incarnation of a node. Changes that were not absorbed yet get their versions
    /// from it. They may have been published under the old one.
    pub fn new_site(&mut self, node: usize, absorbed: i64, from: i64, to: i64) {
        for writes in self.writes.values_mut() {
            let moved: Vec<Version> = writes
                .iter()
                .filter(|(v, w)| {
                    (v.1 == from || v.1 == pending_site(node))
                        && w.node == node
                        && w.log_id > absorbed
                })
                .map(|(v, _)| *v)
                .collect();
            for version in moved {
                if let Some(write) = writes.get_mut(&version) {
                    let renewed = write.clone();
                    write.firm = false;
                    writes.insert((version.0, to), renewed);
                }
            }
        }
    }

    /// Checks the rows of a node. `reach` returns how a write reaches it.
    ///
    /// # Errors
    /// The first lost write, or the first row that nobody wrote.
    pub fn judge(
        &self,
        db: &Connection,
        pruned: bool,
        reach: impl Fn(&Write) -> Reach,
    ) -> Result<(), String> {
        let of_node = |(version, write): (&Version, &Write)| match reach(write) {
            Reach::Never => None,
            Reach::Perhaps => Some((*version, Write { firm: false, ..write.clone() })),
            Reach::Always => Some((*version, write.clone())),
        };
        for (t, table) in TABLES.iter().enumerate() {
            let (rows, versions) = (
                rows(db, table).map_err(|e| e.to_string())?,
                versions(db, table).map_err(|e| e.to_string())?,
            );
            let mut keys: BTreeSet<String> = rows.keys().chain(versions.keys()).cloned().collect();
            keys.extend(self.writes.keys().filter(|(of, _)| *of == t).map(|(_, key)| key.clone()));
            for key in keys {
                let writes = self.writes.get(&(t, key.clone()));
                let writes: BTreeMap<Version, Write> =
                    writes.into_iter().flatten().filter_map(of_node).collect();
                let verdict =
                    judge_row(table, &writes, rows.get(&key), versions.get(&key).copied(), pruned);
                verdict
                    .map_err(|why| format!("{} {key}: {why}; written: {writes:?}", table.name))?;
            }
        }
        Ok(())
    }
}

/// The placeholder for the site that a node does not have yet.
fn pending_site(node: usize) -> i64 {
    -1 - i64::try_from(node).unwrap_or(0)
}

/// Computes max(time, previous + 1), entry by entry. A displaced row counts only if it does not
/// exist. None if the row did not change.
fn version_after(stored: Version, site: i64, entries: &[Entry], gone: bool) -> Option<Version> {
    let (mut real, mut floor, mut changed) = (stored, 0, false);
    for entry in entries {
        let next = (entry.time.max(0) << 16).max(real.0.max(floor) + 1);
        if entry.kind != 1 {
            (real, changed) = ((next, site), true);
        } else {
            floor = next;
        }
    }
    if gone && floor > real.0 { Some((floor, site)) } else { changed.then_some(real) }
}

/// The most compensations of one row after each other. Each has the version just above the deleted
/// one.
const COMPENSATIONS_MAX: i64 = 1_000;

fn judge_row(
    table: &Table,
    writes: &BTreeMap<Version, Write>,
    row: Option<&String>,
    version: Option<Version>,
    pruned: bool,
) -> Result<(), String> {
    let firm = writes.iter().rev().find(|(_, w)| w.firm).map(|(v, _)| *v);
    // The allowed rows where versions do not decide: the last firm write, or a later one that may
    // be lost.
    let since = firm.map_or((0, 0), |firm| if firm.0 == 1 { (1, 0) } else { firm });
    let possible = writes.range(since..).any(|(_, w)| w.content.as_ref() == row);
    let Some(version) = version else {
        // The row was never seen, or its version was pruned.
        let fits = firm.is_none() || pruned && (possible || row.is_none() && table.unique);
        return if fits { Ok(()) } else { Err(format!("it has no version; the row is {row:?}")) };
    };
    // A row without a version got the baseline version from the first node that published it.
    if version.0 == 1 && (pruned || writes.keys().any(|v| v.0 == 1)) && possible {
        return Ok(());
    }
    // What a rebuild wrote before the node had joined gets the baseline version, and nothing shows
    // it to the oracle.
    if version.0 < COMPENSATIONS_MAX && firm.is_none() && table.rebuilt {
        return Ok(());
    }
    if firm.is_some_and(|firm| firm > version) {
        return Err(format!(
            "a committed write is lost: {firm:?} was written, {version:?} {row:?} is there"
        ));
    }
    // The version of a lost write that no other node saw may be used again.
    if let Some(write) = writes.get(&version).filter(|w| w.firm || w.might_be(row)) {
        return if write.content.as_ref() == row || !write.firm {
            Ok(())
        } else {
            Err(format!("version {version:?} has another content: {row:?}"))
        };
    }
    // A migration dropped the row before it was collected: that version then stands for its end,
    // also after a power cut took both from the database.
    if table.dropped && row.is_none() && writes.contains_key(&version) {
        return Ok(());
    }
    let last = writes.range(..version).next_back().map(|(v, _)| *v);
    // A rebuild without one of the former columns gives unchanged rows the next version.
    let derived = table.rebuilt
        && last.is_some_and(|last| {
            version.0 - last.0 <= COMPENSATIONS_MAX && writes[&last].might_be(row)
        });
    let compensation = table.unique
        && row.is_none()
        && last.is_some_and(|last| version.0 - last.0 <= COMPENSATIONS_MAX);
    if compensation || derived {
        return Ok(());
    }
    Err(format!("nobody wrote version {version:?} with {row:?}"))
}
