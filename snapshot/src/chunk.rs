//! What a store holds of images: the names of chunks, and their stored form.
//!
//! Arrives: bytes of an image. Leaves: a name (SHA-256 of the bytes) and a zstd frame. Owns: no
//! frame becomes more than a chunk. That it has the right content, each block shows
//! ([`crate::block`]). Pure.

use crate::name::Name;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The most bytes of an image in one chunk. A multiple of every page size.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The most bytes of a stored chunk: zstd grows what it cannot compress by less than this.
pub const STORED_BYTES_MAX: usize = CHUNK_BYTES + CHUNK_BYTES / 128 + 1024;
/// Fast: a save reads, hashes and compresses about as fast as it copies.
const LEVEL: i32 = 1;
/// The folder of all chunks in a store.
pub(crate) const FOLDER: &str = "chunk/";

/// The name of a chunk, or of a block: SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// Returns the name of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// Returns the name with this digest.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Returns the digest itself.
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// Returns the name of the object in a store. Folders of 1/256 of all chunks, because a
    /// directory of millions of files is slow.
    pub fn object(&self) -> Name {
        let hex = self.to_string();
        // Hexadecimal digits are a name.
        Name::new(format!("{FOLDER}{}/{hex}", &hex[..2])).unwrap_or_else(|| unreachable!())
    }

    /// Returns the chunk that an object holds, if it is a chunk.
    pub fn of_object(object: &Name) -> Option<Self> {
        let (folder, hex) = object.as_str().strip_prefix(FOLDER)?.split_once('/')?;
        hex.starts_with(folder).then(|| Self::parse(hex)).flatten()
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChunkId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChunkId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

/// Returns the stored form of a chunk.
///
/// # Errors
/// zstd's error: no memory.
pub fn pack(content: &[u8]) -> std::io::Result<Bytes> {
    zstd::bulk::compress(content, LEVEL).map(Bytes::from)
}

/// Returns the content of a stored chunk.
///
/// # Errors
/// The defect, for people: damaged, or more than [`CHUNK_BYTES`].
pub fn unpack(stored: &[u8]) -> Result<Vec<u8>, String> {
    // The limit decides what is allocated, never the frame.
    zstd::bulk::decompress(stored, CHUNK_BYTES)
        .map_err(|error| format!("it does not decompress: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_anything_else_is_refused() {
        let content: Vec<u8> = (0..CHUNK_BYTES).map(|i| (i / 97) as u8).collect();
        let stored = pack(&content).unwrap();
        assert!(stored.len() < content.len() / 4);
        assert_eq!(unpack(&stored).unwrap(), content);
        assert!(unpack(&stored[..stored.len() - 1]).unwrap_err().contains("decompress"));
        let larger = zstd::bulk::compress(&vec![0; CHUNK_BYTES + 1], LEVEL).unwrap();
        assert!(unpack(&larger).unwrap_err().contains("decompress"));
        assert!(unpack(b"").is_ok_and(|content| content.is_empty()));
    }

    #[test]
    fn random_content_stays_within_the_limit_of_a_stored_chunk() {
        let mut digest = [7; 32];
        let mut content = Vec::with_capacity(CHUNK_BYTES);
        while content.len() < CHUNK_BYTES {
            digest = Sha256::digest(digest).into();
            content.extend_from_slice(&digest);
        }
        assert!(pack(&content).unwrap().len() <= STORED_BYTES_MAX);
    }

    #[test]
    fn a_chunk_is_known_by_its_object() {
        let id = ChunkId::of(b"x");
        assert_eq!(ChunkId::of_object(&id.object()), Some(id));
        let moved = id.object().as_str().replacen("chunk/2d/", "chunk/00/", 1);
        assert_eq!(ChunkId::of_object(&Name::new(moved).unwrap()), None);
        assert_eq!(ChunkId::of_object(&Name::new("chunk/00/00").unwrap()), None);
        assert_eq!(ChunkId::parse(&"g".repeat(64)), None);
    }
}
