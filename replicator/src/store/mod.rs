//! Our own tables in the application's database: one file a table, with all SQL on it.

pub mod conflicts;
pub mod cursor;
pub mod quarantine;
pub mod versions;
