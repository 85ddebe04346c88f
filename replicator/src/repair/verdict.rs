//! Judges a connection: which messages the broker lost, how far back to consume, which rows to
//! republish.
//!
//! Arrives: the answers of the broker, and this node's own knowledge. Leaves: a [`Verdict`], which
//! the next transaction carries out. Pure: only the evidence decides.

use super::evidence::{Evidence, judge};
use crate::broker::{KvEntry, Message, StreamState};
use crate::model::batch::LogMark;
use crate::model::ids::{BatchNo, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::cursor::{Anchor, Cursor, NO_ROW_MS};
use std::collections::{HashMap, HashSet};

/// The answers of the broker, and the anchors of the questions. The anchors are copies, because the
/// originals move on while the answers are on their way.
#[derive(Debug, Default)]
pub struct BrokerAnswers {
    /// The state of each stream.
    pub states: HashMap<u32, StreamState>,
    /// The messages at the requested positions.
    pub found: HashMap<(u32, StreamSeq), Option<Message>>,
    /// The newest message of this node.
    pub last_own: Option<Message>,
    /// This node's registry entry.
    pub registry: Option<KvEntry>,
    /// The last own acknowledged batch.
    pub own: Option<Anchor>,
    /// The cursor of each stream.
    pub heads: HashMap<u32, Anchor>,
    /// The cursor after which each consumer started, if it is another.
    pub began: HashMap<u32, Anchor>,
}

/// This node's knowledge besides the anchors.
#[derive(Debug)]
pub struct NodeKnowledge<'a> {
    /// The cursor of each stream.
    pub cursors: Vec<(u32, &'a Cursor)>,
    /// The stream to which this node publishes.
    pub own_shard: u32,
    /// The lowest row time published since the cursor passed the own anchor, unix milliseconds.
    pub own_lowest_ms: i64,
    /// The allowed difference of clocks, milliseconds.
    pub drift_ms: i64,
}

/// The position from which a stream is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// From the cursor, which still holds.
    Keep,
    /// From the start, because no kept position holds.
    ToStart,
    /// From the kept position with this index, the newest one that holds.
    To(usize),
}

/// The verdict on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardVerdict {
    /// Its number.
    pub shard: u32,
    /// Its state.
    pub state: StreamState,
    /// The position from which to consume.
    pub rewind: Rewind,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The broker has later batches of this database than the database itself.
    pub behind_broker: bool,
    /// The oldest row time to republish, unix milliseconds; None if nothing is lost.
    pub republish_since_ms: Option<i64>,
    /// Batches of this incarnation that a former process has published, without storing the
    /// acknowledgement.
    pub confirmed: Option<Confirmed>,
    /// The broker lost the last own acknowledged batch.
    pub own_lost: bool,
    /// The verdict on each stream.
    pub shards: Vec<ShardVerdict>,
}

/// Own batches in the stream that the database does not know to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The last whole batch.
    pub batch: BatchNo,
    /// How far the log is published; None if parts of the next batch follow in the stream.
    pub published: Option<Published>,
}

/// How far the log is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The last log entry.
    pub upto: i64,
    /// The position of its batch's last part.
    pub seq: StreamSeq,
}

impl BrokerAnswers {
    /// Returns the mark of the log in the newest own message.
    pub fn last_own_mark(&self) -> Option<LogMark> {
        self.last_own.as_ref()?.headers.as_ref().ok()?.log
    }

    /// Returns the own batches after `batch`, if the newest own message is one of them. The caller
    /// knows that the log still has the entry of [`BrokerAnswers::last_own_mark`].
    pub fn confirmed(&self, site: Site, batch: BatchNo) -> Option<Confirmed> {
        let message = self.last_own.as_ref()?;
        let headers = message.headers.as_ref().ok()?;
        if headers.site != site || headers.batch <= batch {
            return None;
        }
        if headers.part < headers.parts {
            return Some(Confirmed { batch: BatchNo(headers.batch.0 - 1), published: None });
        }
        let published = Published { upto: headers.log?.id, seq: message.seq };
        Some(Confirmed { batch: headers.batch, published: Some(published) })
    }

    fn judge(&self, shard: u32, anchor: &Anchor, since_ns: i64, state: &StreamState) -> Evidence {
        let found = self.found.get(&(shard, anchor.seq)).and_then(Option::as_ref);
        judge(anchor, since_ns, state, found)
    }

    /// Returns whether the broker lost the cursor's message, or the one after which the consumer
    /// started.
    pub fn is_cursor_lost(&self, shard: u32, state: &StreamState) -> bool {
        let lost = |of: &HashMap<u32, Anchor>| {
            of.get(&shard).is_some_and(|anchor| {
                self.judge(shard, anchor, anchor.time_ns, state) == Evidence::Lost
            })
        };
        !planted(Bug::NoCursorAnchor) && (lost(&self.heads) || lost(&self.began))
    }

    /// Returns the kept positions of a lost cursor that were not requested yet. They decide how far
    /// back it goes.
    pub fn trail_to_ask(&self, shard: u32, cursor: &Cursor) -> Vec<StreamSeq> {
        let Some(state) = self.states.get(&shard) else { return Vec::new() };
        let same_stream = self.heads.get(&shard).is_some_and(|h| h.created_ns == state.created_ns);
        if !same_stream || !self.is_cursor_lost(shard, state) {
            return Vec::new();
        }
        let seqs = cursor.kept.iter().map(|k| k.anchor.seq);
        seqs.filter(|seq| seq.0 > 0 && !self.found.contains_key(&(shard, *seq))).collect()
    }

    /// Returns the index of the newest kept position that still holds.
    fn newest_that_holds(&self, shard: u32, cursor: &Cursor, state: &StreamState) -> Option<usize> {
        let began = self.began.get(&shard);
        cursor.kept.iter().rposition(|kept| {
            began.is_none_or(|began| kept.anchor.seq < began.seq)
                && self.judge(shard, &kept.anchor, kept.anchor.time_ns, state) == Evidence::Holds
        })
    }

    /// Returns whether the database went back in time: the broker has a higher batch number of this
    /// site, or a site of this node that the database does not know. The latter happens if the
    /// database went back twice, and lost its newest incarnation.
    pub fn is_ahead_of(&self, site: Site, batch: BatchNo, own_sites: &HashSet<Site>) -> bool {
        let unknown = |found: Site, number: u64| {
            if found == site { number > batch.0 } else { !own_sites.contains(&found) }
        };
        let in_stream = self
            .last_own
            .as_ref()
            .and_then(|m| m.headers.as_ref().ok())
            .is_some_and(|h| unknown(h.site, h.batch.0));
        let in_registry = self
            .registry
            .as_ref()
            .and_then(|e| serde_json::from_slice::<serde_json::Value>(&e.value).ok())
            .and_then(|v| Some((v["site"].as_i64()?, v["batch"].as_u64().unwrap_or(0))))
            .is_some_and(|(found, number)| unknown(Site(found), number));
        in_stream || in_registry
    }
}

/// Returns the lowest row time after a kept position, unix milliseconds. Rows from then on may be
/// lost.
fn lost_since_ms(cursor: &Cursor, kept: usize, drift_ms: i64) -> i64 {
    let after = cursor.kept[kept + 1..].iter().map(|k| k.lowest_ms).min().unwrap_or(NO_ROW_MS);
    after.min(cursor.kept[kept].anchor.time_ns / 1_000_000 - drift_ms)
}

/// Judges the streams and the own anchor. The caller sets [`Verdict::behind_broker`], because
/// [`BrokerAnswers::is_ahead_of`] is valid only before the process has published anything.
pub fn judge_connection(answered: &BrokerAnswers, known: &NodeKnowledge<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut since_ms = NO_ROW_MS;
    for (shard, cursor) in &known.cursors {
        let Some(state) = answered.states.get(shard) else { continue };
        let rewind = if answered.is_cursor_lost(*shard, state) {
            match answered.newest_that_holds(*shard, cursor, state) {
                Some(i) => Rewind::To(i),
                None => Rewind::ToStart,
            }
        } else {
            Rewind::Keep
        };
        since_ms = since_ms.min(match rewind {
            Rewind::Keep => NO_ROW_MS,
            Rewind::To(i) if cursor.kept[i].anchor.seq.0 > 0 => {
                lost_since_ms(cursor, i, known.drift_ms)
            }
            Rewind::To(_) | Rewind::ToStart => 0,
        });
        verdict.shards.push(ShardVerdict { shard: *shard, state: *state, rewind });
    }
    if let Some(own_since_ms) = own_lost_since_ms(answered, known) {
        verdict.own_lost = true;
        since_ms = since_ms.min(own_since_ms);
    }
    if verdict.own_lost || verdict.shards.iter().any(|s| s.rewind != Rewind::Keep) {
        verdict.republish_since_ms = Some(since_ms.max(0));
    }
    verdict
}

/// If the last own acknowledged batch is lost, returns the time from which on rows may be lost with
/// it.
fn own_lost_since_ms(answered: &BrokerAnswers, known: &NodeKnowledge<'_>) -> Option<i64> {
    let shard = known.own_shard;
    let (anchor, state) = (answered.own.as_ref()?, answered.states.get(&shard)?);
    let cursor = known.cursors.iter().find(|(s, _)| *s == shard).map(|(_, cursor)| *cursor);
    // An acknowledgement has no time, but the messages consumed before it do.
    let trail = cursor.iter().flat_map(|c| &c.kept).map(|k| k.anchor);
    let before = trail.filter(|a| a.seq <= anchor.seq && a.created_ns == anchor.created_ns);
    let not_before_ns = before.map(|a| a.time_ns).max().unwrap_or(0);
    if answered.judge(shard, anchor, not_before_ns, state) != Evidence::Lost
        || planted(Bug::NoOwnAnchor)
    {
        return None;
    }
    let since_ms = cursor.and_then(|cursor| {
        let is_before = |a: &Anchor| a.seq < anchor.seq && a.seq.0 > 0;
        let index = cursor.kept.iter().rposition(|k| is_before(&k.anchor))?;
        Some(lost_since_ms(cursor, index, known.drift_ms))
    });
    let same_stream = anchor.created_ns == state.created_ns;
    Some(since_ms.filter(|_| same_stream).map_or(0, |since_ms| since_ms.min(known.own_lowest_ms)))
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
