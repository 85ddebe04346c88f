//! What the broker lost, who still has it, and what may go.

pub mod evidence;
pub mod lease;
pub mod prune;
pub mod republish;
