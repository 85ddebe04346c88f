//! JetStream in memory: streams with positions and fences, a bucket with revisions and times to
//! live.
//!
//! It answers every request at once and correctly. Other modules lose, delay and falsify
//! (`network`, `faults`). The conformance suite runs on it and on a real server, so that the model
//! stays correct.

use bytes::Bytes;
use harmonylite::broker::{BrokerError, KvEntry, Message, Reply, Request, StreamState};
use harmonylite::model::batch::PartHeaders;
use harmonylite::model::ids::{NodeId, StreamSeq};
use std::collections::BTreeMap;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    /// When it was stored, unix nanoseconds.
    pub time_ns: i64,
    /// The node of its subject.
    pub node: NodeId,
    /// Its headers; why they cannot be read, if they are damaged.
    pub headers: Result<PartHeaders, String>,
    /// Its bytes.
    pub payload: Bytes,
}

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// When it was created.
    pub created_ns: i64,
    /// The stored messages.
    pub messages: BTreeMap<u64, Stored>,
    /// The last position used.
    pub last: u64,
    /// The lowest position that can still hold a message. It rises when messages expire.
    pub first: u64,
    /// When the last message was stored.
    pub last_time_ns: i64,
    /// No message stored from here on has expired.
    pub kept_since_ns: i64,
}

#[derive(Clone, Debug)]
struct Value {
    revision: u64,
    value: Bytes,
    expires_ns: Option<i64>,
}

/// The broker.
#[derive(Debug, Default)]
pub struct SimBroker {
    /// The streams, by shard.
    pub streams: BTreeMap<u32, Stream>,
    bucket: BTreeMap<String, Value>,
    revision: u64,
    /// The bytes that a stream holds before it drops its oldest messages.
    stream_bytes_max: Option<u64>,
    /// The time. It advances between two stored messages.
    pub now_ns: i64,
}

impl SimBroker {
    /// Creates a broker whose streams hold this many bytes; `u64::MAX`: without bound.
    pub fn of_size(stream_bytes_max: u64) -> Self {
        let stream_bytes_max = Some(stream_bytes_max).filter(|bytes| *bytes < u64::MAX);
        Self { stream_bytes_max, ..Self::default() }
    }

    /// Advances the server's time to at least this.
    pub fn at(&mut self, true_ms: i64) {
        self.now_ns = self.now_ns.max(true_ms * 1_000_000);
    }

    fn tick(&mut self) -> i64 {
        self.now_ns += 1_000;
        self.now_ns
    }

    /// Returns the stream, and creates it if it is missing.
    pub fn stream(&mut self, shard: u32) -> &mut Stream {
        let now = self.tick();
        self.streams.entry(shard).or_insert_with(|| Stream {
            created_ns: now,
            first: 1,
            ..Stream::default()
        })
    }

    /// Returns the sum of the last positions of all streams.
    pub fn last(&self) -> u64 {
        self.streams.values().map(|stream| stream.last).sum()
    }

    fn last_of(stream: &Stream, node: NodeId) -> Option<(u64, &Stored)> {
        stream.messages.iter().rev().find(|(_, m)| m.node == node).map(|(s, m)| (*s, m))
    }

    /// Returns the message at a position, as it is delivered.
    pub fn message(stream: &Stream, shard: u32, seq: u64) -> Option<Message> {
        stream.messages.get(&seq).map(|m| Message {
            shard,
            seq: StreamSeq(seq),
            time_ns: m.time_ns,
            node: m.node,
            headers: m.headers.clone(),
            payload: m.payload.clone(),
        })
    }

    /// Executes a request of a node. The network executes `Consume` and `Signal`, which concern
    /// connections.
    ///
    /// # Errors
    /// The errors of a real broker.
    pub fn execute(&mut self, node: NodeId, request: Request) -> Result<Reply, BrokerError> {
        let now_ns = self.tick();
        match request {
            Request::Publish { shard, headers, payload, expected_last } => {
                let stream = self.stream(shard);
                if Self::last_of(stream, node).map_or(0, |(seq, _)| seq) != expected_last.0 {
                    return Err(BrokerError::Conflict);
                }
                stream.last += 1;
                stream.last_time_ns = now_ns;
                stream.messages.insert(
                    stream.last,
                    Stored { time_ns: now_ns, node, headers: Ok(headers), payload },
                );
                let last = stream.last;
                self.drop_oldest(shard);
                Ok(Reply::Published(StreamSeq(last)))
            }
            Request::LastOwn { shard } => {
                let stream = self.stream(shard);
                let seq = Self::last_of(stream, node).map(|(seq, _)| seq);
                Ok(Reply::Message(seq.and_then(|seq| Self::message(stream, shard, seq))))
            }
            Request::MessageAt { shard, seq } => {
                let stream = self.stream(shard);
                Ok(Reply::Message(Self::message(stream, shard, seq.0)))
            }
            Request::StreamState { shard } => {
                let stream = self.stream(shard);
                let first = stream.messages.keys().next().copied().unwrap_or(stream.last + 1);
                Ok(Reply::State(StreamState {
                    created_ns: stream.created_ns,
                    first: StreamSeq(first.max(stream.first)),
                    last: StreamSeq(stream.last),
                    last_time_ns: stream.last_time_ns,
                    kept_since_ns: stream.kept_since_ns,
                }))
            }
            Request::KvGet { key } => Ok(Reply::Kv(
                self.live(&key, now_ns)
                    .map(|v| KvEntry { revision: v.revision, value: v.value.clone() }),
            )),
            Request::KvPut { key, value, expected, ttl_ms } => {
                let have = self.live(&key, now_ns).map_or(0, |v| v.revision);
                if expected.is_some_and(|expected| expected != have) {
                    return Err(BrokerError::Conflict);
                }
                self.revision += 1;
                let expires_ns = ttl_ms.map(|ms| now_ns + ms.cast_signed() * 1_000_000);
                self.bucket.insert(key, Value { revision: self.revision, value, expires_ns });
                Ok(Reply::KvPut(self.revision))
            }
            Request::Consume { .. } => Ok(Reply::Consuming),
            Request::Signal { .. } => {
                Err(BrokerError::Refused("a signal has no answer".to_owned()))
            }
        }
    }

    fn live(&self, key: &str, now_ns: i64) -> Option<&Value> {
        self.bucket.get(key).filter(|v| v.expires_ns.is_none_or(|at| at > now_ns))
    }

    /// Recreates the stream: positions start again, and `created` differs.
    pub fn recreate(&mut self, shard: u32) {
        self.streams.remove(&shard);
        self.stream(shard);
    }

    /// Takes the server's disk back in time: the newest messages are gone, their positions are
    /// reused, and `created` stays.
    pub fn roll_back(&mut self, shard: u32, messages: u64) {
        let stream = self.stream(shard);
        let keep = stream.last.saturating_sub(messages).max(stream.first - 1);
        stream.messages.retain(|seq, _| *seq <= keep);
        stream.last = keep;
        stream.last_time_ns = stream.messages.values().next_back().map_or(0, |m| m.time_ns);
    }

    /// Removes one message. Its position stays used.
    pub fn destroy(&mut self, shard: u32, seq: u64) -> bool {
        self.stream(shard).messages.remove(&seq).is_some()
    }

    /// Expires all messages up to a position.
    pub fn expire(&mut self, shard: u32, upto: u64) {
        let stream = self.stream(shard);
        let upto = upto.min(stream.last);
        let newest_ns = stream.messages.range(..=upto).next_back().map_or(0, |(_, m)| m.time_ns);
        stream.kept_since_ns = stream.kept_since_ns.max(newest_ns + 1);
        stream.messages.retain(|seq, _| *seq > upto);
        stream.first = stream.first.max(upto + 1);
    }

    fn drop_oldest(&mut self, shard: u32) {
        let Some(bytes_max) = self.stream_bytes_max else { return };
        let mut bytes = 0;
        let newest = self.stream(shard).messages.iter().rev();
        let dropped = newest.map(|(seq, m)| (*seq, m.payload.len() as u64)).find(|(_, size)| {
            bytes += size;
            bytes > bytes_max
        });
        if let Some((seq, _)) = dropped {
            self.expire(shard, seq);
        }
    }

    /// Loses the bucket.
    pub fn forget_bucket(&mut self) {
        self.bucket.clear();
    }
}
