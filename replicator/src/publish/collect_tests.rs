use super::*;
use crate::capture::absorb::{AbsorbState, Acknowledged, absorb};
use crate::capture::compare::Compare;
use crate::capture::fold::log_end;
use crate::capture::install::install;
use crate::model::batch::{Row, Value};
use crate::model::config::NodeConfig;
use crate::model::ids::Hlc;
use crate::model::limits::Limits;
use crate::store::entry_code::of_table;
use crate::store::{change_log, test_database};
use crate::wire::decode::BatchReader;
use crate::wire::unpack::unpacking;
use std::collections::HashSet;

const SITE: Site = Site(7);
const OTHER: Site = Site(900);

struct Node {
    db: Connection,
    layout: Layout,
    encoder: Encoder,
    own: HashSet<Site>,
    absorbed: i64,
    sent: i64,
    entries_max: u64,
}

/// What a batch says of a row: table, operation, key and first column besides it.
type Said = (String, Op, i64, Option<Value>);

impl Node {
    fn with_limits(limits: &Limits) -> Self {
        let config = NodeConfig::for_tests(1);
        let db = test_database();
        db.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE);
             CREATE TABLE u (id INTEGER PRIMARY KEY, a);",
        )
        .unwrap();
        let (layout, _) = install(&db, &config.filter, 0).unwrap();
        let encoder = Encoder::new(limits, config.spill_dir).unwrap();
        let own = HashSet::from([SITE]);
        Self {
            db,
            layout,
            encoder,
            own,
            absorbed: 0,
            sent: 0,
            entries_max: limits.batch_entries_max,
        }
    }

    fn new() -> Self {
        Self::with_limits(&Limits::default())
    }

    fn run(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    fn collect(&mut self) -> Result<Option<Collected>, CollectError> {
        let from = CollectFrom {
            node: NodeId(1),
            fold: FoldFrom {
                site: SITE,
                own_sites: &self.own,
                absorbed: self.absorbed,
                sent: self.sent,
                upto: log_end(&self.db).unwrap(),
            },
            base: None,
            previous: BatchNo(4),
            now_ms: 77,
            entries_max: self.entries_max,
            hlc_max: Hlc::FOREIGN_MAX,
        };
        collect(&self.db, &self.layout, &from, &mut self.encoder)
    }

    fn absorb(&mut self) {
        let mut state = AbsorbState {
            site: SITE,
            own_sites: self.own.clone(),
            absorbed: self.absorbed,
            published: 0,
        };
        absorb(
            &self.db,
            &self.layout,
            &mut state,
            Acknowledged::default(),
            i64::MAX,
            &Compare::default(),
        )
        .unwrap();
        self.absorbed = state.absorbed;
    }

    /// Collects, takes it as sent, and reads it.
    fn next(&mut self) -> (Collected, Vec<(String, Row)>) {
        let collected = self.collect().unwrap().unwrap();
        self.sent = collected.upto;
        let rows = collected.batch.as_ref().map_or(Vec::new(), |(_, encoded)| read(encoded));
        assert_eq!(rows.len() as u64, collected.rows);
        (collected, rows)
    }

    /// The same, without what differs from run to run.
    fn said(&mut self) -> Vec<Said> {
        self.next().1.into_iter().map(said).collect()
    }
}

fn read(encoded: &Encoded) -> Vec<(String, Row)> {
    let limits = Limits::default();
    let source = unpacking(encoded.body.reader().unwrap(), &limits).unwrap();
    let mut reader = BatchReader::new(source, &limits).unwrap();
    let mut row =
        Row { version: Version::NONE, previous: Version::NONE, op: Op::Delete, values: Vec::new() };
    let mut rows = Vec::new();
    while let Some(table) = reader.next_table().unwrap() {
        while reader.next_row(&mut row).unwrap() {
            rows.push((table.name.clone(), row.clone()));
        }
    }
    rows
}

fn said((table, row): (String, Row)) -> Said {
    let Value::Integer(key) = row.values[0] else { panic!("{row:?}") };
    (table, row.op, key, row.values.get(1).cloned())
}

fn upsert(table: &str, key: i64, a: i64) -> Said {
    (table.to_owned(), Op::Upsert, key, Some(Value::Integer(a)))
}

fn delete(table: &str, key: i64) -> Said {
    (table.to_owned(), Op::Delete, key, None)
}

#[test]
fn nothing_pending_gives_nothing() {
    let mut node = Node::new();
    assert!(node.collect().unwrap().is_none());
    node.run("INSERT INTO t VALUES (1, 1)");
    node.next();
    assert!(node.collect().unwrap().is_none());
    // A transaction that was rolled back was never there.
    node.run("BEGIN; INSERT INTO t VALUES (2, 2); ROLLBACK");
    assert!(node.collect().unwrap().is_none());
}

#[test]
fn everything_pending_is_one_batch() {
    let mut node = Node::new();
    node.run("BEGIN; INSERT INTO t VALUES (1, 10), (2, 20); INSERT INTO u VALUES (1, 11); COMMIT");
    node.run("INSERT INTO t VALUES (3, 30)");
    let end = log_end(&node.db).unwrap();
    let (collected, rows) = node.next();
    assert_eq!((collected.upto, collected.more, collected.split), (end, false, false));
    let expected = [upsert("t", 1, 10), upsert("t", 2, 20), upsert("t", 3, 30), upsert("u", 1, 11)];
    assert_eq!(rows.iter().cloned().map(said).collect::<Vec<_>>(), expected);
    let (header, _) = collected.batch.unwrap();
    assert_eq!((header.node, header.site, header.created_ms), (NodeId(1), SITE, 77));
    assert_eq!((header.number, header.previous), (BatchNo(5), BatchNo(4)));
    let lowest = rows.iter().map(|(_, row)| row.version.hlc.ms()).min();
    assert_eq!(Some(collected.lowest_ms), lowest);
}

/// One transaction of five rows, and the sizes of its batches.
#[test]
fn a_transaction_is_split_only_beyond_the_most_entries() {
    for (entries_max, sizes) in [
        (1, vec![1, 1, 1, 1, 1]),
        (2, vec![2, 2, 1]),
        (3, vec![3, 2]),
        (4, vec![4, 1]),
        (5, vec![5]),
        (6, vec![5]),
    ] {
        let mut node = Node::new();
        node.entries_max = entries_max;
        node.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)");
        let mut keys = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            let (collected, rows) = node.next();
            let last = i + 1 == sizes.len();
            assert_eq!(rows.len(), *size, "{entries_max}");
            assert_eq!((collected.more, collected.split), (!last, !last), "{entries_max}");
            keys.extend(rows.into_iter().map(|row| said(row).2));
        }
        assert_eq!(keys, [1, 2, 3, 4, 5], "{entries_max}");
        assert!(node.collect().unwrap().is_none(), "{entries_max}");
    }
}

#[test]
fn a_row_is_sent_once_as_it_is_now() {
    for (sql, expected, changes) in [
        ("INSERT INTO t VALUES (1, 1)", vec![upsert("t", 1, 1)], 1),
        ("INSERT INTO t VALUES (1, 1); UPDATE t SET a = 2", vec![upsert("t", 1, 2)], 2),
        ("INSERT INTO t VALUES (1, 1); DELETE FROM t", vec![delete("t", 1)], 2),
        ("INSERT INTO t VALUES (1, 1); UPDATE t SET a = 2; DELETE FROM t", vec![delete("t", 1)], 3),
        (
            "INSERT INTO t VALUES (1, 1); DELETE FROM t; INSERT INTO t VALUES (1, 3)",
            vec![upsert("t", 1, 3)],
            3,
        ),
        (
            "INSERT INTO t VALUES (1, 1); UPDATE t SET id = 2",
            vec![delete("t", 1), upsert("t", 2, 1)],
            2,
        ),
    ] {
        let mut node = Node::new();
        node.run(sql);
        // So that versions can be told: all at one time.
        node.run("UPDATE __harmonylite__change_log SET time = 5");
        let (_, rows) = node.next();
        let version = Version { hlc: Hlc((5 << 16) + changes - 1), site: SITE };
        assert_eq!((rows[0].1.version, rows[0].1.previous), (version, Version::NONE), "{sql}");
        assert_eq!(rows.into_iter().map(said).collect::<Vec<_>>(), expected, "{sql}");
    }
}

#[test]
fn a_row_of_two_pieces_is_in_the_piece_of_its_last_change() {
    for (sql, pieces) in [
        (
            "INSERT INTO t VALUES (1, 1), (2, 2); UPDATE t SET a = 9 WHERE id = 1",
            [vec![upsert("t", 2, 2)], vec![upsert("t", 1, 9)]],
        ),
        (
            "INSERT INTO t VALUES (1, 1), (2, 2); DELETE FROM t",
            [vec![], vec![delete("t", 1), delete("t", 2)]],
        ),
        (
            "INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO u VALUES (1, 3)",
            [vec![upsert("t", 1, 1), upsert("t", 2, 2)], vec![upsert("u", 1, 3)]],
        ),
        (
            "INSERT INTO t VALUES (1, 1); DELETE FROM t; INSERT INTO t VALUES (1, 3)",
            [vec![], vec![upsert("t", 1, 3)]],
        ),
    ] {
        let mut node = Node::new();
        node.entries_max = 2;
        node.run(sql);
        for piece in pieces {
            assert_eq!(node.said(), piece, "{sql}");
        }
        assert!(node.collect().unwrap().is_none(), "{sql}");
    }
}

/// Row 1 is sent; what follows may remove it without a trigger for the delete.
#[test]
fn a_displaced_row_is_sent_as_delete_only_if_it_is_gone() {
    for (sql, expected) in [
        ("REPLACE INTO t VALUES (2, 1)", vec![delete("t", 1), upsert("t", 2, 1)]),
        ("INSERT OR IGNORE INTO t VALUES (2, 1)", vec![]),
        (
            "REPLACE INTO t VALUES (2, 1); REPLACE INTO t VALUES (1, 5)",
            vec![upsert("t", 1, 5), upsert("t", 2, 1)],
        ),
        (
            "REPLACE INTO t VALUES (2, 1); REPLACE INTO t VALUES (1, 1)",
            vec![upsert("t", 1, 1), delete("t", 2)],
        ),
        ("REPLACE INTO t VALUES (1, 1)", vec![upsert("t", 1, 1)]),
    ] {
        let mut node = Node::new();
        node.run("INSERT INTO t VALUES (1, 1)");
        node.next();
        node.absorb();
        node.run(sql);
        let (collected, rows) = node.next();
        assert_eq!(collected.batch.is_some(), !expected.is_empty(), "{sql}");
        assert_eq!(rows.into_iter().map(said).collect::<Vec<_>>(), expected, "{sql}");
    }
}

/// A row to be sent again, and whose version it has. None: nobody's.
#[test]
fn a_row_sent_again_keeps_its_version_and_names_its_site() {
    for (site, exists) in [
        (Some(SITE), true),
        (Some(OTHER), true),
        (Some(OTHER), false),
        (Some(SITE), false),
        (None, true),
        (None, false),
    ] {
        let mut node = Node::new();
        let table = std::sync::Arc::clone(node.layout.by_name("t").unwrap());
        let mut version = Version::NONE;
        if let Some(site) = site {
            version = Version { hlc: Hlc(10 << 16), site };
            let mut versions = crate::store::versions::Versions::new(&node.db);
            versions.put(&table, &[Value::Integer(1)], version, None).unwrap();
        }
        if exists {
            node.run("INSERT INTO t VALUES (1, 1); DELETE FROM __harmonylite__change_log");
        }
        change_log::publish_row(&node.db, table.id, &[Value::Integer(1)]).unwrap();
        let (collected, rows) = node.next();
        assert_eq!(collected.upto, log_end(&node.db).unwrap());
        let Some((header, _)) = collected.batch else {
            assert_eq!((site, collected.lowest_ms), (None, NO_ROW_MS));
            continue;
        };
        let further = if site == Some(OTHER) { vec![OTHER] } else { vec![] };
        assert_eq!((header.further_sites, collected.lowest_ms), (further, 10));
        let row = &rows[0].1;
        assert_eq!((row.version, row.previous), (version, version), "{site:?}");
        assert_eq!(row.op == Op::Upsert, exists, "{site:?}");
        assert!(site.is_some());
    }
}

/// Four rows of 300 bytes in one transaction, and how large a batch may be.
#[test]
fn a_batch_that_is_too_large_is_halved_until_it_fits() {
    for (bytes_max, sizes) in
        [(10_000, vec![4]), (1_000, vec![2, 2]), (600, vec![1, 1, 1, 1]), (250, vec![])]
    {
        let limits = Limits { batch_atomic_bytes_max: bytes_max, ..Limits::default() };
        let mut node = Node::with_limits(&limits);
        for id in 1..=4 {
            node.run(&format!("INSERT INTO u VALUES ({id}, zeroblob(300))"));
        }
        for (i, size) in sizes.iter().enumerate() {
            let (collected, rows) = node.next();
            let last = i + 1 == sizes.len();
            assert_eq!((rows.len(), collected.more), (*size, !last), "{bytes_max}");
            assert_eq!(collected.split, !last, "{bytes_max}");
        }
        if sizes.is_empty() {
            let error = node.collect().unwrap_err();
            let expected = matches!(error, CollectError::RowTooLarge { limit: 250, entry: 1 });
            assert!(expected, "{error}");
        } else {
            assert!(node.collect().unwrap().is_none(), "{bytes_max}");
        }
    }
}

/// The digests of a batch are those that stand beside the versions if absorb reads the rows itself,
/// whatever the values; a row that is gone has none.
#[test]
fn the_digests_of_rows_are_those_that_absorb_reads() {
    let mut node = Node::new();
    node.run(
        "CREATE TABLE s (a TEXT, b, c REAL, d, PRIMARY KEY (a, b)) WITHOUT ROWID;
        INSERT INTO s VALUES ('before', 1, 2, 3);
        ALTER TABLE s ADD COLUMN e DEFAULT 5",
    );
    node.layout = install(&node.db, &NodeConfig::for_tests(1).filter, 0).unwrap().0;
    node.run(
        "INSERT INTO s VALUES ('x', 1, -0.0, NULL, 5), ('x', 'two', 7, x'00ff', NULL),
        ('y', 3, 4, 'text', 'five'), ('gone', 4, 5, 6, 7), ('before', 'now', 1, 2, 3);
        UPDATE s SET d = 8, c = 9 WHERE a = 'y'; DELETE FROM s WHERE a = 'gone';
        UPDATE s SET e = 6 WHERE a = 'before'; INSERT INTO t VALUES (1, 2)",
    );
    let (collected, rows) = node.next();
    assert_eq!(rows.len(), 7);
    node.absorb();
    let table = node.layout.by_name("s").unwrap();
    let sql = format!(
        "SELECT v.digest, t.id FROM __harmonylite__s_version AS v JOIN (SELECT key0 AS a, key1 AS \
        b, max(id) AS id FROM __harmonylite__change_log WHERE {} GROUP BY 1, 2) AS t ON \
        {}",
        of_table(table.id),
        table.version_of_row()
    );
    let mut read = node.db.prepare(&sql).unwrap();
    let stored: Vec<(Option<i64>, i64)> = read
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let known = |entry| ReadDigests::find(&[&collected.digests], node.layout.schema_version, entry);
    let expected: Vec<Option<i64>> = stored.iter().map(|(_, entry)| known(*entry)).collect();
    assert_eq!(stored.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), expected);
    assert_eq!(expected.iter().filter(|digest| digest.is_none()).count(), 1, "{expected:?}");
}
