//! Which part of which chunk holds each block of an image.
//!
//! Arrives: the names of chunks and blocks. Leaves: their places, and the form of the list in a
//! manifest. Owns: a place is within a chunk, and a block is used only if its content has the
//! digest of the list. Pure.
//!
//! Blocks are small, so that a changed page costs a save little; chunks are large, so that a store
//! has few objects. As a *blob* in a *pack* of restic, with blocks of one size, because the pages
//! of a database do not move.

use crate::chunk::{CHUNK_BYTES, ChunkId};
use data_encoding::BASE64;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;
use std::ops::Range;

/// The smallest block of a save. A table of blocks takes 49 bytes of a manifest for each.
const BLOCK_BYTES_MIN: u64 = 32 << 10;
/// The smallest block that a manifest may have: a slot is a byte.
pub(crate) const READABLE_BYTES_MIN: usize = CHUNK_BYTES / 256;
/// An image of more blocks has larger ones, up to a whole chunk.
const BLOCKS: u64 = 1 << 18;
/// Bytes of a block in the list: digest, number of the chunk, slot.
const ENTRY_BYTES: usize = 32 + 4 + 1;

/// A block of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// SHA-256 of its content.
    pub digest: ChunkId,
    /// The chunk that holds it, as an index into the manifest's list.
    pub chunk: u32,
    /// How many blocks are before it in that chunk.
    pub slot: u8,
}

/// Returns the bytes of a block of an image of this length: a power of two.
pub(crate) fn block_bytes(image_bytes: u64) -> usize {
    let mut bytes = BLOCK_BYTES_MIN;
    while image_bytes.div_ceil(bytes) > BLOCKS && bytes < CHUNK_BYTES as u64 {
        bytes *= 2;
    }
    bytes as usize
}

/// A block that is in a fetched chunk.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Its number in the image.
    pub(crate) index: usize,
    /// Where it is in the chunk.
    pub(crate) range: Range<usize>,
    pub(crate) digest: ChunkId,
}

impl Placed {
    /// Returns its content, which has its digest.
    ///
    /// # Errors
    /// The defect, for people.
    pub(crate) fn content<'a>(&self, chunk: &'a [u8]) -> Result<&'a [u8], String> {
        let Self { index, range, digest } = self;
        let content = chunk.get(range.clone()).ok_or_else(|| {
            format!("it has {} bytes, and block {index} is at {range:?}", chunk.len())
        })?;
        if ChunkId::of(content) == *digest {
            Ok(content)
        } else {
            Err(format!("the content of block {index} has another SHA-256"))
        }
    }
}

/// Blocks whose entries are whole letters of base64 together, so a long list is never in memory
/// twice.
const GROUP: usize = 3;
const GROUP_LETTERS: usize = GROUP * ENTRY_BYTES / 3 * 4;

pub(crate) fn serialize<S: Serializer>(blocks: &[Block], to: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(BASE64.encode_len(blocks.len() * ENTRY_BYTES));
    let mut entries = Vec::with_capacity(GROUP * ENTRY_BYTES);
    for group in blocks.chunks(GROUP) {
        entries.clear();
        for block in group {
            entries.extend_from_slice(block.digest.digest());
            entries.extend_from_slice(&block.chunk.to_be_bytes());
            entries.push(block.slot);
        }
        BASE64.encode_append(&entries, &mut text);
    }
    to.serialize_str(&text)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Block>, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Vec<Block>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("blocks in base64")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<Block>, E> {
            read(text).map_err(E::custom)
        }
    }

    from.deserialize_str(Text)
}

fn read(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::with_capacity(text.len() / (GROUP_LETTERS / GROUP));
    for letters in text.as_bytes().chunks(GROUP_LETTERS) {
        let bytes = BASE64.decode(letters).map_err(|error| error.to_string())?;
        let (entries, []) = bytes.as_chunks::<ENTRY_BYTES>() else {
            return Err("a list of blocks that ends within one".to_owned());
        };
        blocks.extend(entries.iter().filter_map(|entry| {
            let (digest, rest) = entry.split_first_chunk::<32>()?;
            let (chunk, slot) = rest.split_first_chunk::<4>()?;
            let digest = ChunkId::from_digest(*digest);
            Some(Block { digest, chunk: u32::from_be_bytes(*chunk), slot: *slot.first()? })
        }));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_with_the_image() {
        let kib = |image_bytes| block_bytes(image_bytes) >> 10;
        assert_eq!((kib(0), kib(1 << 30), kib(8 << 30)), (32, 32, 32));
        assert_eq!((kib((8 << 30) + 1), kib(16 << 30), kib(100 << 30)), (64, 64, 512));
        assert_eq!((kib(1 << 40), kib(u64::MAX)), (1024, 1024));
    }

    #[test]
    fn a_block_is_its_part_of_the_chunk_or_an_error() {
        let placed = |range| Placed { index: 7, range, digest: ChunkId::of(b"bc") };
        assert_eq!(placed(1..3).content(b"abcd"), Ok(&b"bc"[..]));
        assert!(placed(2..4).content(b"abcd").unwrap_err().contains("block 7 has another SHA-256"));
        assert!(placed(3..5).content(b"abcd").unwrap_err().contains("4 bytes, and block 7 is at"));
    }

    #[test]
    fn lists_of_every_length_are_read_as_they_were_written() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct List(#[serde(with = "crate::block")] Vec<Block>);

        for count in 0..8 {
            let block = |i: u8| Block { digest: ChunkId::of(&[i]), chunk: 1 << i, slot: 255 - i };
            let blocks: Vec<_> = (0..count).map(block).collect();
            let text = serde_json::to_string(&List(blocks.clone())).unwrap();
            assert_eq!(serde_json::from_str::<List>(&text).unwrap().0, blocks);
            // Without its last letters it is none, or one block less at the end of a group.
            let cut = format!("{}\"", &text[..text.len().saturating_sub(5).max(1)]);
            let shorter = serde_json::from_str::<List>(&cut).map(|list| list.0.len());
            assert!(shorter.map_or(true, |read| read < usize::from(count).max(1)), "{count}");
        }
    }
}
