//! From the pieces of an image to blocks in chunks.
//!
//! Arrives: a piece, and what the store has. Leaves: the place of each of its blocks, and chunks to
//! send. Owns: which blocks share a chunk. A piece that is new for the most part becomes a chunk of
//! its own, so an interrupted save finds what it had sent. The new blocks of other pieces are
//! gathered to chunks. Pure.

use crate::block::Block;
use crate::chunk::{self, CHUNK_BYTES, ChunkId};
use crate::reuse::Known;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// The chunks in the store, and those on their way to it.
pub(crate) type Present = Mutex<HashSet<ChunkId>>;

/// A chunk, with its stored form if the store does not have it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) id: ChunkId,
    pub(crate) stored: Option<Bytes>,
}

/// Names the content of a chunk, and compresses it if the store does not have it.
///
/// # Errors
/// zstd's error: no memory.
pub(crate) fn pack_if_new(content: &[u8], present: &Present) -> std::io::Result<Packed> {
    let id = ChunkId::of(content);
    let is_new = present.lock().insert(id);
    let stored = if is_new { Some(chunk::pack(content)?) } else { None };
    Ok(Packed { id, stored })
}

/// A piece in blocks.
#[derive(Debug)]
pub(crate) struct Cut {
    blocks: Vec<(ChunkId, Held)>,
    /// The chunk that is this piece.
    pub(crate) packed: Option<Packed>,
}

/// Where a block is.
#[derive(Debug)]
enum Held {
    /// In this slot of this chunk.
    In(ChunkId, u8),
    /// In none yet; its content.
    None(Vec<u8>),
}

/// Cuts a piece.
///
/// # Errors
/// zstd's error: no memory.
pub(crate) fn cut(
    piece: &[u8],
    block_bytes: usize,
    known: &Known,
    present: &Present,
) -> std::io::Result<Cut> {
    let named = piece.chunks(block_bytes).map(|content| (ChunkId::of(content), content));
    let found: Vec<_> = named.map(|(id, content)| (id, content, known.find(&id))).collect();
    let new = found.iter().filter(|(_, _, place)| place.is_none()).count();
    if new * 2 >= found.len() {
        let packed = pack_if_new(piece, present)?;
        let held = |(slot, (id, ..)): (u8, &(ChunkId, _, _))| (*id, Held::In(packed.id, slot));
        let blocks = (0..=u8::MAX).zip(&found).map(held).collect();
        return Ok(Cut { blocks, packed: Some(packed) });
    }
    let held = |(id, content, place): (ChunkId, &[u8], Option<(ChunkId, u8)>)| match place {
        Some((chunk, slot)) => (id, Held::In(chunk, slot)),
        None => (id, Held::None(content.to_vec())),
    };
    Ok(Cut { blocks: found.into_iter().map(held).collect(), packed: None })
}

/// Blocks of several pieces that are a chunk together.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The content of the chunk.
    pub(crate) content: Vec<u8>,
    /// Which blocks of the image are in its slots.
    blocks: Vec<usize>,
}

/// The places of the blocks of an image, as far as it is cut.
#[derive(Debug)]
pub(crate) struct Layout {
    block_bytes: usize,
    chunks: Vec<ChunkId>,
    numbers: HashMap<ChunkId, u32>,
    blocks: Vec<Block>,
    gathered: Gathered,
}

impl Layout {
    pub(crate) fn new(block_bytes: usize) -> Self {
        let (chunks, numbers, blocks, gathered) = Default::default();
        Self { block_bytes, chunks, numbers, blocks, gathered }
    }

    /// Takes the next piece. Returns the chunks that are full.
    pub(crate) fn take(&mut self, cut: Cut) -> Vec<Gathered> {
        let mut full = Vec::new();
        for (digest, held) in cut.blocks {
            let index = self.blocks.len();
            let (chunk, slot) = match held {
                Held::In(chunk, slot) => (self.number(chunk), slot),
                Held::None(content) => {
                    // Until the chunk has a name.
                    let slot = self.gathered.blocks.len() as u8;
                    self.gathered.content.extend_from_slice(&content);
                    self.gathered.blocks.push(index);
                    (u32::MAX, slot)
                }
            };
            self.blocks.push(Block { digest, chunk, slot });
            if self.gathered.content.len() + self.block_bytes > CHUNK_BYTES {
                full.extend(self.rest());
            }
        }
        full
    }

    /// Returns what is gathered.
    pub(crate) fn rest(&mut self) -> Option<Gathered> {
        let gathered = std::mem::take(&mut self.gathered);
        (!gathered.blocks.is_empty()).then_some(gathered)
    }

    /// Takes the name of a gathered chunk.
    pub(crate) fn settle(&mut self, gathered: &Gathered, chunk: ChunkId) {
        let number = self.number(chunk);
        gathered.blocks.iter().for_each(|index| self.blocks[*index].chunk = number);
    }

    /// Returns the chunks and the blocks of the image, all of which are settled.
    pub(crate) fn end(self) -> (Vec<ChunkId>, Vec<Block>) {
        (self.chunks, self.blocks)
    }

    fn number(&mut self, chunk: ChunkId) -> u32 {
        let next = self.chunks.len() as u32;
        *self.numbers.entry(chunk).or_insert_with(|| {
            self.chunks.push(chunk);
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_BYTES: usize = 64 << 10;

    fn piece(of: &[u8]) -> Vec<u8> {
        of.iter().flat_map(|byte| vec![*byte; BLOCK_BYTES]).collect()
    }

    /// A layout that has taken these pieces, and the chunks that were sent, gathered ones last.
    fn laid_out(pieces: &[Vec<u8>], known: &Known) -> (Layout, Vec<ChunkId>) {
        let present = Present::default();
        let (mut layout, mut sent) = (Layout::new(BLOCK_BYTES), Vec::new());
        let mut gathered = Vec::new();
        for piece in pieces {
            let cut = cut(piece, BLOCK_BYTES, known, &present).unwrap();
            sent.extend(cut.packed.iter().filter(|p| p.stored.is_some()).map(|p| p.id));
            gathered.extend(layout.take(cut));
        }
        gathered.extend(layout.rest());
        for chunk in gathered {
            let packed = pack_if_new(&chunk.content, &present).unwrap();
            sent.push(packed.id);
            layout.settle(&chunk, packed.id);
        }
        (layout, sent)
    }

    #[test]
    fn a_new_piece_is_a_chunk_and_the_same_one_is_sent_once() {
        let first = piece(&[1; 16]);
        let last = piece(&[2, 3]);
        let (layout, sent) = laid_out(&[first.clone(), first.clone(), last], &Known::default());
        assert_eq!(sent, [ChunkId::of(&first), ChunkId::of(&piece(&[2, 3]))]);
        let (chunks, blocks) = layout.end();
        assert_eq!((chunks, blocks.len()), (sent, 34));
        assert_eq!((blocks[31].chunk, blocks[31].slot), (0, 15));
        assert_eq!((blocks[33].chunk, blocks[33].slot), (1, 1));
    }

    /// 17 changed blocks in three pieces, the last of which is short.
    #[test]
    fn few_new_blocks_of_several_pieces_share_chunks() {
        let old: Vec<u8> = (100..116).collect();
        let known = Known::of(&old.iter().map(|b| piece(&[*b])).collect::<Vec<_>>());
        let changed = |new: std::ops::Range<u8>| {
            let kept = usize::from(16 - (new.end - new.start));
            piece(&[&new.collect::<Vec<_>>()[..], &old[..kept]].concat())
        };
        let mut pieces = vec![changed(0..7), changed(7..14), changed(14..17)];
        let short = pieces[2].len() - BLOCK_BYTES / 2;
        pieces[2].truncate(short);
        let (layout, sent) = laid_out(&pieces, &known);
        let tail = &pieces[2][15 * BLOCK_BYTES..];
        let second = [&piece(&[16])[..], tail].concat();
        assert_eq!(sent, [ChunkId::of(&piece(&(0..16).collect::<Vec<_>>())), ChunkId::of(&second)]);
        let (chunks, blocks) = layout.end();
        let place = |index: usize| (chunks[blocks[index].chunk as usize], blocks[index].slot);
        assert_eq!(place(0), (sent[0], 0));
        assert_eq!((place(33), place(34)), ((sent[0], 15), (sent[1], 0)));
        assert_eq!(place(47), (sent[1], 1), "the last block is short");
        assert_eq!(Some(place(7)), known.find(&ChunkId::of(&piece(&[100]))));
    }
}
