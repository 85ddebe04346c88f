//! The rows at the end do not depend on the order of the batches.
//!
//! Method: random writes of three nodes to a handful of rows become batches. Two new databases
//! apply them in two random orders, some of them twice, through the real apply. Unique clashes are
//! missing here, because their compensations need a running cluster; the simulation covers them.

#![allow(clippy::unwrap_used)]

use harmonylite::capture::install;
use harmonylite::db::connection;
use harmonylite::db::layout::Layout;
use harmonylite::merge::apply::Applier;
use harmonylite::merge::table_map::TableMap;
use harmonylite::merge::unique_clash;
use harmonylite::model::batch::{Op, Row, TableHeader, Value};
use harmonylite::model::ids::{Hlc, Site, Version};
use harmonylite::model::table_filter::TableFilter;
use harmonylite::store::conflicts::JournalBounds;
use harmonylite::store::install::create_tables;
use harmonylite::store::sites::begin_site;
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::HashSet;
use std::sync::Arc;

type Batch = Vec<Row>;

fn rows() -> impl Strategy<Value = Batch> {
    let row = (0_i64..6, 1_i64..50, 1_i64..4, prop::option::of(any::<i64>())).prop_map(
        |(key, hlc, site, value)| {
            let version = Version { hlc: Hlc(hlc), site: Site(site) };
            // Each version has one content, so the value follows from the version.
            let value =
                value.map(|_| Value::Integer(hlc * 10 + site)).filter(|_| (hlc + site) % 4 != 0);
            let (op, values) = match value {
                Some(value) => (Op::Upsert, vec![Value::Integer(key), value]),
                None if (hlc + site) % 4 == 0 => (Op::Delete, vec![Value::Integer(key)]),
                None => (Op::Upsert, vec![Value::Integer(key), Value::Integer(hlc * 10 + site)]),
            };
            Row { version, previous: Version::NONE, op, values }
        },
    );
    prop::collection::vec(row, 1..5)
}

fn fresh() -> (Connection, Layout) {
    let mut db = Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").unwrap();
    connection::prepare_writer(&db).unwrap();
    let transaction = db.transaction().unwrap();
    create_tables(&transaction, "x".as_ref()).unwrap();
    begin_site(&transaction, Site(99), 0).unwrap();
    let (layout, _) = install::install(&transaction, &TableFilter::default(), 0).unwrap();
    transaction.commit().unwrap();
    unique_clash::prepare(&db, &layout).unwrap();
    (db, layout)
}

fn apply(batches: &[&Batch]) -> Vec<(i64, i64)> {
    let (db, layout) = fresh();
    let table = layout.by_name("t").unwrap();
    let own = HashSet::from([Site(99)]);
    for batch in batches {
        let header = TableHeader {
            name: "t".to_owned(),
            hash: table.schema.hash,
            columns: vec!["id".to_owned(), "v".to_owned()],
            key: vec![0],
            rows: batch.len() as u64,
        };
        let map = Arc::new(TableMap::new(table, &header, None).unwrap());
        let journal = JournalBounds { entries_max: 100, bytes_max: u64::MAX };
        let mut applier = Applier::new(&db, Site(99), &own, true, 0, journal);
        for row in *batch {
            applier.row(&map, &mut row.clone()).unwrap();
        }
        applier.finish().unwrap();
    }
    let mut read = db.prepare("SELECT id, v FROM t ORDER BY id").unwrap();
    read.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_order_gives_the_same_rows(
        batches in prop::collection::vec(rows(), 1..8),
        order in prop::collection::vec(any::<u32>(), 16),
    ) {
        let straight: Vec<&Batch> = batches.iter().collect();
        let place = |i: usize| order[i % order.len()].wrapping_mul(i as u32 | 1);
        let twice = batches.iter().chain(&batches).enumerate();
        let mut shuffled: Vec<(u32, &Batch)> = twice.map(|(i, b)| (place(i), b)).collect();
        shuffled.sort_by_key(|(place, _)| *place);
        let shuffled: Vec<&Batch> = shuffled.into_iter().map(|(_, b)| b).collect();
        prop_assert_eq!(apply(&straight), apply(&shuffled));
    }

    #[test]
    fn the_greatest_version_is_what_stays(batches in prop::collection::vec(rows(), 1..8)) {
        let all: Vec<&Batch> = batches.iter().collect();
        let mut expected = std::collections::BTreeMap::new();
        for row in batches.iter().flatten() {
            let Value::Integer(key) = row.values[0] else { unreachable!("keys are integers") };
            let best = expected.entry(key).or_insert(row);
            if row.version > best.version {
                *best = row;
            }
        }
        let value_of = |(key, row): (i64, &Row)| match row.values.get(1) {
            Some(Value::Integer(v)) => Some((key, *v)),
            _ => None,
        };
        let expected: Vec<(i64, i64)> = expected.into_iter().filter_map(value_of).collect();
        prop_assert_eq!(apply(&all), expected);
    }
}
