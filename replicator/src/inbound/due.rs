//! What is due: whether the next step has anything to do, and when it has although nothing comes
//! in.
//!
//! Arrives: the time. Leaves: yes or no, or a deadline. Owns: each transaction takes the write lock
//! from the application, so what can wait for more does, for a bounded time.

use super::link::Link;
use super::stream::ShardStream;
use super::{ACKS_MAX, ACKS_WAIT_MS, Fatal, Inbound};
use crate::broker::Broker;
use crate::capture::fold::log_end;
use crate::capture::install;
use crate::model::config::Now;

/// Joining ends after so long without any message. More than an incomplete batch is waited for.
const JOIN_IDLE_MS: u64 = 900_000;

impl<B: Broker> Inbound<B> {
    /// Whether a transaction has anything to do. Reads the schema version and the end of the log,
    /// no more.
    pub(super) fn has_work(&mut self, now: Now) -> Result<bool, Fatal> {
        let waiting = self.knows_its_life()
            && (self.acks_are_due(now)
                || !self.retries.is_empty()
                || !self.gaps.ended.is_empty()
                || matches!(self.link, Link::Judged(_))
                || self.items_are_due(now)
                || self.answer_is_due(now)
                || self.relog_is_due()
                || self.join_is_complete(now));
        if waiting || self.schema_moved {
            return Ok(true);
        }
        if self.wake {
            let changed = install::schema_version(&self.db)? != self.layout.schema_version;
            self.schema_moved = changed || self.mirrored != self.layout.schema_version;
            let unsent = self.knows_its_life()
                && !self.config.publish
                && log_end(&self.db)? > self.absorb.published;
            // Not before: a database that is busy must be looked at again.
            self.wake = false;
            return Ok(self.schema_moved || unsent);
        }
        Ok(false)
    }

    /// What only moves the cursor, as own batches that come back do, waits for more like
    /// acknowledgements, unless somebody waits for it.
    fn items_are_due(&mut self, now: Now) -> bool {
        let waits = |s: &ShardStream| {
            s.resuming.is_empty() && s.queue.len() <= ACKS_MAX && s.waits_for_nothing()
        };
        if self.streams.iter().all(|s| s.queue.is_empty()) {
            self.skips_since = None;
            return false;
        }
        let since = *self.skips_since.get_or_insert(now.mono_ms);
        let is_steady = self.joined && matches!(self.link, Link::Up);
        !is_steady || now.mono_ms >= since + ACKS_WAIT_MS || !self.streams.iter().all(waits)
    }

    /// At once where a check waits for them.
    fn acks_are_due(&self, now: Now) -> bool {
        let waits = matches!(self.link, Link::Up)
            && self.relogs.is_empty()
            && self.acks.len() < ACKS_MAX
            && now.mono_ms < self.acks_due_ms;
        !self.acks.is_empty() && !waits
    }

    /// Whether it is known which life of the database this is: the broker has been asked at least
    /// once. Before that nothing gets a version, because a database that went back in time would
    /// give it in the name of a life that others know more of.
    pub(super) fn knows_its_life(&self) -> bool {
        self.stats.transactions_go > 0 || matches!(self.link, Link::Judged(_))
    }

    /// Everything that was there when the node came is applied. The last message may have been
    /// destroyed: if nothing comes for very long, nothing is there.
    pub(super) fn join_is_complete(&self, now: Now) -> bool {
        !self.joined
            && self.relogs.joining.is_none()
            && matches!(self.link, Link::Up)
            && (!self.config.replicate
                || now.mono_ms >= self.join_deadline()
                || self.streams.iter().all(|s| {
                    s.is_drained()
                        && self
                            .join_targets
                            .get(&s.shard)
                            .is_some_and(|target| s.position.seq >= *target)
                }))
    }

    /// When joining ends although the streams' ends were not seen.
    pub(super) fn join_deadline(&self) -> u64 {
        if self.joined { u64::MAX } else { self.delivered_ms.saturating_add(JOIN_IDLE_MS) }
    }

    /// When [`Inbound::step`] has something to do even if nothing comes in, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        let mut next = match &self.link {
            Link::Down => u64::MAX,
            Link::Settling => u64::MAX,
            Link::Again(at) => (*at).min(self.lease_due_ms),
            Link::Checking(_) | Link::Judged(_) => self.lease_due_ms,
            Link::Up => self.lease_due_ms.min(self.heartbeat_due_ms),
        };
        if let Some(since) = self.skips_since {
            next = next.min(since + ACKS_WAIT_MS);
        }
        next = next.min(self.prune_deadline()).min(self.former_deadline());
        if matches!(self.link, Link::Up) {
            next = self
                .streams
                .iter()
                .map(ShardStream::deadline)
                .fold(next, u64::min)
                .min(self.join_deadline())
                .min(self.gap_deadline());
        }
        if !self.acks.is_empty() {
            next = next.min(self.acks_due_ms);
        }
        next.min(self.answer_deadline())
    }
}
