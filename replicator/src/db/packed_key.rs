//! Keys that are UUIDs as text, in 17 bytes instead of 32 or 36.
//!
//! Arrives: a value of a key column of type TEXT. Leaves: what stands for it in the version table,
//! and back. Owns: two values that differ never have the same packed form, so nothing is guessed:
//! all bytes of a BLOB are kept, and every other text stays as it is. Pure; as SQL functions they
//! work on the connections that [`register`] was called for.

use crate::db::schema::KeyColumn;
use crate::db::sql::{Affinity, Collation, affinity};
use crate::model::batch::Value;
use data_encoding::{Encoding, HEXLOWER, HEXUPPER};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use std::ops::Range;

/// The SQL function from a value of the key to what the version table holds.
pub const PACK: &str = "__harmonylite__pack";
/// The SQL function back.
pub const UNPACK: &str = "__harmonylite__unpack";

/// Ends a BLOB of the application.
const AS_IT_IS: u8 = 0;
/// End a UUID: its digits in small or capital letters, with dashes or without.
const SMALL_DASHED: u8 = 1;
const SMALL: u8 = 2;
const CAPITAL_DASHED: u8 = 3;
const CAPITAL: u8 = 4;

/// A UUID and its form.
const LENGTH: usize = 17;
/// The places of the dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// The digits between dashes, and their places without dashes.
const GROUPS: [(Range<usize>, usize); 5] =
    [(0..8, 0), (9..13, 8), (14..18, 12), (19..23, 16), (24..36, 20)];

/// Whether the values of a key column are packed. Under another collation than BINARY one row has
/// several spellings, and a column of another type may hold a number.
pub fn packs(column: &KeyColumn) -> bool {
    column.collation == Collation::Binary && affinity(&column.declared) == Affinity::Text
}

/// A value as the version table holds it.
#[derive(Debug, PartialEq)]
pub enum Packed<'v> {
    /// The value itself.
    Same(ValueRef<'v>),
    /// A UUID and its form.
    Uuid([u8; LENGTH]),
    /// A BLOB, and a zero behind it.
    Blob(Vec<u8>),
}

impl ToSql for Packed<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Same(value) => *value,
            Self::Uuid(bytes) => ValueRef::Blob(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Packs a value of a column that [`packs`].
pub fn pack(value: ValueRef<'_>) -> Packed<'_> {
    match value {
        ValueRef::Text(text) => uuid(text).map_or(Packed::Same(value), Packed::Uuid),
        ValueRef::Blob(blob) => Packed::Blob([blob, &[AS_IT_IS]].concat()),
        other => Packed::Same(other),
    }
}

fn uuid(text: &[u8]) -> Option<[u8; LENGTH]> {
    let mut digits = [0; 32];
    let dashed = match text.len() {
        32 => {
            digits.copy_from_slice(text);
            false
        }
        36 if DASHES.iter().all(|at| text[*at] == b'-') => {
            // Together: decoding begins anew for each call, which costs more than the digits.
            for (group, at) in GROUPS {
                digits[at..at + group.len()].copy_from_slice(&text[group]);
            }
            true
        }
        _ => return None,
    };
    let mut packed = [0; LENGTH];
    let mut decode =
        |encoding: &Encoding| encoding.decode_mut(&digits, &mut packed[..LENGTH - 1]).is_ok();
    let form = if decode(&HEXLOWER) {
        if dashed { SMALL_DASHED } else { SMALL }
    } else if decode(&HEXUPPER) {
        // Digits alone are the same in both forms, and were taken above.
        if dashed { CAPITAL_DASHED } else { CAPITAL }
    } else {
        return None;
    };
    packed[LENGTH - 1] = form;
    Some(packed)
}

/// Returns the value that a packed one stands for; None if nothing is packed like this.
pub fn unpack(packed: ValueRef<'_>) -> Option<Value> {
    let ValueRef::Blob(bytes) = packed else { return Some(packed.into()) };
    let (form, bytes) = bytes.split_last()?;
    let (encoding, dashed) = match *form {
        AS_IT_IS => return Some(Value::Blob(bytes.to_vec())),
        SMALL_DASHED => (&HEXLOWER, true),
        SMALL => (&HEXLOWER, false),
        CAPITAL_DASHED => (&HEXUPPER, true),
        CAPITAL => (&HEXUPPER, false),
        _ => return None,
    };
    if bytes.len() != LENGTH - 1 {
        return None;
    }
    let mut text = encoding.encode(bytes);
    if dashed {
        DASHES.iter().for_each(|at| text.insert(*at, '-'));
    }
    Some(Value::Text(text.into_bytes()))
}

/// Makes both SQL functions known to a connection.
///
/// # Errors
/// SQLite's error.
pub fn register(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    db.create_scalar_function(PACK, 1, flags, |context| {
        Ok(match pack(context.get_raw(0)) {
            Packed::Same(value) => value.into(),
            Packed::Uuid(bytes) => Value::Blob(bytes.to_vec()),
            Packed::Blob(bytes) => Value::Blob(bytes),
        })
    })?;
    db.create_scalar_function(UNPACK, 1, flags, |context| {
        unpack(context.get_raw(0)).ok_or_else(|| {
            rusqlite::Error::UserFunctionError("a key in a version table is damaged".into())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: &Value) -> Value {
        match pack(value.into()) {
            Packed::Same(value) => value.into(),
            Packed::Uuid(bytes) => Value::Blob(bytes.to_vec()),
            Packed::Blob(bytes) => Value::Blob(bytes),
        }
    }

    /// Values that are alike: each has a form of its own, and comes back to the byte.
    #[test]
    fn no_two_values_have_the_same_form_and_each_comes_back() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let small = "0123abcd-0123-4567-89ab-00000000000f";
        let bytes = HEXLOWER.decode(small.replace('-', "").as_bytes()).unwrap();
        let with = |end: u8| Value::Blob([bytes.as_slice(), &[end]].concat());
        let values = [
            text(small),
            text(&small.to_uppercase()),
            text(&small.replace('-', "")),
            text(&small.replace('-', "").to_uppercase()),
            text("0123Abcd-0123-4567-89ab-00000000000f"),
            text("01234567-0123-4567-89ab-000000000001"),
            text("01234567012345678901234567890123"),
            text("0123abcd-0123-4567-89ab00000000-000f"),
            text("0123abcd_0123-4567-89ab-00000000000f"),
            text("0123abcg012345678901234567890123"),
            text(""),
            text("a\0b"),
            Value::Text(vec![0xff; 36]),
            Value::Blob(bytes.clone()),
            Value::Blob(Vec::new()),
            with(AS_IT_IS),
            with(SMALL_DASHED),
            with(SMALL),
            with(CAPITAL_DASHED),
            with(CAPITAL),
            Value::Blob([bytes.as_slice(), &[SMALL, AS_IT_IS]].concat()),
            Value::Blob(small.as_bytes().to_vec()),
            Value::Integer(5),
            Value::Null,
        ];
        for (i, value) in values.iter().enumerate() {
            let one = stored(value);
            assert_eq!(unpack((&one).into()).as_ref(), Some(value));
            for other in &values[..i] {
                assert_ne!(stored(other), one, "{other:?} and {value:?}");
            }
        }
        assert!((0..4).all(|i| matches!(stored(&values[i]), Value::Blob(b) if b.len() == LENGTH)));
    }

    #[test]
    fn what_was_never_packed_is_damage() {
        for blob in [vec![], vec![1, 2, SMALL], vec![9; LENGTH]] {
            assert_eq!(unpack(ValueRef::Blob(&blob)), None, "{blob:?}");
        }
        let db = Connection::open_in_memory().unwrap();
        register(&db).unwrap();
        let read = db.query_row(&format!("SELECT {UNPACK}(x'05')"), [], |r| r.get::<_, String>(0));
        assert!(read.unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn only_text_compared_byte_by_byte_is_packed() {
        let column = |declared: &str, collation| KeyColumn {
            name: "id".to_owned(),
            declared: declared.to_owned(),
            collation,
        };
        assert!(packs(&column("varchar(36)", Collation::Binary)));
        assert!(!packs(&column("varchar(36)", Collation::NoCase)));
        assert!(!packs(&column("", Collation::Binary)));
        assert!(!packs(&column("BLOB", Collation::Binary)));
        assert!(!packs(&column("UUID", Collation::Binary)), "SQLite makes numbers of digits there");
    }
}
