//! Turns what the log holds into one batch.
//!
//! Arrives: a wake. Leaves: the encoded batch of everything pending at one commit boundary, or
//! nothing. Owns: one read transaction sees log, versions and rows together, so a batch never holds
//! half of an application's transaction. Reads only: a crash here loses nothing.

use crate::capture::fold::{FoldFrom, Folded, FoldedRow, fold, row_exists};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::model::batch::{BatchHeader, Op, TableHeader};
use crate::model::ids::{BatchNo, NodeId, Site, Version};
use crate::store::change_log::{for_each_change_after, nth_entry};
use crate::store::cursor::NO_ROW_MS;
use crate::wire::encode::{EncodeError, Encoded, Encoder};
use rusqlite::{Connection, params_from_iter};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Why nothing could be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The batch.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// One row alone is larger than a batch may be.
    #[error(
        "one change alone is larger than {limit} bytes and cannot be replicated; exclude its \
        table or make the row smaller (log entry {entry})"
    )]
    RowTooLarge {
        /// The limit.
        limit: u64,
        /// The log entry.
        entry: i64,
    },
}

impl From<rusqlite::Error> for CollectError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What collect needs to know.
#[derive(Debug)]
pub struct CollectFrom<'a> {
    /// Who publishes.
    pub node: NodeId,
    /// Where the fold starts, and where the log ends.
    pub fold: FoldFrom<'a>,
    /// The last batch.
    pub previous: BatchNo,
    /// Unix milliseconds.
    pub now_ms: i64,
    /// At most so many log entries at once.
    pub entries_max: u64,
}

/// What the log came to.
#[derive(Debug)]
pub struct Collected {
    /// Log entries up to here are in it.
    pub upto: i64,
    /// The batch; None if no entry asks for publication.
    pub batch: Option<(BatchHeader, Encoded)>,
    /// Rows in it.
    pub rows: u64,
    /// The lowest row time in it, unix milliseconds.
    pub lowest_ms: i64,
    /// It could not be taken whole: a transaction may be in two batches.
    pub split: bool,
    /// The log holds more.
    pub more: bool,
}

/// Collects what is pending. Inside the caller's read transaction. None: nothing is.
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
        let mut folded = fold(db, layout, &start)?;
        if upto < end {
            drop_changed_later(db, layout, &mut folded, upto)?;
        }
        let rows = publishable(db, folded.rows)?;
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
                // Half of what there is, until it fits.
                most = (folded.entries.min(most) / 2).max(1);
                tracing::warn!(
                    limit,
                    entries = most,
                    "a transaction is larger than max_atomic_bytes; it is sent in pieces and is \
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

/// A piece of the log sends only rows that do not change again behind it: their content is that of
/// the last change, and must not travel under the version of an earlier one. The piece with the
/// last change sends them.
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

/// The rows to be sent, each with the version that it has now.
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
        // A row that was never seen has nothing to say (its entry was a republish of what retention
        // dropped since).
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
    if rows.is_empty() {
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

/// The sites that rows name besides the batch's own, and the index of each.
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
