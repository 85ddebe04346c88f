//! Applies one batch: decode, admit, apply.
//!
//! Arrives: the bytes of a batch. Leaves: its rows, or only the reason why they cannot be applied.
//! Owns: a batch that fails because of its content changes nothing. Nearly none does, and in a
//! savepoint SQLite keeps a copy of each page before it changes it: a quarter of the time for rows
//! with random keys. So there is one only when a transaction is repeated because of such a batch.

use super::adopt_schema::{Adoption, Impossible, adopt};
use super::batch_body::BatchBody;
use super::schema::Adopted;
use super::transaction::Transaction;
use super::unmade;
use crate::actor::Fatal;
use crate::db::connection;
use crate::db::schema_change::SchemaChange;
use crate::merge::admit::admit;
use crate::merge::apply::{Applied, Applier, ApplyError};
use crate::merge::table_map::TableMap;
use crate::model::action::Action;
use crate::model::batch::{BatchHeader, Op, Row};
use crate::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use crate::store::conflicts::JournalBounds;
use crate::store::cursor::NO_ROW_MS;
use crate::wire::decode::{BatchReader, DecodeError, Outline};
use crate::wire::unpack::{Unpacker, unpacking};
use std::io::BufRead;
use std::sync::Arc;

/// The result of applying a batch.
pub(super) enum Outcome {
    /// Its rows are written, or were already known.
    Applied {
        /// Its header.
        header: BatchHeader,
        /// The counts of its rows.
        applied: Applied,
        /// The lowest row time in it, unix milliseconds.
        lowest_ms: i64,
        /// What it did to the schema.
        brought: Brought,
    },
    /// Its origin has to wait.
    Held {
        /// The reason, for people.
        reason: String,
        /// The header if the schema is the reason; None if this program cannot read the batch.
        header: Option<Box<BatchHeader>>,
    },
    /// It cannot be applied, for this reason.
    Quarantine(String),
}

/// What a batch did to the schema.
#[derive(Default)]
pub(super) struct Brought {
    /// The schema, if it changed. Boxed, because few batches change it.
    pub(super) adopted: Option<Box<Adopted>>,
    /// An index, a view or a trigger was not made.
    pub(super) unmade: bool,
}

/// The sender that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    /// The origin.
    pub(super) node: NodeId,
    /// Its incarnation.
    pub(super) site: Site,
    /// The number of the batch.
    pub(super) batch: BatchNo,
}

/// Where a batch comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The sender that its message names; None if that is not known.
    pub(super) sender: Option<Sender>,
    /// The broker's time of its message, unix milliseconds.
    pub(super) broker_ms: i64,
}

impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch {} of node {}, incarnation {}", self.batch, self.node, self.site)
    }
}

/// The reason why applying a batch ended early.
enum EndedEarly {
    Fatal(Fatal),
    Outcome(Box<Outcome>),
    /// It has to be applied again, with large values kept.
    KeepLarge,
}

/// What becomes of a large value once SQLite has a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    /// It is released, which is right for nearly every batch.
    Release,
    /// It is kept, because a row with one clashes.
    Keep,
}

impl<E: Into<Fatal>> From<E> for EndedEarly {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<Outcome> for EndedEarly {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(Box::new(outcome))
    }
}

fn undecodable(error: &DecodeError) -> EndedEarly {
    match error.action() {
        Action::HoldOrigin => Outcome::Held { reason: error.to_string(), header: None }.into(),
        _ => Outcome::Quarantine(error.to_string()).into(),
    }
}

/// A row that does not fit because its writer had a former schema waits for the migration there.
fn inapplicable(
    error: ApplyError,
    maps: &[Option<Arc<TableMap>>],
    header: &BatchHeader,
) -> EndedEarly {
    match error {
        ApplyError::Refused { .. } if maps.iter().flatten().any(|map| map.is_former()) => {
            let reason = format!(
                "{error}; the batch has a former schema of this table: it goes on once its origin \
                has run the migration that ran here"
            );
            Outcome::Held { reason, header: Some(Box::new(header.clone())) }.into()
        }
        ApplyError::Refused { .. } => Outcome::Quarantine(error.to_string()).into(),
        ApplyError::Released => EndedEarly::KeepLarge,
        ApplyError::Database(error) => EndedEarly::Fatal(error.into()),
    }
}

/// Decodes, admits and applies one batch, inside a savepoint if the transaction wants it.
///
/// # Errors
/// The error that ends the node, or a temporary lock; [`Fatal::Undo`].
pub(super) fn apply_body(
    tx: &Transaction<'_>,
    unpacker: &mut Unpacker,
    body: &BatchBody,
    source: Source,
) -> Result<Outcome, Fatal> {
    if !tx.savepoints {
        return match apply_inside(tx, unpacker, body, source, Large::Release) {
            Ok(outcome) => Ok(outcome),
            Err(EndedEarly::Fatal(fatal)) => Err(fatal),
            Err(EndedEarly::Outcome(_) | EndedEarly::KeepLarge) => Err(Fatal::Undo),
        };
    }
    let undo = || connection::run(tx.db, "ROLLBACK TO __harmonylite__batch");
    let release = || connection::run(tx.db, "RELEASE __harmonylite__batch");
    connection::run(tx.db, "SAVEPOINT __harmonylite__batch")?;
    let mut large = Large::Release;
    loop {
        let outcome = match apply_inside(tx, unpacker, body, source, large) {
            Ok(outcome) => outcome,
            Err(EndedEarly::KeepLarge) => {
                undo()?;
                large = Large::Keep;
                continue;
            }
            Err(EndedEarly::Outcome(outcome)) => {
                undo()?;
                *outcome
            }
            Err(EndedEarly::Fatal(fatal)) => return Err(fatal),
        };
        release()?;
        return Ok(outcome);
    }
}

fn too_far_ahead(header: &BatchHeader, version: Version) -> String {
    format!(
        "a row has the version {version}, more than ten years ahead of the broker: the clock of \
        node {} is or was wrong, or the message is forged; nothing of it is applied. Set the clock \
        right, and run `harmonylite reset-versions` on that node",
        header.node
    )
}

/// Applies a batch that was read through before the transaction, mostly.
fn apply_inside(
    tx: &Transaction<'_>,
    unpacker: &mut Unpacker,
    body: &BatchBody,
    source: Source,
    large: Large,
) -> Result<Outcome, EndedEarly> {
    let limits = &tx.config.limits;
    let mut room = limits.plain_bytes_max;
    let found = body.outline(unpacker, &mut room, limits)?.map_err(undecodable)?;
    if let Some(plain) = body.plain(unpacker, limits) {
        let result = apply_plain(tx, found, &plain[..], source, large);
        unpacker.put_back(plain);
        return result;
    }
    let plain = unpacking(body.bytes.reader()?, limits).map_err(|error| undecodable(&error))?;
    apply_plain(tx, found, plain, source, large)
}

/// Applies a batch. `plain` are its decompressed bytes, which were read through before.
fn apply_plain(
    tx: &Transaction<'_>,
    found: &Outline,
    plain: impl BufRead,
    source: Source,
    large: Large,
) -> Result<Outcome, EndedEarly> {
    let limits = &tx.config.limits;
    let undecodable = |error: DecodeError| undecodable(&error);
    let header = found.header.clone();
    let named = Sender { node: header.node, site: header.site, batch: header.number };
    if let Some(sender) = source.sender.filter(|sender| *sender != named) {
        let reason = format!("its content is {named}, but it came as {sender}");
        return Err(Outcome::Quarantine(reason).into());
    }
    let (mut brought, impossible) = match adopt(tx, &header)? {
        Adoption::Made { adopted, unmade } => {
            (Brought { adopted: adopted.map(Box::new), unmade }, None)
        }
        Adoption::Impossible(impossible) => (Brought::default(), Some(impossible)),
        Adoption::Awaited(reason) => {
            return Err(Outcome::Held { reason, header: Some(Box::new(header)) }.into());
        }
        Adoption::Unreadable(reason) => return Err(Outcome::Quarantine(reason).into()),
    };
    let layout = brought.adopted.as_ref().map_or(&tx.layout, |adopted| &adopted.layout);
    let maps = match admit(layout, &found.tables) {
        Ok(maps) => maps,
        Err(reason) => {
            let why = impossible.map_or(String::new(), |i| format!("; {}", i.reason));
            let reason = format!("{reason}{why}");
            return Err(Outcome::Held { reason, header: Some(Box::new(header)) }.into());
        }
    };
    if let Some(Impossible { reason, changes }) = impossible {
        // Its rows lose nothing, but the schemas stay different: somebody has to know.
        tracing::warn!(
            origin = header.node.0,
            batch = header.number.0,
            reason,
            "a change of the schema was not made here; `harmonylite schema diff` compares the nodes"
        );
        let not_made = |_: &SchemaChange| Some(reason.clone());
        brought.unmade = unmade::note(tx, header.node, &changes, not_made)?;
    }
    let mut reader = BatchReader::new(plain, limits).map_err(undecodable)?;
    let absorb = &tx.durable.absorb;
    let mut applier = Applier::new(
        tx.db,
        absorb.site,
        &absorb.own_sites,
        tx.durable.joined,
        tx.now.unix_ms,
        JournalBounds { entries_max: limits.conflicts_max, bytes_max: limits.conflict_bytes_max },
    );
    let hlc_max = Hlc::newest_at(source.broker_ms);
    applier.discard_beyond(hlc_max);
    if large == Large::Keep {
        applier.keep_large();
    }
    let mut row =
        Row { version: Version::NONE, previous: Version::NONE, op: Op::Delete, values: Vec::new() };
    let mut lowest_ms = NO_ROW_MS;
    for map in &maps {
        reader.next_table().map_err(undecodable)?;
        while reader.next_row(&mut row).map_err(undecodable)? {
            if row.version.hlc > hlc_max {
                return Err(Outcome::Quarantine(too_far_ahead(&header, row.version)).into());
            }
            lowest_ms = lowest_ms.min(row.version.hlc.ms());
            if let Some(map) = map {
                applier.row(map, &mut row).map_err(|error| inapplicable(error, &maps, &header))?;
            }
        }
    }
    let applied = applier.finish().map_err(|error| inapplicable(error, &maps, &header))?;
    Ok(Outcome::Applied { header, applied, lowest_ms, brought })
}

#[cfg(test)]
#[path = "apply_batch_tests.rs"]
mod tests;
