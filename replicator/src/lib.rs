//! Leaderless multi-writer replication for SQLite over NATS JetStream.

pub mod actor;
pub mod broker;
pub mod capture;
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod db;
pub mod embedded;
pub mod inbound;
pub mod merge;
pub mod model;
pub mod nats;
pub mod node;
pub mod publish;
pub mod repair;
pub mod settings;
pub mod store;
pub mod wire;

pub use node::{Node, NodeBuilder, NodeError};
