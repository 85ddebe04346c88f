//! Follows the schema for the writing actor: layout, triggers, preparation of the connection.
//!
//! Arrives: a database whose schema may have changed. Leaves: triggers and a [`Layout`] that fit,
//! in a separate transaction. Owns: nothing is written with an old layout. A crash before the
//! commit leaves the previous triggers; the next start compares them with the schema.

use super::durable::check_content;
use super::rebuild_wait::RebuildWait;
use super::unmade_retry::UnmadeRetry;
use crate::actor::Fatal;
use crate::capture::id_ranges;
use crate::capture::install::{self, Installed};
use crate::capture::installation::{Installation, Progress, STEP_VISITS};
use crate::capture::schema_changes::{self, Carry};
use crate::capture::user_triggers::{self, SilentTrigger};
use crate::db::connection::{DatabaseError, read_schema};
use crate::db::layout::Layout;
use crate::merge::unique_clash;
use crate::model::config::{NodeConfig, Now, SchemaMode};
use crate::store::change_log;
use crate::store::install::{create_tables, missing_tables};
use rusqlite::{Connection, TransactionBehavior};
use std::sync::Arc;
use std::time::Duration;

/// The pause between two steps of an installation, in which the application gets the write lock:
/// SQLite's busy handler sleeps 50 ms at most between its tries in the first 228.
const BETWEEN_STEPS: Duration = Duration::from_millis(55);
/// How often the start asks for the write lock, each time for as long as the connection waits.
const LOCK_ATTEMPTS_MAX: u32 = 6;

/// A schema that was changed for a batch.
#[derive(Clone, Debug)]
pub(super) struct Adopted {
    /// The layout after the changes.
    pub(super) layout: Arc<Layout>,
    /// What was installed for it, for the log.
    pub(super) installed: Arc<Installed>,
    /// The changes in words.
    pub(super) words: Vec<String>,
}

/// The followed schema.
pub(super) struct FollowedSchema {
    /// The present layout.
    pub(super) layout: Arc<Layout>,
    /// Whether the schema differs from the layout, or was not compared yet.
    pub(super) moved: bool,
    /// The installation under way, between two of its steps.
    installing: Option<Installation>,
    /// A rebuild of a migration tool that is waited for.
    rebuild: RebuildWait,
    /// The schema version for which the connection's TEMP triggers and probes were made.
    prepared: i64,
    /// Triggers of the application that do not fire for rows of other nodes, and why.
    pub(super) silent_triggers: Vec<SilentTrigger>,
    /// When what could not be made of other nodes' migrations is tried again.
    pub(super) unmade: UnmadeRetry,
    /// When held batches that carry changes of the schema are tried again, and how long after the
    /// last time, milliseconds of the monotone clock.
    retry: (u64, u64),
}

/// The first interval of [`FollowedSchema::retries_held`], and the longest: trying again consumes
/// everything since the held batch.
const RETRY_MS: (u64, u64) = (15_000, 600_000);

impl FollowedSchema {
    /// Starts with an installed layout. The connection is not prepared yet.
    pub(super) fn new(layout: Layout, unmade: UnmadeRetry) -> Self {
        Self {
            unmade,
            layout: Arc::new(layout),
            moved: true,
            installing: None,
            rebuild: RebuildWait::default(),
            prepared: -1,
            silent_triggers: Vec::new(),
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

    /// Reinstalls the triggers if the schema changed, or does one step of that. True if there is a
    /// new layout. For `writes` see [`check_content`].
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
        let before = install::schema_version(db)?;
        let result = match self.follow_moved(db, config, writes, now) {
            // Another connection changed the schema between two statements of ours, so that what
            // the first one found was gone.
            Err(error) if is_of_sql(&error) && install::schema_version(db)? != before => Ok(false),
            followed => followed,
        };
        self.moved = match result {
            Ok(true) => false,
            Ok(false) => {
                self.is_installing() || install::schema_version(db)? != self.layout.schema_version
            }
            Err(_) => true,
        };
        result
    }

    /// Whether an installation has more steps to do, or waits. Until then there is no layout that
    /// fits.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some() || self.rebuild.is_waiting()
    }

    /// Drops the TEMP triggers of this connection: they may name tables that have other names now,
    /// and then no table could be altered.
    fn forget_temporary(&mut self, db: &Connection) -> Result<(), Fatal> {
        self.prepared = -1;
        user_triggers::drop_copies(db)?;
        unique_clash::forget(db)?;
        Ok(())
    }

    fn follow_moved(
        &mut self,
        db: &mut Connection,
        config: &NodeConfig,
        writes: i64,
        now: Now,
    ) -> Result<bool, Fatal> {
        let changed = install::schema_version(db)? != self.layout.schema_version;
        if !changed && !self.is_installing() {
            return Ok(false);
        }
        let dropped_ms_max = config.limits.dropped_table_wait_ms;
        if self.rebuild.look(db, &self.layout, dropped_ms_max, now.mono_ms)? {
            std::thread::park_timeout(BETWEEN_STEPS);
            return Ok(false);
        }
        self.forget_temporary(db)?;
        if !self.is_installing() && !missing_tables(db)?.is_empty() {
            self.layout = Arc::new(install_again(db, config, writes, now)?);
            return Ok(true);
        }
        let mut installing = match self.installing.take() {
            Some(under_way) => under_way,
            None => Installation::read(db, &config.filter)?,
        };
        let transaction = match begin(db) {
            Ok(transaction) => transaction,
            Err(error) => {
                self.installing = Some(installing);
                return Err(error.into());
            }
        };
        check_content(&transaction, writes)?;
        let progress = installing.step(&transaction, now.unix_ms, STEP_VISITS)?;
        if progress == Progress::Done {
            end_last_step(&transaction, &installing, config, now)?;
        }
        transaction.commit()?;
        match progress {
            Progress::Moved => Ok(false),
            Progress::More => {
                self.installing = Some(installing);
                std::thread::park_timeout(BETWEEN_STEPS);
                Ok(false)
            }
            Progress::Done => {
                let layout = end(db, installing)?;
                self.layout = Arc::new(layout);
                Ok(true)
            }
        }
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
    /// that are not replicated, and the probes for unique clashes. If the schema changes meanwhile,
    /// it has moved again.
    ///
    /// # Errors
    /// SQLite's error. The caller then calls it again.
    pub(super) fn prepare(&mut self, db: &mut Connection) -> Result<(), Fatal> {
        if self.prepared == self.layout.schema_version {
            return Ok(());
        }
        let version = self.layout.schema_version;
        match self.prepare_for_layout(db) {
            Err(error) if is_of_sql(&error) && install::schema_version(db)? != version => {
                self.moved = true;
                Ok(())
            }
            prepared => prepared,
        }
    }

    fn prepare_for_layout(&mut self, db: &mut Connection) -> Result<(), Fatal> {
        let layout = Arc::clone(&self.layout);
        let (_, failed) =
            user_triggers::copy_to_temp(db, &|table| layout.by_name(table).is_some())?;
        for (trigger, reason) in &failed {
            tracing::warn!(
                trigger,
                reason,
                "this trigger calls functions of the application; it does not fire for rows of \
                other nodes"
            );
        }
        self.silent_triggers = failed;
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
}

/// Whether SQLite could not run a statement: not a lock, and not the disk.
fn is_of_sql(error: &Fatal) -> bool {
    matches!(error, Fatal::Database(DatabaseError::Sqlite(_)))
}

/// What belongs into the transaction of the last step. Stores what changed in the schema, so that
/// it travels, if the configuration wants that: a batch must not leave before. A table that is new
/// or was rebuilt counts in a block of this node.
///
/// # Errors
/// SQLite's error.
fn end_last_step(
    db: &Connection,
    installation: &Installation,
    config: &NodeConfig,
    now: Now,
) -> Result<(), Fatal> {
    let mode = if config.publish { config.schema_mode } else { SchemaMode::Off };
    let carry = Carry { mode, filter: &config.filter, limits: &config.limits };
    let layout = || install::layout_of(db, installation.version(), installation.schema().clone());
    schema_changes::note(db, layout, carry, now.unix_ms)?;
    if let Some(ranges) = &config.id_ranges {
        id_ranges::keep(db, &layout()?, ranges)?;
    }
    Ok(())
}

/// Takes the write lock.
fn begin(db: &mut Connection) -> Result<rusqlite::Transaction<'_>, DatabaseError> {
    read_schema(db)?;
    Ok(db.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

fn end(db: &Connection, installation: Installation) -> Result<Layout, Fatal> {
    let version = installation.version();
    let (schema, installed) = installation.end(db)?;
    report_installed(&installed);
    Ok(install::layout_of(db, version, schema)?)
}

/// Installs everything in bounded steps, with pauses in which the application can write.
///
/// # Errors
/// SQLite's error, also if the write lock is out of reach for long.
pub(super) fn install_in_steps(
    db: &mut Connection,
    config: &NodeConfig,
    now: Now,
) -> Result<Layout, Fatal> {
    let mut installation = Installation::read(db, &config.filter)?;
    let mut attempts = 0;
    loop {
        let transaction = match begin(db) {
            Err(DatabaseError::Busy) if attempts < LOCK_ATTEMPTS_MAX => {
                attempts += 1;
                continue;
            }
            begun => begun?,
        };
        attempts = 0;
        let progress = installation.step(&transaction, now.unix_ms, STEP_VISITS)?;
        if progress == Progress::Done {
            end_last_step(&transaction, &installation, config, now)?;
        }
        transaction.commit()?;
        match progress {
            Progress::Done => return end(db, installation),
            Progress::More => std::thread::park_timeout(BETWEEN_STEPS),
            Progress::Moved => installation = Installation::read(db, &config.filter)?,
        }
    }
}

/// Creates our tables again that somebody dropped (schema tools do that), and installs everything,
/// in one transaction. If the log was among them, changes that it held are known only from a
/// comparison.
fn install_again(
    db: &mut Connection,
    config: &NodeConfig,
    writes: i64,
    now: Now,
) -> Result<Layout, Fatal> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check_content(&transaction, writes)?;
    let log_lost = restore_tables(&transaction, config)?;
    let (layout, installed) = install::install(&transaction, &config.filter, now.unix_ms)?;
    if log_lost {
        install::compare_all(&transaction, &layout, now.unix_ms)?;
    }
    transaction.commit()?;
    report_installed(&installed);
    Ok(layout)
}

/// Creates our tables again that somebody dropped. Returns whether the log was among them.
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

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
