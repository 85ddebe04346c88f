//! Leaderless multi-writer replication for SQLite over NATS JetStream.

pub mod batch;
pub mod broker;
pub mod error;
pub mod limits;
pub mod names;
