//! Converts identifiers, literals and values between SQLite and this program. Pure.

use crate::model::batch::Value;
use data_encoding::HEXLOWER;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

/// Quotes a name for use in SQL text. Every name goes through this function, ours too.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the SQL that renames a table of ours and touches nothing else: the triggers that write
/// into it keep its name, and a view of the application that does not compile does not stop it.
pub fn rename_alone(from: &str, to: &str) -> String {
    format!(
        "PRAGMA legacy_alter_table = ON; ALTER TABLE main.{} RENAME TO {}; PRAGMA \
        legacy_alter_table = OFF",
        quote(from),
        quote(to)
    )
}

/// The columns of a key of this length in our own tables: `key0`, `key1`, ...
pub fn key_columns(length: usize) -> Vec<String> {
    (0..length).map(|i| format!("key{i}")).collect()
}

/// Quotes text as an SQL string.
pub fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.into()))
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(i) => Self::Integer(*i),
            Value::Real(r) => Self::Real(*r),
            Value::Text(t) => Self::Text(t),
            Value::Blob(b) => Self::Blob(b),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(i) => Self::Integer(i),
            ValueRef::Real(r) => Self::Real(r),
            ValueRef::Text(t) => Self::Text(t.to_vec()),
            ValueRef::Blob(b) => Self::Blob(b.to_vec()),
        }
    }
}

impl Value {
    /// Becomes a copy of this value, in the memory that it has.
    pub fn assign(&mut self, value: ValueRef<'_>) {
        match (&mut *self, value) {
            (Self::Text(memory), ValueRef::Text(bytes))
            | (Self::Blob(memory), ValueRef::Blob(bytes)) => {
                memory.clear();
                memory.extend_from_slice(bytes);
            }
            _ => *self = value.into(),
        }
    }
}

/// Writes a value as an SQL literal that evaluates to the same value, byte for byte.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => i.to_string(),
        Value::Real(r) if r.is_infinite() => if *r > 0.0 { "9e999" } else { "-9e999" }.to_owned(),
        Value::Real(r) => format!("{r:?}"),
        Value::Text(t) => match std::str::from_utf8(t) {
            Ok(text) if !text.contains('\0') => quote_text(text),
            _ => format!("CAST({} AS TEXT)", hex(t)),
        },
        Value::Blob(b) => hex(b),
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("X'{}'", HEXLOWER.encode(bytes))
}

/// The affinity of a column.
///
/// Source: <https://www.sqlite.org/datatype3.html>, section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// INT in the type.
    Integer,
    /// CHAR, CLOB or TEXT in it.
    Text,
    /// BLOB in it, or no type.
    Blob,
    /// REAL, FLOA or DOUB in it.
    Real,
    /// Any other.
    Numeric,
}

/// The affinity of a column of this declared type.
pub fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if declared.is_empty() || has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// Whether the text of a DEFAULT is a literal: the same value for every row and at every time.
pub fn is_constant(text: &str) -> bool {
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    if matches!(upper.as_str(), "NULL" | "TRUE" | "FALSE") {
        return true;
    }
    let quoted = |text: &str| {
        let inside = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
        inside.is_some_and(|t| !t.replace("''", "").contains('\''))
    };
    let number = upper.trim_start_matches(['+', '-']);
    let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && number.char_indices().all(|(i, c)| {
            let signed = i > 0 && number.as_bytes()[i - 1] == b'E' && !number.starts_with("0X");
            c.is_ascii_alphanumeric() || "._".contains(c) || "+-".contains(c) && signed
        });
    quoted(text) || upper.strip_prefix('X').is_some_and(quoted) || is_number
}

/// How SQLite compares a text key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collation {
    /// Byte by byte.
    Binary,
    /// Ignores the case of ASCII letters.
    NoCase,
    /// Ignores trailing spaces.
    RTrim,
}

impl Collation {
    /// Returns the built-in collation of this name; None for one that an application registers.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" => Some(Self::Binary),
            "NOCASE" => Some(Self::NoCase),
            "RTRIM" => Some(Self::RTrim),
            _ => None,
        }
    }

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "BINARY",
            Self::NoCase => "NOCASE",
            Self::RTrim => "RTRIM",
        }
    }
}

/// The first bytes of the values in canonical keys.
pub mod tags {
    /// Nothing follows.
    pub const NULL: u8 = 0;
    /// Eight bytes follow, big-endian.
    pub const INTEGER: u8 = 1;
    /// The bits of the float follow, as eight bytes.
    pub const REAL: u8 = 2;
    /// The length follows, as eight bytes, and the bytes.
    pub const TEXT: u8 = 3;
    /// As for text.
    pub const BLOB: u8 = 4;
}

/// Appends bytes that are equal for two key values exactly if SQLite considers the values equal
/// under the collation.
///
/// Two changes of one row must fold into one even if its key was written in two ways ('a' and 'A'
/// under NOCASE, 1 and 1.0).
pub fn canonical_key(value: &Value, collation: Collation, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(tags::NULL),
        Value::Integer(i) => canonical_integer(*i, out),
        Value::Real(r) => match exact_integer(*r) {
            Some(i) => canonical_integer(i, out),
            None => {
                out.push(tags::REAL);
                out.extend_from_slice(&r.to_bits().to_be_bytes());
            }
        },
        Value::Text(t) => {
            let text = match collation {
                Collation::RTrim => &t[..t.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1)],
                _ => t,
            };
            canonical_bytes(tags::TEXT, text, out);
            if collation == Collation::NoCase {
                let from = out.len() - text.len();
                out[from..].make_ascii_lowercase();
            }
        }
        Value::Blob(b) => canonical_bytes(tags::BLOB, b, out),
    }
}

fn canonical_integer(i: i64, out: &mut Vec<u8>) {
    out.push(tags::INTEGER);
    out.extend_from_slice(&i.to_be_bytes());
}

fn canonical_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Returns the integer that equals a float, as SQLite compares the two.
pub fn exact_integer(r: f64) -> Option<i64> {
    // -2^63 is a float; 2^63 is the first float beyond i64.
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&r);
    (fits && r.fract() == 0.0).then_some(r as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn canonical(value: &Value, collation: Collation) -> Vec<u8> {
        let mut out = Vec::new();
        canonical_key(value, collation, &mut out);
        out
    }

    /// SQLite itself is the judge: equal for it, equal for us, and the other way round.
    #[test]
    fn canonical_keys_agree_with_sqlite() {
        let db = Connection::open_in_memory().unwrap();
        let values = [
            Value::Integer(0),
            Value::Integer(1),
            Value::Real(1.0),
            Value::Real(-0.0),
            Value::Real(0.5),
            Value::Real(9.223_372_036_854_776e18),
            Value::Integer(i64::MAX),
            Value::Real(-9.223_372_036_854_776e18),
            Value::Integer(i64::MIN),
            Value::Real(f64::INFINITY),
            Value::Text(b"a".to_vec()),
            Value::Text(b"A".to_vec()),
            Value::Text(b"a  ".to_vec()),
            Value::Text(b"".to_vec()),
            Value::Text(b"  ".to_vec()),
            Value::Text("\u{e4}".into()),
            Value::Text("\u{c4}".into()),
            Value::Text(b"1".to_vec()),
            Value::Blob(b"a".to_vec()),
            Value::Blob(vec![]),
        ];
        for collation in [Collation::Binary, Collation::NoCase, Collation::RTrim] {
            let sql = format!("SELECT ?1 COLLATE {} = ?2", collation.name());
            for a in &values {
                for b in &values {
                    let equal: bool = db.query_row(&sql, (a, b), |r| r.get(0)).unwrap();
                    assert_eq!(
                        canonical(a, collation) == canonical(b, collation),
                        equal,
                        "{a:?} {b:?} {collation:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn affinities_and_constants_are_those_of_sqlite() {
        for (declared, expected) in [
            ("INTEGER", Affinity::Integer),
            ("bigint", Affinity::Integer),
            ("varchar(10)", Affinity::Text),
            ("", Affinity::Blob),
            ("DOUBLE", Affinity::Real),
            ("datetime", Affinity::Numeric),
            ("FLOATING POINT", Affinity::Integer),
        ] {
            assert_eq!(affinity(declared), expected, "{declared}");
        }
        for text in ["NULL", "1", "-1.5e3", "'it''s'", "X'00'", "true", ".5", "0x1F", " 7 "] {
            assert!(is_constant(text), "{text}");
        }
        for text in [
            "CURRENT_TIMESTAMP",
            "(1)",
            "1-2",
            "1+2",
            "0x1e-3",
            "'a' || 'b'",
            "random()",
            "",
            "1 + 1",
            "abs(1)",
        ] {
            assert!(!is_constant(text), "{text}");
        }
    }

    #[test]
    fn literals_give_the_value_back() {
        let db = Connection::open_in_memory().unwrap();
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Real(0.1),
            Value::Real(-0.0),
            Value::Real(5e-324),
            Value::Real(1e300),
            Value::Real(f64::MAX),
            Value::Real(f64::NEG_INFINITY),
            Value::Text(b"it's".to_vec()),
            Value::Text(b"a\0b".to_vec()),
            Value::Text(vec![0xff]),
            Value::Blob(vec![0, 1]),
        ] {
            let back: Value = db
                .query_row(&format!("SELECT {}", literal(&value)), [], |r| Ok(r.get_ref(0)?.into()))
                .unwrap();
            match (&value, &back) {
                (Value::Real(a), Value::Real(b)) if value != Value::Real(-0.0) => {
                    assert_eq!(a.to_bits(), b.to_bits())
                }
                _ => assert_eq!(value, back),
            }
        }
    }
}
