//! One statement on a snapshot in a store, without restoring it.
//!
//! Arrives: a snapshot and a statement. Leaves: its rows, one after the other. Owns: only what is
//! read is fetched, nothing can be written, and no other file can be opened. A crash leaves
//! nothing.

use crate::catalog::Found;
use crate::error::SnapshotError;
use crate::remote::RemoteImage;
use crate::remote_vfs::{Mounted, VFS};
use crate::store::Retrying;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The longest value, in bytes: it is in memory, and so is its row.
const VALUE_BYTES_MAX: i32 = 64 << 20;
/// SQLite asks whether to stop after so many of its instructions.
const INSTRUCTIONS: i32 = 10_000;
/// Pragmas that only read, also with a value.
const ASKS_ABOUT: [&str; 10] = [
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];
/// Pragmas that only read without a value. Full-text search asks for `data_version`.
const ASKS: [&str; 12] = [
    "application_id",
    "auto_vacuum",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "encoding",
    "freelist_count",
    "function_list",
    "page_count",
    "page_size",
    "user_version",
];

/// Why a statement has no rows.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The image cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// SQLite does not accept the statement, or fails with it.
    #[error("{0}")]
    Sql(rusqlite::Error),
    /// The statement writes, or does more than read this database.
    #[error("a snapshot can only be read, and this statement does more")]
    NotRead,
    /// It is more than one statement.
    #[error("more than one statement")]
    Several,
    /// SQLite cannot open the image.
    #[error("SQLite cannot open an image in a store: {0}")]
    Open(String),
    /// It was stopped.
    #[error("stopped")]
    Stopped,
}

impl QueryError {
    /// Returns what a person can do.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Snapshot(error) => return error.hint(),
            Self::Sql(_) => {
                "the tables: harmonylite snapshot query \"SELECT name, sql FROM sqlite_schema\". \
                What a query cannot do can be done with a copy: `harmonylite snapshot restore --to \
                FILE`"
            }
            Self::NotRead => {
                "use one SELECT. To change a copy: `harmonylite snapshot restore --to FILE`, then \
                any SQLite tool"
            }
            Self::Several => "run one `harmonylite snapshot query` for each statement",
            Self::Open(_) => "use a copy instead: `harmonylite snapshot restore --to FILE`",
            Self::Stopped => "repeat it when there is time",
        };
        text.to_owned()
    }
}

/// A snapshot in a store as a read-only database.
#[derive(Debug)]
pub struct RemoteDatabase {
    // Closed before its image goes.
    db: Connection,
    image: Arc<RemoteImage>,
    _mounted: Mounted,
}

impl RemoteDatabase {
    /// Opens it, and fetches what SQLite needs to know the schema. `runtime` fetches; this and
    /// [`Self::query`] are called on a thread that may block. All ends when `stop` becomes true.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn open(
        store: &Retrying,
        snapshot: Found,
        runtime: Handle,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, QueryError> {
        let image = RemoteImage::new(store.clone(), snapshot, runtime, stop.clone());
        let image = Arc::new(image);
        let mounted = Mounted::new(Arc::clone(&image)).map_err(QueryError::Open)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags_and_vfs(mounted.name(), flags, VFS);
        let db = opened.and_then(|mut db| {
            db.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
            db.authorizer(Some(|context: AuthContext<'_>| decide(&context.action)))?;
            db.progress_handler(INSTRUCTIONS, Some(move || *stop.borrow()))?;
            Ok(db)
        });
        match db {
            Ok(db) => Ok(Self { db, image, _mounted: mounted }),
            Err(error) => Err(failed(&image, error)),
        }
    }

    /// Runs a statement. `each` receives the names of the columns with the values of each row, and
    /// ends it with `Break`. Returns the names of the columns.
    ///
    /// # Errors
    /// [`QueryError`]; rows may have been given before.
    pub fn query(
        &self,
        sql: &str,
        mut each: impl FnMut(&[String], &[ValueRef<'_>]) -> ControlFlow<()>,
    ) -> Result<Vec<String>, QueryError> {
        let failed = |error| failed(&self.image, error);
        let mut statement = self.db.prepare(sql).map_err(failed)?;
        if !statement.readonly() {
            return Err(QueryError::NotRead);
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let values = (0..columns.len()).map(|index| row.get_ref(index));
            let values = values.collect::<Result<Vec<_>, _>>().map_err(failed)?;
            if each(&columns, &values).is_break() {
                break;
            }
        }
        Ok(columns)
    }

    /// Returns how many chunks were fetched.
    pub fn fetched_chunks(&self) -> usize {
        self.image.fetched()
    }
}

/// The cause of an error: SQLite knows only that a read failed.
fn failed(image: &RemoteImage, error: rusqlite::Error) -> QueryError {
    if image.is_stopped() {
        return QueryError::Stopped;
    }
    if let Some(cause) = image.failure() {
        return cause.into();
    }
    match error {
        rusqlite::Error::MultipleStatement => QueryError::Several,
        error
            if error.sqlite_error_code()
                == Some(rusqlite::ErrorCode::AuthorizationForStatementDenied) =>
        {
            QueryError::NotRead
        }
        error => QueryError::Sql(error),
    }
}

/// Refuses what SQLite calls reading, although it opens files or changes the connection. Writes are
/// known by the statement: the modules of virtual tables prepare theirs in advance.
fn decide(action: &AuthAction<'_>) -> Authorization {
    let is_read = match action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Recursive
        | AuthAction::Insert { .. }
        | AuthAction::Update { .. }
        | AuthAction::Delete { .. } => true,
        AuthAction::Function { function_name } => {
            !function_name.eq_ignore_ascii_case("load_extension")
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            ASKS_ABOUT.contains(&name.as_str())
                || (pragma_value.is_none() && ASKS.contains(&name.as_str()))
        }
        _ => false,
    };
    if is_read { Authorization::Allow } else { Authorization::Deny }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
