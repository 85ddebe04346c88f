//! The column `table_id` of the log: the table of an entry and its kind, and once absorb has been
//! there, the version before it.
//!
//! One column for all three, because the application pays for each column of the log with each row
//! that it writes (docs/performance.md), and what most entries have, the number of a table, is its
//! own code. Pure.

use crate::model::ids::{Hlc, Site, Version};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};

/// A row changed, and a trigger logged its key.
pub const KIND_CHANGED: i64 = 0;
/// A row clashed with one being written, and REPLACE may have removed it. The entry counts only if
/// the row does not exist.
pub const KIND_DISPLACED: i64 = 1;
/// The row's version is already stored and is to be published.
pub const KIND_PUBLISH: i64 = 2;
/// A row without version and log entry was found. It counts as changed at that time.
pub const KIND_FOUND: i64 = 3;
/// The schema changed ([`super::schema_changes`]). The entry has no table and no key; it asks for a
/// batch, also if no row changed.
pub const KIND_SCHEMA: i64 = 4;

/// The bits of a kind, so there can be eight.
const KIND_BITS: u32 = 3;

/// The table and the kind of an entry, as SQL; in front of what absorb has added.
pub(super) const CODE: &str = "CAST(table_id AS INTEGER)";

/// Whether an entry is one of [`KIND_PUBLISH`], as SQL. Absorb adds nothing to these.
pub(super) const IS_PUBLISH: &str = "(table_id < 0 AND -table_id & 7 = 2)";

/// Whether an entry counts no more, as SQL.
pub(super) const IS_FORGOTTEN: &str = "(table_id LIKE '% -')";

/// The kind of an entry, as SQL.
#[cfg(test)]
pub(crate) const KIND: &str =
    "(CASE WHEN CAST(table_id AS INTEGER) < 0 THEN -CAST(table_id AS INTEGER) & 7 ELSE 0 END)";

/// What stands in the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryCode {
    /// The number of the table ([`super::tables`]).
    pub table_id: i64,
    /// One of the `KIND_` values above.
    pub kind: i64,
    pub added: Added,
}

/// What was added to an entry after it was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Nothing,
    /// The version before the change.
    Previous(Version),
    /// The entry counts no more.
    Forgotten,
}

/// Returns the code of an entry to which nothing was added.
pub fn encode(table_id: i64, kind: i64) -> i64 {
    debug_assert!((0..1 << KIND_BITS).contains(&kind));
    if kind == KIND_CHANGED { table_id } else { -((table_id << KIND_BITS) | kind) }
}

/// The condition that an entry is one of this table, as SQL.
pub fn of_table(table_id: i64) -> String {
    format!("({CODE} = {table_id} OR ({CODE} < 0 AND -{CODE} >> {KIND_BITS} = {table_id}))")
}

impl EntryCode {
    fn new(code: i64, added: Added) -> Self {
        let bits = code.unsigned_abs().cast_signed();
        let (table_id, kind) = match code < 0 {
            true => (bits >> KIND_BITS, bits & ((1 << KIND_BITS) - 1)),
            false => (code, KIND_CHANGED),
        };
        Self { table_id, kind, added }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let code = parts.next()?.parse().ok()?;
        let added = match (parts.next()?, parts.next()) {
            ("-", None) => Added::Forgotten,
            (hlc, Some(site)) => Added::Previous(Version {
                hlc: Hlc(hlc.parse().ok()?),
                site: Site(site.parse().ok()?),
            }),
            _ => return None,
        };
        parts.next().is_none().then(|| Self::new(code, added))
    }
}

impl FromSql for EntryCode {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Integer(code) => Ok(Self::new(code, Added::Nothing)),
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text).map_err(FromSqlError::other)?;
                Self::parse(text).ok_or(FromSqlError::InvalidType)
            }
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    const KINDS: [i64; 5] = [KIND_CHANGED, KIND_DISPLACED, KIND_PUBLISH, KIND_FOUND, KIND_SCHEMA];

    fn read(value: ValueRef<'_>) -> Option<EntryCode> {
        EntryCode::column_result(value).ok()
    }

    #[test]
    fn a_code_is_read_as_it_was_written() {
        for table_id in [0, 1, 2, 15, 16, 5_000, i64::from(u32::MAX)] {
            for kind in KINDS {
                let code = encode(table_id, kind);
                let plain = EntryCode { table_id, kind, added: Added::Nothing };
                assert_eq!(read(ValueRef::Integer(code)), Some(plain));
                let previous = Version { hlc: Hlc(i64::MAX / 2), site: Site(-7) };
                let text = format!("{code} {} {}", previous.hlc.0, previous.site.0);
                let added = Added::Previous(previous);
                let absorbed = EntryCode { added, ..plain };
                assert_eq!(read(ValueRef::Text(text.as_bytes())), Some(absorbed));
                let forgotten = EntryCode { added: Added::Forgotten, ..plain };
                let text = format!("{code} -");
                assert_eq!(read(ValueRef::Text(text.as_bytes())), Some(forgotten));
            }
        }
        assert_eq!(encode(7, KIND_CHANGED), 7, "what triggers write");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", " ", "5", "5 ", "x -", "5 - 1", "5 1", "5 1 x", "5 1 2 3", "5  1 2"] {
            assert_eq!(read(ValueRef::Text(text.as_bytes())), None, "{text:?}");
        }
        assert_eq!(read(ValueRef::Text(b"5 \xff 1")), None);
        assert_eq!(read(ValueRef::Null), None);
        assert_eq!(read(ValueRef::Real(5.0)), None);
        assert!(read(ValueRef::Integer(i64::MIN)).is_some(), "no overflow");
    }

    /// The expressions say the same as the reading.
    #[test]
    fn sql_reads_codes_alike() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE log (table_id)").unwrap();
        for (table_id, kind) in [(0, 0), (3, 0), (31, 0), (0, 4)]
            .into_iter()
            .chain(KINDS.map(|kind| (3, kind)).into_iter().chain(KINDS.map(|kind| (24, kind))))
        {
            let code = encode(table_id, kind);
            for added in ["", " 45 9", " -"] {
                let value = if added.is_empty() { "?1" } else { "?1 || ?2" };
                db.execute_batch("DELETE FROM log").unwrap();
                db.execute(
                    &format!("INSERT INTO log SELECT {value} FROM (SELECT ?2)"),
                    (code, added),
                )
                .unwrap();
                let own = of_table(3);
                let sql =
                    format!("SELECT {CODE}, {IS_PUBLISH}, {IS_FORGOTTEN}, {own}, {KIND} FROM log");
                let seen: (i64, bool, bool, bool, i64) = db
                    .query_row(&sql, [], |r| {
                        Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
                    })
                    .unwrap();
                let is_publish = kind == KIND_PUBLISH && added.is_empty();
                let known = (code, is_publish, added == " -", table_id == 3, kind);
                assert_eq!(seen, known, "{code}{added}");
            }
        }
    }
}
