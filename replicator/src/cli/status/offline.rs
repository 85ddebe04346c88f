//! The status of a node that does not run, as far as its database contains it.

use super::super::database;
use crate::clock;
use crate::model::status::{Status, StreamStatus};
use crate::store::cursor::{self, Cursor};
use crate::store::meta::Meta;
use crate::store::{change_log, conflicts, gaps, held, quarantine, tables};
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
    let pending = change_log::pending(db, meta.published)?;
    Ok(Status {
        node_id: meta.node.0,
        db_path: path.display().to_string(),
        now_ms: clock::unix_ms(),
        site: meta.site.0,
        joined: meta.joined,
        tables: tables::names(db)?,
        streams: streams(db)?,
        pending_rows: pending.entries,
        oldest_pending_ms: pending.oldest_ms,
        held: held::list(db)?,
        conflicts: conflicts::count(db)?.cast_unsigned(),
        quarantine: quarantine::count(db)?.cast_unsigned(),
        open_gaps: gaps::count(db)?,
        ..Status::default()
    })
}

fn streams(db: &Connection) -> Result<Vec<StreamStatus>> {
    let one = |shard| {
        Ok(StreamStatus {
            shard,
            cursor: Cursor::read(db, shard)?.seq().0,
            ..StreamStatus::default()
        })
    };
    cursor::shards(db)?.into_iter().map(one).collect()
}
