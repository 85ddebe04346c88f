//! The table `__harmonylite__schema_history`: the shapes that each table has had, by the hash of
//! its schema.

use crate::db::connection::DatabaseError;
use crate::db::shape::Shape;
use crate::model::batch::Digest;
use rusqlite::{Connection, params};

/// Former shapes that are kept of a table. Batches of older ones are held until their origin has
/// the present one.
const SHAPES_MAX: i64 = 16;

/// Stores the present shape of a table, as the newest whatever the clock shows; drops the oldest beyond [`SHAPES_MAX`].
///
/// # Errors
/// What SQLite reports.
pub fn put(
    db: &Connection,
    table_id: i64,
    hash: Digest,
    shape: &Shape,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    db.execute(
        "INSERT INTO main.__harmonylite__schema_history (table_id, hash, time, shape) VALUES (?1, \
        ?2, max(?3, (SELECT coalesce(max(time) + 1, 0) FROM main.__harmonylite__schema_history \
        WHERE table_id = ?1)), ?4) ON CONFLICT (table_id, hash) DO UPDATE SET time = excluded.time, shape = \
        excluded.shape",
        params![table_id, hash, now_ms, text_of(shape)?],
    )?;
    db.execute(
        "DELETE FROM main.__harmonylite__schema_history WHERE table_id = ?1 AND hash IN (SELECT \
        hash FROM main.__harmonylite__schema_history WHERE table_id = ?1 AND hash <> ?2 ORDER BY \
        time DESC LIMIT -1 OFFSET ?3)",
        params![table_id, hash, SHAPES_MAX],
    )?;
    Ok(())
}

/// The present shape of a table, or the last one of a table that is gone.
///
/// # Errors
/// As [`read`].
pub fn newest(db: &Connection, table_id: i64) -> Result<Option<(Digest, Shape)>, DatabaseError> {
    Ok(read(db, table_id)?.into_iter().next())
}

/// All shapes of a table with their hashes, the newest first.
///
/// # Errors
/// What SQLite reports; a text that is not ours.
pub fn read(db: &Connection, table_id: i64) -> Result<Vec<(Digest, Shape)>, DatabaseError> {
    let mut read = db.prepare_cached(
        "SELECT hash, shape FROM main.__harmonylite__schema_history WHERE table_id = ?1 \
        ORDER BY time DESC",
    )?;
    let rows = read.query_map([table_id], |r| {
        let text: String = r.get(1)?;
        let shape = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                1,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })?;
        Ok((r.get(0)?, shape))
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

    fn shape(name: &str) -> Shape {
        Shape {
            name: name.to_owned(),
            columns: Vec::new(),
            key: vec!["a \"b\"".to_owned()],
            unique: Vec::new(),
            next_id: 1,
        }
    }

    #[test]
    fn the_newest_shapes_are_kept_of_each_table() {
        let db = test_database();
        put(&db, 2, [0; 32], &shape("other"), 0).unwrap();
        for i in 0..30_u8 {
            put(&db, 1, [i; 32], &shape(&i.to_string()), i.into()).unwrap();
        }
        let mut kept: Vec<u8> = read(&db, 1).unwrap().iter().map(|(hash, _)| hash[0]).collect();
        kept.sort_unstable();
        assert_eq!(kept, (13..30).collect::<Vec<u8>>());
        assert_eq!(read(&db, 2).unwrap(), [([0; 32], shape("other"))]);
        put(&db, 2, [0; 32], &shape("again"), 1).unwrap();
        assert_eq!(read(&db, 2).unwrap(), [([0; 32], shape("again"))]);
        assert_eq!(newest(&db, 1).unwrap(), Some(([29; 32], shape("29"))));
        assert_eq!(newest(&db, 3).unwrap(), None);
    }
}
