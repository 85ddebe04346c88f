//! The status of a node that does not run, as far as its database contains it.

use super::super::database;
use crate::clock;
use crate::db::schema::inspect;
use crate::model::status::{Status, StreamStatus};
use crate::settings::Settings;
use crate::store::cursor::{self, Cursor};
use crate::store::meta::Meta;
use crate::store::{change_log, conflicts, gaps, held, quarantine, tables};
use anyhow::{Context, Result};
use rusqlite::Connection;

/// Reads the status from the database.
pub(super) fn offline(settings: &Settings) -> Result<Status> {
    let path = &settings.db_path;
    let db = database::open_installed(path)?;
    read(&db, settings).with_context(|| path.display().to_string())
}

fn read(db: &Connection, settings: &Settings) -> Result<Status> {
    let meta = Meta::read(db)?;
    let schema = inspect(db, &settings.table_filter()?)?;
    let pending = change_log::pending(db, meta.published)?;
    Ok(Status {
        node_id: meta.node.0,
        db_path: settings.db_path.display().to_string(),
        now_ms: clock::unix_ms(),
        site: meta.site.0,
        joined: meta.joined,
        tables: tables::names(db)?,
        skipped: schema.skipped.into_iter().map(|s| (s.name, s.reason)).collect(),
        streams: streams(db)?,
        pending_rows: pending.entries,
        oldest_pending_ms: pending.oldest_ms,
        held: held::list(db)?,
        conflicts: conflicts::count(db)?.cast_unsigned(),
        inserted_twice: conflicts::inserted_twice(db)?,
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
