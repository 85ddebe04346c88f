//! Snapshots of a live SQLite database.
//!
//! A *snapshot* is a consistent image of one database and a manifest that describes it. The image
//! is cut into chunks, which are named by their content: a chunk that a store already has is not
//! sent again. In the order of the flow:
//!
//! - [`image`]: a consistent image of a live database, page by page;
//! - [`chunk`]: pieces of an image, their names, and their stored form;
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

pub mod catalog;
pub mod chunk;
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
pub mod save;
mod scratch;
pub mod store;
pub mod stores;
pub mod verify;

#[cfg(test)]
mod testing;

pub use error::SnapshotError;
pub use name::Name;

use std::panic::resume_unwind;
use tokio::task::JoinHandle;

/// Runs work that blocks on a thread of its own, and passes its panic on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Waits for such work.
async fn joined<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only a runtime that ends cancels blocking work, and then nobody waits for it.
            Err(_) => std::future::pending().await,
        },
    }
}
