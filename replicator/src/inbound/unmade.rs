//! Keeps in mind what of another node's migration could not be made here, and tries it again.
//!
//! Arrives: the changes of a batch with the reasons why some were not made. Leaves: notes in their
//! table, which `status` shows, and objects that could be made after all. Owns: an index, a view or
//! a trigger that is missing here is never forgotten before it exists or a node has dropped it. The
//! transaction decides what a crash leaves.

use super::make_schema::{Made, make_inside};
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::capture::follow_unmade;
use crate::db::connection::DatabaseError;
use crate::db::objects::{Objects, exists};
use crate::db::schema_change::SchemaChange;
use crate::db::schema_state::is_undone;
use crate::model::config::SchemaMode;
use crate::model::ids::NodeId;
use crate::store::unmade_objects::{self, Unmade};
use rusqlite::Connection;

/// Notes which of these changes were not made. What was noted before follows them
/// (`capture/follow_unmade.rs`). `error_of` returns why a change was not made. Returns whether
/// something was noted.
///
/// # Errors
/// SQLite's error.
pub(super) fn note(
    tx: &Transaction<'_>,
    node: NodeId,
    changes: &[SchemaChange],
    error_of: impl Fn(&SchemaChange) -> Option<String>,
) -> Result<bool, Fatal> {
    let db = tx.db;
    let objects = Objects::read(db, &tx.config.filter).map_err(DatabaseError::from)?;
    follow_unmade::follow(db, &objects, changes)?;
    let mut any = false;
    for (at, change) in changes.iter().enumerate() {
        let Some(object) = change.plain_object() else { continue };
        match error_of(change) {
            Some(_) if is_undone(change, &changes[at + 1..]) => {}
            Some(_) if exists(db, object.kind, object.name).map_err(DatabaseError::from)? => {}
            Some(error) => {
                let change = follow_unmade::present(&objects, change, &changes[at + 1..]);
                put(db, &Unmade { node, since_ms: tx.now.unix_ms, change, error })?;
                any = true;
            }
            None => unmade_objects::remove(db, object.kind, object.name)?,
        }
    }
    Ok(any)
}

fn put(db: &Connection, unmade: &Unmade) -> Result<(), Fatal> {
    if unmade_objects::put(db, unmade)? {
        tracing::warn!(
            origin = unmade.node.0,
            change = unmade.change.words(),
            error = unmade.error,
            "a migration of another node made this, and it cannot be made here; it is tried again. \
            Make it by hand, or drop it on that node"
        );
    }
    Ok(())
}

/// Tries to make what could not be made, and forgets what exists by now. Sets
/// [`super::after_commit::AfterCommit::unmade_tried`] to whether something is left.
///
/// # Errors
/// The error that ends the node, or a temporary lock. The caller rolls back.
pub(super) fn retry(tx: &mut Transaction<'_>) -> Result<(), Fatal> {
    let mode = tx.config.schema_mode;
    if mode == SchemaMode::Off {
        // No migration is followed here any more.
        unmade_objects::clear(tx.db)?;
        tx.after.unmade_tried = Some(false);
        return Ok(());
    }
    let open = forget_present(tx.db, unmade_objects::all(tx.db)?)?;
    let changes: Vec<SchemaChange> = open.iter().map(|unmade| unmade.change.clone()).collect();
    let made = make_inside(tx, &changes, mode)?;
    if let Made::All { adopted, unmade: failed } = made {
        for (change, error) in failed {
            if let Some(before) = open.iter().find(|unmade| unmade.change == *change) {
                put(tx.db, &Unmade { error, ..before.clone() })?;
            }
        }
        if let Some(adopted) = adopted {
            tx.adopt(adopted);
        }
    }
    let left = forget_present(tx.db, open)?;
    tx.after.unmade_tried = Some(!left.is_empty());
    Ok(())
}

/// Forgets those that exist, and returns the others.
fn forget_present(db: &Connection, all: Vec<Unmade>) -> Result<Vec<Unmade>, Fatal> {
    let mut open = Vec::new();
    for unmade in all {
        match unmade.change.plain_object() {
            Some(o) if exists(db, o.kind, o.name).map_err(DatabaseError::from)? => {
                tracing::info!(change = unmade.change.words(), "this is no longer missing here");
                unmade_objects::remove(db, o.kind, o.name)?;
            }
            _ => open.push(unmade),
        }
    }
    Ok(open)
}

#[cfg(test)]
#[path = "unmade_tests.rs"]
mod tests;
