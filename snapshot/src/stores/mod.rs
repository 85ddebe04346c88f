//! The stores that need no network. Others implement [`crate::store::Store`] where their client is.

mod dir;

pub use dir::Directory;
