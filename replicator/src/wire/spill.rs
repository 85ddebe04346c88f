//! Bytes that stay in memory up to a bound and lie in a temporary file beyond it.
//!
//! Arrives: chunks. Leaves: something that can be read from the start as often as wanted. Owns:
//! memory stays bounded however large a batch is. The file has no name and is gone with the
//! process.

use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Finished bytes.
#[derive(Debug)]
pub enum Spill {
    /// In memory.
    Memory(Bytes),
    /// In a file without a name, so many bytes long.
    File(File, u64),
}

impl Spill {
    /// Bytes that are there already.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Memory(bytes.into())
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader from the start. Only one at a time for a file.
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

    /// A piece of it.
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

    /// All of it, in memory.
    ///
    /// # Errors
    /// The file system's error.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader()?.read_to_end(&mut all)?;
        Ok(all)
    }
}

/// Bytes that are still coming.
#[derive(Debug)]
pub struct SpillWriter {
    memory: BytesMut,
    file: Option<File>,
    len: u64,
    memory_max: u64,
    dir: PathBuf,
}

impl SpillWriter {
    /// Nothing yet. Beyond `memory_max` bytes a file in `dir` is used.
    pub fn new(memory_max: u64, dir: &Path) -> Self {
        Self { memory: BytesMut::new(), file: None, len: 0, memory_max, dir: dir.to_owned() }
    }

    /// Appends.
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

    /// How many bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing so far.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// No more will come.
    pub fn finish(&mut self) -> Spill {
        let len = std::mem::take(&mut self.len);
        match self.file.take() {
            Some(file) => Spill::File(file, len),
            None => Spill::Memory(self.memory.split().freeze()),
        }
    }
}
