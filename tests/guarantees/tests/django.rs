//! Two instances of a Django project, one at each of two nodes, work at the same time and end up
//! equal.
//!
//! Goal: Django's own tables (users, groups, permissions, the many-to-many tables between them,
//! sessions, the admin's log) replicate unchanged, and both databases stay sound. Method: run
//! `migrate` on both; then two Python processes work through the ORM and the admin's pages. Each
//! gives its rows separate ids (`shop/ids.py`). Otherwise both would create user 2, and one of the
//! two people would be lost (docs/ids.md, tests/ids.rs).

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, rows, timed};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
