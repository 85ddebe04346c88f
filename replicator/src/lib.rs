//! Leaderless multi-writer replication for SQLite over NATS JetStream.

pub mod absorb;
pub mod batch;
pub mod broker;
pub mod capture;
pub mod database;
pub mod error;
pub mod fold;
pub mod join;
pub mod layout;
pub mod limits;
pub mod mirror;
pub mod names;
pub mod resolve;
pub mod schema;
pub mod sql;
