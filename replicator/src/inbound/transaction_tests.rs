use super::*;
use crate::model::ids::BatchNo;
use crate::store::test_database;

struct Memory {
    db: Connection,
    config: NodeConfig,
    layout: Layout,
    durable: Durable,
}

fn memory() -> Memory {
    let db = test_database();
    sites::begin_site(&db, Site(7), 0).unwrap();
    let config = NodeConfig::for_tests(1);
    meta::set(&db, meta::NODE, config.node).unwrap();
    let (layout, _) = install::install(&db, &config.filter, 0).unwrap();
    let durable = Durable::read(&db, &config).unwrap();
    Memory { db, config, layout, durable }
}

impl Memory {
    fn run(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), Fatal>,
    ) -> Result<(Durable, Stats, AfterCommit), Fatal> {
        let now = Now { unix_ms: 1_000, mono_ms: 0 };
        let copies = (&self.durable, &Stats::default());
        Transaction::new(&self.db, &self.config, &self.layout, copies, now).run(work)
    }

    fn inbox(&self, ack: Ack) -> Inbox {
        let now = Now { unix_ms: 0, mono_ms: 0 };
        let mut inbox = Inbox::new(&self.durable, now);
        inbox.acknowledged(ack, now);
        inbox
    }
}

fn ack(batch: u64) -> Ack {
    Ack { batch: BatchNo(batch), upto: 0, mark: None, seq: Some(StreamSeq(4)), lowest_ms: 500 }
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
        tx.mark_acknowledged(&inbox)
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
        tx.mark_acknowledged(&inbox)?;
        tx.begin_incarnation(Site(8))?;
        tx.note_gap(1, NodeId(2), "lost")?;
        Err(Fatal::Database(DatabaseError::Full))
    });
    assert!(matches!(result, Err(Fatal::Database(DatabaseError::Full))));
    assert!(memory.db.is_autocommit());
    assert_eq!((memory.durable.batch, memory.durable.site()), (BatchNo(0), Site(7)));
    assert_agrees(&memory, &memory.durable);
    assert!(gaps::list(&memory.db).unwrap().is_empty());
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
