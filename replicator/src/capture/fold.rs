//! Folds the change log into one version for each changed row.
//!
//! Arrives: log entries in log order and the stored versions. Leaves: for each row its version, its
//! previous version, and whether to publish it. Owns the rule of docs/design.md, section 2: the
//! version of the i-th logged change to a row is max(time, previous version + 1), entry by entry.
//! Collect and absorb both use this fold, so they compute the same version at any time. It only
//! reads, so a crash loses nothing.

use crate::capture::row_index::{RowIndex, Vacant};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site, Version};
use crate::model::planted_bugs::{Bug, planted};
pub use crate::store::change_log::log_end;
use crate::store::change_log::{
    KIND_CHANGED, KIND_DISPLACED, KIND_FOUND, KIND_PUBLISH, LogEntry, for_each,
};
use crate::store::versions::Versions;
use rusqlite::{Connection, params_from_iter};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The range of log entries that a fold reads, and the site of the versions that it gives.
#[derive(Clone, Debug)]
pub struct FoldFrom<'a> {
    /// The present incarnation of this database.
    pub site: Site,
    /// All incarnations of this database.
    pub own_sites: &'a HashSet<Site>,
    /// Entries up to here are absorbed: their versions are stored.
    pub absorbed: i64,
    /// Entries up to here are published.
    pub sent: i64,
    /// The fold reads the entries after `min(absorbed, sent)` up to here.
    pub upto: i64,
}

/// One changed row.
#[derive(Debug)]
pub struct FoldedRow {
    /// Its table.
    pub table: Arc<TableLayout>,
    /// Its key as the first of the entries spells it. Later entries may spell an equal key
    /// differently (`COLLATE NOCASE`, 1 and 1.0).
    pub key: Vec<Value>,
    /// Its version after all entries.
    pub version: Version,
    /// Its version if the row does not exist: REPLACE removed it after its last logged change.
    pub if_gone: Option<Version>,
    /// The version that its writer had before the unpublished entries. Equal to `version` if it is
    /// not known.
    pub previous: Version,
    /// The row changed only if it does not exist any more (all its entries are [`KIND_DISPLACED`]).
    pub only_if_gone: bool,
    /// The last entry that gives it a version that is not stored yet.
    pub unabsorbed: Option<i64>,
    /// The row is to be published: it has a new entry, and its version is ours or is to be
    /// republished.
    pub publish: bool,
}

/// The result of a fold.
#[derive(Debug, Default)]
pub struct Folded {
    /// The rows, in the order of their first entry.
    pub rows: Vec<FoldedRow>,
    /// Entries read.
    pub entries: u64,
    /// The number of entries with NULL in the key, by table. Their rows have no identity.
    pub null_keys: HashMap<String, u64>,
    /// The log id of each unabsorbed change, and the version before it.
    pub previous_of: Vec<(i64, Version)>,
}

#[derive(Clone)]
struct State {
    table: Arc<TableLayout>,
    key: Vec<Value>,
    real: Version,
    floor: Hlc,
    previous: Option<Version>,
    changed: bool,
    unabsorbed: Option<i64>,
    displaced: bool,
    republish: bool,
    new: bool,
    /// Only for [`Bug::MergedEntries`].
    merged_from: Version,
}

impl State {
    fn new(table: Arc<TableLayout>, key: Vec<Value>, real: Version) -> Self {
        Self {
            table,
            key,
            real,
            floor: Hlc(0),
            previous: None,
            changed: false,
            unabsorbed: None,
            displaced: false,
            republish: false,
            new: false,
            merged_from: Version::NONE,
        }
    }

    fn next_hlc(&self, time_ms: i64) -> Hlc {
        if planted(Bug::NoPlusOne) {
            return Hlc::from_ms(time_ms).max(self.real.hlc);
        }
        Hlc::from_ms(time_ms).max(self.real.hlc.max(self.floor).next())
    }

    /// A run of our own unpublished writes has one predecessor. A remote row in between starts a
    /// new run.
    fn note_previous(&mut self, candidate: Version, own: &HashSet<Site>) {
        if self.previous.is_none() || !own.contains(&candidate.site) {
            self.previous = Some(candidate);
        }
    }
}

/// The state of the rows after the entries that are published and not absorbed yet. Such entries
/// can be many, because absorbing waits (docs/design.md, section 5a); with this a fold need not
/// read them again at each commit. It holds as long as nothing is absorbed or applied.
#[derive(Default)]
pub struct FoldBase {
    /// The entries up to here are folded.
    upto: i64,
    states: Vec<State>,
    index: RowIndex,
}

impl std::fmt::Debug for FoldBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FoldBase of {} rows up to {}", self.states.len(), self.upto)
    }
}

impl FoldBase {
    /// Creates the state after the absorbed entries.
    pub fn new(absorbed: i64) -> Self {
        Self { upto: absorbed, ..Self::default() }
    }

    /// Returns the last folded entry.
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// Folds the entries up to `from.sent`.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn advance(
        &mut self,
        db: &Connection,
        layout: &Layout,
        from: &FoldFrom<'_>,
    ) -> Result<(), DatabaseError> {
        if from.sent <= self.upto {
            return Ok(());
        }
        let from = FoldFrom { upto: from.sent, ..from.clone() };
        let mut folding = Folding::new(db, layout, &from, None);
        (folding.states, folding.index) =
            (std::mem::take(&mut self.states), std::mem::take(&mut self.index));
        folding.run(self.upto)?;
        (self.states, self.index) = (folding.states, folding.index);
        self.upto = from.upto;
        Ok(())
    }

    fn get(&self, table: &TableLayout, key: &[Value]) -> Option<&State> {
        self.index.get(table, key).map(|at| &self.states[at])
    }
}

/// Folds the log.
///
/// # Errors
/// SQLite's error.
pub fn fold(
    db: &Connection,
    layout: &Layout,
    from: &FoldFrom<'_>,
) -> Result<Folded, DatabaseError> {
    fold_after(db, layout, from, None)
}

/// Folds the log after `base`, which holds for this log and these versions.
///
/// # Errors
/// SQLite's error.
pub fn fold_after(
    db: &Connection,
    layout: &Layout,
    from: &FoldFrom<'_>,
    base: Option<&FoldBase>,
) -> Result<Folded, DatabaseError> {
    let mut folding = Folding::new(db, layout, from, base);
    folding.run(base.map_or(from.absorbed.min(from.sent), |base| base.upto))?;
    let mut folded = folding.folded;
    folded.rows = folding.states.into_iter().map(|state| finish(state, from)).collect();
    Ok(folded)
}

/// A running fold.
struct Folding<'a> {
    db: &'a Connection,
    layout: &'a Layout,
    from: &'a FoldFrom<'a>,
    base: Option<&'a FoldBase>,
    states: Vec<State>,
    index: RowIndex,
    folded: Folded,
}

impl<'a> Folding<'a> {
    fn new(
        db: &'a Connection,
        layout: &'a Layout,
        from: &'a FoldFrom<'a>,
        base: Option<&'a FoldBase>,
    ) -> Self {
        let (states, index, folded) = (Vec::new(), RowIndex::default(), Folded::default());
        Self { db, layout, from, base, states, index, folded }
    }

    /// Folds the entries after `after`.
    fn run(&mut self, after: i64) -> Result<(), DatabaseError> {
        let Self { db, layout, from, base, states, index, folded } = self;
        let mut versions = Versions::new(db);
        for_each(db, layout.key_columns_max, after, from.upto, |entry| {
            folded.entries += 1;
            let Some(table) = layout.by_id(entry.table_id) else { return Ok(()) };
            let key = entry.key(table.schema.key.len())?;
            if key.contains(&Value::Null) {
                *folded.null_keys.entry(table.name().to_owned()).or_default() += 1;
                return Ok(());
            }
            let at = match index.get_or_insert(table, &key, states.len()) {
                Ok(at) => at,
                Err(Vacant) => {
                    states.push(match base.and_then(|base| base.get(table, &key)) {
                        Some(state) => state.clone(),
                        None => {
                            let real = versions.get(table, &key)?;
                            State::new(Arc::clone(table), key, real)
                        }
                    });
                    states.len() - 1
                }
            };
            step(&mut states[at], entry, from, &mut folded.previous_of);
            Ok(())
        })
    }
}

fn step(
    state: &mut State,
    entry: &LogEntry<'_>,
    from: &FoldFrom<'_>,
    previous_of: &mut Vec<(i64, Version)>,
) {
    let new = entry.id > from.sent;
    let absorbed = entry.id <= from.absorbed;
    state.new |= new;
    match entry.kind {
        KIND_CHANGED | KIND_FOUND => {
            state.changed = true;
            if absorbed {
                if let (true, Some(previous)) = (new, entry.previous) {
                    state.note_previous(previous, from.own_sites);
                }
                return;
            }
            if planted(Bug::MergedEntries) && state.unabsorbed.is_some() {
                // This treats the row as written once, at the time of its last entry.
                state.real = state.merged_from;
            }
            let before = state.real;
            state.merged_from = before;
            if new {
                state.note_previous(before, from.own_sites);
            }
            previous_of.push((entry.id, before));
            state.real = Version { hlc: state.next_hlc(entry.time_ms), site: from.site };
            state.unabsorbed = Some(entry.id);
        }
        KIND_DISPLACED => {
            state.displaced = true;
            if absorbed {
                if let (true, Some(previous)) = (new, entry.previous) {
                    state.note_previous(previous, from.own_sites);
                }
            } else {
                // The previous version is kept as for a change. Otherwise the delete of a row that
                // another node wrote would look like a concurrent write on that node.
                if new {
                    state.note_previous(state.real, from.own_sites);
                }
                previous_of.push((entry.id, state.real));
                // Only reading the table shows whether the row was really removed. If it was, this
                // is the version of that delete. If it came back or was never removed, later
                // changes still get a greater version.
                state.floor = state.next_hlc(entry.time_ms);
            }
        }
        KIND_PUBLISH => state.republish = true,
        // Only a later program writes other kinds, and the format number keeps it from using this
        // database.
        _ => {}
    }
}

fn finish(state: State, from: &FoldFrom<'_>) -> FoldedRow {
    let if_gone =
        (state.floor > state.real.hlc).then_some(Version { hlc: state.floor, site: from.site });
    let previous = state.previous.unwrap_or(state.real);
    let ours = if_gone.is_some() || from.own_sites.contains(&state.real.site);
    FoldedRow {
        table: state.table,
        key: state.key,
        version: state.real,
        if_gone,
        previous,
        only_if_gone: state.displaced && !state.changed && !state.republish,
        unabsorbed: state.unabsorbed,
        publish: state.new && (state.republish || ours),
    }
}

/// Returns whether the row exists.
///
/// # Errors
/// SQLite's error.
pub fn row_exists(
    db: &Connection,
    table: &TableLayout,
    key: &[Value],
) -> Result<bool, DatabaseError> {
    Ok(db.prepare_cached(&table.sql.select_key)?.exists(params_from_iter(key))?)
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
