//! Our own push consumer: ack none, flow control, idle heartbeat, starting at a position.
//!
//! Arrives: the position. Leaves: deliveries in the order of the stream, and one
//! [`BrokerEvent::ConsumerLost`] at the end. Owns: a missing delivery (a gap in the consumer's own
//! count, a missing heartbeat or one that counts more) ends the consumer, and the actor starts
//! another one behind its cursor. The crate's ordered consumers are not used: recreated before
//! their first delivery they replay from 1. The answer to a flow control request waits until
//! everything before it is handed over, and handing over waits for the byte budget: that is the
//! back-pressure.

use super::ask::to_message;
use super::prepare::Session;
use super::wire;
use crate::broker::{BrokerEvent, Permit};
use crate::model::ids::StreamSeq;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push};
use async_nats::{HeaderMap, StatusCode, Subscriber};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Interval of heartbeats. The consumer lives on one server of a cluster; this decides how soon its
/// death is noticed.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A silence of more than two heartbeats ends the consumer.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// The bytes of a message besides its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 1_024;

/// The receiver of deliveries, and the bytes that may wait there.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) events: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) budget_bytes: usize,
}

/// A consumer on a connection.
pub(super) struct Consumer {
    session: Session,
    subscriber: Subscriber,
    shard: u32,
    generation: u64,
    delivered: u64,
}

impl Consumer {
    /// Creates the consumer.
    pub(super) async fn start(
        session: &Session,
        stream_prefix: &str,
        shard: u32,
        start: StreamSeq,
        generation: u64,
    ) -> Result<Self, String> {
        let name = wire::stream_name(stream_prefix, shard);
        let inbox = session.client.new_inbox();
        let subscriber =
            session.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start.0.max(1) },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            num_replicas: 1,
            memory_storage: true,
            description: Some("HarmonyLite node".to_owned()),
            ..push::Config::default()
        };
        session
            .jetstream
            .create_consumer_on_stream(config, name)
            .await
            .map_err(|e| e.to_string())?;
        Ok(Self { session: session.clone(), subscriber, shard, generation, delivered: 0 })
    }

    /// Delivers until something is missing; returns the reason.
    pub(super) async fn run(mut self, outlet: Outlet) {
        let reason = loop {
            match tokio::time::timeout(SILENCE_MAX, self.subscriber.next()).await {
                Err(_) => break "no heartbeat".to_owned(),
                Ok(None) => break "the subscription ended".to_owned(),
                Ok(Some(message)) => {
                    if let Err(reason) = self.take(message, &outlet).await {
                        break reason;
                    }
                }
            }
        };
        (outlet.events)(BrokerEvent::ConsumerLost {
            shard: self.shard,
            generation: self.generation,
            reason,
        });
    }

    async fn take(&mut self, message: async_nats::Message, outlet: &Outlet) -> Result<(), String> {
        if let Some(status) = message.status {
            return self.control(status, &message).await;
        }
        let client = self.session.jetstream.clone();
        let message = async_nats::jetstream::Message { message, context: client };
        let info =
            message.info().map_err(|error| format!("a delivery has no position: {error}"))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(format!(
                "delivery {} came after {}",
                info.consumer_sequence, self.delivered
            ));
        }
        self.delivered = info.consumer_sequence;
        let (seq, time_ns) = (info.stream_sequence, super::ask::nanoseconds(info.published));
        let message = message.message;
        let cost = (message.payload.len() + MESSAGE_OVERHEAD_BYTES).min(outlet.budget_bytes);
        let permit = Arc::clone(&outlet.budget)
            .acquire_many_owned(u32::try_from(cost).unwrap_or(u32::MAX))
            .await;
        let permit = permit.map(Permit::new).map_err(|error| error.to_string())?;
        let message = to_message(
            self.shard,
            seq,
            time_ns,
            &message.subject,
            message.headers.as_ref(),
            message.payload,
        );
        (outlet.events)(BrokerEvent::Delivered { generation: self.generation, message, permit });
        Ok(())
    }

    async fn control(
        &self,
        status: StatusCode,
        message: &async_nats::Message,
    ) -> Result<(), String> {
        if status != StatusCode::IDLE_HEARTBEAT {
            return Err(message
                .description
                .as_ref()
                .map_or_else(|| format!("status {status}"), ToString::to_string));
        }
        let header = |name: &str| {
            message
                .headers
                .as_ref()
                .and_then(|h: &HeaderMap| h.get(name))
                .map(|v| v.as_str().to_owned())
        };
        if let Some(last) = header("Nats-Last-Consumer").and_then(|v| v.parse::<u64>().ok())
            && last > self.delivered
        {
            return Err(format!(
                "delivery {last} was sent, but {} is the last received",
                self.delivered
            ));
        }
        // A flow control request, or a heartbeat of a consumer that waits for a lost answer.
        let reply = message
            .reply
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| header("Nats-Consumer-Stalled"));
        if let Some(reply) = reply {
            self.session
                .client
                .publish(reply, bytes::Bytes::new())
                .await
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
