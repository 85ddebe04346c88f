//! Exit statuses, and the two lines that report an error to a person.

use crate::NodeError;
use crate::actor::Fatal;
use crate::db::connection::DatabaseError;
use crate::db::lockfile::LockError;
use crate::db::preflight::PreflightError;
use crate::embedded::EmbeddedError;
use crate::settings::{NodeConfigError, SettingsError};
use rusqlite::ErrorCode;
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

/// The exit statuses besides 0. [`HELP`] documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Any other error; `status` of a node that does not run.
    General = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The database is unusable.
    Database = 3,
    /// Another sidecar runs on this database.
    Running = 4,
    /// Another node has this node id.
    NodeId = 5,
    /// The broker is unusable, and waiting does not help.
    Broker = 6,
    /// A port that this node needs is in use.
    Port = 7,
    /// The node stopped to protect data.
    Protect = 8,
    /// This version lacks the requested function.
    NotYet = 9,
    /// `status --check` of a node that runs and is degraded.
    Degraded = 10,
}

/// The last part of `harmonylite help`.
pub(crate) const HELP: &str = "\
Exit status:
  0  done
  1  a general error; `status`: the node does not run
  2  wrong usage or configuration
  3  the database cannot be used (no such file, not a database, encrypted or damaged, read-only, \
  permissions, locked)
  4  another sidecar runs on this database
  5  another node has this node id
  6  the broker cannot be used (too old, no JetStream, credentials, a stream with another \
  configuration, settings that are not those of the other nodes)
  7  a port is in use
  8  stopped to protect data
  9  not in this version yet
  10  `status --check`: the node is DEGRADED
`doctor` exits with the status that `run` would exit with, as far as it can check; beside a \
running node with that of the checks alone.
An unreachable broker is no error: the node captures changes, waits and reports it.

Flags of HarmonyLite (Go) work with one dash or two: harmonylite -config node1.toml -cluster-addr \
127.0.0.1:4221";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error as the program reports it: what happened, to what, and what a person can do.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exit status of the process.
    pub(crate) exit: Exit,
    /// What happened, to what.
    pub(crate) what: String,
    /// What a person can do.
    pub(crate) hint: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// Builds a failure.
    pub(crate) fn new(exit: Exit, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: hint.into() }
    }

    /// Classifies an error. Errors of the library carry their own hints; added context is kept.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let what = one_line(&chain(error));
        let (exit, hint) = if let Some(e) = error.downcast_ref::<Self>() {
            (e.exit, e.hint.clone())
        } else if let Some(e) = error.downcast_ref::<SettingsError>() {
            (Exit::Usage, e.hint().to_owned())
        } else if let Some(e) = error.downcast_ref::<PreflightError>() {
            (Exit::Database, e.hint())
        } else if let Some(e) = error.downcast_ref::<LockError>() {
            (
                if matches!(e, LockError::Running { .. }) { Exit::Running } else { Exit::Database },
                e.hint().to_owned(),
            )
        } else if let Some(e) = error.downcast_ref::<DatabaseError>() {
            database(e)
        } else if let Some(e) = error.downcast_ref::<rusqlite::Error>() {
            let constraint = e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
            (if constraint { Exit::General } else { Exit::Database }, sqlite(e).to_owned())
        } else if let Some(e) = error.downcast_ref::<NodeConfigError>() {
            settings(e)
        } else if let Some(e) = error.downcast_ref::<NodeError>() {
            node(e)
        } else {
            (Exit::General, GENERAL_HINT.to_owned())
        };
        Self { exit, what, hint }
    }

    /// Prints the two lines to stderr.
    pub(crate) fn report(&self) -> ExitCode {
        // stderr may be closed.
        let _ = writeln!(
            std::io::stderr(),
            "harmonylite: {}\nhint: {}",
            one_line(&self.what),
            one_line(&self.hint)
        );
        self.exit.into()
    }
}

const GENERAL_HINT: &str =
    "`harmonylite doctor` checks database and configuration; logging.verbose = true logs more";

fn settings(error: &NodeConfigError) -> (Exit, String) {
    match error {
        NodeConfigError::Path { .. } => {
            (Exit::Database, "check the path of the database".to_owned())
        }
        NodeConfigError::Settings(e) => (Exit::Usage, e.hint().to_owned()),
        NodeConfigError::Random(_) => (Exit::General, GENERAL_HINT.to_owned()),
    }
}

fn node(error: &NodeError) -> (Exit, String) {
    let say = |exit, hint: &str| (exit, hint.to_owned());
    match error {
        NodeError::Settings(e) => settings(e),
        NodeError::Database { error, .. } | NodeError::Fatal(Fatal::Database(error)) => {
            database(error)
        }
        NodeError::File { .. } => {
            say(Exit::Database, "check the path and the permissions of the file and its directory")
        }
        NodeError::Lock(e) => (
            if matches!(e, LockError::Running { .. }) { Exit::Running } else { Exit::Database },
            e.hint().to_owned(),
        ),
        NodeError::Embedded(EmbeddedError::PortInUse { .. }) => say(
            Exit::Port,
            "choose another nats.bind_address or -cluster-addr, or stop what listens there",
        ),
        NodeError::Embedded(EmbeddedError::OpenRoutes { .. }) => say(
            Exit::Usage,
            "set the login, or let -cluster-addr listen on 127.0.0.1 if all nodes are on this \
            machine (docs/security.md)",
        ),
        NodeError::Embedded(_) => {
            say(Exit::Broker, "change what the message names, then start again")
        }
        NodeError::Broker(_) => say(
            Exit::Broker,
            "change what the message names, then start again; waiting does not help",
        ),
        NodeError::Listen(_) => say(
            Exit::Port,
            "choose another address in the configuration, or stop what listens there",
        ),
        NodeError::Replaced(_) => say(
            Exit::Protect,
            "put the right file in place, then start again; a restored backup is detected \
            automatically",
        ),
        NodeError::Fatal(Fatal::Restored) => say(
            Exit::Protect,
            "start again: the database gets a new incarnation, and the rows that it lacks from \
            the other nodes; to keep restored rows, write them again",
        ),
        NodeError::Fatal(Fatal::SecondNode { .. }) => {
            say(Exit::NodeId, "node_id in the configuration, or -node-id on the command line")
        }
        NodeError::Fatal(_) => say(Exit::Protect, "decide as the message asks, then start again"),
        NodeError::Panicked(_) => say(Exit::General, GENERAL_HINT),
    }
}

/// The error and its causes. A cause that the error's text already contains is left out.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        match said.contains(&cause) {
            true => said,
            false if said.is_empty() => cause,
            false => format!("{said}: {cause}"),
        }
    })
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn database(error: &DatabaseError) -> (Exit, String) {
    let hint = match error {
        DatabaseError::Busy => {
            "another program holds the write lock: let it finish or close it, then start again. An \
            application must set neither PRAGMA locking_mode = EXCLUSIVE nor PRAGMA journal_mode"
        }
        DatabaseError::Full => "free space on the disk of the database",
        DatabaseError::NoIndex => {
            "free space on the disk of the database; if it has space, check the kernel's log for \
            disk errors"
        }
        DatabaseError::NewerFormat { .. } => "install the newer harmonylite on this node too",
        DatabaseError::NotWal { .. } => {
            "close all programs that use the database once, then start again"
        }
        DatabaseError::Encoding { .. } => {
            "make a copy in UTF-8, with all programs stopped, and put it in the place of the file: \
            (echo \"PRAGMA encoding = 'UTF-8';\"; sqlite3 FILE .dump) | sqlite3 NEW"
        }
        DatabaseError::Sqlite(e) => sqlite(e),
    };
    (Exit::Database, hint.to_owned())
}

fn sqlite(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            "the file is not an SQLite database, or it is encrypted: check the path"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "restore the file from a backup; sqlite3 FILE 'PRAGMA integrity_check' lists the damage"
        }
        Some(ErrorCode::ReadOnly) => {
            "give this user write permission on the file, its -wal and -shm, and its directory"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "check that this user may read and write the file and its directory"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds a lock: let it finish, then try again"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk failed: see the kernel's log; check the file with sqlite3 FILE 'PRAGMA \
            integrity_check', then start again"
        }
        Some(ErrorCode::DiskFull) => "free space on the disk of the database",
        Some(ErrorCode::ConstraintViolation) => {
            "another row conflicts: check the constraint that the message names"
        }
        _ => GENERAL_HINT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn every_exit_status_is_documented() {
        for exit in 0..=10 {
            assert!(HELP.contains(&format!("\n  {exit}  ")), "{exit}");
        }
    }

    #[test]
    fn errors_keep_their_status_under_context() {
        let of = |e: anyhow::Error| Failure::of(&e);
        let busy = of(Err::<(), _>(DatabaseError::Busy).context("app.db").unwrap_err());
        assert_eq!(
            (busy.exit, busy.what.as_str()),
            (Exit::Database, "app.db: the database is locked by another connection")
        );
        let own =
            of(anyhow::Error::new(Failure::new(Exit::Port, "port 1 is in use", "choose another")));
        assert_eq!((own.exit, own.hint.as_str()), (Exit::Port, "choose another"));
        let settings =
            SettingsError::Value { path: "c".into(), key: "k".into(), reason: "is bad".into() };
        assert_eq!(of(settings.into()).exit, Exit::Usage);
        assert_eq!(of(anyhow::anyhow!("a\n  b")).what, "a; b");
        let database = NodeError::Database { path: "app.db".into(), error: DatabaseError::Full };
        assert_eq!(
            of(database.into()).what,
            "database app.db: the disk under the database is full"
        );
        assert_eq!(of(rusqlite::Error::QueryReturnedNoRows.into()).exit, Exit::Database);
    }
}
