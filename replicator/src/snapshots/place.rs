//! The stores that the settings name.
//!
//! Without `nats.urls` the store `nats` is in the embedded servers. Then a command starts this
//! node's server for its own time, which works only while the node does not run.

use crate::db::lockfile::{Lock, LockError};
use crate::embedded::{Embedded, EmbeddedError};
use crate::model::ids::NodeId;
use crate::nats::{LinkError, NatsStore, Target};
use crate::settings::{
    ClusterSettings, Settings, SnapshotS3Settings, SnapshotSftpSettings, StoreSettings,
};
use harmonylite_snapshot::store::{Patience, Retrying, Store};
use harmonylite_snapshot::stores::{
    Directory, S3, S3Options, Sftp, SftpOptions, WebDav, WebDavOptions,
};
use std::sync::Arc;

/// A store, and what has to run for it.
pub(crate) struct Place {
    /// The store.
    pub(crate) store: Retrying,
    access: Option<BrokerAccess>,
}

/// The broker, and what has to run for it.
pub(crate) struct BrokerAccess {
    /// Where it is.
    pub(crate) target: Target,
    server: Option<(Embedded, Lock)>,
}

impl BrokerAccess {
    /// Uses a broker that runs.
    pub(crate) fn to(target: Target) -> Self {
        Self { target, server: None }
    }

    /// Names the broker, or starts this node's server, which works only while no node runs.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) async fn open(
        settings: &Settings,
        node: NodeId,
        cluster: &ClusterSettings,
    ) -> Result<Self, PlaceError> {
        if !settings.nats.urls.is_empty() {
            return Ok(Self::to(Target { urls: settings.nats.urls.clone(), access: None }));
        }
        let lock = Lock::acquire(&settings.db_path).map_err(PlaceError::Embedded)?;
        let server = Embedded::start(settings, node, cluster).await?;
        let access = server.access().borrow().clone();
        let target = Target { urls: vec![access.url.clone()], access: Some(access) };
        Ok(Self { target, server: Some((server, lock)) })
    }

    /// Ends what was started.
    pub(crate) async fn close(self) {
        if let Some((server, lock)) = self.server {
            server.stop().await;
            lock.remove();
        }
    }
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// A setting of the store cannot be used.
    #[error("{key} {reason}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its defect.
        reason: String,
    },
    /// The broker cannot be reached.
    #[error("{0}")]
    Broker(#[from] LinkError),
    /// The running node's own server cannot be reached from outside.
    #[error(
        "the snapshots are in the embedded nats-server of the node that runs on this database: {0}"
    )]
    Embedded(LockError),
    /// The embedded server does not start.
    #[error(transparent)]
    Server(#[from] EmbeddedError),
}

impl Place {
    /// Opens a store.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) async fn open(
        settings: &Settings,
        store: &StoreSettings,
        node: NodeId,
        cluster: &ClusterSettings,
    ) -> Result<Self, PlaceError> {
        if store.store != "nats" {
            return Ok(Self { store: retrying(without_broker(store)?), access: None });
        }
        let access = BrokerAccess::open(settings, node, cluster).await?;
        let place = Self::at(settings, store, &access.target).await?;
        Ok(Self { access: Some(access), ..place })
    }

    /// Opens a store; if it is in the broker, with this access. Starts nothing.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) async fn at(
        settings: &Settings,
        store: &StoreSettings,
        target: &Target,
    ) -> Result<Self, PlaceError> {
        if store.store != "nats" {
            return Ok(Self { store: retrying(without_broker(store)?), access: None });
        }
        let store = NatsStore::open(settings, &store.nats, target).await?;
        Ok(Self { store: retrying(Arc::new(store)), access: None })
    }

    /// Ends what was started for the store.
    pub(crate) async fn close(self) {
        if let Some(access) = self.access {
            access.close().await;
        }
    }
}

fn retrying(store: Arc<dyn Store>) -> Retrying {
    Retrying::new(store, Patience::default())
}

/// Returns a store that needs no broker. Nothing is connected yet.
fn without_broker(store: &StoreSettings) -> Result<Arc<dyn Store>, PlaceError> {
    let wrong = |key| move |reason: &str| PlaceError::Setting { key, reason: reason.to_owned() };
    Ok(match store.store.as_str() {
        "dir" if store.dir.path.as_os_str().is_empty() => {
            return Err(wrong("snapshot.dir.path")("is empty"));
        }
        "dir" => Arc::new(Directory::new(&store.dir.path)),
        "s3" => Arc::new(S3::new(s3(&store.s3))),
        "webdav" => {
            let key = "snapshot.webdav.url";
            let options = WebDavOptions::parse(store.webdav.url.reveal()).map_err(wrong(key))?;
            Arc::new(WebDav::new(options).map_err(|error| wrong(key)(&error.reason))?)
        }
        "sftp" => {
            let SnapshotSftpSettings { url, key_file, known_hosts_file } = store.sftp.clone();
            let options = SftpOptions::parse(url.reveal(), key_file, known_hosts_file);
            Arc::new(Sftp::new(options.map_err(wrong("snapshot.sftp.url"))?))
        }
        _ => return Err(wrong("snapshot.store")("is none of nats, dir, s3, webdav, sftp")),
    })
}

fn s3(s: &SnapshotS3Settings) -> S3Options {
    S3Options {
        endpoint: s.endpoint.clone(),
        use_ssl: s.use_ssl,
        bucket: s.bucket.clone(),
        path: s.path.clone(),
        region: s.region.clone(),
        path_style: s.path_style,
        access_key: s.access_key.clone(),
        secret: s.secret.reveal().to_owned(),
        session_token: s.session_token.reveal().to_owned(),
        sse: s.sse.clone(),
    }
}
