use super::*;
use crate::capture::install::install;
use crate::model::ids::Hlc;
use crate::model::table_filter::TableFilter;
use crate::store::entry_code::{KIND_CHANGED, KIND_PUBLISH, encode};
use crate::store::test_database;

const SITE: Site = Site(7);

/// One table with the columns `k` and `v`, and its log.
struct Log {
    db: Connection,
    layout: Layout,
}

impl Log {
    fn of(declared: &str) -> Self {
        let db = test_database();
        db.execute_batch(&format!("CREATE TABLE t (k {declared}, v)")).unwrap();
        let (layout, _) = install(&db, &TableFilter::default(), 0).unwrap();
        Self { db, layout }
    }

    fn run(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    fn log(&self, time_ms: i64, key: i64) {
        self.log_kind(time_ms, key, KIND_CHANGED);
    }

    fn log_kind(&self, time_ms: i64, key: i64, kind: i64) {
        let id = self.layout.tables[0].id;
        self.run(&format!(
            "INSERT INTO __harmonylite__change_log (time, table_id, key0) VALUES ({time_ms}, {}, \
            {key})",
            encode(id, kind)
        ));
    }

    fn absorb(&self, acknowledged: i64, entries_max: i64) {
        self.absorb_after(0, acknowledged, entries_max);
    }

    /// Returns whether the end was reached.
    fn absorb_after(&self, absorbed: i64, acknowledged: i64, entries_max: i64) -> bool {
        let own_sites = HashSet::from([SITE]);
        let (db, compare) = (&self.db, Compare::default());
        let mut state = AbsorbState { site: SITE, own_sites, absorbed, published: 0 };
        let acknowledged = Acknowledged { upto: acknowledged, digests: &[] };
        absorb(db, &self.layout, &mut state, acknowledged, entries_max, &compare).unwrap().1
    }

    /// The entries that know the version before them.
    fn with_previous(&self) -> Vec<i64> {
        let sql = "SELECT id FROM __harmonylite__change_log WHERE typeof(table_id) = 'text'";
        let mut read = self.db.prepare(sql).unwrap();
        read.query_map([], |r| r.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    /// What stands beside the rows: key, hlc, digest.
    fn stored(&self) -> Vec<(i64, i64, Option<i64>)> {
        let sql = "SELECT key0, hlc, digest FROM __harmonylite__t_version ORDER BY key0";
        let mut read = self.db.prepare(sql).unwrap();
        let rows = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }
}

/// Neighbours of one time are stored together. Each has its own digest, and a row that is gone has
/// none.
#[test]
fn neighbours_get_what_each_of_them_gets_alone() {
    for declared in ["INTEGER PRIMARY KEY", "INT PRIMARY KEY NOT NULL"] {
        let log = Log::of(declared);
        // 4 was never there, 7 is gone, 20 had an entry before, 30 and 31 stand alone.
        let keys = [1, 2, 3, 5, 6, 7, 8, 9, 20, 21, 22, 30, i64::MAX - 1, i64::MAX];
        log.run("DELETE FROM __harmonylite__change_log");
        for key in keys.iter().filter(|key| **key != 7) {
            log.run(&format!("INSERT INTO t VALUES ({key}, 'v' || {key})"));
        }
        log.run("DELETE FROM __harmonylite__change_log");
        log.log(5, 20);
        keys.iter().for_each(|key| log.log(5, *key));
        log.log(6, 31);
        log.absorb(0, i64::MAX);

        let digest = |key: i64| -> Option<i64> {
            let digest = log.layout.tables[0].digest.sql("t", u32::MAX);
            let sql = format!("SELECT {digest} FROM t WHERE k = {key}");
            log.db.query_row(&sql, [], |r| r.get(0)).ok()
        };
        let hlc = |key: i64| match key {
            20 => Hlc::from_ms(5).0 + 1,
            31 => Hlc::from_ms(6).0,
            _ => Hlc::from_ms(5).0,
        };
        let mut expected: Vec<_> =
            keys.iter().chain(&[31]).map(|key| (*key, hlc(*key), digest(*key))).collect();
        expected.sort_unstable();
        let gone = expected.iter().filter(|(_, _, digest)| digest.is_none()).count();
        assert_eq!((log.stored(), gone), (expected, 2), "{declared}");
    }
}

/// What is acknowledged is removed in the same transaction.
#[test]
fn only_entries_that_stay_learn_the_version_before_them() {
    for (entries_max, with_previous) in [(i64::MAX, vec![3]), (3, vec![3]), (2, vec![])] {
        let log = Log::of("INTEGER PRIMARY KEY");
        (1..=3).for_each(|key| log.log(5, key));
        log.absorb(2, entries_max);
        assert_eq!(log.with_previous(), with_previous, "{entries_max}");
    }
}

/// A row that REPLACE has removed and a later change wrote again, one that it never removed, and
/// one that is gone. However many entries a transaction absorbs, the versions are those of the
/// whole log, which collect publishes (simulation, seed 74).
#[test]
fn in_pieces_or_at_once_the_versions_are_the_same() {
    let changes = [
        (1, KIND_CHANGED),
        (1, KIND_DISPLACED),
        (2, KIND_CHANGED),
        (2, KIND_DISPLACED),
        (3, KIND_CHANGED),
        (1, KIND_DISPLACED),
        (3, KIND_DISPLACED),
        (2, KIND_DISPLACED),
        (1, KIND_PUBLISH),
        (1, KIND_CHANGED),
        (2, KIND_PUBLISH),
    ];
    let stored = |piece: usize| {
        let log = Log::of("INTEGER PRIMARY KEY");
        log.run("INSERT INTO t VALUES (1, 'again'), (2, 'never removed')");
        log.run("DELETE FROM __harmonylite__change_log");
        changes.iter().for_each(|(key, kind)| log.log_kind(5, *key, *kind));
        let first = log_end(&log.db).unwrap() - i64::try_from(changes.len()).unwrap();
        for from in (0..changes.len()).step_by(piece) {
            let (from, piece) = (first + from.cast_signed() as i64, piece.cast_signed() as i64);
            log.absorb_after(from, 0, piece);
        }
        log.stored()
    };
    let whole = stored(changes.len());
    let versions: Vec<_> = whole.iter().map(|(key, hlc, _)| (*key, hlc & 0xffff)).collect();
    assert_eq!(versions, [(1, 3), (2, 0), (3, 1)]);
    for piece in 1..changes.len() {
        assert_eq!(stored(piece), whole, "{piece} entries a transaction");
    }
}

/// A digest that collect has read counts for the entry and the schema that it was read with. All
/// other rows are read.
#[test]
fn rows_that_collect_has_read_are_not_read_again() {
    let insert =
        "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3); UPDATE t SET v = 4 WHERE k = 'b';";
    for later in [0, 1] {
        let log = Log::of("TEXT PRIMARY KEY NOT NULL");
        log.run(insert);
        let digests_of = |sql: &str| -> Vec<Option<i64>> {
            let mut read = log.db.prepare(sql).unwrap();
            read.query_map([], |r| r.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
        };
        let digest = log.layout.tables[0].digest.sql("t", u32::MAX);
        let mut expected = digests_of(&format!("SELECT {digest} FROM t ORDER BY k"));
        let mut digests = ReadDigests::new(log.layout.schema_version + later, 0);
        [(1, 111), (2, 222)].into_iter().for_each(|(entry, digest)| digests.note(entry, digest));
        if later == 0 {
            expected[0] = Some(111);
        }
        let mut state =
            AbsorbState { site: SITE, own_sites: HashSet::from([SITE]), absorbed: 0, published: 0 };
        let acknowledged = Acknowledged { upto: 3, digests: &[&digests] };
        let compare = Compare::default();
        absorb(&log.db, &log.layout, &mut state, acknowledged, i64::MAX, &compare).unwrap();
        let stored = digests_of("SELECT digest FROM __harmonylite__t_version ORDER BY packed0");
        assert_eq!(stored, expected, "{later}");
    }
}
