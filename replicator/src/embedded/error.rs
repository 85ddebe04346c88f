//! Why the embedded server does not run.

use std::io;
use std::path::PathBuf;

/// Every message names the thing and says what a person can do.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No program to run.
    #[error(
        "no nats-server to run: {reason}; name one in nats.server_binary or \
        HARMONYLITE_NATS_SERVER, put one on PATH, build with \
         `make build` (which puts one inside), or give the address of a running server in nats.urls"
    )]
    NoBinary {
        /// What was tried.
        reason: String,
    },
    /// The program is older than what replication relies on.
    #[error(
        "{path} is nats-server {found}, and {needed} or newer is needed: install a newer one or \
        name another in nats.server_binary"
    )]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest that is good.
        needed: String,
    },
    /// An address that it has to listen on is taken.
    #[error(
        "the embedded nats-server cannot listen: {said}; end what uses that port, or choose \
        another in nats.bind_address, \
         -cluster-addr or nats.server_config"
    )]
    PortInUse {
        /// The server's own words, which name the address.
        said: String,
    },
    /// The server refuses its configuration.
    #[error(
        "nats-server refuses its configuration: {said}; look at nats.server_config, \
        nats.bind_address and the -cluster flags"
    )]
    ConfigRefused {
        /// The server's own words.
        said: String,
    },
    /// The user's `server_config` cannot be read.
    #[error("nats.server_config: cannot read {path}: {error}")]
    UserConfig {
        /// The file, or one that it includes.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An address in the settings or on the command line makes no sense.
    #[error("{what} = {value:?} is no address: write host:port, as in {example:?}")]
    BadAddress {
        /// The setting or flag.
        what: &'static str,
        /// Its value.
        value: String,
        /// A good one.
        example: &'static str,
    },
    /// Another server uses the store directory.
    #[error(
        "another server uses the directory {path}: stop the other node, or give this one another \
        node id or db_path"
    )]
    StoreLocked {
        /// The directory.
        path: PathBuf,
    },
    /// Reading or writing our own files failed.
    #[error("the embedded nats-server's {path}: {error}")]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It ended, or did not come up in time.
    #[error("the embedded nats-server did not start: {reason}")]
    DidNotStart {
        /// The last error it logged, or what else is known.
        reason: String,
    },
}

impl EmbeddedError {
    pub(super) fn files(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Files { path, error }
    }
}
