//! The order of the work inside one write transaction.
//!
//! Arrives: a transaction that has just begun, and what waits. Leaves: its changes and what remains
//! to do after the commit. Owns the order: absorb, mark acknowledged entries, repair, apply, move
//! the cursor. Whoever runs it commits or rolls back.

use super::inbox::Inbox;
use super::join::{Join, has_others};
use super::merge_snapshot::merge_snapshot;
use super::process;
use super::repairs::Repairs;
use super::transaction::Transaction;
use super::unmade;
use super::verify::Verify;
use crate::actor::Fatal;
use crate::capture::baseline;
use crate::model::config::Now;

/// What waits for a transaction.
pub(super) struct Work<'a> {
    /// The verdict on the connection.
    pub(super) verify: &'a mut Verify,
    /// Acknowledgements and deliveries.
    pub(super) inbox: &'a mut Inbox,
    /// Gaps that ended, and the questions of other nodes.
    pub(super) repairs: &'a Repairs,
    /// The end of joining.
    pub(super) join: &'a Join,
    /// Whether objects of other nodes' migrations that are missing here are tried again.
    pub(super) retry_unmade: bool,
    /// The most log entries to absorb.
    pub(super) absorb_max: i64,
}

impl Work<'_> {
    /// Does all of it, within the bounds.
    ///
    /// # Errors
    /// The error that ends the node, or a temporary lock.
    pub(super) fn run(&mut self, tx: &mut Transaction<'_>, now: Now) -> Result<(), Fatal> {
        if !tx.begin()? {
            return Ok(());
        }
        tx.follow_emptied_log(&self.inbox.acks)?;
        self.begin_incarnation(tx)?;
        let is_whole = tx.absorb(&self.inbox.acks, self.absorb_max)?;
        tx.mark_acknowledged(self.inbox, is_whole)?;
        if !is_whole {
            // A verdict may stamp entries anew, and what follows an emptied log numbers them anew.
            if self.verify.verdict().is_none() && !tx.after.log_replaced {
                tx.count_piece()?;
            }
            return Ok(());
        }
        if let Some(verdict) = self.verify.verdict() {
            tx.carry_out(verdict)?;
        }
        tx.after.ended_gaps = self.repairs.gaps.write_ended(tx.db)?;
        if tx.after.ended_gaps > 0 {
            self.repairs.refetch.remove_ended(tx.db)?;
        }
        if !tx.compare()? {
            return tx.write_marks();
        }
        if self.verify.is_up() && !tx.durable.republish.is_republishing() {
            tx.answer(&self.repairs.answers)?;
        }
        if self.retry_unmade {
            unmade::retry(tx)?;
        }
        merge_snapshot(tx, self.inbox, &self.repairs.superseded)?;
        process::serve(tx, self.inbox, &self.repairs.superseded)?;
        process::release(tx)?;
        self.end_join(tx, now)?;
        tx.step_republish(&self.repairs.answers)?;
        tx.keep_id_ranges()?;
        tx.write_marks()
    }

    /// Before anything is absorbed: what the verdict says of changes that were never published.
    fn begin_incarnation(&mut self, tx: &mut Transaction<'_>) -> Result<(), Fatal> {
        let Some(verdict) = self.verify.verdict() else { return Ok(()) };
        let published = verdict.confirmed.and_then(|c| c.published).map_or(0, |p| p.upto);
        if verdict.behind_broker {
            tx.begin_incarnation(baseline::site_from(self.verify.random()))?;
        }
        tx.stamp_old_changes(published)
    }

    fn end_join(&self, tx: &mut Transaction<'_>, now: Now) -> Result<(), Fatal> {
        let served = &tx.after.served.items;
        if self.verify.is_up() && self.join.is_complete(&tx.durable, self.inbox, served, now) {
            let other_members = self.repairs.gaps.has_other_members();
            let found_data = self.join.found_messages()
                && has_others(tx.db, tx.config.node, &tx.durable, other_members)?;
            tx.begin_end_of_join(found_data)?;
        }
        Ok(())
    }
}
