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

use crate::store::{StoreError, StoreErrorKind};
use std::error::Error;

/// The error of a connection, with its causes. It may pass, unless the server's certificate is
/// refused.
fn broken(error: &dyn Error) -> StoreError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if text.contains("invalid peer certificate") {
        text.push_str(
            "; make its CA known to this system, or name a file with it in SSL_CERT_FILE",
        );
        return StoreError::new(StoreErrorKind::Lasting, text);
    }
    StoreError::new(StoreErrorKind::Passing, text)
}
