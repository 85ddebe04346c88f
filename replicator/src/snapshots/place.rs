//! The store that the settings name.
//!
//! Without `nats.urls` the store `nats` is in the embedded servers. Then a command starts this
//! node's server for its own time, which works only while the node does not run.

use crate::db::lockfile::{Lock, LockError};
use crate::embedded::{Embedded, EmbeddedError};
use crate::model::ids::NodeId;
use crate::nats::{LinkError, NatsStore, Target};
use crate::settings::{ClusterSettings, Settings};
use harmonylite_snapshot::store::{Patience, Retrying};
use harmonylite_snapshot::stores::Directory;
use std::sync::Arc;

/// A store, and what has to run for it.
pub(crate) struct Place {
    /// The store.
    pub(crate) store: Retrying,
    server: Option<(Embedded, Lock)>,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// This version lacks the store.
    #[error("this version of harmonylite has no store {0:?} for snapshots yet")]
    NotYet(String),
    /// The settings name a directory without a path.
    #[error("snapshot.dir.path is empty")]
    NoDirectory,
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
    /// Opens the store.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) async fn open(
        settings: &Settings,
        node: NodeId,
        cluster: &ClusterSettings,
    ) -> Result<Self, PlaceError> {
        if settings.snapshot.store == "nats" {
            let (target, server) = target(settings, node, cluster).await?;
            let place = Self::at(settings, &target).await?;
            return Ok(Self { server, ..place });
        }
        Self::at(settings, &Target { urls: Vec::new(), access: None }).await
    }

    /// Opens the store; if it is in the broker, with this access. Starts nothing.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) async fn at(settings: &Settings, target: &Target) -> Result<Self, PlaceError> {
        let retrying = |store| Retrying::new(store, Patience::default());
        match settings.snapshot.store.as_str() {
            "dir" if settings.snapshot.dir.path.as_os_str().is_empty() => {
                Err(PlaceError::NoDirectory)
            }
            "dir" => {
                let store = Directory::new(&settings.snapshot.dir.path);
                Ok(Self { store: retrying(Arc::new(store)), server: None })
            }
            "nats" => {
                let store = NatsStore::open(settings, target).await?;
                Ok(Self { store: retrying(Arc::new(store)), server: None })
            }
            other => Err(PlaceError::NotYet(other.to_owned())),
        }
    }

    /// Ends what was started for the store.
    pub(crate) async fn close(self) {
        if let Some((server, lock)) = self.server {
            server.stop().await;
            lock.remove();
        }
    }
}

async fn target(
    settings: &Settings,
    node: NodeId,
    cluster: &ClusterSettings,
) -> Result<(Target, Option<(Embedded, Lock)>), PlaceError> {
    if !settings.nats.urls.is_empty() {
        return Ok((Target { urls: settings.nats.urls.clone(), access: None }, None));
    }
    let lock = Lock::acquire(&settings.db_path).map_err(PlaceError::Embedded)?;
    let server = Embedded::start(settings, node, cluster).await?;
    let access = server.access().borrow().clone();
    let target = Target { urls: vec![access.url.clone()], access: Some(access) };
    Ok((target, Some((server, lock))))
}
