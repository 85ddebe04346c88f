//! Secrets stand where an operator wants them, and nowhere else.
//!
//! Goal: passwords from files, from the environment and percent-encoded in URLs log in; none is in
//! a command line, a log or an error; a changed password in a file needs no restart. And the least
//! permissions of docs/examples/nats-permissions.conf are enough, exactly as they stand there.
//! Method: a real nats-server with a password, which changes; a server with that file.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Node, Server, converge, eventually, number};
use std::path::Path;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT)";
const PASSWORD: &str = "p@ss/w${o}rd%41 é";

fn node(dir: &Path, id: u64, settings: &str) -> Node {
    let node = Node::new(dir, id, &format!("[nats]\nreconnect_wait_seconds = 1\n{settings}"));
    node.app().execute_batch(SCHEMA).unwrap();
    node
}

fn server(dir: &Path, password: &str) -> Server {
    Server::new(dir, &format!("authorization {{ user: \"shop\", password: {password:?} }}"))
}

/// Checks that nothing that others can read holds the password.
#[track_caller]
fn hidden(node: &Node, password: &str) {
    let command = std::fs::read(format!("/proc/{}/cmdline", node.pid())).unwrap();
    let status = node.cli(&["status", "--json"]).stdout;
    for text in [command, status, node.output().into_bytes()] {
        assert!(!String::from_utf8_lossy(&text).contains(password));
    }
}

#[test]
fn passwords_come_from_files_the_environment_and_urls() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path(), PASSWORD);
    server.start();
    let url = format!("urls = [{:?}]\nuser_name = \"shop\"\n", server.url());
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let at = server.url().replace("nats://", "");
    let encoded = format!("nats://shop:p%40ss%2Fw%24{{o}}rd%2541%20%C3%A9@{at}");
    let mut nodes = [
        node(dir.path(), 1, &format!("{url}user_password_file = {file:?}\n")),
        node(dir.path(), 2, &url),
        node(dir.path(), 3, &format!("{url}user_password = \"${{SHOP_PASSWORD}}\"\n")),
        node(dir.path(), 4, &format!("urls = [{encoded:?}]\n")),
    ];
    nodes[1].set_env("HARMONYLITE_NATS_PASSWORD", PASSWORD);
    nodes[2].set_env("SHOP_PASSWORD", PASSWORD);
    for node in &mut nodes {
        node.run();
        node.app().execute("INSERT INTO note VALUES (?1, 'a')", [node.id as i64]).unwrap();
        hidden(node, PASSWORD);
    }
    converge(&nodes.iter().collect::<Vec<_>>());
    assert_eq!(number(&nodes[3].app(), "SELECT count(*) FROM note"), 4);
}

#[test]
fn a_variable_that_is_not_set_is_named_and_a_wrong_password_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path(), "right");
    server.start();
    let url = format!("urls = [{:?}]\nuser_name = \"shop\"\n", server.url());
    let mut unset = node(dir.path(), 1, &format!("{url}user_password = \"a${{NO_SUCH}}b\"\n"));
    unset.start();
    assert_eq!(unset.ended(), 2, "{}", unset.output());
    assert!(unset.output().contains("NO_SUCH"), "{}", unset.output());
    let mut wrong = node(dir.path(), 2, &format!("{url}user_password = \"hunter2\"\n"));
    wrong.start();
    assert_eq!(wrong.ended(), 6, "{}", wrong.output());
    let log = wrong.output();
    assert!(log.contains("nats.user_password") && !log.contains("hunter2"), "{log}");
    // doctor finds that others can read it.
    let doctor = String::from_utf8(wrong.cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("can be read by other users"), "{doctor}");
    assert!(!doctor.contains("hunter2"), "{doctor}");
}

#[test]
fn a_password_file_that_changes_needs_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path(), "the first");
    server.start();
    let file = dir.path().join("password");
    std::fs::write(&file, "the first\n").unwrap();
    let settings = format!(
        "urls = [{:?}]\nuser_name = \"shop\"\nuser_password_file = {file:?}\n",
        server.url()
    );
    let mut node = node(dir.path(), 1, &settings);
    node.run();
    server.kill();
    let config = dir.path().join("server/server.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("the first", "the second")).unwrap();
    server.start();
    eventually("the refused login is a reason", || {
        node.status().is_some_and(|s| s["degraded"].to_string().contains("authorization violation"))
    });
    std::fs::write(&file, "the second\n").unwrap();
    node.app().execute_batch("INSERT INTO note VALUES (1, 'a')").unwrap();
    eventually("it logs in with the new password", || {
        node.status()
            .is_some_and(|s| s["broker"]["linked"] == true && s["counters"]["rows_published"] == 1)
    });
    hidden(&node, "the second");
}

#[test]
fn the_least_permissions_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let text = std::fs::read_to_string(file.join("nats-permissions.conf")).unwrap();
    // The server joins the paths of includes to the directory of the file.
    std::fs::create_dir_all(dir.path().join("server")).unwrap();
    std::fs::write(dir.path().join("server/nats-permissions.conf"), text).unwrap();
    let mut server = Server::new(dir.path(), "include \"nats-permissions.conf\"");
    server.set_env("NODE_1_PASSWORD", "one");
    server.set_env("NODE_2_PASSWORD", "two");
    server.start();
    let mut nodes = [(1, "one"), (2, "two")].map(|(id, password)| {
        let settings = format!(
            "urls = [{:?}]\nuser_name = \"node-{id}\"\nuser_password = {password:?}\n",
            server.url()
        );
        node(dir.path(), id, &settings)
    });
    nodes.iter_mut().for_each(Node::run);
    let fill = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 2 FROM n WHERE i < 4000) \
        INSERT INTO note SELECT i, hex(randomblob(2000)) FROM n";
    for node in &nodes {
        node.app().execute(fill, [node.id as i64]).unwrap();
    }
    converge(&nodes.iter().collect::<Vec<_>>());
    // A connection that is checked again, questions, and what stands in the stream.
    server.kill();
    server.start();
    nodes[0].app().execute_batch("UPDATE note SET text = 'again' WHERE id < 10").unwrap();
    converge(&nodes.iter().collect::<Vec<_>>());
    for arguments in [&["snapshot", "save"][..], &["snapshot", "list"], &["snapshot", "verify"]] {
        let done = nodes[0].cli(arguments);
        assert!(done.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&done.stderr));
    }
    for node in &nodes {
        let status = node.status().unwrap();
        assert_eq!(status["broker"]["server_error"], "", "{status}");
        assert!(status["degraded"].as_array().unwrap().is_empty(), "{status}");
        assert!(!node.output().contains("Permissions Violation"), "{}", node.output());
    }
    // A node cannot publish as another one.
    let impostor = server.url().replace("nats://", "nats://node-2:two@");
    let settings = format!("urls = [{impostor:?}]\n");
    nodes[1].stop();
    let mut impostor = node(dir.path(), 3, &settings);
    impostor.app().execute_batch("INSERT INTO note VALUES (9999, 'false')").unwrap();
    impostor.start();
    eventually("the server refuses batches under another number", || {
        impostor
            .status()
            .is_some_and(|s| s["degraded"].to_string().contains("harmonylite-change-log-1.3"))
    });
}
