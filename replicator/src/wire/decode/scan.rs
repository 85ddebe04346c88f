//! Reads a row that stands whole in the buffer, straight from its bytes.
//!
//! Arrives: the bytes after a row's beginning. Leaves: its head and its values, or None for
//! anything that is not as usual: then the careful reader (`rows.rs`) reads the same bytes again,
//! and says what is wrong. Nearly all rows are as usual, and checking them this way takes half of
//! the instructions. What it takes, the careful reader takes too. Pure.

use half::f16;
use rusqlite::types::ValueRef;

/// A place in the bytes.
pub(super) struct Scan<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Scan<'b> {
    /// Begins at the first byte.
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns how many bytes were read.
    pub(super) fn used(&self) -> usize {
        self.at
    }

    /// Reads a header: its major type, and its argument (RFC 8949, section 3). Not those of major
    /// type 7, nor a length that is left open.
    #[inline]
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = *self.bytes.get(self.at)?;
        let (major, argument) = (first >> 5, first & 0x1f);
        match argument {
            0..24 => {
                self.at += 1;
                Some((major, argument.into()))
            }
            24..28 => {
                let more = 1_usize << (argument - 24);
                // The last bytes of a buffer are left to the careful reader.
                let after = self.bytes.get(self.at + 1..)?.first_chunk()?;
                self.at += 1 + more;
                Some((major, u64::from_be_bytes(*after) >> (64 - 8 * more)))
            }
            _ => None,
        }
    }

    /// Reads the number of items of an array.
    pub(super) fn array(&mut self) -> Option<u64> {
        self.head().and_then(|(major, items)| (major == 4).then_some(items))
    }

    /// Reads an unsigned number.
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        self.head().and_then(|(major, number)| (major == 0).then_some(number))
    }

    /// Reads a number.
    pub(super) fn integer(&mut self) -> Option<i64> {
        match self.head()? {
            (0, number) => i64::try_from(number).ok(),
            (1, number) => i64::try_from(number).ok().map(|number| !number),
            _ => None,
        }
    }

    /// Reads a value of at most `bytes_max` bytes.
    #[inline]
    pub(super) fn value(&mut self, bytes_max: u64) -> Option<ValueRef<'b>> {
        if *self.bytes.get(self.at)? >> 5 == 7 {
            return self.simple();
        }
        let (major, argument) = self.head()?;
        match major {
            0 => i64::try_from(argument).ok().map(ValueRef::Integer),
            1 => i64::try_from(argument).ok().map(|number| ValueRef::Integer(!number)),
            2 => self.take(argument, bytes_max).map(ValueRef::Blob),
            3 => {
                let text = self.take(argument, bytes_max)?;
                std::str::from_utf8(text).ok()?;
                Some(ValueRef::Text(text))
            }
            _ => None,
        }
    }

    /// Reads NULL or a float.
    fn simple(&mut self) -> Option<ValueRef<'b>> {
        let after = self.bytes.get(self.at + 1..)?;
        let (value, used) = match self.bytes[self.at] {
            0xf6 => (ValueRef::Null, 1),
            0xf9 => (real(f16::from_be_bytes(*after.first_chunk()?).into())?, 3),
            0xfa => (real(f32::from_be_bytes(*after.first_chunk()?).into())?, 5),
            0xfb => (real(f64::from_be_bytes(*after.first_chunk()?))?, 9),
            _ => return None,
        };
        self.at += used;
        Some(value)
    }

    fn take(&mut self, length: u64, bytes_max: u64) -> Option<&'b [u8]> {
        let length = usize::try_from(length).ok().filter(|_| length <= bytes_max)?;
        let taken = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }
}

fn real(value: f64) -> Option<ValueRef<'static>> {
    (!value.is_nan()).then_some(ValueRef::Real(value))
}
