//! The table `__harmonylite__comparison`: tables whose rows are to be compared with the digests
//! beside their versions.

use crate::db::connection::DatabaseError;
use rusqlite::{Connection, OptionalExtension, params};

/// What is to be done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every change is logged; only the digests have to be made anew, because they count a column
    /// that is gone.
    Refresh = 0,
    /// The triggers were away: a row with another digest has changed.
    Compare = 1,
    /// The triggers were away, and the digests count a column that is gone: a row with another
    /// digest may have changed.
    CompareLoosely = 2,
}

/// A table that is to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Its number.
    pub table_id: i64,
    /// When its triggers were found missing, unix milliseconds: the time of the changes.
    pub time_ms: i64,
    /// What is to be done.
    pub kind: Kind,
    /// Columns with this number or a higher one are new since the digests were made.
    pub new_from: u32,
    /// Log entries up to here are from before the triggers were back.
    pub logged_upto: i64,
}

/// Notes a comparison. One that is noted already keeps its time, and the stricter of both remains.
///
/// # Errors
/// What SQLite reports.
pub fn note(db: &Connection, comparison: Comparison) -> Result<(), DatabaseError> {
    let Comparison { table_id, time_ms, kind, new_from, logged_upto } = comparison;
    // A refresh that was not finished leaves digests that count a column that is gone.
    let known: Option<i64> = db
        .query_row(
            "SELECT kind FROM main.__harmonylite__comparison WHERE table_id = ?1",
            [table_id],
            |r| r.get(0),
        )
        .optional()?;
    let kind = match known {
        Some(known) if known != kind as i64 => Kind::CompareLoosely,
        _ => kind,
    };
    db.execute(
        "INSERT INTO main.__harmonylite__comparison (table_id, time, kind, new_from, logged_upto) \
        VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (table_id) DO UPDATE SET kind = excluded.kind, \
        new_from = min(new_from, excluded.new_from), logged_upto = excluded.logged_upto",
        params![table_id, time_ms, kind as i64, new_from, logged_upto],
    )?;
    Ok(())
}

/// The comparisons to be made, in order.
///
/// # Errors
/// SQLite's error.
pub fn read(db: &Connection) -> Result<Vec<Comparison>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT table_id, time, kind, new_from, logged_upto FROM main.__harmonylite__comparison \
        ORDER BY table_id",
    )?;
    let rows = read.query_map([], |r| {
        Ok(Comparison {
            table_id: r.get(0)?,
            time_ms: r.get(1)?,
            kind: match r.get::<_, i64>(2)? {
                0 => Kind::Refresh,
                1 => Kind::Compare,
                _ => Kind::CompareLoosely,
            },
            new_from: r.get(3)?,
            logged_upto: r.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Lets all comparisons be without findings: the triggers were away while only this program wrote.
/// The digests are made anew.
///
/// # Errors
/// SQLite's error.
pub fn settle(db: &Connection) -> Result<(), DatabaseError> {
    let refresh = Kind::Refresh as i64;
    db.execute("UPDATE main.__harmonylite__comparison SET kind = ?1", [refresh])?;
    Ok(())
}

/// Removes a comparison that is done.
///
/// # Errors
/// What SQLite reports.
pub fn remove(db: &Connection, table_id: i64) -> Result<(), DatabaseError> {
    db.execute("DELETE FROM main.__harmonylite__comparison WHERE table_id = ?1", [table_id])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn comparison(time_ms: i64, kind: Kind, new_from: u32, logged_upto: i64) -> Comparison {
        Comparison { table_id: 3, time_ms, kind, new_from, logged_upto }
    }

    #[test]
    fn the_first_time_and_the_oldest_columns_remain() {
        for (first, second, both) in [
            (Kind::Compare, Kind::Compare, Kind::Compare),
            (Kind::Refresh, Kind::Refresh, Kind::Refresh),
            (Kind::Refresh, Kind::Compare, Kind::CompareLoosely),
            (Kind::Compare, Kind::Refresh, Kind::CompareLoosely),
            (Kind::CompareLoosely, Kind::Compare, Kind::CompareLoosely),
        ] {
            let db = test_database();
            assert_eq!(read(&db).unwrap(), []);
            note(&db, comparison(5, first, 4, 10)).unwrap();
            assert_eq!(read(&db).unwrap(), [comparison(5, first, 4, 10)]);
            note(&db, comparison(9, second, 6, 20)).unwrap();
            assert_eq!(read(&db).unwrap(), [comparison(5, both, 4, 20)], "{first:?} {second:?}");
            remove(&db, 3).unwrap();
            assert_eq!(read(&db).unwrap(), []);
        }
    }
}
