//! The embedded broker: a `nats-server` child, for nodes that are given no `nats.urls`.
//!
//! Arrives: the settings, the node id, the neighbours given on the command line. Leaves: where and how to connect ([`Access`]).
//! Owns: the child is never left behind, is restarted when it dies, and nobody else uses its store directory meanwhile.
//! A crash here (SIGKILL of this process) closes the lifeline, which ends the child within moments (`process.rs`).
//!
//! *Alone* it listens on loopback only, with credentials made at start, unless `nats.bind_address` or `nats.server_config` say
//! otherwise.
//!
//! *Clustered* (`-cluster-addr`, `-cluster-peers`): JetStream elects its leaders among the servers it knows, by majority. So a
//! cluster needs three nodes or more to outlive one; a node that starts first waits for a second, and streams with `replicas`
//! below 3 live and die with one server.
//!
//! *Leaf* (`-leaf-servers`): the child runs **without JetStream**. A leaf server with a JetStream of its own answers its clients'
//! `$JS.API` requests itself, so the node would talk to a private stream that no other node sees. Without one, and with
//! `default_js_domain` empty for our account (or the server keeps those requests back all the same), requests, publishes and
//! deliveries pass to the hub, where the streams live: `tests/leaf.rs`. The hub must have a `leafnodes` block (in its
//! `server_config`, if it is an embedded server itself). While it cannot be reached the node captures and waits, as with any
//! broker. A `jetstream` block in this node's `server_config` is taken as it is, for those who mirror streams themselves.

mod binary;
mod config;
mod error;
mod lock;
mod log;
mod process;
mod server;
#[cfg(test)]
mod tests;
mod user_config;

pub use binary::{VERSION_MIN, inside};
pub use error::EmbeddedError;
pub use server::{Access, Embedded};
