//! The stores that need nothing of a node. Others implement [`crate::store::Store`] where their
//! client is.

mod dir;
mod part;
mod s3;
mod sftp;
mod sftp_link;
mod webdav;
mod webdav_listing;

pub use dir::Directory;
pub use s3::{S3, S3Options};
pub use sftp::{Sftp, SftpOptions};
pub use webdav::{WebDav, WebDavOptions};
