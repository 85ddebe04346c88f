use super::*;
use crate::model::ids::BatchNo;
use crate::store::cursor::Cursor;
use bytes::Bytes;

const OWN: Site = Site(7);

fn progress(applied: u64) -> Progress {
    let mut cursor = Cursor::default();
    if applied > 0 {
        cursor.advance(Anchor { seq: StreamSeq(applied), ..Anchor::start(1) }, 0, 1, 8);
    }
    Progress { shard: 1, cursor, held: HashMap::new(), resuming: HashMap::new() }
}

/// Returns part `part` of `parts` of a batch of this node. Its body has one byte for each part.
fn message(seq: u64, node: u64, part: u32, parts: u32) -> Message {
    use sha2::{Digest as _, Sha256};
    let body: Vec<u8> = (1..=parts).map(|i| i as u8).collect();
    let site = if node == 1 { OWN } else { Site(80 + node.cast_signed()) };
    let total_bytes = body.len() as u64;
    let digest = Sha256::digest(&body).into();
    let headers =
        PartHeaders { site, batch: BatchNo(1), part, parts, total_bytes, digest, log: None };
    Message {
        shard: 1,
        seq: StreamSeq(seq),
        time_ns: seq.cast_signed(),
        node: NodeId(node),
        headers: Ok(headers),
        payload: Bytes::from(vec![part as u8]),
    }
}

fn deliver(stream: &mut ShardStream, progress: &Progress, message: Message) {
    let (limits, spill_dir) = (Limits::default(), std::env::temp_dir());
    let context = Context {
        progress,
        own_site: OWN,
        limits: &limits,
        stream_bytes_max: 1_000,
        spill_dir: spill_dir.as_path(),
    };
    stream.deliver(message, Permit::default(), context).unwrap();
}

fn consuming(progress: &mut Progress) -> ShardStream {
    let mut stream = ShardStream::new(progress);
    stream.restart(progress, 1);
    stream
}

/// Returns the items of the queue: the kind's name, and the position to store afterwards.
fn queued(stream: &ShardStream) -> Vec<(&'static str, u64)> {
    let name = |kind: &ItemKind| match kind {
        ItemKind::Skip => "skip",
        ItemKind::Batch { .. } => "batch",
        ItemKind::Bad { .. } => "bad",
        ItemKind::Gap { .. } => "gap",
    };
    stream.queue.iter().map(|item| (name(&item.kind), item.safe.seq.0)).collect()
}

#[test]
fn own_batches_and_repetitions_are_skipped() {
    let mut progress = progress(0);
    let mut stream = consuming(&mut progress);
    deliver(&mut stream, &progress, message(1, 1, 1, 1));
    deliver(&mut stream, &progress, message(2, 2, 1, 1));
    deliver(&mut stream, &progress, message(2, 2, 1, 1));
    assert_eq!(queued(&stream), [("skip", 1), ("batch", 2)]);
    assert!(!stream.waits_for_nothing());
}

#[test]
fn the_cursor_never_passes_the_first_part_of_an_incomplete_batch() {
    let mut progress = progress(0);
    let mut stream = consuming(&mut progress);
    deliver(&mut stream, &progress, message(1, 2, 1, 2));
    deliver(&mut stream, &progress, message(2, 3, 1, 1));
    assert_eq!(queued(&stream), [("batch", 0)]);
    assert!(!stream.is_drained_but(1), "a batch is incomplete");
    deliver(&mut stream, &progress, message(3, 2, 2, 2));
    assert_eq!(queued(&stream), [("batch", 0), ("batch", 3)]);
    assert!(stream.is_drained_but(2));
}

#[test]
fn a_hole_in_the_positions_is_a_gap_behind_the_cursor_only() {
    let mut progress = progress(5);
    let mut stream = consuming(&mut progress);
    deliver(&mut stream, &progress, message(8, 2, 1, 1));
    assert_eq!(queued(&stream), [("gap", 5), ("batch", 8)]);
    let ItemKind::Gap { from, to } = stream.queue[0].kind else { panic!() };
    assert_eq!((from, to), (StreamSeq(6), StreamSeq(8)));
}

#[test]
fn a_held_origin_is_skipped_until_its_backlog_is_delivered_again() {
    let mut progress = progress(0);
    let mut stream = consuming(&mut progress);
    progress.held.insert(NodeId(2), StreamSeq(3));
    deliver(&mut stream, &progress, message(1, 2, 1, 1));
    assert_eq!(queued(&stream), [("skip", 1)]);
    progress.cursor.advance(Anchor { seq: StreamSeq(9), ..Anchor::start(1) }, 0, 1, 8);
    assert_eq!(stream.restart(&mut progress, 2), StreamSeq(3), "behind the cursor, at 3");
    deliver(&mut stream, &progress, message(3, 2, 1, 1));
    deliver(&mut stream, &progress, message(4, 3, 1, 1));
    assert_eq!(queued(&stream), [("batch", 3), ("skip", 4)]);
}

#[test]
fn a_part_without_its_beginning_is_skipped_and_an_idle_batch_given_up() {
    let mut progress = progress(0);
    let mut stream = consuming(&mut progress);
    deliver(&mut stream, &progress, message(1, 2, 2, 2));
    assert_eq!(queued(&stream), [("skip", 1)]);
    deliver(&mut stream, &progress, message(2, 2, 1, 2));
    stream.abandon_idle(1_000);
    assert_eq!(stream.deadline(), 1_000 + INCOMPLETE_MS_MAX);
    stream.abandon_idle(1_000 + INCOMPLETE_MS_MAX);
    assert_eq!(queued(&stream), [("skip", 1), ("skip", 2)]);
}

#[test]
fn while_there_is_no_room_nothing_is_listened_to_and_the_wait_grows() {
    let mut progress = progress(0);
    let mut stream = consuming(&mut progress);
    stream.wait_for_room(StreamSeq(1), "disk full".to_owned(), 0);
    assert!(
        !stream.looks_for_room(NO_ROOM_RETRY_MS - 1) && stream.looks_for_room(NO_ROOM_RETRY_MS)
    );
    stream.restart(&mut progress, 2);
    assert_eq!(stream.deadline(), u64::MAX);
    stream.wait_for_room(StreamSeq(1), "disk full".to_owned(), 0);
    assert_eq!(stream.deadline(), 2 * NO_ROOM_RETRY_MS);
    stream.restart(&mut progress, 3);
    deliver(&mut stream, &progress, message(1, 2, 1, 1));
    assert!(stream.no_room.is_none(), "it found room");
}
