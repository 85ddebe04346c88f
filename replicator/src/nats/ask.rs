//! Carries out one request of an actor on a prepared connection.
//!
//! Arrives: a request. Leaves: its reply. Reads go to the stream's leader, not to any replica
//! (direct get): a lagging replica would look like a loss. No state; after a crash here the answer
//! is missing.

use super::prepare::{REGISTRY, Session};
use super::wire;
use crate::broker::{BrokerError, KvEntry, Message, Reply, StreamState};
use crate::model::batch::PartHeaders;
use crate::model::ids::{NodeId, StreamSeq};
use crate::settings::NatsSettings;
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{
    Config, LastRawMessageErrorKind, RawMessageError, State, Stream,
};
use bytes::Bytes;
use futures_util::StreamExt as _;

type Result<T> = std::result::Result<T, BrokerError>;

fn unreachable(error: impl ToString) -> BrokerError {
    BrokerError::Unreachable(error.to_string())
}

/// Converts a broker's time to unix nanoseconds.
pub(super) fn nanoseconds(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(0)
}

/// Builds a message of a stream as the stages see it.
pub(super) fn to_message(
    shard: u32,
    seq: u64,
    time_ns: i64,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Message {
    Message {
        shard,
        seq: StreamSeq(seq),
        time_ns,
        node: wire::node_of(subject),
        headers: wire::from_headers(headers),
        payload,
    }
}

fn stored(shard: u32, found: StreamMessage) -> Message {
    to_message(
        shard,
        found.sequence,
        nanoseconds(found.time),
        &found.subject,
        Some(&found.headers),
        found.payload,
    )
}

async fn stream(session: &Session, name: &str) -> Result<Stream<()>> {
    session.jetstream.get_stream_no_info(name).await.map_err(unreachable)
}

fn optional<T>(found: std::result::Result<T, RawMessageError>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unreachable(error)),
    }
}

/// Whether the stream has no such message, which is an answer and no failure.
pub(super) fn is_missing(error: &RawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(e) => e.error_code() == ErrorCode::NO_MESSAGE_FOUND,
        _ => false,
    }
}

/// Stores one part behind its fence.
pub(super) async fn publish(
    session: &Session,
    nats: &NatsSettings,
    node: NodeId,
    shard: u32,
    part: &PartHeaders,
    payload: Bytes,
    expected_last: StreamSeq,
) -> Result<Reply> {
    let mut headers = wire::to_headers(part);
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected_last.to_string().as_str());
    let subject = wire::subject(&nats.subject_prefix, shard, node);
    let sent =
        session.jetstream.publish_with_headers(subject, headers, payload).await.map_err(refused)?;
    let ack = sent.await.map_err(refused)?;
    if !session.domain.is_empty() && ack.domain != session.domain {
        return Err(BrokerError::Refused(format!(
            "a stream {} in the JetStream domain {:?} answers instead of the one in {:?} \
            (nats.js_domain): delete the stream there",
            ack.stream, ack.domain, session.domain
        )));
    }
    Ok(Reply::Published(StreamSeq(ack.sequence)))
}

/// Once nats-server 2.15.1 has counted its disk as full, it keeps refusing (observed; it counts
/// only when it starts).
const NO_ROOM_HINT: &str = "its disk or its JetStream storage is full: free space; if the error \
    persists, restart that nats-server";

fn refused(error: PublishError) -> BrokerError {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => BrokerError::Conflict,
        PublishErrorKind::MaxPayloadExceeded => BrokerError::Refused(error.to_string()),
        PublishErrorKind::Other => {
            // The server's message; without one the connection failed.
            let reason = error_text(&error);
            if reason.contains("wrong last sequence") {
                BrokerError::Conflict
            } else if reason.contains("insufficient resources") {
                BrokerError::Refused(format!("{reason}: {NO_ROOM_HINT}"))
            } else {
                BrokerError::Refused(reason)
            }
        }
        _ => unreachable(error),
    }
}

fn error_text(error: &PublishError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The newest message of this node's own subject.
pub(super) async fn last_own(
    session: &Session,
    nats: &NatsSettings,
    node: NodeId,
    shard: u32,
) -> Result<Reply> {
    let stream = stream(session, &wire::stream_name(&nats.stream_prefix, shard)).await?;
    let found = stream
        .get_last_raw_message_by_subject(&wire::subject(&nats.subject_prefix, shard, node))
        .await;
    Ok(Reply::Message(optional(found)?.map(|m| stored(shard, m))))
}

/// The message at a position.
pub(super) async fn message_at(
    session: &Session,
    nats: &NatsSettings,
    shard: u32,
    seq: StreamSeq,
) -> Result<Reply> {
    let stream = stream(session, &wire::stream_name(&nats.stream_prefix, shard)).await?;
    Ok(Reply::Message(optional(stream.get_raw_message(seq.0).await)?.map(|m| stored(shard, m))))
}

/// The state of a stream.
pub(super) async fn stream_state(
    session: &Session,
    nats: &NatsSettings,
    shard: u32,
) -> Result<Reply> {
    let stream = stream(session, &wire::stream_name(&nats.stream_prefix, shard)).await?;
    let info = stream.get_info().await.map_err(unreachable)?;
    let state = &info.state;
    let first = if state.messages == 0 { state.last_sequence + 1 } else { state.first_sequence };
    Ok(Reply::State(StreamState {
        created_ns: nanoseconds(info.created),
        first: StreamSeq(first),
        last: StreamSeq(state.last_sequence),
        last_time_ns: if state.messages == 0 { 0 } else { nanoseconds(state.last_timestamp) },
        kept_since_ns: kept_since_ns(&info.config, state, crate::clock::unix_ns()),
    }))
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamUsage {
    /// When it was created, unix nanoseconds.
    pub created_ns: i64,
    /// Its messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The position of the last message.
    pub last: u64,
    /// The first message after the position asked for: its position, and when it was stored, unix
    /// milliseconds; None: there is none.
    pub next: Option<(u64, i64)>,
}

/// Returns what a stream holds, and its first message after `covered`: a position, in the stream
/// that was created at this time.
pub(super) async fn stream_usage(
    session: &Session,
    nats: &NatsSettings,
    shard: u32,
    covered: Option<(u64, i64)>,
) -> Result<StreamUsage> {
    let stream = stream(session, &wire::stream_name(&nats.stream_prefix, shard)).await?;
    let info = stream.get_info().await.map_err(unreachable)?;
    let (state, created_ns) = (&info.state, nanoseconds(info.created));
    let covered = covered.filter(|(_, of)| *of == created_ns).map_or(0, |(seq, _)| seq);
    let from = (covered + 1).max(state.first_sequence);
    let next = if state.messages == 0 || from > state.last_sequence {
        None
    } else {
        // The message may have been deleted; the one after it is hardly younger.
        let found = optional(stream.get_raw_message(from).await)?;
        let time_ns = found
            .map_or_else(|| nanoseconds(state.last_timestamp), |message| nanoseconds(message.time));
        Some((from, time_ns / 1_000_000))
    };
    let (messages, bytes, last) = (state.messages, state.bytes, state.last_sequence);
    Ok(StreamUsage { created_ns, messages, bytes, last, next })
}

/// The time since which the limits of a stream have removed nothing. A stream that is more than
/// half full may be removing its oldest messages. The last eighth of max_age is left as a margin
/// for clocks that differ.
fn kept_since_ns(config: &Config, state: &State, now_ns: i64) -> i64 {
    let half_full = |most: i64, has: u64| most > 0 && has.saturating_mul(2) >= most.unsigned_abs();
    if config.max_messages_per_subject > 0
        || half_full(config.max_messages, state.messages)
        || half_full(config.max_bytes, state.bytes)
    {
        return i64::MAX;
    }
    match i64::try_from(config.max_age.as_nanos()) {
        Ok(0) => 0,
        Ok(age_ns) => now_ns - age_ns / 8 * 7,
        Err(_) => i64::MAX,
    }
}

/// Reads the registry's last message under a key, deletion markers included.
async fn kv_raw(session: &Session, key: &str) -> Result<Option<StreamMessage>> {
    let stream = stream(session, &format!("KV_{REGISTRY}")).await?;
    optional(stream.get_last_raw_message_by_subject(&format!("$KV.{REGISTRY}.{key}")).await)
}

/// The value of a key, and when the broker stored it, unix nanoseconds.
pub(super) struct KvValue {
    pub(super) value: Bytes,
    pub(super) time_ns: i64,
}

/// Reads a key with its time. A deleted or expired key is None.
pub(super) async fn kv_last(session: &Session, key: &str) -> Result<Option<KvValue>> {
    let found = kv_raw(session, key).await?.filter(|m| !is_marker(m));
    Ok(found.map(|m| KvValue { time_ns: nanoseconds(m.time), value: m.payload }))
}

/// The subject that writes a key. Servers keep the plain one within a JetStream domain.
fn kv_subject(session: &Session, key: &str) -> String {
    match session.domain.as_str() {
        "" => format!("$KV.{REGISTRY}.{key}"),
        domain => format!("$JS.{domain}.API.$KV.{REGISTRY}.{key}"),
    }
}

/// Deletes a key.
pub(super) async fn kv_delete(session: &Session, key: &str) -> Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let sent = session
        .jetstream
        .publish_with_headers(kv_subject(session, key), headers, Bytes::new())
        .await
        .map_err(refused)?;
    sent.await.map(drop).map_err(refused)
}

/// Returns the broker's time, unix nanoseconds: that of the answer to a question about the
/// registry. A server that does not tell its time is taken to agree with this machine.
pub(super) async fn broker_now_ns(session: &Session) -> Result<i64> {
    let asked = session.jetstream.request(format!("STREAM.INFO.KV_{REGISTRY}"), &());
    let info: serde_json::Value = asked.await.map_err(unreachable)?;
    let told = info["ts"].as_str().and_then(|ts| async_nats::datetime::parse_rfc3339(ts).ok());
    Ok(told.map_or_else(crate::clock::unix_ns, nanoseconds))
}

fn is_marker(message: &StreamMessage) -> bool {
    message.headers.get("KV-Operation").is_some_and(|op| op.as_str() != "PUT")
        || message.headers.get("Nats-Marker-Reason").is_some()
}

/// Reads a key. A deleted or expired key is None.
pub(super) async fn kv_get(session: &Session, key: &str) -> Result<Reply> {
    let found = kv_raw(session, key).await?.filter(|m| !is_marker(m));
    Ok(Reply::Kv(found.map(|m| KvEntry { revision: m.sequence, value: m.payload })))
}

/// The ids of the keys `<prefix><id>` in the registry, in order.
pub(super) async fn ids_under(session: &Session, prefix: &str) -> Result<Vec<u64>> {
    let prefix = format!("$KV.{REGISTRY}.{prefix}");
    let stream = stream(session, &format!("KV_{REGISTRY}")).await?;
    let mut subjects =
        stream.info_with_subjects(format!("$KV.{REGISTRY}.>")).await.map_err(unreachable)?;
    let mut ids = Vec::new();
    while let Some(found) = subjects.next().await {
        let (subject, _) = found.map_err(unreachable)?;
        ids.extend(subject.strip_prefix(&prefix).and_then(|id| id.parse::<u64>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Writes a key by publishing to its subject: the crate's own `update` loses the time to live.
pub(super) async fn kv_put(
    session: &Session,
    key: &str,
    value: Bytes,
    expected: Option<u64>,
    ttl_ms: Option<u64>,
) -> Result<Reply> {
    let mut headers = HeaderMap::new();
    if let Some(expected) = expected {
        let mut revision = expected;
        if expected == 0
            && let Some(last) = kv_raw(session, key).await?
        {
            if !is_marker(&last) {
                return Err(BrokerError::Conflict);
            }
            revision = last.sequence;
        }
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string().as_str());
    }
    if let Some(ttl_ms) = ttl_ms.filter(|_| session.ttl) {
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", ttl_ms.div_ceil(1_000).max(1)).as_str());
    }
    let sent = session
        .jetstream
        .publish_with_headers(kv_subject(session, key), headers, value)
        .await
        .map_err(refused)?;
    Ok(Reply::KvPut(sent.await.map_err(refused)?.sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_limits_may_have_removed_is_not_taken_for_lost() {
        const DAY_NS: i64 = 86_400_000_000_000;
        let state = |messages, bytes| {
            let mut state: State = serde_json::from_str(EMPTY).unwrap();
            (state.messages, state.bytes) = (messages, bytes);
            state
        };
        let config = Config {
            max_age: Duration::from_secs(8 * 86_400),
            max_messages: 1_000,
            max_bytes: 1_000_000,
            ..Config::default()
        };
        let since = |config: &Config, messages, bytes| {
            kept_since_ns(config, &state(messages, bytes), 100 * DAY_NS)
        };
        assert_eq!(since(&config, 10, 1_000), 93 * DAY_NS);
        assert_eq!(since(&config, 500, 1_000), i64::MAX);
        assert_eq!(since(&config, 10, 500_000), i64::MAX);
        assert_eq!(
            since(&Config { max_messages_per_subject: 1, ..config.clone() }, 10, 1_000),
            i64::MAX
        );
        let endless = Config { max_age: Duration::ZERO, max_messages: -1, max_bytes: -1, ..config };
        assert_eq!(since(&endless, u64::MAX, u64::MAX), 0);
    }

    const EMPTY: &str = r#"{"messages": 0, "bytes": 0, "first_seq": 0,
        "first_ts": "1970-01-01T00:00:00Z", "last_seq": 0, "last_ts": "1970-01-01T00:00:00Z",
        "consumer_count": 0}"#;
}
