//! Gaps of this node: keeps them, asks the other nodes to publish again, and decides their end.
//!
//! Arrives: gaps noted by a transaction (positions or batch numbers that jump, messages gone before
//! they were read), and answers. Leaves: questions on the signal subject, and the end of a gap.
//! Owns: an answer of a node that misses something itself proves little, for it may miss the same.
//! So a gap ends when a node that misses nothing has republished what it has, or when every member
//! has: each knows its own rows. The list of members is one key of the registry; nobody publishes
//! before it is on it. The broker can lose the list too: whoever reads it puts back every origin it
//! knows, whoever receives a question checks that it is on it, and a list that names nobody else
//! is believed only after several questions. Gaps are stored; who has answered is memory only:
//! after a crash everybody is asked again.

use super::question::{Outgoing, Question};
use super::signal::Signal;
use crate::broker::{KvEntry, Request};
use crate::db::connection::DatabaseError;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::NodeId;
use crate::model::planted_bugs::{Bug, planted};
use crate::store::gaps::{self, Gap, GapKey};
use crate::store::origins;
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};

/// Open gaps are asked for this often.
const ASK_MS: u64 = 10_000;
/// The key of the registry that holds the ids of all nodes that publish.
const MEMBERS_KEY: &str = "nodes";
/// A longer list is none of ours.
const MEMBERS_MAX: usize = 10_000;
/// Questions sent before a list that names nobody else is believed.
const ALONE_ASKS: u32 = 3;
/// A node counts as gone at the earliest this long after its last sign of life.
const GONE_MS_MIN: i64 = 86_400_000;

/// What became of the questions about one gap.
#[derive(Debug, Default)]
struct GapInquiry {
    times: u32,
    /// Nodes that have republished what they have, although they miss something themselves.
    partial: BTreeSet<u64>,
}

/// This node's gaps, and who is there to answer.
#[derive(Debug)]
pub struct Gaps {
    me: NodeId,
    publishes: bool,
    gone_after_ms: i64,
    open: Vec<Gap>,
    due_ms: u64,
    /// Their end is written by the next transaction.
    ended: Vec<GapKey>,
    asked: HashMap<GapKey, GapInquiry>,
    members: BTreeSet<u64>,
    /// Every origin in this database, and when its newest batch was made, unix milliseconds.
    origins: HashMap<u64, i64>,
    /// This node is on the list of members, as read on this connection.
    enrolled: bool,
    /// Members without a sign of life for longer than versions are kept.
    gone: BTreeSet<u64>,
}

impl Gaps {
    /// Gaps that were open when the process ended are asked for again.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(config: &NodeConfig, db: &Connection) -> Result<Self, DatabaseError> {
        let newest = origins::newest_by_node(db)?;
        let origins = newest.into_iter().map(|(node, created_ms)| (node.0, created_ms)).collect();
        Ok(Self { open: gaps::list(db)?, origins, ..Self::none(config) })
    }

    fn none(config: &NodeConfig) -> Self {
        Self {
            me: config.node,
            publishes: config.publish,
            gone_after_ms: config.version_retention_ms.max(GONE_MS_MIN),
            open: Vec::new(),
            due_ms: 0,
            ended: Vec::new(),
            asked: HashMap::new(),
            members: BTreeSet::new(),
            origins: HashMap::new(),
            enrolled: false,
            gone: BTreeSet::new(),
        }
    }

    /// A batch of this origin is applied.
    pub fn saw_origin(&mut self, node: NodeId, created_ms: i64) {
        let newest_ms = self.origins.entry(node.0).or_insert(created_ms);
        *newest_ms = created_ms.max(*newest_ms);
    }

    /// Whether any gap is open.
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a gap of this stream is open.
    pub fn is_open(&self, shard: u32) -> bool {
        self.open.iter().any(|g| g.shard == shard)
    }

    /// Whether the end of a gap waits to be written.
    pub fn any_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Whether this node is on the list of members. The list is read on each connection.
    pub fn is_enrolled(&self) -> bool {
        self.enrolled
    }

    /// Writes the end of the gaps that are answered, inside the caller's transaction. Returns how
    /// many, for [`Gaps::committed`].
    ///
    /// # Errors
    /// SQLite's error.
    pub fn write_ended(&self, db: &Connection) -> Result<usize, DatabaseError> {
        for key in &self.ended {
            gaps::close(db, *key)?;
        }
        Ok(self.ended.len())
    }

    /// After a commit: `ended` ends are written, and with `changed` the stored gaps are others.
    /// What was just committed is readable; if not, the next change reads it.
    pub fn committed(&mut self, db: &Connection, ended: usize, changed: bool) {
        self.ended.drain(..ended);
        if (changed || ended > 0)
            && let Ok(open) = gaps::list(db)
        {
            self.asked.retain(|key, _| open.iter().any(|g| g.key() == *key));
            self.open = open;
            self.due_ms = 0;
        }
    }

    /// When [`Gaps::ask`] has something to ask, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        if self.open.is_empty() { u64::MAX } else { self.due_ms }
    }

    /// The questions about open gaps, every ten seconds. `position`: how far a stream is consumed.
    pub fn ask(&mut self, now: Now, position: impl Fn(u32) -> u64) -> Vec<Outgoing> {
        if now.mono_ms < self.deadline() {
            return Vec::new();
        }
        self.due_ms = now.mono_ms + ASK_MS;
        let mut out = Vec::with_capacity(self.open.len() + 1);
        for gap in &self.open {
            let (id, noticed_ms) = gap.key();
            out.push(Outgoing::Signal(Signal::Ask {
                asker: self.me.0,
                gap: id,
                noticed_ms,
                origin: gap.node.0,
                shard: gap.shard,
                upto: position(gap.shard),
                since_ms: gap.since_ms,
            }));
            self.asked.entry(gap.key()).or_default().times += 1;
        }
        out.push(Self::ask_members());
        out
    }

    /// Another node has republished what it has; `whole`: it misses nothing itself.
    pub fn answered(&mut self, key: GapKey, by: u64, whole: bool) -> Option<Outgoing> {
        if !self.open.iter().any(|g| g.key() == key) {
            return None;
        }
        if whole || planted(Bug::AnyAnswer) {
            self.ended.push(key);
            return None;
        }
        self.asked.entry(key).or_default().partial.insert(by);
        // The last one may have been waited for.
        Some(Self::ask_members())
    }

    /// A new connection: the list of members has to be read again.
    pub fn reread_members(&mut self) -> Outgoing {
        self.enrolled = false;
        Self::ask_members()
    }

    /// Reads the list of members.
    pub fn ask_members() -> Outgoing {
        Outgoing::read(Question::Members, MEMBERS_KEY.to_owned())
    }

    /// The list could be written with this node on it.
    pub fn members_written(&mut self) {
        self.enrolled = true;
    }

    /// The list as it is: puts this node and the origins it knows on it, and ends the gaps about
    /// which every other member has answered.
    pub fn members_read(&mut self, entry: Option<&KvEntry>) -> Vec<Outgoing> {
        let mut members = entry
            .and_then(|e| serde_json::from_slice::<BTreeSet<u64>>(&e.value).ok())
            .unwrap_or_default();
        if members.len() > MEMBERS_MAX {
            members.clear();
        }
        self.enrolled = !self.publishes || members.contains(&self.me.0);
        let read = members.len();
        members.extend(self.origins.keys());
        members.extend(self.publishes.then_some(self.me.0));
        let mut out = Vec::new();
        if members.len() > read {
            let request = Request::KvPut {
                key: MEMBERS_KEY.to_owned(),
                value: serde_json::json!(members).to_string().into(),
                expected: Some(entry.map_or(0, |e| e.revision)),
                ttl_ms: None,
            };
            out.push(Outgoing::Ask(Question::MembersPut, request));
        }
        self.members = members;
        out.extend(self.end_what_all_answered());
        out
    }

    /// Members that have not answered about this gap.
    fn silent(&self, gap: &Gap) -> Vec<u64> {
        let answered = self.asked.get(&gap.key());
        let is_waited_for = |n: &&u64| {
            **n != self.me.0
                && !self.gone.contains(n)
                && !answered.is_some_and(|a| a.partial.contains(n))
        };
        self.members.iter().filter(is_waited_for).copied().collect()
    }

    fn end_what_all_answered(&mut self) -> Vec<Outgoing> {
        let mut silent = BTreeSet::new();
        for gap in &self.open {
            let missing = self.silent(gap);
            let (times, answers) =
                self.asked.get(&gap.key()).map_or((0, 0), |a| (a.times, a.partial.len()));
            if answers == 0 && times < ALONE_ASKS {
                continue;
            }
            if missing.is_empty() {
                self.ended.push(gap.key());
            }
            silent.extend(missing);
        }
        let ask = |node| Outgoing::read(Question::SignOfLife(NodeId(node)), format!("node-{node}"));
        silent.into_iter().map(ask).collect()
    }

    /// Open gaps for people: what is missing, and who has not answered yet.
    pub fn describe(&self) -> Vec<String> {
        let describe = |gap: &Gap| {
            let silent = self.silent(gap).iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            format!("{}; not answered yet by node {silent}", gap.reason)
        };
        self.open.iter().map(describe).collect()
    }

    /// The registry entry of a member that does not answer: one that is gone for ever is not
    /// waited for. If the entry is lost, its newest batch is its last sign of life.
    pub fn sign_of_life(&mut self, node: NodeId, entry: Option<&KvEntry>, now: Now) {
        let updated_s = entry
            .and_then(|e| serde_json::from_slice::<serde_json::Value>(&e.value).ok())
            .and_then(|value| value["updated_at"].as_i64());
        let seen_ms = updated_s
            .map(|s| s.saturating_mul(1_000))
            .or_else(|| self.origins.get(&node.0).copied());
        let Some(age_ms) = seen_ms.map(|ms| now.unix_ms.saturating_sub(ms)) else { return };
        if age_ms > self.gone_after_ms {
            tracing::warn!(
                node = node.0,
                age_ms,
                "not waiting for this node any more: last seen longer ago than versions are kept"
            );
            self.gone.insert(node.0);
        }
    }
}

#[cfg(test)]
#[path = "gaps_tests.rs"]
mod tests;
