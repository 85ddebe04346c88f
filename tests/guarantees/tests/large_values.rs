//! A large value costs a node about twice its size, and arrives like any other.
//!
//! Goal: SQLite's copy and its record of the row are all that is in memory of a large value, also
//! where two writes are concurrent; a row whose value was released too early still wins or loses
//! right. Method: values of many megabytes, the kernel's greatest memory of the process.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, eventually, later, number, rows};

const MB: u64 = 1 << 20;

/// A line of `/proc/PID/status`, in bytes.
fn memory(node: &Node, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kilobytes: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    kilobytes << 10
}

#[test]
fn a_peer_holds_a_large_value_twice_at_most() {
    let mut cluster = Cluster::new(2, "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    one.execute("INSERT INTO t VALUES (1, randomblob(1000000), 'small')", []).unwrap();
    cluster.converge();
    let size = 64 * MB;
    for (id, value) in [(2, "randomblob(?1)"), (3, "printf('%.*c', ?1, 'x')")] {
        let before = memory(&cluster.nodes[1], "VmRSS:");
        one.execute(
            &format!("INSERT INTO t VALUES ({id}, {value}, 'after')"),
            [size.cast_signed()],
        )
        .unwrap();
        eventually("the value arrives", || number(&two, "SELECT max(id) FROM t") == id);
        let most = memory(&cluster.nodes[1], "VmHWM:").saturating_sub(before);
        assert!(most > size, "{most} bytes: it was never in memory, so this shows nothing");
        assert!(most < size / 10 * 26, "the peer held {most} bytes for a value of {size}");
    }
    cluster.converge();
}

/// Their values change places, so each row meets the other's and is written at the end.
#[test]
fn rows_with_large_values_that_clash_are_applied_again() {
    let mut cluster =
        Cluster::new(2, "CREATE TABLE file (id INTEGER PRIMARY KEY, path UNIQUE, body)");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    let bodies = "INSERT INTO file VALUES (1, 'a', randomblob(3000000)), (2, 'b', '')";
    one.execute_batch(bodies).unwrap();
    cluster.converge();
    one.execute_batch(
        "BEGIN; UPDATE file SET path = 'free' WHERE id = 1; UPDATE file SET path = 'a', body = \
        randomblob(4000000) WHERE id = 2; UPDATE file SET path = 'b', body = body || 'more' \
        WHERE id = 1; COMMIT",
    )
    .unwrap();
    eventually("they have changed places", || {
        number(&two, "SELECT count(*) FROM file WHERE id = 2 AND path = 'a'") == 1
    });
    cluster.converge();
    assert_eq!(number(&two, "SELECT sum(octet_length(body)) FROM file"), 7_000_004);

    // The one of two rows under one path that was written later stays, with its value.
    cluster.broker.kill();
    two.execute("INSERT INTO file VALUES (4, 'same', randomblob(5000000))", []).unwrap();
    later(&two);
    one.execute("INSERT INTO file VALUES (3, 'same', randomblob(6000000))", []).unwrap();
    cluster.broker.run();
    for db in [&one, &two] {
        eventually("the later write stays alone", || {
            rows(db, "SELECT id, octet_length(body) FROM file WHERE path = 'same'")
                == [["Integer(3)", "Integer(6000000)"]]
        });
    }
    cluster.converge();
}

/// The journal does not keep such a value, so it is compared without being read into memory.
#[test]
fn concurrent_large_values_end_alike_and_the_journal_has_their_size() {
    let mut cluster = Cluster::new(2, "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)");
    cluster.run();
    let (one, two) = (cluster.nodes[0].app(), cluster.nodes[1].app());
    cluster.broker.kill();
    // The first row has the same content on both nodes, the second one another.
    let row = |i: u8, b: &str| format!("({i}, printf('%.*c', {}, '{i}'), '{b}')", 33 * MB);
    two.execute_batch(&format!("INSERT INTO t VALUES {}, {}", row(1, "x"), row(2, "early")))
        .unwrap();
    later(&two);
    one.execute_batch(&format!("INSERT INTO t VALUES {}, {}", row(1, "x"), row(2, "late")))
        .unwrap();
    cluster.broker.run();
    for db in [&one, &two] {
        eventually("the later write wins", || {
            rows(db, "SELECT b FROM t ORDER BY id") == [["\"x\""], ["\"late\""]]
        });
    }
    cluster.converge();
    let losses = "SELECT json_extract(key, '$.id'), json_extract(loser, '$.a'), \
        json_extract(loser, '$.b') FROM __harmonylite__conflict";
    let size = format!("\"(not kept: {} bytes)\"", 33 * MB);
    for db in [&one, &two] {
        let expected = [["\"2\"".to_owned(), size.clone(), "\"'early'\"".to_owned()]];
        assert_eq!(rows(db, losses), expected, "row 1 lost nothing");
    }
}
