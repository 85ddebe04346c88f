//! What is due: whether the next step has anything to do, and when it has although nothing comes
//! in.
//!
//! Arrives: the components and the time. Leaves: yes or no, or the least deadline. Owns: each
//! transaction takes the write lock from the application, so what can wait for more does, for a
//! bounded time. Reads only.

use super::durable::Durable;
use super::inbox::Inbox;
use super::join::Join;
use super::verify::Verify;
use crate::model::config::Now;
use crate::model::ids::StreamSeq;
use crate::repair::answers::Answers;
use crate::repair::gaps::Gaps;
use crate::repair::prune::Pruning;
use crate::repair::superseded::Superseded;

/// The components that have deadlines.
pub(super) struct Schedule<'a> {
    /// What the database says.
    pub(super) durable: &'a Durable,
    /// The connection.
    pub(super) verify: &'a Verify,
    /// Gaps of this node.
    pub(super) gaps: &'a Gaps,
    /// Questions of others.
    pub(super) answers: &'a Answers,
    /// Origins that were held.
    pub(super) superseded: &'a Superseded,
    /// Old versions.
    pub(super) pruning: &'a Pruning,
    /// Where joining ends.
    pub(super) join: &'a Join,
    /// What waits.
    pub(super) inbox: &'a Inbox,
}

impl Schedule<'_> {
    /// Whether a write transaction is due.
    pub(super) fn transaction_is_due(&self, now: Now) -> bool {
        let (up, durable, inbox) = (self.verify.is_up(), self.durable, self.inbox);
        self.verify.knows_incarnation()
            && (inbox.acks_are_due(up && durable.republish.is_idle(), now)
                || !inbox.retries.is_empty()
                || self.gaps.any_ended()
                || self.verify.verdict().is_some()
                || inbox.items_are_due(durable, durable.joined && up, now)
                || now.mono_ms >= self.answer_deadline()
                || durable.republish.is_due(durable.absorb.published)
                || (up && self.join.is_complete(durable, inbox, &[], now)))
    }

    /// When an answer can be begun. A question that comes while rows are republished needs those
    /// that were logged before it too, so it waits.
    fn answer_deadline(&self) -> u64 {
        if !self.verify.is_up() || self.durable.republish.is_republishing() {
            return u64::MAX;
        }
        let reached = |shard, position: StreamSeq| self.durable.has_reached(shard, position);
        self.answers.deadline(reached)
    }

    /// Whether nothing is under way that may need old versions.
    pub(super) fn is_quiet(&self) -> bool {
        self.durable.joined
            && !self.gaps.any_open()
            && self.answers.is_empty()
            && self.durable.republish.is_idle()
            && self.durable.streams.iter().all(|s| s.held.is_empty())
            && self.inbox.waits_for_nothing()
    }

    /// When a step has something to do although nothing comes in, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        let inbox = self.inbox;
        let always = self.verify.deadline().min(inbox.deadline()).min(self.answer_deadline());
        if !self.verify.is_up() {
            return always;
        }
        let any_held = self.durable.streams.iter().any(|s| !s.held.is_empty());
        always
            .min(self.pruning.deadline())
            .min(if any_held { self.superseded.deadline() } else { u64::MAX })
            .min(inbox.streams_deadline())
            .min(if self.durable.joined { u64::MAX } else { Join::deadline(inbox) })
            .min(self.gaps.deadline())
    }
}
