//! Simulates whole clusters in one deterministic process: real stages on real SQLite, an unreliable
//! broker, simulated time. One seed decides everything. The same seed always gives the same trace,
//! byte for byte.

pub mod application;
pub mod broker;
pub mod clock;
pub mod coverage;
mod damage;
mod describe;
mod faults;
mod judge;
pub mod network;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod shrink;
mod snapshots;
mod stored_digests;
pub mod stored_versions;
pub mod suite;
mod variants;
pub mod world;

/// Runs the world of a seed.
pub fn run_seed(seed: u64, traced: bool) -> world::Outcome {
    world::run(&plan::Plan::from_seed(seed), traced)
}
