//! Leaderless multi-writer replication for SQLite over NATS JetStream.
//!
//! A program that wants to run a node inside its own process starts with [`Node::builder`]; what
//! it reads from a configuration file is in [`settings`], what a running node reports in
//! [`status`]. Everything else is the engine: it is public only for the simulation, the
//! conformance tests and the benchmarks of this repository, changes without notice, and is not
//! shown in the documentation.
//!
//! The modules stand here in the order in which data flows through them; ARCHITECTURE.md describes
//! each, and which may use which.

#[doc(hidden)]
pub mod model;

#[doc(hidden)]
pub mod broker;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod db;
#[doc(hidden)]
pub mod wire;

#[doc(hidden)]
pub mod store;

#[doc(hidden)]
pub mod actor;

#[doc(hidden)]
pub mod capture;
#[doc(hidden)]
pub mod merge;
#[doc(hidden)]
pub mod repair;

#[doc(hidden)]
pub mod inbound;
#[doc(hidden)]
pub mod publish;

pub mod settings;

#[doc(hidden)]
pub mod embedded;
#[doc(hidden)]
pub mod nats;

#[doc(hidden)]
pub mod snapshots;

mod node;

#[doc(hidden)]
pub mod cli;

pub use model::status;
pub use node::{Node, NodeBuilder, NodeError};
