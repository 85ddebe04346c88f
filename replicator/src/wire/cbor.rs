//! Reads the headers of CBOR items (RFC 8949, section 3) from a buffer.
//!
//! Arrives: bytes. Leaves: one header after the other, and the bytes of strings. Reads what
//! `ciborium-ll` reads, which also writes our batches; it takes each header from the buffer in one
//! step. Pure.

use ciborium_ll::Header;
use half::f16;
use std::io::{self, BufRead};

/// The longest header: a byte and a length of 8 bytes.
const HEADER_BYTES_MAX: usize = 9;

/// Why no header could be read.
#[derive(Debug)]
pub(super) enum CborError {
    /// The source failed, or ended.
    Io(io::Error),
    /// The byte at this place begins no item.
    Syntax(u64),
}

/// Reads items from a buffered source.
pub(super) struct CborReader<R> {
    source: R,
    offset: u64,
}

impl<R: BufRead> CborReader<R> {
    /// Creates a reader at the start of an item.
    pub(super) fn new(source: R) -> Self {
        Self { source, offset: 0 }
    }

    /// Reads the next header.
    ///
    /// # Errors
    /// [`CborError`].
    pub(super) fn pull(&mut self) -> Result<Header, CborError> {
        let buffer = self.source.fill_buf().map_err(CborError::Io)?;
        if let Some(bytes) = buffer.first_chunk() {
            let (header, used) = parse(bytes).ok_or(CborError::Syntax(self.offset))?;
            self.source.consume(used);
            self.offset += used as u64;
            return Ok(header);
        }
        // Near the end of the buffer: byte by byte.
        let mut bytes = [0; HEADER_BYTES_MAX];
        self.read_exact(&mut bytes[..1]).map_err(CborError::Io)?;
        let at = self.offset - 1;
        let more = argument_bytes(bytes[0]).ok_or(CborError::Syntax(at))?;
        self.read_exact(&mut bytes[1..=more]).map_err(CborError::Io)?;
        parse(&bytes).map(|(header, _)| header).ok_or(CborError::Syntax(at))
    }

    /// Returns what the buffer has; nothing at the end.
    ///
    /// # Errors
    /// That of the source. It is lost if it is not passed on: some sources continue after one.
    pub(super) fn buffered(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    /// Passes bytes that the buffer has.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.offset += bytes as u64;
    }
}

impl<R: BufRead> CborReader<R> {
    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// The source failed, or ended.
    pub(super) fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// The number of bytes after the first one of a header; None if it begins no item.
fn argument_bytes(first: u8) -> Option<usize> {
    match first & 0x1f {
        0..24 | 31 => Some(0),
        more @ 24..28 => Some(1 << (more - 24)),
        _ => None,
    }
}

/// Returns the header that these bytes begin with, and its length.
fn parse(bytes: &[u8; HEADER_BYTES_MAX]) -> Option<(Header, usize)> {
    let [first, rest @ ..] = *bytes;
    let more = argument_bytes(first)?;
    let used = 1 + more;
    let is_open = first & 0x1f == 31;
    let argument = match more {
        0 => u64::from(first & 0x1f),
        // Without a branch for each length: they come in no order.
        more => u64::from_be_bytes(rest) >> (64 - 8 * more),
    };
    let integer = || (!is_open).then_some(argument);
    let length = || match is_open {
        true => Some(None),
        false => usize::try_from(argument).ok().map(Some),
    };
    let header = match first >> 5 {
        0 => Header::Positive(integer()?),
        1 => Header::Negative(integer()?),
        2 => Header::Bytes(length()?),
        3 => Header::Text(length()?),
        4 => Header::Array(length()?),
        5 => Header::Map(length()?),
        6 => Header::Tag(integer()?),
        _ if is_open => Header::Break,
        _ => match used {
            9 => Header::Float(f64::from_bits(argument)),
            // The others fit.
            5 => Header::Float(f32::from_bits(u32::try_from(argument).ok()?).into()),
            3 => Header::Float(f16::from_bits(u16::try_from(argument).ok()?).into()),
            _ => Header::Simple(u8::try_from(argument).ok()?),
        },
    };
    Some((header, used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciborium_ll::{Decoder, Error};
    use std::io::BufReader;

    /// Every first byte, with other bytes after it, whole and cut, reads as `ciborium-ll` reads it.
    #[test]
    fn every_header_reads_as_the_library_reads_it() {
        for first in 0..=u8::MAX {
            for rest in
                [[0; 8], [0xff; 8], [0x7c, 1, 2, 3, 4, 5, 6, 7], [0x3c, 0, 0, 0, 0, 0, 0, 1]]
            {
                let mut bytes = vec![first];
                bytes.extend(rest);
                bytes.extend([0; 9]);
                for cut in 0..bytes.len() {
                    same(&bytes[..cut]);
                }
            }
        }
    }

    fn same(bytes: &[u8]) {
        let mut library = Decoder::from(bytes);
        let mut whole = CborReader::new(bytes);
        let mut in_pieces = CborReader::new(BufReader::with_capacity(2, bytes));
        loop {
            let expected = library.pull();
            for found in [whole.pull(), in_pieces.pull()] {
                match (&expected, found) {
                    (Ok(Header::Float(a)), Ok(Header::Float(b))) => {
                        assert_eq!(a.to_bits(), b.to_bits(), "{bytes:?}");
                    }
                    (Ok(a), Ok(b)) => assert_eq!(*a, b, "{bytes:?}"),
                    (Err(Error::Syntax(a)), Err(CborError::Syntax(b))) => {
                        assert_eq!(*a as u64, b, "{bytes:?}");
                    }
                    (Err(Error::Io(a)), Err(CborError::Io(b))) => assert_eq!(a.kind(), b.kind()),
                    (a, b) => panic!("{bytes:?}: {a:?}, but {b:?}"),
                }
            }
            if expected.is_err() {
                return;
            }
        }
    }

    #[test]
    fn strings_come_from_the_buffer_or_in_pieces() {
        let bytes = [0x63, b'a', b'b', b'c', 0x01];
        let mut reader = CborReader::new(&bytes[..]);
        assert_eq!(reader.pull().unwrap(), Header::Text(Some(3)));
        assert_eq!(reader.buffered().unwrap(), b"abc\x01");
        reader.skip(3);
        assert_eq!(reader.pull().unwrap(), Header::Positive(1));
        let mut reader = CborReader::new(BufReader::with_capacity(2, &bytes[1..]));
        assert_eq!(reader.buffered().unwrap(), b"ab");
        let mut piece = [0; 3];
        reader.read_exact(&mut piece).unwrap();
        assert_eq!((&piece, reader.pull().unwrap()), (b"abc", Header::Positive(1)));
    }
}
