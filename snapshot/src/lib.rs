//! Snapshots of a live SQLite database.
//!
//! A *snapshot* is a consistent image of one database and a manifest that describes it. The image
//! is cut into chunks, which are named by their content: a chunk that a store already has is not
//! sent again. In the order of the flow:
//!
//! - [`image`]: a consistent image of a live database, page by page;
//! - [`chunk`]: what a store holds of images; [`block`]: which part of an image is where in it;
//! - [`manifest`]: what a snapshot contains, written last and checked when read;
//! - [`store`]: the port to a store, and the bounded retries in front of it; [`stores`] has those
//!   that need nothing of a node;
//! - [`save`]: image to store; [`catalog`]: the snapshots of a store;
//! - [`restore`]: store to file; [`verify`]: a restore that proves a snapshot;
//! - [`query`]: one statement on a snapshot in its store;
//! - [`retention`]: which snapshots and chunks go.
//!
//! This crate knows SQLite and stores. What a database means to its cluster arrives as
//! [`manifest::Facts`].

mod background;
pub mod block;
pub mod catalog;
pub mod chunk;
mod cut;
pub mod error;
pub mod image;
pub mod manifest;
mod name;
pub mod progress;
pub mod query;
mod remote;
mod remote_vfs;
pub mod restore;
pub mod retention;
mod reuse;
pub mod save;
mod scratch;
pub mod store;
pub mod stores;
pub mod verify;

#[cfg(test)]
mod testing;

pub use background::stand_back;
pub use error::SnapshotError;
pub use name::Name;

use background::{blocking, in_background, joined};
