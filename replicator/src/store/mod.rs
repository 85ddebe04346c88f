//! Our own tables in the application's database. Each table has one file with all its SQL.
//!
//! Every function works on the caller's connection and inside the caller's transaction.

pub mod change_log;
pub mod comparisons;
pub mod conflicts;
pub mod cursor;
pub mod entry_code;
pub mod far_versions;
mod former_formats;
mod former_log;
pub mod gaps;
pub mod held;
pub mod id_ranges;
pub mod install;
pub mod kept_tables;
pub mod meta;
pub mod origins;
pub mod quarantine;
pub mod schema_changes;
pub mod schema_history;
pub mod site_numbers;
pub mod sites;
pub mod tables;
pub mod unmade_objects;
pub mod versions;

/// An empty database with our tables, for tests.
#[cfg(test)]
pub(crate) fn test_database() -> rusqlite::Connection {
    #[allow(clippy::unwrap_used)]
    let db = rusqlite::Connection::open_in_memory().unwrap();
    #[allow(clippy::unwrap_used)]
    install::create_tables(&db, std::path::Path::new(":memory:")).unwrap();
    db
}
