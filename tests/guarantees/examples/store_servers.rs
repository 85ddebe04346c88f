//! Starts the S3, WebDAV and SFTP servers of the tests below a directory, to try stores by hand:
//! `cargo run -p harmonylite-guarantees --example store_servers DIR`. Their settings are printed.
//! Ends with its standard input.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::stores::{Sshd, s3, webdav};
use std::io::Read as _;
use std::path::PathBuf;

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap());
    let (s3, webdav, sftp) = (s3(&dir), webdav(&dir), Sshd::start(&dir));
    for settings in [&s3.settings, &webdav.settings, &sftp.settings] {
        println!("[snapshot]\n{settings}");
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
