//! A client that sends requests and waits for their answers.

use crate::Subject;
use bytes::Bytes;
use harmonylite::broker::{
    BrokerError, BrokerEvent, KvEntry, Message, Reply, Request, StreamState,
};
use harmonylite::model::batch::PartHeaders;
use harmonylite::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use std::collections::VecDeque;

/// The stream of the behaviours.
pub(crate) const SHARD: u32 = 1;

/// One connection.
pub struct Client<'s> {
    subject: &'s mut dyn Subject,
    index: usize,
    next_ticket: u64,
    /// Events that were not the answer waited for.
    kept: VecDeque<BrokerEvent>,
}

/// Returns the headers of a batch of one part.
pub(crate) fn headers(batch: u64) -> PartHeaders {
    PartHeaders {
        site: Site(77),
        batch: BatchNo(batch),
        part: 1,
        parts: 1,
        total_bytes: 3,
        digest: [7; 32],
        log: None,
    }
}

impl<'s> Client<'s> {
    /// Uses an existing connection. Tickets differ from those of an earlier use.
    pub fn of(subject: &'s mut dyn Subject, index: usize, first_ticket: u64) -> Self {
        Self { subject, index, next_ticket: first_ticket, kept: VecDeque::new() }
    }

    /// Connects.
    pub fn connect(subject: &'s mut dyn Subject, node: u64) -> Self {
        let index = subject.connect(NodeId(node));
        Self::of(subject, index, 1)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The broker's error; `Unreachable` if no answer comes.
    pub fn ask(&mut self, request: Request) -> Result<Reply, BrokerError> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.subject.request(self.index, ticket, request);
        while let Some(event) = self.subject.next_event(self.index) {
            match event {
                BrokerEvent::Reply(answered, result) if answered == ticket => return result,
                other => self.kept.push_back(other),
            }
        }
        Err(BrokerError::Unreachable("no answer".to_owned()))
    }

    /// Returns the next event that is no answer.
    pub fn event(&mut self) -> Option<BrokerEvent> {
        self.kept.pop_front().or_else(|| self.subject.next_event(self.index))
    }

    /// Returns the next message of this consumer; None if none comes.
    pub fn delivered(&mut self, wanted: u64) -> Option<Message> {
        loop {
            match self.event()? {
                BrokerEvent::Delivered { generation, message, .. } if generation == wanted => {
                    return Some(message);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn publish(&mut self, batch: u64, expected_last: u64) -> Result<u64, String> {
        let request = Request::Publish {
            shard: SHARD,
            headers: headers(batch),
            payload: Bytes::from(format!("{batch:03}")),
            expected_last: StreamSeq(expected_last),
        };
        match self.ask(request) {
            Ok(Reply::Published(seq)) => Ok(seq.0),
            other => Err(format!("publish of batch {batch} behind {expected_last}: {other:?}")),
        }
    }

    pub(crate) fn conflicts(&mut self, batch: u64, expected_last: u64) -> Result<(), String> {
        let request = Request::Publish {
            shard: SHARD,
            headers: headers(batch),
            payload: Bytes::from_static(b"no"),
            expected_last: StreamSeq(expected_last),
        };
        match self.ask(request) {
            Err(BrokerError::Conflict) => Ok(()),
            other => Err(format!("a publish behind {expected_last} should be refused: {other:?}")),
        }
    }

    /// Returns the stream's state, and creates the stream if it is missing.
    pub(crate) fn state(&mut self) -> Result<StreamState, String> {
        match self.ask(Request::StreamState { shard: SHARD }) {
            Ok(Reply::State(state)) => Ok(state),
            other => Err(format!("state: {other:?}")),
        }
    }

    pub(crate) fn at(&mut self, seq: u64) -> Result<Option<Message>, String> {
        match self.ask(Request::MessageAt { shard: SHARD, seq: StreamSeq(seq) }) {
            Ok(Reply::Message(message)) => Ok(message),
            other => Err(format!("message at {seq}: {other:?}")),
        }
    }

    pub(crate) fn last_own(&mut self) -> Result<Option<Message>, String> {
        match self.ask(Request::LastOwn { shard: SHARD }) {
            Ok(Reply::Message(message)) => Ok(message),
            other => Err(format!("last own: {other:?}")),
        }
    }

    pub(crate) fn consume(&mut self, start: u64, generation: u64) -> Result<(), String> {
        match self.ask(Request::Consume { shard: SHARD, start: StreamSeq(start), generation }) {
            Ok(Reply::Consuming) => Ok(()),
            other => Err(format!("consume from {start}: {other:?}")),
        }
    }

    pub(crate) fn get(&mut self, key: &str) -> Result<Option<KvEntry>, String> {
        match self.ask(Request::KvGet { key: key.to_owned() }) {
            Ok(Reply::Kv(entry)) => Ok(entry),
            other => Err(format!("get {key}: {other:?}")),
        }
    }

    pub(crate) fn put(
        &mut self,
        key: &str,
        value: &str,
        expected: Option<u64>,
        ttl_ms: Option<u64>,
    ) -> Result<u64, BrokerError> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        match self.ask(Request::KvPut { key: key.to_owned(), value, expected, ttl_ms })? {
            Reply::KvPut(revision) => Ok(revision),
            other => Err(BrokerError::Refused(format!("{other:?}"))),
        }
    }

    /// Returns the broker, for changes by the test itself.
    pub fn subject(&mut self) -> &mut dyn Subject {
        self.subject
    }

    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.subject.max_payload_bytes(self.index)
    }

    /// Publishes this number of batches, one after another.
    pub(crate) fn fill(&mut self, batches: u64) -> Result<(), String> {
        self.state()?;
        (1..=batches).try_for_each(|batch| self.publish(batch, batch - 1).map(drop))
    }
}

/// Fails with the found value if it is not the wanted one.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    wanted: T,
) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}
