//! Publishes the change log as batches in the stream.

mod base;
pub mod collect;
pub mod messages;
pub mod outbound;
