//! What can go wrong with snapshots: what happened, to what, and what a person can do.

use crate::store::{StoreError, StoreErrorKind};
use std::path::PathBuf;

/// Why a snapshot cannot be saved, listed, verified, restored or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed, after all retries.
    #[error("{place}: cannot {action} {object}: {error}")]
    Store {
        /// The store, without credentials.
        place: String,
        /// `write`, `read`, `list` or `delete`.
        action: &'static str,
        /// The name of the object, or the prefix that was listed.
        object: String,
        /// The failure.
        error: StoreError,
    },
    /// The database cannot be read.
    #[error("cannot read the database {path}: {error}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        error: rusqlite::Error,
    },
    /// A local file fails.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// For instance `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The store has no snapshot.
    #[error("{place} has no snapshot")]
    None {
        /// The store.
        place: String,
    },
    /// The store does not have this snapshot.
    #[error("{place} has no snapshot {wanted}; it has {}", listed(.present))]
    Unknown {
        /// The store.
        place: String,
        /// The id asked for.
        wanted: String,
        /// The ids that it has, newest first.
        present: Vec<String>,
    },
    /// A manifest cannot be used.
    #[error("{place}: the manifest of snapshot {snapshot} {reason}")]
    Manifest {
        /// The store.
        place: String,
        /// The snapshot.
        snapshot: String,
        /// Its defect.
        reason: String,
    },
    /// A later program wrote the snapshot.
    #[error("{place}: snapshot {snapshot} has format {found}, this program knows up to {known}")]
    NewerFormat {
        /// The store.
        place: String,
        /// The snapshot.
        snapshot: String,
        /// Its format.
        found: u64,
        /// The last known format.
        known: u64,
    },
    /// A chunk is not in the store.
    #[error("{place}: chunk {chunk} of snapshot {snapshot} is missing{}", instead(.older))]
    MissingChunk {
        /// The store.
        place: String,
        /// The snapshot.
        snapshot: String,
        /// The chunk.
        chunk: String,
        /// The next older snapshot.
        older: Option<String>,
    },
    /// A chunk has another content than its name demands.
    #[error(
        "{place}: chunk {chunk} of snapshot {snapshot} is damaged ({reason}){}",
        instead(.older)
    )]
    CorruptChunk {
        /// The store.
        place: String,
        /// The snapshot.
        snapshot: String,
        /// The chunk.
        chunk: String,
        /// The defect.
        reason: String,
        /// The next older snapshot.
        older: Option<String>,
    },
    /// The chunks of a snapshot that was just saved are not all in the store.
    #[error("{place}: {missing} chunks of the new snapshot are gone again; it was not saved")]
    Vanished {
        /// The store.
        place: String,
        /// How many.
        missing: usize,
    },
    /// There is a file in the way.
    #[error("{path} exists")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A restored snapshot is not what was captured.
    #[error("{place}: snapshot {snapshot} is not a sound copy: {reason}")]
    Unsound {
        /// The store.
        place: String,
        /// The snapshot.
        snapshot: String,
        /// What differs.
        reason: String,
    },
}

fn instead(older: &Option<String>) -> String {
    older.as_ref().map_or(String::new(), |id| format!("; the next older snapshot is {id}"))
}

fn listed(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

impl SnapshotError {
    /// Returns what a person can do.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Store { error, .. } => match error.kind {
                StoreErrorKind::Denied => "check the credentials and permissions of the store",
                StoreErrorKind::Full => {
                    "free space in the store: `harmonylite snapshot prune` removes old snapshots"
                }
                StoreErrorKind::Passing => {
                    "check that the store can be reached, then repeat: chunks that arrived are not \
                    sent again"
                }
                _ => "check [snapshot] in the configuration, and the store",
            },
            Self::Database { .. } => {
                "check the path of the database, and that it is sound: \
                sqlite3 FILE 'PRAGMA integrity_check'"
            }
            Self::Io { .. } => "check the permissions and the free space of that directory",
            Self::None { .. } => "`harmonylite snapshot save` takes one",
            Self::Unknown { .. } => "`harmonylite snapshot list` shows all",
            Self::Manifest { .. } => {
                "`harmonylite snapshot list` shows the others: choose one of them"
            }
            Self::NewerFormat { .. } => "install the newer harmonylite here too",
            Self::MissingChunk { older, .. } | Self::CorruptChunk { older, .. } => {
                return match older {
                    Some(id) => format!(
                        "name the older one: --snapshot {id}; `harmonylite snapshot save \
                        --resend` puts all chunks into the store again"
                    ),
                    None => "`harmonylite snapshot save --resend`, on a node that has the data, \
                        puts all chunks into the store again"
                        .to_owned(),
                };
            }
            Self::Vanished { .. } => {
                "another program deletes from the store; repeat the save when it is done"
            }
            Self::Exists { .. } => {
                "name another file, or --force: the file in the way is then kept under a dated name"
            }
            Self::Unsound { .. } => {
                "check the database itself with PRAGMA integrity_check, then save a new snapshot"
            }
        };
        text.to_owned()
    }
}
