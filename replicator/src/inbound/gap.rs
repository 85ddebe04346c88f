//! Holes in the stream: notes them, asks the other nodes to publish what they have, and knows when
//! all of it has come.
//!
//! Arrives: what shows a hole (positions or batch numbers that jump, messages gone before they were
//! read), and answers. Leaves: questions on the signal subject, and the end of a gap. Owns: an
//! answer of a node that misses something itself proves little, for it may miss the same. So a gap
//! ends when a node that misses nothing has published again what it has, or when every node on the
//! roll has: each knows its own rows. The roll is one key of the registry; nobody publishes before
//! its name is on it. The broker can lose the roll too: whoever reads it puts back every origin
//! that it knows, whoever hears a question looks whether it is on it, and one that names nobody
//! else is believed only after several questions. Gaps are stored; who has answered is memory only:
//! after a crash everybody is asked again.

use super::link::Question;
use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::{Broker, KvEntry, Request};
use crate::db::connection::DatabaseError;
use crate::model::config::Now;
use crate::model::ids::NodeId;
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::evidence::{Gap, Signal, gaps, note_gap};
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};

/// Open gaps are asked for this often.
const ASK_MS: u64 = 10_000;
/// The key of the registry that holds the ids of all nodes that publish.
const ROLL_KEY: &str = "nodes";
/// A roll longer than this is none of ours.
const ROLL_MAX: usize = 10_000;
/// So many questions go out before a roll that names nobody else is believed.
const ALONE_ASKS: u32 = 3;
/// A node counts as gone, and no answer of it is waited for, at the earliest so long after its last
/// sign of life.
const GONE_MS_MIN: i64 = 86_400_000;

/// A gap as it is asked for: its number, and when it was noticed last. Another time is another
/// question.
pub(super) type GapKey = (i64, i64);

/// A gap that was asked for.
#[derive(Debug, Default)]
struct Asked {
    times: u32,
    /// Who has published what it has, although it misses something itself.
    partial: BTreeSet<u64>,
}

/// What is known of this node's gaps.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Those that wait for an answer.
    pub(super) open: Vec<Gap>,
    due_ms: u64,
    /// Their end is written down by the next transaction.
    pub(super) ended: Vec<GapKey>,
    /// What became of the questions.
    asked: HashMap<GapKey, Asked>,
    roll: BTreeSet<u64>,
    /// Every origin that this database knows, and when its newest batch was made, unix
    /// milliseconds.
    origins: HashMap<u64, i64>,
    /// This node is on the roll, as read on this connection.
    pub(super) enrolled: bool,
    /// Nodes on the roll that have given no sign of life for longer than versions are kept.
    gone: BTreeSet<u64>,
}

impl Gaps {
    /// What was open when the process ended is asked for again.
    pub(super) fn new(db: &Connection) -> Result<Self, DatabaseError> {
        let mut read = db.prepare(
            "SELECT node, max(created) FROM main.__harmonylite__origin \
            WHERE node <> 0 GROUP BY node",
        )?;
        let origins = read
            .query_map([], |r| Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Self { open: gaps(db)?, origins, ..Self::default() })
    }

    /// A batch of this origin is applied.
    pub(super) fn heard_of(&mut self, node: NodeId, created_ms: i64) {
        let newest_ms = self.origins.entry(node.0).or_insert(created_ms);
        *newest_ms = created_ms.max(*newest_ms);
    }
}

impl<B: Broker> Inbound<B> {
    /// Asks others for everything: nobody knows how old the rows were that a lost message carried.
    pub(super) fn open_gap(
        &mut self,
        shard: u32,
        node: NodeId,
        reason: &str,
        now: Now,
        done: &mut Done,
    ) -> Result<(), Fatal> {
        if planted(Bug::NoGapRepair) {
            return Ok(());
        }
        tracing::warn!(
            shard,
            reason,
            "a hole in the stream; asking the other nodes to publish again"
        );
        note_gap(&self.db, shard, node, 0, reason, now.unix_ms)?;
        self.stats.gaps += 1;
        done.gaps_changed = true;
        Ok(())
    }

    /// After a commit that changed them. What was just committed is readable; if not, the next
    /// change reads it.
    pub(super) fn reread_gaps(&mut self) {
        if let Ok(open) = gaps(&self.db) {
            self.gaps.asked.retain(|key, _| open.iter().any(|g| g.key() == *key));
            self.gaps.open = open;
            self.gaps.due_ms = 0;
        }
    }

    pub(super) fn gap_deadline(&self) -> u64 {
        if self.gaps.open.is_empty() { u64::MAX } else { self.gaps.due_ms }
    }

    /// Asks for what is missing, now and then, and who there is to answer.
    pub(super) fn ask_for_gaps(&mut self, now: Now) {
        if self.gaps.open.is_empty() || now.mono_ms < self.gaps.due_ms {
            return;
        }
        self.gaps.due_ms = now.mono_ms + ASK_MS;
        for gap in &self.gaps.open {
            let upto =
                self.streams.iter().find(|s| s.shard == gap.shard).map_or(0, |s| s.cursor.seq().0);
            let (asker, (id, noticed_ms)) = (self.config.node.0, gap.key());
            let ask = Signal::Ask {
                asker,
                gap: id,
                noticed_ms,
                origin: gap.node.0,
                shard: gap.shard,
                upto,
                since_ms: gap.since_ms,
            };
            self.broker.request(0, Request::Signal { payload: ask.encode().into() });
            self.gaps.asked.entry(gap.key()).or_default().times += 1;
        }
        self.ask_roll();
    }

    /// A node has published what it has.
    pub(super) fn gap_answered(&mut self, key: GapKey, by: u64, whole: bool) {
        if !self.gaps.open.iter().any(|g| g.key() == key) {
            return;
        }
        if whole || planted(Bug::AnyAnswer) {
            self.gaps.ended.push(key);
        } else {
            self.gaps.asked.entry(key).or_default().partial.insert(by);
            // The last one may have been waited for.
            self.ask_roll();
        }
    }

    pub(super) fn ask_roll(&mut self) {
        self.ask(Question::Roll, Request::KvGet { key: ROLL_KEY.to_owned() });
    }

    /// The roll as it is: puts this node and the origins that it knows on it, and ends what
    /// everybody else on it has answered.
    pub(super) fn roll_read(&mut self, entry: Option<&KvEntry>) {
        let mut roll = entry
            .and_then(|e| serde_json::from_slice::<BTreeSet<u64>>(&e.value).ok())
            .unwrap_or_default();
        if roll.len() > ROLL_MAX {
            roll.clear();
        }
        self.gaps.enrolled = !self.config.publish || roll.contains(&self.config.node.0);
        let read = roll.len();
        roll.extend(self.gaps.origins.keys());
        roll.extend(self.config.publish.then_some(self.config.node.0));
        if roll.len() > read {
            let request = Request::KvPut {
                key: ROLL_KEY.to_owned(),
                value: serde_json::json!(roll).to_string().into(),
                expected: Some(entry.map_or(0, |e| e.revision)),
                ttl_ms: None,
            };
            self.ask(Question::RollPut, request);
        }
        self.gaps.roll = roll;
        self.end_what_all_answered();
    }

    /// Who on the roll has not answered about this gap.
    fn silent(&self, gap: &Gap) -> Vec<u64> {
        let answered = self.gaps.asked.get(&gap.key());
        let is_waited_for = |n: &&u64| {
            **n != self.config.node.0
                && !self.gaps.gone.contains(n)
                && !answered.is_some_and(|a| a.partial.contains(n))
        };
        self.gaps.roll.iter().filter(is_waited_for).copied().collect()
    }

    fn end_what_all_answered(&mut self) {
        let mut silent = BTreeSet::new();
        let mut ended = Vec::new();
        for gap in &self.gaps.open {
            let missing = self.silent(gap);
            let (times, answers) =
                self.gaps.asked.get(&gap.key()).map_or((0, 0), |a| (a.times, a.partial.len()));
            if answers == 0 && times < ALONE_ASKS {
                continue;
            }
            if missing.is_empty() {
                ended.push(gap.key());
            }
            silent.extend(missing);
        }
        self.gaps.ended.append(&mut ended);
        for node in silent {
            self.ask(
                Question::SignOfLife(NodeId(node)),
                Request::KvGet { key: format!("node-{node}") },
            );
        }
    }

    /// Holes that other nodes were asked to fill: what is missing, and who has not answered yet.
    pub fn open_gaps(&self) -> Vec<String> {
        let say = |gap: &Gap| {
            let silent = self.silent(gap).iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            format!("{}; not answered yet by node {silent}", gap.reason)
        };
        self.gaps.open.iter().map(say).collect()
    }

    /// The registry entry of a node that does not answer: one that is gone for ever is not waited
    /// for. If the entry is lost, its newest batch is its last sign of life.
    pub(super) fn sign_of_life(&mut self, node: NodeId, entry: Option<&KvEntry>, now: Now) {
        let updated_s = entry
            .and_then(|e| serde_json::from_slice::<serde_json::Value>(&e.value).ok())
            .and_then(|value| value["updated_at"].as_i64());
        let seen_ms = updated_s
            .map(|s| s.saturating_mul(1_000))
            .or_else(|| self.gaps.origins.get(&node.0).copied());
        let Some(age_ms) = seen_ms.map(|ms| now.unix_ms.saturating_sub(ms)) else { return };
        if age_ms > self.config.version_retention_ms.max(GONE_MS_MIN) {
            tracing::warn!(
                node = node.0,
                age_ms,
                "this node is not waited for any more: it was last seen longer ago than versions \
                are kept"
            );
            self.gaps.gone.insert(node.0);
        }
    }
}
