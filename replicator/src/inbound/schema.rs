//! Follows the schema for the writing actor: layout, triggers, preparation of the connection.
//!
//! Arrives: a database whose schema may have changed. Leaves: triggers and a [`Layout`] that fit,
//! in a separate transaction. Owns: nothing is written with an old layout. A crash before the
//! commit leaves the previous triggers; the next start compares them with the schema.

use super::adopt_schema::Adopted;
use super::transaction::check_content;
use crate::actor::Fatal;
use crate::capture::install::{self, Installed};
use crate::capture::schema_changes::{self, Carry};
use crate::capture::user_triggers;
use crate::db::layout::Layout;
use crate::merge::unique_clash;
use crate::model::config::{NodeConfig, Now, SchemaMode};
use crate::store::change_log;
use crate::store::install::{create_tables, missing_tables};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::HashSet;
use std::sync::Arc;

/// The followed schema.
pub(super) struct FollowedSchema {
    /// The present layout.
    pub(super) layout: Arc<Layout>,
    /// Whether the schema differs from the layout, or was not compared yet.
    pub(super) moved: bool,
    /// The schema version for which the connection's TEMP triggers and probes were made.
    prepared: i64,
    /// Tables with a logged warning.
    warned_null_keys: HashSet<String>,
    /// When held batches that carry changes of the schema are tried again, and how long after the
    /// last time, milliseconds of the monotone clock.
    retry: (u64, u64),
}

/// The first interval of [`FollowedSchema::retries_held`], and the longest: trying again consumes
/// everything since the held batch.
const RETRY_MS: (u64, u64) = (15_000, 600_000);

impl FollowedSchema {
    /// Starts with an installed layout. The connection is not prepared yet.
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout: Arc::new(layout),
            moved: true,
            prepared: -1,
            warned_null_keys: HashSet::new(),
            retry: (u64::MAX, RETRY_MS.0),
        }
    }

    /// Compares the schema version with the layout.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn look(&mut self, db: &Connection) -> Result<(), Fatal> {
        let version = self.layout.schema_version;
        self.moved = install::schema_version(db)? != version || self.prepared != version;
        Ok(())
    }

    /// Reinstalls the triggers if the schema changed. True if there is a new layout. For `writes`
    /// see [`check_content`].
    ///
    /// # Errors
    /// The error that ends the node, or a temporary lock; the caller then calls it again.
    pub(super) fn follow(
        &mut self,
        db: &mut Connection,
        config: &NodeConfig,
        writes: i64,
        now: Now,
    ) -> Result<bool, Fatal> {
        if !std::mem::take(&mut self.moved) {
            return Ok(false);
        }
        let result = self.follow_moved(db, config, writes, now);
        self.moved = result.is_err();
        result
    }

    fn follow_moved(
        &mut self,
        db: &mut Connection,
        config: &NodeConfig,
        writes: i64,
        now: Now,
    ) -> Result<bool, Fatal> {
        let changed = install::schema_version(db)? != self.layout.schema_version;
        if changed {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            check_content(&transaction, writes)?;
            let log_lost = restore_tables(&transaction, config)?;
            let (layout, installed) = install::install(&transaction, &config.filter, now.unix_ms)?;
            if log_lost {
                install::compare_all(&transaction, &layout, now.unix_ms)?;
            }
            note_change(&transaction, &layout, config, now)?;
            transaction.commit()?;
            report_installed(&installed);
            self.layout = Arc::new(layout);
        }
        Ok(changed)
    }

    /// Takes over the commit of changes that came with batches of other nodes. The connection was
    /// prepared for them only as far as the batch needed it.
    pub(super) fn adopted(&mut self, adopted: &Adopted) {
        for change in &adopted.words {
            tracing::info!(change, "made a change of the schema that another node had made");
        }
        report_installed(&adopted.installed);
        self.layout = Arc::clone(&adopted.layout);
        self.moved = true;
    }

    /// Prepares the connection for the layout: copies of user triggers that write only to tables
    /// that are not replicated, and the probes for unique clashes.
    ///
    /// # Errors
    /// SQLite's error. The caller then calls it again.
    pub(super) fn prepare(&mut self, db: &mut Connection) -> Result<(), Fatal> {
        if self.prepared == self.layout.schema_version {
            return Ok(());
        }
        let layout = Arc::clone(&self.layout);
        let (_, failed) =
            user_triggers::copy_to_temp(db, &|table| layout.by_name(table).is_some())?;
        for trigger in failed {
            tracing::warn!(
                trigger,
                "this trigger calls functions of the application; it does not fire for rows of \
                other nodes"
            );
        }
        unique_clash::prepare(db, &layout)?;
        self.prepared = layout.schema_version;
        Ok(())
    }

    /// Returns whether held batches are tried again now: rows that a carried change did not fit can
    /// have been corrected since. `held`: some origin is held.
    pub(super) fn retries_held(&mut self, held: bool, now: Now) -> bool {
        let (due_ms, wait_ms) = self.retry;
        match (held, due_ms) {
            (false, _) => self.retry = (u64::MAX, RETRY_MS.0),
            (true, u64::MAX) => self.retry = (now.mono_ms + wait_ms, wait_ms),
            (true, due_ms) if now.mono_ms >= due_ms => {
                let longer_ms = (wait_ms * 2).min(RETRY_MS.1);
                self.retry = (now.mono_ms + longer_ms, longer_ms);
                return true;
            }
            (true, _) => {}
        }
        false
    }

    /// Warns once about a table with rows that have no identity.
    pub(super) fn warn_null_keys(&mut self, table: &str) {
        if self.warned_null_keys.insert(table.to_owned()) {
            tracing::warn!(
                table,
                "rows with NULL in the primary key have no identity and are not replicated"
            );
        }
    }
}

/// Stores what changed in the schema, so that it travels, if the configuration wants that.
///
/// # Errors
/// SQLite's error.
pub(super) fn note_change(
    db: &Connection,
    layout: &Layout,
    config: &NodeConfig,
    now: Now,
) -> Result<(), Fatal> {
    let mode = if config.publish { config.schema_mode } else { SchemaMode::Off };
    let carry = Carry { mode, filter: &config.filter, limits: &config.limits };
    Ok(schema_changes::note(db, layout, carry, now.unix_ms)?)
}

/// Creates our tables again that somebody dropped (schema tools do that). Returns whether the log
/// was among them: changes that it held are known only from a comparison.
fn restore_tables(db: &Connection, config: &NodeConfig) -> Result<bool, Fatal> {
    let missing = missing_tables(db)?;
    if missing.is_empty() {
        return Ok(false);
    }
    create_tables(db, &config.path)?;
    tracing::error!(
        tables = missing.join(", "),
        "another program dropped internal tables; they are created again. Keep schema tools away \
        from tables whose names begin with __harmonylite__ (docs/schema-changes.md)"
    );
    Ok(missing.iter().any(|name| name == change_log::NAME))
}

/// Logs the changes of an installation.
pub(super) fn report_installed(installed: &Installed) {
    for table in &installed.added {
        tracing::info!(table, "replicating");
    }
    for table in &installed.changed {
        tracing::info!(table, "the schema changed; triggers reinstalled");
    }
    for table in &installed.removed {
        tracing::info!(table, "no longer replicated");
    }
    for (table, reason) in &installed.unable {
        tracing::warn!(
            table,
            reason,
            "this table cannot be replicated: its changes stay on this node"
        );
    }
    for table in &installed.compared {
        tracing::warn!(
            table,
            "the table was rebuilt, and its triggers were away meanwhile; comparing its rows with \
            their digests to find what changed"
        );
    }
    if !installed.foreign_removed.is_empty() {
        tracing::info!(tables = ?installed.foreign_removed, "removed the objects of HarmonyLite \
            (Go) from the database");
    }
}
