//! Leaderless multi-writer replication for SQLite over NATS JetStream.

pub mod broker;
pub mod capture;
pub mod clock;
pub mod db;
pub mod embedded;
pub mod inbound;
pub mod lease;
pub mod merge;
pub mod model;
pub mod node;
pub mod prune;
pub mod publish;
pub mod relog;
pub mod repair;
pub mod settings;
pub mod store;
pub mod wire;

pub use node::{Node, NodeBuilder, NodeError};
