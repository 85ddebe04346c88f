//! Two instances of a Django project, one at each of two nodes, work at the same time and end up
//! equal.
//!
//! Goal: Django's own tables (users, groups, permissions, the many-to-many tables between them,
//! sessions, the admin's log) replicate unchanged, and both databases stay sound. Method: run
//! `migrate` on both; then two Python processes work through the ORM and the admin's pages. Each
//! gives its rows separate ids (`shop/ids.py`). Otherwise both would create user 2, and one of the
//! two people would be lost (docs/ids.md, tests/ids.rs).

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_guarantees::{Cluster, Node, eventually, number, rows, timed};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the directory of Django, and installs it if `make test` did not.
fn django() -> String {
    let out = Command::new("python3").arg(here("../../scripts/django.py")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn run(node: &Node, program: &str, arguments: &[&str], is_instance: bool) -> Output {
    let mut command = Command::new("python3");
    command.arg(here("django").join(program)).args(arguments);
    command.env("PYTHONPATH", django()).env("APP_DB", &node.db);
    if is_instance {
        command.env("NODE", node.id.to_string());
    }
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "node {}: {program} {arguments:?}: {}",
        node.id,
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

/// Runs a phase on both instances at the same time.
fn both(cluster: &Cluster, phase: &str) {
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            scope.spawn(move || run(node, "work.py", &[phase], true));
        }
    });
    cluster.converge();
}

#[test]
fn two_django_instances_end_up_equal() {
    let mut cluster = Cluster::new(2, "");
    for node in &cluster.nodes {
        run(node, "manage.py", &["migrate", "-v0"], false);
    }
    cluster.run();
    cluster.converge();
    timed("both create users, groups, permissions", || both(&cluster, "create"));
    timed("both change what the other created", || both(&cluster, "cross"));
    for node in &cluster.nodes {
        let said = run(node, "work.py", &["check"], true).stdout;
        assert_eq!(String::from_utf8_lossy(&said).trim(), "66 users, 14 groups");
        run(node, "manage.py", &["check"], true);
        run(node, "manage.py", &["makemigrations", "--check", "--dry-run"], true);
        assert_eq!(rows(&node.app(), "PRAGMA integrity_check"), [["\"ok\""]]);
        assert_eq!(rows(&node.app(), "PRAGMA foreign_key_check"), [[""; 0]; 0]);
    }
}

const PRODUCTS: i64 = 30;

/// What the application does at one node all the time, in every version: it changes the stock of
/// its own products and records it. Returns how often. (It leaves products alone: a whole row wins
/// or loses, so a migration that fills a column and a sale of the same row at another node at the
/// same time would undo each other. Writes to tables that migrate: second_version.rs.)
fn sell(node: &Node, stop: &AtomicBool) -> i64 {
    let db = node.app();
    let mut sold = 0;
    while !stop.load(Ordering::Relaxed) {
        let mine = PRODUCTS * (node.id.cast_signed() - 1) + sold % PRODUCTS;
        let sql = format!(
            "BEGIN IMMEDIATE; UPDATE store_stock SET n = n + 1 WHERE id = '{mine:032x}'; \
            INSERT INTO store_event VALUES ('{:016x}{sold:016x}', 'sold'); COMMIT",
            node.id
        );
        db.execute_batch(&sql).unwrap_or_else(|e| panic!("node {}: {sql}: {e}", node.id));
        sold += 1;
        // Three nodes that write as fast as they can leave a migration no turn.
        std::thread::sleep(Duration::from_millis(20));
    }
    sold
}

/// A rolling deployment: AddField with and without default, RenameField, AlterField, RunPython,
/// DeleteModel, on three nodes that all sell meanwhile.
fn deploy(mode: &str, on_every_node: bool) {
    let mut cluster = Cluster::with(3, "", &format!("[schema]\nreplicate = \"{mode}\""));
    for node in &cluster.nodes {
        run(node, "manage.py", &["migrate", "-v0", "store", "0001"], false);
    }
    for i in 0..3 * PRODUCTS {
        let sql = format!(
            "INSERT INTO store_product VALUES ('{i:032x}', 'product {i}'); INSERT INTO store_stock \
            VALUES ('{i:032x}', 0)"
        );
        cluster.nodes[0].app().execute_batch(&sql).unwrap();
    }
    cluster.run();
    cluster.converge();
    let stop = AtomicBool::new(false);
    let sold: i64 = std::thread::scope(|scope| {
        let sellers: Vec<_> =
            cluster.nodes.iter().map(|node| scope.spawn(|| sell(node, &stop))).collect();
        for step in ["0002", "0003", "0004", "0005", "0006", "0007"] {
            let nodes = if on_every_node { &cluster.nodes[..] } else { &cluster.nodes[..1] };
            for node in nodes {
                run(node, "manage.py", &["migrate", "-v0", "store", step], false);
            }
            for node in &cluster.nodes {
                let sql =
                    format!("SELECT count(*) FROM django_migrations WHERE name GLOB '{step}*'");
                eventually(&format!("node {} has {step}", node.id), || {
                    number(&node.app(), &sql) == 1
                });
            }
        }
        stop.store(true, Ordering::Relaxed);
        sellers.into_iter().map(|seller| seller.join().unwrap()).sum()
    });
    cluster.converge();
    for node in &cluster.nodes {
        let said = run(node, "manage.py", &["migrate", "store"], false).stdout;
        assert!(String::from_utf8_lossy(&said).contains("No migrations to apply"), "{said:?}");
        run(node, "manage.py", &["makemigrations", "--check", "--dry-run"], false);
        let db = node.app();
        assert_eq!(number(&db, "SELECT count(*) FROM store_event"), sold, "node {}", node.id);
        assert_eq!(number(&db, "SELECT sum(n) FROM store_stock"), sold, "node {}", node.id);
        let whole = "SELECT count(*) FROM store_product WHERE label = 'label of ' || title AND sku \
            = 'none'";
        assert_eq!(number(&db, whole), 3 * PRODUCTS, "node {}", node.id);
        assert_eq!(rows(&db, "PRAGMA integrity_check"), [["\"ok\""]]);
        let status = node.status().unwrap();
        assert_eq!(
            (status["quarantine"].as_i64(), status["held"].to_string().as_str()),
            (Some(0), "[]")
        );
    }
}

/// AddField with a default that does not stay is a rebuild in SQLite, as is all but adding, so with
/// `additive` every node migrates. One mode after the other: beside two more of its kind each takes
/// six times as long.
#[test]
fn django_migrates_under_load_in_every_mode() {
    for (mode, on_every_node) in [("off", true), ("additive", true), ("all", false)] {
        timed(mode, || deploy(mode, on_every_node));
    }
}
