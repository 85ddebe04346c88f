//! Leaderless multi-writer replication for SQLite over NATS JetStream.

pub mod admit;
pub mod apply;
pub mod broker;
pub mod capture;
pub mod clash;
pub mod clock;
pub mod db;
pub mod embedded;
pub mod inbound;
pub mod lease;
pub mod model;
pub mod node;
pub mod prune;
pub mod publish;
pub mod relog;
pub mod repair;
pub mod resolve;
pub mod settings;
pub mod store;
pub mod wire;

pub use node::{Node, NodeBuilder, NodeError};
