//! Keeps the losing content of a conflict, so that no write disappears without a trace.
//!
//! Arrives: the losing and the winning version of a row, and the losing content. Leaves: one entry
//! in `__harmonylite__conflict` for each losing version; beyond the bound the oldest entries are
//! dropped. It is written in the transaction that applies the winner, so a crash leaves both or
//! none.

use super::meta;
use crate::db::connection::DatabaseError;
use crate::db::ids::version_from;
use crate::db::layout::TableLayout;
use crate::db::sql::literal;
use crate::model::batch::Value;
use crate::model::ids::Version;
use rusqlite::{Connection, params};

/// A loss to record.
#[derive(Debug)]
pub struct Loss<'a> {
    /// The table.
    pub table: &'a TableLayout,
    /// The key of the row.
    pub key: &'a [Value],
    /// The kind of the conflict, for people.
    pub reason: &'static str,
    /// The winning version.
    pub winner: Version,
    /// The losing version.
    pub loser: Version,
    /// The losing content by column; None if a delete lost.
    pub content: Option<Vec<(&'a str, LostValue<'a>)>>,
}

/// A value of a losing row.
#[derive(Clone, Copy, Debug)]
pub enum LostValue<'a> {
    /// The value.
    Whole(&'a Value),
    /// Only its bytes, because the journal does not keep it.
    Size(u64),
}

/// Two nodes wrote the row, and neither had seen the other's write.
pub const CONCURRENT: &str = "concurrent writes";
/// Two nodes inserted different rows under one key.
pub const INSERTED_TWICE: &str = "inserted twice";
/// Two rows had the same value in a unique index.
pub const UNIQUE_CLASH: &str = "unique clash";
/// The row existed before this database joined, and the cluster had another content.
pub const JOINED_OVER: &str = "joined with another content";

/// The bounds of the journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalBounds {
    /// The most entries.
    pub entries_max: u64,
    /// The most bytes of all entries. The newest entry stays, whatever its size.
    pub bytes_max: u64,
}

impl JournalBounds {
    /// A larger value is not kept. As a literal it may have twice the bytes, and this is what the
    /// journal holds; and applying a row takes enough memory without copies of what it replaces.
    pub fn value_bytes_max(self) -> usize {
        usize::try_from(self.bytes_max / 2).unwrap_or(usize::MAX).max(VALUE_BYTES_MIN)
    }
}

/// A value of so many bytes is always kept.
const VALUE_BYTES_MIN: usize = 1 << 20;

/// Stands in place of the literal of a value that is not kept, before its size. No literal begins
/// like this.
pub const TOO_LARGE: &str = "(not kept: ";

/// What an entry costs beside its content, about.
const ENTRY_BYTES: usize = 200;

/// Adds a new entry to the size of the journal, and drops the oldest entries if it is too large.
/// The stored size is never below the true one; it is computed only when it exceeds the bound.
fn bound_bytes(db: &Connection, added: u64, bytes_max: u64) -> Result<(), DatabaseError> {
    let mut bytes = meta::get(db, meta::CONFLICT_BYTES)?.unwrap_or(0).cast_unsigned() + added;
    if bytes > bytes_max {
        bytes = drop_oldest(db, bytes_max)?;
    }
    meta::set(db, meta::CONFLICT_BYTES, bytes.cast_signed())
}

/// Drops the oldest entries until the others have an eighth less than the bound, so that this is
/// rare. Returns the bytes of those that stay.
fn drop_oldest(db: &Connection, bytes_max: u64) -> Result<u64, DatabaseError> {
    let mut read = db.prepare_cached(&format!(
        "SELECT id, coalesce(octet_length(loser), 0) + {ENTRY_BYTES} FROM \
        main.__harmonylite__conflict ORDER BY id DESC"
    ))?;
    let mut rows = read.query([])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let (id, size): (i64, i64) = (row.get(0)?, row.get(1)?);
        if bytes > 0 && bytes + size.cast_unsigned() > bytes_max - bytes_max / 8 {
            drop(rows);
            db.prepare_cached("DELETE FROM main.__harmonylite__conflict WHERE id <= ?1")?
                .execute([id])?;
            break;
        }
        bytes += size.cast_unsigned();
    }
    Ok(bytes)
}

/// Records a loss, and drops the oldest entries beyond the bounds. False if the loss is already
/// recorded.
///
/// # Errors
/// SQLite's error.
pub fn record(
    db: &Connection,
    loss: &Loss<'_>,
    now_ms: i64,
    bounds: JournalBounds,
) -> Result<bool, DatabaseError> {
    let most = bounds.value_bytes_max();
    let content = loss.content.as_ref().map(|c| as_json(c.iter().copied(), most));
    let written = db
        .prepare_cached(
            "INSERT OR IGNORE INTO main.__harmonylite__conflict
             (time, table_name, key, reason, winner_hlc, winner_site, loser_hlc, loser_site, \
             loser) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            now_ms,
            loss.table.name(),
            key_text(loss.table, loss.key),
            loss.reason,
            loss.winner.hlc,
            loss.winner.site,
            loss.loser.hlc,
            loss.loser.site,
            content
        ])?;
    if written > 0 {
        let oldest = db.last_insert_rowid().saturating_sub(bounds.entries_max.cast_signed());
        db.prepare_cached("DELETE FROM main.__harmonylite__conflict WHERE id <= ?1")?
            .execute([oldest])?;
        let size = content.map_or(0, |c| c.len()) + ENTRY_BYTES;
        bound_bytes(db, size as u64, bounds.bytes_max)?;
    }
    Ok(written > 0)
}

/// Returns a key as JSON: column -> SQL literal. People can read it, and it finds the row.
pub fn key_text(table: &TableLayout, key: &[Value]) -> String {
    let values = key.iter().map(LostValue::Whole);
    as_json(table.schema.key.iter().map(|k| k.name.as_str()).zip(values), usize::MAX)
}

/// Returns columns and values as a JSON object of SQL literals: readable, and exact to the byte. A
/// value of more bytes than `most` only has its size there.
fn as_json<'a>(pairs: impl Iterator<Item = (&'a str, LostValue<'a>)>, most: usize) -> String {
    let size = |bytes: u64| format!("{TOO_LARGE}{bytes} bytes)");
    let text = |value: LostValue<'_>| match value {
        LostValue::Size(bytes) => size(bytes),
        LostValue::Whole(Value::Text(bytes) | Value::Blob(bytes)) if bytes.len() > most => {
            size(bytes.len() as u64)
        }
        LostValue::Whole(value) => literal(value),
    };
    let map: serde_json::Map<String, serde_json::Value> =
        pairs.map(|(n, v)| (n.to_owned(), text(v).into())).collect();
    serde_json::Value::Object(map).to_string()
}

/// One entry of the journal, as shown to people.
#[derive(Debug, serde::Serialize)]
pub struct Conflict {
    /// Its number, for `harmonylite conflicts restore`.
    pub id: i64,
    /// When it was noticed, unix milliseconds.
    pub time_ms: i64,
    /// The table.
    pub table: String,
    /// The key as JSON of SQL literals.
    pub key: String,
    /// The kind of the conflict.
    pub reason: String,
    /// The winning version, as text.
    pub winner: String,
    /// The losing version, as text.
    pub loser: String,
    /// The losing content, as JSON of SQL literals; None if a delete lost.
    pub content: Option<String>,
}

/// Returns the newest entries of the journal, newest first.
///
/// # Errors
/// SQLite's error.
pub fn list(db: &Connection, most: i64) -> Result<Vec<Conflict>, DatabaseError> {
    let mut read = db.prepare(
        "SELECT id, time, table_name, key, reason, loser, winner_hlc, winner_site, loser_hlc, \
        loser_site
         FROM main.__harmonylite__conflict ORDER BY id DESC LIMIT ?1",
    )?;
    let rows = read.query_map([most], |r| {
        Ok(Conflict {
            id: r.get(0)?,
            time_ms: r.get(1)?,
            table: r.get(2)?,
            key: r.get(3)?,
            reason: r.get(4)?,
            content: r.get(5)?,
            winner: version_from(r, 6)?.to_string(),
            loser: version_from(r, 8)?.to_string(),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns the number of conflicts in the journal.
///
/// # Errors
/// SQLite's error.
pub fn count(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db
        .prepare_cached("SELECT count(*) FROM main.__harmonylite__conflict")?
        .query_row([], |r| r.get(0))?)
}

/// Returns the tables with rows that were inserted twice, and the number of entries of each.
///
/// # Errors
/// SQLite's error.
pub fn inserted_twice(db: &Connection) -> Result<Vec<(String, u64)>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT table_name, count(*) FROM main.__harmonylite__conflict WHERE reason = ?1 GROUP BY \
        table_name ORDER BY table_name",
    )?;
    let rows =
        read.query_map([INSERTED_TWICE], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.cast_unsigned())))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Removes one conflict.
///
/// # Errors
/// SQLite's error.
pub fn remove(db: &Connection, id: i64) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__conflict WHERE id = ?1", [id])?;
    Ok(())
}

/// Removes all conflicts, and returns their number.
///
/// # Errors
/// SQLite's error.
pub fn clear(db: &Connection) -> Result<usize, DatabaseError> {
    Ok(db.execute("DELETE FROM main.__harmonylite__conflict", [])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_size_of_a_value_is_kept_that_alone_would_fill_the_journal() {
        let bounds = JournalBounds { entries_max: 9, bytes_max: 4 << 20 };
        let most = bounds.value_bytes_max();
        for (bytes, kept) in [(2 << 20, true), ((2 << 20) + 1, false)] {
            for value in [Value::Blob(vec![7; bytes]), Value::Text(vec![b'x'; bytes])] {
                let row = [("a", &Value::Integer(1)), ("b", &value)];
                let json = as_json(row.map(|(n, v)| (n, LostValue::Whole(v))).into_iter(), most);
                let map: serde_json::Value = serde_json::from_str(&json).unwrap();
                assert_eq!(map["a"], "1");
                let b = map["b"].as_str().unwrap();
                assert_eq!(b == literal(&value), kept);
                assert_eq!(b == format!("(not kept: {bytes} bytes)"), !kept);
            }
        }
        let small = JournalBounds { entries_max: 9, bytes_max: 10 };
        assert_eq!(small.value_bytes_max(), VALUE_BYTES_MIN, "rows of ordinary size stay whole");
    }

    #[test]
    fn the_journal_is_bounded_in_bytes_and_keeps_the_newest() {
        let db = crate::store::test_database();
        let add = |bytes: usize| {
            db.execute(
                "INSERT INTO main.__harmonylite__conflict (time, table_name, key, reason, \
                winner_hlc, winner_site, loser_hlc, loser_site, loser) VALUES (1, 't', \
                random(), '', 1, 1, 1, 1, ?1)",
                ["x".repeat(bytes)],
            )
            .unwrap();
            bound_bytes(&db, (bytes + ENTRY_BYTES) as u64, 10_000).unwrap();
            let sum = "SELECT sum(length(loser)) FROM main.__harmonylite__conflict";
            (count(&db).unwrap(), db.query_row(sum, [], |r| r.get::<_, i64>(0)).unwrap())
        };
        for i in 0..200 {
            let (entries, bytes) = add(800);
            assert!(bytes <= 10_000 && entries >= 7.min(i + 1), "{i}: {entries} of {bytes} bytes");
        }
        assert_eq!(add(50_000), (1, 50_000), "the newest stays, whatever its size");
        assert_eq!(add(100), (1, 100));
    }
}
