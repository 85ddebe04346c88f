//! Makes a restored file ready to be started.

use crate::db::connection::DatabaseError;
use crate::store::{install, meta, sites};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::Path;

/// Why a restored file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare the restored database: {0}")]
pub(crate) struct RestoredError(#[from] DatabaseError);

/// Strips the identity of the captured database from a restored file; the positions in the streams
/// and what was not published stay. Nobody else may use the file.
///
/// # Errors
/// The tables are of a later program; SQLite's error.
pub(crate) fn begin_anew(path: &Path, now_ms: i64) -> Result<(), RestoredError> {
    let strip = || -> Result<(), DatabaseError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags)?;
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if install::is_installed(&transaction)? {
            let format = meta::get(&transaction, meta::FORMAT)?.unwrap_or(install::FORMAT);
            install::check_format(path, format)?;
            sites::end_restored(&transaction, now_ms)?;
        }
        transaction.commit()?;
        // Nothing may stay in a journal: the file alone is moved into place.
        db.pragma_query(None, "wal_checkpoint", |_| Ok(()))?;
        db.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    strip().map_err(RestoredError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{NodeId, Site};

    #[test]
    fn the_file_alone_has_no_identity_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)").unwrap();
        install::create_tables(&db, &path).unwrap();
        sites::begin_site(&db, Site(7), 1).unwrap();
        meta::set(&db, meta::NODE, NodeId(3)).unwrap();
        drop(db);
        begin_anew(&path, 2).unwrap();
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1, "no journal is left");
        assert_eq!(install::stored_node(&path).unwrap(), None);

        let db = Connection::open(&path).unwrap();
        meta::set(&db, meta::FORMAT, install::FORMAT + 1).unwrap();
        drop(db);
        assert!(begin_anew(&path, 2).unwrap_err().to_string().contains("upgrade"));
        std::fs::write(dir.path().join("plain.db"), "").unwrap();
        begin_anew(&dir.path().join("plain.db"), 2).unwrap();
    }
}
