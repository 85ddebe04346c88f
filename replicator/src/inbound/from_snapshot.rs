//! The rows of a snapshot that wait to be merged.
//!
//! Arrives: batches that a snapshot's node could have sent itself, and the gaps that they fill.
//! Leaves: one batch after another for a transaction. Owns: a batch that cannot be applied ends the
//! merge, and the gaps stay. Memory only: after a crash the gaps are still there, and the merge
//! begins again, which is harmless.

use super::batch_body::BatchBody;
use crate::store::gaps::GapKey;
use crate::store::origins::Origin;
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
        /// When its node made the oldest change that it had not published; unix milliseconds.
        unpublished_ms: Option<i64>,
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
    waiting: VecDeque<BatchBody>,
    origins: Vec<Origin>,
    unpublished_ms: Option<i64>,
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

    /// Returns the next batch.
    pub(super) fn next(&self) -> Option<&BatchBody> {
        self.waiting.front()
    }

    /// Returns what the snapshot has of each origin, once all its batches are merged.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Takes a batch.
    pub(super) fn rows(&mut self, body: Spill) {
        if self.progress.refused.is_none() {
            self.waiting.push_back(BatchBody::new(body));
        }
    }

    /// Returns since when its node had changes that it had not published.
    pub(super) fn unpublished_ms(&self) -> Option<i64> {
        self.unpublished_ms
    }

    /// Takes what the snapshot has of each origin, and since when its node had changes that it had
    /// not published; after its last batch.
    pub(super) fn covers(&mut self, origins: Vec<Origin>, unpublished_ms: Option<i64>) {
        (self.origins, self.unpublished_ms) = (origins, unpublished_ms);
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
