//! The base of the guarantee tests: real nodes (the `harmonylite` binary), a real nats-server, real
//! database files.
//!
//! Every process, port and folder belongs to one test and ends with it, also after a failure. No
//! test waits for a fixed time: [`eventually`] waits for a condition, and its failure names the
//! condition.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod authority;
mod broker;
mod cluster;
mod embedded;
mod node;
mod process;
mod server;
mod sql;
pub mod stores;

pub use authority::{Authority, Purpose};
pub use broker::{Broker, on_jetstream, server_binary as nats_server};
pub use cluster::{Cluster, converge};
pub use embedded::{EmbeddedCluster, embedded, free_port, servers_below, status_of, timed};
pub use node::Node;
pub use process::{Process, binary, python};
pub use server::Server;
pub use sql::{Rows, contents, later, number, open, rows, sound};

use std::time::{Duration, Instant};

/// The longest time for a condition to become true. It is generous, because CI has two cores and
/// runs other tests in parallel.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, and fails the test if it does not become true.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    within(PATIENCE, what, &mut condition);
}

/// Does the same as [`eventually`], with another patience.
#[track_caller]
#[allow(clippy::disallowed_methods)]
pub fn within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < patience, "still not true after {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
