//! The reading actor: collects, encodes and publishes the pending log entries.
//!
//! Arrives: wakes, the go-ahead of inbound, answers of the broker. Leaves: batches in the stream,
//! in the order of this node, and acknowledgements for inbound. Owns: at most one batch is in
//! flight, and it is fenced. After a crash between the broker's acknowledgement and inbound's mark
//! the batch is sent twice; peers skip the second one by its versions.

use super::base::PublishedRows;
pub use super::messages::{Input, Output, Stats};
use crate::actor::{Ack, Effect, Fatal, Step};
use crate::broker::{Broker, BrokerError, BrokerEvent, Message, Reply, Request, Ticket};
use crate::db::layout::Layout;
use crate::model::batch::BatchHeader;
use crate::model::config::{BrokerClock, NodeConfig, Now};
use crate::model::ids::{BatchNo, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::wire::encode::{Encoded, Encoder};
use crate::wire::parts::{part_count, part_headers, part_payload};
use rusqlite::Connection;
use std::collections::HashSet;

mod next_batch;

struct InFlight {
    header: BatchHeader,
    encoded: Encoded,
    part: u32,
    part_bytes_max: usize,
    rows: u64,
    ack: Ack,
    /// The log holds more entries than the batch.
    more: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waits for the go-ahead of inbound on this connection.
    Waiting,
    /// Waits for the newest own message.
    Finding(Ticket),
    /// Nothing is in flight.
    Ready,
    /// Waits for the acknowledgement of a part.
    Sending(Ticket),
    /// A request failed. At this time, ask for the newest own message.
    RetryAt(u64),
}

/// After this many conflicts in a row with messages of a foreign site, another process publishes as
/// this node.
const FOREIGN_MAX: u32 = 3;
const RETRY_MS: u64 = 100;
/// The wait before a retry if the broker refused a batch, or if the disk had no room for it.
const REFUSED_RETRY_MS: u64 = 2_000;
/// This many unanswered batches in a row, on a working connection, are more than a change of the
/// leader explains.
const UNANSWERED_MAX: u32 = 2;
/// nats-server 2.15.1 stores nothing more in a stream after its disk was full, until it is
/// restarted, and does not report that to its clients.
const UNANSWERED_HINT: &str =
    "look at the nats-server's log: if its disk was full, make room and restart it";
/// Room for the headers of a message.
const HEADER_BYTES: usize = 1_024;

/// The reading actor.
pub struct Outbound<B: Broker> {
    config: NodeConfig,
    db: Connection,
    broker: B,
    encoder: Encoder,
    layout: Option<Layout>,
    state: State,
    site: Site,
    own_sites: HashSet<Site>,
    batch: BatchNo,
    sent: i64,
    unabsorbed: PublishedRows,
    fence: StreamSeq,
    in_flight: Option<InFlight>,
    look: bool,
    foreign: u32,
    /// The number of unanswered batches or parts in a row.
    unanswered: u32,
    /// The number of connections so far, and whether the last one is up.
    connection: u64,
    connected: bool,
    /// The requested check with its connection, and the check for which publishing is stopped.
    hold: Option<(u64, u64)>,
    held: u64,
    next_ticket: Ticket,
    /// Messages for inbound. The owner takes them after each call.
    pub outputs: Vec<Output>,
    /// Counters.
    pub stats: Stats,
    /// The reason why the last batch could not be built, or why the broker does not store it. None
    /// after a batch is stored.
    pub refusal: Option<String>,
    /// The last batch that is larger than the stream, for people. None: every batch fitted.
    pub oversized: Option<String>,
    /// The broker's time, as far as inbound knows it.
    broker_clock: Option<BrokerClock>,
}

impl<B: Broker> Outbound<B> {
    /// Creates the actor. It waits for inbound's go-ahead.
    ///
    /// # Errors
    /// If the compressor cannot get its memory.
    pub fn new(config: NodeConfig, db: Connection, broker: B) -> std::io::Result<Self> {
        Ok(Self {
            encoder: Encoder::new(&config.limits, config.spill_dir.clone())?,
            unabsorbed: PublishedRows::new(config.limits.folded_rows_max),
            config,
            db,
            broker,
            layout: None,
            state: State::Waiting,
            site: Site(0),
            own_sites: HashSet::new(),
            batch: BatchNo(0),
            sent: 0,
            fence: StreamSeq(0),
            in_flight: None,
            look: true,
            foreign: 0,
            unanswered: 0,
            connection: 0,
            connected: false,
            hold: None,
            held: 0,
            next_ticket: 1,
            outputs: Vec::new(),
            stats: Stats::default(),
            refusal: None,
            oversized: None,
            broker_clock: None,
        })
    }

    /// Handles an input. Never accesses the database.
    ///
    /// # Errors
    /// [`Fatal::SecondNode`].
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), Fatal> {
        match input {
            Input::Wake => {
                self.look = true;
                if !self.config.publish || !matches!(self.state, State::Ready | State::Sending(_)) {
                    // No collect follows soon. Inbound has to follow DDL, and to absorb changes
                    // that are never sent.
                    self.outputs.push(Output::Wake);
                }
            }
            Input::Effect(Effect::Look) => self.look = true,
            Input::Effect(Effect::BrokerTime(ms)) => {
                self.broker_clock = Some(BrokerClock::new(ms, now));
            }
            Input::Effect(Effect::LogReplaced { published }) => {
                // It may have read entries after this one already.
                (self.sent, self.look) = (self.sent.max(published), true);
            }
            Input::Effect(Effect::Hold { check, connection }) => {
                self.hold = Some((check, connection));
                self.hold_still();
            }
            // Only the go-ahead of the check for which publishing is stopped counts. An earlier
            // check proves nothing about the broker's present content.
            Input::Effect(Effect::Go { check, site, batch, published }) => {
                if check == self.held || planted(Bug::NoHold) {
                    self.start(site, batch, published);
                }
            }
            Input::Broker(BrokerEvent::Connected) => {
                (self.connection, self.connected, self.state, self.held) =
                    (self.connection + 1, true, State::Waiting, 0);
                self.hold_still();
            }
            Input::Broker(BrokerEvent::Disconnected(_)) => {
                (self.connected, self.state, self.held, self.unanswered) =
                    (false, State::Waiting, 0, 0);
            }
            Input::Broker(BrokerEvent::Reply(ticket, result)) => {
                return self.answered(ticket, result, now);
            }
            Input::Broker(_) => {}
        }
        Ok(())
    }

    /// Stops publishing for a check as soon as its connection is up. Afterwards outbound looks for
    /// its batch in flight.
    fn hold_still(&mut self) {
        if let Some((check, connection)) = self.hold
            && connection == self.connection
            && self.connected
        {
            (self.hold, self.held, self.state) = (None, check, State::Waiting);
            self.outputs.push(Output::Held(check));
        }
    }

    fn start(&mut self, site: Site, batch: BatchNo, published: i64) {
        if site != self.site {
            // The batch in flight belongs to another incarnation. Its log entries are collected
            // again.
            self.in_flight = None;
            (self.site, self.batch, self.sent) = (site, batch, published);
            self.own_sites.clear();
        }
        self.look = true;
        self.find();
    }

    fn ask(&mut self, request: Request) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.broker.request(ticket, request);
        ticket
    }

    fn find(&mut self) {
        let ticket = self.ask(Request::LastOwn { shard: self.config.own_shard() });
        self.state = State::Finding(ticket);
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        result: Result<Reply, BrokerError>,
        now: Now,
    ) -> Result<(), Fatal> {
        match (&self.state, result) {
            (State::Finding(asked), Ok(Reply::Message(last))) if *asked == ticket => {
                return self.found(last);
            }
            (State::Sending(asked), Ok(Reply::Published(seq))) if *asked == ticket => {
                self.stored(seq, now)
            }
            (State::Sending(asked), Err(BrokerError::Conflict)) if *asked == ticket => self.find(),
            (State::Sending(asked), Err(BrokerError::Refused(reason))) if *asked == ticket => {
                let refusal = format!("the broker refuses this node's batch: {reason}");
                if self.refusal.as_ref() != Some(&refusal) {
                    tracing::error!(
                        reason,
                        "the broker refuses this node's batch; keeping it and retrying"
                    );
                }
                self.stats.refused += 1;
                self.refusal = Some(refusal);
                self.state = State::RetryAt(now.mono_ms + REFUSED_RETRY_MS);
            }
            (State::Sending(asked), Err(error)) if *asked == ticket => {
                self.unanswered += 1;
                if self.unanswered == UNANSWERED_MAX {
                    tracing::warn!(%error, "the broker does not acknowledge this node's batch; \
                        keeping it and retrying; {UNANSWERED_HINT}");
                    self.refusal = Some(format!(
                        "the broker does not acknowledge this node's batch ({error}); \
                        {UNANSWERED_HINT}"
                    ));
                }
                self.state = State::RetryAt(now.mono_ms + RETRY_MS);
            }
            (State::Finding(asked), Err(error)) if *asked == ticket => {
                tracing::debug!(%error, "the broker did not answer; retrying to read this node's \
                    newest message");
                self.state = State::RetryAt(now.mono_ms + RETRY_MS);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the newest own message: it gives the fence of the next message, and shows whether the
    /// batch in flight arrived.
    fn found(&mut self, last: Option<Message>) -> Result<(), Fatal> {
        self.fence = last.as_ref().map_or(StreamSeq(0), |m| m.seq);
        let headers = last.and_then(|m| m.headers.ok());
        let Some(flight) = &mut self.in_flight else {
            self.state = State::Ready;
            return Ok(());
        };
        let arrived = headers.as_ref().is_some_and(|h| {
            (h.site, h.batch, h.digest)
                == (flight.header.site, flight.header.number, flight.encoded.digest)
                && h.part == h.parts
        });
        if arrived {
            self.complete(self.fence);
            return Ok(());
        }
        if flight.part > 1 || self.stats.resent > 0 || headers.is_some() {
            self.stats.resent += 1;
        }
        if headers.is_some_and(|h| h.site != self.site) && self.stats.batches_published > 0 {
            self.foreign += 1;
            if self.foreign >= FOREIGN_MAX {
                return Err(Fatal::SecondNode {
                    node: self.config.node,
                    place: "publishing under this node's subject".to_owned(),
                });
            }
        }
        if let Some(flight) = &mut self.in_flight {
            flight.part = 1;
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Fatal> {
        let Some(flight) = &self.in_flight else { return Ok(()) };
        // A row that changed again after the end of a cut batch is left to a later one. If a power
        // cut takes that change back, this batch must not say that the row is published.
        let log = flight.ack.mark.filter(|_| !flight.more);
        let headers =
            part_headers(&flight.header, &flight.encoded, flight.part, flight.part_bytes_max, log);
        let payload = part_payload(&flight.encoded.body, flight.part, flight.part_bytes_max)?;
        let request = Request::Publish {
            shard: self.config.own_shard(),
            headers,
            payload,
            expected_last: self.fence,
        };
        let ticket = self.ask(request);
        self.state = State::Sending(ticket);
        Ok(())
    }

    fn stored(&mut self, seq: StreamSeq, now: Now) {
        self.fence = seq;
        let Some(flight) = &mut self.in_flight else { return };
        if flight.part < part_count(flight.encoded.body.len(), flight.part_bytes_max) {
            flight.part += 1;
            if let Err(error) = self.send() {
                tracing::error!(%error, "cannot read a part of the batch back; retrying");
                self.state = State::RetryAt(now.mono_ms + RETRY_MS);
            }
            return;
        }
        self.stats.last_published_unix_ms = now.unix_ms;
        self.complete(seq);
    }

    fn complete(&mut self, seq: StreamSeq) {
        let Some(flight) = self.in_flight.take() else { return };
        self.batch = flight.header.number;
        self.sent = flight.ack.upto;
        self.foreign = 0;
        (self.refusal, self.unanswered) = (None, 0);
        self.stats.batches_published += 1;
        self.stats.rows_published += flight.rows;
        self.stats.bytes_published += flight.encoded.body.len();
        self.outputs.push(Output::Acknowledged(Ack { seq: Some(seq), ..flight.ack }));
        self.state = State::Ready;
        // Commits since then have their own wake.
        self.look |= flight.more;
    }

    /// Does one piece of work.
    ///
    /// # Errors
    /// The error that ends the node.
    pub fn step(&mut self, now: Now) -> Result<Step, Fatal> {
        match self.state {
            State::RetryAt(at) if now.mono_ms >= at => {
                self.find();
                Ok(Step::Worked)
            }
            State::Ready if self.look && self.config.publish => self.collect(now),
            _ => Ok(Step::Idle),
        }
    }

    /// Returns when [`Outbound::step`] has work although no input arrives, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        if let State::RetryAt(at) = self.state { at } else { u64::MAX }
    }

    /// Returns whether no batch is in flight and no log entry is pending.
    pub fn is_drained(&self) -> bool {
        !self.config.publish
            || (self.in_flight.is_none() && !self.look && self.state == State::Ready)
    }

    /// Returns the last log entry that needs no further publication.
    pub fn sent(&self) -> i64 {
        self.sent
    }

    /// Returns the incarnation of the database that is being published.
    pub fn site(&self) -> Site {
        self.site
    }

    /// Returns the connection, for status queries between steps.
    pub fn database(&self) -> &Connection {
        &self.db
    }

    /// Ends the actor and returns its connection.
    pub fn into_database(self) -> Connection {
        self.db
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
