//! The reasons why a node does not start or cannot continue.

use super::ThreadEnd;
use super::file_guard::FilesReplaced;
use super::http::ListenError;
use crate::actor::Fatal;
use crate::db::connection::DatabaseError;
use crate::db::lockfile::LockError;
use crate::embedded::EmbeddedError;
use crate::settings::NodeConfigError;
use std::path::{Path, PathBuf};

/// Why a node does not start or cannot continue. The program maps each kind to an exit status.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] NodeConfigError),
    /// The database cannot be used.
    #[error("database {path}: {error}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: DatabaseError,
    },
    /// The database's file is not accessible.
    #[error("database {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: std::io::Error,
    },
    /// Another sidecar holds the database's lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The embedded server did not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The broker is unusable until somebody changes something.
    #[error("{0}")]
    Broker(String),
    /// A port or socket is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The database's files were deleted or replaced.
    #[error(transparent)]
    Replaced(#[from] FilesReplaced),
    /// The node stopped to protect data.
    #[error(transparent)]
    Fatal(Fatal),
    /// A thread panicked: a defect of this program.
    #[error(
        "the {0} thread panicked; this is a defect of harmonylite: please report it with the log"
    )]
    Panicked(&'static str),
}

impl NodeError {
    /// Wraps a thread's fatal error; adds the database's path where it is missing.
    pub(super) fn fatal(path: &Path, fatal: Fatal) -> Self {
        match fatal {
            Fatal::Database(error) => Self::Database { path: path.to_owned(), error },
            other => Self::Fatal(other),
        }
    }
}

impl ThreadEnd {
    /// The thread's end as the result of the node on this database.
    pub(super) fn result(self, path: &Path) -> Result<(), NodeError> {
        match self {
            ThreadEnd::Stopped => Ok(()),
            ThreadEnd::Fatal(fatal) => Err(NodeError::fatal(path, fatal)),
            ThreadEnd::Replaced(replaced) => Err(NodeError::Replaced(replaced)),
            ThreadEnd::Split(reason) => Err(NodeError::Broker(reason)),
            ThreadEnd::Panicked(thread) => Err(NodeError::Panicked(thread)),
        }
    }
}
