//! Keeps `sqlite_sequence` of AUTOINCREMENT tables in a block of ids that only this node uses.
//!
//! Arrives: a write transaction of the sidecar, after remote rows were applied and the
//! application's were absorbed. Leaves: sequences whose next id is in this node's block, above
//! every id in the table. Owns: rows of other nodes and the step over them are committed together,
//! so no connection of the application ever counts on from the id of another node. A crash leaves
//! both or none.

use crate::db::connection::DatabaseError;
use crate::db::layout::{Layout, TableLayout};
use crate::db::sql::quote;
use crate::model::id_ranges::IdRanges;
use crate::store::id_ranges;
use rusqlite::Connection;
use std::collections::HashMap;

/// Gives a new block to each table whose sequence left its block, or has used half of it. Returns
/// the names of tables that have no block left.
///
/// # Errors
/// SQLite's error.
pub fn keep(
    db: &Connection,
    layout: &Layout,
    ranges: &IdRanges,
) -> Result<Vec<String>, DatabaseError> {
    let mut exhausted = Vec::new();
    if !layout.tables.iter().any(|table| table.schema.autoincrement) {
        return Ok(exhausted);
    }
    let sequences = sequences(db)?;
    let blocks = id_ranges::all(db)?;
    for table in layout.tables.iter().filter(|table| table.schema.autoincrement) {
        let seq = sequences.get(table.name()).copied();
        let block = blocks.get(&table.id);
        if let (Some(seq), Some(block)) = (seq, block)
            && ranges.suffices(*block, seq)
        {
            continue;
        }
        if !give_block(db, table, seq, ranges)? {
            exhausted.push(table.name().to_owned());
        }
    }
    Ok(exhausted)
}

/// False if there is no block left.
fn give_block(
    db: &Connection,
    table: &TableLayout,
    seq: Option<i64>,
    ranges: &IdRanges,
) -> Result<bool, DatabaseError> {
    let key = &table.schema.key[0].name;
    let sql = format!("SELECT max({}) FROM main.{}", quote(key), quote(table.name()));
    let greatest: Option<i64> = db.prepare_cached(&sql)?.query_row([], |r| r.get(0))?;
    let Some(block) = ranges.next_block(greatest.unwrap_or(0).max(seq.unwrap_or(0))) else {
        return Ok(false);
    };
    // The application may have removed the entry, and the table has no index by name.
    let changed = db
        .prepare_cached("UPDATE main.sqlite_sequence SET seq = ?1 WHERE name = ?2")?
        .execute((block.first - 1, table.name()))?;
    if changed == 0 {
        db.prepare_cached("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)")?
            .execute((table.name(), block.first - 1))?;
    }
    id_ranges::put(db, table.id, block)?;
    Ok(true)
}

/// The sequences by the name of the table, which SQLite writes as the table is called now.
fn sequences(db: &Connection) -> Result<HashMap<String, i64>, DatabaseError> {
    let mut read = db.prepare_cached("SELECT name, seq FROM main.sqlite_sequence")?;
    let rows = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install;
    use crate::store::install as own_tables;

    const RANGES: IdRanges = IdRanges { slot: 1, nodes: 3, block: 10 };

    fn database() -> (Connection, Layout) {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE \"a b\" (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
             CREATE TABLE plain (id INTEGER PRIMARY KEY, \"autoincrement\");
             INSERT INTO plain VALUES (5, 'AUTOINCREMENT');",
        )
        .unwrap();
        own_tables::create_tables(&db, std::path::Path::new("x")).unwrap();
        let layout = install::install(&db, &Default::default(), 1).unwrap().0;
        (db, layout)
    }

    fn insert(db: &Connection) -> i64 {
        db.execute("INSERT INTO \"a b\" (v) VALUES (1)", []).unwrap();
        db.last_insert_rowid()
    }

    #[test]
    fn the_next_id_is_always_in_a_block_of_this_node() {
        let (db, layout) = database();
        let keep = || assert!(keep(&db, &layout, &RANGES).unwrap().is_empty());
        keep();
        assert_eq!(insert(&db), 11, "the first id of an empty table");
        keep();
        assert_eq!(insert(&db), 12, "a block is used to its half");
        db.execute("INSERT INTO \"a b\" (id) VALUES (27)", []).unwrap();
        keep();
        assert_eq!(insert(&db), 41, "a row of another node lies above");
        for _ in 0..5 {
            insert(&db);
        }
        keep();
        assert_eq!(insert(&db), 71, "more than half was used");
        db.execute("DELETE FROM sqlite_sequence", []).unwrap();
        keep();
        assert_eq!(insert(&db), 101, "the application removed the sequence");
        let plain: Option<i64> = db
            .query_row("SELECT max(seq) FROM sqlite_sequence WHERE name = 'plain'", [], |r| {
                r.get(0)
            })
            .unwrap();
        assert_eq!(plain, None);
    }

    #[test]
    fn a_table_without_a_block_is_named() {
        let (db, layout) = database();
        let last = i64::MAX - 1;
        db.execute("INSERT INTO \"a b\" (id) VALUES (?1)", [last]).unwrap();
        assert_eq!(keep(&db, &layout, &RANGES).unwrap(), ["a b"]);
        assert_eq!(insert(&db), i64::MAX, "and counts on as without ranges");
    }
}
