//! The same work by plain means, in one thread: what a snapshot is compared with.
//!
//! Arrives: a file. Leaves: a copy of it; its pieces, hashed and compressed as a snapshot's are;
//! the file again.

use crate::time::{check, now, since_s};
use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::path::Path;

/// The size and the level of a snapshot's pieces (`snapshot/src/chunk.rs`).
const PIECE: usize = 1 << 20;
const LEVEL: i32 = 1;
const DIGEST: usize = 32;

/// Copies a file, then hashes and compresses it. Returns the seconds.
pub(super) fn save(image: &Path, copy: &Path, packed: &Path) -> Result<f64> {
    let began = now();
    std::fs::copy(image, copy)?;
    File::open(copy)?.sync_all()?;
    let (mut from, mut to) = (File::open(image)?, File::create(packed)?);
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        check()?;
        piece.clear();
        (&mut from).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            break;
        }
        let stored = zstd::bulk::compress(&piece, LEVEL)?;
        to.write_all(&Sha256::digest(&piece))?;
        to.write_all(&u32::try_from(stored.len())?.to_le_bytes())?;
        to.write_all(&stored)?;
    }
    to.sync_all()?;
    Ok(since_s(began))
}

/// Writes the file again, and checks each digest. Returns the seconds.
pub(super) fn restore(packed: &Path, image: &Path) -> Result<f64> {
    let began = now();
    let (mut from, mut to) = (File::open(packed)?, File::create(image)?);
    let mut stored = Vec::new();
    loop {
        check()?;
        let mut head = [0; DIGEST + 4];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let (digest, length) = head.split_at(DIGEST);
        stored.resize(u32::from_le_bytes(length.try_into()?) as usize, 0);
        from.read_exact(&mut stored)?;
        let piece = zstd::bulk::decompress(&stored, PIECE)?;
        ensure!(Sha256::digest(&piece)[..] == *digest, "a piece is damaged");
        to.write_all(&piece)?;
    }
    to.sync_all()?;
    Ok(since_s(began))
}
