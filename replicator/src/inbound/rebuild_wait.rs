//! Decides whether a migration tool is rebuilding a table at this moment, so that the schema is not
//! followed yet.
//!
//! Arrives: the schema as it is, the tables as they were, the time. Leaves: whether to wait. Owns:
//! the moments between the statements of a rebuild are not taken for the loss of a table or of its
//! rows, and no wait is without end. Memory only: a start waits for nothing.

use crate::actor::Fatal;
use crate::capture::triggers::table_of_trigger;
use crate::db::layout::Layout;
use crate::db::sql::quote;
use crate::model::rebuilds;
use rusqlite::Connection;
use std::collections::HashSet;

/// How long a table is waited for of which a copy is there.
pub(super) const REBUILD_MS_MAX: u64 = 30_000;

/// What is waited for, and since when, milliseconds of the monotone clock.
#[derive(Debug, Default)]
pub(super) struct RebuildWait {
    /// A copy is there.
    copied_since: Option<u64>,
    /// A table was dropped, and is not there again with rows.
    dropped_since: Option<u64>,
    /// Copies that were left behind.
    left_copies: HashSet<String>,
}

impl RebuildWait {
    /// Whether something is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.copied_since.is_some() || self.dropped_since.is_some()
    }

    /// Looks at the schema. `before`: the tables as the triggers know them; `dropped_ms_max`: how
    /// long a dropped table is waited for.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn look(
        &mut self,
        db: &Connection,
        before: &Layout,
        dropped_ms_max: u64,
        mono_ms: u64,
    ) -> Result<bool, Fatal> {
        let copied = self.copies_are_there(db, mono_ms)?;
        if dropped_ms_max == 0 || copied || !is_dropped(db, before)? {
            self.dropped_since = None;
            return Ok(copied);
        }
        let since = *self.dropped_since.get_or_insert(mono_ms);
        if mono_ms - since >= dropped_ms_max {
            self.dropped_since = None;
        }
        Ok(self.dropped_since.is_some())
    }

    /// Whether the table of a copy is about to be dropped, and to be there again. A copy that stays
    /// longer was left behind.
    fn copies_are_there(&mut self, db: &Connection, mono_ms: u64) -> Result<bool, Fatal> {
        let mut names =
            db.prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'table'")?;
        let names = names.query_map([], |r| r.get::<_, String>(0))?;
        let copies: HashSet<String> = names
            .filter(|n| n.as_ref().map_or(true, |n| rebuilds::is_copy(n)))
            .collect::<Result<_, _>>()?;
        self.left_copies.retain(|copy| copies.contains(copy));
        if copies.len() == self.left_copies.len() {
            self.copied_since = None;
            return Ok(false);
        }
        let since = *self.copied_since.get_or_insert(mono_ms);
        if mono_ms - since < REBUILD_MS_MAX {
            return Ok(true);
        }
        tracing::warn!(
            tables = ?copies,
            "a migration tool has made these tables to rebuild others, and they are still there: \
            the migration has failed, or takes long; replication goes on without them"
        );
        self.copied_since = None;
        self.left_copies = copies;
        Ok(false)
    }
}

/// Whether a table was dropped with its triggers, and is away or empty. Some tools keep its rows
/// elsewhere for a moment and commit in between: in a TEMP table (Laravel, Doctrine), or in a table
/// with any name (Sequelize).
fn is_dropped(db: &Connection, before: &Layout) -> Result<bool, Fatal> {
    let mut read =
        db.prepare_cached("SELECT type, name FROM main.sqlite_schema WHERE type <> 'index'")?;
    let rows = read.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let objects: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    // One pass: there may be thousands of tables, each with six triggers.
    let triggers = objects.iter().filter(|(kind, _)| kind == "trigger");
    let with_triggers: HashSet<String> = triggers
        .filter_map(|(_, name)| table_of_trigger(name).map(str::to_ascii_lowercase))
        .collect();
    for table in &before.tables {
        let name = table.name();
        if with_triggers.contains(&name.to_ascii_lowercase()) {
            continue;
        }
        let is_there =
            objects.iter().any(|(kind, n)| kind == "table" && n.eq_ignore_ascii_case(name));
        let any = format!("SELECT EXISTS (SELECT 1 FROM main.{})", quote(name));
        if !is_there || !db.query_row(&any, [], |r| r.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}
