//! Keeps bytes in memory up to a bound, and in a temporary file beyond it.
//!
//! Arrives: chunks. Leaves: bytes that can be read from the start any number of times. Owns: memory
//! stays bounded for a batch of any size. The file has no name and disappears with the process.

use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Finished bytes.
#[derive(Debug)]
pub enum Spill {
    /// In memory.
    Memory(Bytes),
    /// In a file without a name; with its length in bytes.
    File(File, u64),
}

impl Spill {
    /// Wraps bytes in memory.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Memory(bytes.into())
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a reader from the start. A file supports one reader at a time.
    ///
    /// # Errors
    /// The file system's error.
    pub fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Memory(bytes) => Ok(Box::new(&bytes[..])),
            Self::File(file, _) => {
                let mut file = file;
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(file))
            }
        }
    }

    /// Reads a piece of the bytes.
    ///
    /// # Errors
    /// The file system's error, or that the piece ends beyond the end.
    pub fn slice(&self, from: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let from = usize::try_from(from).map_err(io::Error::other)?;
                if from + len > bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(bytes.slice(from..from + len))
            }
            Self::File(file, _) => {
                let mut file = file;
                file.seek(SeekFrom::Start(from))?;
                let mut piece = vec![0; len];
                file.read_exact(&mut piece)?;
                Ok(piece.into())
            }
        }
    }

    /// Reads all bytes into memory.
    ///
    /// # Errors
    /// The file system's error.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader()?.read_to_end(&mut all)?;
        Ok(all)
    }
}

/// The memory of more bytes than this is not used again, so that it is free once they are.
const KEPT_BYTES_MAX: u64 = 256 << 10;

/// Collects bytes for a [`Spill`].
#[derive(Debug)]
pub struct SpillWriter {
    memory: BytesMut,
    file: Option<File>,
    len: u64,
    memory_max: u64,
    dir: PathBuf,
}

impl SpillWriter {
    /// Creates an empty writer. Beyond `memory_max` bytes it uses a file in `dir`.
    pub fn new(memory_max: u64, dir: &Path) -> Self {
        Self { memory: BytesMut::new(), file: None, len: 0, memory_max, dir: dir.to_owned() }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The file system's error, for instance a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        if self.file.is_none() && self.len > self.memory_max {
            let mut file = tempfile::tempfile_in(&self.dir)?;
            file.write_all(&self.memory)?;
            self.memory = BytesMut::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => {
                self.memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Returns the number of bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no bytes so far.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes and starts again with none.
    pub fn finish(&mut self) -> Spill {
        let len = std::mem::take(&mut self.len);
        match self.file.take() {
            Some(file) => Spill::File(file, len),
            None if len > KEPT_BYTES_MAX => {
                Spill::Memory(std::mem::take(&mut self.memory).freeze())
            }
            None => Spill::Memory(self.memory.split().freeze()),
        }
    }
}
