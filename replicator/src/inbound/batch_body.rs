//! The bytes of a batch that waits, and what a look at them has shown.
//!
//! Arrives: the bytes of a whole batch. Leaves: the same, with the outline of a large one. Owns: a
//! large batch is read through before the write lock is taken, because that takes a fifth of the
//! time of applying it. Memory only.

use crate::model::limits::Limits;
use crate::wire::decode::{DecodeError, Outline, outline};
use crate::wire::spill::Spill;
use crate::wire::unpack::{is_small, unpacking};
use std::cell::OnceCell;
use std::io;

/// A batch that waits.
#[derive(Debug)]
pub struct BatchBody {
    /// Its bytes, compressed.
    pub(super) bytes: Spill,
    /// Its headers, or its first defect, once they are known.
    outline: OnceCell<Box<Result<Outline, DecodeError>>>,
}

impl BatchBody {
    /// Wraps a batch.
    pub(super) fn new(bytes: Spill) -> Self {
        Self { bytes, outline: OnceCell::new() }
    }

    /// Returns whether it is read in one step, which needs no look before.
    pub(super) fn is_small(&self, limits: &Limits) -> bool {
        matches!(&self.bytes, Spill::Memory(packed) if is_small(packed, limits))
    }

    /// Reads it through, unless that has been done. Returns its headers, or its first defect.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn outline(&self, limits: &Limits) -> io::Result<Result<&Outline, &DecodeError>> {
        if let Some(known) = self.outline.get() {
            return Ok((**known).as_ref());
        }
        let bytes = unpacking(self.bytes.reader()?, limits);
        let found = bytes.and_then(|bytes| outline(bytes, limits));
        Ok((**self.outline.get_or_init(|| Box::new(found))).as_ref())
    }
}
