//! The database's files are deleted, replaced or renamed under a running sidecar (faults 18 and
//! 19).
//!
//! Goal: the node stops with its documented exit status (8), names the file, and writes nothing
//! into the new file, also while an application uses it. The same holds for a backup that is
//! restored into the live file, as the shell's `.restore` does. After a restart the node gets the
//! rows that the backup lacks. Method: replace the files of a running node in each of these ways.
//! The story: after a `.restore` the node continued with its counters in memory, and its database
//! stayed different permanently.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, open, rows, sound};
use rusqlite::backup::Progress;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT);";

/// Starts a node with a row, and another one that keeps writing.
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
            node.db
                .with_file_name(file)
                .canonicalize()
                .unwrap_or(node.db.with_file_name(file))
                .display()
        )),
        "{log}"
    );
    assert!(log.contains("hint: "), "{log}");
}

#[test]
fn a_deleted_database_stops_the_node_and_does_not_come_back() {
    let (mut cluster, db) = running();
    std::fs::remove_file(&db).unwrap();
    cluster.nodes[1]
        .app()
        .execute_batch("INSERT INTO note VALUES (2, 'comes in meanwhile')")
        .unwrap();
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
    // An application uses the new file all the time, and node 2 keeps sending.
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
    assert_eq!(
        rows(&application, "SELECT name FROM sqlite_schema"),
        [["\"other\""]],
        "something of ours is in the new file"
    );
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

/// Restores a backup like the shell's `.restore`.
fn restore(db: &Path, backup: &Path) {
    let mut application = open(db);
    application.restore("main", backup, None::<fn(Progress)>).unwrap();
}

/// The acknowledgement is not marked in the database yet, so the sidecar has written nothing since
/// the backup: only the log tells that it is another one.
#[test]
fn a_backup_restored_right_after_a_publication_stops_the_node_too() {
    let (mut cluster, db) = running();
    eventually("nothing waits to be written", || {
        cluster.nodes[0].status().is_some_and(|s| s["unmarked_rows"] == 0)
    });
    let backup = db.with_file_name("backup");
    open(&db).backup("main", &backup, None::<fn(Progress)>).unwrap();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch("INSERT INTO note VALUES (2, 'published')").unwrap();
    eventually("the row is at the peer", || number(&two, "SELECT count(*) FROM note") == 2);
    restore(&db, &backup);
    assert_eq!(cluster.nodes[0].ended(), 8, "{}", cluster.nodes[0].output());
    one.execute_batch("INSERT INTO note VALUES (4, 'after the restore')").unwrap();
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(number(&one, "SELECT count(*) FROM note"), 3);
    sound(&one);
}

#[test]
fn a_backup_restored_into_the_live_database_stops_the_node_and_is_caught_up() {
    let (mut cluster, db) = running();
    let backup = db.with_file_name("backup");
    open(&db).backup("main", &backup, None::<fn(Progress)>).unwrap();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute_batch(
        "INSERT INTO note VALUES (2, 'own, later'); UPDATE note SET text = 'changed' WHERE id = 1",
    )
    .unwrap();
    two.execute_batch("INSERT INTO note VALUES (3, 'of the other')").unwrap();
    cluster.converge();

    restore(&db, &backup);
    assert_eq!(cluster.nodes[0].ended(), 8, "{}", cluster.nodes[0].output());
    assert!(
        cluster.nodes[0].output().contains("was replaced while this node ran"),
        "{}",
        cluster.nodes[0].output()
    );
    assert_eq!(
        number(&one, "SELECT count(*) FROM note"),
        1,
        "nothing was written into what was restored"
    );

    one.execute_batch("INSERT INTO note VALUES (4, 'after the restore')").unwrap();
    cluster.nodes[0].run();
    eventually("all is everywhere", || {
        [&one, &two].iter().all(|db| {
            number(db, "SELECT count(*) FROM note") == 4
                && number(db, "SELECT text = 'changed' FROM note WHERE id = 1") == 1
        })
    });
    cluster.converge();
    sound(&one);
}

#[test]
fn a_backup_of_before_its_first_start_does_the_same() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let db = cluster.nodes[0].db.clone();
    let backup = db.with_file_name("backup");
    open(&db).backup("main", &backup, None::<fn(Progress)>).unwrap();
    cluster.run();
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'first')").unwrap();
    cluster.converge();
    restore(&db, &backup);
    assert_eq!(cluster.nodes[0].ended(), 8, "{}", cluster.nodes[0].output());
    cluster.nodes[0].run();
    cluster.converge();
    assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM note"), 1);
}

/// Opens the database under another name, to which only its file is mounted, as into a container.
/// None if this machine allows no mounts.
fn mounted(db: &Path) -> Option<(Child, ChildStdin)> {
    let other = db.with_file_name("mounted.db");
    std::fs::write(&other, "").unwrap();
    let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
        db.execute('SELECT count(*) FROM note').fetchone(); print('open', flush=True); \
        sys.stdin.read()";
    let mut application = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-c",
            "mount --bind \"$1\" \"$2\" && exec python3 -c \"$3\" \"$2\"",
            "sh",
        ])
        .args([db, &other])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut said = String::new();
    BufReader::new(application.stdout.take()?).read_line(&mut said).ok()?;
    if said.trim() != "open" {
        println!("no mounts here: this test shows nothing");
        return None;
    }
    let stdin = application.stdin.take()?;
    Some((application, stdin))
}

#[test]
fn a_database_of_which_only_the_file_is_mounted_elsewhere_is_left_alone() {
    let (mut cluster, db) = running();
    let node = &mut cluster.nodes[0];
    // The application comes while the node runs, and then the node while the application runs.
    let Some((mut application, stdin)) = mounted(&db) else { return };
    assert_eq!(node.ended(), 8, "{}", node.output());
    node.start();
    assert_eq!(node.ended(), 8, "{}", node.output());
    assert_eq!(node.output().matches("harmonylite: ").count(), 2, "{}", node.output());
    assert!(node.output().contains("mounted into a container"), "{}", node.output());
    drop(stdin);
    application.wait().unwrap();
    node.run();
    sound(&node.app());
}

/// What the application wrote while somebody emptied the log, before and after, arrives; a log that
/// was emptied is not taken for a backup that was restored, and the node goes on.
#[test]
fn an_emptied_change_log_loses_no_change() {
    const EMPTY: &str = "DELETE FROM __harmonylite__change_log";
    let (mut cluster, _) = running();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    let rows_at_the_peer = |wanted: i64| {
        eventually("the rows are at the peer", || {
            number(&two, "SELECT count(*) FROM note") == wanted
        });
    };
    // Acknowledged a moment ago, and not marked yet.
    one.execute_batch("INSERT INTO note VALUES (2, 'published')").unwrap();
    rows_at_the_peer(2);
    one.execute_batch(EMPTY).unwrap();
    one.execute_batch("INSERT INTO note VALUES (3, 'after it')").unwrap();
    rows_at_the_peer(3);
    // Row 2 lost its log entry before it had a version. Until the comparison has given it one, a
    // delete without a log entry leaves no trace.
    eventually("row 2 has a version", || {
        number(&one, "SELECT count(*) FROM __harmonylite__note_version WHERE key0 = 2") == 1
            && number(&one, "SELECT count(*) FROM __harmonylite__comparison") == 0
    });
    // In one transaction, so that the node sees a log that is as long as the former one.
    one.execute_batch(&format!(
        "BEGIN; INSERT INTO note VALUES (4, 'not logged'); UPDATE note SET text = 'not logged' \
        WHERE id = 1; DELETE FROM note WHERE id = 2; {EMPTY}; WITH RECURSIVE c(i) AS (SELECT 100 \
        UNION ALL SELECT i + 1 FROM c WHERE i < 149) INSERT INTO note SELECT i, 'x' FROM c; COMMIT"
    ))
    .unwrap();
    rows_at_the_peer(53);
    eventually("the change that was not logged is at the peer", || {
        number(&two, "SELECT text = 'not logged' FROM note WHERE id = 1") == 1
    });
    // While it is stopped.
    cluster.nodes[0].stop();
    one.execute_batch(&format!("UPDATE note SET text = 'stopped' WHERE id = 3; {EMPTY}")).unwrap();
    one.execute_batch("INSERT INTO note VALUES (200, 'logged again')").unwrap();
    cluster.nodes[0].run();
    eventually("the change without a sidecar is at the peer", || {
        number(&two, "SELECT text = 'stopped' FROM note WHERE id = 3") == 1
    });
    cluster.converge();
    let log = cluster.nodes[0].output();
    assert_eq!(log.matches("somebody emptied __harmonylite__change_log").count(), 3, "{log}");
}
