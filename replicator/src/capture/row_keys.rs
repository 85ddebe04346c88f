//! The keys of a running fold that are no integers, one after another in one allocation.
//!
//! Arrives: keys. Leaves: for each the bytes of its identity, and the key as it was spelled. Owns:
//! both are exact to the byte. Memory only.

use crate::db::sql::{
    Collation, canonical_key,
    tags::{BLOB, INTEGER, NULL, REAL, TEXT},
};
use crate::model::batch::Value;

/// What is equal exactly for keys of the same row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity<'a> {
    /// The key is one integer, or equal to one.
    Integer(i64),
    /// The canonical bytes of another key.
    Bytes(&'a [u8]),
}

impl Identity<'_> {
    /// Returns a number that grows with the key, as far as the first 16 bytes of its first value
    /// tell.
    pub fn beginning(&self) -> u128 {
        match self {
            Self::Integer(key) => u128::from(key.cast_unsigned() ^ (1 << 63)) << 64,
            Self::Bytes(canonical) => {
                // A tag and the length come first.
                let value = canonical.get(9..).unwrap_or(canonical);
                let mut first = [0; 16];
                first.iter_mut().zip(value).for_each(|(to, byte)| *to = *byte);
                u128::from_be_bytes(first)
            }
        }
    }
}

/// The keys. Each has its canonical bytes, and, if these do not give the key back
/// (`COLLATE NOCASE`, 1.0 in a composite key), the bytes of the key as it was spelled.
#[derive(Default)]
pub struct KeyBytes {
    bytes: Vec<u8>,
    scratch: Vec<u8>,
    spelled: Vec<u8>,
}

impl KeyBytes {
    /// Lends memory for canonical bytes, which comes back with [`KeyBytes::put_back`].
    pub fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    /// Takes the memory back.
    pub fn put_back(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Adds a key, and returns its place.
    pub fn push(&mut self, canonical: &[u8], key: &[Value]) -> i64 {
        let place = self.bytes.len();
        self.spelled.clear();
        key.iter().for_each(|value| spell(value, &mut self.spelled));
        append(canonical, &mut self.bytes);
        let spelled = if self.spelled == canonical { &[] } else { &self.spelled[..] };
        append(spelled, &mut self.bytes);
        // Less than 2^63 bytes are in memory.
        place as i64
    }

    /// Returns the canonical bytes of the key at this place.
    pub fn canonical(&self, place: i64) -> &[u8] {
        take(&self.bytes[place as usize..]).0
    }

    /// Reads the key at this place, as it was spelled, into the memory of another one.
    pub fn read(&self, place: i64, key: &mut Vec<Value>) {
        let (canonical, rest) = take(&self.bytes[place as usize..]);
        let spelled = take(rest).0;
        let mut bytes = if spelled.is_empty() { canonical } else { spelled };
        let mut length = 0;
        while let Some((tag, rest)) = bytes.split_first() {
            if length == key.len() {
                key.push(Value::Null);
            }
            bytes = read_value(*tag, rest, &mut key[length]);
            length += 1;
        }
        key.truncate(length);
    }
}

/// Appends bytes with their length in front, seven bits a byte.
fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// Takes what [`append`] has appended, and returns it with the rest.
fn take(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (mut length, mut digits) = (0, 0);
    loop {
        length |= usize::from(bytes[digits] & 0x7f) << (7 * digits);
        digits += 1;
        if bytes[digits - 1] < 0x80 {
            return bytes[digits..].split_at(length);
        }
    }
}

/// Appends a value of a key exactly: as [`canonical_key`] does, but a float stays one.
fn spell(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Real(float) => {
            out.push(REAL);
            out.extend_from_slice(&float.to_bits().to_be_bytes());
        }
        value => canonical_key(value, Collation::Binary, out),
    }
}

/// Reads a value that [`spell`] has appended, without its tag, and returns the bytes after it.
fn read_value<'b>(tag: u8, bytes: &'b [u8], value: &mut Value) -> &'b [u8] {
    let (word, rest) = bytes.split_at(if tag == NULL { 0 } else { 8 });
    let number = word.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    let (content, after) = match tag {
        TEXT | BLOB => rest.split_at(number as usize),
        _ => (&[][..], rest),
    };
    *value = match (tag, std::mem::replace(value, Value::Null)) {
        (NULL, _) => Value::Null,
        (INTEGER, _) => Value::Integer(number.cast_signed()),
        (REAL, _) => Value::Real(f64::from_bits(number)),
        (tag, Value::Text(mut memory) | Value::Blob(mut memory)) => {
            memory.clear();
            memory.extend_from_slice(content);
            if tag == TEXT { Value::Text(memory) } else { Value::Blob(memory) }
        }
        (TEXT, _) => Value::Text(content.to_vec()),
        _ => Value::Blob(content.to_vec()),
    };
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_were_spelled() {
        let long = "x".repeat(300);
        let keys: Vec<(Vec<Value>, Collation)> = [
            (vec![Value::Text(b"Ab".to_vec())], Collation::NoCase),
            (vec![Value::Text(b"ab  ".to_vec())], Collation::RTrim),
            (vec![Value::Text(long.into())], Collation::Binary),
            (vec![Value::Real(1.0), Value::Integer(i64::MIN)], Collation::Binary),
            (vec![Value::Real(-0.5), Value::Real(-0.0), Value::Null], Collation::Binary),
            (vec![Value::Blob(vec![0, 255]), Value::Text(Vec::new())], Collation::Binary),
        ]
        .into();
        let mut bytes = KeyBytes::default();
        let mut placed = Vec::new();
        for (key, collation) in &keys {
            let mut canonical = Vec::new();
            key.iter().for_each(|value| canonical_key(value, *collation, &mut canonical));
            placed.push((bytes.push(&canonical, key), canonical));
        }
        let mut read = vec![Value::Blob(vec![9; 9]); 5];
        for ((key, _), (place, canonical)) in keys.iter().zip(placed).rev() {
            bytes.read(place, &mut read);
            assert_eq!(format!("{read:?}"), format!("{key:?}"));
            assert_eq!(bytes.canonical(place), canonical);
        }
    }
}
