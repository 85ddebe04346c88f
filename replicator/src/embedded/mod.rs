//! The embedded broker: a `nats-server` child, for nodes that are given no `nats.urls`.
//!
//! Arrives: the settings, the node id, the neighbours given on the command line. Leaves: where and
//! how to connect ([`Access`]). Owns: the child is never left behind, is restarted when it dies,
//! and nobody else uses its store directory meanwhile. A crash here (SIGKILL of this process)
//! closes the lifeline, which ends the child within moments (`process.rs`).
//!
//! *Alone* it listens on loopback only, with credentials made at start, unless `nats.bind_address`
//! or `nats.server_config` say otherwise.
//!
//! *Clustered* (`-cluster-addr`, `-cluster-peers`): JetStream elects its leaders among the servers
//! it knows, by majority. So a cluster needs three nodes or more to outlive one; a node that starts
//! first waits for a second, and streams with `replicas` below 3 live and die with one server.
//!
//! *Leaf* (`-leaf-servers`): the child runs **without JetStream**. A leaf server with a JetStream
//! of its own answers its clients' `$JS.API` requests itself, so the node would talk to a private
//! stream that no other node sees. Without one, and with `default_js_domain` (`config.rs`),
//! requests, publishes and deliveries pass to the hub, where the streams live: `tests/leaf.rs`. The
//! hub needs a `leafnodes` block (an embedded hub: in its `server_config`; the rest is added here).
//! If the hub's JetStream has a domain, the leaf's `server_config` must name it:
//! `default_js_domain: { "$G": "that domain" }`. A hub that is not ours and has no domain should
//! have `default_js_domain: { "$G": "" }`: measured without it on 2.15.1, all works through the
//! leaf but direct gets, which time out (`STREAM.MSG.GET` works). While the hub cannot be reached
//! the node captures and waits, as with any broker. A `jetstream` block in the leaf's own
//! `server_config` is taken as it is, for those who mirror streams themselves.

mod binary;
mod config;
mod error;
mod lock;
mod log;
mod neighbours;
mod process;
mod server;
#[cfg(test)]
mod tests;
mod user_config;

pub(crate) use binary::parse_version;
pub use binary::{VERSION_MIN, inside, server_program};
pub use error::EmbeddedError;
pub use process::LIFELINE_SHELL;
pub use server::{Access, Embedded, Health};
