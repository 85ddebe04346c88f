//! The HarmonyLite VFS: commits noticed in microseconds, from any program that uses SQLite.
//!
//! Needs libc and no SQLite: what it calls of SQLite comes in through a [`Host`] table, which the
//! loadable extension fills from `sqlite3_api_routines` and the Rust side from libsqlite3-sys. So
//! one process can hold several SQLite libraries, each with its own VFS.
//!
//! In the order of the data flow: [`shim`] sees a commit become visible and rings; [`bell`] is the
//! shared file between the applications and the sidecar; [`walindex`] says what was committed;
//! [`functions`] let an application ask how far its own changes have come. [`gather`] is a VFS of
//! its own, for the sidecar's writing connection.

pub mod abi;
pub mod bell;
pub mod functions;
mod futex;
pub mod gather;
pub mod layout;
mod map;
mod ringer;
pub mod shim;
pub mod text_pages;
mod vfs;
mod wake;
pub mod walindex;

pub use shim::{VFS_NAME, register};
pub use vfs::Host;

/// What `harmonylite_vfs_version()` says.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs what C called. A panic must not cross into C: it becomes `otherwise`.
pub(crate) fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(otherwise)
}
