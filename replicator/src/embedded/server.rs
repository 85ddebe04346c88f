//! The embedded server: started once, restarted whenever it ends, stopped with its owner.

use super::binary::{self, Program};
use super::config::Plan;
use super::process::Running;
use super::user_config::Keys;
use super::{EmbeddedError, lock};
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, Secret, Settings};
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A server that ran this long had no failed start: the next wait is short again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// A server whose disk was full restarts once this much is free.
const ROOM_BYTES: u64 = 4 << 20;
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// The health of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The number of restarts.
    pub restarts: u64,
    /// Its disk is or was full. It stores nothing until it restarts, once there is space.
    pub disk_full: bool,
}

/// Where our own client connects, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Access {
    /// `nats://127.0.0.1:port`, or `tls://` if the user's `server_config` has a `tls` block.
    pub url: String,
    /// The user; None if the server needs none, or a seed or creds file of the settings.
    pub user: Option<String>,
    /// The password of the user.
    pub password: Option<Secret>,
}

impl Access {
    /// Returns it as JSON with the password, for another process of the same user.
    pub fn revealed(&self) -> serde_json::Value {
        let password = self.password.as_ref().map(Secret::reveal);
        serde_json::json!({ "url": self.url, "user": self.user, "password": password })
    }
}

/// A running nats-server that belongs to this process. Dropping it kills the server;
/// [`Embedded::stop`] ends it in order.
#[derive(Debug)]
pub struct Embedded {
    access: watch::Receiver<Access>,
    health: watch::Receiver<Health>,
    version: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Embedded {
    /// Starts the server and returns once it accepts connections. Needs a tokio runtime that lives
    /// as long as the server.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn start(
        settings: &Settings,
        node: NodeId,
        cluster: &ClusterSettings,
    ) -> Result<Self, EmbeddedError> {
        let program = binary::find(&settings.nats.server_binary).await?;
        let user = match settings.nats.server_config.as_str() {
            "" => Keys::default(),
            path => Keys::read(Path::new(path))?,
        };
        let plan = Plan::new(settings, node, cluster, &user, make_password()?)?;
        let lock = lock::acquire(&plan.store).await?;
        let running = Running::start(&program, &plan, &lock, None).await?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            version = program.version,
            address = running.address,
            store = %plan.store.display(),
            "started the embedded nats-server"
        );

        let (access_sender, access) = watch::channel(plan.access(&running.address));
        let (health_sender, health) = watch::channel(Health::default());
        let version = program.version.clone();
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper { program, plan, lock, access: access_sender, health: health_sender };
        let task = tokio::spawn(keeper.keep(running, stopped));
        Ok(Self { access, health, version, stop, task })
    }

    /// Returns how to connect. It changes if a restart needs another port.
    pub fn access(&self) -> watch::Receiver<Access> {
        self.access.clone()
    }

    /// Returns the server's health. After [`Embedded::stop`] it keeps the last value.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Returns the server's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops the server in order; kills it after 5 s.
    pub async fn stop(self) {
        _ = self.stop.send(());
        _ = self.task.await;
    }
}

impl Plan {
    fn access(&self, address: &str) -> Access {
        let scheme = if self.tls { "tls" } else { "nats" };
        let (user, password) = self.login.clone().unzip();
        Access { url: format!("{scheme}://{address}"), user, password }
    }
}

/// Restarts the server; owns what every start needs.
struct Keeper {
    program: Program,
    plan: Plan,
    lock: File,
    access: watch::Sender<Access>,
    health: watch::Sender<Health>,
}

impl Keeper {
    async fn keep(self, running: Running, mut stopped: oneshot::Receiver<()>) {
        let mut running = running;
        let mut wait = BACKOFF_MIN;
        loop {
            let started = tokio::time::Instant::now();
            let former = running.address.clone();
            tokio::select! {
                () = self.room_again(running.disk_full()) => {
                    tracing::warn!(
                        "the disk of the embedded nats-server has space again: restarting the \
                        server, which stores nothing until then"
                    );
                    running.stop().await;
                }
                () = running.ended() => tracing::error!("the embedded nats-server ended: \
                    restarting it"),
                asked = &mut stopped => return if asked.is_ok() { running.stop().await },
            }
            if started.elapsed() >= HEALTHY_AFTER {
                wait = BACKOFF_MIN;
            }
            running = tokio::select! {
                fresh = self.again(&former, &mut wait) => fresh,
                _ = &mut stopped => return,
            };
            self.health.send_modify(|health| {
                *health = Health { restarts: health.restarts + 1, disk_full: false }
            });
            let access = self.plan.access(&running.address);
            self.access.send_if_modified(|old| std::mem::replace(old, access.clone()) != access);
        }
    }

    /// Waits until the server reports a full disk, and then until there is space again.
    async fn room_again(&self, mut disk_full: watch::Receiver<bool>) {
        if disk_full.wait_for(|full| *full).await.is_err() {
            // Its log has ended, so the server is ending too.
            return std::future::pending().await;
        }
        tracing::error!(store = %self.plan.store.display(), "the disk of the embedded nats-server \
            is full: waiting for space");
        self.health.send_modify(|health| health.disk_full = true);
        while rustix::fs::statvfs(&self.plan.store)
            .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < ROOM_BYTES)
        {
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }

    /// Tries to start the server until it runs.
    async fn again(&self, former: &str, wait: &mut Duration) -> Running {
        loop {
            tokio::time::sleep(*wait).await;
            *wait = (*wait * 2).min(BACKOFF_MAX);
            match self.at_the_same_port(former).await {
                Ok(running) => return running,
                Err(error) => tracing::error!("{error}; next attempt in {} ms", wait.as_millis()),
            }
        }
    }

    /// Starts the server at its former port, so that clients reconnect; at another one if that port
    /// is taken.
    async fn at_the_same_port(&self, former: &str) -> Result<Running, EmbeddedError> {
        let port = former
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .filter(|_| self.plan.any_port);
        match Running::start(&self.program, &self.plan, &self.lock, port).await {
            Err(EmbeddedError::PortInUse { .. }) if port.is_some() => {
                Running::start(&self.program, &self.plan, &self.lock, None).await
            }
            result => result,
        }
    }
}

fn make_password() -> Result<Secret, EmbeddedError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|e| EmbeddedError::DidNotStart {
        reason: format!("no random numbers for a password: {e}"),
    })?;
    // "x": nats-server reads a password that begins with "$2a$" as a hash, and digits as a number.
    Ok(Secret::new(format!("x{}", data_encoding::HEXLOWER.encode(&bytes))))
}
