use super::*;
use crate::model::ids::{BatchNo, Site, StreamSeq};
use crate::store::gaps::Missing;
use crate::store::quarantine::Entry;
use crate::store::test_database;
use data_encoding::HEXLOWER;

const NOW: Now = Now { unix_ms: 1_000, mono_ms: 1_000 };

fn entry(json: serde_json::Value) -> KvEntry {
    KvEntry { revision: 1, value: json.to_string().into() }
}

fn read(node: u64) -> Refetching {
    Refetching::Read(NodeId(node))
}

#[test]
fn an_origin_is_read_until_its_entry_comes() {
    let mut refetch = Refetch::default();
    assert_eq!((refetch.deadline(), refetch.ask(NOW).len()), (u64::MAX, 0));
    refetch.committed([(1, read(7)), (2, read(7)), (3, read(8))]);
    assert_eq!(refetch.ask(NOW).len(), 2, "each origin once");
    assert_eq!(refetch.ask(NOW).len(), 0, "not again at once");
    let layout = Layout::default();
    let same = entry(serde_json::json!({ "schema_hash": HEXLOWER.encode(&layout.hash) }));
    let retries = refetch.read(NodeId(7), Some(&same), &layout);
    assert_eq!(retries.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2]);
    let later = Now { mono_ms: NOW.mono_ms + ASK_MS, ..NOW };
    assert_eq!(refetch.ask(later).len(), 1, "the other one did not come");
    assert!(refetch.read(NodeId(7), Some(&same), &layout).is_empty());
}

#[test]
fn the_entry_of_an_origin_shows_whether_its_tables_are_ours() {
    let layout = Layout::default();
    let hash = HEXLOWER.encode(&layout.hash);
    for (json, expected) in [
        (serde_json::json!({ "schema_hash": hash }), OriginSchema::Ours),
        (
            serde_json::json!({ "schema_hash": "00", "tables": { "t": "11" } }),
            OriginSchema::Differs(vec!["t".to_owned()]),
        ),
        (serde_json::json!({ "updated_at": 5 }), OriginSchema::Missing),
    ] {
        assert_eq!(origin_schema(Some(&entry(json)), &layout), expected);
    }
    assert_eq!(origin_schema(None, &layout), OriginSchema::Missing);
}

#[test]
fn a_batch_leaves_quarantine_when_its_gap_has_ended_and_not_before() {
    let db = test_database();
    for batch in [4, 5] {
        let entry = Entry {
            id: 0,
            time_ms: 5,
            shard: 1,
            seq: StreamSeq(batch),
            node: NodeId(2),
            site: Site(3),
            batch: BatchNo(batch),
            reason: "a".to_owned(),
            body: Vec::new(),
            digest: None,
        };
        quarantine::add(&db, &entry).unwrap();
    }
    let missing = Missing { shard: 1, node: NodeId(2), since_ms: 0, reason: "b" };
    gaps::note(&db, missing, 100).unwrap();
    let first = gaps::list(&db).unwrap()[0].key();
    let mut refetch = Refetch::default();
    refetch.committed([(1, Refetching::Asked(first))]);

    // More is found missing before the answer, so the answer does not count.
    gaps::note(&db, missing, 200).unwrap();
    gaps::close(&db, first).unwrap();
    refetch.remove_ended(&db).unwrap();
    refetch.ended(&db);
    assert_eq!(quarantine::count(&db).unwrap(), 2);
    // Whoever retries it meanwhile does not put the answer off.
    let origins = [1, 2].map(|id| refetch.retry(id).origin);
    assert_eq!(origins, [OriginSchema::Asked, OriginSchema::NotRead]);

    gaps::close(&db, gaps::list(&db).unwrap()[0].key()).unwrap();
    refetch.remove_ended(&db).unwrap();
    refetch.ended(&db);
    let left: Vec<i64> = quarantine::list(&db).unwrap().iter().map(|e| e.id).collect();
    assert_eq!(left, [2], "nobody was asked for the other one");
    assert_eq!(refetch.retry(1).origin, OriginSchema::NotRead, "the answer did not help");
}
