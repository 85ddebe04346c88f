//! `harmonylite demo`: three nodes of a shop on this machine, written at once, cut off, killed, and
//! compared in the end.
//!
//! Real processes of this very program on temporary files, around one embedded nats-server;
//! ordinary connections write.

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
