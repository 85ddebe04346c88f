use crate::capture::absorb::{AbsorbState, Acknowledged, absorb, published};
use crate::capture::compare::Compare;
use crate::capture::install::{install, load};
use crate::model::ids::Site;
use crate::model::table_filter::TableFilter;
use crate::store::change_log::{log_end, widen};
use crate::store::entry_code::KIND;
use crate::store::sites::begin_site;
use crate::store::{meta, test_database};
use rusqlite::Connection;
use std::collections::HashSet;

const SITE: Site = Site(7);

struct Node {
    db: Connection,
    state: AbsorbState,
}

impl Node {
    /// A database with rows whose versions are known, and published.
    fn new(schema: &str, rows: &str) -> Self {
        let db = test_database();
        db.execute_batch(schema).unwrap();
        begin_site(&db, SITE, 0).unwrap();
        meta::set(&db, meta::JOINED, true).unwrap();
        widen(&db, 2).unwrap();
        install(&db, &TableFilter::default(), 1).unwrap();
        let own_sites = HashSet::from([SITE]);
        let state = AbsorbState { site: SITE, own_sites, absorbed: 0, published: 0 };
        let mut node = Self { db, state };
        node.absorbed(rows);
        let upto = log_end(&node.db).unwrap();
        published(&node.db, &mut node.state, upto).unwrap();
        node
    }

    fn absorbed(&mut self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
        let layout = load(&self.db, &TableFilter::default()).unwrap().unwrap();
        absorb(
            &self.db,
            &layout,
            &mut self.state,
            Acknowledged::default(),
            i64::MAX,
            &Compare::default(),
        )
        .unwrap();
    }

    /// Rebuilds `t`, follows, compares. Returns the entries that are to be published: key and kind.
    fn rebuild(&mut self, columns: &str, copy: &str) -> Vec<String> {
        let rebuild = format!(
            "BEGIN; CREATE TABLE new_t ({columns}); INSERT INTO new_t {copy}; DROP TABLE t; ALTER \
            TABLE new_t RENAME TO t; COMMIT"
        );
        self.db.execute_batch(&rebuild).unwrap();
        let (layout, _) = install(&self.db, &TableFilter::default(), 9_000).unwrap();
        let mut compare = Compare::read(&self.db).unwrap();
        while !compare.is_idle() {
            compare.step(&self.db, &layout, true, 2).unwrap();
        }
        self.rows(&format!(
            "SELECT group_concat(key0 || coalesce('/' || key1, '') || ' ' || {KIND}, ', ') FROM \
            (SELECT * FROM __harmonylite__pending WHERE table_id NOT LIKE '% -' AND table_name = \
            't' ORDER BY key0, key1)"
        ))
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let mut read = self.db.prepare(sql).unwrap();
        let rows = read.query_map([], |r| r.get::<_, Option<String>>(0)).unwrap();
        rows.map(|row| row.unwrap().unwrap_or_default()).collect()
    }

    fn hlc(&self, condition: &str) -> Option<i64> {
        let sql = format!("SELECT hlc FROM __harmonylite__t_version WHERE {condition}");
        self.db.query_row(&sql, [], |r| r.get(0)).ok()
    }
}

const TENANTS: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, tenant TEXT, v)";
const THREE: &str = "INSERT INTO t VALUES ('a', 'x', 1), ('b', 'y', 2), ('c', 'y', 3)";

#[test]
fn rows_keep_their_versions_and_only_what_waited_is_published() {
    let mut node = Node::new(TENANTS, THREE);
    let before = ["'a'", "'b'", "'c'"].map(|id| node.hlc(&format!("packed0 = {id}")).unwrap());
    node.absorbed("UPDATE t SET v = 9 WHERE id = 'b'");
    // No trigger and no absorb has seen these when the table is gone.
    node.db.execute_batch("INSERT INTO t VALUES ('d', 'z', 4)").unwrap();
    let newer = node.hlc("packed0 = 'b'").unwrap();
    assert!(newer > before[1]);
    let columns = "tenant TEXT, id TEXT, v, PRIMARY KEY (tenant, id)";
    let found =
        node.rebuild(columns, "SELECT tenant, id, CASE id WHEN 'c' THEN 33 ELSE v END FROM t");
    // `b` waited, `c` has changed in the copy, `d` is new; `a` is known to all.
    assert_eq!(found, ["y/b 2, y/c 3, z/d 3"]);
    assert_eq!(node.hlc("packed0 = 'x' AND packed1 = 'a'"), Some(before[0]));
    assert_eq!(node.hlc("packed0 = 'y' AND packed1 = 'b'"), Some(newer));
    assert_eq!(node.hlc("packed0 = 'y' AND packed1 = 'c'"), Some(before[2]));
    let left = "SELECT name FROM temp.sqlite_schema WHERE name LIKE '%carried%'";
    assert_eq!(node.rows(left), [""; 0]);
}

/// A key that is a part of the former one: deletes are known under it too.
#[test]
fn deletes_stay_known_where_the_new_key_is_a_part_of_the_former_one() {
    let schema = "CREATE TABLE t (a TEXT, b INT, v, PRIMARY KEY (a, b)) WITHOUT ROWID";
    let rows = "INSERT INTO t VALUES ('k', 1, 1), ('l', 2, 2), ('m', 3, 3), ('m', 4, 4)";
    let mut node = Node::new(schema, rows);
    node.absorbed("DELETE FROM t WHERE a = 'k'; DELETE FROM t WHERE b = 3");
    let deleted = node.hlc("packed0 = 'k'").unwrap();
    let kept = node.hlc("packed0 = 'm' AND key1 = 4").unwrap();
    let found = node.rebuild("a TEXT PRIMARY KEY, b INT, v", "SELECT * FROM t WHERE a <> 'l'");
    // The delete of `k` waited, and so did one of a row with the key `m`, which is there; `l` is
    // gone since the copy.
    assert_eq!(found, ["k 2, l 3, m 2"]);
    assert_eq!(node.hlc("packed0 = 'k' AND digest IS NULL"), Some(deleted));
    assert_eq!(node.hlc("packed0 = 'm' AND digest IS NOT NULL"), Some(kept));
}

#[test]
fn another_form_of_the_key_and_collations_are_carried_over() {
    let mut node = Node::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE COLLATE NOCASE)",
        "INSERT INTO t VALUES (1, 'Ann'), (2, 'bob')",
    );
    let ann = node.hlc("key0 = 1").unwrap();
    let columns = "id INTEGER UNIQUE, name TEXT COLLATE NOCASE PRIMARY KEY";
    assert_eq!(node.rebuild(columns, "SELECT * FROM t"), [""]);
    assert_eq!(node.hlc("key0 = 'ANN'"), Some(ann));
    // And back.
    let columns = "id INTEGER PRIMARY KEY, name TEXT";
    assert_eq!(node.rebuild(columns, "SELECT * FROM t"), [""]);
    assert_eq!(node.hlc("key0 = 1"), Some(ann));
}

/// Ids that become UUIDs are other rows.
#[test]
fn without_the_former_key_all_rows_are_published_again() {
    let mut node = Node::new(TENANTS, THREE);
    let found = node.rebuild("uid INTEGER PRIMARY KEY, v", "SELECT v, v FROM t");
    assert_eq!(found, ["1 2, 2 2, 3 2"]);
    assert_eq!(node.hlc("key0 = 1"), Some(1), "the baseline");
}
