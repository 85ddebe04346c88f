//! Cuts a batch into messages, and reassembles it.
//!
//! Arrives: a finished batch, or the messages of one origin in their order. Leaves: message headers
//! and pieces, or whole batches. Owns: a reassembled batch has the announced digest. Memory only:
//! after a crash the parts are read again.

use crate::model::batch::{BatchHeader, LogMark, PartHeaders};
use crate::model::ids::StreamSeq;
use crate::model::limits::Limits;
use crate::wire::encode::Encoded;
use crate::wire::spill::{Spill, SpillWriter};
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Returns the number of messages for a batch of this size.
pub fn part_count(total_bytes: u64, part_bytes_max: usize) -> u32 {
    u32::try_from(total_bytes.div_ceil(part_bytes_max.max(1) as u64)).unwrap_or(u32::MAX).max(1)
}

/// Returns the headers of part `part` (from 1).
pub fn part_headers(
    header: &BatchHeader,
    encoded: &Encoded,
    part: u32,
    part_bytes_max: usize,
    log: Option<LogMark>,
) -> PartHeaders {
    PartHeaders {
        site: header.site,
        batch: header.number,
        part,
        parts: part_count(encoded.body.len(), part_bytes_max),
        total_bytes: encoded.body.len(),
        digest: encoded.digest,
        log,
    }
}

/// Returns the bytes of part `part` (from 1).
///
/// # Errors
/// The file system's error, for a spilled batch.
pub fn part_payload(
    body: &Spill,
    part: u32,
    part_bytes_max: usize,
) -> std::io::Result<bytes::Bytes> {
    let from = u64::from(part - 1) * part_bytes_max as u64;
    let len =
        usize::try_from((body.len() - from).min(part_bytes_max as u64)).unwrap_or(part_bytes_max);
    body.slice(from, len)
}

/// The reason why parts do not make a batch.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The headers of a part contradict each other or the limits.
    #[error("part {part} of {parts} of {total_bytes} bytes: {reason}")]
    Headers {
        /// The number of the part.
        part: u32,
        /// The number of parts.
        parts: u32,
        /// The announced length of the whole.
        total_bytes: u64,
        /// The contradiction.
        reason: &'static str,
    },
    /// The bytes do not have the announced digest.
    #[error("the batch does not have the announced digest: the bytes were changed on their way")]
    Digest,
    /// An error of the temporary file. A full disk is temporary; the other errors are permanent.
    #[error("cannot keep the part: {0}")]
    Io(#[from] std::io::Error),
}

/// The result of taking a part.
#[derive(Debug)]
pub enum PartOutcome {
    /// Further parts are missing.
    Incomplete,
    /// The batch is complete.
    Complete {
        /// Its bytes.
        body: Spill,
        /// The position of its first part.
        first: StreamSeq,
    },
    /// The part does not continue the unfinished batch.
    Orphan,
}

struct OpenBatch {
    headers: PartHeaders,
    first: StreamSeq,
    digest: Sha256,
}

/// Reassembles the batches of one origin.
pub struct Assembler {
    out: SpillWriter,
    open: Option<OpenBatch>,
    total_bytes_max: u64,
}

impl Assembler {
    /// Creates an assembler without any part.
    pub fn new(limits: &Limits, spill_dir: &Path) -> Self {
        // Many origins may be in the middle of a batch at once, so each one gets only half of a
        // batch's memory.
        Self {
            out: SpillWriter::new(limits.batch_memory_bytes_max / 2, spill_dir),
            open: None,
            total_bytes_max: limits.batch_atomic_bytes_max,
        }
    }

    /// Takes the next part. Part 1 drops an unfinished batch: its publisher crashed and starts
    /// over.
    ///
    /// # Errors
    /// [`PartError`]; it drops the unfinished batch.
    pub fn feed(
        &mut self,
        seq: StreamSeq,
        headers: &PartHeaders,
        payload: &[u8],
    ) -> Result<PartOutcome, PartError> {
        if headers.part == 0
            || headers.part > headers.parts
            || headers.total_bytes > self.total_bytes_max
        {
            self.open = None;
            drop(self.out.finish());
            return Err(wrong(headers, "out of bounds"));
        }
        if headers.part == 1 {
            drop(self.out.finish());
            self.open =
                Some(OpenBatch { headers: headers.clone(), first: seq, digest: Sha256::new() });
        } else {
            let continues = self.open.as_ref().is_some_and(|o| {
                let next = PartHeaders { part: headers.part, ..o.headers.clone() };
                o.headers.part + 1 == headers.part && next == *headers
            });
            if !continues {
                return Ok(PartOutcome::Orphan);
            }
        }
        let result = self.append(headers, payload);
        if !matches!(result, Ok(PartOutcome::Incomplete)) {
            self.open = None;
            drop(self.out.finish());
        }
        result
    }

    fn append(&mut self, headers: &PartHeaders, payload: &[u8]) -> Result<PartOutcome, PartError> {
        let Some(open) = &mut self.open else { return Ok(PartOutcome::Orphan) };
        open.headers.part = headers.part;
        open.digest.update(payload);
        self.out.write(payload)?;
        if self.out.len() > headers.total_bytes {
            return Err(wrong(headers, "more bytes than announced"));
        }
        if headers.part < headers.parts {
            return Ok(PartOutcome::Incomplete);
        }
        if self.out.len() != headers.total_bytes {
            return Err(wrong(headers, "fewer bytes than announced"));
        }
        let first = open.first;
        if <[u8; 32]>::from(std::mem::take(&mut open.digest).finalize()) != headers.digest {
            return Err(PartError::Digest);
        }
        Ok(PartOutcome::Complete { body: self.out.finish(), first })
    }
}

fn wrong(headers: &PartHeaders, reason: &'static str) -> PartError {
    PartError::Headers {
        part: headers.part,
        parts: headers.parts,
        total_bytes: headers.total_bytes,
        reason,
    }
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
