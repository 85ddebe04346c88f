//! A statement on a snapshot in a store, with the real program.
//!
//! Goal: the rows are those of the snapshot, nothing can be written, and damage is named instead of
//! read. Method: save, change the database, query; for a directory and for an S3 server.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::stores::s3;
use harmonylite_guarantees::{Cluster, Node};
use serde_json::{Value, json};
use std::path::Path;

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT, more);
    WITH RECURSIVE n(i) AS (VALUES (3) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO note SELECT i, hex(randomblob(1000)), i * 0.5 FROM n;
    INSERT INTO note VALUES (1, 'it''s' || char(10), X'00FF'), (2, NULL, 9e999)";

#[track_caller]
fn query(node: &Node, arguments: &[&str]) -> (String, String) {
    let out = node.cli(&[&["snapshot", "query"], arguments].concat());
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{arguments:?}: {error}");
    (String::from_utf8(out.stdout).unwrap(), error)
}

/// Runs one that must be refused. Returns its status and its two lines.
#[track_caller]
fn refused(node: &Node, sql: &str) -> (Option<i32>, String) {
    let out = node.cli(&["snapshot", "query", sql]);
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && error.contains("hint: "), "{sql}: {error}");
    assert!(out.stdout.is_empty(), "{sql}");
    (out.status.code(), error)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_answered(cluster: &Cluster, store: &Path) {
    let node = &cluster.nodes[0];
    let id = node.json(&["snapshot", "save"])["snapshot"].as_str().unwrap().to_owned();
    node.app().execute_batch("DELETE FROM note WHERE id > 2").unwrap();

    let (text, _) = query(node, &["SELECT * FROM note WHERE id < 4 ORDER BY id", "--json"]);
    let rows = lines(&text);
    assert_eq!(rows[0], json!({"id": 1, "body": "it's\n", "more": {"blob": "00ff"}}));
    assert_eq!(rows[1], json!({"id": 2, "body": null, "more": {"real": "inf"}}));
    assert_eq!((&rows[2]["id"], &rows[2]["more"], rows.len()), (&json!(3), &json!(1.5), 3));
    let (text, _) = query(node, &["SELECT body, more FROM note WHERE id < 3"]);
    assert_eq!(text, "body    more\nit's\\n  X'00ff'\nNULL    9e999\n");

    // The limit, and no limit.
    let all = "SELECT id FROM note";
    let (text, more) = query(node, &[all, "--json", "--snapshot", &id]);
    assert!(lines(&text).len() == 1_000 && more.contains("more than 1000 rows"), "{more}");
    let (text, more) = query(node, &[all, "--json", "--limit", "0"]);
    assert_eq!((lines(&text).len(), more.as_str()), (3_000, ""));
    let (text, more) = query(node, &[all, "--limit", "3000"]);
    assert_eq!((text.matches("id\n").count(), text.lines().count()), (3, 3_003));
    assert_eq!(more, "");

    for sql in ["DELETE FROM note", "CREATE TABLE x (a)", "ATTACH 'x.db' AS x"] {
        let (status, error) = refused(node, sql);
        assert!(status == Some(2) && error.contains("can only be read"), "{error}");
    }
    let (status, error) = refused(node, "SELECT * FROM absent");
    assert!(status == Some(2) && error.contains("no such table: absent"), "{error}");
    let out = node.cli(&["snapshot", "query", "SELECT 1 AS a, 2 AS a", "--json"]);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));

    let chunks = chunks(store);
    assert!(chunks.len() > 4, "{chunks:?}");
    let (text, _) = query(node, &["SELECT count(*) AS n FROM note", "--json"]);
    assert_eq!(text, "{\"n\":3000}\n");
    for chunk in &chunks {
        std::fs::write(chunk, b"damaged").unwrap();
    }
    let (_, error) = refused(node, all);
    let names =
        |chunk: &std::path::PathBuf| error.contains(chunk.file_name().unwrap().to_str().unwrap());
    assert!(chunks.iter().any(names), "{error}");
}

fn chunks(store: &Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(store.join("chunk")).unwrap().flatten();
    folders.flat_map(|f| std::fs::read_dir(f.path()).unwrap().flatten().map(|e| e.path())).collect()
}

fn append(cluster: &Cluster, settings: &str) {
    let config = &cluster.nodes[0].config;
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}\n[snapshot]\n{settings}")).unwrap();
}

#[test]
fn a_snapshot_in_a_directory_is_read() {
    let cluster = Cluster::new(1, SCHEMA);
    let path = cluster.dir.path().join("snapshots");
    append(&cluster, &format!("store = \"dir\"\ndir.path = {:?}\n", path.to_str().unwrap()));
    is_answered(&cluster, &path);
}

#[test]
fn a_snapshot_in_s3_is_read() {
    let cluster = Cluster::new(1, SCHEMA);
    let server = s3(cluster.dir.path());
    append(&cluster, &server.settings);
    is_answered(&cluster, &server.root);
}
