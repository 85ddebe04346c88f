//! From the change log to a batch in the stream.

pub mod collect;
pub mod messages;
pub mod outbound;
