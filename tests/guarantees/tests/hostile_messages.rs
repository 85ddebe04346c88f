//! A bad batch, or a message that is no batch, goes to quarantine with its reason, and all other
//! changes are applied (faults 25, 26, 27).
//!
//! Goal: no message makes a node end, hang, run foreign SQL or use much memory. Each bad message
//! goes to quarantine with a reason that names the defect, or its origin is held. Later batches of
//! other nodes are applied. Method: take a real batch from the stream, damage it in every way, and
//! publish it under other nodes' subjects. The headers are right unless the case is about them.

#![allow(clippy::unwrap_used)]

use ciborium::Value;
use data_encoding::HEXLOWER;
use harmonylite_guarantees::{Cluster, Node, eventually, number, on_jetstream, sound};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const SCHEMA: &str = "CREATE TABLE entry (id TEXT PRIMARY KEY, n INTEGER)";
const STREAM: &str = "harmonylite-changes-batch-1";

/// The id of the first invented node.
const FIRST: u64 = 100;

/// The expected end of a message.
enum ExpectedEnd {
    Aside(&'static str),
    Waits(&'static str),
}
use ExpectedEnd::{Aside, Waits};

/// One message, from a separate origin.
struct Case {
    payload: Vec<u8>,
    /// The headers that differ from the right ones; None for no headers at all.
    headers: Option<&'static [(&'static str, &'static str)]>,
    end: ExpectedEnd,
}

fn packed(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).unwrap()
}

fn bytes(batch: &Value) -> Vec<u8> {
    let mut plain = Vec::new();
    ciborium::into_writer(batch, &mut plain).unwrap();
    plain
}

/// Returns the value at this path of indexes.
fn at<'v>(value: &'v mut Value, path: &[usize]) -> &'v mut Value {
    path.iter().fold(value, |inner, i| &mut inner.as_array_mut().unwrap()[*i])
}

/// The paths of values in a batch (FORMAT.md).
const NAME: [usize; 3] = [8, 0, 0];
const COLUMN: [usize; 4] = [8, 0, 2, 1];
const KEY_INDEX: [usize; 4] = [8, 0, 3, 0];
const HLC: [usize; 5] = [8, 0, 4, 0, 0];
const SITE_INDEX: [usize; 5] = [8, 0, 4, 0, 1];
const OP: [usize; 5] = [8, 0, 4, 0, 4];
const VALUE: [usize; 5] = [8, 0, 4, 0, 6];

/// Returns the batch with other CBOR in place of the table's name, cut off after it.
fn cut_at_name(batch: &Value, instead: &[u8]) -> Vec<u8> {
    let plain = bytes(batch);
    let name = plain.windows(6).position(|w| w == b"\x65entry").unwrap();
    packed(&[&plain[..name], instead].concat())
}

/// Returns CBOR text that announces this length, and is shorter.
fn announcing(length: u64) -> Vec<u8> {
    [&[0x7b], &length.to_be_bytes()[..], b"entry"].concat()
}

/// Returns the batch as the first of node `id`, whose site has the same number.
fn of_node(real: &Value, id: u64) -> Value {
    let mut batch = real.clone();
    for (i, number) in [(1, id), (2, id), (3, 1), (4, 0)] {
        *at(&mut batch, &[i]) = number.into();
    }
    batch
}

fn cases(real: &Value) -> Vec<Case> {
    let ids = std::cell::Cell::new(FIRST);
    let next = || of_node(real, ids.replace(ids.get() + 1));
    let whole = |payload, end| Case { payload, headers: Some(&[]), end };
    let bent = |path: &[usize], value: Value, end| {
        let mut batch = next();
        *at(&mut batch, path) = value;
        whole(packed(&bytes(&batch)), end)
    };
    let named = |name: &str, end| bent(&NAME, name.into(), end);
    let headed = |headers, reason| Case {
        payload: packed(&bytes(&next())),
        headers: Some(headers),
        end: Aside(reason),
    };
    let cut = |instead: &[u8], reason| whole(cut_at_name(&next(), instead), Aside(reason));
    let wide = |plain: Vec<u8>| {
        let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
        wide.window_log(27).unwrap();
        std::io::Write::write_all(&mut wide, &plain).unwrap();
        wide.finish().unwrap()
    };
    let short = |good: Vec<u8>| good[..good.len() - 3].to_vec();
    vec![
        Case { payload: packed(&bytes(&next())), headers: None, end: Aside("no headers") },
        headed(&[("Harmonylite-Sha256", "00")], "not a SHA-256"),
        headed(
            &[(
                "Harmonylite-Sha256",
                "0000000000000000000000000000000000000000000000000000000000000000",
            )],
            "digest",
        ),
        headed(&[("Harmonylite-Site", "-5")], "not positive"),
        headed(&[("Harmonylite-Part", "0")], "out of bounds"),
        headed(&[("Harmonylite-Bytes", "9223372036854775807")], "out of bounds"),
        headed(&[("Harmonylite-Bytes", "3")], "more bytes than announced"),
        Case { payload: b"no frame".to_vec(), ..headed(&[], "frame descriptor") },
        Case { payload: Vec::new(), ..headed(&[], "") },
        whole(short(packed(&bytes(&next()))), Aside("")),
        whole(wide(bytes(&next())), Aside("too much memory")),
        whole(
            packed(&[bytes(&next()), vec![0; 50_000_000]].concat()),
            Aside("data after the batch"),
        ),
        cut(&announcing(1 << 63), "exceeds the limit"),
        cut(&announcing(4_000), "a table name"),
        cut(&[0x81; 10_000], "a table name"),
        bent(&[1], 7.into(), Aside("came as batch 1 of node")),
        bent(&[2], 7.into(), Aside("came as batch 1 of node")),
        bent(&[3], 7.into(), Aside("came as batch 1 of node")),
        bent(&VALUE, Value::Array(vec![1.into()]), Aside("a value")),
        bent(&OP, 7.into(), Aside("operation")),
        bent(&SITE_INDEX, 9.into(), Aside("site index")),
        bent(&HLC, i64::MAX.into(), Aside("version")),
        bent(&HLC, (-1).into(), Aside("version")),
        bent(&KEY_INDEX, 200.into(), Aside("key index")),
        bent(&COLUMN, "ID".into(), Aside("twice")),
        named("sqlite_master", Aside("internal table")),
        named("__harmonylite__meta", Aside("internal table")),
        named("__HarmonyLite__Meta", Aside("internal table")),
        named("en\0try", Aside("a name")),
        named("entry\"; DROP TABLE entry; --", Waits("DROP TABLE")),
        bent(&COLUMN, "n\" = 1; DROP TABLE entry; --".into(), Waits("columns only at the origin")),
        bent(&[0], 3.into(), Waits("format 3")),
        bent(&[0], 2.into(), Aside("the number of parts of the batch")),
    ]
}

/// Starts two nodes, and returns the first batch of their stream.
fn with_a_real_batch() -> (Cluster, Value) {
    let mut cluster = Cluster::new(2, SCHEMA);
    cluster.run();
    cluster.nodes[1].app().execute_batch("INSERT INTO entry VALUES ('real', 5)").unwrap();
    cluster.converge();
    let batch = on_jetstream(&cluster.broker.url(), async |jetstream| {
        let message = jetstream.get_stream(STREAM).await.unwrap().get_raw_message(1).await.unwrap();
        ciborium::from_reader(&zstd::decode_all(&message.payload[..]).unwrap()[..]).unwrap()
    });
    (cluster, batch)
}

/// Publishes each case under the subject of its own node, with its own site.
fn send(cluster: &Cluster, cases: &[Case]) {
    on_jetstream(&cluster.broker.url(), async |jetstream| {
        for (case, id) in cases.iter().zip(FIRST..) {
            let mut headers = async_nats::HeaderMap::new();
            if let Some(wrong) = case.headers {
                let digest = HEXLOWER.encode(&Sha256::digest(&case.payload));
                let length = case.payload.len().to_string();
                let site = id.to_string();
                for (name, value) in [
                    ("Site", &site[..]),
                    ("Batch", "1"),
                    ("Part", "1"),
                    ("Parts", "1"),
                    ("Bytes", &length),
                    ("Sha256", &digest),
                ] {
                    headers.insert(&format!("Harmonylite-{name}")[..], value);
                }
                wrong.iter().for_each(|(name, value)| headers.insert(*name, *value));
            }
            let subject = format!("harmonylite-change-log-1.{id}");
            jetstream
                .publish_with_headers(subject, headers, case.payload.clone().into())
                .await
                .unwrap()
                .await
                .unwrap();
        }
    });
}

/// Returns the id and reason of each batch in quarantine, by origin.
fn aside(node: &Node) -> BTreeMap<u64, (i64, String)> {
    let listed = node.cli(&["quarantine", "list", "--json"]);
    let all: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let entry = |e: &serde_json::Value| {
        (
            e["node_id"].as_u64().unwrap(),
            (e["id"].as_i64().unwrap(), e["reason"].as_str().unwrap().to_owned()),
        )
    };
    all.iter().map(entry).collect()
}

fn held(node: &Node) -> BTreeMap<u64, String> {
    let status = node.status().unwrap();
    let entry = |h: &serde_json::Value| {
        (h["node_id"].as_u64().unwrap(), h["reason"].as_str().unwrap().to_owned())
    };
    status["held"].as_array().unwrap().iter().map(entry).collect()
}

/// Returns the peak memory of the node, in KiB.
fn peak_kib(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn schema(node: &Node) -> String {
    node.app()
        .query_row(
            "SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_master ORDER BY name)",
            [],
            |r| r.get(0),
        )
        .unwrap()
}

#[test]
fn whatever_lies_in_the_stream_is_named_and_passed() {
    let (cluster, real) = with_a_real_batch();
    let (before, cases) = (schema(&cluster.nodes[0]), cases(&real));
    send(&cluster, &cases);

    cluster.nodes[1].app().execute_batch("INSERT INTO entry VALUES ('later', 6)").unwrap();
    cluster.nodes[0].app().execute_batch("INSERT INTO entry VALUES ('here', 7)").unwrap();
    for node in &cluster.nodes {
        eventually("later batches flow", || number(&node.app(), "SELECT count(*) FROM entry") == 3);
        let (aside, held) = (aside(node), held(node));
        for (case, id) in cases.iter().zip(FIRST..) {
            match case.end {
                Aside(part) => {
                    assert!(
                        aside.get(&id).is_some_and(|(_, reason)| reason.contains(part)),
                        "{id}, {part}: {aside:#?} {held:#?}"
                    )
                }
                Waits(part) => assert!(
                    held.get(&id).is_some_and(|reason| reason.contains(part)),
                    "{id}, {part}: {held:#?} {aside:#?}"
                ),
            }
        }
        assert_eq!(aside.len() + held.len(), cases.len());
        assert!(node.output().contains("it is in quarantine"), "the log names it");
        #[cfg(target_os = "linux")]
        assert!(peak_kib(node) < 200_000, "{} KiB", peak_kib(node));
        assert_eq!(schema(node), before);
        sound(&node.app());
    }

    // A person retries all of them, without success, and drops them.
    let node = &cluster.nodes[0];
    let entries = aside(node);
    for (id, _) in entries.values() {
        assert!(node.cli(&["quarantine", "retry", &id.to_string()]).status.success());
    }
    eventually("they were tried", || {
        node.output().matches("still cannot be applied").count() >= entries.len()
    });
    let left = aside(node);
    let digest = |entries: &BTreeMap<u64, (i64, String)>| {
        entries.values().filter(|(_, reason)| reason.contains("announced digest")).count()
    };
    assert_eq!((digest(&entries), digest(&left)), (1, 1), "the reason stays");
    let applied = entries.iter().filter(|(id, _)| !left.contains_key(id));
    let applied: Vec<&str> = applied.map(|(_, (_, reason))| &reason[..]).collect();
    // The bytes of these are as they were announced; only the numbers beside them are wrong.
    assert!(applied.len() == 3 && applied.iter().all(|r| r.starts_with("part ")), "{applied:?}");
    for (id, _) in left.values() {
        assert!(node.cli(&["quarantine", "drop", &id.to_string()]).status.success());
    }
    assert!(aside(node).is_empty());
    assert!(!node.status().unwrap()["degraded"].to_string().contains("quarantine"));
}

/// Changes each byte of the batch, and of its compressed form, in three ways, under correct
/// headers, as a defect in another node's program might do. Some results are still batches, with
/// other rows.
#[test]
fn any_byte_may_be_another_and_all_nodes_still_end_equal() {
    let (mut cluster, real) = with_a_real_batch();
    let before = schema(&cluster.nodes[0]);
    let changed =
        |of: &[u8], i: usize, bits: u8| [&of[..i], &[of[i] ^ bits], &of[i + 1..]].concat();
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let next = |payloads: &Vec<Vec<u8>>| bytes(&of_node(&real, FIRST + payloads.len() as u64));
    for bits in [0x01, 0x80, 0xff] {
        for i in 0..next(&payloads).len() {
            payloads.push(packed(&changed(&next(&payloads), i, bits)));
            payloads.push(changed(&packed(&next(&payloads)), i, bits));
        }
    }
    let cases: Vec<Case> = payloads
        .into_iter()
        .map(|payload| Case { payload, headers: Some(&[]), end: Aside("") })
        .collect();
    send(&cluster, &cases);
    cluster.nodes[1].app().execute_batch("INSERT INTO entry VALUES ('later', 6)").unwrap();
    for node in &mut cluster.nodes {
        eventually("later batches flow", || {
            number(&node.app(), "SELECT count(*) FROM entry WHERE id = 'later'") == 1
        });
        assert!(node.is_running());
        let (aside, held) = (aside(node).len(), held(node).len());
        assert!(
            aside > cases.len() / 4 && held > 0 && aside + held < cases.len(),
            "{aside} and {held} of {}",
            cases.len()
        );
        assert_eq!(schema(node), before);
        sound(&node.app());
    }
    cluster.converge();
}
