use super::*;
use crate::capture::absorb::{AbsorbState, Acknowledged, absorb};
use crate::capture::compare::Compare;
use crate::capture::install::install;
use crate::model::table_filter::TableFilter;
use crate::store::entry_code::encode;
use crate::store::test_database;
use rusqlite::types::Value as Sql;

/// The present life, a former one, and another node's.
const SITE: Site = Site(7);
const FORMER: Site = Site(6);
const OTHER: Site = Site(900);

fn at(ms: i64, counter: i64, site: Site) -> Version {
    Version { hlc: Hlc((ms << 16) + counter), site }
}

struct Log {
    db: Connection,
    layout: Layout,
    own: HashSet<Site>,
}

impl Log {
    /// The triggers come after the rows of `sql`: the log is empty.
    fn of(sql: &str) -> Self {
        let db = test_database();
        db.execute_batch(sql).unwrap();
        let (layout, _) = install(&db, &TableFilter::default(), 0).unwrap();
        assert_eq!(log_end(&db).unwrap(), 0);
        Self { db, layout, own: HashSet::from([SITE, FORMER]) }
    }

    /// One table with an integer key and the row 1.
    fn new() -> Self {
        Self::of("CREATE TABLE t (id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'x')")
    }

    fn log(&self, time_ms: i64, kind: i64, key: impl Into<Sql>) -> i64 {
        self.log_two(time_ms, kind, "key0", vec![key.into()])
    }

    fn log_two(&self, time_ms: i64, kind: i64, columns: &str, key: Vec<Sql>) -> i64 {
        let id = self.layout.by_name("t").unwrap().id;
        let places = vec!["?"; key.len()].join(", ");
        let sql = format!(
            "INSERT INTO __harmonylite__change_log (time, table_id, {columns}) VALUES ({time_ms}, \
            {}, {places})",
            encode(id, kind)
        );
        self.db.execute(&sql, params_from_iter(key)).unwrap();
        self.db.last_insert_rowid()
    }

    fn put(&self, version: Version) {
        let table = self.layout.by_name("t").unwrap();
        Versions::new(&self.db).put(table, &[Value::Integer(1)], version, None).unwrap();
    }

    fn get(&self) -> Version {
        let table = self.layout.by_name("t").unwrap();
        Versions::new(&self.db).get(table, &[Value::Integer(1)]).unwrap()
    }

    fn fold(&self, absorbed: i64, sent: i64) -> Folded {
        let upto = log_end(&self.db).unwrap();
        let from = FoldFrom { site: SITE, own_sites: &self.own, absorbed, sent, upto };
        fold(&self.db, &self.layout, &from).unwrap()
    }

    fn only_row(&self, absorbed: i64, sent: i64) -> Row {
        let mut rows = rows(&self.fold(absorbed, sent));
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    }

    fn absorb(&self, absorbed: i64, entries: i64) {
        let mut state =
            AbsorbState { site: SITE, own_sites: self.own.clone(), absorbed, published: 0 };
        absorb(
            &self.db,
            &self.layout,
            &mut state,
            Acknowledged::default(),
            entries,
            &Compare::default(),
        )
        .unwrap();
    }
}

/// A folded row with its key.
#[derive(Debug)]
struct Row {
    key: Vec<Value>,
    version: Version,
    if_gone: Option<Version>,
    previous: Version,
    only_if_gone: bool,
    unabsorbed: bool,
    publish: bool,
}

fn rows(folded: &Folded) -> Vec<Row> {
    let with_key = |row: FoldedRow<'_>| {
        let mut key = Vec::new();
        folded.rows.key(row.at, &mut key);
        let FoldedRow { version, if_gone, previous, only_if_gone, unabsorbed, publish, .. } = row;
        assert_eq!(folded.rows.find(row.table, &key), Some(row.at));
        Row { key, version, if_gone, previous, only_if_gone, unabsorbed, publish }
    };
    folded.rows.iter().map(with_key).collect()
}

/// The stored version, the times of the entries, and the version of each of them.
#[test]
fn each_entry_takes_its_time_or_one_more_than_the_version_before() {
    let other = at(10, 4, OTHER);
    let full = at(10, 0xffff, OTHER);
    for (stored, times, expected) in [
        (Version::NONE, vec![5], vec![at(5, 0, SITE)]),
        (Version::NONE, vec![0], vec![at(0, 1, SITE)]),
        (Version::NONE, vec![5, 5, 5], vec![at(5, 0, SITE), at(5, 1, SITE), at(5, 2, SITE)]),
        (Version::NONE, vec![5, 3], vec![at(5, 0, SITE), at(5, 1, SITE)]),
        (Version::NONE, vec![9, 5, 9], vec![at(9, 0, SITE), at(9, 1, SITE), at(9, 2, SITE)]),
        (Version::NONE, vec![5, 3, 6], vec![at(5, 0, SITE), at(5, 1, SITE), at(6, 0, SITE)]),
        (other, vec![5, 5], vec![at(10, 5, SITE), at(10, 6, SITE)]),
        (other, vec![10], vec![at(10, 5, SITE)]),
        (other, vec![3, 11], vec![at(10, 5, SITE), at(11, 0, SITE)]),
        (full, vec![10, 11], vec![at(11, 0, SITE), at(11, 1, SITE)]),
    ] {
        let log = Log::new();
        if stored != Version::NONE {
            log.put(stored);
        }
        for time in &times {
            log.log(*time, KIND_CHANGED, 1);
        }
        let folded = log.fold(0, 0);
        let row = &rows(&folded)[0];
        assert_eq!(row.version, *expected.last().unwrap(), "{stored} {times:?}");
        assert_eq!((row.previous, row.unabsorbed, row.publish), (stored, true, true));
        assert_eq!(folded.entries, times.len() as u64);
        let before: Vec<Version> = folded.previous_of.iter().map(|(_, v)| *v).collect();
        let all: Vec<Version> = std::iter::once(stored).chain(expected).collect();
        assert_eq!(before, all[..times.len()], "{stored} {times:?}");
    }
}

/// However much of the log is absorbed before, what is published is the same.
#[test]
fn absorbing_first_changes_no_number() {
    let stored = at(10, 4, OTHER);
    let kinds = [(5, KIND_CHANGED), (12, KIND_FOUND), (12, KIND_CHANGED), (3, KIND_CHANGED)];
    for absorbed in 0..=4 {
        let log = Log::new();
        log.put(stored);
        for (time, kind) in kinds {
            log.log(time, kind, 1);
        }
        for done in 0..absorbed {
            log.absorb(done, 1);
        }
        let row = log.only_row(absorbed, 0);
        assert_eq!((row.version, row.previous), (at(12, 2, SITE), stored), "{absorbed}");
        assert_eq!((row.unabsorbed, row.publish), (absorbed < 4, true), "{absorbed}");
    }
}

/// Entries that are published already do not count for the predecessor.
#[test]
fn a_run_of_own_writes_has_one_predecessor() {
    let stored = at(10, 0, OTHER);
    for (sent, previous) in
        [(0, stored), (1, at(10, 1, SITE)), (2, at(20, 0, SITE)), (3, at(20, 1, SITE))]
    {
        let log = Log::new();
        log.put(stored);
        for time in [5, 20, 20] {
            log.log(time, KIND_CHANGED, 1);
        }
        let row = log.only_row(0, sent);
        assert_eq!((row.version, row.previous), (at(20, 1, SITE), previous), "{sent}");
        assert_eq!(row.publish, sent < 3, "{sent}");
    }
}

#[test]
fn a_remote_row_in_between_begins_a_new_run() {
    for (remote, previous) in [
        (at(50, 0, OTHER), at(50, 0, OTHER)),
        (at(50, 0, FORMER), at(10, 0, OTHER)),
        (at(50, 0, SITE), at(10, 0, OTHER)),
    ] {
        let log = Log::new();
        log.put(at(10, 0, OTHER));
        log.log(20, KIND_CHANGED, 1);
        log.absorb(0, 1);
        assert_eq!(log.get(), at(20, 0, SITE));
        log.put(remote);
        log.log(30, KIND_CHANGED, 1);
        let row = log.only_row(1, 0);
        assert_eq!((row.version, row.previous), (at(50, 1, SITE), previous), "{remote}");
    }
}

/// A clash of row 1 at time 20, with what else is logged; row 1 has a version of another node.
#[test]
fn a_displaced_row_counts_only_if_it_is_gone() {
    let stored = at(10, 0, OTHER);
    let gone = |ms, counter| Some(at(ms, counter, SITE));
    const D: i64 = KIND_DISPLACED;
    for (entries, version, if_gone, only) in [
        (vec![(20, D)], stored, gone(20, 0), true),
        (vec![(5, D)], stored, gone(10, 1), true),
        (vec![(20, D), (20, D)], stored, gone(20, 1), true),
        (vec![(20, D), (20, KIND_CHANGED)], at(20, 1, SITE), None, false),
        (vec![(20, D), (30, KIND_CHANGED)], at(30, 0, SITE), None, false),
        (vec![(20, KIND_CHANGED), (20, D)], at(20, 0, SITE), gone(20, 1), false),
        (vec![(20, D), (0, KIND_PUBLISH)], stored, gone(20, 0), false),
    ] {
        for exists in [true, false] {
            let log = Log::new();
            log.put(stored);
            for (time, kind) in &entries {
                log.log(*time, *kind, 1);
            }
            let row = log.only_row(0, 0);
            let found = (row.version, row.if_gone, row.only_if_gone, row.previous);
            assert_eq!(found, (version, if_gone, only, stored), "{entries:?}");
            assert!(row.publish, "{entries:?}");
            if !exists {
                log.db.execute("UPDATE t SET id = 2", []).unwrap();
            }
            log.absorb(0, entries.len() as i64);
            let kept = if exists { version } else { if_gone.unwrap_or(version) };
            assert_eq!(log.get(), kept, "{entries:?}, exists: {exists}");
        }
    }
}

#[test]
fn a_row_sent_again_keeps_its_stored_version() {
    for stored in [at(10, 4, OTHER), at(10, 4, FORMER), at(10, 4, SITE), Version::NONE] {
        let log = Log::new();
        if stored != Version::NONE {
            log.put(stored);
        }
        log.log(0, KIND_PUBLISH, 1);
        log.log(0, KIND_PUBLISH, 1);
        let folded = log.fold(0, 0);
        assert!(folded.previous_of.is_empty(), "{stored}");
        let row = &rows(&folded)[0];
        assert_eq!((row.version, row.previous, row.if_gone), (stored, stored, None));
        assert_eq!((row.publish, row.unabsorbed, row.only_if_gone), (true, false, false));
        log.absorb(0, 2);
        assert_eq!(log.get(), stored);
    }
}

/// One entry; whose version the row has when it is folded.
#[test]
fn what_is_published() {
    const C: i64 = KIND_CHANGED;
    for (kind, stored, absorbed, sent, publish) in [
        (C, OTHER, 0, 0, true),
        (C, OTHER, 0, 1, false),
        // A remote row won since.
        (C, OTHER, 1, 0, false),
        (C, SITE, 1, 0, true),
        (C, FORMER, 1, 0, true),
        (KIND_FOUND, OTHER, 0, 0, true),
        (KIND_PUBLISH, OTHER, 1, 0, true),
        (KIND_PUBLISH, OTHER, 0, 1, false),
        (7, OTHER, 0, 0, false),
    ] {
        let log = Log::new();
        log.put(at(10, 0, stored));
        log.log(20, kind, 1);
        let row = log.only_row(absorbed, sent);
        assert_eq!(row.publish, publish, "{kind} {stored} {absorbed} {sent}");
    }
}

#[test]
fn keys_with_a_null_are_counted_and_give_no_row() {
    let log = Log::of("CREATE TABLE t (k TEXT, l TEXT, PRIMARY KEY (k, l))");
    let text = |t: &str| Sql::from(t.to_owned());
    for (key, nulls) in [
        ([text("a"), text("b")], 0),
        ([Sql::Null, text("b")], 1),
        ([text("a"), Sql::Null], 2),
        ([Sql::Null, Sql::Null], 3),
        ([text(""), text("")], 3),
    ] {
        log.log_two(5, KIND_CHANGED, "key0, key1", key.to_vec());
        let folded = log.fold(0, 0);
        assert_eq!(folded.null_keys.get("t").copied().unwrap_or(0), nulls, "{key:?}");
        assert_eq!(folded.entries, nulls + folded.rows.len() as u64, "{key:?}");
        assert_eq!(folded.previous_of.len(), folded.rows.len(), "{key:?}");
    }
}

#[test]
fn spellings_of_one_key_fold_together() {
    let text = |t: &str| Sql::from(t.to_owned());
    for (declared, one, two, together) in [
        ("TEXT COLLATE NOCASE", text("Ab"), text("aB"), true),
        ("TEXT COLLATE NOCASE", text("Ä"), text("ä"), false),
        ("TEXT COLLATE NOCASE", text("a"), text("a "), false),
        ("TEXT COLLATE RTRIM", text("a"), text("a  "), true),
        ("TEXT COLLATE RTRIM", text("a"), text("A"), false),
        ("TEXT", text("Ab"), text("aB"), false),
        ("", Sql::from(1), Sql::from(1.0), true),
        ("", Sql::from(1), text("1"), false),
    ] {
        let log = Log::of(&format!("CREATE TABLE t (k {declared} PRIMARY KEY)"));
        log.log(5, KIND_CHANGED, one.clone());
        log.log(5, KIND_CHANGED, two.clone());
        let versions: Vec<Version> = log.fold(0, 0).rows.iter().map(|r| r.version).collect();
        let expected = match together {
            true => vec![at(5, 1, SITE)],
            false => vec![at(5, 0, SITE), at(5, 0, SITE)],
        };
        assert_eq!(versions, expected, "{declared} {one:?} {two:?}");
    }
}

#[test]
fn rows_come_in_the_order_of_their_first_entry_and_dropped_tables_not_at_all() {
    let log = Log::new();
    for key in [3, 1, 2, 1, 3] {
        log.log(5, KIND_CHANGED, key);
    }
    log.db
        .execute(
            "INSERT INTO __harmonylite__change_log (time, table_id, key0) VALUES (5, 99, 4)",
            [],
        )
        .unwrap();
    let folded = log.fold(0, 0);
    let keys: Vec<Vec<Value>> = rows(&folded).into_iter().map(|row| row.key).collect();
    assert_eq!(keys, [[Value::Integer(3)], [Value::Integer(1)], [Value::Integer(2)]]);
    assert_eq!(folded.entries, 6);
}

/// Collect folds only the new entries, from the rows that it kept, and must get the same as from
/// the whole log.
#[test]
fn a_fold_from_kept_rows_is_that_of_the_whole_log() {
    let kinds = [KIND_CHANGED, KIND_CHANGED, KIND_DISPLACED, KIND_PUBLISH, KIND_FOUND];
    for seed in 0..200_u64 {
        let log = Log::new();
        log.put(at(4, 2, OTHER));
        let mut random = seed;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..12 {
            let (time, kind) = (below(9).cast_signed(), kinds[below(5) as usize]);
            log.log(time, kind, below(4).cast_signed());
        }
        let absorbed = below(3).cast_signed();
        log.absorb(0, absorbed);
        let (mut read, mut taken) = (FoldBase::new(absorbed), FoldBase::new(absorbed));
        let mut collected = FoldedRows::default();
        let ends = [absorbed, absorbed + below(4).cast_signed(), 8, 11, 12];
        for [sent, next] in ends.array_windows() {
            let (sent, own_sites) = (*sent, &log.own);
            let from = FoldFrom { site: SITE, own_sites, absorbed, sent, upto: 12 };
            taken.take(collected, sent);
            for base in [&mut read, &mut taken] {
                base.advance(&log.db, &log.layout, &from).unwrap();
                assert_eq!(base.upto(), sent);
                let kept = fold_after(&log.db, &log.layout, &from, Some(base)).unwrap();
                let whole = published(&log.fold(absorbed, sent));
                assert_eq!(published(&kept), whole, "seed {seed}, sent {sent}");
            }
            let from = FoldFrom { upto: *next, ..from };
            collected = fold_after(&log.db, &log.layout, &from, Some(&taken)).unwrap().rows;
            // As collect does with rows that it does not find.
            for at in (0..collected.len()).filter(|_| below(2) == 0) {
                collected.is_gone(at);
            }
        }
    }
}

fn published(folded: &Folded) -> Vec<String> {
    let published = rows(folded).into_iter().filter(|row| row.publish);
    let mut rows: Vec<_> = published.map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}
