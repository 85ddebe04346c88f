//! The network between a node and the broker: waiting requests, answers that may be lost,
//! consumers.

use crate::broker::SimBroker;
use crate::plan::Fates;
use crate::rng::Rng;
use bytes::Bytes;
use harmonylite::broker::{Broker, BrokerError, BrokerEvent, Permit, Reply, Request, Ticket};
use harmonylite::model::ids::NodeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// The actor that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The writing actor.
    Inbound,
    /// The reading one.
    Outbound,
}

type Queue = Rc<RefCell<VecDeque<(Actor, Ticket, Request)>>>;

/// An actor's side of the broker.
pub struct Handle {
    actor: Actor,
    requests: Queue,
    max_payload: usize,
}

impl Broker for Handle {
    fn request(&mut self, ticket: Ticket, request: Request) {
        self.requests.borrow_mut().push_back((self.actor, ticket, request));
    }

    fn max_payload_bytes(&self) -> usize {
        self.max_payload
    }
}

#[derive(Clone, Copy, Debug)]
struct Consumer {
    generation: u64,
    next: u64,
}

/// The connection of one node.
pub struct Connection {
    node: NodeId,
    /// Whether it is up.
    pub up: bool,
    /// Whether requests arrive.
    pub sends: bool,
    /// Whether answers and messages arrive.
    pub hears: bool,
    requests: Queue,
    consumers: BTreeMap<u32, Consumer>,
    max_payload: usize,
    /// Requests that the sender considers lost, and that will still arrive.
    pub ghosts: VecDeque<Request>,
}

/// The result of serving a request.
pub enum Served {
    /// No request waited.
    Nothing,
    /// The events for the actor.
    Events(Actor, Vec<BrokerEvent>),
    /// A signal for all nodes.
    Signal(Bytes),
}

impl Connection {
    /// Creates it without a connection.
    pub fn new(node: NodeId, max_payload: usize) -> Self {
        Self {
            node,
            up: false,
            sends: true,
            hears: true,
            requests: Queue::default(),
            consumers: BTreeMap::new(),
            max_payload,
            ghosts: VecDeque::new(),
        }
    }

    /// Returns the broker for one actor.
    pub fn handle(&self, actor: Actor) -> Handle {
        Handle { actor, requests: Rc::clone(&self.requests), max_payload: self.max_payload }
    }

    /// Returns whether a request waits.
    pub fn waits(&self) -> bool {
        !self.requests.borrow().is_empty()
    }

    /// Serves the next request. The request or its answer may be lost.
    pub fn serve(
        &mut self,
        broker: &mut SimBroker,
        fates: &Fates,
        rng: &mut Rng,
        marks: &mut crate::coverage::Marks,
    ) -> Served {
        let Some((actor, ticket, request)) = self.requests.borrow_mut().pop_front() else {
            return Served::Nothing;
        };
        if let Request::Signal { payload } = request {
            return if self.up && self.sends { Served::Signal(payload) } else { Served::Nothing };
        }
        let silent = |why: &str| {
            Served::Events(
                actor,
                vec![BrokerEvent::Reply(ticket, Err(BrokerError::Unreachable(why.to_owned())))],
            )
        };
        if !self.up {
            return silent("no connection");
        }
        if !self.sends || rng.chance(fates.lost) {
            marks.hit("request lost");
            return silent("request lost");
        }
        if rng.chance(fates.late) {
            marks.hit("request late");
            self.ghosts.push_back(request);
            return silent("request late");
        }
        if let Request::Publish { payload, .. } = &request
            && payload.len() > self.max_payload
        {
            let refused = BrokerError::Refused(format!("a payload of {} bytes", payload.len()));
            return Served::Events(actor, vec![BrokerEvent::Reply(ticket, Err(refused))]);
        }
        let published = matches!(request, Request::Publish { .. });
        let reply = self.carry_out(broker, request);
        if !self.hears || rng.chance(fates.deaf) {
            marks.hit(if published { "acknowledgement lost" } else { "answer lost" });
            return silent("answer lost");
        }
        let mut events = vec![BrokerEvent::Reply(ticket, reply.clone())];
        if rng.chance(fates.doubled) {
            marks.hit("answer doubled");
            events.push(BrokerEvent::Reply(ticket, reply));
        }
        Served::Events(actor, events)
    }

    fn carry_out(
        &mut self,
        broker: &mut SimBroker,
        request: Request,
    ) -> Result<Reply, BrokerError> {
        if let Request::Consume { shard, start, generation } = request {
            self.consumers.insert(shard, Consumer { generation, next: start.0 });
        }
        broker.execute(self.node, request)
    }

    /// Delivers the oldest request that counted as lost.
    pub fn ghost(&mut self, broker: &mut SimBroker) -> bool {
        let Some(request) = self.ghosts.pop_front() else { return false };
        // A consumer of an old connection delivers nothing.
        if !matches!(request, Request::Consume { .. }) {
            let _ = broker.execute(self.node, request);
        }
        true
    }

    /// Delivers the next message of one of the consumers.
    pub fn deliver(&mut self, broker: &mut SimBroker, rng: &mut Rng) -> Option<BrokerEvent> {
        if !self.up || !self.hears || self.consumers.is_empty() {
            return None;
        }
        let shards: Vec<u32> = self.consumers.keys().copied().collect();
        let from = rng.index(shards.len());
        for i in 0..shards.len() {
            let shard = shards[(from + i) % shards.len()];
            let consumer = self.consumers.get_mut(&shard)?;
            let stream = broker.stream(shard);
            let Some(seq) = stream.messages.range(consumer.next..).next().map(|(seq, _)| *seq)
            else {
                continue;
            };
            consumer.next = seq + 1;
            let message = SimBroker::message(stream, shard, seq)?;
            return Some(BrokerEvent::Delivered {
                generation: consumer.generation,
                message,
                permit: Permit::default(),
            });
        }
        None
    }

    /// Delivers a message a second time.
    pub fn redeliver(&self, broker: &mut SimBroker, rng: &mut Rng) -> Option<BrokerEvent> {
        if !self.up || !self.hears {
            return None;
        }
        let (shard, consumer) = self.consumers.iter().nth(rng.index(self.consumers.len()))?;
        let seq = consumer.next.checked_sub(1 + rng.below(3))?;
        let message = SimBroker::message(broker.stream(*shard), *shard, seq)?;
        Some(BrokerEvent::Delivered {
            generation: consumer.generation,
            message,
            permit: Permit::default(),
        })
    }

    /// Ends the consumers, as a client notices by missed heartbeats or a gap.
    pub fn lose_consumers(&mut self) -> Vec<BrokerEvent> {
        let lost = |(shard, c): (u32, Consumer)| BrokerEvent::ConsumerLost {
            shard,
            generation: c.generation,
            reason: "gone".to_owned(),
        };
        std::mem::take(&mut self.consumers).into_iter().map(lost).collect()
    }

    /// Ends the connection. A waiting request is lost, arrives later, or was executed; the sender
    /// does not know which. Returns the actors of these requests.
    pub fn cut(&mut self, broker: &mut SimBroker, rng: &mut Rng) -> Vec<(Actor, Ticket)> {
        self.up = false;
        self.consumers.clear();
        let waiting: Vec<_> = self.requests.borrow_mut().drain(..).collect();
        let mut asked = Vec::new();
        // Requests arrive in order up to some point, and none after it.
        let mut arrives = true;
        for (actor, ticket, request) in waiting {
            if matches!(request, Request::Signal { .. }) {
                continue;
            }
            asked.push((actor, ticket));
            arrives &= rng.chance(50);
            if matches!(request, Request::Consume { .. }) {
                continue;
            }
            if arrives {
                let _ = broker.execute(self.node, request);
            } else if rng.chance(30) {
                self.ghosts.push_back(request);
            }
        }
        asked
    }
}
