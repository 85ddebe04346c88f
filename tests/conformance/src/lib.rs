//! The behaviour of a broker on which the stages rely. One list of behaviours runs on the simulated
//! broker and on a real server, so that the model stays correct.
//!
//! A [`Subject`] is an empty broker to which clients connect. Its implementation decides how events
//! are delivered.

mod bucket;
mod client;
mod consume;
mod publish;
mod stream;

pub use client::Client;
use harmonylite::broker::{BrokerEvent, Request, Ticket};
use harmonylite::model::ids::{NodeId, StreamSeq};

/// A broker under test, and the means to break it.
pub trait Subject {
    /// Connects as a node, and returns the number of the client after [`BrokerEvent::Connected`].
    fn connect(&mut self, node: NodeId) -> usize;
    /// Passes a request on.
    fn request(&mut self, client: usize, ticket: Ticket, request: Request);
    /// Returns the next event for a client; None if none comes for a while.
    fn next_event(&mut self, client: usize) -> Option<BrokerEvent>;
    /// Returns the largest payload, as the client's broker reports it.
    fn max_payload_bytes(&self, client: usize) -> usize;
    /// Destroys one message.
    fn delete_message(&mut self, shard: u32, seq: StreamSeq);
    /// Removes all messages up to a position, as expiry does.
    fn expire(&mut self, shard: u32, upto: StreamSeq);
    /// Recreates the stream.
    fn recreate(&mut self, shard: u32);
    /// Lets time pass.
    fn wait(&mut self, ms: u64);
}

/// The reason why a broker does not conform, as an error.
pub type Verdict = Result<(), String>;

/// A behaviour: its name, and its test on an empty broker.
pub type Behaviour = (&'static str, fn(&mut dyn Subject) -> Verdict);

/// All behaviours.
pub const BEHAVIOURS: &[Behaviour] = &[
    ("positions are given in order from 1", publish::positions),
    ("headers and payload come back as they went", publish::round_trip),
    ("the fence refuses a wrong last position and stores nothing", publish::fence),
    ("the fence is the own subject's, whatever others publish", publish::fence_is_own),
    ("the same batch published again is stored again", publish::no_duplicate_window),
    ("a payload of the largest size is taken, a larger one refused", publish::largest_payload),
    ("a message is found at its position, and none where none is", stream::message_at),
    ("the last own message is the own subject's", stream::last_own),
    ("the state tells first, last and the time of the last", stream::state),
    ("created stays, and differs after the stream was made again", stream::created),
    ("expiry moves first and keeps last", stream::expiry),
    ("expiry of everything leaves first behind last", stream::expiry_of_all),
    ("a destroyed message leaves a hole", stream::hole),
    ("a destroyed first message is no expiry", stream::hole_at_the_front),
    ("the fence holds behind a hole and behind expiry", stream::fence_behind_expiry),
    ("a consumer gets what is there and what comes, in order", consume::in_order),
    ("a consumer begins in the middle", consume::in_the_middle),
    ("a consumer below first begins at first", consume::below_first),
    ("a consumer behind last gets the next", consume::behind_last),
    ("a consumer skips a hole", consume::over_a_hole),
    ("a new consumer replaces the one before", consume::replaced),
    ("two nodes consume the same", consume::two_nodes),
    ("a key is put by its revision", bucket::revisions),
    ("a key is put in any case", bucket::unconditional),
    ("a key with a time to live goes, and lives on while it is renewed", bucket::time_to_live),
    ("a signal reaches another node", bucket::signal),
];
