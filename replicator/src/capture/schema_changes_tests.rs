use super::*;
use crate::capture::install::install;
use crate::store::change_log::log_end;
use crate::store::entry_code::{KIND_SCHEMA, encode};
use crate::store::test_database;

struct Node {
    db: Connection,
    filter: TableFilter,
    limits: Limits,
    mode: SchemaMode,
}

impl Node {
    fn new(schema: &str, mode: SchemaMode) -> Self {
        let db = test_database();
        db.execute_batch(schema).unwrap();
        let node = Self { db, filter: TableFilter::default(), limits: Limits::default(), mode };
        node.look();
        node
    }

    fn look(&self) {
        let (layout, _) = install(&self.db, &self.filter, 0).unwrap();
        let carry = Carry { mode: self.mode, filter: &self.filter, limits: &self.limits };
        note(&self.db, || Ok(layout), carry, 5).unwrap();
    }

    /// The changes that travel for this DDL, in words.
    fn run(&self, sql: &str) -> Vec<String> {
        let before = log_end(&self.db).unwrap();
        self.db.execute_batch(sql).unwrap();
        self.look();
        let steps = schema_changes::after(&self.db, before).unwrap();
        let logged: i64 = self
            .db
            .query_row(
                "SELECT count(*) FROM __harmonylite__change_log WHERE id > ?1 AND table_id = ?2",
                [before, encode(0, KIND_SCHEMA)],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(logged as usize, steps.len(), "{sql}");
        let read = |bytes: &Vec<u8>| ciborium::from_reader::<ChangeSet, _>(&bytes[..]).unwrap().1;
        steps.iter().flat_map(read).map(|change| change.words()).collect()
    }
}

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);";

#[test]
fn ddl_travels_under_the_names_that_survive_a_rename() {
    let node = Node::new(SCHEMA, SchemaMode::All);
    for (sql, words) in [
        ("INSERT INTO t VALUES (1, 'x')", vec![]),
        ("CREATE TABLE n (a PRIMARY KEY)", vec!["create table n"]),
        ("ALTER TABLE t RENAME COLUMN v TO w", vec!["rename column v of table t to w"]),
        (
            "ALTER TABLE t RENAME TO u; ALTER TABLE u ADD COLUMN x INT",
            vec!["rename table t to u", "add to table u column x INT"],
        ),
        ("CREATE TABLE __harmonylite__x (a)", vec![]),
        ("DROP TABLE n", vec!["drop table n, with its rows"]),
    ] {
        assert_eq!(node.run(sql), words, "{sql}");
    }
    assert_eq!(node.run(""), [""; 0], "nothing comes twice");
}

#[test]
fn additive_sends_what_it_does_not_make_so_that_others_wait_for_it() {
    let node = Node::new(SCHEMA, SchemaMode::Additive);
    let both = "CREATE TABLE n (a PRIMARY KEY); ALTER TABLE t DROP COLUMN v";
    assert_eq!(node.run(both).len(), 2);
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN x"), ["add to table t column x"]);
}

#[test]
fn off_forgets_and_the_first_look_sends_nothing() {
    let mut node = Node::new(SCHEMA, SchemaMode::All);
    node.mode = SchemaMode::Off;
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN x"), [""; 0]);
    assert_eq!(meta::get(&node.db, meta::CARRIED_SCHEMA).unwrap(), None);
    node.mode = SchemaMode::All;
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN y"), [""; 0]);
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN z"), ["add to table t column z"]);
}

#[test]
fn what_another_node_made_is_not_sent_on() {
    let node = Node::new(SCHEMA, SchemaMode::All);
    node.db.execute_batch("ALTER TABLE t ADD COLUMN x").unwrap();
    let (layout, _) = install(&node.db, &node.filter, 0).unwrap();
    settle(&node.db, &layout, &node.filter).unwrap();
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN y"), ["add to table t column y"]);
}

#[test]
fn a_change_beyond_the_limit_stays_here() {
    let mut node = Node::new(SCHEMA, SchemaMode::All);
    node.limits.schema_change_bytes_max = 10;
    assert_eq!(node.run("ALTER TABLE t ADD COLUMN x"), [""; 0]);
}
