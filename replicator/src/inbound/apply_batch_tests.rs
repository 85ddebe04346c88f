use super::*;
use crate::capture::install;
use crate::inbound::durable::Durable;
use crate::inbound::stats::Stats;
use crate::model::batch::{TableHeader, Value};
use crate::model::config::{NodeConfig, Now};
use crate::store::{meta, sites, test_database};
use crate::wire::encode::Encoder;
use crate::wire::spill::Spill;
use rusqlite::Connection;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER CHECK (n < 10))";

/// A batch of node 2 with these rows of `t`.
fn batch(layout: &crate::db::layout::Layout, number: u64, rows: &[(i64, i64)]) -> BatchBody {
    let limits = crate::model::limits::Limits::default();
    let mut encoder = Encoder::new(&limits, std::env::temp_dir()).unwrap();
    let header = BatchHeader {
        node: NodeId(2),
        site: Site(9),
        number: BatchNo(number),
        previous: BatchNo(number - 1),
        schema_hash: layout.hash,
        created_ms: 4,
        further_sites: Vec::new(),
        schema_changes: Vec::new(),
    };
    encoder.begin(&header, 1).unwrap();
    let table = &layout.tables[0];
    encoder
        .table(&TableHeader {
            name: table.name().to_owned(),
            hash: table.schema.hash,
            columns: table.batch_columns.clone(),
            key: table.batch_key.clone(),
            rows: rows.len() as u64,
        })
        .unwrap();
    for (id, n) in rows {
        encoder.row((5_000, 0), (0, 0), Op::Upsert, 2).unwrap();
        for value in [Value::Integer(*id), Value::Integer(*n)] {
            encoder.value((&value).into()).unwrap();
        }
    }
    BatchBody::new(Spill::from_bytes(encoder.finish().unwrap().body.to_vec().unwrap()))
}

fn ids(db: &Connection) -> Vec<i64> {
    let mut read = db.prepare("SELECT id FROM t ORDER BY id").unwrap();
    read.query_map([], |r| r.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// A batch whose last row is refused asks for savepoints. With them its rows before that are undone
/// alone.
#[test]
fn a_batch_that_is_refused_leaves_nothing_and_the_others_their_rows() {
    let db = test_database();
    db.execute_batch(SCHEMA).unwrap();
    sites::begin_site(&db, Site(7), 0).unwrap();
    let config = NodeConfig::for_tests(1);
    meta::set(&db, meta::NODE, config.node).unwrap();
    let (layout, _) = install::install(&db, &config.filter, 0).unwrap();
    let layout = Arc::new(layout);
    let batches = [
        batch(&layout, 1, &[(1, 1)]),
        batch(&layout, 2, &[(2, 1), (1, 2), (3, 99)]),
        batch(&layout, 3, &[(4, 1)]),
    ];
    let durable = Durable::read(&db, &config).unwrap();
    for savepoints in [false, true] {
        let now = Now { unix_ms: 1_000, mono_ms: 0 };
        let mut tx = Transaction::new(&db, &config, &layout, (&durable, &Stats::default()), now);
        tx.savepoints = savepoints;
        let mut reasons = Vec::new();
        let source = Source { sender: None, broker_ms: 1_000 };
        let done = tx.run(
            |tx| {
                for body in &batches {
                    match apply_body(tx, &mut Unpacker::default(), body, source)? {
                        Outcome::Applied { .. } => {}
                        Outcome::Held { reason, .. } | Outcome::Quarantine(reason) => {
                            reasons.push(reason);
                        }
                    }
                }
                Ok(())
            },
            |_| true,
        );
        if savepoints {
            assert!(done.is_ok_and(|committed| committed.is_some()));
            assert_eq!(ids(&db), [1, 4]);
            assert!(reasons.len() == 1 && reasons[0].contains("CHECK"), "{reasons:?}");
            assert_eq!(number(&db, "SELECT n FROM t WHERE id = 1"), 1, "as batch 1 wrote it");
        } else {
            assert!(matches!(done, Err(Fatal::Undo)));
            assert_eq!((ids(&db), reasons.len()), (vec![], 0));
        }
    }
}

fn number(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |r| r.get(0)).unwrap()
}
