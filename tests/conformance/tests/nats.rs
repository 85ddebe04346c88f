//! A real nats-server, through our own NATS adapter, has the behaviour on which the stages rely.
//! The list is the same as for the simulated broker.
//!
//! Every behaviour gets an empty server. Time to live needs nats-server 2.11 or later; the pinned
//! one is later.

#![allow(clippy::unwrap_used)]

use async_nats::jetstream::{self, stream::Config};
use harmonylite::broker::{Broker as _, BrokerEvent, Request, Ticket};
use harmonylite::model::ids::{NodeId, StreamSeq};
use harmonylite::nats::{Hub, NatsBroker, Sink, Target, wire};
use harmonylite::settings::Settings;
use harmonylite_conformance::{BEHAVIOURS, Subject};
use harmonylite_guarantees::Broker;
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

#[test]
fn a_real_server_conforms() {
    let failed: Vec<String> = BEHAVIOURS
        .iter()
        .filter_map(|(name, behaviour)| {
            behaviour(&mut RealBroker::new()).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
