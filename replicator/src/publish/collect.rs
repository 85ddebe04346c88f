//! Turns pending log entries into one batch.
//!
//! Arrives: a wake. Leaves: the encoded batch of everything pending at one commit boundary, or
//! nothing. Owns: one read transaction reads log, versions and rows together, so a batch never
//! holds half of an application's transaction. It only reads, so a crash loses nothing.

use crate::capture::fold::{FoldFrom, Folded, FoldedRows, LastChanges, fold_after, row_exists};
use crate::capture::fold_base::FoldBase;
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::near_rows;
use crate::db::read_digests::ReadDigests;
use crate::model::batch::{BatchHeader, Op, TableHeader, Value};
use crate::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::change_log::{for_each_change_after, nth_entry};
use crate::store::cursor::NO_ROW_MS;
use crate::store::schema_changes;
use crate::wire::encode::{EncodeError, Encoded, Encoder};
use rusqlite::{Connection, params_from_iter};
use std::collections::HashMap;
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
    /// The rows that the entries changed.
    pub folded: FoldedRows,
    /// The digests of rows in it that are not absorbed.
    pub digests: ReadDigests,
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
            drop_changed_later(db, layout, &mut folded.rows, upto)?;
        }
        settle(db, &mut folded.rows)?;
        let contents = Contents::of(&folded, from)?;
        let after = from.fold.sent.max(from.fold.absorbed);
        let mut digests = ReadDigests::new(layout.schema_version, after);
        match write(db, from, layout, &contents, (encoder, &mut digests)) {
            Ok(batch) => {
                let (rows, lowest_ms) = (contents.rows, contents.lowest_ms);
                return Ok(Some(Collected {
                    upto,
                    batch,
                    rows,
                    lowest_ms,
                    folded: folded.rows,
                    digests,
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
    rows: &mut FoldedRows,
    upto: i64,
) -> Result<(), CollectError> {
    for_each_change_after(db, layout.key_columns_max, upto, |_, table, key| {
        let Some(table) = layout.by_id(table) else { return Ok(()) };
        if let Some(at) = rows.find(table, &key[..table.schema.key.len()]) {
            rows.drop_row(at);
        }
        Ok(())
    })?;
    Ok(())
}

/// Finds out which rows are sent, each with its present version.
fn settle(db: &Connection, rows: &mut FoldedRows) -> Result<(), CollectError> {
    let mut key = Vec::new();
    for at in 0..rows.len() {
        let row = rows.get(at);
        if !row.publish {
            continue;
        }
        let mut version = row.version;
        if row.if_gone.is_some() || row.only_if_gone {
            rows.key(at, &mut key);
            let exists = row_exists(db, row.table, &key)?;
            if exists && row.only_if_gone {
                rows.drop_row(at);
                continue;
            }
            if let Some(gone) = row.if_gone.filter(|_| !exists) {
                version = gone;
                rows.is_gone(at);
            }
        }
        // A row without a version is not sent. Its entry asked to republish it, and pruning has
        // removed its version since.
        if version == Version::NONE {
            rows.drop_row(at);
        }
    }
    Ok(())
}

/// The rows of a batch, and what they have in common.
struct Contents<'r> {
    folded: &'r FoldedRows,
    /// The last change of each of them that has one.
    last: &'r LastChanges,
    /// The number of its rows.
    rows: u64,
    /// The lowest time of a row, unix milliseconds.
    lowest_ms: i64,
    /// The tables in the order of their first row, each with the places of its rows.
    tables: Vec<(&'r Arc<TableLayout>, Vec<u32>)>,
    /// The sites of the rows other than the batch's own.
    further_sites: Vec<Site>,
    /// The index of each of them.
    site_index: HashMap<Site, u64>,
}

impl<'r> Contents<'r> {
    /// Looks at the rows to publish.
    ///
    /// # Errors
    /// [`CollectError::TooFarAhead`].
    fn of(folded: &'r Folded, from: &CollectFrom<'_>) -> Result<Self, CollectError> {
        let Folded { rows: folded, last, .. } = folded;
        let mut contents = Self {
            folded,
            last,
            rows: 0,
            lowest_ms: NO_ROW_MS,
            tables: Vec::new(),
            further_sites: Vec::new(),
            site_index: HashMap::new(),
        };
        let mut position: HashMap<i64, usize> = HashMap::new();
        // Mostly the row before has the same table and the same sites.
        let (mut table, mut sites) = ((0, 0), [from.fold.site; 2]);
        for row in folded.published() {
            if row.version.hlc > from.hlc_max {
                let (table, hlc) = (row.table.name().to_owned(), row.version.hlc);
                return Err(CollectError::TooFarAhead { table, hlc });
            }
            if row.table.id != table.0 || contents.tables.is_empty() {
                let at = *position.entry(row.table.id).or_insert_with(|| {
                    contents.tables.push((row.table, Vec::new()));
                    contents.tables.len() - 1
                });
                table = (row.table.id, at);
            }
            contents.tables[table.1].1.push(row.place());
            let named = [row.version.site, row.previous.site];
            if named != sites {
                sites = named;
                let further = |site: &Site| site.0 != 0 && *site != from.fold.site;
                named.into_iter().filter(further).for_each(|site| contents.name_site(site));
            }
            contents.rows += 1;
            contents.lowest_ms = contents.lowest_ms.min(row.version.hlc.ms());
        }
        Ok(contents)
    }

    fn name_site(&mut self, site: Site) {
        if !self.site_index.contains_key(&site) {
            self.further_sites.push(site);
            self.site_index.insert(site, self.further_sites.len() as u64);
        }
    }

    /// Returns a version as a batch names it.
    fn named(&self, version: Version) -> (i64, u64) {
        // Mostly there are none, and looking for one takes longer than the rest.
        let index = match self.further_sites.is_empty() {
            true => None,
            false => self.site_index.get(&version.site),
        };
        (version.hlc.0, index.copied().unwrap_or(0))
    }
}

fn write(
    db: &Connection,
    from: &CollectFrom<'_>,
    layout: &Layout,
    contents: &Contents<'_>,
    (encoder, digests): (&mut Encoder, &mut ReadDigests),
) -> Result<Option<(BatchHeader, Encoded)>, CollectError> {
    // They are in the first batch after them, also if the rows of their transaction need several.
    let announces = !planted(Bug::BookkeepingAhead);
    let schema_changes =
        if announces { schema_changes::after(db, from.fold.sent)? } else { Vec::new() };
    if contents.rows == 0 && schema_changes.is_empty() {
        return Ok(None);
    }
    let header = BatchHeader {
        node: from.node,
        site: from.fold.site,
        number: BatchNo(from.previous.0 + 1),
        previous: from.previous,
        schema_hash: layout.hash,
        created_ms: from.now_ms,
        further_sites: contents.further_sites.clone(),
        schema_changes,
    };
    // A transaction that changed the schema is in this batch or before it. A table header without
    // rows lets a node that lacks the change hold the whole batch: the rows that a migration tool
    // wrote about it must not arrive before it.
    let changed = layout.tables.iter().filter(|t| t.history.changed_at > from.fold.sent);
    let has_rows = |table: &TableLayout| contents.tables.iter().any(|(t, _)| t.id == table.id);
    let without_rows: Vec<_> = changed
        .filter(|table| announces && !has_rows(table))
        .map(|table| (table, &[][..]))
        .collect();
    encoder.begin(&header, (contents.tables.len() + without_rows.len()) as u64)?;
    let with_rows = contents.tables.iter().map(|(table, places)| (*table, &places[..]));
    for (table, places) in with_rows.chain(without_rows) {
        write_table(db, table, places, contents, (encoder, digests))?;
    }
    Ok(Some((header, encoder.finish()?)))
}

fn write_table(
    db: &Connection,
    table: &TableLayout,
    places: &[u32],
    contents: &Contents<'_>,
    (encoder, digests): (&mut Encoder, &mut ReadDigests),
) -> Result<(), CollectError> {
    encoder.table(&TableHeader {
        name: table.name().to_owned(),
        hash: table.schema.hash,
        columns: table.batch_columns.clone(),
        key: table.batch_key.clone(),
        rows: places.len() as u64,
    })?;
    let mut writer = RowWriter { table, contents, encoder, key: Vec::new(), digests };
    let integer_key = |place: &u32| contents.folded.integer_key(*place as usize);
    let all_are_integers = places.iter().all(|place| integer_key(place).is_some());
    if let Some(select) = table.sql.select_from.as_ref().filter(|_| all_are_integers) {
        let mut select = db.prepare_cached(select)?;
        let key_of = |at: usize| integer_key(&places[at]).unwrap_or_default();
        near_rows::visit(&mut select, places.len(), key_of, |at, found| {
            writer.row(places[at], found, 1)
        })
    } else {
        let mut select = db.prepare_cached(&table.sql.select_row)?;
        for place in places {
            contents.folded.key(*place as usize, &mut writer.key);
            let mut found = select.query(params_from_iter(&writer.key))?;
            writer.row(*place, found.next()?, 0)?;
        }
        Ok(())
    }
}

/// Writes the rows of one table.
struct RowWriter<'r> {
    table: &'r TableLayout,
    contents: &'r Contents<'r>,
    encoder: &'r mut Encoder,
    key: Vec<Value>,
    digests: &'r mut ReadDigests,
}

impl RowWriter<'_> {
    /// Writes the row that stands there, whose columns in batch order begin with `first`; without
    /// one, that it is deleted.
    fn row(
        &mut self,
        place: u32,
        found: Option<&rusqlite::Row<'_>>,
        first: usize,
    ) -> Result<(), CollectError> {
        let row = self.contents.folded.get(place as usize);
        let named = |version| self.contents.named(version);
        let (version, previous) = (named(row.version), named(row.previous));
        if let Some(current) = found {
            let columns = self.table.batch_columns.len();
            self.encoder.row(version, previous, Op::Upsert, columns)?;
            let (last, mut digest) = (self.contents.last.get(row.at), 0_i64);
            for (i, digested) in self.table.digested.iter().enumerate() {
                let value = current.get_ref(first + i)?;
                self.encoder.value(value)?;
                if let (Some(_), Some(at)) = (last, *digested) {
                    digest = digest.wrapping_add(self.table.digest.part(at, value));
                }
            }
            if let Some(entry) = last {
                self.digests.note(entry, digest);
            }
        } else {
            self.contents.folded.key(row.at, &mut self.key);
            self.encoder.row(version, previous, Op::Delete, self.key.len())?;
            for value in &self.key {
                self.encoder.value(value.into())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
