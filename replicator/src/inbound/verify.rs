//! Verifies each connection: is the node id ours, does the broker still hold the acknowledged
//! messages.
//!
//! Arrives: the answers of the broker. Leaves: a verdict, which the next transaction carries out.
//! Owns: nothing is published or consumed on a connection before its anchors are checked. Memory
//! only: after a crash the check starts again.

use super::durable::Durable;
use crate::actor::{Effect, Fatal};
use crate::broker::{KvEntry, Reply, Request};
use crate::model::batch::LogMark;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{BatchNo, NodeId, Site};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::lease::{Lease, LeaseStep};
use crate::repair::question::{Outgoing, Question};
use crate::repair::verdict::{BrokerAnswers, NodeKnowledge, Verdict, judge_connection};
use crate::store::cursor::Anchor;

/// The wait before a failed check is repeated.
const RETRY_MS: u64 = 500;
/// The interval of writing the registry entry.
const HEARTBEAT_MS: u64 = 10_000;
/// After a change of the schema some batches in the former one may be under way: the entry that
/// proves that they are the last ones follows soon.
const HEARTBEAT_SOON_MS: u64 = 1_500;
const HEARTBEATS_SOON: u32 = 3;

/// A running check.
#[derive(Debug, Default)]
struct Check {
    answered: BrokerAnswers,
    outstanding: usize,
    /// Whether the trail of lost cursors was requested.
    trail_asked: bool,
}

/// The state of the connection.
#[derive(Debug)]
enum State {
    Down,
    /// Up, but outbound may still pass on acknowledgements, which the check has to include.
    Settling,
    /// Waits for answers.
    Checking(Box<Check>),
    /// The check failed. Repeat it at this time.
    RetryAt(u64),
    /// Checked. The next transaction carries out this verdict.
    Judged(Box<Verdict>),
    Up,
}

/// The connection, its checks, and the lease of the node id.
pub(super) struct Verify {
    node: NodeId,
    lease_ttl_ms: u64,
    state: State,
    /// The number of connections so far.
    connection: u64,
    /// The number of started checks.
    check: u64,
    /// The number of passed checks.
    passed: u64,
    /// The last check for which outbound has stopped publishing.
    outbound_held: u64,
    lease: Lease,
    lease_due_ms: u64,
    heartbeat_due_ms: u64,
    /// Heartbeats that follow soon after the last one.
    soon: u32,
    random: Box<dyn FnMut() -> u64 + Send>,
    /// When a message under this node's subject was noticed that it has not sent, on the monotone
    /// clock.
    stranger_ms: Option<u64>,
    /// The next check looks whether the broker is ahead of this database.
    suspects: bool,
}

/// A check for messages that this node has not sent is made at most this often.
const STRANGER_EVERY_MS: u64 = 60_000;

impl Verify {
    /// Creates it without a connection. `random` returns the bits of a new incarnation's site.
    pub(super) fn new(
        config: &NodeConfig,
        site: Site,
        random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            node: config.node,
            lease_ttl_ms: config.lease_ttl_ms,
            state: State::Down,
            connection: 0,
            check: 0,
            passed: 0,
            outbound_held: 0,
            lease: Lease::new(site, &config.instance, &config.place, config.lease_ttl_ms),
            lease_due_ms: 0,
            heartbeat_due_ms: 0,
            soon: 0,
            random,
            stranger_ms: None,
            suspects: false,
        }
    }

    /// Takes a message under this node's subject that it has not sent, and starts a check like that
    /// of a start. None if one was made a moment ago.
    pub(super) fn saw_stranger(&mut self, now: Now) -> Option<Effect> {
        let is_early = self.stranger_ms.is_some_and(|at| now.mono_ms < at + STRANGER_EVERY_MS);
        if is_early || !self.is_up() {
            return None;
        }
        self.stranger_ms = Some(now.mono_ms);
        self.suspects = true;
        Some(self.begin_check())
    }

    /// Takes a new connection, and starts its check.
    pub(super) fn connected(&mut self) -> Effect {
        self.connection += 1;
        self.begin_check()
    }

    /// Takes the loss of the connection.
    pub(super) fn disconnected(&mut self) {
        self.state = State::Down;
    }

    /// Starts a check. Outbound has to stop publishing first, because the check would not include
    /// an acknowledgement that arrives during it.
    pub(super) fn begin_check(&mut self) -> Effect {
        self.check += 1;
        self.state = State::Settling;
        Effect::Hold { check: self.check, connection: self.connection }
    }

    /// Notes that outbound has stopped publishing for this check.
    pub(super) fn outbound_holds(&mut self, check: u64) {
        self.outbound_held = check;
    }

    /// Returns whether the connection is checked and in use.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// Returns whether there is no connection.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// Returns whether a check waits to start.
    pub(super) fn is_settling(&self) -> bool {
        matches!(self.state, State::Settling)
    }

    /// Returns whether the end of a consumer makes another check necessary.
    pub(super) fn is_checkable(&self) -> bool {
        matches!(self.state, State::Up | State::Checking(_) | State::RetryAt(_))
    }

    /// Returns the verdict that waits for a transaction.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        if let State::Judged(verdict) = &self.state { Some(verdict) } else { None }
    }

    /// Returns the number of passed checks.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Returns whether the incarnation of the database is known: the broker has answered at least
    /// once. Before that no change gets a version. If the database went back in time, the version
    /// could exist with another content on other nodes.
    pub(super) fn knows_incarnation(&self) -> bool {
        self.passed > 0 || self.verdict().is_some()
    }

    /// Returns random bits for the site of a new incarnation.
    pub(super) fn random(&mut self) -> u64 {
        (self.random)()
    }

    /// Notes that the new incarnation has started.
    pub(super) fn incarnation_begun(&mut self) {
        if let State::Judged(verdict) = &mut self.state {
            verdict.behind_broker = false;
        }
    }

    /// Returns whether the check can start: outbound has stopped publishing, and no acknowledgement
    /// or delivery waits.
    pub(super) fn may_check(&self, acks_wait: bool, deliveries_wait: bool) -> bool {
        let held = self.outbound_held == self.check && !acks_wait;
        // An earlier delivery would move the cursor during the check, to a position that may hold
        // another message by now.
        self.is_settling() && (held || planted(Bug::NoHold)) && !deliveries_wait
    }

    /// Returns all questions of a check. `began` has the cursor after which each consumer started.
    pub(super) fn check(
        &mut self,
        durable: &Durable,
        began: &[(u32, Option<Anchor>)],
        own_shard: u32,
    ) -> Vec<Outgoing> {
        let mut answered = BrokerAnswers { own: durable.own_anchor, ..BrokerAnswers::default() };
        let at = |shard, anchor: &Anchor| {
            let seq = anchor.seq;
            Outgoing::Ask(Question::At(shard, seq), Request::MessageAt { shard, seq })
        };
        let mut out = Vec::new();
        for stream in &durable.streams {
            let shard = stream.shard;
            out.push(Outgoing::Ask(Question::State(shard), Request::StreamState { shard }));
            let head = stream.cursor.head();
            let began = began.iter().find(|(s, _)| *s == shard).and_then(|(_, began)| *began);
            if let Some(head) = head {
                answered.heads.insert(shard, *head);
            }
            if let Some(began) = began.filter(|b| b.seq.0 > 0 && b.seq != stream.cursor.seq()) {
                answered.began.insert(shard, began);
                out.push(at(shard, &began));
            }
            if let Some(head) = head.filter(|head| head.seq.0 > 0) {
                out.push(at(shard, head));
            }
        }
        out.extend(durable.own_anchor.map(|anchor| at(own_shard, &anchor)));
        out.push(Outgoing::Ask(Question::LastOwn, Request::LastOwn { shard: own_shard }));
        out.push(Outgoing::read(Question::Registry, format!("node-{}", self.node)));
        let outstanding = out.len();
        self.state = State::Checking(Box::new(Check { answered, outstanding, trail_asked: false }));
        out
    }

    /// Returns the request for the lease, if this process does not hold it.
    pub(super) fn ask_for_lease(&self) -> Option<Outgoing> {
        (!self.lease.is_held()).then(|| self.read_lease())
    }

    fn read_lease(&self) -> Outgoing {
        Outgoing::read(Question::Lease, Lease::key(self.node))
    }

    fn put_lease(&self, expected: u64) -> Outgoing {
        let request = Request::KvPut {
            key: Lease::key(self.node),
            value: self.lease.value().into(),
            expected: Some(expected),
            ttl_ms: Some(self.lease_ttl_ms),
        };
        Outgoing::Ask(Question::LeasePut, request)
    }

    /// Takes the lease as stored in the registry.
    ///
    /// # Errors
    /// [`Fatal::SecondNode`].
    pub(super) fn lease_read(
        &mut self,
        entry: Option<&KvEntry>,
        now: Now,
    ) -> Result<Option<Outgoing>, Fatal> {
        match self.lease.decide(entry, now.mono_ms) {
            LeaseStep::Put { expected } => return Ok(Some(self.put_lease(expected))),
            LeaseStep::RetryLater => {
                self.lease_due_ms = now.mono_ms + (self.lease_ttl_ms / 4).max(1)
            }
            LeaseStep::Refuse(holder) => {
                return Err(Fatal::SecondNode { node: self.node, place: holder.place });
            }
        }
        Ok(None)
    }

    /// Notes that the lease is written.
    pub(super) fn lease_written(&mut self, revision: u64, now: Now) {
        self.lease.written(revision, now.mono_ms);
        self.lease_due_ms = now.mono_ms + self.lease_ttl_ms / 3;
    }

    /// Returns when the lease that this process held ends or ended, on the monotone clock.
    pub(super) fn lease_ends_ms(&self) -> Option<u64> {
        self.lease.ends_ms()
    }

    /// Reads the lease again, because another process wrote it first.
    pub(super) fn lease_lost_race(&self) -> Outgoing {
        self.read_lease()
    }

    /// Notes that the lease could not be read or written.
    pub(super) fn lease_failed(&mut self, now: Now) {
        self.lease_due_ms = now.mono_ms + RETRY_MS;
    }

    /// Renews or reads the lease, if it is due.
    pub(super) fn renew_lease(&mut self, now: Now, awaits_lease: bool) -> Option<Outgoing> {
        if now.mono_ms < self.lease_due_ms || awaits_lease {
            return None;
        }
        self.lease_due_ms = now.mono_ms + self.lease_ttl_ms / 3;
        Some(self.lease.revision().map_or_else(|| self.read_lease(), |r| self.put_lease(r)))
    }

    /// Takes an answer of the check.
    pub(super) fn evidence(&mut self, question: Question, reply: Reply) {
        let State::Checking(check) = &mut self.state else { return };
        let answered = &mut check.answered;
        match (question, reply) {
            (Question::State(shard), Reply::State(state)) => {
                answered.states.insert(shard, state);
            }
            (Question::At(shard, seq), Reply::Message(message)) => {
                answered.found.insert((shard, seq), message);
            }
            (Question::LastOwn, Reply::Message(message)) => answered.last_own = message,
            (Question::Registry, Reply::Kv(entry)) => answered.registry = entry,
            // Our own side of the broker never returns another kind of answer than requested.
            _ => return,
        }
        check.outstanding = check.outstanding.saturating_sub(1);
    }

    /// Notes that a question of the check failed.
    pub(super) fn not_answered(&mut self, now: Now) {
        if matches!(self.state, State::Checking(_)) {
            self.check_later(now);
        }
    }

    /// Schedules another check.
    pub(super) fn check_later(&mut self, now: Now) {
        self.state = State::RetryAt(now.mono_ms + RETRY_MS);
    }

    /// Returns whether a failed check is to be repeated now.
    pub(super) fn retries(&self, now: Now) -> bool {
        matches!(self.state, State::RetryAt(at) if now.mono_ms >= at)
    }

    /// Returns the questions about the trail of lost cursors, when all other answers are here. None
    /// while answers are missing. Empty if the check can be judged ([`Verify::judge`]).
    pub(super) fn trail_to_ask(
        &mut self,
        durable: &Durable,
        enrolled: bool,
    ) -> Option<Vec<Outgoing>> {
        let State::Checking(check) = &mut self.state else { return None };
        if check.outstanding > 0 || !self.lease.is_held() || !enrolled {
            return None;
        }
        if std::mem::replace(&mut check.trail_asked, true) {
            return Some(Vec::new());
        }
        let mut out = Vec::new();
        for stream in &durable.streams {
            let shard = stream.shard;
            for seq in check.answered.trail_to_ask(shard, &stream.cursor) {
                let request = Request::MessageAt { shard, seq };
                out.push(Outgoing::Ask(Question::At(shard, seq), request));
            }
        }
        check.outstanding = out.len();
        Some(out)
    }

    /// Returns the mark of the log in the newest own message.
    pub(super) fn last_own_mark(&self) -> Option<LogMark> {
        if let State::Checking(check) = &self.state { check.answered.last_own_mark() } else { None }
    }

    /// Judges the connection, and returns the answers of the broker. `has_mark` tells whether the
    /// log has the entry of [`Verify::last_own_mark`]. Then the database has not gone back in time
    /// behind that message: it only lacks acknowledgements.
    pub(super) fn judge(
        &mut self,
        durable: &Durable,
        config: &NodeConfig,
        has_mark: bool,
    ) -> Option<BrokerAnswers> {
        let State::Checking(check) = std::mem::replace(&mut self.state, State::Down) else {
            return None;
        };
        let known = NodeKnowledge {
            cursors: durable.streams.iter().map(|s| (s.shard, &s.cursor)).collect(),
            own_shard: config.own_shard(),
            own_lowest_ms: durable.own_lowest_ms,
            drift_ms: config.max_clock_drift_ms,
        };
        let mut verdict = judge_connection(&check.answered, &known);
        // This holds only before the process has published anything. Later the broker may have the
        // batch in flight of outbound.
        if self.passed == 0 {
            let (site, answered) = (durable.site(), &check.answered);
            verdict.confirmed = answered.confirmed(site, durable.batch).filter(|_| has_mark);
            let in_parts = verdict.confirmed.is_some_and(|c| c.published.is_none());
            let batch = verdict.confirmed.map_or(durable.batch, |c| c.batch);
            let batch = BatchNo(batch.0 + u64::from(in_parts));
            verdict.behind_broker = !planted(Bug::SameSite)
                && answered.is_ahead_of(site, batch, &durable.absorb.own_sites);
            verdict.confirmed = verdict.confirmed.filter(|_| !verdict.behind_broker);
        } else if std::mem::take(&mut self.suspects) {
            // The broker may have the batch in flight.
            let (site, in_flight) = (durable.site(), BatchNo(durable.batch.0 + 1));
            verdict.behind_broker =
                check.answered.is_ahead_of(site, in_flight, &durable.absorb.own_sites);
        }
        self.state = State::Judged(Box::new(verdict));
        Some(check.answered)
    }

    /// Notes that the verdict is carried out, and returns the go-ahead for outbound.
    pub(super) fn pass(&mut self, durable: &Durable) -> Effect {
        self.state = State::Up;
        self.heartbeat_due_ms = 0;
        self.passed += 1;
        Effect::Go {
            check: self.check,
            site: durable.site(),
            batch: durable.batch,
            published: durable.absorb.published,
        }
    }

    /// Makes the registry entry due at once.
    pub(super) fn heartbeat_at_once(&mut self) {
        self.heartbeat_due_ms = 0;
        self.soon = HEARTBEATS_SOON;
    }

    /// Returns whether the registry entry is due.
    pub(super) fn heartbeat_is_due(&self, now: Now) -> bool {
        now.mono_ms >= self.heartbeat_due_ms
    }

    /// Returns the request that writes the registry entry.
    pub(super) fn heartbeat(&mut self, entry: Vec<u8>, now: Now) -> Outgoing {
        let (wait_ms, soon) = match self.soon.checked_sub(1) {
            Some(left) => (HEARTBEAT_SOON_MS, left),
            None => (HEARTBEAT_MS, 0),
        };
        (self.heartbeat_due_ms, self.soon) = (now.mono_ms + wait_ms, soon);
        let request = Request::KvPut {
            key: format!("node-{}", self.node),
            value: entry.into(),
            expected: None,
            ttl_ms: None,
        };
        Outgoing::Ask(Question::Heartbeat, request)
    }

    /// Returns when there is work although no input arrives, on the monotone clock.
    pub(super) fn deadline(&self) -> u64 {
        match &self.state {
            State::Down | State::Settling => u64::MAX,
            State::RetryAt(at) => (*at).min(self.lease_due_ms),
            State::Checking(_) | State::Judged(_) => self.lease_due_ms,
            State::Up => self.lease_due_ms.min(self.heartbeat_due_ms),
        }
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
