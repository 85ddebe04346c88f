//! Decompresses a batch, within the limits.
//!
//! Arrives: the compressed bytes of a whole batch, which are hostile until proven otherwise.
//! Leaves: a bounded reader of the decompressed bytes, or all of them if they are not many. Pure,
//! so a crash loses nothing.

use crate::model::limits::Limits;
use crate::wire::decode::{DecodeError, Result};
use std::io::{self, BufReader, Read};
use zstd::bulk::Decompressor;
use zstd::stream::read::Decoder as Zstd;
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

/// Window sizes beyond 8 MiB are refused: our own encoder uses less, and 2 GiB would be an attack.
const WINDOW_LOG_MAX: u32 = 23;
/// The size of the buffers.
const PIECE_BYTES: usize = 64 << 10;
/// A buffer of more bytes is not kept for the next batch.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// A reader that fails after a number of bytes.
pub struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("decompressed size exceeds the limit"))?;
        Ok(read)
    }
}

/// A reader that decompresses its source.
pub type Unpacked<R> = BufReader<Bounded<Zstd<'static, BufReader<R>>>>;

/// Returns a reader that decompresses `source`, within the limits.
///
/// # Errors
/// If the compressor cannot get its memory.
pub fn unpacking<R: Read>(source: R, limits: &Limits) -> Result<Unpacked<R>> {
    let mut zstd =
        Zstd::with_buffer(BufReader::with_capacity(PIECE_BYTES, source)).map_err(damaged)?;
    zstd.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    Ok(BufReader::with_capacity(
        PIECE_BYTES,
        Bounded { inner: zstd, left: limits.batch_atomic_bytes_max },
    ))
}

fn damaged(error: io::Error) -> DecodeError {
    DecodeError::Damaged { what: "the compressed batch", reason: error.to_string() }
}

/// Returns the window that a frame asks for (RFC 8878, section 3.1.1.1); None if it is too short.
fn window_bytes(packed: &[u8]) -> Option<u64> {
    let [descriptor, window] = *packed.get(4..6)?.first_chunk()?;
    if descriptor & 0x20 != 0 {
        // A single segment: as much as its content.
        return Some(0);
    }
    let base = 1 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

/// Decompresses batches in one step, one after another, with one context.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
    plain: Vec<u8>,
}

impl Unpacker {
    /// Decompresses a whole batch in one step; None if it is damaged, or has more than `most`
    /// bytes. [`unpacking`] then reads it in pieces, or tells why not. The caller returns the
    /// buffer with [`Unpacker::put_back`].
    pub fn unpack(&mut self, packed: &[u8], most: usize) -> Option<Vec<u8>> {
        // In one step a window costs nothing, but whether there is room for that must not decide
        // which frames are refused.
        let is_alone = find_frame_compressed_size(packed).ok()? == packed.len();
        if !is_alone || window_bytes(packed)? > 1 << WINDOW_LOG_MAX {
            return None;
        }
        let announced = get_frame_content_size(packed).ok()?;
        let bytes = match announced.map(usize::try_from) {
            Some(Ok(bytes)) if bytes <= most => bytes,
            None if packed.len() <= most => most,
            _ => return None,
        };
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Decompressor::new().ok()?),
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        plain.reserve(bytes);
        match zstd.decompress_to_buffer(packed, &mut plain) {
            Ok(_) if plain.len() <= most => Some(plain),
            _ => {
                self.plain = plain;
                None
            }
        }
    }

    /// Takes a buffer back, to reuse its memory. That of a large one is not kept.
    pub fn put_back(&mut self, plain: Vec<u8>) {
        if plain.capacity() <= KEPT_BYTES_MAX {
            self.plain = plain;
        }
    }
}
