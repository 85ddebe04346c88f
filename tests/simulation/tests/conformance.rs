//! The simulated broker behaves like a real one: the same list of behaviours runs on both.

use harmonylite::broker::{Broker, BrokerEvent, Request, Ticket};
use harmonylite::model::ids::{NodeId, StreamSeq};
use harmonylite_conformance::{BEHAVIOURS, Subject};
use harmonylite_simulation::broker::SimBroker;
use harmonylite_simulation::clock::BEGIN_MS;
use harmonylite_simulation::coverage::Marks;
use harmonylite_simulation::network::{Actor, Connection, Handle, Served};
use harmonylite_simulation::plan::Fates;
use harmonylite_simulation::rng::Rng;
use std::collections::VecDeque;

const MAX_PAYLOAD: usize = 64 << 10;

#[derive(Default)]
struct SimulatedBroker {
    broker: SimBroker,
    clients: Vec<(Connection, Handle, VecDeque<BrokerEvent>)>,
    passed_ms: u64,
}

impl Subject for SimulatedBroker {
    fn connect(&mut self, node: NodeId) -> usize {
        self.broker.at(BEGIN_MS);
        let mut connection = Connection::new(node, MAX_PAYLOAD);
        connection.up = true;
        let handle = connection.handle(Actor::Inbound);
        self.clients.push((connection, handle, VecDeque::new()));
        self.clients.len() - 1
    }

    fn request(&mut self, client: usize, ticket: Ticket, request: Request) {
        self.clients[client].1.request(ticket, request);
        let served = self.clients[client].0.serve(
            &mut self.broker,
            &Fates::default(),
            &mut Rng::new(1),
            &mut Marks::default(),
        );
        match served {
            Served::Nothing => {}
            Served::Events(_, events) => self.clients[client].2.extend(events),
            Served::Signal(bytes) => self
                .clients
                .iter_mut()
                .for_each(|c| c.2.push_back(BrokerEvent::Signal(bytes.clone()))),
        }
    }

    fn next_event(&mut self, client: usize) -> Option<BrokerEvent> {
        let (connection, _, events) = &mut self.clients[client];
        events.pop_front().or_else(|| connection.deliver(&mut self.broker, &mut Rng::new(1)))
    }

    fn max_payload_bytes(&self, client: usize) -> usize {
        self.clients[client].1.max_payload_bytes()
    }

    fn delete_message(&mut self, shard: u32, seq: StreamSeq) {
        self.broker.destroy(shard, seq.0);
    }

    fn expire(&mut self, shard: u32, upto: StreamSeq) {
        self.broker.expire(shard, upto.0);
    }

    fn recreate(&mut self, shard: u32) {
        self.broker.recreate(shard);
    }

    fn wait(&mut self, ms: u64) {
        self.passed_ms += ms;
        self.broker.at(BEGIN_MS + self.passed_ms.cast_signed());
    }
}

#[test]
fn the_simulated_broker_conforms() {
    let failed: Vec<String> = BEHAVIOURS
        .iter()
        .filter_map(|(name, behaviour)| {
            behaviour(&mut SimulatedBroker::default()).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
