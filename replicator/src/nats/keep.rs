//! Keeps one prepared connection to the broker.
//!
//! Arrives: the target. Leaves: sessions and their events. Owns the backoff: an unreachable or
//! leaderless broker never ends the node. The keeper retries, counts each failed attempt, and logs
//! the reason once each time it changes. When a request finds a stream or the bucket missing, the
//! connection is prepared again, which makes them.

use super::connect::{LinkError, Target, connect};
use super::prepare::{Session, is_anything_missing, prepare};
use super::{LinkState, Shared, Sink, wire};
use crate::broker::BrokerEvent;
use async_nats::{Client, ClientError, Event};
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Wait before a connection that cannot be prepared (no leader yet, an incomplete cluster) is tried
/// again.
const PREPARE_AGAIN: Duration = Duration::from_millis(500);
/// The least time between two looks for missing streams.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long such a look may take.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Errors of the server with a longer pause between them are not counted together.
const IN_A_ROW_MS: u64 = 60_000;

struct Keeper {
    shared: Arc<Shared>,
    inbound: Sink,
    outbound: Sink,
    signals: Option<AbortHandle>,
}

/// Runs until the task is aborted.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut target: watch::Receiver<Target>,
    inbound: Sink,
    outbound: Sink,
) {
    let mut keeper = Keeper { shared, inbound, outbound, signals: None };
    loop {
        let to = target.borrow_and_update().clone();
        let (events, mut happened) = unbounded_channel();
        match connect(&keeper.shared.settings, &to, events).await {
            Ok(client) => {
                keeper.hold(&client, &to, &mut happened, &mut target).await;
                keeper.down("connecting elsewhere");
            }
            Err(error) => {
                keeper.failed(&to, &error);
                let wait =
                    Duration::from_secs(keeper.shared.settings.nats.reconnect_wait_seconds.max(1));
                // An embedded server that restarted on another port is ready: do not wait.
                let _ = tokio::time::timeout(wait, target.changed()).await;
            }
        }
    }
}

impl Keeper {
    /// Uses one client until the target changes.
    async fn hold(
        &mut self,
        client: &Client,
        to: &Target,
        happened: &mut UnboundedReceiver<Event>,
        target: &mut watch::Receiver<Target>,
    ) {
        let mut up = true;
        let mut attempts = 0;
        let mut looked = tokio::time::Instant::now();
        loop {
            let prepared = self.shared.session.lock().is_some();
            if up && !prepared {
                match prepare(client, &self.shared.settings, self.shared.node, attempts).await {
                    Ok(session) => {
                        attempts = 0;
                        self.up(session, to).await;
                    }
                    Err(error) => {
                        attempts += 1;
                        self.failed(to, &error);
                    }
                }
            }
            let prepared = self.shared.session.lock().is_some();
            let again = up && !prepared;
            tokio::select! {
                changed = target.changed() => {
                    if changed.is_err() || target.borrow().urls != to.urls {
                        return;
                    }
                }
                event = happened.recv() => match event {
                    Some(Event::Disconnected) => {
                        up = false;
                        self.down("the connection was lost");
                    }
                    Some(Event::Connected) => {
                        up = true;
                        let connects = client.statistics().connects.load(Ordering::Relaxed);
                        let session = self.shared.session.lock().as_ref().map(|s| s.connects);
                        if session.is_some_and(|prepared| prepared != connects) {
                            self.down("the connection was lost for a moment");
                        }
                    }
                    Some(Event::ServerError(error)) => {
                        let text = error.to_string();
                        self.reported(&text);
                        // The JWT of this client has expired, which it would send again.
                        if is_refused_login(&text) {
                            return;
                        }
                    }
                    Some(Event::ClientError(error)) => {
                        self.not_connected(to, &error);
                        // Another client reads the files with the credentials again.
                        if is_refused_login(&error.to_string()) {
                            return;
                        }
                    }
                    Some(Event::SlowConsumer(_)) => tracing::warn!("the NATS client dropped \
                        deliveries; requesting them again"),
                    Some(Event::Closed) | None => return,
                    Some(_) => {}
                },
                () = tokio::time::sleep(PREPARE_AGAIN), if again => {}
                () = self.shared.failed_request.notified(), if prepared => {
                    tokio::time::sleep_until(looked + LOOK_AGAIN).await;
                    looked = tokio::time::Instant::now();
                    self.look_for_missing().await;
                }
            }
        }
    }

    async fn up(&mut self, session: Session, to: &Target) {
        let info = session.client.server_info();
        let signals = match session
            .client
            .subscribe(wire::signal_subject(&self.shared.settings.nats.subject_prefix))
            .await
        {
            Ok(signals) => signals,
            Err(error) => return self.failed(to, &LinkError::Passing(error.to_string())),
        };
        let sink = Arc::clone(&self.inbound);
        let task = tokio::spawn(signals.for_each(move |message| {
            sink(BrokerEvent::Signal(message.payload));
            std::future::ready(())
        }));
        self.signals = Some(task.abort_handle());
        self.shared.max_payload_bytes.store(info.max_payload, Ordering::Relaxed);
        *self.shared.session.lock() = Some(session);
        tracing::info!(
            server = info.server_name,
            version = info.version,
            url = to.describe(),
            "connected to NATS"
        );
        self.shared.link.send_modify(|link| {
            *link = LinkState {
                connected: true,
                server_version: info.version,
                url: to.describe(),
                since_ms: crate::clock::mono_ms(),
                server_error: std::mem::take(&mut link.server_error),
                server_errors: link.server_errors,
                server_error_ms: link.server_error_ms,
                ..LinkState::default()
            };
        });
        for sink in [&self.outbound, &self.inbound] {
            sink(BrokerEvent::Connected);
        }
    }

    fn down(&mut self, reason: &str) {
        if let Some(task) = self.signals.take() {
            task.abort();
        }
        self.shared.stop_consumers();
        if self.shared.session.lock().take().is_none() {
            return;
        }
        tracing::warn!(
            reason,
            "disconnected from NATS; changes are kept and published after the reconnection"
        );
        self.shared.link.send_modify(|link| {
            link.connected = false;
            reason.clone_into(&mut link.last_error);
        });
        for sink in [&self.inbound, &self.outbound] {
            sink(BrokerEvent::Disconnected(reason.to_owned()));
        }
    }

    /// Prepares the connection again if a stream or the bucket is gone.
    async fn look_for_missing(&mut self) {
        let session = self.shared.session.lock().clone();
        let Some(session) = session else { return };
        // A server that does not answer is another trouble; its end must not wait for this.
        let look = is_anything_missing(&session, &self.shared.settings);
        if tokio::time::timeout(LOOK_MAX, look).await.is_ok_and(|missing| missing) {
            self.down("a stream or the registry bucket is gone: somebody deleted it");
        }
    }

    /// Takes an error that the server has reported on this connection.
    fn reported(&self, error: &str) {
        self.shared.link.send_modify(|link| {
            if link.server_error != error {
                tracing::warn!(error, "the NATS server reported an error");
            }
            let now_ms = crate::clock::mono_ms();
            if now_ms.saturating_sub(link.server_error_ms) > IN_A_ROW_MS {
                link.server_errors = 0;
            }
            error.clone_into(&mut link.server_error);
            link.server_errors += 1;
            link.server_error_ms = now_ms;
        });
    }

    /// Counts an attempt of the client, which connects again by itself.
    fn not_connected(&self, to: &Target, error: &ClientError) {
        let text = format!("cannot connect to {}: {error}", to.describe());
        self.failed(to, &LinkError::Passing(text));
    }

    fn failed(&self, to: &Target, error: &LinkError) {
        let text = error.to_string();
        self.shared.link.send_modify(|link| {
            if link.last_error != text {
                tracing::warn!(error = text, "waiting for NATS");
            }
            link.failed_attempts += 1;
            link.last_error.clone_from(&text);
            link.lasting = !matches!(error, LinkError::Passing(_));
            link.split = matches!(error, LinkError::Split(_));
            link.url = to.describe();
        });
    }
}

/// Returns whether the server refuses the login, or does not accept it any longer.
fn is_refused_login(error: &str) -> bool {
    let text = error.to_ascii_lowercase();
    text.contains("authorization violation") || text.contains("authentication")
}
