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

use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Runs work that blocks on a thread of its own, and passes its panic on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// How far the work for a snapshot stands back behind the application's, as the nice value of its
/// threads. Nothing is lost on a machine with a free processor.
const NICE: i32 = 10;

/// Runs work that needs a processor for long on a thread of its own, which lets every other one go
/// first, and passes its panic on. The threads of the runtime keep their priority: it cannot be
/// raised again.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = Arc::new(Mutex::new(Some(work)));
    let (to_done, done) = oneshot::channel();
    let mine = Arc::clone(&work);
    let run = move || {
        // Elsewhere a priority is that of the whole process. Without it the work is the same.
        if cfg!(target_os = "linux") {
            let _ = rustix::process::setpriority_process(None, NICE);
        }
        if let Some(work) = mine.lock().take() {
            // Nobody waits any more: the save was given up.
            let _ = to_done.send(catch_unwind(AssertUnwindSafe(work)));
        }
    };
    let started = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run);
    if started.is_err()
        && let Some(work) = { work.lock().take() }
    {
        return blocking(work).await;
    }
    match done.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        // A thread that has begun always answers.
        Err(_) => std::future::pending().await,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_in_the_background_returns_and_panics_like_any_other() {
        let (own, named) = in_background(|| {
            let nice = rustix::process::getpriority_process(None).unwrap();
            (nice, std::thread::current().name().map(str::to_owned))
        })
        .await;
        assert_eq!(named.as_deref(), Some("snapshot"));
        assert_eq!(own == NICE, cfg!(target_os = "linux"));
        assert_ne!(rustix::process::getpriority_process(None).unwrap(), NICE, "only that thread");
        let panicked = tokio::spawn(in_background(|| panic!("as it should"))).await;
        assert!(panicked.unwrap_err().is_panic());
    }
}
