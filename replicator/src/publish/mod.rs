//! Publishes the change log as batches in the stream.

pub mod collect;
pub mod messages;
pub mod outbound;
