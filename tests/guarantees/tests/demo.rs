//! The demo proves its claims, and fails if they are not true.
//!
//! Method: run the real `harmonylite demo`, short and without a terminal, once unchanged and once
//! with a node that it damages before the comparison (by an environment variable for this test).

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{binary, nats_server};
use std::process::{Command, Output};

fn demo(damage: bool) -> Output {
    let mut command = Command::new(binary());
    command.args(["demo", "--seconds", "8"]).env("HARMONYLITE_NATS_SERVER", nats_server());
    if damage {
        command.env("HARMONYLITE_DEMO_DAMAGE", "1");
    }
    command.output().unwrap()
}

#[test]
fn four_nodes_end_equal() {
    let out = demo(false);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("4 of 4 nodes equal"),
        "{text}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(
        text.contains("done: node 3 was cut off while all wrote the same rows")
            && text.contains("done: node 2 was killed and restarted"),
        "both misfortunes happened: {text}"
    );
    assert!(text.contains("node 4 started without a file"), "{text}");
}

#[test]
fn a_node_that_differs_is_named() {
    let out = demo(true);
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("3 of 4 nodes equal"), "{text}");
}
