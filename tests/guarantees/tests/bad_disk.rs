//! A full disk delays a node, a failing disk ends it, and neither loses anything (faults 4 and 21).
//!
//! Goal: while the disk of a node's database is full, the node keeps running, reports in `status`
//! what finds no room, and quarantines nothing. A SIGKILL in that state loses nothing either. As
//! soon as there is room everything arrives, without a restart. If a write or sync of the
//! database's files fails (the first or the fortieth, once or permanently), the database stays
//! sound and nothing is half applied. The node continues, or ends and names the database; the next
//! start continues. Method: a small library makes the disk bad for the sidecar alone, its log
//! included (`bad_disk.c`). The stories: a line of the log that found no room ended the process. A
//! large batch whose part found no room counted as damaged, and its last part alone was
//! quarantined. An embedded nats-server whose disk was full stored nothing more until it was
//! restarted (`embedded/tests/alone.rs`).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, sound};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCHEMA: &str = "CREATE TABLE entry (id TEXT PRIMARY KEY, body BLOB)";
const MB: i64 = 1_000_000;

/// Loads the library into a node that does not run yet.
fn load(node: &mut Node, dir: &Path) {
    let library = dir.join("bad_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bad_disk.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(built.success(), "bad_disk.c does not compile");
    node.set_env("LD_PRELOAD", library);
    node.set_env("BAD_DISK_DIR", node.config.parent().unwrap().to_owned());
}

/// A disk that can be full.
struct Disk {
    full: PathBuf,
}

impl Disk {
    /// Creates it for a node that does not run yet.
    fn under(node: &mut Node, dir: &Path) -> Self {
        load(node, dir);
        let full = dir.join("full");
        node.set_env("BAD_DISK_FULL", full.clone());
        Self { full }
    }

    fn fill(&self) {
        fs::write(&self.full, "").unwrap();
    }

    fn free(&self) {
        fs::remove_file(&self.full).unwrap();
    }
}

/// Writes rows in one transaction.
fn write(node: &Node, prefix: &str, rows: i64, bytes: i64) {
    let sql = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?2)
               INSERT INTO entry SELECT ?1 || i, randomblob(?3) FROM c";
    node.app().execute(sql, rusqlite::params![prefix, rows, bytes]).unwrap();
}

#[track_caller]
fn status_reports(node: &Node, part: &str) {
    eventually(&format!("status reports: {part}"), || {
        node.status().is_some_and(|s| s["degraded"].to_string().contains(part))
    });
}

/// Waits until all rows have arrived, and compares them byte for byte. SQLite compares them,
/// because these are many bytes.
#[track_caller]
fn is_well(cluster: &Cluster, rows: i64) {
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let db = one.app();
    db.execute("ATTACH ?1 AS other", [two.db.to_str().unwrap()]).unwrap();
    for table in ["main.entry", "other.entry"] {
        eventually("all rows are there", || {
            number(&db, &format!("SELECT count(*) FROM {table}")) == rows
        });
    }
    assert_eq!(
        number(
            &db,
            "SELECT count(*) FROM (SELECT * FROM main.entry EXCEPT SELECT * FROM other.entry)"
        ),
        0
    );
    for node in [one, two] {
        has_recovered(node);
    }
}

fn has_recovered(node: &Node) {
    eventually("nothing is wrong any more", || {
        node.status().is_some_and(|s| s["degraded"].as_array().is_some_and(Vec::is_empty))
    });
    assert_eq!(node.counter("quarantined"), 0);
}

#[test]
fn a_full_disk_delays_what_comes_and_what_goes_and_loses_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let disk = Disk::under(&mut cluster.nodes[0], cluster.dir.path());
    cluster.run();
    write(&cluster.nodes[1], "before", 10, 100);
    cluster.converge();

    // A remote row finds no room in the database, but local commits are still sent.
    disk.fill();
    write(&cluster.nodes[1], "small", 200, 1_000);
    write(&cluster.nodes[0], "own", 1, 100);
    status_reports(&cluster.nodes[0], "the disk under the database is full");
    eventually("it is sent", || {
        number(&cluster.nodes[1].app(), "SELECT count(*) FROM entry WHERE id = 'own1'") == 1
    });
    disk.free();
    is_well(&cluster, 211);

    // An incoming transaction too large for memory finds no room next to the database.
    disk.fill();
    write(&cluster.nodes[1], "large", 12, MB);
    write(&cluster.nodes[1], "after", 10, 100);
    status_reports(&cluster.nodes[0], "for a large batch");
    assert_eq!(
        number(&cluster.nodes[0].app(), "SELECT count(*) FROM entry WHERE id LIKE 'after%'"),
        0,
        "nothing overtakes its origin's batch"
    );
    disk.free();
    is_well(&cluster, 233);

    // An outgoing one finds no room either.
    disk.fill();
    write(&cluster.nodes[0], "huge", 70, MB);
    status_reports(&cluster.nodes[0], "cannot build a batch");
    disk.free();
    is_well(&cluster, 303);

    for node in &mut cluster.nodes {
        assert!(node.is_running());
        sound(&node.app());
    }
}

#[test]
fn a_node_that_is_killed_while_its_disk_is_full_loses_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let disk = Disk::under(&mut cluster.nodes[0], cluster.dir.path());
    cluster.run();
    disk.fill();
    write(&cluster.nodes[1], "large", 12, MB);
    write(&cluster.nodes[0], "own", 100, 1_000);
    status_reports(&cluster.nodes[0], "full");
    cluster.nodes[0].kill();
    disk.free();
    cluster.nodes[0].run();
    is_well(&cluster, 112);
    sound(&cluster.nodes[0].app());
}

/// Sets the failing call, and whether all later calls fail too.
fn broken(node: &mut Node, nth: u32, ever: bool) {
    node.set_env("BAD_DISK_NTH", nth.to_string());
    if ever {
        node.set_env("BAD_DISK_EVER", "yes");
    }
}

#[test]
fn whichever_write_fails_nothing_is_lost_or_half_applied() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.nodes[1]
        .app()
        .execute_batch("CREATE TABLE pair (id INTEGER PRIMARY KEY, a INT, b INT)")
        .unwrap();
    cluster.nodes[0]
        .app()
        .execute_batch("CREATE TABLE pair (id INTEGER PRIMARY KEY, a INT, b INT)")
        .unwrap();
    cluster.run();
    let (mut round, mut ended) = (0, 0);
    for nth in [1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40] {
        for ever in [false, true] {
            round += 1;
            let [one, two] = &mut cluster.nodes[..] else { panic!("two nodes") };
            one.stop();
            two.app()
                .execute_batch(&format!(
                    "INSERT INTO pair SELECT {round}, {round}, {round}; \
                    UPDATE pair SET a = {round}, b = {round}"
                ))
                .unwrap();
            write(one, &format!("{round}-"), 20, 100);
            load(one, cluster.dir.path());
            broken(one, nth, ever);
            one.start();
            let done = |one: &Node| {
                number(&one.app(), "SELECT count(*) FROM pair") == round
                    && one.status().is_some_and(|s| s["pending_rows"] == 0)
            };
            eventually("it has done all, or has ended", || !one.is_running() || done(one));
            assert_eq!(number(&one.app(), "SELECT count(*) FROM pair WHERE a <> b"), 0);
            assert!(
                number(&one.app(), "SELECT count(DISTINCT a) FROM pair") <= 1,
                "no transaction is half applied"
            );
            if one.is_running() {
                one.kill();
            } else {
                ended += 1;
                assert_ne!(one.ended(), 0, "call {nth}");
                let said = one
                    .output()
                    .lines()
                    .rfind(|line| line.starts_with("harmonylite: "))
                    .map(str::to_owned);
                assert!(
                    said.as_ref().is_some_and(|said| said.contains("app.db")),
                    "call {nth}: it does not name the database: {said:?}"
                );
            }
            one.clear_env();
            one.run();
            let rows = round * 20;
            eventually("all is everywhere", || {
                number(&two.app(), "SELECT count(*) FROM entry") == rows && done(one)
            });
            sound(&one.app());
        }
    }
    cluster.converge();
    assert!(ended > 4, "only {ended} of the failures were noticed");
}
