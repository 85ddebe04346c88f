//! Reads what the streams hold, and changes nothing there.
//!
//! Arrives: a stream, positions, a moment. Leaves: states, positions of a moment, messages in their
//! order. Owns: nothing is created but a consumer in the server's memory, which ends with the
//! connection; nothing is stored. No state.

use super::ask::{self, nanoseconds};
use super::connect::{LinkError, Target, connect};
use super::consume::{Consumer, Outlet};
use super::prepare::{Session, read_only_session, stream_found};
use super::wire;
use crate::broker::{BrokerError, BrokerEvent, Message, Reply, StreamState};
use crate::model::ids::StreamSeq;
use crate::settings::Settings;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;

/// The streams of a cluster, for reading.
pub struct History {
    session: Session,
    settings: Settings,
}

/// A consumer of one stream. It ends when this is dropped.
pub struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Receives the messages of streams, and bounds how many wait.
#[derive(Clone)]
pub struct Inbox(Outlet);

impl Inbox {
    /// Creates one. At most `bytes_max` wait for the receiver.
    pub fn new(bytes_max: usize) -> (Self, UnboundedReceiver<BrokerEvent>) {
        let (sender, events) = unbounded_channel();
        let outlet = Outlet {
            // The receiver is gone: nobody reads any more.
            events: Arc::new(move |event| drop(sender.send(event))),
            budget: Arc::new(Semaphore::new(bytes_max)),
            budget_bytes: bytes_max,
        };
        (Self(outlet), events)
    }
}

impl History {
    /// Connects.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn open(settings: &Settings, target: &Target) -> Result<Self, LinkError> {
        // Nobody looks at the events: requests fail instead.
        let (events, _) = unbounded_channel();
        let client = connect(settings, target, events).await?;
        let session = read_only_session(&client, settings).await?;
        Ok(Self { session, settings: settings.clone() })
    }

    /// Returns the state of a stream; None if it does not exist.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn state(&self, shard: u32) -> Result<Option<StreamState>, BrokerError> {
        let found = stream_found(&self.session.jetstream, &self.settings, shard).await;
        match found {
            Err(error) => Err(BrokerError::Unreachable(error.to_string())),
            Ok(false) => Ok(None),
            Ok(true) => match ask::stream_state(&self.session, &self.settings.nats, shard).await? {
                Reply::State(state) => Ok(Some(state)),
                _ => Ok(None),
            },
        }
    }

    /// Returns the message at a position, if the stream has it.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn message_at(
        &self,
        shard: u32,
        seq: StreamSeq,
    ) -> Result<Option<Message>, BrokerError> {
        match ask::message_at(&self.session, &self.settings.nats, shard, seq).await? {
            Reply::Message(message) => Ok(message),
            _ => Ok(None),
        }
    }

    /// Returns the position of the last message that was stored at this moment (unix nanoseconds)
    /// or before, by the broker's clock. Messages that are gone count as stored before.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn upto(
        &self,
        shard: u32,
        state: &StreamState,
        at_ns: i64,
    ) -> Result<StreamSeq, BrokerError> {
        // The server may give a purged stream a later time than that of its last message.
        if state.last_time_ns <= at_ns || state.first > state.last {
            return Ok(state.last);
        }
        let nats = &self.settings.nats;
        let subjects = wire::stream_subjects(&nats.subject_prefix, shard);
        let name = wire::stream_name(&nats.stream_prefix, shard);
        let unreachable = BrokerError::Unreachable;
        let stream = self.session.jetstream.get_stream_no_info(name).await;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        // The last message is later. The first one that is later lies in `low..=high`.
        let (mut low, mut high) = (state.first.0, state.last.0);
        while low < high {
            let middle = low + (high - low) / 2;
            // If there is none at the position, the next one decides.
            let found = stream.get_first_raw_message_by_subject(subjects.as_str(), middle).await;
            match found {
                Ok(message) if nanoseconds(message.time) <= at_ns => {
                    low = message.sequence.max(middle) + 1;
                }
                Ok(_) => high = middle,
                // The tail was deleted meanwhile.
                Err(error) if ask::is_missing(&error) => high = middle,
                Err(error) => return Err(unreachable(error.to_string())),
            }
        }
        Ok(StreamSeq(low.min(high) - 1))
    }

    /// Starts to read a stream at a position. Each delivery has the generation.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn read(
        &self,
        shard: u32,
        start: StreamSeq,
        generation: u64,
        inbox: &Inbox,
    ) -> Result<Reader, BrokerError> {
        let prefix = &self.settings.nats.stream_prefix;
        let consumer = Consumer::start(&self.session, prefix, shard, start, generation);
        let consumer = consumer.await.map_err(BrokerError::Unreachable)?;
        Ok(Reader(tokio::spawn(consumer.run(inbox.0.clone())).abort_handle()))
    }
}
