//! Tables without a PRIMARY KEY: a UNIQUE index identifies their rows, or they stay local.
//!
//! Goal: nothing is silently wrong. Two nodes that insert at once keep both rows, VACUUM changes
//! nothing, and a table whose rows have no identity is named with the remedy. The story: such
//! tables were replicated by the rowid; VACUUM renumbered it, and rows of others were overwritten.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, converge, eventually, number};

const SCHEMA: &str = "CREATE TABLE profile (user TEXT NOT NULL, name TEXT, UNIQUE (user));
     CREATE TABLE seat (room TEXT NOT NULL COLLATE NOCASE, n INTEGER NOT NULL, by TEXT);
     CREATE UNIQUE INDEX seats ON seat (room, n);
     CREATE TABLE note (a, b);";

#[test]
fn a_unique_index_identifies_rows() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let (db_one, db_two) = (one.app(), two.app());
    // Both nodes use the rowids 1 and 2.
    db_one
        .execute_batch(
            "INSERT INTO profile VALUES ('a', 'A'), ('c', 'C'); INSERT INTO seat VALUES \
            ('x', 1, 'a')",
        )
        .unwrap();
    db_two
        .execute_batch(
            "INSERT INTO profile VALUES ('b', 'B'), ('d', 'D'); INSERT INTO seat VALUES \
            ('x', 2, 'b')",
        )
        .unwrap();
    // `note` stays local, so it has no rows that could differ.
    converge(&[one, two]);
    assert_eq!(number(&db_one, "SELECT count(*) FROM profile"), 4);

    db_one.execute_batch("DELETE FROM profile WHERE user = 'a'; VACUUM").unwrap();
    converge(&[one, two]);
    db_one.execute_batch("UPDATE profile SET name = 'C2' WHERE user = 'c'").unwrap();
    db_two.execute_batch("REPLACE INTO profile VALUES ('d', 'D2')").unwrap();
    db_two.execute_batch("UPDATE seat SET n = 3 WHERE n = 2").unwrap();
    db_one.execute_batch("UPDATE seat SET room = 'X', by = 'c' WHERE n = 1").unwrap();
    converge(&[one, two]);
    for db in [&db_one, &db_two] {
        let names: String = db
            .query_row(
                "SELECT group_concat(name, ' ') FROM (SELECT name FROM profile ORDER BY \
                user)",
                [],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(names, "B C2 D2");
        let seats: String = db
            .query_row(
                "SELECT group_concat(room || n || by, ' ') FROM (SELECT * FROM seat ORDER \
                BY n)",
                [],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(seats, "X1c x3b");
    }
}

#[test]
fn a_table_without_identity_stays_local_and_is_named() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let (db_one, db_two) = (one.app(), two.app());
    db_one
        .execute_batch(
            "INSERT INTO note VALUES (1, 'stays'); INSERT INTO profile VALUES ('a', 'A')",
        )
        .unwrap();
    eventually("the profile arrives", || number(&db_two, "SELECT count(*) FROM profile") == 1);
    assert_eq!(number(&db_two, "SELECT count(*) FROM note"), 0);
    for command in ["status", "doctor"] {
        let text = String::from_utf8(one.cli(&[command]).stdout).unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("note") && words.contains("no PRIMARY KEY"), "{command}: {text}");
        assert!(words.contains("tables.without_key"), "{command}: {text}");
    }
    // The remedy: an index, on both nodes. What was there is sent.
    for db in [&db_one, &db_two] {
        db.execute_batch(
            "BEGIN; CREATE TABLE new_note (a NOT NULL, b); INSERT INTO new_note SELECT * FROM \
            note; DROP TABLE note; ALTER TABLE new_note RENAME TO note; CREATE UNIQUE INDEX notes \
            ON note (a); COMMIT",
        )
        .unwrap();
    }
    converge(&[one, two]);
    assert_eq!(number(&db_two, "SELECT count(*) FROM note"), 1);
}
