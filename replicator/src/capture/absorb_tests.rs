use super::*;
use crate::capture::install::install;
use crate::model::ids::Hlc;
use crate::model::table_filter::TableFilter;
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
        let id = self.layout.tables[0].id;
        self.run(&format!(
            "INSERT INTO __harmonylite__change_log (time, table_id, kind, key0) VALUES \
            ({time_ms}, {id}, 0, {key})"
        ));
    }

    fn absorb(&self) {
        let own_sites = HashSet::from([SITE]);
        let mut state = AbsorbState { site: SITE, own_sites, absorbed: 0, published: 0 };
        absorb(&self.db, &self.layout, &mut state, i64::MAX, &Compare::default()).unwrap();
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
        log.absorb();

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
