//! Decides whether the next step has work, and when it has work although no input arrives.
//!
//! Arrives: the components and the time. Leaves: yes or no, or the least deadline. Owns: each
//! transaction takes the write lock from the application, so inputs wait for more if they can, for
//! a bounded time. Reads only.

use super::bookkeeping::Urgency;
use super::durable::Durable;
use super::inbox::Inbox;
use super::join::Join;
use super::repairs::Repairs;
use super::unmade_retry::UnmadeRetry;
use super::verify::Verify;
use crate::model::config::Now;
use crate::model::ids::StreamSeq;
use crate::repair::prune::Pruning;

/// The components with deadlines.
pub(super) struct Schedule<'a> {
    /// The state of the database.
    pub(super) durable: &'a Durable,
    /// The connection.
    pub(super) verify: &'a Verify,
    /// What this node misses, and the questions of other nodes.
    pub(super) repairs: &'a Repairs,
    /// The schedule of dropping old versions.
    pub(super) pruning: &'a Pruning,
    /// The objects of other nodes' migrations that are missing here.
    pub(super) unmade: &'a UnmadeRetry,
    /// The end of joining.
    pub(super) join: &'a Join,
    /// The waiting inputs.
    pub(super) inbox: &'a Inbox,
}

impl Schedule<'_> {
    /// Returns whether a write transaction is due.
    pub(super) fn transaction_is_due(&self, now: Now) -> bool {
        let (up, durable, inbox) = (self.verify.is_up(), self.durable, self.inbox);
        self.verify.knows_incarnation()
            && ((!inbox.acks.is_empty() && self.anyone_waits_for_acks())
                || !inbox.retries.is_empty()
                || inbox.snapshot.is_due()
                || self.repairs.gaps.any_ended()
                || self.verify.verdict().is_some()
                || inbox.items_are_due(durable, durable.joined && up)
                || now.mono_ms >= self.answer_deadline()
                || !durable.compare.is_idle()
                || now.mono_ms >= self.unmade.deadline()
                || now.mono_ms >= durable.republish.deadline(durable.absorb.published)
                || (up && self.join.is_complete(durable, inbox, &[], now)))
    }

    /// Returns whether something waits for the mark of acknowledgements: the check of a connection,
    /// the next step of a republication, or the answer to another node.
    fn anyone_waits_for_acks(&self) -> bool {
        !self.verify.is_up()
            || !self.durable.republish.is_idle()
            || self.repairs.answers.await_publication()
    }

    /// Returns how urgent the waiting bookkeeping is.
    pub(super) fn bookkeeping(&self, entries_max: u64, now: Now) -> Urgency {
        if !self.verify.knows_incarnation() {
            return Urgency::None;
        }
        self.inbox.urgency(self.durable.absorb.published, entries_max, now)
    }

    /// Returns when an answer can start. A question that arrives while rows are republished waits,
    /// because it also needs the rows that were logged before it.
    fn answer_deadline(&self) -> u64 {
        if !self.verify.is_up() || self.durable.republish.is_republishing() {
            return u64::MAX;
        }
        let reached = |shard, position: StreamSeq| self.durable.has_reached(shard, position);
        self.repairs.answers.deadline(reached)
    }

    /// Returns whether nothing may need old versions.
    pub(super) fn is_quiet(&self) -> bool {
        self.durable.joined
            && !self.repairs.gaps.any_open()
            && self.repairs.answers.is_empty()
            && self.durable.republish.is_idle()
            && self.durable.compare.is_idle()
            && self.durable.streams.iter().all(|s| s.held.is_empty())
            && self.inbox.waits_for_nothing()
    }

    /// Returns when a step has work although no input arrives, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        let inbox = self.inbox;
        let always = self.verify.deadline().min(inbox.deadline()).min(self.answer_deadline());
        if !self.verify.knows_incarnation() {
            return always;
        }
        let durable = self.durable;
        let always = always
            .min(durable.republish.deadline(durable.absorb.published))
            .min(self.unmade.deadline());
        if !self.verify.is_up() {
            return always;
        }
        let any_held = self.durable.streams.iter().any(|s| !s.held.is_empty());
        always
            .min(self.pruning.deadline())
            .min(if any_held { self.repairs.superseded.deadline() } else { u64::MAX })
            .min(self.repairs.refetch.deadline())
            .min(inbox.streams_deadline())
            .min(if self.durable.joined { u64::MAX } else { Join::deadline(inbox) })
            .min(self.repairs.gaps.deadline())
    }
}
