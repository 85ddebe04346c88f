//! Mistakes are refused with one clear error that names the cause, a documented exit status, and no
//! change.
//!
//! Goal: every line of "Bad input". Method: make each mistake as a person would, with the real
//! binary, and compare the bytes of the database and its directory before and after.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Broker, Cluster, Node, binary, eventually, number, open};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO note \
    VALUES (1, 'here before')";

/// Returns every file of a directory with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.is_file()).map(|p| (p.clone(), std::fs::read(&p).unwrap())).collect()
}

/// Creates a database without a WAL, as after the end of its application.
fn database(dir: &Path) -> PathBuf {
    let db = dir.join("app.db");
    open(&db).execute_batch(SCHEMA).unwrap();
    db
}

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

/// Checks the exit status, and that the two lines of the error name the cause and give a hint.
#[track_caller]
fn refused(out: &Output, status: i32, named: &[&str]) {
    let text =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(status), "{text}");
    assert_names(&text, named);
}

#[track_caller]
fn assert_names(text: &str, named: &[&str]) {
    let said: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("harmonylite: ") || l.starts_with("hint: "))
        .collect();
    assert_eq!(said.len(), 2, "one clear error and one hint: {text}");
    for name in named {
        assert!(said.concat().contains(name), "{name:?} is not named: {said:?}");
    }
}

/// Runs a node that is refused, and checks that its database's directory is unchanged.
#[track_caller]
fn refused_unchanged(node: &mut Node, status: i32, named: &[&str]) {
    let dir = node.db.parent().unwrap().to_owned();
    let content = |all: BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
        all.into_iter().filter(|(path, _)| !path.ends_with("log")).collect()
    };
    let before = content(files(&dir));
    let said = node.output().len();
    node.start();
    assert_eq!(node.ended(), status, "{}", node.output());
    assert_names(&node.output()[said..], named);
    let after = content(files(&dir));
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>(),
        "files came or went"
    );
    assert!(after == before, "the bytes of a file changed");
}

#[test]
fn files_that_are_no_usable_database() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let good = database(&dir);
    let bytes = std::fs::read(&good).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut damaged = bytes.clone();
    damaged[16..18].copy_from_slice(&[3, 3]);
    let encrypted: Vec<u8> =
        (0..8_192_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let wide = dir.join("wide.db");
    rusqlite::Connection::open(&wide)
        .unwrap()
        .execute_batch("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (id INTEGER PRIMARY KEY)")
        .unwrap();
    let cases = [
        (wide.to_str().unwrap().to_owned(), "UTF-16"),
        (dir.join("missing.db").to_str().unwrap().to_owned(), "no such database"),
        (file("notes.txt", b"Dear diary, this is no database at all."), "not an SQLite database"),
        (file("encrypted.db", &encrypted), "encrypted"),
        (file("page size.db", &damaged), "damaged"),
        (file("cut off.db", &bytes[..bytes.len() / 2]), "damaged"),
        (dir.to_str().unwrap().to_owned(), "is a directory"),
        ("/dev/null".to_owned(), "not an ordinary file"),
    ];
    let before = files(&dir);
    for (path, named) in cases {
        let out = run(&["run", "--db", &path, "-node-id", "1"]);
        refused(&out, 3, &[named, &path]);
    }
    assert!(files(&dir) == before, "a refused file was changed, or something was left beside it");
}

#[test]
fn files_without_permission() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    use std::os::unix::fs::PermissionsExt;
    let allow = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
    };
    allow(&dir, 0o777);
    let db = database(&dir);
    // Root may do everything, so run it as `nobody`, from a place that `nobody` may read.
    let program = dir.join("harmonylite");
    std::fs::copy(binary(), &program).unwrap();
    allow(&program, 0o755);
    let as_nobody = |path: &Path| {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["run", "-node-id", "1", "--db"])
            .arg(path)
            .current_dir("/")
            .output()
    };
    let is_root = String::from_utf8_lossy(&Command::new("id").arg("-u").output().unwrap().stdout)
        .trim()
        == "0";
    let run = |path: &Path| {
        if is_root {
            as_nobody(path)
        } else {
            Command::new(&program).args(["run", "-node-id", "1", "--db"]).arg(path).output()
        }
    };
    let mut parts = Vec::new();
    for (file_mode, dir_mode, named) in
        [(0o444, 0o777, "cannot write"), (0o000, 0o777, "cannot read"), (0o666, 0o555, "directory")]
    {
        allow(&db, file_mode);
        allow(&dir, dir_mode);
        let before = files(&dir);
        match run(&db) {
            Ok(out) => {
                refused(&out, 3, &[named, dir.to_str().unwrap()]);
                parts.push(named);
            }
            Err(error) => {
                println!("skipped ({named}): this is root, and setpriv is not here: {error}")
            }
        }
        assert!(files(&dir) == before, "a refused file was changed");
    }
    allow(&dir, 0o777);
    println!("refused: {parts:?}");
}

#[test]
fn a_lock_that_is_held_at_the_start_is_waited_for() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let app = cluster.nodes[0].app();
    app.execute_batch("BEGIN IMMEDIATE; INSERT INTO note VALUES (2, 'held')").unwrap();
    cluster.nodes[0].start();
    // It waits: it already holds the lock file, has not ended, and has written nothing into the
    // database.
    let lock = cluster.nodes[0].db.with_file_name("app.db-harmonylite");
    eventually("the node is at the database", || lock.exists());
    let begin = std::time::Instant::now();
    eventually("it waits for seconds", || {
        assert!(cluster.nodes[0].is_running(), "{}", cluster.nodes[0].output());
        begin.elapsed() > std::time::Duration::from_secs(3)
    });
    assert_eq!(
        number(&app, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*'"),
        0
    );
    app.execute_batch("COMMIT").unwrap();
    cluster.nodes[0].ready();
    assert_eq!(number(&app, "SELECT count(*) FROM note"), 2);
}

#[test]
fn a_second_sidecar_on_the_same_file() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.run();
    let node = &cluster.nodes[0];
    let pid = node.pid().to_string();
    refused(&node.cli(&["run"]), 4, &["already runs", "app.db", &pid]);
    // The same file by another path, and under another node id.
    let link = cluster.dir.path().join("link.db");
    std::os::unix::fs::symlink(&node.db, &link).unwrap();
    let second = node.cli(&["run", "--db", link.to_str().unwrap(), "-node-id", "9"]);
    refused(&second, 4, &["already runs", &pid]);
    node.app().execute_batch("INSERT INTO note VALUES (3, 'still')").unwrap();
    eventually("the first one goes on", || node.status().is_some_and(|s| s["pending_rows"] == 0));
    cluster.nodes[0].stop();
    cluster.nodes[0].run();
}

#[test]
fn the_same_node_id_elsewhere() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    cluster.converge();
    // A cloned disk has the whole directory, with the same node id, on the same broker.
    let node = &cluster.nodes[0];
    let mut clone = Node::new(&cluster.dir.path().join("clone"), node.id, "");
    for (from, bytes) in files(node.db.parent().unwrap()) {
        let name = from.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("app.db") && !name.contains("harmonylite") {
            std::fs::write(clone.db.with_file_name(name), bytes).unwrap();
        }
    }
    let config = std::fs::read_to_string(&node.config)
        .unwrap()
        .replace(node.db.to_str().unwrap(), clone.db.to_str().unwrap());
    std::fs::write(&clone.config, config).unwrap();
    clone.start();
    assert_eq!(clone.ended(), 5, "{}", clone.output());
    assert_names(&clone.output(), &["node id 1", node.db.to_str().unwrap(), "node_id"]);
    // Another database under the same id stays without our tables.
    let mut stranger = Node::new(&cluster.dir.path().join("stranger"), node.id, "");
    std::fs::remove_file(&stranger.db).ok();
    database(stranger.db.parent().unwrap());
    let config = std::fs::read_to_string(&node.config)
        .unwrap()
        .replace(node.db.to_str().unwrap(), stranger.db.to_str().unwrap());
    std::fs::write(&stranger.config, config).unwrap();
    refused_unchanged(&mut stranger, 5, &["node id 1", node.db.to_str().unwrap(), "node_id"]);
    // The first one continues, and so do all others.
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (7, 'the original')").unwrap();
    cluster.nodes[1].app().execute_batch("INSERT INTO note VALUES (8, 'its peer')").unwrap();
    for node in &cluster.nodes {
        let db = node.app();
        eventually("both rows are there", || {
            number(&db, "SELECT count(*) FROM note WHERE id IN (7, 8)") == 2
        });
    }
    cluster.converge();
    assert!(cluster.nodes.iter_mut().all(Node::is_running));
}

#[test]
fn a_port_that_is_in_use() {
    let mut cluster = Cluster::new(1, SCHEMA);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = std::fs::read_to_string(&cluster.nodes[0].config).unwrap();
    for section in ["health_check", "prometheus"] {
        std::fs::write(
            &cluster.nodes[0].config,
            format!("{config}\n[{section}]\nenable = true\nbind = {address:?}\n"),
        )
        .unwrap();
        cluster.nodes[0].start();
        assert_eq!(cluster.nodes[0].ended(), 7, "{}", cluster.nodes[0].output());
        assert!(cluster.nodes[0].output().contains(&address), "{}", cluster.nodes[0].output());
        assert_eq!(number(&cluster.nodes[0].app(), "SELECT count(*) FROM note"), 1);
    }
    drop(taken);
    cluster.nodes[0].run();
}

#[test]
fn brokers_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let node = |name: &str, settings: &str| {
        let node = Node::new(&dir.path().join(name), 1, settings);
        drop(database(node.db.parent().unwrap()));
        node
    };
    let locked = Broker::start_with(
        &dir.path().join("locked"),
        &["-js", "--user", "app", "--pass", "right"],
    );
    let mut wrong = node(
        "wrong",
        &format!(
            "[nats]\nurls = [{:?}]\nuser_name = \"app\"\nuser_password = \"hunter2\"",
            locked.url()
        ),
    );
    refused_unchanged(&mut wrong, 6, &[&locked.url().replace("nats://", ""), "user_password"]);
    assert!(!wrong.output().contains("hunter2"), "the password is shown");
    let mut without = node("without", &format!("[nats]\nurls = [{:?}]", locked.url()));
    refused_unchanged(&mut without, 6, &[&locked.url().replace("nats://", ""), "user_name"]);
    let mut right = node(
        "right",
        &format!(
            "[nats]\nurls = [{:?}]\nuser_name = \"app\"\nuser_password = \"right\"",
            locked.url()
        ),
    );
    right.run();
    right.stop();

    let plain = Broker::start_with(&dir.path().join("plain"), &[]);
    refused_unchanged(
        &mut node("plain", &format!("[nats]\nurls = [{:?}]", plain.url())),
        6,
        &["JetStream", "-js"],
    );
}

#[test]
fn a_stream_with_another_configuration() {
    let mut cluster = Cluster::with(1, SCHEMA, "replication_log.max_entries = 5000");
    cluster.run();
    let other = cluster.add(SCHEMA, "replication_log.max_entries = 7000");
    refused_unchanged(
        other,
        6,
        &["max_entries is 5000, the configuration says 7000", "update_existing"],
    );
    let changing = std::fs::read_to_string(&other.config).unwrap().replace(
        "max_entries = 7000",
        "max_entries = 7000\nreplication_log.update_existing = true",
    );
    std::fs::write(&other.config, changing).unwrap();
    other.run();
    cluster.converge();
    // Now the first node's configuration differs.
    cluster.nodes[0].stop();
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].ended(), 6);
    assert!(
        cluster.nodes[0].output().contains("max_entries is 7000, the configuration says 5000"),
        "{}",
        cluster.nodes[0].output()
    );
}

#[test]
fn configuration_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let mut unknown = Node::new(dir.path(), 1, "[replication_log]\nmax_entires = 5");
    drop(database(unknown.db.parent().unwrap()));
    refused_unchanged(
        &mut unknown,
        2,
        &["line 4", "replication_log.max_entires", "did you mean replication_log.max_entries?"],
    );
    let mut value = Node::new(dir.path(), 1, "on_join = \"keep\"");
    refused_unchanged(&mut value, 2, &["on_join"]);
    refused(&run(&["-config", "/no/such/file.toml"]), 2, &["/no/such/file.toml"]);
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_broker_that_cannot_be_reached_is_waited_for() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.broker.kill();
    cluster.nodes[0].start();
    let node = &cluster.nodes[0];
    eventually("it reports what it waits for", || {
        node.status().is_some_and(|s| {
            s["broker"]["connected"] == false
                && s["degraded"].to_string().contains("disconnected from NATS")
        })
    });
    node.app().execute_batch("INSERT INTO note VALUES (2, 'captured meanwhile')").unwrap();
    eventually("it captures", || node.status().is_some_and(|s| s["pending_rows"] == 1));
    cluster.broker.run();
    cluster.nodes[0].ready();
    eventually("what was captured is sent", || {
        cluster.nodes[0].status().is_some_and(|s| s["pending_rows"] == 0)
    });
}
