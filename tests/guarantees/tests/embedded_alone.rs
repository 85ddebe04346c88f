//! A node without an external broker starts its own server, keeps it alive, and ends it with
//! itself.
//!
//! Goal: `harmonylite run --db app.db` is enough. The node survives the death of its server, the
//! server ends with its node, and another node can use that server. Method: real processes, killed
//! with SIGKILL.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{
    Node, Process, binary, converge, embedded, eventually, free_port, nats_server, open, rows,
    servers_below, status_of, timed,
};
use std::path::Path;
use std::process::Command;

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[track_caller]
fn one_server_below(dir: &Path) -> u32 {
    let mut found = Vec::new();
    eventually("one nats-server runs", || {
        found = servers_below(dir);
        found.len() == 1
    });
    found[0]
}

#[test]
fn a_database_is_all_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    open(&db).execute_batch(SCHEMA).unwrap();
    let mut command = Command::new(binary());
    command
        .args(["run", "--db", "app.db"])
        .current_dir(dir.path())
        .env("HARMONYLITE_NATS_SERVER", nats_server());
    let mut process = Process::start(&mut command, &dir.path().join("log"));
    timed("harmonylite run --db app.db -> joined", || {
        eventually("the node has joined", || {
            assert!(process.ended().is_none(), "the node ended: {}", process.output());
            status_of(&db).is_some_and(|s| s["joined"] == true && s["broker"]["linked"] == true)
        });
    });
    open(&db).execute_batch("INSERT INTO note VALUES (1, 'written')").unwrap();
    eventually("the row is published", || {
        status_of(&db).is_some_and(|s| {
            s["pending_rows"] == 0 && s["counters"]["batches_published"].as_u64() >= Some(1)
        })
    });
    assert!(
        status_of(&db).unwrap()["degraded"].as_array().unwrap().is_empty(),
        "{}",
        status_of(&db).unwrap()
    );
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.output());
    assert_eq!(servers_below(dir.path()), [] as [u32; 0], "a server was left behind");
}

/// Creates a node that others connect to, and one that connects to it.
fn pair(dir: &Path) -> (Node, Node) {
    let port = free_port();
    let login = "user_name = \"shop\"\nuser_password = \"s3cret#\"\n";
    let host =
        Node::new(dir, 1, &format!("{}bind_address = \"127.0.0.1:{port}\"\n{login}", embedded()));
    let guest = Node::new(
        dir,
        2,
        &format!(
            "[nats]\nurls = [\"nats://127.0.0.1:{port}\"]\nreconnect_wait_seconds = 1\n{login}"
        ),
    );
    for node in [&host, &guest] {
        node.app().execute_batch(SCHEMA).unwrap();
    }
    (host, guest)
}

#[test]
fn a_second_node_uses_the_server_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (mut host, mut guest) = pair(dir.path());
    host.run();
    guest.run();
    host.app().execute_batch("INSERT INTO note VALUES (1, 'of the host')").unwrap();
    guest.app().execute_batch("INSERT INTO note VALUES (2, 'of the guest')").unwrap();
    converge(&[&host, &guest]);
    assert_eq!(rows(&host.app(), "SELECT count(*) FROM note")[0][0], "Integer(2)");

    // A node with the wrong password is refused. It exits instead of retrying without end.
    let text = std::fs::read_to_string(&guest.config).unwrap();
    let mut stranger = Node::new(dir.path(), 3, "");
    stranger.app().execute_batch(SCHEMA).unwrap();
    let path = stranger.db.to_str().unwrap().to_owned();
    let text = text
        .replace("s3cret#", "guessed")
        .replace("node_id = 2", "node_id = 3")
        .replace(guest.db.to_str().unwrap(), &path);
    std::fs::write(&stranger.config, text).unwrap();
    stranger.start();
    assert_ne!(stranger.ended(), 0);
    assert!(stranger.output().contains("nats.user_password"), "{}", stranger.output());
}

#[test]
fn the_server_dies_and_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut host, mut guest) = pair(dir.path());
    host.run();
    guest.run();
    for round in 1..=3 {
        let server = one_server_below(dir.path());
        kill(server);
        host.app().execute("INSERT INTO note VALUES (?1, 'of the host')", [round * 10]).unwrap();
        guest
            .app()
            .execute("INSERT INTO note VALUES (?1, 'of the guest')", [round * 10 + 1])
            .unwrap();
        timed(
            &format!("the server is killed; rows written then are everywhere, round {round}"),
            || converge(&[&host, &guest]),
        );
        assert_ne!(one_server_below(dir.path()), server);
    }
    assert_eq!(rows(&guest.app(), "SELECT count(*) FROM note")[0][0], "Integer(6)");
    assert_eq!(host.status().unwrap()["counters"]["server_restarts"], 3);
}

#[test]
fn a_killed_node_leaves_no_server_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut host, mut guest) = pair(dir.path());
    host.run();
    guest.run();
    for round in 1..=2 {
        host.kill();
        timed("the node is killed -> its server has ended", || {
            eventually("the server ends with its node", || servers_below(dir.path()).is_empty());
        });
        host.app()
            .execute("INSERT INTO note VALUES (?1, 'while the node is dead')", [round * 10])
            .unwrap();
        guest
            .app()
            .execute("INSERT INTO note VALUES (?1, 'while its server is dead')", [round * 10 + 1])
            .unwrap();
        host.start();
        timed("the node is started again -> both hold the same", || converge(&[&host, &guest]));
    }
    assert_eq!(rows(&guest.app(), "SELECT count(*) FROM note")[0][0], "Integer(4)");
}
