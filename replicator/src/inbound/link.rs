//! At every (re)connect: is the node id ours, does the broker still have what it acknowledged, from
//! where to consume.
//!
//! Arrives: answers of the broker. Leaves: either "all holds", or the loss that the next
//! transaction repairs. Owns: nothing is published or consumed on a connection before its anchors
//! are checked. Only memory: a crash begins again.

use super::{Effect, Fatal, Inbound};
use crate::broker::{Broker, BrokerError, KvEntry, Message, Reply, Request, StreamState};
use crate::model::config::Now;
use crate::model::ids::{NodeId, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::evidence::{Evidence, judge};
use crate::repair::lease::{Lease, Next};
use crate::store::cursor::{Anchor, NO_ROW_MS};
use std::collections::HashMap;

/// What a ticket stands for.
#[derive(Clone, Debug)]
pub(super) enum Question {
    State(u32),
    At(u32, StreamSeq),
    LastOwn,
    Registry,
    Lease,
    LeasePut,
    Consume(u32, u64),
    Heartbeat,
    HeldOrigin(NodeId),
    Roll,
    RollPut,
    SignOfLife(NodeId),
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State(shard) => write!(f, "the state of stream {shard}"),
            Self::At(shard, seq) => write!(f, "message {seq} of stream {shard}"),
            Self::LastOwn => f.write_str("the newest message of this node"),
            Self::Registry => f.write_str("this node's registry entry"),
            Self::Lease | Self::LeasePut => f.write_str("the lease of this node id"),
            Self::Consume(shard, _) => write!(f, "consuming stream {shard}"),
            Self::HeldOrigin(node) | Self::SignOfLife(node) => {
                write!(f, "the registry entry of node {node}")
            }
            Self::Roll | Self::RollPut => f.write_str("the roll of the nodes"),
            Self::Heartbeat => f.write_str("writing this node's registry entry"),
        }
    }
}

/// What is known of a connection that is being checked.
#[derive(Debug, Default)]
pub(super) struct Check {
    states: HashMap<u32, StreamState>,
    found: HashMap<(u32, StreamSeq), Option<Message>>,
    last_own: Option<Message>,
    registry: Option<KvEntry>,
    outstanding: usize,
    traced: bool,
    /// What is asked about: both move on while the answers are on their way.
    own: Option<Anchor>,
    heads: HashMap<u32, Anchor>,
    began: HashMap<u32, Anchor>,
}

impl Check {
    fn judge(
        &self,
        shard: u32,
        anchor: &Anchor,
        not_before_ns: i64,
        state: &StreamState,
    ) -> Evidence {
        judge(
            anchor,
            not_before_ns,
            state,
            self.found.get(&(shard, anchor.seq)).and_then(Option::as_ref),
        )
    }
}

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Link {
    Down,
    /// Up, but outbound may still bring acknowledgements, which the check has to include.
    Settling,
    /// Answers are awaited.
    Checking(Box<Check>),
    /// Something failed: check again at this time.
    Again(u64),
    /// Checked; the next transaction repairs this, then all goes on.
    Judged(Box<Repair>),
    Up,
}

/// What a check found to be done.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// The broker knows more of this site than the database does.
    pub(super) new_site: bool,
    /// Rows from this time on are published again.
    pub(super) since_ms: Option<i64>,
    /// The last own acknowledged batch is gone.
    pub(super) own_lost: bool,
    /// For each shard: when its stream was created, and, if the cursor's message is gone, the kept
    /// position that still holds.
    pub(super) shards: Vec<(u32, StreamState, Option<Option<usize>>)>,
}

/// A failed check is repeated after so long.
const AGAIN_MS: u64 = 500;
/// The registry entry is written this often.
const HEARTBEAT_MS: u64 = 10_000;

impl<B: Broker> Inbound<B> {
    /// Lets outbound hold still first: what it has been told, and what it publishes meanwhile,
    /// would not be part of the check.
    pub(super) fn begin_check(&mut self) {
        self.check += 1;
        self.answers.forget();
        self.effects.push(Effect::Hold { check: self.check, connection: self.connection });
        self.link = Link::Settling;
    }

    /// Asks all that is needed to judge this connection.
    fn check_link(&mut self) {
        self.asked
            .retain(|_, q| matches!(q, Question::Lease | Question::LeasePut | Question::Heartbeat));
        let mut check = Check { own: self.own_anchor, ..Check::default() };
        let mut questions: Vec<(Question, Request)> = Vec::new();
        for stream in &self.streams {
            let shard = stream.shard;
            questions.push((Question::State(shard), Request::StreamState { shard }));
            let seq = stream.cursor.seq();
            if let Some(head) = stream.cursor.head() {
                check.heads.insert(shard, *head);
            }
            if let Some(began) = stream.began.filter(|b| b.seq.0 > 0 && b.seq != seq) {
                check.began.insert(shard, began);
                questions.push((
                    Question::At(shard, began.seq),
                    Request::MessageAt { shard, seq: began.seq },
                ));
            }
            if seq.0 > 0 {
                questions.push((Question::At(shard, seq), Request::MessageAt { shard, seq }));
            }
        }
        let shard = self.config.own_shard();
        if let Some(anchor) = self.own_anchor {
            questions.push((
                Question::At(shard, anchor.seq),
                Request::MessageAt { shard, seq: anchor.seq },
            ));
        }
        questions.push((Question::LastOwn, Request::LastOwn { shard }));
        questions.push((
            Question::Registry,
            Request::KvGet { key: format!("node-{}", self.config.node) },
        ));
        check.outstanding = questions.len();
        self.link = Link::Checking(Box::new(check));
        for (question, request) in questions {
            self.ask(question, request);
        }
        self.gaps.enrolled = false;
        self.ask_roll();
        if !self.lease.is_held() {
            self.ask_lease();
        }
    }

    fn ask_lease(&mut self) {
        self.ask(Question::Lease, Request::KvGet { key: Lease::key(self.config.node) });
    }

    pub(super) fn answered(
        &mut self,
        question: Question,
        result: Result<Reply, BrokerError>,
        now: Now,
    ) -> Result<(), Fatal> {
        if let Err(error) = &result
            && *error != BrokerError::Conflict
        {
            self.trouble = Some(format!("{question}: {error}"));
        }
        match (question, result) {
            (Question::Lease, Ok(Reply::Kv(entry))) => return self.lease_read(entry.as_ref(), now),
            (Question::LeasePut, Ok(Reply::KvPut(revision))) => {
                self.lease.written(revision);
                self.lease_due_ms = now.mono_ms + self.config.lease_ttl_ms / 3;
            }
            (Question::LeasePut, Err(BrokerError::Conflict)) => self.ask_lease(),
            (Question::Lease | Question::LeasePut, _) => self.lease_due_ms = now.mono_ms + AGAIN_MS,
            (Question::HeldOrigin(node), Ok(Reply::Kv(entry))) => {
                self.held_origin(node, entry.as_ref())
            }
            (Question::SignOfLife(node), Ok(Reply::Kv(entry))) => {
                self.sign_of_life(node, entry.as_ref(), now)
            }
            (Question::Heartbeat | Question::HeldOrigin(_) | Question::SignOfLife(_), _) => {}
            (Question::Roll, Ok(Reply::Kv(entry))) => self.roll_read(entry.as_ref()),
            (Question::RollPut, Ok(Reply::KvPut(_))) => self.gaps.enrolled = true,
            (Question::RollPut, Err(BrokerError::Conflict)) => self.ask_roll(),
            (Question::Consume(shard, generation), Err(error)) => {
                if self.streams.iter().any(|s| s.shard == shard && s.generation == generation) {
                    tracing::warn!(shard, %error, "cannot consume; trying again");
                    self.link = Link::Again(now.mono_ms + AGAIN_MS);
                }
            }
            (Question::Consume(..), Ok(_)) => {}
            (question, Ok(reply)) => self.evidence(question, reply),
            (question, Err(error)) => {
                tracing::debug!(?question, %error, "the check of the connection was not answered; \
                    trying again");
                if matches!(self.link, Link::Checking(_)) {
                    self.link = Link::Again(now.mono_ms + AGAIN_MS);
                }
            }
        }
        Ok(())
    }

    fn evidence(&mut self, question: Question, reply: Reply) {
        let Link::Checking(check) = &mut self.link else { return };
        match (question, reply) {
            (Question::State(shard), Reply::State(state)) => {
                check.states.insert(shard, state);
            }
            (Question::At(shard, seq), Reply::Message(message)) => {
                check.found.insert((shard, seq), message);
            }
            (Question::LastOwn, Reply::Message(message)) => check.last_own = message,
            (Question::Registry, Reply::Kv(entry)) => check.registry = entry,
            // An answer of another kind than asked cannot come from our own broker side.
            _ => return,
        }
        check.outstanding = check.outstanding.saturating_sub(1);
    }

    fn lease_read(&mut self, entry: Option<&KvEntry>, now: Now) -> Result<(), Fatal> {
        match self.lease.decide(entry, now.mono_ms) {
            Next::Put { expected } => self.put_lease(expected),
            Next::LookAgain => {
                self.lease_due_ms = now.mono_ms + (self.config.lease_ttl_ms / 4).max(1)
            }
            Next::Refuse(holder) => {
                return Err(Fatal::SecondNode { node: self.config.node, place: holder.place });
            }
        }
        Ok(())
    }

    fn put_lease(&mut self, expected: u64) {
        let request = Request::KvPut {
            key: Lease::key(self.config.node),
            value: self.lease.value().into(),
            expected: Some(expected),
            ttl_ms: Some(self.config.lease_ttl_ms),
        };
        self.ask(Question::LeasePut, request);
    }

    /// What time alone makes due.
    pub(super) fn tick(&mut self, now: Now) {
        if matches!(self.link, Link::Down) {
            return;
        }
        if matches!(self.link, Link::Settling) {
            if (self.outbound_held != self.check || !self.acks.is_empty()) && !planted(Bug::NoHold)
            {
                return;
            }
            // What came before would move the cursor behind the back of the check: to a position
            // that may be another message by now.
            if self.streams.iter().any(|s| !s.queue.is_empty()) {
                return;
            }
            self.check_link();
        }
        if let Link::Again(at) = self.link
            && now.mono_ms >= at
        {
            self.begin_check();
        }
        if now.mono_ms >= self.lease_due_ms
            && !self.asked.values().any(|q| matches!(q, Question::Lease | Question::LeasePut))
        {
            self.lease_due_ms = now.mono_ms + self.config.lease_ttl_ms / 3;
            match self.lease.revision() {
                Some(revision) => self.put_lease(revision),
                None => self.ask_lease(),
            }
        }
        if !matches!(self.link, Link::Up) {
            return;
        }
        for i in 0..self.streams.len() {
            self.streams[i].abandon_idle(now.mono_ms);
            if self.streams[i].looks_for_room(now.mono_ms) {
                self.consume(i);
            }
        }
        self.ask_about_held(now);
        if now.mono_ms >= self.heartbeat_due_ms {
            self.heartbeat_due_ms = now.mono_ms + HEARTBEAT_MS;
            let value = self.registry_entry(now);
            self.ask(
                Question::Heartbeat,
                Request::KvPut {
                    key: format!("node-{}", self.config.node),
                    value: value.into(),
                    expected: None,
                    ttl_ms: None,
                },
            );
        }
        self.ask_for_gaps(now);
    }

    /// Once all answers are there: asks for the trail if the cursor is lost, or judges.
    pub(super) fn judge_link(&mut self) -> Result<(), Fatal> {
        let Link::Checking(check) = &self.link else { return Ok(()) };
        if check.outstanding > 0 || !self.lease.is_held() || !self.gaps.enrolled {
            return Ok(());
        }
        if !check.traced {
            let questions: Vec<(u32, StreamSeq)> = self
                .streams
                .iter()
                .filter(|s| {
                    check.states.get(&s.shard).is_some_and(|state| {
                        self.cursor_evidence(check, s, state) == Evidence::Lost
                            && check
                                .heads
                                .get(&s.shard)
                                .is_some_and(|h| h.created_ns == state.created_ns)
                    })
                })
                .flat_map(|s| {
                    s.cursor.kept.iter().map(|k| (s.shard, k.anchor.seq)).collect::<Vec<_>>()
                })
                .filter(|(shard, seq)| seq.0 > 0 && !check.found.contains_key(&(*shard, *seq)))
                .collect();
            if let Link::Checking(check) = &mut self.link {
                check.traced = true;
                check.outstanding = questions.len();
            }
            if !questions.is_empty() {
                for (shard, seq) in questions {
                    self.ask(Question::At(shard, seq), Request::MessageAt { shard, seq });
                }
                return Ok(());
            }
        }
        let Link::Checking(check) = std::mem::replace(&mut self.link, Link::Down) else {
            return Ok(());
        };
        self.refuse_join(&check)?;
        let repair = self.judge_check(&check);
        self.set_join_targets(&check);
        self.link = Link::Judged(Box::new(repair));
        Ok(())
    }

    fn cursor_evidence(
        &self,
        check: &Check,
        stream: &super::ShardStream,
        state: &StreamState,
    ) -> Evidence {
        if planted(Bug::NoCursorAnchor) {
            return Evidence::Holds;
        }
        let judged = |anchor: &Anchor| check.judge(stream.shard, anchor, anchor.time_ns, state);
        let lost = |of: &HashMap<u32, Anchor>| {
            of.get(&stream.shard).is_some_and(|anchor| judged(anchor) == Evidence::Lost)
        };
        if lost(&check.heads) || lost(&check.began) { Evidence::Lost } else { Evidence::Holds }
    }

    fn judge_check(&self, check: &Check) -> Repair {
        let mut repair = Repair::default();
        let mut since = NO_ROW_MS;
        let drift = self.config.max_clock_drift_ms;
        for stream in &self.streams {
            let Some(state) = check.states.get(&stream.shard) else { continue };
            let mut back = None;
            if self.cursor_evidence(check, stream, state) == Evidence::Lost {
                let holds = |i: &usize| {
                    let anchor = &stream.cursor.kept[*i].anchor;
                    anchor.created_ns == state.created_ns
                        && check.began.get(&stream.shard).is_none_or(|began| anchor.seq < began.seq)
                        && check.judge(stream.shard, anchor, anchor.time_ns, state)
                            == Evidence::Holds
                };
                let index = (0..stream.cursor.kept.len()).rev().find(holds);
                back = Some(index);
                since = since.min(match index {
                    Some(i) if stream.cursor.kept[i].anchor.seq.0 > 0 => {
                        let after = stream.cursor.kept[i + 1..]
                            .iter()
                            .map(|k| k.lowest_ms)
                            .min()
                            .unwrap_or(NO_ROW_MS);
                        after.min(stream.cursor.kept[i].anchor.time_ns / 1_000_000 - drift)
                    }
                    _ => 0,
                });
            }
            repair.shards.push((stream.shard, *state, back));
        }
        let shard = self.config.own_shard();
        if let (Some(anchor), Some(state)) = (&check.own, check.states.get(&shard)) {
            // An acknowledgement tells no time, but what was consumed before it does.
            let trail =
                self.streams.iter().filter(|s| s.shard == shard).flat_map(|s| &s.cursor.kept);
            let before = trail
                .map(|k| k.anchor)
                .filter(|a| a.seq <= anchor.seq && a.created_ns == anchor.created_ns);
            let not_before_ns = before.map(|a| a.time_ns).max().unwrap_or(0);
            if check.judge(shard, anchor, not_before_ns, state) == Evidence::Lost
                && !planted(Bug::NoOwnAnchor)
            {
                repair.own_lost = true;
                let before = self.streams.iter().find(|s| s.shard == shard).and_then(|s| {
                    let index = s
                        .cursor
                        .kept
                        .iter()
                        .rposition(|k| k.anchor.seq < anchor.seq && k.anchor.seq.0 > 0)?;
                    let after = s.cursor.kept[index + 1..]
                        .iter()
                        .map(|k| k.lowest_ms)
                        .min()
                        .unwrap_or(NO_ROW_MS);
                    Some(after.min(s.cursor.kept[index].anchor.time_ns / 1_000_000 - drift))
                });
                let same_stream = anchor.created_ns == state.created_ns;
                since = since.min(
                    before
                        .filter(|_| same_stream)
                        .map_or(0, |before| before.min(self.own_lowest_ms)),
                );
            }
        }
        if repair.own_lost || repair.shards.iter().any(|(_, _, back)| back.is_some()) {
            repair.since_ms = Some(since.max(0));
        }
        repair.new_site = self.is_behind_broker(check);
        repair
    }

    /// The broker knows a higher batch number of this site than the database, or a later site of
    /// this node that the database has never heard of: the database went back in time (maybe for
    /// the second time: then its newest life is one that it does not remember). Asked only before
    /// this process has published anything, because later outbound knows what is in flight.
    fn is_behind_broker(&self, check: &Check) -> bool {
        if self.stats.transactions_go > 0 || planted(Bug::SameSite) {
            return false;
        }
        let unknown = |site: i64, batch: u64| {
            let site = crate::model::ids::Site(site);
            if site == self.absorb.site {
                batch > self.batch.0
            } else {
                !self.absorb.own_sites.contains(&site)
            }
        };
        let in_stream = check
            .last_own
            .as_ref()
            .and_then(|m| m.headers.as_ref().ok())
            .is_some_and(|h| unknown(h.site.0, h.batch.0));
        let in_registry = check
            .registry
            .as_ref()
            .and_then(|e| serde_json::from_slice::<serde_json::Value>(&e.value).ok())
            .and_then(|v| Some((v["site"].as_i64()?, v["batch"].as_u64().unwrap_or(0))))
            .is_some_and(|(site, batch)| unknown(site, batch));
        in_stream || in_registry
    }

    fn refuse_join(&self, check: &Check) -> Result<(), Fatal> {
        if self.joined
            || self.config.on_join != crate::model::config::OnJoin::Refuse
            || !check.states.values().any(|s| s.last.0 > 0)
        {
            return Ok(());
        }
        match crate::capture::baseline::unversioned_rows(&self.db, &self.layout, 1_000)? {
            0 => Ok(()),
            rows => Err(Fatal::JoinRefused { rows }),
        }
    }

    fn set_join_targets(&mut self, check: &Check) {
        if self.joined {
            return;
        }
        for (shard, state) in &check.states {
            // A stream that was made anew, or that lost its tail, may never again be as long as it
            // was when we came.
            let target = self.join_targets.entry(*shard).or_insert(state.last);
            *target = state.last.min(*target);
        }
    }

    /// After the transaction that repaired: consume, and let outbound go.
    pub(super) fn link_up(&mut self, now: Now) {
        self.link = Link::Up;
        self.trouble = None;
        self.delivered_ms = now.mono_ms;
        self.heartbeat_due_ms = 0;
        if self.config.replicate {
            for i in 0..self.streams.len() {
                self.consume(i);
            }
        }
        self.stats.transactions_go += 1;
        self.effects.push(Effect::Go {
            check: self.check,
            site: self.absorb.site,
            batch: self.batch,
            published: self.absorb.published,
        });
    }

    /// Starts the consumer of a stream behind its cursor.
    pub(super) fn consume(&mut self, index: usize) {
        let generation = self.next_ticket;
        let stream = &mut self.streams[index];
        let shard = stream.shard;
        let start = stream.restart(generation);
        self.ask(
            Question::Consume(shard, generation),
            Request::Consume { shard, start, generation },
        );
    }

    fn registry_entry(&self, now: Now) -> Vec<u8> {
        let cursors: serde_json::Map<String, serde_json::Value> =
            self.streams.iter().map(|s| (s.shard.to_string(), s.cursor.seq().0.into())).collect();
        let entry = serde_json::json!({
            "node_id": self.config.node.0,
            "schema_hash": super::former::hex(&self.layout.hash),
            "previous_hash": self.layout.previous_hash.map(|h| super::former::hex(&h)).unwrap_or_default(),
            "harmonylite_version": env!("CARGO_PKG_VERSION"),
            "updated_at": now.unix_ms / 1000,
            "site": self.absorb.site.0,
            "batch": self.batch.0,
            "cursors": cursors,
        });
        entry.to_string().into_bytes()
    }
}
