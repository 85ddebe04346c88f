//! Both sides of repair: what this node misses and asks for, and what it republishes for others.
//!
//! Arrives: the consequences of a committed transaction. Leaves: signals for the other nodes. Owns
//! the four components, which know nothing of each other. A crash forgets what was asked and
//! answered so far; the gaps are stored, so all is asked again.

use super::after_commit::AfterCommit;
use crate::db::connection::DatabaseError;
use crate::model::config::{NodeConfig, Now};
use crate::repair::answers::Answers;
use crate::repair::gaps::Gaps;
use crate::repair::refetch::Refetch;
use crate::repair::signal::Signal;
use crate::repair::superseded::Superseded;
use rusqlite::Connection;

/// The components of repair.
pub(super) struct Repairs {
    /// What this node misses.
    pub(super) gaps: Gaps,
    /// The questions of other nodes.
    pub(super) answers: Answers,
    /// The batches in quarantine whose rows other nodes are asked for.
    pub(super) refetch: Refetch,
    /// The held origins whose waiting batches are superseded.
    pub(super) superseded: Superseded,
}

impl Repairs {
    /// Reads the stored gaps.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn read(config: &NodeConfig, db: &Connection) -> Result<Self, DatabaseError> {
        Ok(Self {
            gaps: Gaps::read(config, db)?,
            answers: Answers::new(config),
            refetch: Refetch::default(),
            superseded: Superseded::default(),
        })
    }

    /// Takes over a commit. `published` is the end of the published log.
    pub(super) fn committed(
        &mut self,
        after: &mut AfterCommit,
        db: &Connection,
        published: i64,
        now: Now,
    ) -> Vec<Signal> {
        for node in after.superseded_asked.drain(..) {
            self.superseded.asked(node);
        }
        for (node, created_ms) in after.seen_origins.drain(..) {
            self.gaps.saw_origin(node, created_ms);
        }
        self.refetch.committed(after.refetching.drain(..));
        if after.ended_gaps > 0 {
            self.refetch.ended(db);
        }
        self.gaps.committed(db, after.ended_gaps, !after.gaps.is_empty());
        self.answers.committed(std::mem::take(&mut after.answers), published, now)
    }
}
