//! The table `__harmonylite__change_log`: the rows that need a version or are to be published.
//!
//! Triggers write it; fold reads it. An entry holds the key of its row in `key0`, `key1`, and so
//! on. The longest key of a replicated table decides how many of these columns exist. What
//! `table_id` holds is in [`super::entry_code`].

use super::entry_code::{
    Added, CODE, EntryCode, IS_FORGOTTEN, IS_PUBLISH, KIND_CHANGED, KIND_DISPLACED, KIND_FOUND,
    KIND_PUBLISH, KIND_SCHEMA, encode, of_table,
};
use super::meta;
use crate::db::connection::DatabaseError;
use crate::db::sql::key_columns;
use crate::model::batch::{LogMark, Value};
use crate::model::ids::Version;
use rusqlite::{
    Connection, OptionalExtension, Row, params_from_iter,
    types::{FromSql, FromSqlResult, ValueRef},
};
use std::ops::Range;
use xxhash_rust::xxh3::Xxh3Default;

/// The table's name, for statements that also use a table of the application.
pub const NAME: &str = "__harmonylite__change_log";

/// An entry of the log.
pub struct LogEntry<'a> {
    /// Its number.
    pub id: i64,
    /// When it was logged, unix milliseconds.
    pub time_ms: i64,
    /// The number of its table ([`super::tables`]).
    pub table_id: i64,
    /// One of the `KIND_` values above.
    pub kind: i64,
    /// The version before the change, if absorb has stored it.
    pub previous: Option<Version>,
    row: &'a Row<'a>,
}

/// The `time` of an entry in unix milliseconds, as an SQL expression; see [`TimeMs`].
const TIME_MS: &str = "CASE typeof(time) WHEN 'real' THEN CAST(time * 86400000 - \
                       210866759999999.5 AS INTEGER) ELSE time END";

/// The `time` of an entry in unix milliseconds. A trigger writes a Julian day as a float, which
/// tells milliseconds apart.
struct TimeMs(i64);

impl FromSql for TimeMs {
    fn column_result(time: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(match time {
            ValueRef::Real(days) => (days * 86_400_000.0 - 210_866_760_000_000.0).round() as i64,
            ms => ms.as_i64()?,
        }))
    }
}

/// The number of columns before the key in the SELECT of [`for_each`].
const BEFORE_KEY: usize = 3;

impl LogEntry<'_> {
    /// Reads the key of its row, which has `length` columns, into the memory of another one.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read_key(&self, length: usize, key: &mut Vec<Value>) -> Result<(), DatabaseError> {
        key.resize(length, Value::Null);
        for (i, value) in key.iter_mut().enumerate() {
            value.assign(self.row.get_ref(BEFORE_KEY + i)?);
        }
        Ok(())
    }
}

/// Calls `visit` for the entries after `after` up to `upto`, in the order of the log, except those
/// that count no more.
/// `key_columns_max` is the length of the longest key.
///
/// # Errors
/// The error of SQLite or of `visit`.
pub fn for_each(
    db: &Connection,
    key_columns_max: usize,
    after: i64,
    upto: i64,
    mut visit: impl FnMut(&LogEntry<'_>) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut read = db.prepare_cached(&format!(
        "SELECT id, time, table_id, {} FROM main.__harmonylite__change_log WHERE id > ?1 AND id <= \
        ?2 ORDER BY id",
        key_columns(key_columns_max).join(", ")
    ))?;
    let mut rows = read.query([after, upto])?;
    while let Some(row) = rows.next()? {
        let code: EntryCode = row.get(2)?;
        let previous = match code.added {
            Added::Nothing => None,
            Added::Previous(version) => Some(version),
            Added::Forgotten => continue,
        };
        visit(&LogEntry {
            id: row.get(0)?,
            time_ms: row.get::<_, TimeMs>(1)?.0,
            table_id: code.table_id,
            kind: code.kind,
            previous,
            row,
        })?;
    }
    Ok(())
}

/// Calls `visit` for every change after an entry, with its kind, its table's number and its key
/// columns.
///
/// # Errors
/// The error of SQLite or of `visit`.
pub fn for_each_change_after(
    db: &Connection,
    key_columns_max: usize,
    after: i64,
    mut visit: impl FnMut(i64, i64, &[Value]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut read = db.prepare_cached(&format!(
        "SELECT table_id, {} FROM main.__harmonylite__change_log WHERE id > ?1",
        key_columns(key_columns_max).join(", ")
    ))?;
    let mut rows = read.query([after])?;
    while let Some(row) = rows.next()? {
        let code: EntryCode = row.get(0)?;
        if code.kind == KIND_PUBLISH || code.added == Added::Forgotten {
            continue;
        }
        let key: Vec<Value> = (0..key_columns_max)
            .map(|i| row.get_ref(1 + i).map(Value::from))
            .collect::<rusqlite::Result<_>>()?;
        visit(code.kind, code.table_id, &key)?;
    }
    Ok(())
}

/// Returns the last number in the log; 0 if the log is empty.
///
/// # Errors
/// SQLite's error.
pub fn log_end(db: &Connection) -> Result<i64, DatabaseError> {
    Ok(db
        .prepare_cached("SELECT coalesce(max(id), 0) FROM main.__harmonylite__change_log")?
        .query_row([], |r| r.get(0))?)
}

/// Returns the mark of an entry; None if the log does not have it. What is added to it later, and
/// columns without a value, do not count.
///
/// # Errors
/// SQLite's error.
pub fn mark(db: &Connection, id: i64) -> Result<Option<LogMark>, DatabaseError> {
    read_mark(db, "SELECT * FROM main.__harmonylite__change_log WHERE id = ?1", &[id])
}

/// Returns the mark of the last entry; None if the log is empty.
///
/// # Errors
/// SQLite's error.
pub fn end_mark(db: &Connection) -> Result<Option<LogMark>, DatabaseError> {
    let last = "SELECT * FROM main.__harmonylite__change_log ORDER BY id DESC LIMIT 1";
    read_mark(db, last, &[])
}

fn read_mark(db: &Connection, sql: &str, id: &[i64]) -> Result<Option<LogMark>, DatabaseError> {
    let mut read = db.prepare_cached(sql)?;
    let mut rows = read.query(params_from_iter(id))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    // Only now: the first step compiles a kept statement again if the log has got more columns.
    let names: Vec<String> = row.as_ref().column_names().map(str::to_owned).collect();
    let id = row.get("id")?;
    let mut hash = Xxh3Default::new();
    for (i, name) in names.iter().enumerate() {
        if name == "table_id" {
            // As two columns, which they were: the mark of an entry outlives the program.
            let code: EntryCode = row.get(i)?;
            add_to_mark(&mut hash, name, ValueRef::Integer(code.table_id));
            add_to_mark(&mut hash, "kind", ValueRef::Integer(code.kind));
        } else {
            add_to_mark(&mut hash, name, row.get_ref(i)?);
        }
    }
    Ok(Some(LogMark { id, hash: hash.digest() }))
}

fn add_to_mark(hash: &mut Xxh3Default, name: &str, value: ValueRef<'_>) {
    let (kind, bytes): (u8, &[u8]) = match value {
        ValueRef::Null => return,
        ValueRef::Integer(n) => (1, &n.to_le_bytes()),
        ValueRef::Real(x) => (2, &x.to_bits().to_le_bytes()),
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(blob) => (4, blob),
    };
    hash.update(name.as_bytes());
    hash.update(&[0, kind]);
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Returns the lowest time that the rows of these entries can have, unix milliseconds; None without
/// entries. A row that is only to be published can be of any time.
///
/// # Errors
/// SQLite's error.
pub fn lowest_ms(db: &Connection, after: i64, upto: i64) -> Result<Option<i64>, DatabaseError> {
    let mut read = db.prepare_cached(&format!(
        "SELECT min(CASE WHEN {IS_PUBLISH} THEN 0 ELSE {TIME_MS} END) FROM \
        main.__harmonylite__change_log WHERE id > ?1 AND id <= ?2"
    ))?;
    Ok(read.query_row([after, upto], |r| r.get(0))?)
}

/// Returns when the oldest change was logged that this database has not published, unix
/// milliseconds; None if all are, as far as it knows.
///
/// # Errors
/// SQLite's error.
pub fn unpublished_since(db: &Connection) -> Result<Option<i64>, DatabaseError> {
    let published = meta::get(db, meta::PUBLISHED)?.unwrap_or(0);
    let mut read = db.prepare_cached(&format!(
        "SELECT min({TIME_MS}) FROM main.__harmonylite__change_log WHERE id > ?1 AND time > 0 AND \
        NOT {IS_PUBLISH}"
    ))?;
    Ok(read.query_row([published], |r| r.get(0))?)
}

/// Returns the number of the n-th entry (from 1) after `after`; None if there are fewer.
///
/// # Errors
/// SQLite's error.
pub fn nth_entry(db: &Connection, after: i64, n: u64) -> Result<Option<i64>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT id FROM main.__harmonylite__change_log WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2",
    )?;
    let offset = i64::try_from(n.saturating_sub(1)).unwrap_or(i64::MAX);
    Ok(read.query_row([after, offset], |r| r.get(0)).optional()?)
}

/// Removes the entries up to `upto`, except the last of the log: new numbers continue from it.
///
/// # Errors
/// SQLite's error.
pub fn delete_published(db: &Connection, upto: i64) -> Result<(), DatabaseError> {
    db.prepare_cached(
        "DELETE FROM main.__harmonylite__change_log WHERE id <= ?1 AND id < (SELECT max(id) FROM \
        main.__harmonylite__change_log)",
    )?
    .execute([upto])?;
    Ok(())
}

/// Lets the numbers continue after `last`, which is greater than all in the log: its entries get
/// numbers beyond it, and an entry of no table stands at `last`, because new numbers continue from
/// the last entry.
///
/// # Errors
/// SQLite's error.
pub fn continue_after(db: &Connection, last: i64) -> Result<(), DatabaseError> {
    db.execute("UPDATE main.__harmonylite__change_log SET id = id + ?1", [last])?;
    db.execute(
        "INSERT INTO main.__harmonylite__change_log (id, time, table_id) VALUES (?1, 0, ?2)",
        [last, encode(0, KIND_CHANGED)],
    )?;
    Ok(())
}

/// Stores with each entry the version that its row had before it.
///
/// # Errors
/// SQLite's error.
pub fn keep_previous(
    db: &Connection,
    entries: impl IntoIterator<Item = (i64, Version)>,
) -> Result<(), DatabaseError> {
    let mut keep = db.prepare_cached(&format!(
        "UPDATE main.__harmonylite__change_log SET table_id = {CODE} || ' ' || ?2 || ' ' || ?3 \
        WHERE id = ?1"
    ))?;
    for (id, previous) in entries {
        keep.execute((id, previous.hlc, previous.site))?;
    }
    Ok(())
}

/// Lets changes that are absorbed and not published go out with the versions that they have,
/// whichever site they are of. `from` is the last published entry, `upto` the last absorbed one.
///
/// # Errors
/// SQLite's error.
pub fn publish_absorbed(db: &Connection, from: i64, upto: i64) -> Result<(), DatabaseError> {
    let publish = encode(0, KIND_PUBLISH).unsigned_abs();
    let sql = format!(
        "UPDATE main.__harmonylite__change_log SET table_id = -(CASE WHEN {CODE} < 0 THEN -{CODE} \
        & ~7 ELSE {CODE} << 3 END | {publish}) WHERE id > ?1 AND id <= ?2 AND ({CODE} >= 0 OR \
        -{CODE} & 7 IN ({KIND_DISPLACED}, {KIND_FOUND})) AND NOT {IS_FORGOTTEN}"
    );
    db.execute(&sql, (from, upto))?;
    Ok(())
}

/// Gives the time `now_ms` to the changes after `after` whose time is one of `times_ms`. Returns
/// their number.
///
/// # Errors
/// SQLite's error.
pub fn restamp(
    db: &Connection,
    after: i64,
    times_ms: Range<i64>,
    now_ms: i64,
) -> Result<usize, DatabaseError> {
    Ok(db.execute(
        &format!(
            "UPDATE main.__harmonylite__change_log SET time = ?1 WHERE id > ?2 AND NOT \
            {IS_PUBLISH} AND {TIME_MS} >= ?3 AND {TIME_MS} < ?4"
        ),
        (now_ms, after, times_ms.start, times_ms.end),
    )?)
}

/// The entries that wait for publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The number of waiting entries.
    pub entries: u64,
    /// The time of the oldest one, unix milliseconds. Entries without a time (time 0) do not count.
    /// 0 if no entry has a time.
    pub oldest_ms: i64,
}

/// Reads the entries after the last published one.
///
/// # Errors
/// SQLite's error.
pub fn pending(db: &Connection, published: i64) -> Result<Pending, DatabaseError> {
    let mut read = db.prepare_cached(&format!(
        "SELECT count(*), coalesce(min(CASE WHEN time > 0 THEN {TIME_MS} END), 0) FROM \
        main.__harmonylite__change_log WHERE id > ?1"
    ))?;
    Ok(read.query_row([published], |r| {
        Ok(Pending { entries: r.get::<_, i64>(0)?.cast_unsigned(), oldest_ms: r.get(1)? })
    })?)
}

/// Logs that the schema changed. Returns the number of the entry.
///
/// # Errors
/// SQLite's error.
pub fn note_schema_change(db: &Connection, now_ms: i64) -> Result<i64, DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__change_log (time, table_id) VALUES (?1, ?2)",
        (now_ms, encode(0, KIND_SCHEMA)),
    )?;
    Ok(db.last_insert_rowid())
}

/// Logs a row for publication. Its version is already stored.
///
/// # Errors
/// SQLite's error.
pub fn publish_row(db: &Connection, table_id: i64, key: &[Value]) -> Result<(), DatabaseError> {
    let places: Vec<String> = (1..=key.len()).map(|i| format!("?{i}")).collect();
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO main.__harmonylite__change_log (time, table_id, {}) VALUES (0, {}, {})",
        key_columns(key.len()).join(", "),
        encode(table_id, KIND_PUBLISH),
        places.join(", ")
    ))?;
    insert.execute(params_from_iter(key))?;
    Ok(())
}

/// Logs selected rows of a table for publication, and returns their number. `keys` are the
/// expressions of the key, `from` is the rest of the SELECT from FROM on, and `values` are its
/// parameters.
///
/// # Errors
/// SQLite's error.
pub fn publish_rows(
    db: &Connection,
    table_id: i64,
    keys: &[String],
    from: &str,
    values: &[Value],
) -> Result<usize, DatabaseError> {
    log_rows(db, table_id, (KIND_PUBLISH, "0"), keys, from, values)
}

/// As [`publish_rows`], with entries of a kind and a time; the time is an SQL expression.
///
/// # Errors
/// SQLite's error.
pub fn log_rows(
    db: &Connection,
    table_id: i64,
    (kind, time): (i64, &str),
    keys: &[String],
    from: &str,
    values: &[Value],
) -> Result<usize, DatabaseError> {
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO main.__harmonylite__change_log (time, table_id, {}) SELECT {time}, {}, {} {}",
        key_columns(keys.len()).join(", "),
        encode(table_id, kind),
        keys.join(", "),
        from
    ))?;
    Ok(insert.execute(params_from_iter(values))?)
}

/// Adds the columns for keys of this length.
///
/// # Errors
/// SQLite's error.
pub fn widen(db: &Connection, columns: usize) -> Result<(), DatabaseError> {
    for i in key_columns_present(db)?..columns {
        db.execute_batch(&format!("ALTER TABLE main.__harmonylite__change_log ADD COLUMN key{i}"))?;
    }
    Ok(())
}

pub(super) fn key_columns_present(db: &Connection) -> Result<usize, DatabaseError> {
    Ok(db.query_row(
        "SELECT count(*) FROM pragma_table_info('__harmonylite__change_log', 'main') WHERE name \
        LIKE 'key%'",
        [],
        |r| r.get::<_, i64>(0).map(|n| usize::try_from(n).unwrap_or(0)),
    )?)
}

/// Lets the entries of a table that are not published yet count no more: its rows have another key
/// now. The entries stay, because their numbers are not used again, and the last one that was
/// published is recognised by its content. Returns how many there are.
///
/// # Errors
/// SQLite's error.
pub fn forget_unpublished(db: &Connection, table_id: i64) -> Result<usize, DatabaseError> {
    let sql = format!(
        "UPDATE main.__harmonylite__change_log SET table_id = {CODE} || ' -' WHERE {} AND id > \
        coalesce((SELECT value FROM main.__harmonylite__meta WHERE key = 'published'), 0)",
        of_table(table_id)
    );
    Ok(db.execute(&sql, [])?)
}

#[cfg(test)]
#[path = "change_log_tests.rs"]
mod tests;
