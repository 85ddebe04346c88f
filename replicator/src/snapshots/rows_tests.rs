use super::*;
use crate::capture::install::install as install_triggers;
use crate::model::batch::{Op, Row, Value};
use crate::model::ids::{Site, StreamSeq, Version};
use crate::repair::gaps::Needs;
use crate::store::cursor::Anchor;
use crate::store::site_numbers::SiteNumbers;
use crate::store::sites::begin_site;
use crate::wire::decode::BatchReader;
use crate::wire::unpack::unpacking;
use std::collections::BTreeMap;
use tempfile::TempDir;

const SITE: Site = Site(7);

fn gap(position: u64) -> OpenGap {
    let needs = Needs { position, created_ns: 77, batches: Vec::new() };
    OpenGap { key: (1, 1), shard: 1, needs }
}

/// A database of node 3 that has joined and has read stream 1 up to message 8.
fn database() -> (TempDir, std::path::PathBuf, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = Connection::open(&path).unwrap();
    crate::db::row_digest::register(&db).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE u (k TEXT PRIMARY KEY, a)",
    )
    .unwrap();
    install::create_tables(&db, &path).unwrap();
    begin_site(&db, SITE, 1).unwrap();
    meta::set(&db, meta::NODE, NodeId(3)).unwrap();
    meta::set(&db, meta::BATCH, BatchNo(12)).unwrap();
    meta::set(&db, meta::JOINED, true).unwrap();
    let config = NodeConfig::for_tests(1);
    install_triggers(&db, &config.filter, 1).unwrap();
    let mut cursor = Cursor::default();
    cursor.advance(Anchor { seq: StreamSeq(8), ..Anchor::start(77) }, 0, 1, 16);
    cursor.write(&db, 1).unwrap();
    (dir, path, db)
}

fn open(path: &Path, gaps: &[OpenGap]) -> Result<SnapshotRows, RowsError> {
    SnapshotRows::open(path, &NodeConfig::for_tests(1), gaps, 1_000)
}

type Sent = BTreeMap<(String, String), (Version, Op, Option<Value>)>;

/// All rows of all batches: version, operation, the column besides the key.
fn all(path: &Path) -> (Sent, u64) {
    let config = NodeConfig::for_tests(1);
    let (mut rows, mut batches) = (open(path, &[gap(8)]).unwrap(), 0);
    let mut sent = Sent::new();
    while let Some(batch) = rows.next_batch().unwrap() {
        batches += 1;
        let plain = unpacking(batch.body.reader().unwrap(), &config.limits).unwrap();
        let mut reader = BatchReader::new(plain, &config.limits).unwrap();
        assert_eq!(reader.header().node, NodeId(3));
        while let Some(table) = reader.next_table().unwrap() {
            let mut row = Row {
                version: Version::NONE,
                previous: Version::NONE,
                op: Op::Delete,
                values: Vec::new(),
            };
            while reader.next_row(&mut row).unwrap() {
                let is_upsert = row.op == Op::Upsert;
                let key = row.values[if is_upsert { table.key[0] } else { 0 }].clone();
                let value = is_upsert.then(|| row.values[1].clone());
                let first = sent
                    .insert((table.name.clone(), format!("{key:?}")), (row.version, row.op, value));
                assert_eq!(first, None, "no row comes twice");
            }
        }
    }
    (sent, batches)
}

#[test]
fn every_row_and_tombstone_comes_once_with_the_version_that_its_node_gives_it() {
    let (_dir, path, db) = database();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
         INSERT INTO t SELECT i, 'x' FROM n;
         INSERT INTO u VALUES ('a', 1), ('b', 2); DELETE FROM u WHERE k = 'b'",
    )
    .unwrap();
    // Some are absorbed, then more happens that is not: what is sent has the later version.
    let (layout, _) = install_triggers(&db, &NodeConfig::for_tests(1).filter, 1).unwrap();
    let mut state = AbsorbState {
        site: SITE,
        own_sites: sites::own_sites(&db).unwrap(),
        absorbed: 0,
        published: 0,
    };
    let compare = Compare::read(&db).unwrap();
    assert!(absorb(&db, &layout, &mut state, Acknowledged::default(), 10_000, &compare).unwrap().1);
    db.execute_batch("UPDATE t SET a = 'later' WHERE id < 3; DELETE FROM t WHERE id = 4").unwrap();
    let image = path.with_file_name("image.db");
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    std::fs::copy(&path, &image).unwrap();
    let (sent, batches) = all(&image);
    assert_eq!(sent.len(), 2_502);
    assert!(batches >= 3, "{batches}");
    let t = |id: i64| &sent[&("t".to_owned(), format!("{:?}", Value::Integer(id)))];
    assert_eq!((t(4).1, &t(1).2), (Op::Delete, &Some(Value::Text("later".into()))));
    assert_eq!(sent[&("u".to_owned(), format!("{:?}", Value::Text("b".into())))].1, Op::Delete);

    // The node itself goes on, and gives the same versions.
    assert!(absorb(&db, &layout, &mut state, Acknowledged::default(), 10_000, &compare).unwrap().1);
    let mut read = db.prepare("SELECT key0, hlc, site FROM __harmonylite__t_version").unwrap();
    let stored = read
        .query_map([], |r| {
            let site = SiteNumbers::default().site(&db, r.get(2)?).unwrap();
            Ok((r.get::<_, i64>(0)?, Version { hlc: Hlc(r.get(1)?), site }))
        })
        .unwrap();
    let mut count = 0;
    for row in stored {
        let (id, version) = row.unwrap();
        assert_eq!(t(id).0, version, "row {id}");
        count += 1;
    }
    assert_eq!(count, 2_500);
}

#[test]
fn it_tells_what_it_has_of_each_origin() {
    let (_dir, path, db) = database();
    let other = Origin { site: Site(9), node: NodeId(4), batch: BatchNo(5), created_ms: 30 };
    origins::put(&db, &other).unwrap();
    drop(db);
    let own = Origin { site: SITE, node: NodeId(3), batch: BatchNo(12), created_ms: 30 };
    assert_eq!(open(&path, &[gap(8)]).unwrap().contents().origins, [other, own]);
}

#[test]
fn a_snapshot_that_may_miss_something_does_not_fill_a_gap() {
    let unfit = |spoil: &str, gap: OpenGap| {
        let (_dir, path, db) = database();
        db.execute_batch(spoil).unwrap();
        drop(db);
        match open(&path, &[gap]) {
            Err(error @ RowsError::Unfit(_)) => error.to_string(),
            other => panic!("{spoil}: {:?}", other.map(drop)),
        }
    };
    assert!(unfit("", gap(9)).contains("up to 8 only"));
    let mut another = gap(8);
    another.needs.created_ns = 78;
    assert!(unfit("", another).contains("up to 0 only"), "it is another stream");
    assert!(unfit("", OpenGap { shard: 2, ..gap(8) }).contains("stream 2 up to 0 only"));
    let batches = |site, upto, before| {
        let mut gap = gap(8);
        gap.needs.batches = vec![MissingBatches { site, upto: BatchNo(upto), before }];
        gap
    };
    assert!(unfit("", batches(SITE, 13, 9)).contains("it has batch 12, not 13"));
    assert!(unfit("", batches(Site(9), 1, 9)).contains("it has batch 0, not 1"));
    for fit in [batches(SITE, 12, 9), batches(SITE, 13, 8), batches(Site(9), 1, 8)] {
        let (_dir, path, db) = database();
        drop(db);
        assert!(open(&path, std::slice::from_ref(&fit)).is_ok(), "{fit:?}");
    }
    let missed = "INSERT INTO __harmonylite__gap (shard, node, since, noticed, reason) VALUES \
        (1, 0, 0, 0, '')";
    assert!(unfit(missed, gap(8)).contains("missed something"));
    let joining = "DELETE FROM __harmonylite__meta WHERE key = 'joined'";
    assert!(unfit(joining, gap(8)).contains("not joined"));
    assert!(unfit("CREATE TABLE later (a)", gap(8)).contains("during a migration"));
    let later = "UPDATE __harmonylite__meta SET value = 99 WHERE key = 'format'";
    assert!(unfit(later, gap(8)).contains("format 99"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(open(&path, &[gap(8)]).map(drop).unwrap_err().to_string().contains("no node ran"));
}
