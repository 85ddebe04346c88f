//! Writes a batch: CBOR, compressed, digested, in one pass.
//!
//! Arrives: headers and rows, with counts announced beforehand. Leaves: the bytes of the batch
//! (FORMAT.md), in memory or spilled. Owns: the counts are the announced ones (asserted). Uses no
//! system time and no randomness. A crash loses only memory.

use crate::model::batch::{BatchHeader, Digest, Op, TableHeader};
use crate::model::limits::Limits;
use crate::wire::spill::{Spill, SpillWriter};
use ciborium_ll::{Encoder as Cbor, Header};
use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::PathBuf;
use zstd::stream::raw::{Encoder as Zstd, InBuffer, Operation, OutBuffer};

/// The format number of a batch without changes of the schema.
pub const FORMAT: u64 = 1;
/// The format number of a batch with changes of the schema, which a node that cannot make them must
/// not apply.
pub const FORMAT_WITH_CHANGES: u64 = 2;
/// The CBOR tag of text that is not valid UTF-8, sent as a byte string.
pub const TAG_RAW_TEXT: u64 = 64_000;
/// The compressor gets the CBOR in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// The reason why a batch could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The batch is too large: the caller takes fewer log entries.
    #[error("the batch exceeds {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// An error of the temporary file or of the compressor. A full disk is temporary.
    #[error("cannot store the batch: {0}")]
    Io(#[from] io::Error),
}

/// A finished batch.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes, compressed.
    pub body: Spill,
    /// The SHA-256 digest of these bytes.
    pub digest: Digest,
    /// The number of bytes before compression.
    pub raw_bytes: u64,
}

/// Writes batches, one after another, with one compression context.
pub struct Encoder {
    zstd: Zstd<'static>,
    plain: Vec<u8>,
    piece: Vec<u8>,
    out: SpillWriter,
    digest: Sha256,
    raw_bytes: u64,
    raw_bytes_max: u64,
    tables_due: u64,
    rows_due: u64,
    values_due: usize,
}

impl Encoder {
    /// Creates an encoder with these limits, which spills to `dir`.
    ///
    /// # Errors
    /// If the compressor cannot get its memory.
    pub fn new(limits: &Limits, dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            // Level 1, because a better ratio saves little on the network and on the broker's disk.
            zstd: Zstd::new(1)?,
            plain: Vec::with_capacity(PIECE_BYTES + 4096),
            piece: vec![0; 32 << 10],
            out: SpillWriter::new(limits.batch_memory_bytes_max, &dir),
            digest: Sha256::new(),
            raw_bytes: 0,
            raw_bytes_max: limits.batch_atomic_bytes_max,
            tables_due: 0,
            rows_due: 0,
            values_due: 0,
        })
    }

    /// Starts a batch with this number of tables. Drops an unfinished batch.
    ///
    /// # Errors
    /// The errors of [`Encoder::finish`].
    pub fn begin(&mut self, header: &BatchHeader, tables: u64) -> Result<(), EncodeError> {
        self.zstd.reinit()?;
        self.plain.clear();
        drop(self.out.finish());
        self.digest = Sha256::new();
        (self.raw_bytes, self.tables_due, self.rows_due, self.values_due) = (0, tables, 0, 0);
        let changes = &header.schema_changes;
        self.push(Header::Array(Some(if changes.is_empty() { 9 } else { 10 })))?;
        self.unsigned(if changes.is_empty() { FORMAT } else { FORMAT_WITH_CHANGES })?;
        self.unsigned(header.node.0)?;
        self.integer(header.site.0)?;
        self.unsigned(header.number.0)?;
        self.unsigned(header.previous.0)?;
        self.bytes(&header.schema_hash)?;
        self.integer(header.created_ms)?;
        self.push(Header::Array(Some(header.further_sites.len())))?;
        for site in &header.further_sites {
            self.integer(site.0)?;
        }
        if !changes.is_empty() {
            self.push(Header::Array(Some(changes.len())))?;
            changes.iter().try_for_each(|change| self.bytes(change))?;
        }
        self.push(Header::Array(Some(usize::try_from(tables).unwrap_or(usize::MAX))))
    }

    /// Starts a table.
    ///
    /// # Errors
    /// The errors of [`Encoder::finish`].
    pub fn table(&mut self, header: &TableHeader) -> Result<(), EncodeError> {
        assert!(
            self.tables_due > 0 && self.rows_due == 0 && self.values_due == 0,
            "a table beyond the announced count"
        );
        (self.tables_due, self.rows_due) = (self.tables_due - 1, header.rows);
        self.push(Header::Array(Some(5)))?;
        self.text(&header.name)?;
        self.bytes(&header.hash)?;
        self.push(Header::Array(Some(header.columns.len())))?;
        for column in &header.columns {
            self.text(column)?;
        }
        self.push(Header::Array(Some(header.key.len())))?;
        for index in &header.key {
            self.unsigned(*index as u64)?;
        }
        self.push(Header::Array(Some(usize::try_from(header.rows).unwrap_or(usize::MAX))))
    }

    /// Starts a row with this number of values. `version` and `previous` are (hlc, site index).
    ///
    /// # Errors
    /// The errors of [`Encoder::finish`].
    pub fn row(
        &mut self,
        version: (i64, u64),
        previous: (i64, u64),
        op: Op,
        values: usize,
    ) -> Result<(), EncodeError> {
        assert!(self.rows_due > 0 && self.values_due == 0, "a row beyond the announced count");
        (self.rows_due, self.values_due) = (self.rows_due - 1, values);
        self.push(Header::Array(Some(5 + values)))?;
        self.integer(version.0)?;
        self.unsigned(version.1)?;
        self.integer(previous.0)?;
        self.unsigned(previous.1)?;
        self.unsigned(u64::from(op == Op::Delete))
    }

    /// Writes a value of the row.
    ///
    /// # Errors
    /// The errors of [`Encoder::finish`].
    pub fn value(&mut self, value: ValueRef<'_>) -> Result<(), EncodeError> {
        assert!(self.values_due > 0, "a value beyond the announced count");
        self.values_due -= 1;
        match value {
            ValueRef::Null => self.push(Header::Simple(22)),
            ValueRef::Integer(i) => self.integer(i),
            ValueRef::Real(r) => self.push(Header::Float(r)),
            ValueRef::Text(t) => match std::str::from_utf8(t) {
                Ok(text) => self.text(text),
                Err(_) => {
                    self.push(Header::Tag(TAG_RAW_TEXT))?;
                    self.bytes(t)
                }
            },
            ValueRef::Blob(b) => self.bytes(b),
        }
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`], [`EncodeError::Io`]; the caller then starts the batch again.
    pub fn finish(&mut self) -> Result<Encoded, EncodeError> {
        assert!(
            self.tables_due == 0 && self.rows_due == 0 && self.values_due == 0,
            "fewer than the announced count"
        );
        if self.raw_bytes == 0 {
            // The whole batch is in memory. With its size the compressor chooses fitting tables and
            // writes the size into the frame, so the batch can be decompressed in one step.
            self.zstd.set_pledged_src_size(Some(self.plain.len() as u64))?;
        }
        self.compress()?;
        loop {
            let mut out = OutBuffer::around(&mut self.piece[..]);
            let left = self.zstd.finish(&mut out, true)?;
            let written = out.pos();
            self.store(written)?;
            if left == 0 {
                break;
            }
        }
        let digest = std::mem::take(&mut self.digest).finalize().into();
        Ok(Encoded { body: self.out.finish(), digest, raw_bytes: self.raw_bytes })
    }

    fn push(&mut self, header: Header) -> Result<(), EncodeError> {
        Cbor::from(&mut self.plain).push(header)?;
        if self.plain.len() >= PIECE_BYTES { self.compress() } else { Ok(()) }
    }

    fn unsigned(&mut self, value: u64) -> Result<(), EncodeError> {
        self.push(Header::Positive(value))
    }

    fn integer(&mut self, value: i64) -> Result<(), EncodeError> {
        // CBOR's negative n stands for -1 - n: all bits inverted.
        self.push(if value < 0 {
            Header::Negative((!value).cast_unsigned())
        } else {
            Header::Positive(value.cast_unsigned())
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.push(Header::Bytes(Some(bytes.len())))?;
        self.append(bytes)
    }

    fn text(&mut self, text: &str) -> Result<(), EncodeError> {
        self.push(Header::Text(Some(text.len())))?;
        self.append(text.as_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.plain.extend_from_slice(piece);
            if self.plain.len() >= PIECE_BYTES {
                self.compress()?;
            }
        }
        Ok(())
    }

    fn compress(&mut self) -> Result<(), EncodeError> {
        self.raw_bytes += self.plain.len() as u64;
        if self.raw_bytes > self.raw_bytes_max {
            return Err(EncodeError::TooLarge { limit: self.raw_bytes_max });
        }
        let plain = std::mem::take(&mut self.plain);
        let mut input = InBuffer::around(&plain);
        while input.pos() < plain.len() {
            let mut out = OutBuffer::around(&mut self.piece[..]);
            self.zstd.run(&mut input, &mut out)?;
            let written = out.pos();
            self.store(written)?;
        }
        self.plain = plain;
        self.plain.clear();
        Ok(())
    }

    fn store(&mut self, written: usize) -> Result<(), EncodeError> {
        self.digest.update(&self.piece[..written]);
        self.out.write(&self.piece[..written])?;
        Ok(())
    }
}
