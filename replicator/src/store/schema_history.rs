//! The table `__harmonylite__schema_history`: the shapes that each table has had, by the hash of
//! its schema.

use crate::db::connection::DatabaseError;
use crate::db::shape::Shape;
use crate::model::batch::Digest;
use rusqlite::{Connection, params};

/// Former shapes that are kept of a table. Batches of older ones are held until their origin has
/// the present one.
const SHAPES_MAX: i64 = 16;

/// A shape that a table has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptShape {
    /// The hash of the schema.
    pub hash: Digest,
    /// The shape.
    pub shape: Shape,
    /// Log entries up to here were written before the sidecar had followed the change to it.
    pub logged_upto: i64,
}

/// Stores the present shape of a table, as the newest whatever the clock shows; drops the oldest
/// beyond 16 former ones.
///
/// # Errors
/// What SQLite reports.
pub fn put(
    db: &Connection,
    table_id: i64,
    kept: &KeptShape,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__schema_history (table_id, hash, time, logged_upto, shape)
         VALUES (?1, ?2, max(?3, (SELECT coalesce(max(time) + 1, 0) FROM \
         main.__harmonylite__schema_history WHERE table_id = ?1)), ?4, ?5)
         ON CONFLICT (table_id, hash) DO UPDATE SET time = excluded.time, logged_upto = \
         excluded.logged_upto, shape = excluded.shape",
        params![table_id, kept.hash, now_ms, kept.logged_upto, text_of(&kept.shape)?],
    )?;
    db.execute(
        "DELETE FROM main.__harmonylite__schema_history WHERE table_id = ?1 AND hash IN (SELECT \
        hash FROM main.__harmonylite__schema_history WHERE table_id = ?1 AND hash <> ?2 ORDER BY \
        time DESC LIMIT -1 OFFSET ?3)",
        params![table_id, kept.hash, SHAPES_MAX],
    )?;
    Ok(())
}

/// The present shape of a table, or the last one of a table that is gone.
///
/// # Errors
/// As [`read`].
pub fn newest(db: &Connection, table_id: i64) -> Result<Option<KeptShape>, DatabaseError> {
    Ok(read_newest(db, table_id, 1)?.into_iter().next())
}

/// All shapes of a table with their hashes, the newest first.
///
/// # Errors
/// What SQLite reports; a text that is not ours.
pub fn read(db: &Connection, table_id: i64) -> Result<Vec<KeptShape>, DatabaseError> {
    read_newest(db, table_id, -1)
}

fn read_newest(db: &Connection, table_id: i64, n: i64) -> Result<Vec<KeptShape>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT hash, shape, logged_upto FROM main.__harmonylite__schema_history WHERE \
        table_id = ?1 ORDER BY time DESC LIMIT ?2",
    )?;
    let rows = read.query_map([table_id, n], |r| {
        let text: String = r.get(1)?;
        let shape = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                1,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })?;
        Ok(KeptShape { hash: r.get(0)?, shape, logged_upto: r.get(2)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn text_of(shape: &Shape) -> Result<String, DatabaseError> {
    serde_json::to_string(shape)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    fn kept(hash: u8, name: &str) -> KeptShape {
        let shape = Shape {
            name: name.to_owned(),
            columns: Vec::new(),
            key: vec!["a \"b\"".to_owned()],
            key_collations: Vec::new(),
            unique: Vec::new(),
            next_id: 1,
        };
        KeptShape { hash: [hash; 32], shape, logged_upto: i64::from(hash) }
    }

    #[test]
    fn the_newest_shapes_are_kept_of_each_table() {
        let db = test_database();
        put(&db, 2, &kept(0, "other"), 0).unwrap();
        // The clock shows the same time, and then an earlier one.
        for i in 0..30_u8 {
            put(&db, 1, &kept(i, &i.to_string()), i64::from(i / 20)).unwrap();
        }
        let mut hashes: Vec<u8> = read(&db, 1).unwrap().iter().map(|k| k.hash[0]).collect();
        assert_eq!(hashes[0], 29);
        hashes.sort_unstable();
        assert_eq!(hashes, (13..30).collect::<Vec<u8>>());
        assert_eq!(read(&db, 2).unwrap(), [kept(0, "other")]);
        put(&db, 2, &kept(0, "again"), 1).unwrap();
        assert_eq!(read(&db, 2).unwrap(), [kept(0, "again")]);
        assert_eq!(newest(&db, 1).unwrap(), Some(kept(29, "29")));
        assert_eq!(newest(&db, 3).unwrap(), None);
    }
}
