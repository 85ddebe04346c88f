//! The status of a node that does not run, as far as its database contains it.

use super::super::database;
use crate::clock;
use crate::db::schema::inspect;
use crate::model::status::{Status, StreamStatus};
use crate::settings::Settings;
use crate::store::cursor::{self, Cursor};
use crate::store::meta::Meta;
use crate::store::{
    change_log, conflicts, gaps, held, kept_tables, quarantine, tables, unmade_objects,
};
use anyhow::{Context, Result};
use rusqlite::Connection;
use serde_json::Value;

/// What the database and the configuration tell.
const KNOWN: [&str; 19] = [
    "node_id",
    "db_path",
    "now_ms",
    "site",
    "joined",
    "publish",
    "replicate",
    "tables",
    "skipped",
    "streams",
    "pending_rows",
    "oldest_pending_ms",
    "held",
    "unmade_objects",
    "kept_tables",
    "conflicts",
    "inserted_twice",
    "quarantine",
    "open_gaps",
];

/// Makes null of what only a running node knows.
pub(super) fn forget_unknown(status: &mut Value) {
    let only = |object: &mut Value, known: &[&str]| {
        for (key, value) in object.as_object_mut().into_iter().flatten() {
            if !known.contains(&key.as_str()) {
                *value = Value::Null;
            }
        }
    };
    only(status, &KNOWN);
    for stream in status["streams"].as_array_mut().into_iter().flatten() {
        only(stream, &["shard", "cursor"]);
    }
}

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
        publish: settings.publish,
        replicate: settings.replicate,
        tables: tables::names(db)?,
        skipped: schema.skipped.into_iter().map(|s| (s.name, s.reason)).collect(),
        streams: streams(db)?,
        pending_rows: pending.entries,
        oldest_pending_ms: pending.oldest_ms,
        held: held::list(db)?,
        unmade_objects: unmade_objects::list(db)?,
        kept_tables: kept_tables::list(db)?,
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
