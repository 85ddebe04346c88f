//! The database's files deleted, replaced or renamed under a running sidecar (faults 18 and 19).
//!
//! Goal: the node stops with its documented exit status (8) and names the file, and nothing is written into what is there
//! now, also while an application is busy with the new file. Method: each kind of replacement, done to a running node.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, open, rows, sound};
use std::path::PathBuf;

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);";

/// A running node with a row, and another that goes on writing.
fn running() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'first')").unwrap();
    cluster.converge();
    let db = cluster.nodes[0].db.clone();
    (cluster, db)
}

#[track_caller]
fn stops(node: &mut Node, file: &str) {
    assert_eq!(node.ended(), 8, "{}", node.output());
    let log = node.output();
    assert!(
        log.contains(&format!(
            "harmonylite: {}",
            node.db.with_file_name(file).canonicalize().unwrap_or(node.db.with_file_name(file)).display()
        )),
        "{log}"
    );
    assert!(log.contains("hint: "), "{log}");
}

#[test]
fn a_deleted_database_stops_the_node_and_does_not_come_back() {
    let (mut cluster, db) = running();
    std::fs::remove_file(&db).unwrap();
    cluster.nodes[1].app().execute_batch("INSERT INTO note VALUES (2, 'comes in meanwhile')").unwrap();
    stops(&mut cluster.nodes[0], "app.db");
    assert!(!db.exists(), "the deleted file came back");
}

#[test]
fn a_renamed_database_stops_the_node_and_stays_whole() {
    let (mut cluster, db) = running();
    let moved = db.with_file_name("moved.db");
    std::fs::rename(&db, &moved).unwrap();
    stops(&mut cluster.nodes[0], "app.db");
    assert!(!db.exists());
    sound(&open(&moved));
}

#[test]
fn a_replaced_database_stays_as_its_application_writes_it() {
    let (mut cluster, db) = running();
    let new = db.with_file_name("backup.db");
    open(&new).execute_batch("CREATE TABLE other (id INTEGER PRIMARY KEY)").unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(db.with_file_name(format!("app.db{suffix}")));
    }
    std::fs::rename(&new, &db).unwrap();
    // An application that is busy with the new file all the time; node 2 goes on sending.
    let (application, peer) = (open(&db), cluster.nodes[1].app());
    let (mut written, mut id) = (0, 10);
    eventually("the node stops", || {
        application.execute("INSERT INTO other VALUES (NULL)", []).unwrap();
        written += 1;
        if written % 50 == 0 {
            peer.execute("INSERT INTO note VALUES (?1, 'x')", [id]).unwrap();
            id += 1;
        }
        !cluster.nodes[0].is_running()
    });
    stops(&mut cluster.nodes[0], "app.db");
    assert_eq!(number(&application, "SELECT count(*) FROM other"), written);
    assert_eq!(rows(&application, "SELECT name FROM sqlite_schema"), [["\"other\""]], "something of ours is in the new file");
    drop(application);
    let again = open(&db);
    sound(&again);
    assert_eq!(number(&again, "SELECT count(*) FROM other"), written);
}

#[test]
fn a_deleted_wal_stops_the_node() {
    let (mut cluster, db) = running();
    let application = cluster.nodes[0].app();
    application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    std::fs::remove_file(db.with_file_name("app.db-wal")).unwrap();
    stops(&mut cluster.nodes[0], "app.db-wal");
    drop(application);
    let again = open(&db);
    sound(&again);
    assert_eq!(number(&again, "SELECT count(*) FROM note WHERE id = 1"), 1);
}
