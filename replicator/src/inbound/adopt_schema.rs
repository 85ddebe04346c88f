//! Makes the changes of the schema that a batch carries, inside the batch's savepoint.
//!
//! Arrives: the header of a batch, on a connection inside the write transaction. Leaves: the schema
//! of the origin with triggers and layout that fit, or the reason why the batch has to wait. Owns:
//! the changes and the rows of a batch are committed together or not at all. Nothing of another
//! node's text runs unchecked (`db/schema_rehearsal.rs`).

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
use crate::db::schema_state::{ChangeState, state};
use crate::merge::unique_clash;
use crate::model::action::Action;
use crate::model::batch::BatchHeader;
use crate::model::config::SchemaMode;
use crate::store::{self, comparisons, kept_tables, origins};
use std::sync::Arc;

/// The result of [`adopt`].
pub(super) enum Adoption {
    /// Nothing was to be made.
    Nothing,
    /// The schema changed.
    Adopted(Adopted),
    /// Nothing was made, for this reason. The batch waits if its rows do not fit.
    Impossible(String),
    /// The batch waits for a change that a person has to make here.
    Awaited(String),
    /// The bytes are no changes, for this reason.
    Unreadable(String),
}

/// Makes those changes of a batch that are not made yet, if the configuration lets it.
///
/// # Errors
/// The error that ends the node, or a temporary lock. The caller rolls back.
pub(super) fn adopt(tx: &Transaction<'_>, header: &BatchHeader) -> Result<Adoption, Fatal> {
    let mode = tx.config.schema_mode;
    let is_known = || Ok::<_, Fatal>(origins::known_batch(tx.db, header.site)? >= header.number);
    if mode == SchemaMode::Off || header.schema_changes.is_empty() || is_known()? {
        return Ok(Adoption::Nothing);
    }
    let mut changes: Vec<SchemaChange> = Vec::new();
    for bytes in &header.schema_changes {
        match ciborium::from_reader::<Vec<SchemaChange>, _>(&bytes[..]) {
            Ok(made) => changes.extend(made),
            Err(error) => return Ok(Adoption::Unreadable(error.to_string())),
        }
    }
    connection::run(tx.db, "SAVEPOINT __harmonylite__schema")?;
    match make(tx, &changes, mode)? {
        Ok(adopted) => {
            connection::run(tx.db, "RELEASE __harmonylite__schema")?;
            if adopted.is_some() {
                for bytes in &header.schema_changes {
                    store::schema_changes::add_adopted(tx.db, tx.now.unix_ms, bytes)?;
                }
            }
            Ok(adopted.map_or(Adoption::Nothing, Adoption::Adopted))
        }
        Err(unmade) => {
            connection::run(tx.db, "ROLLBACK TO __harmonylite__schema")?;
            connection::run(tx.db, "RELEASE __harmonylite__schema")?;
            Ok(unmade)
        }
    }
}

type Made = Result<Option<Adopted>, Adoption>;

fn make(tx: &Transaction<'_>, changes: &[SchemaChange], mode: SchemaMode) -> Result<Made, Fatal> {
    let (db, config) = (tx.db, tx.config);
    let mut objects = Objects::read(db, &config.filter)?;
    let (mut words, mut copies, mut rehearsal) = (Vec::new(), Vec::new(), None);
    for change in changes {
        match state(&objects, change) {
            ChangeState::Made => continue,
            ChangeState::Contradicts(why) => {
                let reason = format!("cannot {}: {why}", change.words());
                return Ok(Err(Adoption::Impossible(reason)));
            }
            ChangeState::Open => {}
        }
        if mode == SchemaMode::Additive && !change.is_additive() {
            if !change.alters_tables() {
                continue;
            }
            // Its rows may all fit, the migration tool's own included, which must not be first.
            let reason = format!(
                "waits until you {}: schema.replicate is \"additive\", so run the migration here",
                change.words()
            );
            return Ok(Err(Adoption::Awaited(reason)));
        }
        if words.is_empty() {
            // They can name what is renamed or dropped.
            copies = user_triggers::drop_copies(db)?;
            unique_clash::forget(db)?;
        }
        kept_tables::keep(db, &objects, change, tx.now.unix_ms)?;
        if rehearsal.is_none() {
            rehearsal = Some(Rehearsal::new(&objects)?);
        }
        if let Some(Err(failure)) = rehearsal.as_mut().map(|r| r.run(db, change)) {
            return failed(failure);
        }
        words.push(change.words());
        objects = Objects::read(db, &config.filter)?;
    }
    if words.is_empty() {
        return Ok(Ok(None));
    }
    let (layout, installed) = install::install(db, &config.filter, tx.now.unix_ms)?;
    // What our own statements copied has not changed.
    comparisons::settle(db)?;
    schema_changes::settle(db, &layout, &config.filter)?;
    unique_clash::prepare(db, &layout)?;
    user_triggers::copy_again(db, &copies)?;
    let (layout, installed) = (Arc::new(layout), Arc::new(installed));
    Ok(Ok(Some(Adopted { layout, installed, words })))
}

/// A lock or a full disk goes by: the whole transaction is done again. Anything else is the reason
/// why the batch waits.
fn failed(failure: Failure) -> Result<Made, Fatal> {
    let reason = failure.to_string();
    if let Cause::Sqlite(error) = failure.cause {
        let error = DatabaseError::from(error);
        if error.action() == Action::Retry {
            return Err(error.into());
        }
    }
    Ok(Err(Adoption::Impossible(reason)))
}
