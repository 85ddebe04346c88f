//! Gives every logged change its version, before anything remote is applied.
//!
//! Arrives: a write transaction. Leaves: versions for all log entries not absorbed yet. Owns
//! "absorb first": a remote change can never slip between a local change and its version. Part of
//! the caller's transaction: a crash undoes it whole.

use crate::capture::fold::{FoldFrom, Folded, fold, row_exists};
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::ids::Site;
use crate::store::change_log::{self, log_end};
use crate::store::meta;
use crate::store::versions::Versions;
use rusqlite::Connection;
use std::collections::HashSet;

/// What the writer carries from transaction to transaction.
#[derive(Clone, Debug)]
pub struct AbsorbState {
    /// The present life.
    pub site: Site,
    /// All lives.
    pub own_sites: HashSet<Site>,
    /// Entries up to here are absorbed.
    pub absorbed: i64,
    /// Entries up to here are published; they are about to be removed and need no predecessor kept.
    pub published: i64,
}

/// Absorbs the log up to its end, at most `entries_max` entries of it (a long outage leaves
/// millions: they go in turns, so that the application waits for none of them long). Returns what
/// was folded and whether the end was reached.
///
/// # Errors
/// SQLite's error. The caller then rolls back, and drops the changed state.
pub fn absorb(
    db: &Connection,
    layout: &Layout,
    state: &mut AbsorbState,
    entries_max: i64,
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
    for row in &folded.rows {
        match row.if_gone {
            Some(version) if !row_exists(db, &row.table, &row.key)? => {
                versions.put(&row.table, &row.key, version)?
            }
            _ if row.unabsorbed => versions.put(&row.table, &row.key, row.version)?,
            _ => {}
        }
    }
    let unpublished = folded.previous_of.iter().filter(|(id, _)| *id > state.published).copied();
    change_log::keep_previous(db, unpublished)?;
    meta::set(db, meta::ABSORBED, upto)?;
    state.absorbed = upto;
    Ok((folded, upto == end))
}

/// Marks entries as published and removes them, all but the last of the log: ids must go on from
/// there.
///
/// # Errors
/// SQLite's error.
pub fn published(db: &Connection, state: &mut AbsorbState, upto: i64) -> Result<(), DatabaseError> {
    debug_assert!(upto <= state.absorbed, "only absorbed entries may go");
    change_log::delete_published(db, upto)?;
    meta::set(db, meta::PUBLISHED, upto)?;
    state.published = upto;
    Ok(())
}
