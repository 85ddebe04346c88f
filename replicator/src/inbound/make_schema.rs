//! Makes changes of the schema that other nodes made, inside a savepoint.
//!
//! Arrives: changes, on a connection inside the write transaction. Leaves: the changed schema with
//! triggers and layout that fit, and those changes that decide nothing about rows and failed; or
//! nothing, and the reason. Owns: nothing of another node's text runs unchecked
//! (`db/schema_rehearsal.rs`). The transaction decides what a crash leaves.

use super::schema::Adopted;
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::capture::install;
use crate::capture::schema_changes;
use crate::capture::user_triggers;
use crate::db::connection::{self, DatabaseError};
use crate::db::objects::Objects;
use crate::db::schema_change::SchemaChange;
use crate::db::schema_rehearsal::Rehearsal;
use crate::db::schema_run::{Cause, Failure};
use crate::db::schema_state::{ChangeState, state_among};
use crate::merge::unique_clash;
use crate::model::config::SchemaMode;
use crate::store::{comparisons, kept_tables};
use rusqlite::Connection;
use std::sync::Arc;

/// The result of [`make_inside`].
pub(super) enum Made<'c> {
    /// All that can be made.
    All {
        /// The schema, if it changed.
        adopted: Option<Adopted>,
        /// Those that decide nothing about rows and were not made, each with the reason.
        unmade: Vec<(&'c SchemaChange, String)>,
    },
    /// Nothing, for this reason.
    Impossible(String),
    /// Nothing, because a person has to make one of them here.
    Awaited(String),
}

/// Makes changes inside a savepoint. Unless the schema changed, all is as it was.
///
/// # Errors
/// The error that ends the node, or a temporary lock. The caller rolls back.
pub(super) fn make_inside<'c>(
    tx: &Transaction<'_>,
    changes: &'c [SchemaChange],
    mode: SchemaMode,
) -> Result<Made<'c>, Fatal> {
    connection::run(tx.db, "SAVEPOINT __harmonylite__schema")?;
    let made = make(tx, changes, mode)?;
    if !matches!(made, Made::All { adopted: Some(_), .. }) {
        connection::run(tx.db, "ROLLBACK TO __harmonylite__schema")?;
    }
    connection::run(tx.db, "RELEASE __harmonylite__schema")?;
    Ok(made)
}

fn make<'c>(
    tx: &Transaction<'_>,
    changes: &'c [SchemaChange],
    mode: SchemaMode,
) -> Result<Made<'c>, Fatal> {
    let (db, config) = (tx.db, tx.config);
    let mut objects = Objects::read(db, &config.filter)?;
    let (mut words, mut copies, mut rehearsal) = (Vec::new(), None, None);
    let mut unmade = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        match state_among(&objects, changes, at) {
            ChangeState::Made => continue,
            ChangeState::Contradicts(why) => {
                return Ok(Made::Impossible(format!("cannot {}: {why}", change.words())));
            }
            ChangeState::Open => {}
        }
        if mode == SchemaMode::Additive && !change.is_additive() {
            if !change.alters_tables() {
                continue;
            }
            // Its rows may all fit, the migration tool's own included, which must not be first.
            return Ok(Made::Awaited(format!(
                "waits until you {}: schema.replicate is \"additive\", so run the migration here",
                change.words()
            )));
        }
        if copies.is_none() {
            // They can name what is renamed or dropped.
            copies = Some(user_triggers::drop_copies(db)?);
            unique_clash::forget(db)?;
        }
        kept_tables::keep(db, &objects, change, tx.now.unix_ms)?;
        let mut copy = match rehearsal.take() {
            Some(copy) => copy,
            None => Rehearsal::new(&objects)?,
        };
        match run(db, &mut copy, change)? {
            Ok(()) => rehearsal = Some(copy),
            // The copy may have it, so the next change gets another one.
            Err(failure) if change.plain_object().is_some() => {
                unmade.push((change, failure.cause.words()));
                continue;
            }
            Err(failure) => return Ok(Made::Impossible(failure.to_string())),
        }
        words.push(change.words());
        objects = Objects::read(db, &config.filter)?;
    }
    if words.is_empty() {
        return Ok(Made::All { adopted: None, unmade });
    }
    let (layout, installed) = install::install(db, &config.filter, tx.now.unix_ms)?;
    // What our own statements copied has not changed.
    comparisons::settle(db)?;
    schema_changes::settle(db, &layout, &config.filter)?;
    unique_clash::prepare(db, &layout)?;
    user_triggers::copy_again(db, &copies.unwrap_or_default())?;
    let (layout, installed) = (Arc::new(layout), Arc::new(installed));
    Ok(Made::All { adopted: Some(Adopted { layout, installed, words }), unmade })
}

/// Makes one change, or leaves nothing of it. A lock or a full disk goes by: then the whole
/// transaction is done again.
///
/// # Errors
/// A temporary lock or a full disk; the caller rolls back.
fn run(
    db: &Connection,
    copy: &mut Rehearsal,
    change: &SchemaChange,
) -> Result<Result<(), Failure>, Fatal> {
    connection::run(db, "SAVEPOINT __harmonylite__change")?;
    let ran = match copy.run(db, change) {
        Err(Failure { cause: Cause::Sqlite(error), change, statement }) => {
            let error = DatabaseError::from(error);
            match error {
                DatabaseError::Sqlite(error) => {
                    Err(Failure { cause: Cause::Sqlite(error), change, statement })
                }
                error => return Err(error.into()),
            }
        }
        ran => ran,
    };
    if ran.is_err() {
        connection::run(db, "ROLLBACK TO __harmonylite__change")?;
    }
    connection::run(db, "RELEASE __harmonylite__change")?;
    Ok(ran)
}
