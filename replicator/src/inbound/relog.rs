//! Takes the walks that log rows for publication a step further: when a database joins, and when
//! others miss what this node has.
//!
//! Arrives: that such a walk is wanted. Leaves: log entries, a bounded number in each transaction.
//! Owns: the next step waits until what the last one logged is published, so that neither the log
//! nor a batch grows with the database. What is to be published again is noted in the database and
//! begins anew after a crash.

use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::Broker;
use crate::capture::baseline;
use crate::capture::fold::log_end;
use crate::db::connection;
use crate::model::config::OnJoin;
use crate::repair::evidence::{note_republish, noted_republish, republish_done};
use crate::repair::republish::Relog;
use rusqlite::Connection;

/// The walks that are under way.
#[derive(Debug, Default)]
pub(super) struct Relogs {
    /// What was noted to be published again.
    pub(super) again: Option<Relog>,
    /// Rows that the cluster may not know, when a database joins.
    pub(super) joining: Option<Relog>,
    /// Log entries up to here are of the last step.
    upto: i64,
}

impl Relogs {
    /// Goes on with what a former process had noted.
    pub(super) fn new(db: &Connection) -> Result<Self, crate::db::connection::DatabaseError> {
        Ok(Self { again: noted_republish(db)?.map(Relog::since), ..Self::default() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.again.is_none() && self.joining.is_none()
    }
}

impl<B: Broker> Inbound<B> {
    pub(super) fn relog_is_due(&self) -> bool {
        !self.relogs.is_empty() && self.absorb.published >= self.relogs.upto
    }

    /// Rows logged so far by the walk that is under way: of a database that joins, and to be
    /// published again.
    pub fn relogged_rows(&self) -> (Option<u64>, Option<u64>) {
        (self.relogs.joining.as_ref().map(Relog::rows), self.relogs.again.as_ref().map(Relog::rows))
    }

    /// Notes that rows from `since_ms` on are published again, all of them from the first on.
    pub(super) fn publish_again(&mut self, since_ms: i64, done: &mut Done) -> Result<(), Fatal> {
        done.again = Some(note_republish(&self.db, since_ms)?);
        Ok(())
    }

    /// Joining ends when the streams are consumed to where they ended when the node came, and every
    /// row has a version.
    pub(super) fn begin_end_of_join(&mut self, done: &mut Done) -> Result<(), Fatal> {
        if self.config.on_join == OnJoin::Replace && self.join_targets.values().any(|t| t.0 > 0) {
            let rows = baseline::replace(&self.db, &self.layout)?;
            self.joined = true;
            done.look = true;
            tracing::info!(
                rows,
                "joined; rows that the cluster does not have were removed (on_join = replace)"
            );
        } else {
            self.relogs.joining = Some(Relog::unversioned());
        }
        Ok(())
    }

    /// One step of what is under way.
    pub(super) fn relog(&mut self, done: &mut Done) -> Result<(), Fatal> {
        // A walk that is to begin is begun by the next transaction.
        if done.again.is_some() || !self.relog_is_due() {
            return Ok(());
        }
        let again = self.relogs.again.is_some();
        let Some(mut relog) = self.relogs.again.clone().or_else(|| self.relogs.joining.clone())
        else {
            return Ok(());
        };
        let (logged, finished) =
            relog.step(&self.db, &self.layout, self.config.limits.relog_rows_max)?;
        done.look |= logged > 0;
        if again {
            self.stats.rows_republished += logged;
        }
        if finished && again {
            republish_done(&self.db)?;
            self.answers_logged(done)?;
            tracing::warn!(
                rows = relog.rows(),
                since_ms = relog.since_ms(),
                "publishing again what others miss, or the broker lost"
            );
        } else if finished {
            connection::set(&self.db, "joined", 1)?;
            self.joined = true;
            tracing::info!(
                rows = relog.rows(),
                "joined; rows that the cluster did not have are published"
            );
        }
        done.relogged =
            Some(Relogged { relog: (!finished).then_some(relog), again, upto: log_end(&self.db)? });
        Ok(())
    }

    /// After the commit.
    pub(super) fn relog_committed(&mut self, again: Option<i64>, relogged: Option<Relogged>) {
        if let Some(Relogged { relog, again, upto }) = relogged {
            self.relogs.upto = upto;
            let slot = if again { &mut self.relogs.again } else { &mut self.relogs.joining };
            *slot = relog;
        }
        if let Some(since_ms) = again {
            self.relogs.again = Some(Relog::since(since_ms));
        }
    }

    /// The log was emptied: ids begin anew.
    pub(super) fn relog_reset(&mut self) {
        self.relogs.upto = 0;
    }
}

/// What a step came to.
#[derive(Debug)]
pub(super) struct Relogged {
    /// None: finished.
    relog: Option<Relog>,
    again: bool,
    upto: i64,
}
