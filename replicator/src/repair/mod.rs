//! Finds what the broker lost, gets it back from other nodes, and drops old versions.

pub mod answers;
pub mod evidence;
pub mod gaps;
pub mod lease;
pub mod members;
pub mod peer_tables;
pub mod prune;
pub mod question;
pub mod refetch;
pub mod republish;
pub mod signal;
pub mod superseded;
pub mod verdict;
pub mod walk;
