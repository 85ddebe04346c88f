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
}

/// Notes a comparison. One that is noted already keeps its time, and the stricter of both remains.
///
/// # Errors
/// What SQLite reports.
pub fn note(db: &Connection, comparison: Comparison) -> Result<(), DatabaseError> {
    let Comparison { table_id, time_ms, kind, new_from } = comparison;
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
        "INSERT INTO main.__harmonylite__comparison (table_id, time, kind, new_from) VALUES (?1, \
        ?2, ?3, ?4) ON CONFLICT (table_id) DO UPDATE SET kind = excluded.kind, new_from = \
        min(new_from, excluded.new_from)",
        params![table_id, time_ms, kind as i64, new_from],
    )?;
    Ok(())
}

/// The comparison to be made next.
///
/// # Errors
/// What SQLite reports.
pub fn next(db: &Connection) -> Result<Option<Comparison>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT table_id, time, kind, new_from FROM main.__harmonylite__comparison ORDER BY \
        table_id LIMIT 1",
    )?;
    let found = read.query_row([], |r| {
        Ok(Comparison {
            table_id: r.get(0)?,
            time_ms: r.get(1)?,
            kind: match r.get::<_, i64>(2)? {
                0 => Kind::Refresh,
                1 => Kind::Compare,
                _ => Kind::CompareLoosely,
            },
            new_from: r.get(3)?,
        })
    });
    Ok(found.optional()?)
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

    fn comparison(time_ms: i64, kind: Kind, new_from: u32) -> Comparison {
        Comparison { table_id: 3, time_ms, kind, new_from }
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
            assert_eq!(next(&db).unwrap(), None);
            note(&db, comparison(5, first, 4)).unwrap();
            assert_eq!(next(&db).unwrap(), Some(comparison(5, first, 4)));
            note(&db, comparison(9, second, 6)).unwrap();
            assert_eq!(next(&db).unwrap(), Some(comparison(5, both, 4)), "{first:?} {second:?}");
            remove(&db, 3).unwrap();
            assert_eq!(next(&db).unwrap(), None);
        }
    }
}
