use super::*;
use crate::db::read_digests::ReadDigests;
use crate::inbound::process::{note_gap, serve};
use crate::inbound::stream::{ItemKind, StreamItem};
use crate::model::ids::NodeId;
use crate::repair::gaps::Need;
use crate::repair::superseded::Superseded;
use crate::store::cursor::Anchor;
use crate::store::test_database;

struct Memory {
    db: Connection,
    config: NodeConfig,
    layout: Arc<Layout>,
    durable: Durable,
}

fn memory() -> Memory {
    let db = test_database();
    sites::begin_site(&db, Site(7), 0).unwrap();
    let config = NodeConfig::for_tests(1);
    meta::set(&db, meta::NODE, config.node).unwrap();
    let (layout, _) = install::install(&db, &config.filter, 0).unwrap();
    let durable = Durable::read(&db, &config).unwrap();
    Memory { db, config, layout: Arc::new(layout), durable }
}

impl Memory {
    fn run(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), Fatal>,
    ) -> Result<(Durable, Stats, AfterCommit), Fatal> {
        let now = Now { unix_ms: 1_000, mono_ms: 0 };
        let copies = (&self.durable, &Stats::default());
        let tx = Transaction::new(&self.db, &self.config, &self.layout, copies, now);
        let committed = tx.run(work, |_| true)?;
        Ok(committed.map(|c| (c.durable, c.stats, c.after)).expect("it may commit"))
    }

    fn inbox(&self, ack: Ack) -> Inbox {
        let now = Now { unix_ms: 0, mono_ms: 0 };
        let mut inbox = Inbox::new(&self.durable, now);
        inbox.acknowledged(ack, now);
        inbox
    }
}

fn ack(batch: u64) -> Ack {
    Ack {
        batch: BatchNo(batch),
        upto: 0,
        mark: None,
        seq: Some(StreamSeq(4)),
        lowest_ms: 500,
        digests: ReadDigests::default(),
    }
}

/// Checks that database and memory agree.
fn assert_agrees(memory: &Memory, durable: &Durable) {
    let stored = Durable::read(&memory.db, &memory.config).unwrap();
    let marks = |d: &Durable| (d.absorb.absorbed, d.absorb.published, d.joined, d.writes);
    let own = |d: &Durable| (d.site(), d.batch, d.own_anchor, d.own_lowest_ms);
    assert_eq!((marks(durable), own(durable)), (marks(&stored), own(&stored)));
    assert_eq!(durable.absorb.own_sites, stored.absorb.own_sites);
}

#[test]
fn a_commit_puts_the_copies_in_place() {
    let memory = memory();
    let inbox = memory.inbox(ack(3));
    let committed = memory.run(|tx| {
        assert!(tx.begin()?);
        tx.mark_acknowledged(&inbox, true)
    });
    let (durable, _, after) = committed.unwrap();
    assert_eq!((durable.batch, durable.writes, durable.own_lowest_ms), (BatchNo(3), 1, 500));
    assert_eq!(after.served.acks, 1);
    assert_agrees(&memory, &durable);
}

/// Nothing has to be undone in memory, because the original never changes.
#[test]
fn a_failure_leaves_memory_and_database_as_they_were() {
    let memory = memory();
    let inbox = memory.inbox(ack(3));
    let result = memory.run(|tx| {
        tx.begin()?;
        tx.mark_acknowledged(&inbox, true)?;
        tx.begin_incarnation(Site(8))?;
        note_gap(tx, 1, NodeId(2), "lost", Need::Messages(StreamSeq(1)))?;
        Err(Fatal::Database(DatabaseError::Full))
    });
    assert!(matches!(result, Err(Fatal::Database(DatabaseError::Full))));
    assert!(memory.db.is_autocommit());
    assert_eq!((memory.durable.batch, memory.durable.site()), (BatchNo(0), Site(7)));
    assert_agrees(&memory, &memory.durable);
    assert!(gaps::list(&memory.db).unwrap().is_empty());
}

/// A snapshot that has what is missing fills the gap, however much arrived after it in the same
/// transaction.
#[test]
fn a_gap_needs_no_more_than_the_missing_messages() {
    let memory = memory();
    let mut inbox = Inbox::new(&memory.durable, Now { unix_ms: 0, mono_ms: 0 });
    let at = |kind, seq| {
        let anchor = Anchor { seq: StreamSeq(seq), ..Anchor::start(77) };
        StreamItem { kind, anchor, safe: anchor }
    };
    let gap = ItemKind::Gap { from: StreamSeq(1), to: StreamSeq(4) };
    inbox.streams[0].queue.extend([at(gap, 4), at(ItemKind::Skip, 4), at(ItemKind::Skip, 9)]);
    let served = memory.run(|tx| serve(tx, &mut inbox, &Superseded::default()));
    let (durable, _, after) = served.unwrap();
    assert_eq!(durable.position(1), StreamSeq(9));
    assert_eq!(after.gaps, [(1, Need::Messages(StreamSeq(3)))]);
}

#[test]
fn another_content_is_never_written_to() {
    let memory = memory();
    meta::set(&memory.db, meta::WRITES, 5).unwrap();
    let result = memory.run(|tx| tx.begin().map(|_| ()));
    assert!(matches!(result, Err(Fatal::Restored)));
    assert_eq!(meta::get(&memory.db, meta::WRITES).unwrap(), Some(5));
}

#[test]
fn by_an_old_layout_nothing_is_written() {
    let memory = memory();
    memory.db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    let (_, _, after) = memory
        .run(|tx| {
            assert!(!tx.begin()?);
            Ok(())
        })
        .unwrap();
    assert!(after.schema_moved);
}

#[test]
fn a_new_incarnation_keeps_the_former_ones_and_counts_from_zero() {
    let memory = memory();
    let (durable, stats, after) = memory
        .run(|tx| {
            tx.begin()?;
            tx.begin_incarnation(Site(8))
        })
        .unwrap();
    assert!(after.new_incarnation && stats.new_sites == 1);
    assert_eq!((durable.site(), durable.batch), (Site(8), BatchNo(0)));
    assert!(durable.absorb.own_sites.contains(&Site(7)));
    assert_agrees(&memory, &durable);
}

/// The sidecar rolls back what would make an application's snapshot stale.
#[test]
fn a_refused_commit_leaves_everything_as_it_was() {
    let memory = memory();
    let now = Now { unix_ms: 1_000, mono_ms: 0 };
    let copies = (&memory.durable, &Stats::default());
    let tx = Transaction::new(&memory.db, &memory.config, &memory.layout, copies, now);
    let inbox = memory.inbox(ack(3));
    let work = |tx: &mut Transaction<'_>| {
        tx.begin()?;
        tx.mark_acknowledged(&inbox, true)
    };
    let asked = |tx: &Transaction<'_>| {
        assert_eq!(tx.durable.batch, BatchNo(3), "asked last");
        false
    };
    assert!(tx.run(work, asked).unwrap().is_none());
    assert!(memory.db.is_autocommit());
    assert_agrees(&memory, &memory.durable);
}

/// Returns a memory whose log has this many entries, all absorbed.
fn logged(entries: i64) -> Memory {
    let mut memory = memory();
    let insert = "INSERT INTO __harmonylite__change_log (time, table_id, key0) VALUES (?1, 1, ?1)";
    for i in 1..=entries {
        memory.db.execute(insert, [i]).unwrap();
    }
    meta::set(&memory.db, meta::ABSORBED, entries).unwrap();
    memory.durable = Durable::read(&memory.db, &memory.config).unwrap();
    memory
}

fn marked(memory: &Memory, upto: i64) -> Ack {
    Ack { upto, mark: change_log::mark(&memory.db, upto).unwrap(), ..ack(3) }
}

/// An acknowledgement waits for seconds. If the log then lacks what it acknowledges, a backup was
/// restored meanwhile, or somebody emptied the log: the node stops, and its next start asks the
/// broker.
#[test]
fn an_acknowledgement_of_another_log_stops_the_node() {
    for refill in ["", "(2, 1, 0, 9)", "(2, 1, 9, 2), (3, 1, 7, 7)"] {
        let memory = logged(3);
        let inbox = memory.inbox(marked(&memory, 2));
        memory.db.execute_batch("DELETE FROM __harmonylite__change_log").unwrap();
        if !refill.is_empty() {
            let insert = format!(
                "INSERT INTO __harmonylite__change_log (id, table_id, time, key0) VALUES {refill}"
            );
            memory.db.execute_batch(&insert).unwrap();
        }
        let ended = memory.run(|tx| tx.mark_acknowledged(&inbox, true));
        assert!(matches!(ended, Err(Fatal::Restored)), "{refill:?}");
        assert_agrees(&memory, &memory.durable);
    }
    let memory = logged(3);
    let inbox = memory.inbox(marked(&memory, 2));
    let (durable, _, _) = memory.run(|tx| tx.mark_acknowledged(&inbox, true)).unwrap();
    assert_eq!((durable.absorb.published, durable.batch), (2, BatchNo(3)));
    assert_agrees(&memory, &durable);
}

/// Numbers of entries are used again if somebody empties the log.
#[test]
fn a_digest_counts_only_in_the_log_that_it_was_read_from() {
    for is_same_log in [true, false] {
        let mut memory = memory();
        memory.db.execute_batch("CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v)").unwrap();
        memory.layout = Arc::new(install::install(&memory.db, &memory.config.filter, 0).unwrap().0);
        memory.db.execute_batch("INSERT INTO t VALUES ('a', 1)").unwrap();
        let mut digests = ReadDigests::new(memory.layout.schema_version, 0);
        digests.note(log_end(&memory.db).unwrap(), 111);
        let ack = Ack { digests, ..marked(&memory, log_end(&memory.db).unwrap()) };
        if !is_same_log {
            let other = "DELETE FROM __harmonylite__change_log; INSERT INTO t VALUES ('b', 2)";
            memory.db.execute_batch(other).unwrap();
        }
        memory.run(|tx| tx.absorb(&[ack], i64::MAX).map(|_| ())).unwrap();
        let read: bool = memory
            .db
            .query_row("SELECT digest = 111 FROM __harmonylite__t_version", [], |r| r.get(0))
            .unwrap();
        assert_eq!(read, is_same_log);
    }
}

/// Absorbing a long log takes several transactions. Each of them stores the acknowledgements of
/// what it has absorbed.
#[test]
fn a_log_absorbed_in_part_is_acknowledged_in_part() {
    let mut memory = logged(5);
    meta::set(&memory.db, meta::ABSORBED, 3).unwrap();
    memory.durable = Durable::read(&memory.db, &memory.config).unwrap();
    let mut inbox = memory.inbox(Ack { batch: BatchNo(1), ..marked(&memory, 1) });
    for (batch, upto) in [(2, 3), (3, 4)] {
        let ack = Ack { batch: BatchNo(batch), ..marked(&memory, upto) };
        inbox.acknowledged(ack, Now { unix_ms: 0, mono_ms: 0 });
    }
    let (durable, _, after) = memory.run(|tx| tx.mark_acknowledged(&inbox, false)).unwrap();
    assert_eq!((durable.absorb.published, durable.batch), (3, BatchNo(2)));
    assert_eq!(after.served.acks, 2);
    assert_agrees(&memory, &durable);
    inbox.committed(&after.served, Now { unix_ms: 0, mono_ms: 0 });
    assert_eq!(inbox.acks.iter().map(|ack| ack.upto).collect::<Vec<_>>(), [4]);
}

#[test]
fn what_the_stream_confirms_is_marked_with_the_lowest_time_of_its_entries() {
    let memory = logged(5);
    let published = Some(Published { upto: 4, seq: StreamSeq(9) });
    let confirmed = Confirmed { batch: BatchNo(6), published };
    let (durable, stats, _) = memory.run(|tx| tx.confirm(&confirmed, 77)).unwrap();
    assert_eq!((durable.absorb.published, durable.batch, stats.confirmed), (4, BatchNo(6), 1));
    assert_eq!(durable.own_lowest_ms, 1);
    let anchor = durable.own_anchor.unwrap();
    assert_eq!((anchor.seq, anchor.created_ns), (StreamSeq(9), 77));
    assert_eq!(log_end(&memory.db).unwrap(), 5);
    assert_eq!(change_log::lowest_ms(&memory.db, 0, 9).unwrap(), Some(5), "the others are removed");
    assert_agrees(&memory, &durable);
}

/// Parts of batch 7 are in the stream, so batch 6 came before it; how far that went is not known.
#[test]
fn parts_of_a_batch_confirm_only_the_number_of_the_one_before() {
    let memory = logged(5);
    let confirmed = Confirmed { batch: BatchNo(6), published: None };
    let (durable, _, _) = memory.run(|tx| tx.confirm(&confirmed, 77)).unwrap();
    assert_eq!((durable.absorb.published, durable.batch), (0, BatchNo(6)));
    assert_eq!(durable.own_anchor, None);
    assert_agrees(&memory, &durable);
}
