//! The application's database file: connections, its schema as the replicator sees it, SQL text.

mod autoincrement;
pub mod connection;
pub mod file_locks;
mod identity;
pub mod ids;
mod index_sql;
pub mod key_pages;
pub mod layout;
pub mod lockfile;
pub mod objects;
pub mod preflight;
pub mod published_objects;
pub mod rebuild_capture;
pub mod row_digest;
pub mod schema;
pub mod schema_change;
pub mod schema_diff;
pub mod schema_rehearsal;
pub mod schema_run;
pub mod schema_state;
pub mod shape;
pub mod snapshots;
pub mod sql;
pub mod sql_tokens;
pub mod table_text;
pub mod temp_triggers;
pub mod unique_probe;
