//! The broker on NATS: keeps a connection, carries out requests on it, reports events to both
//! actors.
//!
//! Arrives: [`Request`]s of the two actors. Leaves: [`BrokerEvent`]s to them. Owns: for each
//! prepared connection both actors receive [`BrokerEvent::Connected`] once, and
//! [`BrokerEvent::Disconnected`] once at its end. Nothing is stored here: a crash loses requests,
//! which the actors repeat.

mod ask;
mod connect;
mod consume;
mod examine;
mod history;
mod keep;
mod own_server_tls;
mod peer_settings;
mod prepare;
mod snapshot_store;
pub mod wire;

pub use ask::StreamUsage;
pub use connect::{LinkError, Target};
pub use examine::{Examination, Finding};
pub use history::{History, Inbox, Reader};
pub use peer_settings::SharedSettings;
pub use snapshot_store::NatsStore;

use crate::broker::{Broker, BrokerError, BrokerEvent, Reply, Request, Ticket};
use crate::model::ids::NodeId;
use crate::settings::Settings;
use consume::{Consumer, Outlet};
use parking_lot::Mutex;
use prepare::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Receives an actor's events, in order. Must not wait.
pub type Sink = Arc<dyn Fn(BrokerEvent) + Send + Sync>;

/// The connection's state, for status and health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The connection is prepared and usable.
    pub connected: bool,
    /// The failed attempts since the last connection.
    pub failed_attempts: u64,
    /// The last failure.
    pub last_error: String,
    /// The server's version.
    pub server_version: String,
    /// The server's URL without credentials.
    pub url: String,
    /// The failure lasts until somebody changes something.
    pub lasting: bool,
    /// The node must not go on: its settings are not those of the other nodes.
    pub split: bool,
    /// The last error that the server has reported, for instance a missing permission.
    pub server_error: String,
    /// The number of such errors, each at most a minute after the one before.
    pub server_errors: u64,
    /// When the last one came, monotone milliseconds.
    pub server_error_ms: u64,
    /// When the present connection was prepared, monotone milliseconds.
    pub since_ms: u64,
}

struct Shared {
    settings: Settings,
    node: NodeId,
    session: Mutex<Option<Session>>,
    link: tokio::sync::watch::Sender<LinkState>,
    max_payload_bytes: AtomicUsize,
    consumers: Mutex<HashMap<u32, (u64, AbortHandle)>>,
    budget: Arc<Semaphore>,
    inbox_bytes_max: usize,
    /// A request has failed: perhaps its stream or the bucket is gone.
    failed_request: tokio::sync::Notify,
}

/// One node's connection to its broker.
pub struct Hub {
    shared: Arc<Shared>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Hub {
    /// Starts a task that connects and reconnects. `inbound` and `outbound` receive their actors'
    /// events.
    pub fn start(
        settings: Settings,
        node: NodeId,
        inbox_bytes_max: usize,
        target: tokio::sync::watch::Receiver<Target>,
        inbound: &Sink,
        outbound: &Sink,
    ) -> Self {
        let shared = Arc::new(Shared {
            settings,
            node,
            session: Mutex::new(None),
            link: tokio::sync::watch::Sender::default(),
            max_payload_bytes: AtomicUsize::new(1 << 20),
            consumers: Mutex::default(),
            budget: Arc::new(Semaphore::new(inbox_bytes_max)),
            inbox_bytes_max,
            failed_request: tokio::sync::Notify::new(),
        });
        let keeper = tokio::spawn(keep::keep(
            Arc::clone(&shared),
            target,
            Arc::clone(inbound),
            Arc::clone(outbound),
        ));
        Self { shared, keeper }
    }

    /// Returns the broker as one actor sees it.
    pub fn handle(&self, sink: &Sink) -> NatsBroker {
        NatsBroker {
            shared: Arc::clone(&self.shared),
            sink: Arc::clone(sink),
            runtime: Runtime::current(),
        }
    }

    /// Returns a handle for requests that no actor makes.
    pub fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.shared))
    }

    /// Returns the connection's state, and its changes.
    pub fn link(&self) -> tokio::sync::watch::Receiver<LinkState> {
        self.shared.link.subscribe()
    }
}

/// Sends single requests to the broker and waits for the answers.
#[derive(Clone)]
pub struct Asker(Arc<Shared>);

impl Asker {
    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// The broker's error; [`BrokerError::Unreachable`] without a connection.
    pub async fn ask(&self, request: Request) -> Result<Reply, BrokerError> {
        let nobody: Sink = Arc::new(drop);
        self.0.answer(&self.session()?, &nobody, request).await
    }

    /// Returns the ids of all nodes with an entry in the registry, in order.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub async fn registered(&self) -> Result<Vec<u64>, BrokerError> {
        ask::ids_under(&self.session()?, "node-").await
    }

    /// Returns this node's shared settings, with its streams, and those of the other nodes.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub async fn shared_settings(
        &self,
    ) -> Result<(SharedSettings, Vec<SharedSettings>), BrokerError> {
        let (session, node) = (self.session()?, self.0.node);
        let others = peer_settings::read(&session, node).await.map_err(BrokerError::Unreachable)?;
        Ok((SharedSettings::of(&self.0.settings, node, session.streams), others))
    }

    /// Returns what a stream holds. The next message after `covered` is looked at: a position, in
    /// the stream that was created at this time (unix nanoseconds).
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub async fn stream_usage(
        &self,
        shard: u32,
        covered: Option<(u64, i64)>,
    ) -> Result<StreamUsage, BrokerError> {
        ask::stream_usage(&self.session()?, &self.0.settings.nats, shard, covered).await
    }

    /// Deletes a key of the registry.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub async fn delete(&self, key: &str) -> Result<(), BrokerError> {
        ask::kv_delete(&self.session()?, key).await
    }

    fn session(&self) -> Result<Session, BrokerError> {
        self.0
            .session
            .lock()
            .clone()
            .ok_or_else(|| BrokerError::Unreachable("not connected".to_owned()))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// The broker as one actor sees it.
pub struct NatsBroker {
    shared: Arc<Shared>,
    sink: Sink,
    runtime: Runtime,
}

impl Broker for NatsBroker {
    fn request(&mut self, ticket: Ticket, request: Request) {
        let (shared, sink) = (Arc::clone(&self.shared), Arc::clone(&self.sink));
        let session = self.shared.session.lock().clone();
        self.runtime.spawn(async move {
            let is_signal = matches!(request, Request::Signal { .. });
            let reply = match session {
                Some(session) => shared.answer(&session, &sink, request).await,
                None => Err(BrokerError::Unreachable("not connected".to_owned())),
            };
            if !is_signal {
                sink(BrokerEvent::Reply(ticket, reply));
            }
        });
    }

    fn max_payload_bytes(&self) -> usize {
        self.shared.max_payload_bytes.load(Ordering::Relaxed)
    }
}

async fn answer(
    shared: &Arc<Shared>,
    session: &Session,
    sink: &Sink,
    request: Request,
) -> Result<Reply, BrokerError> {
    let nats = &shared.settings.nats;
    match request {
        Request::Publish { shard, headers, payload, expected_last } => {
            ask::publish(session, nats, shared.node, shard, &headers, payload, expected_last).await
        }
        Request::LastOwn { shard } => {
            again(|| ask::last_own(session, nats, shared.node, shard)).await
        }
        Request::MessageAt { shard, seq } => {
            again(|| ask::message_at(session, nats, shard, seq)).await
        }
        Request::StreamState { shard } => again(|| ask::stream_state(session, nats, shard)).await,
        Request::KvGet { key } => again(|| ask::kv_get(session, &key)).await,
        Request::KvPut { key, value, expected, ttl_ms } => {
            ask::kv_put(session, &key, value, expected, ttl_ms).await
        }
        Request::Consume { shard, start, generation } => {
            let consumer = Consumer::start(session, &nats.stream_prefix, shard, start, generation)
                .await
                .map_err(BrokerError::Unreachable)?;
            shared.replace_consumer(shard, generation, consumer, sink);
            Ok(Reply::Consuming)
        }
        Request::Signal { payload } => {
            let sent =
                session.client.publish(wire::signal_subject(&nats.subject_prefix), payload).await;
            sent.map(|()| Reply::Consuming)
                .map_err(|error| BrokerError::Unreachable(error.to_string()))
        }
    }
}

/// Without a leader a request is never answered. During an election (4 to 9 s) it is repeated with
/// short waits; the last attempt waits longer, for slow brokers.
const ASK_AGAIN_MS: [u64; 11] =
    [300, 500, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 5_000];

async fn again<F: Future<Output = Result<Reply, BrokerError>>>(
    ask: impl Fn() -> F,
) -> Result<Reply, BrokerError> {
    for wait_ms in ASK_AGAIN_MS {
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(wait_ms), ask()).await {
            return answer;
        }
    }
    Err(BrokerError::Unreachable("no answer".to_owned()))
}

impl Shared {
    /// Carries out a request, and notes its failure for the keeper.
    async fn answer(
        self: &Arc<Self>,
        session: &Session,
        sink: &Sink,
        request: Request,
    ) -> Result<Reply, BrokerError> {
        let reply = answer(self, session, sink, request).await;
        if matches!(reply, Err(BrokerError::Unreachable(_) | BrokerError::Refused(_))) {
            self.failed_request.notify_one();
        }
        reply
    }

    /// Of two consumers of one stream the one that was requested later stays, in whatever order
    /// they were created.
    fn replace_consumer(&self, shard: u32, generation: u64, consumer: Consumer, sink: &Sink) {
        let mut consumers = self.consumers.lock();
        if consumers.get(&shard).is_some_and(|(newer, _)| *newer > generation) {
            return;
        }
        let outlet = Outlet {
            events: Arc::clone(sink),
            budget: Arc::clone(&self.budget),
            budget_bytes: self.inbox_bytes_max,
        };
        let task = tokio::spawn(consumer.run(outlet));
        if let Some((_, former)) = consumers.insert(shard, (generation, task.abort_handle())) {
            former.abort();
        }
    }

    fn stop_consumers(&self) {
        for (_, (_, task)) in self.consumers.lock().drain() {
            task.abort();
        }
    }
}
