//! The status of a node that does not run, as far as its database contains it.

use super::super::database;
use crate::clock;
use crate::db::connection::Meta;
use crate::model::status::{HeldStatus, Status, StreamStatus};
use crate::store::conflicts;
use crate::store::cursor::Cursor;
use crate::store::quarantine;
use anyhow::{Context, Result};
use rusqlite::Connection;
use std::path::Path;

/// Reads the status from the database.
pub(super) fn offline(path: &Path) -> Result<Status> {
    let db = database::open_installed(path)?;
    read(&db, path).with_context(|| path.display().to_string())
}

fn read(db: &Connection, path: &Path) -> Result<Status> {
    let meta = Meta::read(db)?;
    let count =
        |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).map(|n| n.max(0).cast_unsigned());
    let (pending_rows, oldest_pending_ms) = db.query_row(
        "SELECT count(*), coalesce(min(CASE WHEN time > 0 THEN time END), 0) \
        FROM main.__harmonylite__change_log WHERE id > ?1",
        [meta.published],
        |r| Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?)),
    )?;
    Ok(Status {
        node_id: meta.node.0,
        db_path: path.display().to_string(),
        now_ms: clock::unix_ms(),
        site: meta.site.0,
        joined: meta.joined,
        tables: texts(
            db,
            "SELECT name FROM main.__harmonylite__table WHERE hash IS NOT NULL ORDER BY name",
        )?,
        streams: streams(db)?,
        pending_rows,
        oldest_pending_ms,
        held: held(db)?,
        conflicts: conflicts::count(db)?.cast_unsigned(),
        quarantine: quarantine::count(db)?.cast_unsigned(),
        open_gaps: count("SELECT count(*) FROM main.__harmonylite__gap")?,
        ..Status::default()
    })
}

fn texts(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare(sql)?.query_map([], |r| r.get(0))?.collect()
}

fn streams(db: &Connection) -> Result<Vec<StreamStatus>> {
    let shards: Vec<u32> = db
        .prepare("SELECT DISTINCT shard FROM main.__harmonylite__cursor ORDER BY shard")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let one = |shard| {
        Ok(StreamStatus {
            shard,
            cursor: Cursor::read(db, shard)?.seq().0,
            ..StreamStatus::default()
        })
    };
    shards.into_iter().map(one).collect()
}

fn held(db: &Connection) -> rusqlite::Result<Vec<HeldStatus>> {
    let mut read = db.prepare(
        "SELECT node, shard, since, reason FROM main.__harmonylite__held ORDER BY node, shard",
    )?;
    let rows = read.query_map([], |r| {
        Ok(HeldStatus {
            node_id: r.get::<_, i64>(0)?.cast_unsigned(),
            shard: r.get(1)?,
            since_ms: r.get(2)?,
            reason: r.get(3)?,
        })
    })?;
    rows.collect()
}
