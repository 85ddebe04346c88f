//! `doctor` finds at the broker what a start would find, and changes nothing there.
//!
//! Goal: it ends with the status of `run` for an unreachable broker (0), a refused login, another
//! stream configuration, a node id in use; it names missing permissions and clocks; beside a
//! running node it is quiet; `--offline` connects nowhere. Method: the real binary and servers.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, Server, on_jetstream};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";

/// Returns the exit status and the text.
fn doctor(node: &Node, arguments: &[&str]) -> (i32, String) {
    let out = node.cli(&[&["doctor"], arguments].concat());
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
}

#[test]
fn it_looks_at_a_broker_without_changing_it_and_is_quiet_beside_a_running_node() {
    let mut cluster = Cluster::new(2, SCHEMA);
    let (status, text) = doctor(&cluster.nodes[0], &[]);
    assert_eq!(status, 0, "{text}");
    for part in ["connected to nats://127.0.0.1", "does not exist yet: a node creates it"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let streams = on_jetstream(&cluster.broker.url(), async |context| {
        context.query_account().await.unwrap().streams
    });
    assert_eq!(streams, 0, "it has created something");
    let (_, offline) = doctor(&cluster.nodes[0], &["--offline"]);
    assert!(!offline.contains("connected to"), "{offline}");

    cluster.run();
    let (status, text) = doctor(&cluster.nodes[0], &[]);
    assert_eq!(status, 0, "{text}");
    for part in ["note (sidecar): another harmonylite already runs", "the clock agrees"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("problems: 0"), "{text}");

    // A second database with the id of a node that runs; and another configuration of the stream.
    let second = Node::new(&cluster.dir.path().join("copy"), 1, &nats(&cluster, ""));
    second.app().execute_batch(SCHEMA).unwrap();
    let (status, text) = doctor(&second, &[]);
    assert!(status == 5 && text.contains("node id 1 is in use by"), "{status} {text}");
    let log = "[replication_log]\nmax_entries = 5000\n";
    let other = Node::new(&cluster.dir.path().join("other"), 9, &nats(&cluster, log));
    other.app().execute_batch(SCHEMA).unwrap();
    let (status, text) = doctor(&other, &[]);
    assert!(status == 6 && text.contains("max_entries is 1000000"), "{status} {text}");

    cluster.broker.kill();
    let (status, text) = doctor(&other, &[]);
    assert!(status == 0 && text.contains("cannot connect to"), "{status} {text}");
}

fn nats(cluster: &Cluster, log: &str) -> String {
    format!("{log}[nats]\nurls = [{:?}]\n", cluster.broker.url())
}

#[test]
fn a_refused_login_and_missing_permissions_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(
        dir.path(),
        r#"authorization { users: [ { user: "shop", password: "p", permissions: {
            publish: { deny: ["$JS.FC.>", "harmonylite-change-log-1.2"] } } } ] }"#,
    );
    server.start();
    let node = |id, password: &str| {
        let settings = format!(
            "[nats]\nurls = [{:?}]\nuser_name = \"shop\"\nuser_password = {password:?}\n",
            server.url()
        );
        let node = Node::new(dir.path(), id, &settings);
        node.app().execute_batch(SCHEMA).unwrap();
        node
    };
    let (status, text) = doctor(&node(1, "guessed"), &[]);
    assert!(status == 6 && text.contains("nats.user_password"), "{status} {text}");
    let (_, text) = doctor(&node(2, "p"), &[]);
    for part in ["$JS.FC.", "harmonylite-change-log-1.2"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("harmonylite-change-log-1.1"), "{text}");
}
