//! Handles inputs, and work that is due by time alone.
//!
//! Arrives: events of the broker, acknowledgements, the time. Leaves: calls of the component in
//! charge, and its requests to the broker. Never writes to the database.

use super::Inbound;
use super::from_snapshot::FromSnapshot;
use super::join::refuse_join;
use super::stream::Context;
use crate::actor::{Ack, Effect, Fatal};
use crate::broker::{Broker, BrokerError, BrokerEvent, Message, Permit, Reply};
use crate::db::connection::DatabaseError;
use crate::model::config::{Now, SchemaMode};
use crate::model::ids::{BatchNo, NodeId, StreamSeq};
use crate::repair::answers::{PeerQuestion, QuestionId};
use crate::repair::gaps::Gaps;
use crate::repair::question::{Outgoing, Question};
use crate::repair::signal::Signal;
use crate::store::change_log;
use data_encoding::HEXLOWER;

/// An input of the writing actor.
#[derive(Debug)]
pub enum Input {
    /// An event of the broker.
    Broker(BrokerEvent),
    /// An acknowledgement, from outbound.
    Acknowledged(Ack),
    /// The schema may have changed, or the log grown.
    Wake,
    /// Outbound has stopped publishing for this check. Its acknowledgements came before.
    OutboundHeld(u64),
    /// Write all waiting bookkeeping: the node is about to stop.
    Flush,
    /// Retry a batch in quarantine.
    RetryQuarantine(i64),
    /// About a snapshot that fills gaps.
    Snapshot(FromSnapshot),
}

impl<B: Broker> Inbound<B> {
    /// Handles an input. Never accesses the database.
    ///
    /// # Errors
    /// [`Fatal::SecondNode`].
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), Fatal> {
        match input {
            Input::Wake => self.inbox.wake = true,
            Input::Flush => self.inbox.flush = true,
            Input::Acknowledged(ack) => self.inbox.acknowledged(ack, now),
            Input::OutboundHeld(check) => self.verify.outbound_holds(check),
            Input::RetryQuarantine(id) => {
                self.inbox.retries.push(self.repairs.refetch.retry(id));
            }
            Input::Snapshot(message) => self.handle_snapshot(message, now),
            Input::Broker(event) => return self.handle_broker(event, now),
        }
        Ok(())
    }

    fn handle_snapshot(&mut self, message: FromSnapshot, now: Now) {
        self.repairs.gaps.snapshot_is_read(now);
        match message {
            FromSnapshot::Reading(attempt) => self.inbox.snapshot.begin(attempt),
            FromSnapshot::Rows(body) => self.inbox.snapshot.rows(body),
            FromSnapshot::Covers { gaps, origins, unpublished_ms } => {
                self.inbox.snapshot.covers(origins, unpublished_ms);
                for key in gaps {
                    // As the answer of a node that misses nothing. This node asks nobody.
                    let _ = self.repairs.gaps.answered(key, self.config.node.0, true);
                }
                self.repairs.gaps.no_snapshot();
            }
            FromSnapshot::None => self.repairs.gaps.no_snapshot(),
        }
    }

    fn handle_broker(&mut self, event: BrokerEvent, now: Now) -> Result<(), Fatal> {
        match event {
            BrokerEvent::Connected => {
                let hold = self.verify.connected();
                self.requests.retain(|_| false);
                self.hold_for_check(hold);
            }
            BrokerEvent::Disconnected(_) => {
                self.verify.disconnected();
                self.requests.retain(|_| false);
            }
            BrokerEvent::Reply(ticket, result) => {
                if let Some(question) = self.requests.answered(ticket, result.as_ref().err()) {
                    return self.answered(question, result, now);
                }
            }
            BrokerEvent::Delivered { generation, message, permit } => {
                self.delivered(generation, message, permit, now);
            }
            BrokerEvent::ConsumerLost { shard, generation, reason } => {
                if self.verify.is_checkable() && self.is_consuming(shard, generation) {
                    tracing::debug!(
                        shard,
                        reason,
                        "the consumer ended; checking the stream before consuming again"
                    );
                    self.begin_check();
                }
            }
            BrokerEvent::Signal(bytes) => {
                if let Some(signal) = Signal::decode(&bytes) {
                    self.signalled(signal, now);
                }
            }
        }
        Ok(())
    }

    fn begin_check(&mut self) {
        let hold = self.verify.begin_check();
        self.hold_for_check(hold);
    }

    fn hold_for_check(&mut self, hold: Effect) {
        self.repairs.answers.forget();
        self.effects.push(hold);
    }

    fn is_consuming(&self, shard: u32, generation: u64) -> bool {
        self.inbox.streams.iter().any(|s| s.shard == shard && s.generation == generation)
    }

    fn delivered(&mut self, generation: u64, message: Message, permit: Permit, now: Now) {
        let (shard, seq) = (message.shard, message.seq);
        let broker_ms = message.time_ns / 1_000_000;
        self.saw_broker_time(broker_ms, now);
        let warned = self.clocks.saw_message(broker_ms, now);
        self.stats.drift_warnings += u64::from(warned);
        self.repairs.answers.saw_message(message.node, now);
        if self.is_strange(&message)
            && let Some(hold) = self.verify.saw_stranger(now)
        {
            tracing::error!(
                shard,
                seq = seq.0,
                "a message under the subject of this node that it has not sent: a forged one, or \
                another program uses this node id. Checking the broker as at a start"
            );
            self.hold_for_check(hold);
        }
        let (streams, progress) = (&mut self.inbox.streams, &self.durable.streams);
        let mut streams = streams.iter_mut().zip(progress);
        let Some((stream, progress)) = streams.find(|(s, _)| s.shard == shard) else { return };
        if stream.generation != generation {
            stream.turn_down(permit);
            return;
        }
        self.inbox.delivered_ms = now.mono_ms;
        let spill_dir = self.config.spill_dir.as_path();
        let context = Context {
            progress,
            own_site: self.durable.site(),
            limits: &self.config.limits,
            stream_bytes_max: self.config.stream_bytes_max,
            spill_dir,
        };
        if let Err(error) = stream.deliver(message, permit, context) {
            if stream.no_room.is_none() {
                tracing::warn!(
                    shard,
                    seq = seq.0,
                    %error,
                    dir = %spill_dir.display(),
                    "no room for a large batch; retrying"
                );
            }
            stream.wait_for_room(seq, error.to_string(), now.mono_ms);
        }
    }

    /// Returns whether a message comes under this node's subject and is none of its own: it has a
    /// later batch than the one that may be in flight, or an incarnation that this database does
    /// not know. What was in the stream before this process came is judged by the check of a start.
    fn is_strange(&self, message: &Message) -> bool {
        let Ok(headers) = &message.headers else { return false };
        if message.node != self.config.node || !self.join.is_newer(message.shard, message.seq) {
            return false;
        }
        let known = self.durable.batch.max(self.inbox.acks.last().map_or(BatchNo(0), |a| a.batch));
        if headers.site == self.durable.site() {
            headers.batch.0 > known.0 + 1
        } else {
            !self.durable.absorb.own_sites.contains(&headers.site)
        }
    }

    fn saw_broker_time(&mut self, broker_ms: i64, now: Now) {
        if self.clocks.passes(broker_ms, now) {
            self.effects.push(Effect::BrokerTime(broker_ms));
        }
    }

    fn answered(
        &mut self,
        question: Question,
        result: Result<Reply, BrokerError>,
        now: Now,
    ) -> Result<(), Fatal> {
        match (question, result) {
            (Question::Lease, Ok(Reply::Kv(entry))) => {
                let put = self.verify.lease_read(entry.as_ref(), now)?;
                self.requests.send(put);
            }
            (Question::LeasePut, Ok(Reply::KvPut(revision))) => {
                self.verify.lease_written(revision, now);
            }
            (Question::LeasePut, Err(BrokerError::Conflict)) => {
                self.requests.send([self.verify.lease_lost_race()]);
            }
            (Question::Lease | Question::LeasePut, _) => self.verify.lease_failed(now),
            (Question::HeldOrigin(node), Ok(Reply::Kv(entry))) => {
                if self.repairs.superseded.read(node, entry.as_ref(), self.schema.layout.hash) {
                    self.consume_held(node);
                }
            }
            (Question::QuarantineOrigin(node), Ok(Reply::Kv(entry))) => {
                let layout = &self.schema.layout;
                let retries = self.repairs.refetch.read(node, entry.as_ref(), layout);
                self.inbox.retries.extend(retries);
            }
            (Question::LastSeen(node), Ok(Reply::Kv(entry))) => {
                self.repairs.gaps.last_seen(node, entry.as_ref(), now);
            }
            (
                Question::Heartbeat
                | Question::HeldOrigin(_)
                | Question::QuarantineOrigin(_)
                | Question::LastSeen(_),
                _,
            ) => {}
            (Question::Members, Ok(Reply::Kv(entry))) => {
                let put = self.repairs.gaps.members_read(entry.as_ref());
                self.requests.send(put);
            }
            (Question::MembersPut, Ok(Reply::KvPut(_))) => self.repairs.gaps.members_written(),
            (Question::MembersPut, Err(BrokerError::Conflict)) => {
                self.requests.send([Gaps::ask_members()]);
            }
            (Question::Consume(shard, generation), Err(error)) => {
                if self.is_consuming(shard, generation) {
                    tracing::warn!(shard, %error, "cannot consume; retrying");
                    self.verify.check_later(now);
                }
            }
            (Question::Consume(..), Ok(_)) => {}
            (question, Ok(reply)) => self.verify.evidence(question, reply),
            (question, Err(error)) => {
                tracing::debug!(
                    ?question,
                    %error,
                    "no answer to the check of the connection; retrying"
                );
                self.verify.not_answered(now);
            }
        }
        Ok(())
    }

    fn consume_held(&mut self, node: NodeId) {
        for i in 0..self.durable.streams.len() {
            if self.durable.streams[i].held.contains_key(&node) {
                self.consume(i);
            }
        }
    }

    fn signalled(&mut self, signal: Signal, now: Now) {
        match signal {
            Signal::Ask { asker, .. } if asker == self.config.node.0 => {}
            Signal::Ask { asker, gap, noticed_ms, origin, shard, upto, since_ms } => {
                // The asker knows only the members on the list, and the broker may have lost the
                // list.
                self.requests.send(self.repairs.gaps.members_again(now));
                let answers = self.config.publish && self.durable.joined;
                if !answers || shard == 0 || shard > self.config.shards {
                    return;
                }
                let id = QuestionId { asker, gap, noticed_ms };
                let position = StreamSeq(upto);
                let misses = !self.config.replicate || self.repairs.gaps.is_open(shard);
                let question = PeerQuestion { id, origin, shard, position, since_ms };
                let turn = self.repairs.gaps.turn(asker);
                let answer = self.repairs.answers.receive(question, misses, turn, now);
                self.requests.send(answer.map(Outgoing::Signal));
            }
            Signal::Answering { by, .. } if by == self.config.node.0 => {}
            Signal::Answering { asker, gap, noticed_ms, by, whole } => {
                self.repairs.answers.announced(
                    QuestionId { asker, gap, noticed_ms },
                    by,
                    whole,
                    now,
                );
            }
            Signal::Answered { asker, gap, noticed_ms, by, whole } => {
                let id = QuestionId { asker, gap, noticed_ms };
                self.repairs.answers.answered_by_another(id, whole);
                if asker == self.config.node.0 {
                    let ask = self.repairs.gaps.answered((gap, noticed_ms), by, whole);
                    self.requests.send(ask);
                }
            }
        }
    }

    /// Does the work that is due by time alone.
    pub(super) fn tick(&mut self, now: Now) {
        if self.verify.is_down() || !self.check_settled() {
            return;
        }
        if self.verify.retries(now) {
            self.begin_check();
        }
        let awaits_lease =
            self.requests.awaits(|q| matches!(q, Question::Lease | Question::LeasePut));
        self.requests.send(self.verify.renew_lease(now, awaits_lease));
        if !self.verify.is_up() {
            return;
        }
        for i in 0..self.inbox.streams.len() {
            self.inbox.streams[i].abandon_idle(now.mono_ms);
            if self.inbox.streams[i].looks_for_room(now.mono_ms) {
                self.consume(i);
            }
        }
        let held = self.durable.held_origins();
        if self.config.schema_mode != SchemaMode::Off
            && self.schema.retries_held(!held.is_empty(), now)
        {
            self.consume_all_held();
        }
        if self.inbox.quarantine_retry_ms.take_if(|due_ms| now.mono_ms >= *due_ms).is_some() {
            self.consume_all_held();
        }
        self.requests.send(self.repairs.superseded.ask(held, now));
        self.requests.send(self.repairs.refetch.ask(now));
        let entry = || self.registry_entry(now);
        let heartbeat = self.verify.heartbeat_is_due(now).then(entry);
        if let Some(entry) = heartbeat {
            let put = self.verify.heartbeat(entry, now);
            self.requests.send([put]);
        }
        let durable = &self.durable;
        self.requests.send(self.repairs.gaps.ask(now, |shard| durable.position(shard).0));
    }

    /// Starts the check that waits for outbound and for deliveries. False if it still waits.
    fn check_settled(&mut self) -> bool {
        if !self.verify.is_settling() {
            return true;
        }
        if !self.verify.may_check(!self.inbox.acks.is_empty(), self.inbox.any_delivered()) {
            return false;
        }
        self.requests
            .retain(|q| matches!(q, Question::Lease | Question::LeasePut | Question::Heartbeat));
        let began: Vec<_> = self.inbox.streams.iter().map(|s| (s.shard, s.began)).collect();
        let questions = self.verify.check(&self.durable, &began, self.config.own_shard());
        self.requests.send(questions);
        self.requests.send([self.repairs.gaps.reread_members()]);
        self.requests.send(self.verify.ask_for_lease());
        true
    }

    /// Returns whether the log has the last entry of the newest own message. False while the broker
    /// has not answered, or without a check.
    pub(super) fn has_last_own_mark(&self) -> Result<bool, DatabaseError> {
        match self.verify.last_own_mark() {
            Some(mark) => Ok(change_log::mark(&self.db, mark.id)? == Some(mark)),
            None => Ok(false),
        }
    }

    /// When all questions are answered, asks for the trail of lost cursors, or judges. `has_mark`
    /// is the result of [`Inbound::has_last_own_mark`].
    pub(super) fn judge_connection(&mut self, has_mark: bool) -> Result<(), Fatal> {
        let enrolled = self.repairs.gaps.is_enrolled();
        let Some(questions) = self.verify.trail_to_ask(&self.durable, enrolled) else {
            return Ok(());
        };
        if !questions.is_empty() {
            self.requests.send(questions);
            return Ok(());
        }
        let Some(answered) = self.verify.judge(&self.durable, &self.config, has_mark) else {
            return Ok(());
        };
        let (layout, on_join) = (&self.schema.layout, self.config.on_join);
        refuse_join(&self.db, layout, on_join, &self.durable, &answered)?;
        if !self.durable.joined {
            self.join.checked(&answered);
        }
        Ok(())
    }

    /// Starts the consumers and lets outbound publish, after the transaction that carried out the
    /// verdict.
    pub(super) fn connection_passes(&mut self, now: Now) {
        let heads = self.durable.streams.iter().filter_map(|s| s.cursor.head());
        let mut newest_ns = heads.map(|head| head.time_ns).max().unwrap_or(0);
        if let Some(verdict) = self.verify.verdict() {
            for judged in &verdict.shards {
                let state = &judged.state;
                newest_ns = newest_ns.max(state.created_ns).max(state.last_time_ns);
                let mut streams = self.inbox.streams.iter_mut();
                if let Some(stream) = streams.find(|s| s.shard == judged.shard) {
                    stream.created_ns = judged.state.created_ns;
                }
            }
        }
        self.saw_broker_time(newest_ns / 1_000_000, now);
        let go = self.verify.pass(&self.durable);
        self.requests.no_trouble();
        self.inbox.delivered_ms = now.mono_ms;
        if self.config.replicate {
            for i in 0..self.inbox.streams.len() {
                self.consume(i);
            }
        }
        self.effects.push(go);
    }

    fn registry_entry(&self, now: Now) -> Vec<u8> {
        let cursor = |s: &super::Progress| (s.shard.to_string(), s.cursor.seq().0.into());
        let cursors: serde_json::Map<_, _> = self.durable.streams.iter().map(cursor).collect();
        let layout = &self.schema.layout;
        let absorb = &self.durable.absorb;
        let mut former_sites: Vec<i64> =
            absorb.own_sites.iter().map(|s| s.0).filter(|s| *s != absorb.site.0).collect();
        former_sites.sort_unstable();
        let previous = layout.previous_hash.map(|h| HEXLOWER.encode(&h)).unwrap_or_default();
        let entry = serde_json::json!({
            "node_id": self.config.node.0,
            "schema_hash": HEXLOWER.encode(&layout.hash),
            "previous_hash": previous,
            "harmonylite_version": env!("CARGO_PKG_VERSION"),
            "updated_at": now.unix_ms / 1000,
            "site": self.durable.site().0,
            "former_sites": former_sites,
            "tables": layout.short_hashes(),
            "local_tables": layout.local_tables(),
            "batch": self.durable.batch.0,
            "cursors": cursors,
        });
        entry.to_string().into_bytes()
    }
}
