//! Why a node does not start, or cannot go on.

use super::Ended;
use super::guard::Replaced;
use super::http::ListenError;
use crate::actor::Fatal;
use crate::db::connection::DatabaseError;
use crate::db::lockfile::LockError;
use crate::embedded::EmbeddedError;
use crate::settings::NodeConfigError;
use std::path::{Path, PathBuf};

/// Each kind has its own exit status in the binary.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] NodeConfigError),
    /// The database cannot be used.
    #[error("database {path}: {error}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: DatabaseError,
    },
    /// Its file cannot be looked at.
    #[error("database {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: std::io::Error,
    },
    /// Another sidecar has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The embedded server does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The broker cannot be used, and that will not get better by itself.
    #[error("{0}")]
    Broker(String),
    /// A port or socket is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The database's files are not ours any more.
    #[error(transparent)]
    Replaced(#[from] Replaced),
    /// Going on could harm data.
    #[error(transparent)]
    Fatal(Fatal),
    /// A defect of this program.
    #[error(
        "the {0} thread panicked; this is a defect of harmonylite: please report it with the log"
    )]
    Panicked(&'static str),
}

impl NodeError {
    /// What ended one of the threads, with the database's name where it is missing.
    pub(super) fn fatal(path: &Path, fatal: Fatal) -> Self {
        match fatal {
            Fatal::Database(error) => Self::Database { path: path.to_owned(), error },
            other => Self::Fatal(other),
        }
    }
}

impl Ended {
    /// How a node on this database ended.
    pub(super) fn result(self, path: &Path) -> Result<(), NodeError> {
        match self {
            Ended::Stopped => Ok(()),
            Ended::Fatal(fatal) => Err(NodeError::fatal(path, fatal)),
            Ended::Replaced(replaced) => Err(NodeError::Replaced(replaced)),
            Ended::Panicked(thread) => Err(NodeError::Panicked(thread)),
        }
    }
}
