//! The application's database file: connections, its schema as the replicator sees it, SQL text.

pub mod connection;
pub mod ids;
pub mod key_pages;
pub mod layout;
pub mod lockfile;
pub mod preflight;
pub mod row_digest;
pub mod schema;
pub mod shape;
pub mod snapshots;
pub mod sql;
