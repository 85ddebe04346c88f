use super::*;
use crate::capture::absorb::{AbsorbState, Acknowledged, absorb};
use crate::capture::install::{install, load};
use crate::model::ids::{Site, Version};
use crate::model::table_filter::TableFilter;
use crate::store::entry_code::KIND;
use crate::store::site_numbers::SiteNumbers;
use crate::store::sites::begin_site;
use crate::store::versions::Versions;
use crate::store::{meta, test_database};
use std::collections::HashSet;

/// A node's database, as its sidecar leaves it between transactions.
struct Node {
    db: Connection,
    state: AbsorbState,
}

const SITE: Site = Site(7);
/// When the rows were written, and when the table was rebuilt.
const WRITTEN_MS: i64 = 1_000;
const REBUILT_MS: i64 = 9_000;

impl Node {
    fn new(schema: &str) -> Self {
        let db = test_database();
        db.execute_batch(schema).unwrap();
        begin_site(&db, SITE, 0).unwrap();
        meta::set(&db, meta::JOINED, true).unwrap();
        let own_sites = HashSet::from([SITE]);
        let state = AbsorbState { site: SITE, own_sites, absorbed: 0, published: 0 };
        let mut node = Self { db, state };
        node.follow(2);
        node
    }

    fn run(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Absorbs, with all times as they were at the writing.
    fn absorb(&mut self) {
        let layout = load(&self.db, &TableFilter::default()).unwrap().unwrap();
        self.db
            .execute(
                &format!("UPDATE __harmonylite__change_log SET time = ?1 WHERE {KIND} = 0"),
                [WRITTEN_MS],
            )
            .unwrap();
        let compare = Compare::read(&self.db).unwrap();
        absorb(&self.db, &layout, &mut self.state, Acknowledged::default(), i64::MAX, &compare)
            .unwrap();
    }

    /// Follows the schema and compares in steps of `rows_max` rows. Returns the found keys of
    /// tables with one key column, in the order of the log, and whether the time is the rebuild's.
    fn follow(&mut self, rows_max: u64) -> Vec<(String, bool)> {
        let before = change_log::log_end(&self.db).unwrap();
        let (layout, _) = install(&self.db, &TableFilter::default(), REBUILT_MS).unwrap();
        self.absorb();
        let mut compare = Compare::read(&self.db).unwrap();
        for _ in 0..1_000 {
            if compare.is_idle() {
                break;
            }
            compare.step(&self.db, &layout, true, rows_max).unwrap();
        }
        assert!(compare.is_idle(), "a comparison ends");
        let mut read = self
            .db
            .prepare(&format!(
                "SELECT CAST(key0 AS TEXT), time FROM __harmonylite__change_log WHERE id > ?1 AND \
                {KIND} = 3 ORDER BY 1"
            ))
            .unwrap();
        let found = read
            .query_map([before], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? == REBUILT_MS)))
            .unwrap()
            .collect::<rusqlite::Result<Vec<_>>>()
            .unwrap();
        drop(read);
        self.absorb();
        found
    }

    fn version(&self, table: &str, key: &str) -> Version {
        let versions = quote(&crate::db::layout::version_table(table));
        let sql = format!("SELECT hlc, site FROM {versions} WHERE packed0 = ?1");
        let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?));
        let (hlc, number) = self.db.query_row(&sql, [key], read).unwrap();
        Version { hlc, site: SiteNumbers::default().site(&self.db, number).unwrap() }
    }
}

const SCHEMA: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INT)";

/// Ten rows, and what a framework does to change a table.
fn rebuilt(columns: &str, copy: &str, then: &str) -> Node {
    let mut node = Node::new(SCHEMA);
    node.run(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9) INSERT INTO t \
        SELECT char(97 + i), 'v' || i, i FROM n",
    );
    node.absorb();
    node.run(&format!(
        "BEGIN; CREATE TABLE new_t ({columns}); INSERT INTO new_t {copy}; DROP TABLE t; ALTER \
        TABLE new_t RENAME TO t; {then}; COMMIT"
    ));
    node
}

/// A name, the columns, the copy, what follows; and the found keys with whether their time is the
/// rebuild's.
type Case =
    (&'static str, &'static str, &'static str, &'static str, &'static [(&'static str, bool)]);

#[test]
fn what_no_trigger_saw_is_found_and_nothing_else() {
    let columns = "id TEXT PRIMARY KEY, v, n INT";
    let all = "SELECT id, v, n FROM t";
    let cases: [Case; 9] = [
        ("nothing but the table", columns, all, "", &[]),
        (
            "written in the same transaction",
            columns,
            all,
            "UPDATE t SET v = 'new' WHERE id = 'c'; DELETE FROM t WHERE id = 'd'; INSERT INTO t \
            VALUES ('zz', 1, 1); UPDATE t SET id = 'aa' WHERE id = 'a'",
            &[("a", true), ("aa", true), ("c", true), ("d", true), ("zz", true)],
        ),
        (
            "a column with NULL",
            "id TEXT PRIMARY KEY, v, n INT, x",
            "SELECT *, NULL FROM t",
            "",
            &[],
        ),
        (
            "a column with its default",
            "id TEXT PRIMARY KEY, v, n INT, x TEXT NOT NULL DEFAULT '5'",
            "SELECT *, 5 FROM t",
            "",
            &[],
        ),
        (
            "a column that is filled in part, another row written",
            "id TEXT PRIMARY KEY, v, n INT, x",
            "SELECT *, iif(id IN ('a', 'c'), 'filled', NULL) FROM t",
            "UPDATE t SET v = 'new' WHERE id = 'b'",
            &[("a", false), ("b", true), ("c", false)],
        ),
        (
            "a column dropped where it had values",
            "id TEXT PRIMARY KEY, v",
            "SELECT id, v FROM t WHERE id < 'c'",
            "",
            &[
                ("a", false),
                ("b", false),
                ("c", false),
                ("d", false),
                ("e", false),
                ("f", false),
                ("g", false),
                ("h", false),
                ("i", false),
                ("j", false),
            ],
        ),
        ("a type with the same affinity", "id TEXT PRIMARY KEY, v BLOB, n BIGINT", all, "", &[]),
        ("another order", "n INT, v, id TEXT PRIMARY KEY", "SELECT n, v, id FROM t", "", &[]),
        (
            "two rebuilds",
            columns,
            all,
            "CREATE TABLE x_t (id TEXT PRIMARY KEY, v, n INT, x); INSERT INTO x_t SELECT *, NULL \
            FROM t; DROP TABLE t; ALTER TABLE x_t RENAME TO t; UPDATE t SET n = 100 WHERE id = 'j'",
            &[("j", true)],
        ),
    ];
    for (what, columns, copy, then, expected) in cases {
        for rows_max in [1, 3, 100] {
            let mut node = rebuilt(columns, copy, then);
            let found = node.follow(rows_max);
            let found: Vec<(&str, bool)> = found.iter().map(|(k, t)| (k.as_str(), *t)).collect();
            assert_eq!(found, expected, "{what}, {rows_max} rows at once");
            assert_eq!(node.follow(rows_max), [], "{what}: once");
            node.run("UPDATE t SET v = 'later' WHERE id = 'b'");
            node.absorb();
        }
    }
}

/// The value of a new column is derived from the version that a row had: a newer write of another
/// node must win over it.
#[test]
fn a_filled_column_takes_the_next_version_and_a_change_the_time() {
    let mut node = rebuilt(
        "id TEXT PRIMARY KEY, v, n INT, x",
        "SELECT *, id || 'x' FROM t WHERE id < 'd'",
        "UPDATE t SET v = 'new' WHERE id = 'b'",
    );
    let before = node.version("t", "a");
    node.follow(2);
    assert_eq!(node.version("t", "a"), Version { hlc: before.hlc.next(), site: SITE });
    assert_eq!(node.version("t", "b").hlc.ms(), REBUILT_MS);
    assert_eq!(node.version("t", "e").hlc.ms(), REBUILT_MS, "a delete");
}

/// A change that was logged, and perhaps sent, before the rebuild: its version must not get the
/// content that the row has after it.
#[test]
fn a_row_that_was_logged_before_the_rebuild_gets_another_version() {
    for (then, exists) in [
        ("UPDATE t SET v = 'second' WHERE id = 'a'", true),
        ("DELETE FROM t WHERE id = 'a'", false),
        ("", true),
    ] {
        let mut node = Node::new(SCHEMA);
        node.run("INSERT INTO t VALUES ('a', 'first', 1)");
        node.run(&format!(
            "BEGIN; CREATE TABLE n (id TEXT PRIMARY KEY, v, n INT); INSERT INTO n SELECT * FROM t; \
            DROP TABLE t; ALTER TABLE n RENAME TO t; {then}; COMMIT"
        ));
        assert_eq!(node.follow(10), [("a".to_owned(), false)], "{then}");
        assert_eq!(node.version("t", "a").hlc.0, (WRITTEN_MS << 16) + 1, "{then}");
        let digest: Option<i64> = node
            .db
            .query_row("SELECT digest FROM __harmonylite__t_version", [], |r| r.get(0))
            .unwrap();
        assert_eq!(digest.is_some(), exists, "{then}");
        assert_eq!(node.follow(10), [], "{then}");
    }
}

/// Two migrations before the sidecar has looked: the rebuilt table has no trigger that carries its
/// number to the new name.
#[test]
fn a_rebuilt_table_that_is_renamed_is_known_by_its_shape() {
    let mut node = rebuilt(
        "id TEXT PRIMARY KEY, v, n INT",
        "SELECT * FROM t",
        "ALTER TABLE t RENAME TO u; UPDATE u SET v = 1 WHERE id = 'b'; DELETE FROM u WHERE id = \
        'c'",
    );
    let before = node.version("t", "a");
    assert_eq!(node.follow(3), [("b".to_owned(), false), ("c".to_owned(), false)]);
    assert_eq!(node.version("u", "a"), before);
    // Two candidates: a guess could be wrong.
    node.run(
        "DROP TABLE u; CREATE TABLE x (id TEXT PRIMARY KEY, v, n INT); CREATE TABLE y (id TEXT \
        PRIMARY KEY, v, n INT); INSERT INTO x VALUES ('a', 'v0', 0)",
    );
    assert_eq!(node.follow(3), []);
    assert_eq!(node.version("x", "a").hlc, crate::capture::baseline::BASELINE);
}

#[test]
fn tables_that_take_each_others_names_keep_their_versions() {
    for (what, ddl, then) in [
        (
            "exchanged",
            "ALTER TABLE a RENAME TO x; ALTER TABLE b RENAME TO a; ALTER TABLE x RENAME TO b",
            ("b", "a"),
        ),
        ("moved on", "ALTER TABLE a RENAME TO a_old; ALTER TABLE b RENAME TO a", ("a_old", "a")),
    ] {
        let mut node = Node::new(
            "CREATE TABLE a (id TEXT PRIMARY KEY, v); CREATE TABLE b (id TEXT PRIMARY KEY, v)",
        );
        node.run("INSERT INTO a VALUES ('k', 'of a')");
        node.absorb();
        node.run("INSERT INTO b VALUES ('k', 'of b'); UPDATE b SET v = 1");
        node.absorb();
        let (a, b) = (node.version("a", "k"), node.version("b", "k"));
        assert_ne!(a, b);
        node.run(ddl);
        assert_eq!(node.follow(10), [], "{what}");
        assert_eq!((node.version(then.0, "k"), node.version(then.1, "k")), (a, b), "{what}");
        node.run(&format!("UPDATE {} SET v = 2", then.1));
        node.absorb();
        assert!(node.version(then.1, "k") > b, "{what}");
        assert_eq!(node.version(then.0, "k"), a, "{what}");
    }
}

#[test]
fn odd_defaults_stop_nothing() {
    for default in ["(1-2)", "(random())", "CURRENT_TIMESTAMP", "-1", "'it''s'", "(NULL)", "0x1F"] {
        let columns = format!("id TEXT PRIMARY KEY, v, n INT, k INT DEFAULT {default}");
        let mut node =
            rebuilt(&columns, "SELECT *, NULL FROM t", "UPDATE t SET v = 1 WHERE id = 'b'");
        let found = node.follow(10);
        assert!(found.contains(&("b".to_owned(), true)), "{default}: {found:?}");
    }
}

#[test]
fn altered_columns_are_followed_without_a_comparison() {
    let mut node = rebuilt("id TEXT PRIMARY KEY, v, n INT", "SELECT * FROM t", "");
    node.follow(100);
    for ddl in [
        "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t ADD x INT DEFAULT '7'",
        "ALTER TABLE t DROP n",
        "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t",
    ] {
        node.run(ddl);
        assert_eq!(node.follow(3), [], "{ddl}");
    }
    // The digests are right afterwards, whatever was renamed, added or dropped.
    node.run(
        "CREATE TABLE n (id TEXT PRIMARY KEY, w, x INT DEFAULT 7); INSERT INTO n SELECT id, w, x \
        FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; UPDATE t SET x = 8 WHERE id = 'e'",
    );
    assert_eq!(node.follow(3), [("e".to_owned(), true)]);
}

#[test]
fn a_renamed_table_keeps_versions_and_log_entries() {
    let mut node = rebuilt("id TEXT PRIMARY KEY, v, n INT", "SELECT * FROM t", "");
    node.follow(100);
    let before = node.version("t", "a");
    node.run(
        "CREATE VIEW broken AS SELECT * FROM nowhere; UPDATE t SET v = 1 WHERE id = 'b'; PRAGMA \
        legacy_alter_table = ON; ALTER TABLE t RENAME TO \"u u\"; PRAGMA legacy_alter_table = OFF; \
        UPDATE \"u u\" SET v = 2 WHERE id = 'c'; DELETE FROM \"u u\" WHERE id = 'd'",
    );
    let changed = change_log::log_end(&node.db).unwrap();
    assert_eq!(node.follow(100), []);
    assert_eq!(node.version("u u", "a"), before);
    assert_eq!(change_log::log_end(&node.db).unwrap(), changed);
    assert!(node.version("u u", "d") > before, "the delete was absorbed under the new name");
    let layout = load(&node.db, &TableFilter::default()).unwrap().unwrap();
    assert_eq!(layout.tables.len(), 1);
    assert_eq!(layout.tables[0].history.former.len(), 1);
}

#[test]
fn a_dropped_table_that_comes_back_shows_what_is_gone() {
    for in_one_go in [true, false] {
        let mut node = rebuilt("id TEXT PRIMARY KEY, v, n INT", "SELECT * FROM t", "");
        node.follow(100);
        node.run("DROP TABLE t");
        if !in_one_go {
            assert_eq!(node.follow(100), []);
        }
        node.run(
            "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INT); INSERT INTO t VALUES ('a', 'v0', 0), \
            ('b', 100, 1), ('z', 1, 1)",
        );
        let found = node.follow(100);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["b", "c", "d", "e", "f", "g", "h", "i", "j", "z"], "{in_one_go}");
    }
}

/// A database that an older program left, which knew no digests.
#[test]
fn digests_are_added_to_an_older_database() {
    let mut node = Node::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INT); CREATE TABLE i (id INTEGER PRIMARY KEY)",
    );
    node.run("INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2); DELETE FROM t WHERE id = 'b'");
    node.run("INSERT INTO i VALUES (5)");
    node.absorb();
    let version = node.version("t", "a");
    node.run(
        "ALTER TABLE __harmonylite__t_version DROP COLUMN digest; ALTER TABLE \
        __harmonylite__i_version DROP COLUMN digest; DELETE FROM __harmonylite__schema_history; \
        DROP TRIGGER __harmonylite__t_change_log_on_rename; DROP TRIGGER \
        __harmonylite__i_change_log_on_rename",
    );
    meta::set(&node.db, meta::FORMAT, 1).unwrap();
    crate::store::install::create_tables(&node.db, std::path::Path::new("")).unwrap();
    assert_eq!(node.follow(1), []);
    assert_eq!(node.version("t", "a"), version);
    let digests: i64 = node
        .db
        .query_row(
            "SELECT (SELECT count(digest) FROM __harmonylite__t_version) + (SELECT count(digest) \
            FROM __harmonylite__i_version)",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(digests, 2, "one for each row, none for the deleted one");
}

/// Format 2 held UUIDs as text. A view that does not compile is in the way of most ALTER TABLE.
#[test]
fn an_older_database_keeps_its_versions_when_keys_are_packed() {
    const TABLE: &str = "key0 \"TEXT\" COLLATE BINARY";
    let uuid = "0123abcd-0123-4567-89ab-00000000000f";
    let mut node = Node::new(&format!(
        "CREATE TABLE {0} (c TEXT COLLATE NOCASE, n INT, u TEXT, v, PRIMARY KEY (c, n, u)); CREATE \
        TABLE i (id INTEGER PRIMARY KEY); CREATE VIEW broken AS SELECT * FROM nowhere",
        quote(TABLE)
    ));
    node.run(&format!(
        "INSERT INTO {0} VALUES ('{uuid}', 5, '{uuid}', 1), ('c', 6, 'u', 2), ('d', 7, x'00', 3); \
        INSERT INTO i VALUES (5); DELETE FROM {0} WHERE n = 6",
        quote(TABLE)
    ));
    node.absorb();
    let key = |c: &str, n, u: Value| [Value::Text(c.into()), Value::Integer(n), u];
    let versions = |node: &Node| {
        let layout = load(&node.db, &TableFilter::default()).unwrap().unwrap();
        let mut versions = Versions::new(&node.db);
        let table = layout.by_name(TABLE).unwrap();
        let keys = [
            key(uuid, 5, Value::Text(uuid.into())),
            key("C", 6, Value::Text("u".into())),
            key("d", 7, Value::Blob(vec![0])),
        ];
        let of = |versions: &mut Versions<'_>, key: &[Value]| versions.get(table, key).unwrap();
        let found = keys.map(|key| of(&mut versions, &key));
        assert!(found.iter().all(|version| *version != Version::NONE), "{found:?}");
        found
    };
    let before = versions(&node);
    let name = quote(&crate::db::layout::version_table(TABLE));
    node.run(&format!(
        "CREATE TABLE former AS SELECT key0, key1, __harmonylite__unpack(packed2), hlc, 7, digest \
        FROM {name}; DROP TABLE {name}; CREATE TABLE {name} (key0 \"TEXT\" COLLATE NOCASE, key1 \
        \"INT\" COLLATE BINARY, key2 \"TEXT\" COLLATE BINARY, hlc INTEGER NOT NULL, site INTEGER \
        NOT NULL, digest INTEGER, PRIMARY KEY (key0, key1, key2)) WITHOUT ROWID; INSERT INTO \
        {name} SELECT * FROM former; DROP TABLE former; DROP TABLE __harmonylite__site_number",
    ));
    meta::set(&node.db, meta::FORMAT, 2).unwrap();
    crate::store::install::create_tables(&node.db, std::path::Path::new("")).unwrap();
    assert_eq!(node.follow(1), [], "the installation finds the table in the form that it makes");
    assert_eq!(versions(&node), before);
    let packed: i64 = node
        .db
        .query_row(&format!("SELECT octet_length(packed2) FROM {name} WHERE key1 = 5"), [], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!(packed, 17);
}
