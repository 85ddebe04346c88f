//! `harmonylite demo`: three nodes of a shop on this machine. All write at once, one is cut off,
//! one is killed, a fourth one starts without a file from a snapshot, and at the end the databases
//! are compared.
//!
//! The nodes are processes of this program on temporary files, around one embedded nats-server.
//! Ordinary connections write.

mod compare;
mod ending;
mod interrupt;
mod nodes;
mod observe;
mod play;
mod relay;
mod run;
mod schema;
mod shop;
mod stage;
mod table;
mod traffic;

pub(super) use run::run;
