//! The schema as the writing actor follows it: layout, triggers, what the connection was prepared
//! for.
//!
//! Arrives: a database whose schema may have changed. Leaves: triggers and a [`Layout`] that fit,
//! in a transaction of its own. Owns: nothing is written by an old layout. A crash before its
//! commit leaves the former triggers; the next start compares again.

use super::transaction::check_content;
use crate::actor::Fatal;
use crate::capture::install::{self, Installed};
use crate::capture::user_triggers;
use crate::db::layout::Layout;
use crate::merge::unique_clash;
use crate::model::config::{NodeConfig, Now};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::HashSet;
use std::sync::Arc;

/// The schema that is followed.
pub(super) struct FollowedSchema {
    /// The layout in force.
    pub(super) layout: Arc<Layout>,
    /// The schema differs from the layout, or was not looked at yet.
    pub(super) moved: bool,
    /// The schema version that the connection's TEMP triggers and probes fit.
    prepared: i64,
    /// Tables about which a warning was logged.
    warned_null_keys: HashSet<String>,
}

impl FollowedSchema {
    /// The layout is installed; the connection is not prepared yet.
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout: Arc::new(layout),
            moved: true,
            prepared: -1,
            warned_null_keys: HashSet::new(),
        }
    }

    /// Looks whether somebody changed the schema.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn look(&mut self, db: &Connection) -> Result<(), Fatal> {
        let version = self.layout.schema_version;
        self.moved = install::schema_version(db)? != version || self.prepared != version;
        Ok(())
    }

    /// Installs the triggers again if somebody changed the schema. True: there is a new layout.
    /// `writes`: see [`check_content`].
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
            let (layout, installed) = install::install(&transaction, &config.filter, now.unix_ms)?;
            transaction.commit()?;
            report_installed(&installed);
            self.layout = Arc::new(layout);
        }
        Ok(changed)
    }

    /// Prepares the connection for the layout: user triggers that keep tables that are not
    /// replicated, and the probes for unique clashes.
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
                "this trigger calls what only the application knows; it does not fire for rows \
                that other nodes wrote"
            );
        }
        unique_clash::prepare(db, &layout)?;
        self.prepared = layout.schema_version;
        Ok(())
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

/// Logs what an installation did.
pub(super) fn report_installed(installed: &Installed) {
    for table in &installed.added {
        tracing::info!(table, "replicating");
    }
    for table in &installed.changed {
        tracing::info!(table, "the schema changed; triggers installed anew");
    }
    for table in &installed.removed {
        tracing::info!(table, "not replicated any more");
    }
    for (table, reason) in &installed.unable {
        tracing::warn!(
            table,
            reason,
            "this table cannot be replicated: its changes stay on this node"
        );
    }
    if installed.found_rows > 0 {
        tracing::warn!(
            rows = installed.found_rows,
            "rows written while a table was made over were found without a version and are \
            published"
        );
    }
    if !installed.foreign_removed.is_empty() {
        tracing::info!(tables = ?installed.foreign_removed, "removed what HarmonyLite (Go) left \
            in the database");
    }
}
