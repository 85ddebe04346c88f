//! The reasons why the embedded server does not run.

use std::io;
use std::path::PathBuf;

/// Why the embedded server does not run. Every message names the cause and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// There is no nats-server program.
    #[error(
        "no nats-server to run: {reason}; name one in nats.server_binary or \
        HARMONYLITE_NATS_SERVER, put one on PATH, build with \
         `make build` (which puts one inside), or give the address of a running server in nats.urls"
    )]
    NoBinary {
        /// The places that were tried.
        reason: String,
    },
    /// The program is older than replication needs.
    #[error(
        "{path} is nats-server {found}, and {needed} or newer is needed: install a newer one or \
        name another in nats.server_binary"
    )]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest sufficient version.
        needed: String,
    },
    /// An address of the server is in use.
    #[error(
        "the embedded nats-server cannot listen: {said}; end what uses that port, or choose \
        another in nats.bind_address, \
         -cluster-addr or nats.server_config"
    )]
    PortInUse {
        /// The server's message, which names the address.
        said: String,
    },
    /// The server refuses its configuration.
    #[error(
        "nats-server refuses its configuration: {said}; look at nats.server_config, \
        nats.bind_address and the -cluster flags"
    )]
    ConfigRefused {
        /// The server's message.
        said: String,
    },
    /// The user's `server_config` is unreadable.
    #[error("nats.server_config: cannot read {path}: {error}")]
    UserConfig {
        /// The file or one of its includes.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// An address in the settings or on the command line is invalid.
    #[error("{what} = {value:?} is no address: write host:port, as in {example:?}")]
    BadAddress {
        /// The setting or flag.
        what: &'static str,
        /// Its value.
        value: String,
        /// A valid value.
        example: &'static str,
    },
    /// Other machines could join the cluster without a login.
    #[error(
        "-cluster-addr {addr} lets every machine that reaches it join the cluster, and so read and \
        write all rows: set nats.user_name and nats.user_password, the same on all nodes (or \
        authorization in the cluster block of nats.server_config)"
    )]
    OpenRoutes {
        /// The address.
        addr: String,
    },
    /// Another server uses the store directory.
    #[error(
        "another server uses the directory {path}: stop the other node, or give this one another \
        node_id or db_path"
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
    /// The server ended, or was not ready in time.
    #[error("the embedded nats-server did not start: {reason}")]
    DidNotStart {
        /// The last error in its log, or another reason.
        reason: String,
    },
}

impl EmbeddedError {
    pub(super) fn files(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Files { path, error }
    }
}
