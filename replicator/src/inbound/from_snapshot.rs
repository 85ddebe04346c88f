//! Merges the rows of a snapshot, which fills gaps, batch by batch.
//!
//! Arrives: batches that a snapshot's node could have sent itself, and the gaps that they fill.
//! Leaves: each batch applied like one from a stream, in a transaction of its own; then the gaps
//! are closed, as by the answer of a node that misses nothing. Owns: a batch that cannot be applied
//! ends the merge, and the gaps stay. Memory only: after a crash the gaps are still there, and the
//! merge begins again, which is harmless.

use super::apply_batch::{Outcome, Source, apply_body};
use super::process::Processing;
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::store::gaps::GapKey;
use crate::store::origins::{self, Origin};
use crate::wire::spill::Spill;
use std::collections::VecDeque;

/// A message about a snapshot that fills gaps.
#[derive(Debug)]
pub enum FromSnapshot {
    /// One is being read, in the attempt with this number. Forgets what came from another attempt.
    Reading(u64),
    /// A batch of its rows.
    Rows(Spill),
    /// All its rows are merged.
    Covers {
        /// The gaps that are filled.
        gaps: Vec<GapKey>,
        /// The last batch of each origin that it contains.
        origins: Vec<Origin>,
    },
    /// There is none, or it cannot be merged.
    None,
}

/// How far a merge is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeProgress {
    /// The number of the attempt.
    pub attempt: u64,
    /// The merged batches of this snapshot.
    pub merged: u64,
    /// Why a batch cannot be applied.
    pub refused: Option<String>,
}

/// The batches of a snapshot that wait.
#[derive(Debug, Default)]
pub(super) struct SnapshotMerge {
    waiting: VecDeque<Spill>,
    origins: Vec<Origin>,
    /// How far it is.
    pub(super) progress: MergeProgress,
}

/// What a transaction has done with the first waiting batch.
#[derive(Debug)]
pub(super) enum Merged {
    /// Its rows are merged.
    Batch,
    /// It cannot be applied, for this reason.
    Refused(String),
    /// There was none; what the origins have is stored.
    Origins,
}

impl SnapshotMerge {
    /// Forgets an earlier attempt.
    pub(super) fn begin(&mut self, attempt: u64) {
        if self.progress.attempt != attempt {
            *self = Self::default();
            self.progress.attempt = attempt;
        }
    }

    /// Takes a batch.
    pub(super) fn rows(&mut self, body: Spill) {
        if self.progress.refused.is_none() {
            self.waiting.push_back(body);
        }
    }

    /// Takes what the snapshot has of each origin, after its last batch.
    pub(super) fn covers(&mut self, origins: Vec<Origin>) {
        self.origins = origins;
    }

    /// Returns whether a transaction has work.
    pub(super) fn is_due(&self) -> bool {
        !self.waiting.is_empty() || !self.origins.is_empty()
    }

    /// Takes over what a transaction has done.
    pub(super) fn committed(&mut self, done: Option<Merged>) {
        match done {
            None => {}
            Some(Merged::Batch) => {
                self.waiting.pop_front();
                self.progress.merged += 1;
            }
            Some(Merged::Refused(reason)) => {
                self.waiting.clear();
                self.progress.refused = Some(reason);
            }
            Some(Merged::Origins) => self.origins.clear(),
        }
    }
}

impl Processing<'_, '_> {
    /// Merges the first waiting batch; after the last one, stores what the origins have.
    ///
    /// # Errors
    /// The error that ends the node, or a temporary lock.
    pub(super) fn merge_snapshot(&mut self, merge: &SnapshotMerge) -> Result<(), Fatal> {
        if let Some(body) = merge.waiting.front() {
            // When the messages of its rows were stored is not known.
            let source = Source { sender: None, broker_ms: self.tx.now.unix_ms };
            self.tx.after.merged = Some(match apply_body(self.tx, self.unpacker, body, source)? {
                Outcome::Applied { applied, adopted, lowest_ms, .. } => {
                    self.adopt(adopted);
                    self.count(&applied);
                    self.tx.after.look |= applied.compensated > 0;
                    // If the broker loses messages beyond the cursor, these rows may be in them.
                    for stream in &mut self.tx.durable.streams {
                        stream.cursor.lower(lowest_ms);
                    }
                    Merged::Batch
                }
                Outcome::Held { reason, .. } | Outcome::Quarantine(reason) => {
                    Merged::Refused(reason)
                }
            });
        } else if !merge.origins.is_empty() {
            note_origins(self.tx, &merge.origins)?;
            self.tx.after.merged = Some(Merged::Origins);
        }
        Ok(())
    }
}

/// Notes the batches that a snapshot contains, so that a later one of their origin shows no gap.
fn note_origins(tx: &Transaction<'_>, known: &[Origin]) -> Result<(), Fatal> {
    for origin in known.iter().filter(|o| o.site != tx.durable.site()) {
        if origins::known_batch(tx.db, origin.site)? < origin.batch {
            origins::put(tx.db, origin)?;
        }
    }
    Ok(())
}
