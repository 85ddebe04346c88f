//! Turns pending log entries into one batch.
//!
//! Arrives: a wake. Leaves: the encoded batch of everything pending at one commit boundary, or
//! nothing. Owns: one read transaction reads log, versions and rows together, so a batch never
//! holds half of an application's transaction. It only reads, so a crash loses nothing.

use crate::capture::fold::{FoldBase, FoldFrom, Folded, FoldedRow, fold_after, row_exists};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::model::batch::{BatchHeader, Op, TableHeader};
use crate::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log::{for_each_change_after, nth_entry};
use crate::store::cursor::NO_ROW_MS;
use crate::store::schema_changes;
use crate::wire::encode::{EncodeError, Encoded, Encoder};
use rusqlite::{Connection, params_from_iter};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The reason why collecting failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// An error of the database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The batch could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The other nodes would refuse the version of a row.
    #[error(
        "nothing is published: a row of table {table} has a version of {} ({hlc}), more than \
        ten years ahead of the broker; the clock of this machine is wrong, or was when the row \
        was written: set the clock right, then run `harmonylite reset-versions`", year(*.hlc)
    )]
    TooFarAhead {
        /// The table.
        table: String,
        /// The time of the version.
        hlc: Hlc,
    },
    /// A single row is larger than a batch may be.
    #[error(
        "a single change is larger than {limit} bytes and cannot be replicated; exclude its \
        table or make the row smaller (log entry {entry})"
    )]
    RowTooLarge {
        /// The limit.
        limit: u64,
        /// The log entry.
        entry: i64,
    },
}

/// Returns the time of a version for people.
fn year(hlc: Hlc) -> String {
    format!("the year {}", 1970 + hlc.ms() / 31_556_952_000)
}

impl From<rusqlite::Error> for CollectError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The input of [`collect`].
#[derive(Debug)]
pub struct CollectFrom<'a> {
    /// The publishing node.
    pub node: NodeId,
    /// The range of log entries to fold; `upto` is the end of the log.
    pub fold: FoldFrom<'a>,
    /// The rows after the published entries that are not absorbed yet.
    pub base: Option<&'a FoldBase>,
    /// The number of the last batch.
    pub previous: BatchNo,
    /// The present time, unix milliseconds.
    pub now_ms: i64,
    /// The most log entries in one batch.
    pub entries_max: u64,
    /// The greatest time of a version that the other nodes accept.
    pub hlc_max: Hlc,
}

/// The result of [`collect`].
#[derive(Debug)]
pub struct Collected {
    /// Log entries up to here are collected.
    pub upto: i64,
    /// The batch; None if no entry asks for publication.
    pub batch: Option<(BatchHeader, Encoded)>,
    /// Rows in it.
    pub rows: u64,
    /// The lowest row time in it, unix milliseconds.
    pub lowest_ms: i64,
    /// The log was cut at a bound, so a transaction may be in two batches.
    pub split: bool,
    /// The log holds more.
    pub more: bool,
}

/// Collects the pending entries inside the caller's read transaction. None if nothing is pending.
///
/// # Errors
/// [`CollectError`].
pub fn collect(
    db: &Connection,
    layout: &Layout,
    from: &CollectFrom<'_>,
    encoder: &mut Encoder,
) -> Result<Option<Collected>, CollectError> {
    let end = from.fold.upto;
    if end <= from.fold.sent {
        return Ok(None);
    }
    let mut most = from.entries_max;
    loop {
        let upto = if end.abs_diff(from.fold.sent) <= most {
            end
        } else {
            nth_entry(db, from.fold.sent, most)?.unwrap_or(end)
        };
        let start = FoldFrom { upto, ..from.fold.clone() };
        let mut folded = fold_after(db, layout, &start, from.base)?;
        if upto < end {
            drop_changed_later(db, layout, &mut folded, upto)?;
        }
        let rows = publishable(db, folded.rows)?;
        if let Some(ahead) = rows.iter().find(|row| row.version.hlc > from.hlc_max) {
            let (table, hlc) = (ahead.table.name().to_owned(), ahead.version.hlc);
            return Err(CollectError::TooFarAhead { table, hlc });
        }
        match write(db, from, layout, &rows, encoder) {
            Ok((batch, lowest_ms)) => {
                return Ok(Some(Collected {
                    upto,
                    batch,
                    rows: rows.len() as u64,
                    lowest_ms,
                    more: upto < end,
                    split: upto < end
                        && (most < from.entries_max
                            || nth_entry(db, from.fold.sent, from.entries_max)?
                                .is_some_and(|id| id < end)),
                }));
            }
            Err(CollectError::Encode(EncodeError::TooLarge { limit })) if most > 1 => {
                // Take half of the entries until the batch fits.
                most = (folded.entries.min(most) / 2).max(1);
                tracing::warn!(
                    limit,
                    entries = most,
                    "a transaction is larger than a batch may be; sending it in pieces, which is \
                    not atomic at the peers"
                );
            }
            Err(CollectError::Encode(EncodeError::TooLarge { limit })) => {
                return Err(CollectError::RowTooLarge { limit, entry: upto });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Drops the rows that have a change after `upto`. Their content is that of the last change, and
/// must not be sent under the version of an earlier change. The batch with the last change sends
/// them.
fn drop_changed_later(
    db: &Connection,
    layout: &Layout,
    folded: &mut Folded,
    upto: i64,
) -> Result<(), CollectError> {
    let here: HashSet<Vec<u8>> =
        folded.rows.iter().map(|row| row.table.canonical(&row.key)).collect();
    let mut later = HashSet::new();
    for_each_change_after(db, layout.key_columns_max, upto, |table, key| {
        let Some(table) = layout.by_id(table) else { return Ok(()) };
        let canonical = table.canonical(&key[..table.schema.key.len()]);
        if here.contains(&canonical) {
            later.insert(canonical);
        }
        Ok(())
    })?;
    folded.rows.retain(|row| !later.contains(&row.table.canonical(&row.key)));
    Ok(())
}

/// Returns the rows to send, each with its present version.
fn publishable(db: &Connection, folded: Vec<FoldedRow>) -> Result<Vec<FoldedRow>, CollectError> {
    let mut rows = Vec::with_capacity(folded.len());
    for mut row in folded.into_iter().filter(|r| r.publish) {
        if row.if_gone.is_some() || row.only_if_gone {
            let exists = row_exists(db, &row.table, &row.key)?;
            if exists && row.only_if_gone {
                continue;
            }
            if let Some(version) = row.if_gone.filter(|_| !exists) {
                row.version = version;
            }
        }
        // A row without a version is not sent. Its entry asked to republish it, and pruning has
        // removed its version since.
        if row.version != Version::NONE {
            rows.push(row);
        }
    }
    Ok(rows)
}

type Written = (Option<(BatchHeader, Encoded)>, i64);

fn write(
    db: &Connection,
    from: &CollectFrom<'_>,
    layout: &Layout,
    rows: &[FoldedRow],
    encoder: &mut Encoder,
) -> Result<Written, CollectError> {
    // They are in the first batch after them, also if the rows of their transaction need several.
    let announces = !planted(Bug::BookkeepingAhead);
    let schema_changes =
        if announces { schema_changes::after(db, from.fold.sent)? } else { Vec::new() };
    if rows.is_empty() && schema_changes.is_empty() {
        return Ok((None, NO_ROW_MS));
    }
    let (further_sites, index) = sites(from.fold.site, rows);
    let header = BatchHeader {
        node: from.node,
        site: from.fold.site,
        number: BatchNo(from.previous.0 + 1),
        previous: from.previous,
        schema_hash: layout.hash,
        created_ms: from.now_ms,
        further_sites,
        schema_changes,
    };
    let mut by_table: Vec<(&Arc<TableLayout>, Vec<&FoldedRow>)> = Vec::new();
    let mut position: HashMap<i64, usize> = HashMap::new();
    for row in rows {
        let at = *position.entry(row.table.id).or_insert_with(|| {
            by_table.push((&row.table, Vec::new()));
            by_table.len() - 1
        });
        by_table[at].1.push(row);
    }
    // A transaction that changed the schema is in this batch or before it. A table header without
    // rows lets a node that lacks the change hold the whole batch: the rows that a migration tool
    // wrote about it must not arrive before it.
    let changed = layout.tables.iter().filter(|t| t.history.changed_at > from.fold.sent);
    for table in changed.filter(|_| announces) {
        if !position.contains_key(&table.id) {
            by_table.push((table, Vec::new()));
        }
    }
    encoder.begin(&header, by_table.len() as u64)?;
    for (table, rows) in by_table {
        write_table(db, table, &rows, &index, encoder)?;
    }
    let lowest_ms = rows.iter().map(|r| r.version.hlc.ms()).min().unwrap_or(NO_ROW_MS);
    Ok((Some((header, encoder.finish()?)), lowest_ms))
}

fn write_table(
    db: &Connection,
    table: &TableLayout,
    rows: &[&FoldedRow],
    index: &HashMap<Site, u64>,
    encoder: &mut Encoder,
) -> Result<(), CollectError> {
    encoder.table(&TableHeader {
        name: table.name().to_owned(),
        hash: table.schema.hash,
        columns: table.batch_columns.clone(),
        key: table.batch_key.clone(),
        rows: rows.len() as u64,
    })?;
    let mut select = db.prepare_cached(&table.sql.select_row)?;
    for row in rows {
        let named = |v: Version| (v.hlc.0, index.get(&v.site).copied().unwrap_or(0));
        let mut found = select.query(params_from_iter(&row.key))?;
        if let Some(current) = found.next()? {
            let columns = table.batch_columns.len();
            encoder.row(named(row.version), named(row.previous), Op::Upsert, columns)?;
            for i in 0..columns {
                encoder.value(current.get_ref(i)?)?;
            }
        } else {
            encoder.row(named(row.version), named(row.previous), Op::Delete, row.key.len())?;
            for value in &row.key {
                encoder.value(value.into())?;
            }
        }
    }
    Ok(())
}

/// Returns the sites of the rows other than the batch's own, and the index of each site.
fn sites(own: Site, rows: &[FoldedRow]) -> (Vec<Site>, HashMap<Site, u64>) {
    let mut index = HashMap::from([(own, 0)]);
    let mut further = Vec::new();
    for site in rows.iter().flat_map(|r| [r.version.site, r.previous.site]).filter(|s| s.0 != 0) {
        index.entry(site).or_insert_with(|| {
            further.push(site);
            further.len() as u64
        });
    }
    (further, index)
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
