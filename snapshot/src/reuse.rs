//! What earlier snapshots have stored that the next one can use.
//!
//! Arrives: the newest manifests of a store, and the names of its chunks. Leaves: the place of each
//! block that need not be sent again. Owns: a chunk that is mostly dead is not built upon, so its
//! last blocks move to a new one, and it goes when no kept snapshot needs it. So about half of what
//! a snapshot keeps is dead at most, and a store has few small chunks.

use crate::block::Block;
use crate::catalog;
use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::SnapshotError;
use crate::manifest::Manifest;
use crate::store::Retrying;
use std::collections::{HashMap, HashSet};

/// Manifests that are read, up to the first one of this node: leaders that take turns have
/// different images.
const MANIFESTS: usize = 3;

/// Blocks with their places.
#[derive(Debug, Default)]
pub(crate) struct Known {
    chunks: Vec<ChunkId>,
    blocks: HashMap<ChunkId, (u32, u8)>,
}

impl Known {
    /// Reads what the newest snapshots have, for one of this node. `present`: the chunks in the
    /// store.
    ///
    /// # Errors
    /// The store's error. A manifest that cannot be used is passed over.
    pub(crate) async fn read(
        store: &Retrying,
        node: u64,
        block_bytes: usize,
        present: &HashSet<ChunkId>,
    ) -> Result<Self, SnapshotError> {
        let mut known = Self::default();
        for id in catalog::ids(store).await?.iter().take(MANIFESTS) {
            match catalog::read(store, id).await {
                Ok(manifest) => {
                    if manifest.block_bytes == block_bytes {
                        known.add(&manifest, present);
                    }
                    if manifest.facts.node == node {
                        break;
                    }
                }
                Err(error @ SnapshotError::Store { .. }) => return Err(error),
                Err(error) => tracing::debug!(%error, "a save does not build on this snapshot"),
            }
        }
        Ok(known)
    }

    fn add(&mut self, manifest: &Manifest, present: &HashSet<ChunkId>) {
        let mut places: Vec<_> = manifest.blocks.iter().map(|b| (b.chunk, b.slot)).collect();
        places.sort_unstable();
        places.dedup();
        let mut live = vec![0; manifest.chunks.len()];
        places.iter().for_each(|(chunk, _)| live[*chunk as usize] += 1);
        // The newest snapshot with a chunk has shown how much of it is alive.
        let judged: HashSet<_> = self.chunks.iter().copied().collect();
        let is_good = |index: usize| {
            let chunk = &manifest.chunks[index];
            live[index] * manifest.block_bytes * 2 >= CHUNK_BYTES
                && present.contains(chunk)
                && !judged.contains(chunk)
        };
        let is_good: Vec<_> = (0..live.len()).map(is_good).collect();
        let base = self.chunks.len() as u32;
        self.chunks.extend_from_slice(&manifest.chunks);
        for Block { digest, chunk, slot } in &manifest.blocks {
            if is_good[*chunk as usize] {
                self.blocks.entry(*digest).or_insert((base + chunk, *slot));
            }
        }
    }

    /// One chunk with these blocks.
    #[cfg(test)]
    pub(crate) fn of(blocks: &[Vec<u8>]) -> Self {
        let named = (0..).zip(blocks).map(|(slot, content)| (ChunkId::of(content), (0, slot)));
        let chunks = vec![ChunkId::of(&blocks.concat())];
        Self { chunks, blocks: named.collect() }
    }

    /// Returns the chunk and the slot that hold a block.
    pub(crate) fn find(&self, block: &ChunkId) -> Option<(ChunkId, u8)> {
        let (chunk, slot) = *self.blocks.get(block)?;
        Some((self.chunks[chunk as usize], slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FORMAT, Facts, content_digest};

    const BLOCK_BYTES: usize = 64 << 10;

    /// A manifest whose chunk `i` holds this many blocks.
    fn manifest(of: &[u8]) -> Manifest {
        let blocks: Vec<_> = (0..)
            .zip(of)
            .flat_map(|(chunk, count)| (0..*count).map(move |slot| (chunk, slot)))
            .map(|(chunk, slot)| Block { digest: ChunkId::of(&[chunk as u8, slot]), chunk, slot })
            .collect();
        Manifest {
            format: FORMAT,
            created_ms: 0,
            page_size: 4096,
            page_count: blocks.len() as u64 * 16,
            facts: Facts::default(),
            tables: Default::default(),
            digest: content_digest(blocks.iter().map(|block| &block.digest)),
            chunks: (0..of.len()).map(|i| ChunkId::of(&[i as u8])).collect(),
            block_bytes: BLOCK_BYTES,
            blocks,
        }
    }

    #[test]
    fn a_chunk_that_is_mostly_dead_or_not_there_is_not_used() {
        let manifest = manifest(&[16, 8, 7, 16]);
        let present = manifest.chunks[..3].iter().copied().collect();
        let mut known = Known::default();
        known.add(&manifest, &present);
        let find = |chunk: u8, slot: u8| known.find(&ChunkId::of(&[chunk, slot]));
        assert_eq!(find(0, 15), Some((manifest.chunks[0], 15)));
        assert_eq!(find(1, 0), Some((manifest.chunks[1], 0)));
        assert_eq!((find(2, 0), find(3, 0)), (None, None));
    }

    /// Two leaders by turns: each finds its own.
    #[test]
    fn older_snapshots_have_what_newer_ones_do_not_name() {
        let (mut newest, older) = (manifest(&[7, 9]), manifest(&[16, 9, 16]));
        newest.chunks[1] = ChunkId::of(b"of another node");
        let present = newest.chunks.iter().chain(&older.chunks).copied().collect();
        let mut known = Known::default();
        known.add(&newest, &present);
        known.add(&older, &present);
        let find = |chunk: u8, slot: u8| known.find(&ChunkId::of(&[chunk, slot]));
        assert_eq!(find(0, 15), None, "half dead since");
        assert_eq!(find(1, 0), Some((newest.chunks[1], 0)), "the newest is preferred");
        assert_eq!(find(2, 15), Some((older.chunks[2], 15)));
    }

    #[test]
    fn the_same_slot_twice_is_one_live_block() {
        let mut manifest = manifest(&[8]);
        manifest.blocks[7] = manifest.blocks[0];
        let present = manifest.chunks.iter().copied().collect();
        let mut known = Known::default();
        known.add(&manifest, &present);
        assert_eq!(known.find(&manifest.blocks[0].digest), None);
    }
}
