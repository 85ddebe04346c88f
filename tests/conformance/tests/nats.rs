//! A real nats-server, through our own NATS adapter, has the behaviour on which the stages rely.
//! The list is the same as for the simulated broker.
//!
//! Every behaviour gets an empty server. `make brokers` runs this with several versions; two of the
//! behaviours need nats-server 2.11.

#![allow(clippy::unwrap_used)]

use async_nats::jetstream::{self, stream::Config};
use harmonylite::broker::{Broker as _, BrokerEvent, Request, Ticket};
use harmonylite::model::ids::{NodeId, StreamSeq};
use harmonylite::nats::{Hub, NatsBroker, Sink, Target, wire};
use harmonylite::settings::Settings;
use harmonylite_conformance::{BEHAVIOURS, Subject};
use harmonylite_guarantees::{Broker, nats_server};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// No event within this time means that none comes.
const QUIET: Duration = Duration::from_millis(400);

struct Client {
    _hub: Hub,
    broker: NatsBroker,
    events: Receiver<BrokerEvent>,
    _target: watch::Sender<Target>,
}

// The fields drop in this order: clients before the runtime, the server before its folder.
struct RealBroker {
    clients: Vec<Client>,
    runtime: Runtime,
    broker: Broker,
    settings: Settings,
    _dir: TempDir,
}

impl RealBroker {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path());
        let mut settings = Settings::default();
        settings.nats.urls = vec![broker.url()];
        Self { clients: Vec::new(), runtime: Runtime::new().unwrap(), broker, settings, _dir: dir }
    }

    fn name(&self, shard: u32) -> String {
        wire::stream_name(&self.settings.nats.stream_prefix, shard)
    }

    /// Changes the stream as an administrator does.
    fn administer<T>(
        &self,
        shard: u32,
        act: impl AsyncFnOnce(jetstream::Context, String) -> T,
    ) -> T {
        let (url, name) = (self.broker.url(), self.name(shard));
        self.runtime.block_on(async {
            let client = async_nats::connect(url).await.unwrap();
            act(jetstream::new(client), name).await
        })
    }
}

impl Subject for RealBroker {
    fn connect(&mut self, node: NodeId) -> usize {
        let (sender, events) = channel();
        let sender = std::sync::Mutex::new(sender);
        let sink: Sink = Arc::new(move |event| drop(sender.lock().unwrap().send(event)));
        let nobody: Sink = Arc::new(drop);
        let (target, targets) =
            watch::channel(Target { urls: self.settings.nats.urls.clone(), access: None });
        let _inside = self.runtime.enter();
        let hub = Hub::start(self.settings.clone(), node, 16 << 20, targets, &sink, &nobody);
        let broker = hub.handle(&sink);
        let first = events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(first, BrokerEvent::Connected), "{first:?}");
        self.clients.push(Client { _hub: hub, broker, events, _target: target });
        self.clients.len() - 1
    }

    fn request(&mut self, client: usize, ticket: Ticket, request: Request) {
        self.clients[client].broker.request(ticket, request);
    }

    fn next_event(&mut self, client: usize) -> Option<BrokerEvent> {
        self.clients[client].events.recv_timeout(QUIET).ok()
    }

    fn max_payload_bytes(&self, client: usize) -> usize {
        self.clients[client].broker.max_payload_bytes()
    }

    fn delete_message(&mut self, shard: u32, seq: StreamSeq) {
        let deleted = self.administer(shard, async |js, name| {
            js.get_stream(name).await.unwrap().delete_message(seq.0).await
        });
        assert!(deleted.unwrap(), "message {seq} was there to be deleted");
    }

    fn expire(&mut self, shard: u32, upto: StreamSeq) {
        self.administer(shard, async |js, name| {
            js.get_stream(name).await.unwrap().purge().sequence(upto.0 + 1).await
        })
        .unwrap();
    }

    fn recreate(&mut self, shard: u32) {
        self.administer(shard, async |js, name| {
            let config: Config = js.get_stream(&name).await.unwrap().cached_info().config.clone();
            js.delete_stream(&name).await.unwrap();
            js.create_stream(config).await.unwrap();
        });
    }

    fn wait(&mut self, ms: u64) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }
}

/// What a server before 2.11 does not do: keys with a time to live (a lease is then judged by when
/// it last changed), and the previous message of a subject whose newest one was destroyed (it seems
/// empty, so a loss at the broker looks greater than it is).
const SINCE_2_11: [&str; 2] = [
    "the fence holds behind a hole and behind expiry",
    "a key with a time to live goes, and lives on while it is renewed",
];

/// Returns whether the tested server is older than 2.11.
fn is_before_2_11() -> bool {
    let said = std::process::Command::new(nats_server()).arg("-v").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let version = said.trim().strip_prefix("nats-server: v").unwrap();
    println!("nats-server {version}");
    version.starts_with("2.10.")
}

#[test]
fn a_real_server_conforms() {
    let is_old = is_before_2_11();
    let failed: Vec<String> = BEHAVIOURS
        .iter()
        .filter(|(name, _)| !(is_old && SINCE_2_11.contains(name)))
        .filter_map(|(name, behaviour)| {
            behaviour(&mut RealBroker::new()).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
