//! What an operator does and sees in an ordinary week.
//!
//! Goal: the commands and states of issue 13, point 21. Method: the real binary, with the mistakes
//! and the habits of people: pipes that end early, paths that are none, links, another node id,
//! nodes that are stopped, servers that are down.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{
    Broker, Cluster, EmbeddedCluster, Node, binary, embedded, eventually, free_port, number, rows,
    timed, within,
};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)";

fn reasons(node: &Node) -> String {
    node.status().map_or(String::new(), |status| status["degraded"].to_string())
}

fn health(port: u16, path: &str) -> Option<(u16, String)> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[test]
fn status_watch_shows_again_and_ends_with_its_reader() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.run();
    let node = &cluster.nodes[0];
    let mut watch = Command::new(binary())
        .arg("-config")
        .arg(&node.config)
        .args(["status", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = watch.stdout.take().unwrap();
    let mut seen = String::new();
    eventually("the status is shown twice", || {
        let mut some = [0; 4096];
        let length = out.read(&mut some).unwrap();
        assert!(length > 0, "it ended after: {seen}");
        seen += &String::from_utf8_lossy(&some[..length]);
        seen.matches("harmonylite 0.").count() == 2
    });
    drop(out);
    let mut status = None;
    eventually("it ends, since nobody reads on", || {
        status = watch.try_wait().unwrap();
        status.is_some()
    });
    let mut errors = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(status.unwrap().success() && errors.is_empty(), "{status:?} {errors}");
}

#[test]
fn a_health_path_that_is_none_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let (port, broker) = (free_port(), Broker::start(dir.path()));
    for (path, shared) in [("/{x", false), ("/metrics", true)] {
        let text = format!(
            "[nats]\nurls = [{:?}]\n[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n\
             path = {path:?}\n[prometheus]\nenable = {shared}\nbind = \"127.0.0.1:{port}\"\n",
            broker.url()
        );
        let mut node = Node::new(dir.path(), 1, &text);
        node.app()
            .execute_batch("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY)")
            .unwrap();
        node.start();
        assert_eq!(node.ended(), 2, "{}", node.output());
        let log = node.output();
        assert!(log.contains("health_check.path") && !log.contains("panicked"), "{log}");
    }
}

/// Two of three servers are gone: nothing is stored, and `status` and health say so.
#[test]
fn without_a_majority_it_is_said_and_readiness_fails() {
    let port = free_port();
    let mut cluster = EmbeddedCluster::new(SCHEMA, 3, |id| match id {
        1 => format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n"),
        _ => String::new(),
    });
    cluster.run();
    assert_eq!(health(port, "/health").unwrap().0, 200);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let one = &cluster.nodes[0];
    eventually("health fails and names the servers that are up", || {
        health(port, "/health")
            .is_some_and(|(code, body)| code == 503 && body.contains("1 of 3 servers up"))
    });
    assert!(reasons(one).contains("no majority"), "{}", reasons(one));
    cluster.nodes[1].start();
    eventually("two of three are a majority", || {
        health(port, "/health").is_some_and(|(code, _)| code == 200)
    });
    let one = &cluster.nodes[0];
    assert!(!reasons(one).contains("no majority"), "{}", reasons(one));
}

#[test]
fn a_stop_with_nothing_pending_takes_milliseconds_and_warns_of_nothing() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'a')").unwrap();
    cluster.converge();
    for node in &mut cluster.nodes {
        eventually("nothing waits to be marked", || {
            node.status().is_some_and(|s| s["unmarked_rows"] == 0 && s["pending_rows"] == 0)
        });
        let begin = Instant::now();
        node.stop();
        let took = begin.elapsed();
        // A wait for the drain ends after 2 s.
        assert!(took < Duration::from_millis(1_000), "the stop took {took:?}");
        assert!(!node.output().contains("unpublished"), "{}", node.output());
    }
}

#[test]
fn a_database_behind_a_link_has_all_its_files_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), 1, &embedded());
    let (link, home) = (node.db.clone(), dir.path().join("home"));
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink(home.join("real.db"), &link).unwrap();
    node.app().execute_batch(SCHEMA).unwrap();
    node.run();
    node.app().execute_batch("INSERT INTO note VALUES (1, 'a')").unwrap();
    eventually("the row is published", || {
        node.status().is_some_and(|s| s["counters"]["rows_published"] == 1)
    });
    let mut beside_link: Vec<_> = std::fs::read_dir(link.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    beside_link.sort();
    assert_eq!(beside_link, ["app.db", "config.toml", "log"]);
    for file in ["real.db-wal", "real.db-harmonylite", "nats/harmonylite-node-1/jetstream"] {
        assert!(home.join(file).exists(), "{file} is not beside the database");
    }
    node.stop();
    assert!(link.is_symlink());
}

#[test]
fn another_node_id_of_a_database_is_said() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.run();
    let node = &mut cluster.nodes[0];
    node.stop();
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, text.replace("node_id = 1", "node_id = 7")).unwrap();
    let doctor = String::from_utf8(node.cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("belongs to node 1"), "{doctor}");
    node.run();
    let log = node.output();
    let said = log.lines().find(|line| line.contains("the node id of this database has changed"));
    let said = said.unwrap_or_else(|| panic!("nothing is said: {log}"));
    assert!(said.contains("before=1") && said.contains("node=7"), "{said}");
}

#[test]
fn time_in_which_nothing_happened_is_no_time_of_replication() {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    // The own batch comes back, and then nothing happens.
    one.app().execute_batch("INSERT INTO note VALUES (1, 'own')").unwrap();
    cluster.converge();
    eventually("three idle seconds have passed", || {
        let status = one.status().unwrap();
        status["now_ms"].as_i64().unwrap() - status["last_published_ms"].as_i64().unwrap() > 3_000
    });
    two.app().execute_batch("INSERT INTO note VALUES (2, 'of the other')").unwrap();
    cluster.converge();
    let mut shown = 0;
    eventually("the time of the applied batch is shown", || {
        shown = one.status().unwrap()["wake"]["published_to_applied_us"][1].as_u64().unwrap();
        shown > 0
    });
    assert!(shown < 2_500_000, "{shown} us");
}

/// The first node of a cluster has nothing to replace its rows with.
#[test]
fn replace_keeps_the_rows_of_the_first_node() {
    let mut cluster = Cluster::with(1, SCHEMA, "on_join = \"replace\"");
    cluster.nodes[0].app().execute_batch("INSERT INTO note VALUES (1, 'a'), (2, 'b')").unwrap();
    cluster.run();
    let second = cluster.add(SCHEMA, "on_join = \"replace\"");
    second.app().execute_batch("INSERT INTO note VALUES (3, 'c')").unwrap();
    second.run();
    cluster.converge();
    for node in &cluster.nodes {
        assert_eq!(
            rows(&node.app(), "SELECT group_concat(text) FROM note ORDER BY id"),
            [["\"a,b\""]]
        );
    }
    let log = cluster.nodes[0].output();
    assert!(log.contains("the streams had no message of another node"), "{log}");
}

/// Measured, on 2 shared cores: 0.7 to 2.3 s.
#[test]
fn three_embedded_nodes_started_together_are_equal_within_seconds() {
    let mut cluster = EmbeddedCluster::new(SCHEMA, 3, |_| String::new());
    for node in &cluster.nodes {
        node.app().execute("INSERT INTO note VALUES (?1, 'was here')", [node.id as i64]).unwrap();
    }
    timed("three nodes start together -> each has the rows of all", || {
        cluster.nodes.iter_mut().for_each(Node::start);
        within(Duration::from_secs(6), "each node has the rows of all", || {
            cluster.nodes.iter().all(|node| number(&node.app(), "SELECT count(*) FROM note") == 3)
        });
    });
}

/// Returns how much of the program's code is in the memory of a node, in bytes.
fn code_in_memory(node: &Node) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", node.pid())).unwrap();
    let program = std::fs::read_link(format!("/proc/{}/exe", node.pid())).unwrap();
    let mut lines = maps.lines().skip_while(|line| {
        !(line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy()))
    });
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_node_that_has_joined_gives_back_the_code_of_its_start() {
    let mut cluster = Cluster::new(1, SCHEMA);
    cluster.run();
    let node = &cluster.nodes[0];
    let mut most = code_in_memory(node);
    // Without giving back it only grows: the kernel takes nothing away while there is room.
    eventually("less of the code is in memory", || {
        let now = code_in_memory(node);
        most = most.max(now);
        now < most * 9 / 10
    });
    node.app().execute_batch("INSERT INTO note VALUES (1, 'it works on')").unwrap();
    cluster.converge();
}
