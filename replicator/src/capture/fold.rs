//! Folds the change log into one version for each changed row.
//!
//! Arrives: log entries in log order and the stored versions. Leaves: for each row its version, its
//! previous version, and whether to publish it. Owns the rule of docs/design.md, section 2: the
//! version of the i-th logged change to a row is max(time, previous version + 1), entry by entry.
//! Collect and absorb both use this fold, so they compute the same version at any time. It only
//! reads, so a crash loses nothing.

use crate::capture::fold_base::FoldBase;
use crate::capture::row_index::number_of;
use crate::capture::row_states::{Place, RowStates, State};
use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::read_digests;
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site, Version};
use crate::model::planted_bugs::{Bug, planted};
pub use crate::store::change_log::log_end;
use crate::store::change_log::{LogEntry, for_each};
use crate::store::entry_code::{KIND_CHANGED, KIND_DISPLACED, KIND_FOUND, KIND_PUBLISH};
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

/// One changed row. [`FoldedRows::key`] returns its key.
#[derive(Debug)]
pub struct FoldedRow<'a> {
    /// Its place among the folded rows.
    pub at: usize,
    /// Its table.
    pub table: &'a Arc<TableLayout>,
    /// Its version after all entries.
    pub version: Version,
    /// Its version if the row does not exist: REPLACE removed it after its last logged change.
    pub if_gone: Option<Version>,
    /// The version that its writer had before the unpublished entries. Equal to `version` if it is
    /// not known.
    pub previous: Version,
    /// The row changed only if it does not exist any more (all its entries are [`KIND_DISPLACED`]).
    pub only_if_gone: bool,
    /// It has a version that is not stored yet.
    pub unabsorbed: bool,
    /// The row is to be published: it has a new entry, and its version is ours or is to be
    /// republished.
    pub publish: bool,
}

impl FoldedRow<'_> {
    /// Returns its place in half the bytes.
    pub fn place(&self) -> u32 {
        number_of(self.at)
    }
}

/// The rows of a fold, in the order of their first entry.
pub struct FoldedRows {
    states: RowStates,
    site: Site,
    /// All incarnations of this database.
    own_sites: Vec<Site>,
    /// A row got the version that it has because it does not exist, which the log does not say.
    is_beyond_log: bool,
}

impl Default for FoldedRows {
    fn default() -> Self {
        Self::new(RowStates::default(), Site(0), Vec::new())
    }
}

impl std::fmt::Debug for FoldedRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} folded rows", self.len())
    }
}

impl FoldedRows {
    fn new(states: RowStates, site: Site, own_sites: Vec<Site>) -> Self {
        Self { states, site, own_sites, is_beyond_log: false }
    }

    /// Returns the states of the rows, if they are what the log alone says.
    pub(super) fn into_states(self) -> Option<RowStates> {
        (!self.is_beyond_log).then_some(self.states)
    }

    /// Returns their number.
    pub fn len(&self) -> usize {
        self.states.count()
    }

    /// Returns whether no row changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the row at this place.
    pub fn get(&self, at: usize) -> FoldedRow<'_> {
        let state = self.states.state(at);
        let if_gone =
            (state.floor > state.real.hlc).then_some(Version { hlc: state.floor, site: self.site });
        let ours = || if_gone.is_some() || self.own_sites.contains(&state.real.site);
        let has = |mark| state.has(mark);
        FoldedRow {
            at,
            table: self.states.table(at),
            version: state.real,
            if_gone,
            previous: state.previous.unwrap_or(state.real),
            only_if_gone: has(State::DISPLACED) && !has(State::CHANGED | State::REPUBLISH),
            unabsorbed: has(State::UNABSORBED),
            publish: has(State::NEW) && !has(State::DROPPED) && (has(State::REPUBLISH) || ours()),
        }
    }

    /// Returns the rows.
    pub fn iter(&self) -> impl Iterator<Item = FoldedRow<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Returns the rows in the order of their keys, see [`RowStates::in_key_order`].
    pub fn iter_in_key_order(&self) -> impl Iterator<Item = FoldedRow<'_>> {
        self.states.in_key_order().into_iter().map(|at| self.get(at as usize))
    }

    /// Returns the rows to publish.
    pub fn published(&self) -> impl Iterator<Item = FoldedRow<'_>> {
        self.iter().filter(|row| row.publish)
    }

    /// Reads the key of a row as the first of its entries spells it, into the memory of another
    /// one. Later entries may spell an equal key differently (`COLLATE NOCASE`, 1 and 1.0).
    pub fn key(&self, at: usize, key: &mut Vec<Value>) {
        self.states.key(at, key);
    }

    /// Returns the key of a row, if it is an integer.
    pub fn integer_key(&self, at: usize) -> Option<i64> {
        self.states.integer_key(at)
    }

    /// Returns the place of a row, if it changed.
    pub fn find(&self, table: &TableLayout, key: &[Value]) -> Option<usize> {
        self.states.find(table, key)
    }

    /// Lets a row not be published.
    pub fn drop_row(&mut self, at: usize) {
        let mut state = self.states.state(at);
        state.marks |= State::DROPPED;
        self.states.set_state(at, &state);
    }

    /// Gives a row the version that it has because it does not exist.
    pub fn is_gone(&mut self, at: usize) {
        let FoldedRow { if_gone, previous, .. } = self.get(at);
        let Some(version) = if_gone else { return };
        let state = self.states.state(at);
        // What is gone is ours, and its version is not raised again.
        let gone = State { real: version, previous: Some(previous), floor: Hlc(0), ..state };
        self.states.set_state(at, &gone);
        self.is_beyond_log = true;
    }
}

/// The result of a fold.
#[derive(Default)]
pub struct Folded {
    /// The rows.
    pub rows: FoldedRows,
    /// Entries read.
    pub entries: u64,
    /// The number of entries with NULL in the key, by table. Their rows have no identity.
    pub null_keys: HashMap<String, u64>,
    /// The log id of each unabsorbed change, and the version before it. Only absorb needs it.
    pub previous_of: Vec<(i64, Version)>,
    /// The last change of each row.
    pub last: LastChanges,
}

/// The last entry that gives a row a version that is not stored yet. Collect has it only for rows
/// whose digests it hands to absorb: not for integer keys, which absorb reads in runs.
#[derive(Debug, Default)]
pub struct LastChanges(Vec<i64>);

impl LastChanges {
    fn note(&mut self, at: usize, id: i64) {
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] = id;
    }

    /// Returns the last such entry of the row at this place.
    pub fn get(&self, at: usize) -> Option<i64> {
        self.0.get(at).copied().filter(|id| *id != 0)
    }
}

impl State {
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

/// Folds the log, with what absorb needs.
///
/// # Errors
/// SQLite's error.
pub fn fold(
    db: &Connection,
    layout: &Layout,
    from: &FoldFrom<'_>,
) -> Result<Folded, DatabaseError> {
    let mut folding = Folding::new(db, layout, from, None);
    folding.previous_of = Some(Vec::new());
    folding.run(from.absorbed.min(from.sent))?;
    Ok(folding.finish())
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
    folding.run(base.map_or(from.absorbed.min(from.sent), FoldBase::upto))?;
    Ok(folding.finish())
}

/// A running fold.
pub(super) struct Folding<'a> {
    db: &'a Connection,
    layout: &'a Layout,
    from: &'a FoldFrom<'a>,
    base: Option<&'a FoldBase>,
    pub(super) rows: RowStates,
    entries: u64,
    null_keys: HashMap<String, u64>,
    previous_of: Option<Vec<(i64, Version)>>,
    last: LastChanges,
}

impl<'a> Folding<'a> {
    pub(super) fn new(
        db: &'a Connection,
        layout: &'a Layout,
        from: &'a FoldFrom<'a>,
        base: Option<&'a FoldBase>,
    ) -> Self {
        Self {
            db,
            layout,
            from,
            base,
            rows: RowStates::default(),
            entries: 0,
            null_keys: HashMap::new(),
            previous_of: None,
            last: LastChanges::default(),
        }
    }

    /// Folds the entries after `after`.
    pub(super) fn run(&mut self, after: i64) -> Result<(), DatabaseError> {
        let Self { db, layout, from, base, rows, entries, null_keys, previous_of, last } = self;
        let digests_upto = from.absorbed.saturating_add(read_digests::ENTRIES_MAX);
        let mut versions = Versions::new(db);
        let mut key = Vec::new();
        for_each(db, layout.key_columns_max, after, from.upto, |entry| {
            *entries += 1;
            let Some(table) = layout.by_id(entry.table_id) else { return Ok(()) };
            entry.read_key(table.schema.key.len(), &mut key)?;
            if key.contains(&Value::Null) {
                *null_keys.entry(table.name().to_owned()).or_default() += 1;
                return Ok(());
            }
            let (at, mut state) = match rows.place(table, &key) {
                Place::Known(at) => (at, rows.state(at)),
                Place::New(at) => match base.and_then(|base| base.get(table, &key)) {
                    Some(state) => (at, state),
                    None => (at, State::new(versions.get(table, &key)?)),
                },
            };
            let before = step(&mut state, entry, from);
            rows.set_state(at, &state);
            let Some(before) = before else { return Ok(()) };
            let has_digest = || entry.id <= digests_upto && !matches!(key[..], [Value::Integer(_)]);
            if entry.kind != KIND_DISPLACED && (previous_of.is_some() || has_digest()) {
                last.note(at, entry.id);
            }
            if let Some(previous_of) = previous_of {
                previous_of.push((entry.id, before));
            }
            Ok(())
        })
    }

    fn finish(self) -> Folded {
        Folded {
            rows: FoldedRows::new(
                self.rows,
                self.from.site,
                self.from.own_sites.iter().copied().collect(),
            ),
            entries: self.entries,
            null_keys: self.null_keys,
            previous_of: self.previous_of.unwrap_or_default(),
            last: self.last,
        }
    }
}

/// Takes an entry. Returns the version before it, if it is an unabsorbed change.
fn step(state: &mut State, entry: &LogEntry<'_>, from: &FoldFrom<'_>) -> Option<Version> {
    let new = entry.id > from.sent;
    let absorbed = entry.id <= from.absorbed;
    if new {
        state.marks |= State::NEW;
    }
    match entry.kind {
        KIND_CHANGED | KIND_FOUND => state.marks |= State::CHANGED,
        KIND_DISPLACED => state.marks |= State::DISPLACED,
        KIND_PUBLISH => {
            state.marks |= State::REPUBLISH;
            return None;
        }
        // Only a later program writes other kinds, and the format number keeps it from using this
        // database.
        _ => return None,
    }
    if absorbed {
        if let (true, Some(previous)) = (new, entry.previous) {
            state.note_previous(previous, from.own_sites);
        }
        return None;
    }
    if entry.kind == KIND_DISPLACED {
        // The previous version is kept as for a change. Otherwise the delete of a row that another
        // node wrote would look like a concurrent write on that node.
        if new {
            state.note_previous(state.real, from.own_sites);
        }
        // Only reading the table shows whether the row was really removed. If it was, this is the
        // version of that delete. If it came back or was never removed, later changes still get a
        // greater version.
        state.floor = state.next_hlc(entry.time_ms);
        return Some(state.real);
    }
    if planted(Bug::MergedEntries) {
        if state.has(State::UNABSORBED) {
            // This treats the row as written once, at the time of its last entry.
            state.real = state.merged_from;
        }
        state.merged_from = state.real;
    }
    let before = state.real;
    if new {
        state.note_previous(before, from.own_sites);
    }
    state.real = Version { hlc: state.next_hlc(entry.time_ms), site: from.site };
    state.marks |= State::UNABSORBED;
    Some(before)
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
