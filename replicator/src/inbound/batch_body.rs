//! The bytes of a batch that waits, and what a look at them has shown.
//!
//! Arrives: the bytes of a whole batch. Leaves: the same with its outline, decompressed if they are
//! not many. Owns: a batch is decompressed and read through before the write lock is taken, because
//! that takes a fifth of the time of applying it. Memory only.

use crate::model::limits::Limits;
use crate::wire::decode::{DecodeError, Outline, outline};
use crate::wire::spill::Spill;
use crate::wire::unpack::{Unpacker, unpacking};
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io;

/// A batch that waits.
pub struct BatchBody {
    /// Its bytes, compressed.
    pub(super) bytes: Spill,
    /// Its headers, or its first defect, once they are known.
    outline: OnceCell<Box<Result<Outline, DecodeError>>>,
    /// The same bytes decompressed, from the look at them until they are applied.
    plain: RefCell<Option<Vec<u8>>>,
}

impl fmt::Debug for BatchBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchBody of {} bytes", self.bytes.len())
    }
}

impl BatchBody {
    /// Wraps a batch.
    pub(super) fn new(bytes: Spill) -> Self {
        Self { bytes, outline: OnceCell::new(), plain: RefCell::new(None) }
    }

    /// Reads it through, unless that has been done. Returns its headers, or its first defect. Keeps
    /// its decompressed bytes if there is room for them, and takes what it keeps from the room.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn outline(
        &self,
        unpacker: &mut Unpacker,
        room: &mut usize,
        limits: &Limits,
    ) -> io::Result<Result<&Outline, &DecodeError>> {
        if let Some(known) = self.outline.get() {
            let kept = self.plain.borrow().as_ref().map_or(0, Vec::len);
            *room = room.saturating_sub(kept);
            return Ok((**known).as_ref());
        }
        let found = match self.unpack(unpacker, *room, limits) {
            Some(plain) => {
                let found = outline(&plain[..], limits);
                *room -= plain.len();
                self.plain.replace(Some(plain));
                found
            }
            None => {
                let bytes = unpacking(self.bytes.reader()?, limits);
                bytes.and_then(|bytes| outline(bytes, limits))
            }
        };
        Ok((**self.outline.get_or_init(|| Box::new(found))).as_ref())
    }

    /// Returns its decompressed bytes; None if they are too many, or damaged.
    pub(super) fn plain(&self, unpacker: &mut Unpacker, limits: &Limits) -> Option<Vec<u8>> {
        self.plain.take().or_else(|| self.unpack(unpacker, limits.plain_bytes_max, limits))
    }

    fn unpack(&self, unpacker: &mut Unpacker, room: usize, limits: &Limits) -> Option<Vec<u8>> {
        let Spill::Memory(packed) = &self.bytes else { return None };
        let most = usize::try_from(limits.batch_atomic_bytes_max).unwrap_or(usize::MAX);
        unpacker.unpack(packed, room.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchHeader;
    use crate::model::ids::{BatchNo, NodeId, Site};
    use crate::wire::encode::Encoder;
    use std::io::Write;

    fn packed(limits: &Limits) -> Vec<u8> {
        let mut encoder = Encoder::new(limits, std::env::temp_dir()).unwrap();
        let header = BatchHeader {
            node: NodeId(1),
            site: Site(2),
            number: BatchNo(3),
            previous: BatchNo(2),
            schema_hash: [0; 32],
            created_ms: 4,
            further_sites: Vec::new(),
            schema_changes: vec![vec![5; 100]],
        };
        encoder.begin(&header, 0).unwrap();
        encoder.finish().unwrap().body.to_vec().unwrap()
    }

    #[test]
    fn what_is_decompressed_takes_room_until_it_is_applied() {
        let limits = Limits::default();
        let body = BatchBody::new(Spill::from_bytes(packed(&limits)));
        let (mut unpacker, mut room) = (Unpacker::default(), 1_000);
        assert_eq!(body.outline(&mut unpacker, &mut room, &limits).unwrap().unwrap().rows, 0);
        let taken = 1_000 - room;
        assert!((100..300).contains(&taken), "{taken}");
        for left in [1_000 - taken, 0] {
            let mut room = if left == 0 { taken / 2 } else { 1_000 };
            body.outline(&mut unpacker, &mut room, &limits).unwrap().unwrap();
            assert_eq!(room, left, "a second look");
        }
        assert_eq!(body.plain(&mut unpacker, &limits).unwrap().len(), taken);
        room = 1_000;
        body.outline(&mut unpacker, &mut room, &limits).unwrap().unwrap();
        assert_eq!(room, 1_000, "after it was applied");
        assert_eq!(body.plain(&mut unpacker, &limits).unwrap().len(), taken, "applied again");
    }

    fn look(bytes: &[u8], mut room: usize) -> Result<Outline, String> {
        let limits = Limits::default();
        let body = BatchBody::new(Spill::from_bytes(bytes.to_vec()));
        let found = body.outline(&mut Unpacker::default(), &mut room, &limits).unwrap();
        found.cloned().map_err(ToString::to_string)
    }

    /// The same batch in a frame that does not announce its size, with a window.
    fn with_window(plain: &[u8], log: u32) -> Vec<u8> {
        let mut frame = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        frame.window_log(log).unwrap();
        frame.write_all(plain).unwrap();
        frame.finish().unwrap()
    }

    /// With or without room, whole or damaged anywhere, in frames of any kind: a look finds the
    /// same.
    #[test]
    fn room_does_not_decide_what_a_look_finds() {
        let limits = Limits::default();
        let whole = packed(&limits);
        let plain = zstd::decode_all(&whole[..]).unwrap();
        for log in 10..28 {
            let frame = with_window(&plain, log);
            assert_eq!(look(&frame, 0).is_ok(), log <= 23, "a window of 2^{log}");
            assert_eq!(look(&frame, 1 << 20), look(&frame, 0), "a window of 2^{log}");
            let (first, second) = plain.split_at(20);
            let two = [with_window(first, 12), with_window(second, log)].concat();
            assert_eq!(look(&two, 1 << 20), look(&two, 0), "two frames, 2^{log}");
        }
        for bytes in [whole, with_window(&plain, 17)] {
            for at in 0..bytes.len() {
                for flip in [0x55, 0x20, 0x08, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= flip;
                    assert_eq!(look(&bytes, 1 << 20), look(&bytes, 0), "byte {at}, {flip:x}");
                }
            }
        }
    }
}
