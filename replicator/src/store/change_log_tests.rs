use super::*;
use crate::model::ids::{Hlc, Site};
use crate::store::test_database;
use rusqlite::functions::FunctionFlags;

fn log(db: &Connection, id: i64, time_ms: i64, kind: i64) {
    db.execute(
        "INSERT INTO __harmonylite__change_log (id, time, table_id, key0) VALUES (?1, ?2, ?3, ?1 * \
        10)",
        (id, time_ms, encode(1, kind)),
    )
    .unwrap();
}

fn ids(db: &Connection) -> Vec<i64> {
    let mut ids = Vec::new();
    for_each(db, 1, 0, i64::MAX, |entry| {
        ids.push(entry.id);
        Ok(())
    })
    .unwrap();
    ids
}

#[test]
fn the_last_entry_stays_whatever_is_published() {
    let db = test_database();
    assert_eq!(log_end(&db).unwrap(), 0);
    for id in [1, 2, 5] {
        log(&db, id, 1, KIND_CHANGED);
    }
    delete_published(&db, 1).unwrap();
    assert_eq!(ids(&db), [2, 5]);
    delete_published(&db, 5).unwrap();
    assert_eq!((ids(&db), log_end(&db).unwrap()), (vec![5], 5));
}

#[test]
fn entries_without_a_time_are_pending_and_never_the_oldest() {
    let db = test_database();
    assert_eq!(pending(&db, 0).unwrap(), Pending { entries: 0, oldest_ms: 0 });
    log(&db, 1, 10, KIND_CHANGED);
    log(&db, 2, 0, KIND_PUBLISH);
    assert_eq!(pending(&db, 1).unwrap(), Pending { entries: 1, oldest_ms: 0 });
    log(&db, 3, 30, KIND_CHANGED);
    log(&db, 4, 20, KIND_CHANGED);
    assert_eq!(pending(&db, 1).unwrap(), Pending { entries: 3, oldest_ms: 20 });
}

#[test]
fn the_nth_entry_is_counted_over_holes() {
    let db = test_database();
    for id in [3, 7, 8] {
        log(&db, id, 1, KIND_CHANGED);
    }
    let nth = |after, n| nth_entry(&db, after, n).unwrap();
    assert_eq!((nth(0, 1), nth(0, 2), nth(3, 2)), (Some(3), Some(7), Some(8)));
    assert_eq!((nth(0, 4), nth(0, u64::MAX)), (None, None));
}

#[test]
fn an_entry_is_read_with_its_previous_version_and_key() {
    let db = test_database();
    widen(&db, 2).unwrap();
    widen(&db, 2).unwrap();
    log(&db, 1, 5, KIND_CHANGED);
    publish_row(&db, 9, &[Value::Integer(4), Value::Text(b"x".to_vec())]).unwrap();
    let previous = Version { hlc: Hlc(3), site: Site(2) };
    keep_previous(&db, [(1, previous)]).unwrap();
    let (mut seen, mut key) = (Vec::new(), Vec::new());
    for_each(&db, 2, 0, 2, |e| {
        e.read_key(2, &mut key)?;
        seen.push((e.id, e.time_ms, e.table_id, e.kind, e.previous, key.clone()));
        Ok(())
    })
    .unwrap();
    let (first, x) = (vec![Value::Integer(10), Value::Null], Value::Text(b"x".to_vec()));
    assert_eq!(seen[0], (1, 5, 1, KIND_CHANGED, Some(previous), first.clone()));
    assert_eq!(seen[1], (2, 0, 9, KIND_PUBLISH, None, vec![Value::Integer(4), x]));
    let mut changes = Vec::new();
    for_each_change_after(&db, 2, 0, |_, table, key| {
        changes.push((table, key.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(changes, [(1, first)], "what is to be published is no change");
}

#[test]
fn only_old_changes_beyond_the_absorbed_are_restamped() {
    let db = test_database();
    for (id, time_ms, kind) in
        [(1, 5, KIND_CHANGED), (2, 5, KIND_CHANGED), (3, 50, KIND_FOUND), (4, 0, KIND_PUBLISH)]
    {
        log(&db, id, time_ms, kind);
    }
    assert_eq!(restamp(&db, 1, 1..10, 100).unwrap(), 1);
    let mut times = Vec::new();
    for_each(&db, 1, 0, 9, |e| {
        times.push(e.time_ms);
        Ok(())
    })
    .unwrap();
    assert_eq!(times, [5, 100, 50, 0]);
}

#[test]
fn selected_rows_are_logged_for_publication() {
    let db = test_database();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    let (keys, from) = (["t.id".to_owned()], "FROM main.t WHERE t.id > ?1");
    assert_eq!(publish_rows(&db, 6, &keys, from, &[Value::Integer(1)]).unwrap(), 1);
    assert_eq!(pending(&db, 0).unwrap(), Pending { entries: 1, oldest_ms: 0 });
}

/// The mark must stay while the entry waits, and differ from that of any other entry.
#[test]
fn a_mark_is_that_of_one_entry() {
    let db = test_database();
    log(&db, 1, 20, KIND_CHANGED);
    let first = mark(&db, 1).unwrap().unwrap();
    assert_eq!((first.id, mark(&db, 2).unwrap()), (1, None));
    keep_previous(&db, [(1, Version { hlc: Hlc(5), site: Site(9) })]).unwrap();
    widen(&db, 3).unwrap();
    assert_eq!(mark(&db, 1).unwrap(), Some(first), "absorbed, and with more columns");
    db.execute_batch("SAVEPOINT s").unwrap();
    assert_eq!(forget_unpublished(&db, 1).unwrap(), 1);
    assert_eq!(mark(&db, 1).unwrap(), Some(first), "forgotten");
    for_each(&db, 1, 0, 9, |_| panic!("a forgotten entry counts")).unwrap();
    for_each_change_after(&db, 1, 0, |_, _, _| panic!("a forgotten entry counts")).unwrap();
    db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    for change in ["time = 21", "table_id = -11", "table_id = 2", "key0 = '10'", "key1 = 0"] {
        db.execute_batch("SAVEPOINT s").unwrap();
        db.execute(&format!("UPDATE __harmonylite__change_log SET {change}"), []).unwrap();
        assert_ne!(mark(&db, 1).unwrap(), Some(first), "{change}");
        db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    }
    log(&db, 2, 20, KIND_CHANGED);
    assert_ne!(mark(&db, 2).unwrap().unwrap().hash, first.hash);
}

/// A longer key comes with a migration, while this connection keeps its statements.
#[test]
fn a_mark_counts_columns_that_are_new() {
    let db = test_database();
    log(&db, 1, 20, KIND_CHANGED);
    mark(&db, 1).unwrap();
    widen(&db, 2).unwrap();
    db.execute_batch("UPDATE __harmonylite__change_log SET key1 = 'b'").unwrap();
    let seen = mark(&db, 1).unwrap();
    db.flush_prepared_statement_cache();
    assert_eq!(mark(&db, 1).unwrap(), seen);
}

#[test]
fn changes_that_are_not_published_have_a_first_time() {
    let db = test_database();
    assert_eq!(unpublished_since(&db).unwrap(), None);
    log(&db, 1, 20, KIND_CHANGED);
    log(&db, 2, 30, KIND_CHANGED);
    log(&db, 3, 25, KIND_PUBLISH);
    log(&db, 4, 0, KIND_FOUND);
    assert_eq!(unpublished_since(&db).unwrap(), Some(20));
    meta::set(&db, meta::PUBLISHED, 1).unwrap();
    assert_eq!(unpublished_since(&db).unwrap(), Some(30));
    meta::set(&db, meta::PUBLISHED, 2).unwrap();
    assert_eq!(unpublished_since(&db).unwrap(), None);
}

#[test]
fn the_lowest_time_of_a_row_to_publish_is_unknown() {
    let db = test_database();
    assert_eq!(lowest_ms(&db, 0, 9).unwrap(), None);
    log(&db, 1, 20, KIND_CHANGED);
    log(&db, 2, 30, KIND_CHANGED);
    log(&db, 3, 40, KIND_PUBLISH);
    assert_eq!(lowest_ms(&db, 0, 2).unwrap(), Some(20));
    assert_eq!(lowest_ms(&db, 1, 2).unwrap(), Some(30));
    assert_eq!(lowest_ms(&db, 0, 3).unwrap(), Some(0));
}

#[test]
fn the_numbers_continue_after_a_greater_one() {
    let db = test_database();
    assert_eq!(end_mark(&db).unwrap(), None);
    continue_after(&db, 7).unwrap();
    assert_eq!((ids(&db), end_mark(&db).unwrap()), (vec![7], mark(&db, 7).unwrap()));
    db.execute("DELETE FROM __harmonylite__change_log", []).unwrap();
    for id in [1, 2, 5] {
        log(&db, id, id, KIND_CHANGED);
    }
    continue_after(&db, 100).unwrap();
    assert_eq!(ids(&db), [100, 101, 102, 105]);
    let mut times = Vec::new();
    for_each(&db, 1, 100, i64::MAX, |entry| {
        times.push((entry.id, entry.time_ms));
        Ok(())
    })
    .unwrap();
    assert_eq!(times, [(101, 1), (102, 2), (105, 5)], "each entry is the one that it was");
    db.execute("INSERT INTO __harmonylite__change_log (time, table_id) VALUES (1, 1)", []).unwrap();
    assert_eq!(log_end(&db).unwrap(), 106);
    assert_eq!(end_mark(&db).unwrap(), mark(&db, 106).unwrap());
}

#[test]
fn people_see_what_is_pending() {
    let db = test_database();
    db.execute("INSERT INTO __harmonylite__table (id, name) VALUES (1, 'item')", []).unwrap();
    log(&db, 1, 1_000, KIND_CHANGED);
    log(&db, 2, 2_000, KIND_CHANGED);
    meta::set(&db, meta::PUBLISHED, 1).unwrap();
    let seen: (String, String, i64) = db
        .query_row("SELECT table_name, changed_at, key0 FROM __harmonylite__pending", [], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })
        .unwrap();
    assert_eq!(seen, ("item".into(), "1970-01-01 00:00:02".into(), 20));
}

/// Triggers leave the time to the default, a Julian day. It is the time of the machine, to the
/// millisecond, by whatever way it is read.
#[test]
fn the_time_of_a_trigger_is_read_in_milliseconds() {
    let db = test_database();
    for ms in [0, 1, 999, 1_700_000_000_000, 1_796_046_100_649, 253_402_300_799_999] {
        db.execute_batch("DELETE FROM __harmonylite__change_log").unwrap();
        db.create_scalar_function("julianday", 0, FunctionFlags::SQLITE_UTF8, move |_| {
            Ok((ms as f64 + 210_866_760_000_000.0) / 86_400_000.0) // as SQLite computes it
        })
        .unwrap();
        db.execute("INSERT INTO __harmonylite__change_log (table_id, key0) VALUES (1, 1)", [])
            .unwrap();
        let mut read = None;
        for_each(&db, 1, 0, i64::MAX, |entry| {
            read = Some(entry.time_ms);
            Ok(())
        })
        .unwrap();
        let by_sql = lowest_ms(&db, 0, i64::MAX).unwrap();
        assert_eq!((read, by_sql), (Some(ms), Some(ms)));
        assert_eq!(unpublished_since(&db).unwrap(), Some(ms));
        assert_eq!(pending(&db, 0).unwrap().oldest_ms, ms);
        assert_eq!(restamp(&db, 0, ms + 1..i64::MAX, 5).unwrap(), 0);
        assert_eq!(restamp(&db, 0, ms..ms + 1, 5).unwrap(), 1);
        let sql = "SELECT time FROM __harmonylite__change_log";
        assert_eq!(db.query_row(sql, [], |r| r.get(0)), Ok(5));
    }
}

/// The function of SQLite itself.
#[test]
fn the_default_time_is_now() {
    let db = test_database();
    let now = || -> i64 {
        let sql = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)";
        db.query_row(sql, [], |r| r.get(0)).unwrap()
    };
    let before = now();
    db.execute("INSERT INTO __harmonylite__change_log (table_id, key0) VALUES (1, 1)", []).unwrap();
    let logged = lowest_ms(&db, 0, 1).unwrap().unwrap();
    assert!((before..=now()).contains(&logged), "{before} {logged}");
    let shown: String =
        db.query_row("SELECT changed_at FROM __harmonylite__pending", [], |r| r.get(0)).unwrap();
    assert!(shown.starts_with("20"), "{shown}");
}
