use super::*;
use crate::capture::install;
use crate::db::read_digests::ReadDigests;
use crate::inbound::inbox::Inbox;
use crate::inbound::stats::Stats;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{BatchNo, Site, StreamSeq};
use crate::store::{sites, test_database};
use std::sync::Arc;

/// A database with one table, whose log was begun.
struct Memory {
    db: Connection,
    config: NodeConfig,
    layout: Arc<crate::db::layout::Layout>,
    durable: Durable,
}

fn memory() -> Memory {
    let db = test_database();
    crate::db::row_digest::register(&db).unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").unwrap();
    sites::begin_site(&db, Site(7), 0).unwrap();
    let config = NodeConfig::for_tests(1);
    meta::set(&db, meta::NODE, config.node).unwrap();
    meta::set(&db, meta::JOINED, true).unwrap();
    let (layout, _) = install::install(&db, &config.filter, 0).unwrap();
    let durable = Durable::read(&db, &config).unwrap();
    let mut memory = Memory { db, config, layout: Arc::new(layout), durable };
    memory.run(&[]).unwrap();
    memory
}

impl Memory {
    /// The first part of a transaction, with these acknowledgements.
    fn run(&mut self, acks: &[Ack]) -> Result<(), Fatal> {
        let now = Now { unix_ms: 1_000, mono_ms: 0 };
        let copies = (&self.durable, &Stats::default());
        let tx = Transaction::new(&self.db, &self.config, &self.layout, copies, now);
        let mut inbox = Inbox::new(&self.durable, now);
        for ack in acks {
            inbox.acknowledged(ack.clone(), now);
        }
        let work = |tx: &mut Transaction<'_>| {
            assert!(tx.begin()?);
            tx.follow_emptied_log(acks)?;
            tx.absorb(acks, i64::MAX)?;
            tx.mark_acknowledged(&inbox, true)?;
            tx.write_marks()
        };
        let committed = tx.run(work, |_| true)?.expect("it may commit");
        self.durable = committed.durable;
        self.durable.republish.committed();
        Ok(())
    }

    fn log_ends_with(&self, upto: i64) -> Ack {
        Ack {
            batch: BatchNo(self.durable.batch.0 + 1),
            upto,
            mark: change_log::mark(&self.db, upto).unwrap(),
            seq: Some(StreamSeq(9)),
            lowest_ms: 5,
            digests: ReadDigests::default(),
        }
    }

    /// Compares all that waits to be compared, and absorbs what was found.
    fn compare(&mut self) {
        while !self.durable.compare.is_idle() {
            self.durable.compare.step(&self.db, &self.layout, true, 100).unwrap();
        }
        self.run(&[]).unwrap();
    }

    /// The rows whose stored digest is not that of their content, or that have no version.
    fn unknown_rows(&self) -> Vec<i64> {
        let table = self.layout.by_name("t").unwrap();
        let sql = format!(
            "SELECT t.id FROM t LEFT JOIN __harmonylite__t_version AS v ON v.key0 = t.id WHERE \
            v.digest IS NOT {} ORDER BY t.id",
            crate::db::row_digest::digest_sql(table, "t")
        );
        let mut read = self.db.prepare(&sql).unwrap();
        read.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

const EMPTY: &str = "DELETE FROM __harmonylite__change_log;";

/// Whatever was written before and after somebody emptied the log, published or not, all rows get
/// versions, and no number is used twice.
#[test]
fn an_emptied_log_loses_no_change() {
    for (before, after) in [
        ("", ""),
        ("", "INSERT INTO t VALUES (5, 'x'), (6, 'x'), (7, 'x'), (8, 'x');"),
        ("INSERT INTO t VALUES (3, 'lost'); DELETE FROM t WHERE id = 1;", ""),
        ("UPDATE t SET v = 'lost';", "INSERT INTO t VALUES (5, 'x'), (6, 'x'), (7, 'x');"),
    ] {
        for acknowledged in [false, true] {
            let mut memory = memory();
            memory.db.execute_batch("INSERT INTO t VALUES (1, 'a'), (2, 'b')").unwrap();
            memory.run(&[]).unwrap();
            let end = log_end(&memory.db).unwrap();
            let ack = memory.log_ends_with(end);
            memory.db.execute_batch(&format!("{before} {EMPTY} {after}")).unwrap();
            assert!(is_emptied(&memory.db, &memory.durable).unwrap());
            memory.run(if acknowledged { std::slice::from_ref(&ack) } else { &[] }).unwrap();
            let published = memory.durable.absorb.published;
            assert!(published > end + 1_000, "{published}: the numbers continue far beyond {end}");
            assert_eq!(memory.durable.republish.is_republishing(), !acknowledged);
            memory.compare();
            assert_eq!(memory.unknown_rows(), [0; 0], "{before} {after}");
            let versions = "SELECT count(*) FROM __harmonylite__t_version WHERE digest IS NOT NULL";
            let count = |sql| memory.db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
            assert_eq!(count(versions), count("SELECT count(*) FROM t"));
            // What was in flight is acknowledged late, and takes no mark back.
            memory.run(std::slice::from_ref(&ack)).unwrap();
            assert_eq!(memory.durable.absorb.published, published);
            assert!(!is_emptied(&memory.db, &memory.durable).unwrap());
        }
    }
}

/// A backup from after our last transaction has the last entry of the log at that time, and lacks
/// what is acknowledged.
#[test]
fn a_restored_backup_is_not_taken_for_an_emptied_log() {
    let mut memory = memory();
    memory.db.execute_batch("INSERT INTO t VALUES (1, 'a')").unwrap();
    memory.run(&[]).unwrap();
    let kept = log_end(&memory.db).unwrap();
    memory.db.execute_batch("INSERT INTO t VALUES (2, 'b')").unwrap();
    let ack = memory.log_ends_with(kept + 1);
    memory.db.execute("DELETE FROM __harmonylite__change_log WHERE id > ?1", [kept]).unwrap();
    memory.db.execute_batch("DELETE FROM t WHERE id = 2").unwrap();
    memory.db.execute("DELETE FROM __harmonylite__change_log WHERE id > ?1", [kept]).unwrap();
    assert!(!is_emptied(&memory.db, &memory.durable).unwrap());
    assert!(matches!(memory.run(&[ack]), Err(Fatal::Restored)));

    // One of another history of this database has other marks.
    memory.db.execute_batch(EMPTY).unwrap();
    meta::set(&memory.db, meta::SITE, Site(8)).unwrap();
    assert!(matches!(memory.run(&[]), Err(Fatal::Restored)));
}

#[test]
fn unsent_schema_changes_are_logged_again() {
    let mut memory = memory();
    schema_changes::add(&memory.db, 5, |_| b"change".to_vec()).unwrap();
    memory.run(&[]).unwrap();
    memory.db.execute_batch(EMPTY).unwrap();
    memory.run(&[]).unwrap();
    let published = memory.durable.absorb.published;
    assert_eq!(schema_changes::after(&memory.db, published).unwrap(), [b"change".to_vec()]);
}
