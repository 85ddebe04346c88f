//! Nobody joins a cluster of embedded servers without its login, and TLS with an own CA secures all
//! of its connections.
//!
//! Goal: a server of somebody else that reaches the route port reads nothing; with the login it
//! does. Method: a real nats-server with a route to a node's server, and a client of it that
//! listens for batches; certificates that name another host than 127.0.0.1.

#![allow(clippy::unwrap_used)]

use futures_util::StreamExt;
use harmonylite_guarantees::{
    Authority, Node, Process, Purpose, converge, embedded, eventually, free_port, nats_server,
    number,
};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";
const LOGIN: &str = "user_name = \"shop\"\nuser_password = 'p@ss/\"$1'\n";

fn node(dir: &Path, id: u64, settings: &str, arguments: &[&str]) -> Node {
    let node = Node::new(dir, id, settings).with(arguments);
    node.app().execute_batch(SCHEMA).unwrap();
    node
}

/// Starts three nodes whose servers form a cluster, and waits until they have joined. `settings`
/// are lines of `[nats]`, `host` is the name by which they know each other. Returns the ports of
/// the routes too.
fn cluster(dir: &Path, host: &str, settings: impl Fn(u64) -> String) -> (Vec<Node>, Vec<u16>) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let peers: Vec<String> = ports.iter().map(|port| format!("nats://{host}:{port}")).collect();
    let mut nodes: Vec<Node> = (1..=3)
        .map(|id| {
            let addr = format!("127.0.0.1:{}", ports[id as usize - 1]);
            let text =
                format!("[replication_log]\nreplicas = 3\n{}{LOGIN}{}", embedded(), settings(id));
            node(dir, id, &text, &["-cluster-addr", &addr, "-cluster-peers", &peers.join(",")])
        })
        .collect();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(Node::ready);
    (nodes, ports)
}

/// Starts a server of somebody else, with a route to a cluster. Returns its port for clients.
fn foreign(dir: &Path, name: &str, route: &str) -> (Process, u16) {
    let (port, own) = (free_port(), free_port());
    let mut command = Command::new(nats_server());
    command
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "--name", name])
        .args(["--cluster_name", "e-harmonylite", "--routes", route])
        .args(["--cluster", &format!("nats://127.0.0.1:{own}")]);
    (Process::start(&mut command, &dir.join(name)), port)
}

/// Counts the batches that a client of a server hears.
fn listen(port: u16) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&count);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
            let client = options.connect(format!("nats://127.0.0.1:{port}")).await.unwrap();
            let mut messages = client.subscribe("harmonylite-change-log-1.>").await.unwrap();
            while messages.next().await.is_some() {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    count
}

#[test]
fn a_foreign_server_joins_with_the_login_only() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, ports) = cluster(dir.path(), "127.0.0.1", |_| String::new());
    let at = format!("127.0.0.1:{}", ports[0]);
    let (stranger, deaf) = foreign(dir.path(), "stranger", &format!("nats://{at}"));
    let (guesser, deaf_too) = foreign(dir.path(), "guesser", &format!("nats://shop:guess@{at}"));
    let login = "shop:p%40ss%2F%22%241";
    let (friend, hears) = foreign(dir.path(), "friend", &format!("nats://{login}@{at}"));
    for refused in [&stranger, &guesser] {
        eventually("a server without the login is refused", || {
            refused.output().contains("Authorization Violation")
        });
    }
    let [deaf, deaf_too, hears] = [deaf, deaf_too, hears].map(listen);
    let mut id = 0;
    eventually("the server with the login gets batches", || {
        id += 1;
        nodes[0].app().execute("INSERT INTO note VALUES (?1, 'secret')", [id]).unwrap();
        hears.load(Ordering::Relaxed) > 0
    });
    assert!(!friend.output().contains("Authorization Violation"), "{}", friend.output());
    converge(&nodes.iter().collect::<Vec<_>>());
    assert_eq!([&deaf, &deaf_too].map(|heard| heard.load(Ordering::Relaxed)), [0, 0]);
    let shown = std::fs::read_to_string(format!("/proc/{}/cmdline", nodes[0].pid())).unwrap();
    assert!(!shown.contains("p@ss") && !nodes[0].output().contains("p@ss"));
}

#[test]
fn a_route_port_that_is_open_to_everybody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let addr = format!("0.0.0.0:{}", free_port());
    let peers = "nats://127.0.0.1:1,nats://127.0.0.1:2";
    let arguments = ["-cluster-addr", &addr, "-cluster-peers", peers];
    let mut open = node(dir.path(), 1, &embedded(), &arguments);
    open.start();
    assert_eq!(open.ended(), 2, "{}", open.output());
    let log = open.output();
    assert!(log.contains(&addr) && log.contains("nats.user_name"), "{log}");
}

/// The certificates name `localhost`; the node itself connects to 127.0.0.1.
#[test]
fn tls_with_an_own_ca_secures_clients_routes_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("shop");
    let ca_file = ca.save(dir.path(), "ca.pem");
    let purposes = [Purpose::ServerAuth, Purpose::ClientAuth];
    let (cert, key) = ca.issue(dir.path(), "server", &["localhost"], &purposes);
    let [clients, leaves] = [free_port(), free_port()];
    let hub = dir.path().join("hub.conf");
    std::fs::write(&hub, format!("leafnodes {{ listen: \"127.0.0.1:{leaves}\" }}\n")).unwrap();
    let tls = format!("ca_file = {ca_file:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    let (mut nodes, ports) = cluster(dir.path(), "localhost", |id| match id {
        1 => format!("{tls}bind_address = \"127.0.0.1:{clients}\"\nserver_config = {hub:?}\n"),
        _ => tls.clone(),
    });
    let ca_only = format!("ca_file = {ca_file:?}\n");
    let log = "[replication_log]\nreplicas = 3\n";
    let url = format!("urls = [\"tls://localhost:{clients}\"]\n");
    nodes.push(node(dir.path(), 4, &format!("{log}[nats]\n{url}{LOGIN}{ca_only}"), &[]));
    let remote = format!("nats-leaf://localhost:{leaves}");
    let leaf = format!("{log}{}{LOGIN}{ca_only}", embedded());
    nodes.push(node(dir.path(), 5, &leaf, &["-leaf-servers", &remote]));
    nodes[3..].iter_mut().for_each(Node::run);
    for node in &nodes {
        node.app().execute("INSERT INTO note VALUES (?1, 'a')", [node.id as i64]).unwrap();
    }
    converge(&nodes.iter().collect::<Vec<_>>());
    assert_eq!(number(&nodes[4].app(), "SELECT count(*) FROM note"), 5);

    // Others do not get in: without TLS, with another CA, without the login.
    let other = Authority::new("somebody else").save(dir.path(), "other.pem");
    for (id, settings, named) in [
        (6, format!("[nats]\n{url}{LOGIN}ca_file = {other:?}\n"), "nats.ca_file"),
        (7, format!("[nats]\n{url}{ca_only}"), "nats.user_name"),
    ] {
        let mut refused = node(dir.path(), id, &settings, &[]);
        refused.start();
        assert_eq!(refused.ended(), 6, "{}", refused.output());
        assert!(refused.output().contains(named), "{}", refused.output());
    }
    let plain = format!("nats://shop:p%40ss%2F%22%241@localhost:{}", ports[0]);
    let (_stranger, _) = foreign(dir.path(), "plain", &plain);
    eventually("a route without TLS is refused", || {
        nodes[0].output().contains("first record does not look like a TLS handshake")
    });
    let leaf = format!("{log}{}{ca_only}", embedded());
    let mut refused = node(dir.path(), 8, &leaf, &["-leaf-servers", &remote]);
    refused.start();
    eventually("a leaf without the login is refused", || {
        refused.output().contains("Authorization Violation")
    });
}
