//! Decides when old versions go: in idle moments, a pass an hour, a bounded transaction at a time.
//!
//! Owns: nothing goes while anything that may need it is under way (pending changes, a repair, an
//! origin that is held), nor by a clock that jumped ahead: what counts is the earlier of our own
//! time and the newest message that we have applied.

use super::link::Link;
use super::{Fatal, Inbound};
use crate::broker::Broker;
use crate::capture::fold::log_end;
use crate::model::config::Now;
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::prune::{PRUNE_ROWS_MAX, prune};
use rusqlite::TransactionBehavior;

/// A pass over all versions begins this often.
const INTERVAL_MS: u64 = 3_600_000;
/// What holds a pass up is looked at again after so long.
const LATER_MS: u64 = 60_000;

/// The time between two passes.
pub(super) fn interval_ms() -> u64 {
    if planted(Bug::TombstoneEarly) { 1_000 } else { INTERVAL_MS }
}

impl<B: Broker> Inbound<B> {
    pub(super) fn prune_deadline(&self) -> u64 {
        if matches!(self.link, Link::Up) { self.prune_due_ms } else { u64::MAX }
    }

    pub(super) fn may_prune(&mut self, now: Now) -> Result<bool, Fatal> {
        if now.mono_ms < self.prune_due_ms || !matches!(self.link, Link::Up) {
            return Ok(false);
        }
        let quiet = self.joined
            && self.gaps.open.is_empty()
            && self.answers.is_empty()
            && self.relogs.is_empty()
            && self.streams.iter().all(|s| s.held.is_empty() && s.waits_for_nothing())
            && log_end(&self.db)? <= self.absorb.published;
        if !quiet || self.prune_before_ms(now).is_none() {
            self.prune_due_ms = now.mono_ms + LATER_MS;
            return Ok(false);
        }
        Ok(true)
    }

    fn prune_before_ms(&self, now: Now) -> Option<i64> {
        let newest = self
            .streams
            .iter()
            .filter_map(|s| s.cursor.head())
            .map(|head| head.time_ns / 1_000_000)
            .max()?;
        let before = newest.min(now.unix_ms).checked_sub(self.config.version_retention_ms)?;
        (before > 0).then_some(before)
    }

    pub(super) fn prune(&mut self, now: Now) -> Result<(), Fatal> {
        let Some(before_ms) = self.prune_before_ms(now) else { return Ok(()) };
        let pass = self.pruning.take().unwrap_or_default();
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        super::transact::check_content(&transaction, self.writes)?;
        // A change that came since we looked needs its predecessor.
        if log_end(&transaction)? > self.absorb.published
            || crate::capture::install::schema_version(&transaction)? != self.layout.schema_version
        {
            return Ok(());
        }
        let (dropped, next) = prune(&transaction, &self.layout, &pass, before_ms, PRUNE_ROWS_MAX)?;
        transaction.commit()?;
        self.stats.pruned += dropped;
        if next.is_none() {
            self.prune_due_ms = now.mono_ms + interval_ms();
        }
        self.pruning = next;
        Ok(())
    }
}
