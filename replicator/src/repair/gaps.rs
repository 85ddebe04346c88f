//! Keeps the gaps of this node, asks the other nodes to republish, and decides when a gap ends.
//!
//! Arrives: gaps noted by a transaction (positions or batch numbers that jump, messages gone before
//! they were read), and answers. Leaves: questions on the signal subject, and the end of a gap.
//! Owns: an answer of a node that misses messages itself is not enough, because it may miss the
//! same ones. So a gap ends when a node that misses nothing has republished its rows, or when every
//! member has, because each member has at least its own rows. The list of members is one key of the
//! registry, and a node publishes only after it is on the list. The broker can lose the list too.
//! So every reader adds the origins that it knows, every receiver of a question checks that it is
//! on the list, and a list without other nodes counts only after several questions. Gaps are
//! stored. The answers so far are memory only, so all nodes are asked again after a crash.

use super::members::{MEMBERS_KEY, Members};
use super::question::{Outgoing, Question};
use super::signal::Signal;
use crate::broker::{KvEntry, Request};
use crate::db::connection::DatabaseError;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::gaps::{self, Gap, GapKey};
use crate::store::origins;
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};

/// The interval of the questions about open gaps.
const ASK_MS: u64 = 10_000;
/// The other nodes are asked this much later if nobody has looked for a snapshot yet.
const LOOK_MS: u64 = 15_000;
/// They are asked this long after the last sign of a snapshot that is read: it was given up.
const READ_MS: u64 = 120_000;
/// Sites whose missing batches are noted one by one.
const NEEDED_SITES_MAX: usize = 1_000;
/// New gaps within this time are rounds of one repair, which must not run without end: after
/// [`ROUNDS_AT_ONCE`] of them the next question waits, twice as long each time.
const CALM_MS: u64 = 1_200_000;
const ROUNDS_AT_ONCE: u32 = 3;
const ROUND_WAIT_MS_MAX: u64 = 600_000;
/// The questions of other nodes make this node read the list at most once in this time.
const MEMBERS_AGAIN_MS: u64 = 1_000;
/// The questions to send before a list without other nodes counts.
const ALONE_ASKS: u32 = 3;
/// The shortest time after which a silent node counts as gone.
const GONE_MS_MIN: i64 = 86_400_000;

/// The questions and answers about one gap.
#[derive(Debug, Default)]
struct GapInquiry {
    times: u32,
    /// Nodes that have republished their rows although they miss messages themselves.
    partial: BTreeSet<u64>,
}

/// What is missing, as far as a snapshot has to have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Messages before this position, or at it.
    Messages(StreamSeq),
    /// Batches that a batch with a higher number has shown.
    Batches(MissingBatches),
}

/// Batches that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingBatches {
    /// The site.
    pub site: Site,
    /// The last one of them.
    pub upto: BatchNo,
    /// They are in the stream before this position, if they are in it.
    pub before: u64,
}

/// What fills a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Missing messages lie before this position, or at it; 0: none are missing.
    pub position: u64,
    /// When the stream was created in which these are positions, unix nanoseconds.
    pub created_ns: i64,
    /// Missing batches.
    pub batches: Vec<MissingBatches>,
}

impl Needs {
    fn add(&mut self, need: Need, created_ns: i64) {
        let position = match need {
            Need::Messages(upto) => upto.0,
            Need::Batches(missing) => missing.before,
        };
        let is_first = *self == Self::default();
        if created_ns != self.created_ns {
            // Another stream: all that is missing is older than this position.
            let position = if is_first { 0 } else { position };
            *self = Self { position, created_ns, batches: Vec::new() };
        }
        match need {
            Need::Batches(missing) if self.batches.len() < NEEDED_SITES_MAX => {
                self.batches.push(missing);
            }
            _ => self.position = self.position.max(position),
        }
    }
}

/// An open gap, for whoever looks for a snapshot that fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenGap {
    /// Its key.
    pub key: GapKey,
    /// The stream.
    pub shard: u32,
    /// What fills it.
    pub needs: Needs,
}

/// This node's gaps, and the nodes that can answer.
#[derive(Debug)]
pub struct Gaps {
    me: NodeId,
    publishes: bool,
    gone_after_ms: i64,
    open: Vec<Gap>,
    /// What fills the open gaps, by their numbers.
    needs: HashMap<i64, Needs>,
    /// Whether snapshots are looked at before other nodes are asked.
    snapshots: bool,
    /// Other nodes are not asked before this time, on the monotone clock: a snapshot is looked for,
    /// or read.
    snapshot_until_ms: u64,
    due_ms: u64,
    /// When a question about a new gap was last sent, on the monotone clock.
    new_asked_ms: Option<u64>,
    /// The questions about new gaps without a calm time between them.
    rounds: u32,
    /// Answered gaps, which the next transaction closes.
    ended: Vec<GapKey>,
    asked: HashMap<GapKey, GapInquiry>,
    members: Members,
    /// The list is not read again for other nodes before this time, on the monotone clock.
    members_again_ms: u64,
    /// Every origin in this database, and when its newest batch was made, unix milliseconds.
    origins: HashMap<u64, i64>,
    /// Whether this node is on the list of members, as read on this connection.
    enrolled: bool,
    /// Members that were silent for longer than versions are kept.
    gone: BTreeSet<u64>,
}

impl Gaps {
    /// Reads the stored gaps. Their questions start again.
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
            needs: HashMap::new(),
            snapshots: config.gaps_from_snapshots,
            snapshot_until_ms: 0,
            due_ms: 0,
            new_asked_ms: None,
            rounds: 0,
            ended: Vec::new(),
            asked: HashMap::new(),
            members: Members::default(),
            members_again_ms: 0,
            origins: HashMap::new(),
            enrolled: false,
            gone: BTreeSet::new(),
        }
    }

    /// Notes an applied batch of an origin.
    pub fn saw_origin(&mut self, node: NodeId, created_ms: i64) {
        let newest_ms = self.origins.entry(node.0).or_insert(created_ms);
        *newest_ms = created_ms.max(*newest_ms);
    }

    /// Returns whether any gap is open.
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns whether a gap of this stream is open.
    pub fn is_open(&self, shard: u32) -> bool {
        self.open.iter().any(|g| g.shard == shard)
    }

    /// Returns whether an answered gap is to be closed.
    pub fn any_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Returns whether this node is on the list of members, which is read on each connection.
    pub fn is_enrolled(&self) -> bool {
        self.enrolled
    }

    /// Returns whether another node is on the list of members.
    pub fn has_other_members(&self) -> bool {
        self.members.present.iter().any(|node| *node != self.me.0)
    }

    /// Closes the answered gaps inside the caller's transaction. Returns their number, for
    /// [`Gaps::committed`].
    ///
    /// # Errors
    /// SQLite's error.
    pub fn write_ended(&self, db: &Connection) -> Result<usize, DatabaseError> {
        for key in &self.ended {
            gaps::close(db, *key)?;
        }
        Ok(self.ended.len())
    }

    /// Takes over a commit that closed `ended` gaps. `changed` tells whether gaps were noted.
    /// Reading just committed gaps should not fail; if it does, the next change reads them.
    pub fn committed(&mut self, db: &Connection, ended: usize, changed: bool) {
        self.ended.drain(..ended);
        if (changed || ended > 0)
            && let Ok(open) = gaps::list(db)
        {
            self.asked.retain(|key, _| open.iter().any(|g| g.key() == *key));
            self.open = open;
            self.due_ms = self.new_asked_ms.map_or(0, |at| at + self.round_wait_ms());
        }
    }

    /// Notes what is missing of streams, after the commit that noted the gaps. `created_ns` returns
    /// when a stream was created, unix nanoseconds. A snapshot is looked for before other nodes are
    /// asked.
    pub fn found(&mut self, found: &[(u32, Need)], now: Now, created_ns: impl Fn(u32) -> i64) {
        self.needs.retain(|id, _| self.open.iter().any(|gap| gap.id == *id));
        for (shard, need) in found {
            let Some(gap) = self.open.iter().find(|gap| gap.shard == *shard) else { continue };
            self.needs.entry(gap.id).or_default().add(*need, created_ns(*shard));
            if self.snapshots {
                self.snapshot_until_ms = now.mono_ms + LOOK_MS;
            }
        }
    }

    /// Returns the streams with open gaps.
    pub fn open_shards(&self) -> Vec<u32> {
        self.open.iter().map(|gap| gap.shard).collect()
    }

    /// Returns the open gaps, and what fills them.
    pub fn open(&self) -> Vec<OpenGap> {
        let open = |gap: &Gap| {
            let needs = self.needs.get(&gap.id)?.clone();
            Some(OpenGap { key: gap.key(), shard: gap.shard, needs })
        };
        self.open.iter().filter_map(open).collect()
    }

    /// Notes that a snapshot is being read, or merged, which fills gaps.
    pub fn snapshot_is_read(&mut self, now: Now) {
        self.snapshot_until_ms = now.mono_ms + READ_MS;
    }

    /// Notes that no snapshot fills the gaps: the other nodes are asked.
    pub fn no_snapshot(&mut self) {
        self.snapshot_until_ms = 0;
    }

    /// Returns when [`Gaps::ask`] has questions, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        if self.open.is_empty() { u64::MAX } else { self.due_ms.max(self.snapshot_until_ms) }
    }

    /// Returns the questions about open gaps, every ten seconds. `position` returns the position up
    /// to which a stream is consumed.
    pub fn ask(&mut self, now: Now, position: impl Fn(u32) -> u64) -> Vec<Outgoing> {
        if now.mono_ms < self.deadline() {
            return Vec::new();
        }
        self.due_ms = now.mono_ms + ASK_MS;
        if self.open.iter().any(|gap| !self.asked.contains_key(&gap.key())) {
            self.begin_round(now);
        }
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

    fn begin_round(&mut self, now: Now) {
        let is_calm = self.new_asked_ms.is_none_or(|at| now.mono_ms - at >= CALM_MS);
        self.rounds = if is_calm { 1 } else { self.rounds + 1 };
        self.new_asked_ms = Some(now.mono_ms);
        if self.round_wait_ms() > 0 {
            tracing::warn!(
                rounds = self.rounds,
                wait_s = self.round_wait_ms() / 1_000,
                "messages go missing again and again; waiting before the next question"
            );
        }
    }

    /// Returns the wait between the last question about a new gap and the next one.
    fn round_wait_ms(&self) -> u64 {
        let Some(late) = self.rounds.checked_sub(ROUNDS_AT_ONCE) else { return 0 };
        (ASK_MS << late.min(10)).min(ROUND_WAIT_MS_MAX)
    }

    /// Takes the answer of a node that has republished its rows. `whole` tells whether that node
    /// misses nothing itself.
    pub fn answered(&mut self, key: GapKey, by: u64, whole: bool) -> Option<Outgoing> {
        if !self.open.iter().any(|g| g.key() == key) {
            return None;
        }
        if whole || planted(Bug::AnyAnswer) {
            self.ended.push(key);
            return None;
        }
        self.asked.entry(key).or_default().partial.insert(by);
        // This may be the last missing answer.
        Some(Self::ask_members())
    }

    /// Rereads the list of members on a new connection.
    pub fn reread_members(&mut self) -> Outgoing {
        self.enrolled = false;
        Self::ask_members()
    }

    /// Returns the request for the list of members.
    pub fn ask_members() -> Outgoing {
        Outgoing::read(Question::Members, MEMBERS_KEY.to_owned())
    }

    /// Returns the request for the list because another node has a question, at most once a second.
    pub fn members_again(&mut self, now: Now) -> Option<Outgoing> {
        if now.mono_ms < self.members_again_ms {
            return None;
        }
        self.members_again_ms = now.mono_ms + MEMBERS_AGAIN_MS;
        Some(Self::ask_members())
    }

    /// Returns how many members answer the questions of `asker` before this node.
    pub fn turn(&self, asker: u64) -> u64 {
        self.members.present.iter().filter(|n| **n < self.me.0 && **n != asker).count() as u64
    }

    /// Notes that the list was written with this node on it.
    pub fn members_written(&mut self) {
        self.enrolled = true;
    }

    /// Takes the list of members. Adds this node and the known origins to it, and ends the gaps
    /// about which every other member has answered.
    pub fn members_read(&mut self, entry: Option<&KvEntry>) -> Vec<Outgoing> {
        let read = Members::read(entry);
        let is_member = read.present.contains(&self.me.0) && !read.forgotten.contains(&self.me.0);
        self.enrolled = !self.publishes || is_member;
        let mut members = read.clone();
        members.add_origins(self.origins.keys().copied());
        if self.publishes {
            members.enrol(self.me.0);
        }
        let mut out = Vec::new();
        if members != read {
            let request = Request::KvPut {
                key: MEMBERS_KEY.to_owned(),
                value: members.encode().into(),
                expected: Some(entry.map_or(0, |e| e.revision)),
                ttl_ms: None,
            };
            out.push(Outgoing::Ask(Question::MembersPut, request));
        }
        self.members = members;
        out.extend(self.end_what_all_answered());
        out
    }

    /// Returns the members without an answer about this gap.
    fn silent(&self, gap: &Gap) -> Vec<u64> {
        let answered = self.asked.get(&gap.key());
        let is_waited_for = |n: &&u64| {
            **n != self.me.0
                && !self.gone.contains(n)
                && !answered.is_some_and(|a| a.partial.contains(n))
        };
        self.members.present.iter().filter(is_waited_for).copied().collect()
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
        let ask = |node| Outgoing::read(Question::LastSeen(NodeId(node)), format!("node-{node}"));
        silent.into_iter().map(ask).collect()
    }

    /// Describes the open gaps for people: the missing messages, and the nodes without an answer.
    pub fn describe(&self) -> Vec<String> {
        let describe = |gap: &Gap| {
            let silent = self.silent(gap).iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            format!("{}; not answered yet by node {silent}", gap.reason)
        };
        self.open.iter().map(describe).collect()
    }

    /// Takes the registry entry of a silent member. A member that was silent for too long counts as
    /// gone. If the entry is lost, the member's newest batch counts instead.
    pub fn last_seen(&mut self, node: NodeId, entry: Option<&KvEntry>, now: Now) {
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
                "no longer waiting for this node: last seen longer ago than versions are kept"
            );
            self.gone.insert(node.0);
        }
    }
}

#[cfg(test)]
#[path = "gaps_tests.rs"]
mod tests;
