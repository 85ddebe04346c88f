//! Decompresses a batch, within the limits.
//!
//! Arrives: the compressed bytes of a whole batch, which are hostile until proven otherwise.
//! Leaves: a bounded reader of the decompressed bytes, or all of them if they are few. Pure, so a
//! crash loses nothing.

use crate::model::limits::Limits;
use crate::wire::decode::{DecodeError, Result};
use std::io::{self, BufReader, Read};
use zstd::bulk::Decompressor;
use zstd::stream::read::Decoder as Zstd;
use zstd::zstd_safe::get_frame_content_size;

/// Window sizes beyond 8 MiB are refused: our own encoder uses less, and 2 GiB would be an attack.
const WINDOW_LOG_MAX: u32 = 23;
/// The size of the buffers.
const PIECE_BYTES: usize = 64 << 10;

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

/// A batch whose frame announces at most this size is decompressed in one step.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Returns whether the frame of a batch announces a small size.
pub fn is_small(packed: &[u8], limits: &Limits) -> bool {
    let most = SMALL_BYTES_MAX.min(limits.batch_atomic_bytes_max);
    matches!(get_frame_content_size(packed), Ok(Some(bytes)) if bytes <= most)
}

/// Decompresses small batches, one after another, with one context and into one buffer.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
    plain: Vec<u8>,
}

impl Unpacker {
    /// Decompresses a whole batch; None if its frame does not announce a small size. The caller
    /// returns the buffer with [`Unpacker::put_back`].
    ///
    /// # Errors
    /// The batch is damaged, or larger than announced.
    pub fn unpack(&mut self, packed: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>> {
        let Ok(Some(bytes)) = get_frame_content_size(packed) else { return Ok(None) };
        if !is_small(packed, limits) {
            return Ok(None);
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Decompressor::new().map_err(damaged)?),
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        plain.reserve(usize::try_from(bytes).unwrap_or(0));
        zstd.decompress_to_buffer(packed, &mut plain).map_err(damaged)?;
        Ok(Some(plain))
    }

    /// Takes a buffer back, to reuse its memory.
    pub fn put_back(&mut self, plain: Vec<u8>) {
        self.plain = plain;
    }
}
