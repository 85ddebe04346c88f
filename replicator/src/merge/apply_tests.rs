use super::*;
use crate::capture::install::install;
use crate::db::row_digest::digest_sql;
use crate::db::sql::quote;
use crate::model::batch::TableHeader;
use crate::model::table_filter::TableFilter;
use crate::store::test_database;

/// With migrations that only partly travel, Knex records the others on every node, each with
/// its own time, under the same number.
#[test]
fn the_same_migration_on_two_nodes_is_no_clash_of_ids() {
    let db = test_database();
    let columns = "(id INTEGER PRIMARY KEY, migration_time)";
    db.execute_batch(&format!(
        "CREATE TABLE knex_migrations {columns}; CREATE TABLE person {columns}"
    ))
    .unwrap();
    let filter = TableFilter { migrations_travel: true, ..TableFilter::default() };
    let layout = install(&db, &filter, 0).unwrap().0;
    let row =
        Row { version: Version::NONE, previous: Version::NONE, op: Op::Upsert, values: Vec::new() };
    let reason = |table| concurrent_reason(layout.by_name(table).unwrap(), &row, true);
    assert_eq!(reason("person"), conflicts::INSERTED_TWICE);
    assert_eq!(reason("knex_migrations"), conflicts::CONCURRENT);
}

/// A table with two rows, whose path is unique.
fn files() -> (Connection, Arc<TableMap>) {
    let db = test_database();
    crate::db::row_digest::register(&db).unwrap();
    db.execute_batch(
        "CREATE TABLE file (id INTEGER PRIMARY KEY, path UNIQUE, body); INSERT INTO file \
        VALUES (1, 'a', 'old'), (2, 'b', 'old')",
    )
    .unwrap();
    let layout = install(&db, &TableFilter::default(), 0).unwrap().0;
    unique_clash::prepare(&db, &layout).unwrap();
    let table = layout.by_name("file").unwrap();
    let header = TableHeader {
        name: "file".to_owned(),
        hash: table.schema.hash,
        columns: table.batch_columns.clone(),
        key: vec![0],
        rows: 0,
    };
    (db, Arc::new(TableMap::new(table, &header, None).unwrap()))
}

fn file(id: i64, path: &str, body: Value) -> Row {
    Row {
        version: Version { hlc: Hlc::from_ms(1_000 + id), site: Site(7) },
        previous: Version::NONE,
        op: Op::Upsert,
        values: vec![Value::Integer(id), Value::Text(path.into()), body],
    }
}

fn applier<'a>(db: &'a Connection, own: &'a HashSet<Site>) -> Applier<'a> {
    let journal = JournalBounds { entries_max: 100, bytes_max: 1 << 20 };
    Applier::new(db, Site(9), own, true, 0, journal)
}

#[test]
fn a_large_value_is_released_and_the_row_and_its_digest_are_right() {
    let (db, map) = files();
    let own = HashSet::new();
    let mut applier = applier(&db, &own);
    for (id, body) in [
        (1, Value::Blob(vec![1; LARGE_BYTES + 1])),
        (2, Value::Text(vec![b'x'; LARGE_BYTES + 1])),
        (3, Value::Blob(vec![3; LARGE_BYTES])),
    ] {
        let mut row = file(id, &format!("new {id}"), body.clone());
        let digest = map.digest(&row);
        applier.row(&map, &mut row).unwrap();
        assert_eq!(row.values[2] == Value::Null, is_large(&body), "row {id}");
        let read = format!(
            "SELECT body, v.digest, {} FROM file AS t JOIN {} AS v ON v.key0 = t.id WHERE id \
            = ?1",
            digest_sql(&map.table, "t"),
            quote(&map.table.version_table())
        );
        let (stored, beside, of_stored) = db
            .query_row(&read, [id], |r| {
                Ok((Value::from(r.get_ref(0)?), r.get::<_, i64>(1)?, r.get::<_, i64>(2)?))
            })
            .unwrap();
        assert_eq!((beside, of_stored), (digest, digest));
        assert!(stored == body, "row {id} is as it was sent");
    }
    assert_eq!(applier.finish().unwrap().taken, 3);
}

#[test]
fn a_batch_whose_large_row_clashes_is_to_be_applied_again() {
    let (db, map) = files();
    let own = HashSet::new();
    let large = |byte: u8| Value::Blob(vec![byte; LARGE_BYTES + 1]);
    let swapped = || [file(1, "b", large(1)), file(2, "a", large(2))];
    let mut first = applier(&db, &own);
    let released = first.row(&map, &mut swapped()[0]).unwrap_err();
    assert!(matches!(released, ApplyError::Released), "{released}");
    drop(first);
    let mut second = applier(&db, &own);
    second.keep_large();
    for mut row in swapped() {
        second.row(&map, &mut row).unwrap();
    }
    let applied = second.finish().unwrap();
    assert_eq!((applied.taken, applied.conflicts), (2, 0));
    let mut read = db.prepare("SELECT id, path, body FROM file ORDER BY id").unwrap();
    let stored: Vec<(i64, String, Value)> = read
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get_ref(2)?.into())))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let swapped = [(1, "b".to_owned(), large(1)), (2, "a".to_owned(), large(2))];
    assert!(stored == swapped, "both have the other's path and their own body");
}
