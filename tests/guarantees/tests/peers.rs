//! Nodes notice when they do not replicate with each other, and what the broker refuses.
//!
//! Goal: a node with other shards, prefixes or streams than its peers is refused, and both nodes
//! and the setting are named. A deleted stream or registry comes back while the nodes stay
//! connected. Health and `status` report a broker that is away or refuses, other nodes, and how far
//! they are. A forgotten node is waited for no more. Method: real nodes and a real nats-server.

#![allow(clippy::unwrap_used)]

use async_nats::jetstream::kv;
use harmonylite_guarantees::{
    Broker, Node, Server, converge, eventually, free_port, number, on_jetstream, within,
};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";
const REGISTRY: &str = "harmonylite-schema-registry";

fn node(dir: &Path, id: u64, url: &str, top: &str, nats: &str) -> Node {
    let settings = format!("{top}\n[nats]\nurls = [{url:?}]\nreconnect_wait_seconds = 1\n{nats}");
    let node = Node::new(dir, id, &settings);
    node.app().execute_batch(SCHEMA).unwrap();
    node
}

fn insert(node: &Node, id: i64) {
    node.app().execute("INSERT INTO note VALUES (?1, 'x')", [id]).unwrap();
}

fn degraded(node: &Node) -> String {
    node.status().map_or(String::new(), |s| s["degraded"].to_string())
}

#[test]
fn other_shards_or_prefixes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut first = node(dir.path(), 1, &broker.url(), "", "");
    first.run();
    for (id, top, nats, setting) in [
        (
            2,
            "[replication_log]\nshards = 4\n",
            "",
            "replication_log.shards is 4 at node 2 and 1 at node 1",
        ),
        (3, "", "stream_prefix = \"other\"", "nats.stream_prefix is other at node 3"),
        (4, "", "subject_prefix = \"other\"", "nats.subject_prefix is other at node 4"),
    ] {
        let mut other = node(dir.path(), id, &broker.url(), top, nats);
        other.start();
        assert_eq!(other.ended(), 6, "{}", other.output());
        let text = other.output();
        assert!(text.contains(setting), "{setting} in {text}");
        assert!(text.contains(&format!("node {id} and node 1")), "{text}");
    }
    let streams = on_jetstream(&broker.url(), async |js| {
        let mut names: Vec<_> = stream_names(&js).await;
        names.sort();
        names
    });
    assert_eq!(streams.len(), 2, "a refused node has made no stream: {streams:?}");
    let mut equal = node(dir.path(), 5, &broker.url(), "", "");
    equal.run();
    insert(&equal, 1);
    converge(&[&first, &equal]);
}

async fn stream_names(js: &async_nats::jetstream::Context) -> Vec<String> {
    let mut names = Vec::new();
    for name in ["harmonylite-changes-batch-1", "harmonylite-changes-batch-2", "other-batch-1"] {
        if js.get_stream(name).await.is_ok() {
            names.push(name.to_owned());
        }
    }
    if js.get_key_value(REGISTRY).await.is_ok() {
        names.push(REGISTRY.to_owned());
    }
    names
}

#[test]
fn nodes_that_would_give_the_same_ids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut first = node(dir.path(), 1, &broker.url(), "[ids]\nranges = true", "");
    first.run();
    for (id, ids, named) in [
        (2, "slot = 1", "ids.slot is 1 at both"),
        (3, "nodes = 8", "ids.nodes is 8 at node 3 and 16 at node 1"),
        (4, "block = 50", "ids.block is 50 at node 4 and 1000 at node 1"),
    ] {
        let top = format!("[ids]\nranges = true\n{ids}");
        let mut other = node(dir.path(), id, &broker.url(), &top, "");
        other.start();
        assert_eq!(other.ended(), 6, "{}", other.output());
        assert!(other.output().contains(named), "{named} in {}", other.output());
    }
    let mut fits = node(dir.path(), 5, &broker.url(), "[ids]\nranges = true", "");
    fits.run();
    insert(&first, 1);
    converge(&[&first, &fits]);
}

#[test]
fn a_deleted_stream_and_a_deleted_registry_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut nodes = [1, 2].map(|id| node(dir.path(), id, &broker.url(), "", ""));
    nodes.iter_mut().for_each(Node::run);
    insert(&nodes[0], 1);
    converge(&nodes.each_ref());

    on_jetstream(&broker.url(), async |js| {
        js.delete_stream("harmonylite-changes-batch-1").await.unwrap();
    });
    insert(&nodes[1], 2);
    eventually("the row after the stream's deletion arrives", || {
        number(&nodes[0].app(), "SELECT count(*) FROM note") == 2
    });
    insert(&nodes[0], 3);
    converge(&nodes.each_ref());

    on_jetstream(&broker.url(), async |js| js.delete_key_value(REGISTRY).await.map(drop).unwrap());
    eventually("the registry is back, with both leases", || {
        on_jetstream(&broker.url(), async |js| {
            let Ok(bucket) = js.get_key_value(REGISTRY).await else { return false };
            let lease = async |id: u64| held(&bucket, &format!("lease-{id}")).await;
            lease(1).await && lease(2).await
        })
    });
    insert(&nodes[0], 4);
    converge(&nodes.each_ref());
    let mut clone = node(&dir.path().join("clone"), 2, &broker.url(), "", "");
    clone.start();
    assert_eq!(clone.ended(), 5, "the node id is protected again: {}", clone.output());
}

async fn held(bucket: &kv::Store, key: &str) -> bool {
    bucket.get(key).await.is_ok_and(|value| value.is_some())
}

/// Returns the status code and the body of the health check.
fn health(port: u16) -> Option<(u16, serde_json::Value)> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(socket, "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let code = text.split(' ').nth(1)?.parse().ok()?;
    Some((code, serde_json::from_str(text.split("\r\n\r\n").nth(1)?).ok()?))
}

#[test]
fn a_broker_that_goes_away_while_connected_is_counted_and_unhealthy() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(dir.path(), "");
    server.start();
    let port = free_port();
    let top = format!(
        "[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\npath = \"/health\"\n\
        detailed = true\n"
    );
    let mut alone = node(dir.path(), 1, &server.url(), &top, "connect_retries = 3");
    alone.run();
    eventually("healthy, with a lag that is known", || {
        health(port).is_some_and(|(code, body)| code == 200 && body["lag_ms"] == 0)
    });
    assert!(alone.cli(&["status", "--check"]).status.success());
    server.kill();
    eventually("503 after three attempts", || health(port).is_some_and(|(code, _)| code == 503));
    let status = alone.status().unwrap();
    assert!(status["broker"]["failed_attempts"].as_u64().unwrap() >= 3, "{status}");
    assert!(status["streams"][0]["lag_ms"].is_null(), "not known: {status}");
    let check = alone.cli(&["status", "--check"]);
    assert_eq!(check.status.code(), Some(10));
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.starts_with("DEGRADED: disconnected from NATS ("), "{text}");
    server.start();
    eventually("healthy again", || {
        health(port).is_some_and(|(code, _)| code == 200)
            && alone.cli(&["status", "--check"]).status.success()
    });
}

#[test]
fn nodes_are_listed_and_one_that_never_comes_back_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut nodes = [1, 2, 3].map(|id| node(dir.path(), id, &broker.url(), "", ""));
    nodes[0].run();
    let text = |node: &Node, arguments: &[&str]| {
        let out = node.cli(arguments);
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    assert!(text(&nodes[0], &["status"]).starts_with("healthy "));
    assert!(text(&nodes[0], &["status"]).contains("no other node is known"));
    nodes[1..].iter_mut().for_each(Node::run);
    nodes.iter().zip(1..).for_each(|(node, id)| insert(node, id));
    converge(&nodes.each_ref());
    eventually("node 1 sees the others", || {
        let text = text(&nodes[0], &["nodes"]);
        text.lines().filter(|line| line.contains("running") && line.contains("same")).count() == 3
    });
    assert!(text(&nodes[0], &["nodes", "forget", "3"]).contains("node 3 runs"));
    nodes[2].kill();
    let not_running = || text(&nodes[0], &["nodes"]).contains("not running");
    eventually("node 3 is silent", not_running);
    let out = nodes[0].cli(&["nodes", "forget", "3"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    eventually("node 3 is gone from the list", || text(&nodes[0], &["nodes"]).lines().count() == 3);
    let members = || {
        on_jetstream(&broker.url(), async |js| {
            let bucket = js.get_key_value(REGISTRY).await.unwrap();
            let value = bucket.get("nodes").await.unwrap().unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        })
    };
    assert_eq!(members(), r#"{"members":[1,2],"forgotten":[3]}"#);
    insert(&nodes[1], 10);
    converge(&[&nodes[0], &nodes[1]]);
    nodes[2].run();
    insert(&nodes[2], 11);
    converge(&nodes.each_ref());
    assert_eq!(members(), "[1,2,3]", "it is a member again");
}

#[test]
fn a_permission_that_is_missing_again_and_again_is_unhealthy() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(
        dir.path(),
        r#"authorization { users: [ { user: "shop", password: "p", permissions: {
            publish: { deny: ["harmonylite-change-log-1.>"] } } } ] }"#,
    );
    server.start();
    let port = free_port();
    let top =
        format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\npath = \"/health\"\n");
    let login = "user_name = \"shop\"\nuser_password = \"p\"\nconnect_retries = 2";
    let mut alone = node(dir.path(), 1, &server.url(), &top, login);
    alone.run();
    insert(&alone, 1);
    eventually("unhealthy", || health(port).is_some_and(|(code, _)| code == 503));
    let reasons = degraded(&alone);
    assert!(
        reasons.contains("Permissions Violation") && reasons.contains("harmonylite-change-log-1.1"),
        "{reasons}"
    );
}

/// Without flow control the server stops after some hundred messages.
#[test]
fn a_stream_that_stops_because_flow_control_is_forbidden_is_unhealthy_with_a_lag() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(
        dir.path(),
        r#"authorization { users: [
            { user: "deaf", password: "p", permissions: { publish: { deny: ["$JS.FC.>"] } } }
            { user: "shop", password: "p" } ] }"#,
    );
    server.start();
    let port = free_port();
    let top = format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n");
    let login = |user: &str| format!("user_name = {user:?}\nuser_password = \"p\"");
    let mut one = node(dir.path(), 1, &server.url(), "", &login("shop"));
    let mut deaf = node(dir.path(), 2, &server.url(), &top, &login("deaf"));
    one.run();
    deaf.run();
    deaf.stop();
    let db = one.app();
    for id in 0..400 {
        db.execute("INSERT INTO note VALUES (?1, hex(randomblob(50000)))", [id]).unwrap();
    }
    eventually("all is published", || one.status().is_some_and(|s| s["pending_rows"] == 0));
    deaf.start();
    within(Duration::from_secs(90), "it is unhealthy, and says what is missing", || {
        health(port).is_some_and(|(code, _)| code == 503) && degraded(&deaf).contains("$JS.FC")
    });
    assert!(number(&deaf.app(), "SELECT count(*) FROM note") < 400, "the server did not stop");
    let lag = deaf.status().unwrap()["streams"][0]["lag_ms"].clone();
    assert!(lag.as_i64() != Some(0), "{lag}");
}

#[test]
fn limits_of_the_account_name_the_setting_that_they_need() {
    for (limits, log, named) in [
        ("max_bytes_required: true", "max_bytes = -1", "set replication_log.max_bytes"),
        ("max_store: 100M", "", "lower replication_log.max_bytes"),
        ("max_streams: 1", "", "raise the account's limit of streams"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::new(
            dir.path(),
            &format!(
                "accounts {{ A {{ jetstream: {{ max_mem: 1G, {limits} }}, users: [ {{ user: a, \
                password: p }} ] }} }}"
            ),
        );
        server.start();
        let top = format!("[replication_log]\n{log}");
        let login = "user_name = \"a\"\nuser_password = \"p\"";
        let mut refused = node(dir.path(), 1, &server.url(), &top, login);
        refused.start();
        assert_eq!(refused.ended(), 6, "{limits}: {}", refused.output());
        assert!(refused.output().contains(named), "{limits}: {}", refused.output());
    }
}

/// Starts a hub and a leaf, each with a JetStream of its own in its own domain.
fn hub_and_leaf(dir: &Path) -> [Server; 2] {
    let port = free_port();
    let jetstream = |name: &str| {
        let store = dir.join(name).join("js");
        format!("jetstream {{ store_dir: {store:?}, domain: {name} }}\n")
    };
    let mut hub = Server::new(
        &dir.join("hub"),
        &(jetstream("hub") + &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}")),
    );
    hub.start();
    let remote =
        format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}");
    let mut leaf = Server::new(&dir.join("leaf"), &(jetstream("leaf") + &remote));
    leaf.start();
    [hub, leaf]
}

#[test]
fn nodes_at_a_leaf_with_a_jetstream_of_its_own_use_the_hub_by_its_domain() {
    let dir = tempfile::tempdir().unwrap();
    let [hub, leaf] = hub_and_leaf(dir.path());
    let domain = "js_domain = \"hub\"";
    let mut nodes =
        [node(dir.path(), 1, &hub.url(), "", domain), node(dir.path(), 2, &leaf.url(), "", domain)];
    nodes.iter_mut().for_each(Node::run);
    nodes.iter().zip(1..).for_each(|(node, id)| insert(node, id));
    converge(&nodes.each_ref());
}

#[test]
fn a_node_at_a_leaf_with_streams_of_its_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [hub, leaf] = hub_and_leaf(dir.path());
    let mut at_hub = node(dir.path(), 1, &hub.url(), "", "");
    let mut split = node(dir.path(), 2, &leaf.url(), "", "");
    at_hub.run();
    split.run();
    let mut id = 0;
    within(Duration::from_secs(120), "the node with other streams ends", || {
        id += 1;
        insert(&at_hub, id);
        std::thread::park_timeout(Duration::from_millis(500));
        !split.is_running()
    });
    assert_eq!(split.ended(), 6, "{}", split.output());
    let text = split.output();
    assert!(text.contains("node 2 and node 1") && text.contains("nats.js_domain"), "{text}");
    assert!(at_hub.is_running());
}

#[test]
fn tls_against_a_plain_server_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let url = broker.url().replace("nats://", "tls://");
    let mut node = node(dir.path(), 1, &url, "", "");
    node.start();
    assert_eq!(node.ended(), 6, "{}", node.output());
    assert!(node.output().contains("does not speak TLS"), "{}", node.output());
}
