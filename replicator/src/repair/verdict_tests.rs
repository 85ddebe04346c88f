use super::*;
use crate::model::batch::PartHeaders;
use crate::model::ids::NodeId;
use bytes::Bytes;

const CREATED: i64 = 1;
const SECOND: i64 = 1_000_000_000;

/// Returns the message at a position, of node 2, stored `seq` seconds after 1970.
fn message(seq: u64) -> Message {
    let headers = PartHeaders {
        site: Site(8),
        batch: BatchNo(seq),
        part: 1,
        parts: 1,
        total_bytes: 0,
        digest: [0; 32],
        log: None,
    };
    Message {
        shard: 1,
        seq: StreamSeq(seq),
        time_ns: seq.cast_signed() * SECOND,
        node: NodeId(2),
        headers: Ok(headers),
        payload: Bytes::new(),
    }
}

fn anchor(seq: u64) -> Anchor {
    Anchor::of(&message(seq), CREATED)
}

/// Returns a cursor with positions 10, 20 and 30. Rows up to a position have its number as time, in
/// ms.
fn cursor() -> Cursor {
    let mut cursor = Cursor::default();
    for seq in [10, 20, 30] {
        cursor.advance(anchor(seq), seq.cast_signed(), 1, 64);
    }
    cursor
}

fn state(first: u64, last: u64) -> StreamState {
    StreamState {
        created_ns: CREATED,
        first: StreamSeq(first),
        last: StreamSeq(last),
        last_time_ns: 0,
        kept_since_ns: 0,
    }
}

/// Returns the broker's answers: the stream's state, and the messages of ours that it still has.
fn answered(state: StreamState, found: &[u64], own: Option<u64>) -> BrokerAnswers {
    let found = found.iter().map(|seq| ((1, StreamSeq(*seq)), Some(message(*seq))));
    BrokerAnswers {
        states: HashMap::from([(1, state)]),
        found: found.collect(),
        own: own.map(anchor),
        heads: HashMap::from([(1, anchor(30))]),
        ..BrokerAnswers::default()
    }
}

fn judged(answered: &BrokerAnswers) -> Verdict {
    let cursor = cursor();
    let cursors = vec![(1, &cursor)];
    let known = NodeKnowledge { cursors, own_shard: 1, own_lowest_ms: 25, drift_ms: 100 };
    judge_connection(answered, &known)
}

#[test]
fn how_far_back_a_stream_goes() {
    let other_stream = StreamState { created_ns: 2, ..state(1, 40) };
    for (state, found, rewind, since_ms) in [
        (state(1, 40), &[10, 20, 30][..], Rewind::Keep, None),
        // The rows after position 20 have times from millisecond 30 on.
        (state(1, 40), &[10, 20][..], Rewind::To(1), Some(30)),
        (state(1, 25), &[10, 20][..], Rewind::To(1), Some(30)),
        (state(1, 40), &[10][..], Rewind::To(0), Some(20)),
        (state(1, 40), &[][..], Rewind::ToStart, Some(0)),
        (other_stream, &[][..], Rewind::ToStart, Some(0)),
        // Only the time of its creation has changed: some servers do that.
        (other_stream, &[10, 20, 30][..], Rewind::Keep, None),
        (StreamState { last: StreamSeq(25), ..other_stream }, &[][..], Rewind::ToStart, Some(0)),
    ] {
        let verdict = judged(&answered(state, found, None));
        assert_eq!(verdict.shards[0].rewind, rewind, "{state:?} {found:?}");
        assert_eq!(verdict.republish_since_ms, since_ms, "{state:?} {found:?}");
        assert!(!verdict.own_lost);
    }
}

#[test]
fn what_has_expired_is_not_lost() {
    let expired = StreamState { kept_since_ns: 31 * SECOND, ..state(35, 40) };
    assert_eq!(judged(&answered(expired, &[], None)).shards[0].rewind, Rewind::Keep);
    let too_young = StreamState { kept_since_ns: 29 * SECOND, ..state(35, 40) };
    let verdict = judged(&answered(too_young, &[], None));
    assert_eq!(verdict.shards[0].rewind, Rewind::To(1), "30 is lost, 20 has expired");
}

#[test]
fn a_lost_own_batch_is_republished_from_its_oldest_row_on() {
    // Position 30 is the last one before 33, and nothing was consumed after it.
    let verdict = judged(&answered(state(1, 40), &[10, 20, 30], Some(33)));
    assert!(verdict.own_lost && verdict.shards[0].rewind == Rewind::Keep);
    assert_eq!(verdict.republish_since_ms, Some(25));
    assert!(!judged(&answered(state(1, 40), &[10, 20, 30, 33], Some(33))).own_lost);
    let other_stream = StreamState { created_ns: 2, ..state(1, 40) };
    assert_eq!(judged(&answered(other_stream, &[], Some(33))).republish_since_ms, Some(0));
    let verdict = judged(&answered(other_stream, &[30, 33], Some(33)));
    assert_eq!((verdict.own_lost, verdict.republish_since_ms), (false, None), "it is all there");
}

#[test]
fn the_trail_is_asked_about_only_for_a_lost_cursor_of_the_same_stream() {
    let trail = |state, found: &[u64]| answered(state, found, None).trail_to_ask(1, &cursor());
    assert!(trail(state(1, 40), &[30]).is_empty());
    assert_eq!(trail(state(1, 40), &[]), [10, 20, 30].map(StreamSeq));
    assert_eq!(trail(state(1, 40), &[10]), [20, 30].map(StreamSeq));
    assert!(trail(StreamState { created_ns: 2, ..state(1, 40) }, &[]).is_empty());
}

#[test]
fn a_database_that_went_back_in_time_is_noticed() {
    let own = HashSet::from([Site(8), Site(7)]);
    for (batch, site, ahead) in [
        (5, Site(8), false), // The stream's newest is batch 5.
        (4, Site(8), true),
        (0, Site(7), false), // Site 8 is a former one of this node.
    ] {
        let answered = BrokerAnswers { last_own: Some(message(5)), ..BrokerAnswers::default() };
        assert_eq!(answered.is_ahead_of(site, BatchNo(batch), &own), ahead, "{batch} {site}");
    }
    let value = serde_json::json!({ "site": 9, "batch": 1 }).to_string().into();
    let registry = Some(KvEntry { revision: 1, value });
    let answered = BrokerAnswers { registry, ..BrokerAnswers::default() };
    assert!(answered.is_ahead_of(Site(8), BatchNo(100), &own), "site 9 is unknown here");
    assert!(!BrokerAnswers::default().is_ahead_of(Site(8), BatchNo(0), &own));
}
