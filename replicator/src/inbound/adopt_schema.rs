//! Makes the changes of the schema that a batch carries, inside the batch's transaction.
//!
//! Arrives: the header of a batch, on a connection inside the write transaction. Leaves: the schema
//! of the origin with triggers and layout that fit, or the reason why the batch has to wait; what
//! decides nothing about rows and cannot be made is noted (`unmade.rs`). Owns: the changes and the
//! rows of a batch are committed together or not at all. Nothing of another node's text runs
//! unchecked (`db/schema_rehearsal.rs`).

use super::make_schema::{Made, make_inside};
use super::schema::Adopted;
use super::transaction::Transaction;
use super::unmade;
use crate::actor::Fatal;
use crate::db::schema_change::{ChangeSet, SchemaChange};
use crate::model::batch::BatchHeader;
use crate::model::config::SchemaMode;
use crate::store::{origins, schema_changes};

/// The result of [`adopt`].
pub(super) enum Adoption {
    /// What can be made is made.
    Made {
        /// The schema, if it changed.
        adopted: Option<Adopted>,
        /// Whether an index, a view or a trigger was not made.
        unmade: bool,
    },
    /// Nothing was made, for this reason. The batch waits if its rows do not fit.
    Impossible(Impossible),
    /// The batch waits for a change that a person has to make here.
    Awaited(String),
    /// The bytes are no changes, for this reason.
    Unreadable(String),
}

/// Changes of which none was made.
pub(super) struct Impossible {
    /// The reason.
    pub(super) reason: String,
    /// All of them.
    pub(super) changes: Vec<SchemaChange>,
}

/// Makes those changes of a batch that are not made yet, if the configuration lets it. What came
/// already is passed over, whatever became of it since.
///
/// # Errors
/// The error that ends the node, or a temporary lock. The caller rolls back.
pub(super) fn adopt(tx: &Transaction<'_>, header: &BatchHeader) -> Result<Adoption, Fatal> {
    let mode = tx.config.schema_mode;
    let is_known = || Ok::<_, Fatal>(origins::known_batch(tx.db, header.site)? >= header.number);
    let nothing = || Ok(Adoption::Made { adopted: None, unmade: false });
    if mode == SchemaMode::Off || header.schema_changes.is_empty() || is_known()? {
        return nothing();
    }
    let kept = schema_changes::kept(tx.db)?;
    let news: Vec<&Vec<u8>> = header.schema_changes.iter().filter(|b| !kept.contains(*b)).collect();
    if news.is_empty() {
        return nothing();
    }
    let mut changes: Vec<SchemaChange> = Vec::new();
    for bytes in &news {
        match ciborium::from_reader(&bytes[..]) {
            Ok(ChangeSet(_, made)) => changes.extend(made),
            Err(error) => return Ok(Adoption::Unreadable(error.to_string())),
        }
    }
    let (adopted, unmade) = match make_inside(tx, &changes, mode)? {
        Made::All { adopted, unmade } => (adopted, unmade),
        Made::Impossible(reason) => {
            return Ok(Adoption::Impossible(Impossible { reason, changes }));
        }
        Made::Awaited(reason) => return Ok(Adoption::Awaited(reason)),
    };
    for bytes in news {
        schema_changes::add_adopted(tx.db, tx.now.unix_ms, bytes)?;
    }
    let unmade = unmade::note(tx, header.node, &changes, |change| {
        unmade.iter().find(|(failed, _)| *failed == change).map(|(_, error)| error.clone())
    })?;
    Ok(Adoption::Made { adopted, unmade })
}
