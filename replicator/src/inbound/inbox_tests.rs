use super::*;
use crate::db::read_digests::ReadDigests;
use crate::inbound::stream::{ItemKind, StreamItem};
use crate::model::config::NodeConfig;
use crate::model::ids::{BatchNo, StreamSeq};
use crate::repair::refetch::OriginSchema;
use crate::store::cursor::Anchor;
use crate::store::install::create_tables;
use rusqlite::Connection;

const NOW: Now = Now { unix_ms: 0, mono_ms: 1_000 };

fn later(ms: u64) -> Now {
    Now { mono_ms: NOW.mono_ms + ms, ..NOW }
}

fn empty() -> (Durable, Inbox) {
    let db = Connection::open_in_memory().unwrap();
    create_tables(&db, std::path::Path::new(":memory:")).unwrap();
    let config = NodeConfig { shards: 3, ..NodeConfig::for_tests(1) };
    let durable = Durable::read(&db, &config).unwrap();
    let inbox = Inbox::new(&durable, NOW);
    (durable, inbox)
}

fn ack(upto: i64) -> Ack {
    Ack {
        batch: BatchNo(1),
        upto,
        mark: None,
        seq: None,
        lowest_ms: 0,
        digests: ReadDigests::default(),
    }
}

fn item(kind: ItemKind) -> StreamItem {
    StreamItem { kind, anchor: Anchor::start(0), safe: Anchor::start(0) }
}

fn gap() -> ItemKind {
    ItemKind::Gap { from: StreamSeq(1), to: StreamSeq(2) }
}

/// A busy stream must not starve the others (issue 11): the next transaction starts after it.
#[test]
fn streams_are_served_in_turn() {
    let (_, mut inbox) = empty();
    assert_eq!(inbox.order().collect::<Vec<_>>(), [0, 1, 2]);
    inbox.committed(&Served { full_at: Some(0), ..Served::default() }, NOW);
    assert_eq!(inbox.order().collect::<Vec<_>>(), [1, 2, 0]);
    inbox.committed(&Served { full_at: Some(2), ..Served::default() }, NOW);
    assert_eq!(inbox.order().collect::<Vec<_>>(), [0, 1, 2]);
    inbox.committed(&Served::default(), NOW);
    assert_eq!(inbox.order().collect::<Vec<_>>(), [0, 1, 2], "nothing was left");
}

/// Inputs of a transaction that is rolled back stay: only a commit removes them.
#[test]
fn only_a_commit_removes() {
    let (_, mut inbox) = empty();
    inbox.acknowledged(ack(1), NOW);
    inbox.acknowledged(ack(2), NOW);
    let retry = |id| Retry { id, origin: OriginSchema::NotRead };
    inbox.retries.extend([7, 8].map(retry));
    inbox.streams[1].queue.extend([item(ItemKind::Skip), item(gap())]);
    let served = Served { acks: 1, retries: 1, items: vec![0, 1, 0], ..Served::default() };
    inbox.committed(&served, NOW);
    assert_eq!((inbox.acks.as_slice(), inbox.retries.as_slice()), (&[ack(2)][..], &[retry(8)][..]));
    assert!(matches!(inbox.streams[1].queue[0].kind, ItemKind::Gap { .. }));
}

#[test]
fn acknowledgements_wait_for_a_quiet_moment_or_for_many_entries_or_for_the_stop() {
    let (_, mut inbox) = empty();
    assert_eq!(inbox.urgency(0, 100, later(100_000)), Urgency::None);
    inbox.acknowledged(ack(99), NOW);
    assert_eq!(inbox.urgency(0, 100, later(999)), Urgency::None);
    assert_eq!(inbox.urgency(0, 100, later(1_000)), Urgency::IfUnseen);
    assert_eq!(inbox.deadline(), NOW.mono_ms + 1_000);
    inbox.acknowledged(ack(100), NOW);
    assert_eq!(inbox.urgency(0, 100, NOW), Urgency::Now);
    assert_eq!(inbox.urgency(1, 100, NOW), Urgency::None, "one of them is stored");
    inbox.flush = true;
    assert_eq!(inbox.urgency(1, 100, NOW), Urgency::Now);
    inbox.committed(&Served { acks: 1, ..Served::default() }, NOW);
    assert!(inbox.flush, "the other still waits");
    inbox.committed(&Served { acks: 1, ..Served::default() }, NOW);
    assert_eq!((inbox.flush, inbox.deadline()), (false, u64::MAX));
}

#[test]
fn what_only_moves_the_cursor_is_bookkeeping_and_everything_else_is_not() {
    let (durable, mut inbox) = empty();
    inbox.note_waiting(NOW);
    assert!(!inbox.items_are_due(&durable, true));
    inbox.streams[0].queue.push_back(item(ItemKind::Skip));
    inbox.note_waiting(NOW);
    inbox.note_waiting(later(500));
    assert!(!inbox.items_are_due(&durable, true));
    assert_eq!(inbox.urgency(0, 100, later(1_000)), Urgency::IfUnseen, "nothing new came");
    assert_eq!(inbox.urgency(0, 1, NOW), Urgency::Now, "too many of them");
    assert!(inbox.items_are_due(&durable, false), "not joined, or not checked");
    inbox.streams[2].queue.push_back(item(gap()));
    assert!(inbox.items_are_due(&durable, true));
}

#[test]
fn changes_that_are_never_sent_are_bookkeeping() {
    let (_, mut inbox) = empty();
    inbox.note_unsent(5, NOW);
    inbox.note_unsent(5, later(900));
    assert_eq!(inbox.urgency(0, 100, later(1_000)), Urgency::IfUnseen);
    inbox.note_unsent(100, later(1_000));
    assert_eq!(inbox.urgency(0, 100, later(1_000)), Urgency::Now);
    inbox.committed(&Served::default(), NOW);
    assert_eq!(inbox.urgency(0, 100, later(9_000)), Urgency::None);
}

/// A transaction absorbs a piece of the log, and what it applies may log more.
#[test]
fn what_is_left_to_absorb_stays_due() {
    let (_, mut inbox) = empty();
    let left = |unsent| Served { unsent, ..Served::default() };
    inbox.note_unsent(1_500, NOW);
    inbox.flush = true;
    inbox.committed(&left(1_000), later(1_000));
    assert!(inbox.flush);
    inbox.flush = false;
    assert_eq!(inbox.urgency(0, 10_000, later(1_000)), Urgency::IfUnseen);
    inbox.committed(&left(0), later(1_100));
    assert_eq!(inbox.urgency(0, 10_000, later(9_000)), Urgency::None);
    inbox.committed(&left(1), later(9_000));
    assert_eq!(inbox.urgency(0, 10_000, later(9_999)), Urgency::None);
    assert_eq!(inbox.urgency(0, 10_000, later(10_000)), Urgency::IfUnseen);
}

#[test]
fn joining_ends_only_when_every_item_is_served() {
    let (_, mut inbox) = empty();
    inbox.streams[1].queue.push_back(item(gap()));
    assert!(!inbox.has_consumed_to(|_| Some(0), &[]));
    assert!(inbox.has_consumed_to(|_| Some(0), &[0, 1, 0]));
    assert!(!inbox.has_consumed_to(|_| Some(1), &[0, 1, 0]), "the stream is longer");
    assert!(!inbox.has_consumed_to(|_| None, &[0, 1, 0]), "its end is not known");
}

#[test]
fn only_a_few_deliveries_can_wait_for_more() {
    let (_, mut inbox) = empty();
    inbox.streams[0].queue.extend((0..FEW_ITEMS).map(|_| item(gap())));
    assert!(inbox.has_few());
    inbox.flush = true;
    assert!(!inbox.has_few(), "the node stops, or makes a snapshot");
    inbox.flush = false;
    inbox.streams[2].queue.push_back(item(ItemKind::Skip));
    assert!(!inbox.has_few());
}
