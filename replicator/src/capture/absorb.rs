//! Gives every logged change its version before any remote change is applied.
//!
//! Arrives: a write transaction. Leaves: versions for all log entries not absorbed yet. Owns
//! "absorb first": a remote change never comes between a local change and its version. All of it
//! belongs to the caller's transaction, so a crash undoes all of it.

use crate::capture::compare::Compare;
use crate::capture::fold::{FoldFrom, Folded, FoldedRow, FoldedRows, fold, row_exists};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::read_digests::ReadDigests;
use crate::db::row_digest::UNKNOWN;
use crate::model::batch::Value;
use crate::model::ids::{Site, Version};
use crate::store::change_log::{self, for_each_change_after, log_end};
use crate::store::entry_code::KIND_DISPLACED;
use crate::store::versions::Versions;
use crate::store::{meta, schema_changes};
use rusqlite::Connection;
use std::collections::HashSet;

/// The state that the writer keeps from transaction to transaction.
#[derive(Clone, Debug)]
pub struct AbsorbState {
    /// The present incarnation.
    pub site: Site,
    /// All incarnations, the present one included.
    pub own_sites: HashSet<Site>,
    /// Entries up to here are absorbed.
    pub absorbed: i64,
    /// Entries up to here are published.
    pub published: i64,
}

/// What the broker has acknowledged.
#[derive(Clone, Copy, Default)]
pub struct Acknowledged<'a> {
    /// Entries up to here are published.
    pub upto: i64,
    /// The digests of rows that were read for it, in the order of the entries.
    pub digests: &'a [&'a ReadDigests],
}

/// Absorbs the log up to its end, but at most `entries_max` entries. A long outage leaves millions
/// of entries; absorbing them in several transactions keeps the write lock free for the
/// application. Returns the folded rows, and whether the end was reached.
///
/// The acknowledged entries, all of which are absorbed now, are published too, and the caller notes
/// that in this transaction. So they need no previous version, which would be an UPDATE for each.
///
/// # Errors
/// SQLite's error. The caller then rolls back, and drops the changed state.
pub fn absorb(
    db: &Connection,
    layout: &Layout,
    state: &mut AbsorbState,
    acknowledged: Acknowledged<'_>,
    entries_max: i64,
    compare: &Compare,
) -> Result<(Folded, bool), DatabaseError> {
    let end = log_end(db)?;
    if end <= state.absorbed {
        return Ok((Folded::default(), true));
    }
    let upto = end.min(state.absorbed.saturating_add(entries_max));
    let from = FoldFrom {
        site: state.site,
        own_sites: &state.own_sites,
        absorbed: state.absorbed,
        sent: state.absorbed,
        upto,
    };
    let folded = fold(db, layout, &from)?;
    let mut versions = Versions::new(db);
    let mut key = Vec::new();
    let mut range = Range::default();
    let rewritten =
        if upto < end { rewritten_later(db, layout, &folded.rows, upto)? } else { HashSet::new() };
    for row in folded.rows.iter_in_key_order() {
        let changed = folded.last.get(row.at).or(row.if_gone.map(|_| upto));
        let Some(entry) = changed else { continue };
        folded.rows.key(row.at, &mut key);
        if compare.is_before(row.table.id, entry) {
            // Also a version that counted only while the row was gone may have been sent.
            let version = row.if_gone.unwrap_or(row.version);
            versions.put(row.table, &key, version, Some(UNKNOWN))?;
            continue;
        }
        match row.if_gone {
            Some(version) if rewritten.contains(&row.at) || !row_exists(db, row.table, &key)? => {
                versions.put(row.table, &key, version, None)?
            }
            _ if row.unabsorbed => {
                match ReadDigests::find(acknowledged.digests, layout.schema_version, entry) {
                    digest @ Some(_) => versions.put(row.table, &key, row.version, digest)?,
                    None => range.put(&mut versions, &row, &key)?,
                }
            }
            _ => {}
        }
    }
    range.end(&mut versions)?;
    let published = acknowledged.upto.max(state.published);
    let unpublished = folded.previous_of.iter().filter(|(id, _)| *id > published).copied();
    change_log::keep_previous(db, unpublished)?;
    meta::set(db, meta::ABSORBED, upto)?;
    state.absorbed = upto;
    Ok((folded, upto == end))
}

/// Returns the rows that REPLACE may have removed, and that a change after `upto` wrote again. That
/// they exist does not tell that they were never removed, and that change gets a version above the
/// one of the removal, as from the whole log: collect reads it so.
fn rewritten_later(
    db: &Connection,
    layout: &Layout,
    rows: &FoldedRows,
    upto: i64,
) -> Result<HashSet<usize>, DatabaseError> {
    let mut rewritten = HashSet::new();
    if rows.iter().all(|row| row.if_gone.is_none()) {
        return Ok(rewritten);
    }
    for_each_change_after(db, layout.key_columns_max, upto, |kind, table, key| {
        let Some(table) = layout.by_id(table).filter(|_| kind != KIND_DISPLACED) else {
            return Ok(());
        };
        let at = rows.find(table, &key[..table.schema.key.len()]);
        rewritten.extend(at.filter(|at| rows.get(*at).if_gone.is_some()));
        Ok(())
    })?;
    Ok(rewritten)
}

/// Neighbours in a table with an integer key that get the same version: mostly the rows of a
/// millisecond.
#[derive(Default)]
struct Range<'a>(Option<(&'a TableLayout, (i64, i64), Version)>);

impl<'a> Range<'a> {
    /// Stores the version of a row now, or together with those of its neighbours.
    fn put(
        &mut self,
        versions: &mut Versions<'_>,
        row: &FoldedRow<'a>,
        key: &[Value],
    ) -> Result<(), DatabaseError> {
        let [Value::Integer(key)] = *key else {
            return versions.put_stored(row.table, key, row.version);
        };
        if let Some((table, (_, last), version)) = &mut self.0
            && (table.id, *version, last.checked_add(1)) == (row.table.id, row.version, Some(key))
        {
            *last = key;
            return Ok(());
        }
        self.end(versions)?;
        self.0 = Some((row.table, (key, key), row.version));
        Ok(())
    }

    /// Stores what is left.
    fn end(&mut self, versions: &mut Versions<'_>) -> Result<(), DatabaseError> {
        match self.0.take() {
            Some((table, keys, version)) => versions.put_range(table, keys, version),
            None => Ok(()),
        }
    }
}

/// Marks entries as published and removes them, except the last of the log: new ids continue from
/// it.
///
/// # Errors
/// SQLite's error.
pub fn published(db: &Connection, state: &mut AbsorbState, upto: i64) -> Result<(), DatabaseError> {
    debug_assert!(upto <= state.absorbed, "only absorbed entries may go");
    change_log::delete_published(db, upto)?;
    schema_changes::sent(db, upto)?;
    meta::set(db, meta::PUBLISHED, upto)?;
    state.published = upto;
    Ok(())
}

#[cfg(test)]
#[path = "absorb_tests.rs"]
mod tests;
