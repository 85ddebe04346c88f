//! Carries out the verdict on a connection, inside the write transaction.
//!
//! Arrives: a [`Verdict`]. Leaves: rewound cursors, gaps for expired messages, and the stored
//! request to republish lost rows. The transaction decides what a crash leaves.

use super::process::note_gap;
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::model::ids::{NodeId, StreamSeq};
use crate::repair::gaps::Need;
use crate::repair::verdict::{Rewind, Verdict};
use crate::store::cursor::{Anchor, NO_ROW_MS};
use crate::store::meta;

impl Transaction<'_> {
    /// Carries out the verdict on the connection.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn carry_out(&mut self, verdict: &Verdict) -> Result<(), Fatal> {
        if let Some(confirmed) = verdict.confirmed {
            let own = verdict.shards.iter().find(|s| s.shard == self.config.own_shard());
            self.confirm(&confirmed, own.map_or(0, |s| s.state.created_ns))?;
        }
        self.note_first(verdict)?;
        self.rewind(verdict);
        self.note_expired(verdict)?;
        if verdict.own_lost {
            self.durable.own_anchor = None;
            meta::forget_own_anchor(self.db)?;
            self.stats.losses += 1;
            tracing::warn!("the broker lost a batch that it had acknowledged to this node");
        }
        if let Some(since_ms) = verdict.republish_since_ms.filter(|_| self.config.publish) {
            self.begin_republish(since_ms)?;
            self.durable.own_lowest_ms = NO_ROW_MS;
            meta::set(self.db, meta::OWN_LOWEST, NO_ROW_MS)?;
            tracing::warn!(since_ms, "republishing what the broker may have lost");
        }
        self.after.connection_passes = true;
        Ok(())
    }

    /// Notes that a database joins before anybody has published. This node publishes before it has
    /// joined, and after a crash nothing else tells its own messages from data of the cluster.
    fn note_first(&mut self, verdict: &Verdict) -> Result<(), Fatal> {
        if !self.durable.joined && verdict.shards.iter().all(|s| s.state.last.0 == 0) {
            meta::set(self.db, meta::JOINS_FIRST, true)?;
        }
        Ok(())
    }

    fn rewind(&mut self, verdict: &Verdict) {
        for judged in &verdict.shards {
            let to = match judged.rewind {
                Rewind::Keep => continue,
                Rewind::ToStart => None,
                Rewind::To(index) => Some(index),
            };
            let Some(stream) = self.durable.stream_mut(judged.shard) else { continue };
            stream.cursor.back_to(to, judged.state.created_ns);
            self.stats.losses += 1;
            tracing::warn!(
                shard = judged.shard,
                cursor = stream.cursor.seq().0,
                "the broker lost messages that this node had applied; going back to the last one \
                that is still there"
            );
        }
    }

    /// Notes gaps for messages that are gone before this node read them; in a quiet stream nothing
    /// else would show the hole. A held backlog can expire too. Its origin is released, and held
    /// again by the next batch that does not fit.
    fn note_expired(&mut self, verdict: &Verdict) -> Result<(), Fatal> {
        let mut expired = Vec::new();
        let limits = &self.config.limits;
        for judged in &verdict.shards {
            let (shard, state) = (judged.shard, judged.state);
            let Some(stream) = self.durable.stream_mut(shard) else { continue };
            let next = stream.cursor.seq().next();
            if state.first > next {
                let before =
                    Anchor { seq: StreamSeq(state.first.0 - 1), ..Anchor::start(state.created_ns) };
                stream.cursor.advance(before, 0, limits.cursor_trail_step, limits.cursor_trail_max);
                let reason = format!(
                    "stream {shard}: messages {next} to {} are gone (expired, or lost by the \
                    broker) and were never read here",
                    before.seq
                );
                expired.push((shard, NodeId(0), reason));
            }
            for (node, from) in stream.held.iter().filter(|(_, from)| **from < state.first) {
                let reason = format!(
                    "stream {shard}: batches of node {node}, held from message {from} on, have \
                    expired"
                );
                expired.push((shard, *node, reason));
                self.after.released.push((shard, *node));
            }
        }
        if self.config.replicate {
            for (shard, node, reason) in expired {
                let need = Need::Messages(self.durable.position(shard));
                note_gap(self, shard, node, &reason, need)?;
            }
        }
        Ok(())
    }
}
