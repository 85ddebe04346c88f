//! Notices what DDL changed, so that it travels in the next batch (`schema.replicate`).
//!
//! Arrives: the schema and the layout after an installation. Leaves: the changes in their table,
//! and the schema as known from now on. Owns: a change that arrived from another node
//! is not sent on. Runs inside the transaction of the installation, so a crash repeats both.

use super::follow_unmade;
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::db::objects::Objects;
use crate::db::schema_change::{ChangeSet, SchemaChange};
use crate::db::schema_diff::{ColumnRename, Renames, changes};
use crate::db::shape::{Shape, ShapeColumn};
use crate::db::sql::{is_constant, quote};
use crate::model::config::SchemaMode;
use crate::model::ids::Site;
use crate::model::limits::Limits;
use crate::model::table_filter::TableFilter;
use crate::store::{meta, schema_changes};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most bytes that the identity of a set of changes takes.
const IDENTITY_BYTES_MAX: u64 = 64;

/// The schema as of the last look.
#[derive(Default, Serialize, Deserialize)]
struct Known {
    objects: Objects,
    /// The shape of each table, by its number: numbers of tables and columns survive a rename.
    shapes: BTreeMap<i64, Shape>,
}

/// How the schema is replicated.
#[derive(Clone, Copy, Debug)]
pub struct Carry<'a> {
    /// The mode of this node.
    pub mode: SchemaMode,
    /// Which tables are replicated.
    pub filter: &'a TableFilter,
    /// Bounds.
    pub limits: &'a Limits,
}

/// Compares the schema with the one known before, and stores what changed, for the next batch. The
/// first look only stores the schema.
///
/// # Errors
/// SQLite's error.
pub fn note(
    db: &Connection,
    layout: impl FnOnce() -> Result<Layout, DatabaseError>,
    carry: Carry<'_>,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    if carry.mode == SchemaMode::Off {
        return meta::remove(db, meta::CARRIED_SCHEMA);
    }
    let present = read(db, &layout()?, carry.filter)?;
    let known: Option<Known> =
        meta::get(db, meta::CARRIED_SCHEMA)?.and_then(|b| ciborium::from_reader(&b[..]).ok());
    let mut made = known.as_ref().map_or_else(Vec::new, |known| {
        changes(&known.objects, &present.objects, &renames(known, &present))
    });
    for change in &mut made {
        fill(db, &present.objects, change)?;
    }
    if !made.is_empty() {
        if let Some(known) = &known {
            warn_of_unlike_columns(known, &present);
        }
        follow_unmade::follow(db, &present.objects, &made)?;
        add(db, &made, carry, now_ms)?;
    }
    store(db, &present)
}

/// Stores the schema as known, after changes of another node were made here.
///
/// # Errors
/// SQLite's error.
pub fn settle(db: &Connection, layout: &Layout, filter: &TableFilter) -> Result<(), DatabaseError> {
    store(db, &read(db, layout, filter)?)
}

fn read(db: &Connection, layout: &Layout, filter: &TableFilter) -> Result<Known, DatabaseError> {
    let shapes = layout.tables.iter().map(|t| (t.id, t.history.shape.clone())).collect();
    Ok(Known { objects: Objects::read(db, filter)?, shapes })
}

fn store(db: &Connection, known: &Known) -> Result<(), DatabaseError> {
    meta::set(db, meta::CARRIED_SCHEMA, encode(known))
}

/// Plain values of strings, numbers and lists: writing them to memory cannot fail.
fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = ciborium::into_writer(value, &mut bytes) {
        tracing::error!(%error, "cannot encode the schema; its changes do not travel");
        bytes.clear();
    }
    bytes
}

fn add(
    db: &Connection,
    made: &[SchemaChange],
    carry: Carry<'_>,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let bytes = encode(&made);
    let largest = carry.limits.schema_change_bytes_max.saturating_sub(IDENTITY_BYTES_MAX);
    if bytes.is_empty() || bytes.len() as u64 > largest {
        tracing::error!(
            bytes = bytes.len(),
            "a change of the schema is larger than a batch may carry and does not travel: make it \
            on every node (`harmonylite schema apply --from` this node)"
        );
        return Ok(());
    }
    for change in made {
        tracing::info!(change = change.words(), "this change of the schema travels to the others");
    }
    let site = meta::get(db, meta::SITE)?.unwrap_or(Site(0));
    schema_changes::add(db, now_ms, |log_id| {
        encode(&ChangeSet((site.0, log_id, now_ms), made.to_vec()))
    })
}

/// Finds the value of new columns that must not be NULL and have no default, if all rows here have
/// the same one, as a framework's one-off default gives them. Rows that only another node has get
/// it there. Without it the change fails where there are rows, and its batch is held.
fn fill(
    db: &Connection,
    objects: &Objects,
    change: &mut SchemaChange,
) -> Result<(), DatabaseError> {
    let SchemaChange::Rebuild { table, columns, filled, .. } = change else { return Ok(()) };
    let Some(present) = objects.table(table) else { return Ok(()) };
    let is_copied = |name: &str| columns.iter().any(|(_, new)| new.eq_ignore_ascii_case(name));
    let due = present.text.columns.iter().filter(|c| {
        c.not_null && c.default.is_none() && c.generated.is_none() && !is_copied(&c.name)
    });
    for column in due {
        let name = quote(&column.name);
        let sql =
            format!("SELECT min(quote({name})), max(quote({name})) FROM main.{}", quote(table));
        let (least, most): (Option<String>, Option<String>) =
            db.query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        if let Some(text) = least.filter(|text| Some(text) == most.as_ref() && is_constant(text)) {
            filled.push((column.name.clone(), text));
        }
    }
    Ok(())
}

/// The tables and columns that have the same number and another name.
fn renames(before: &Known, after: &Known) -> Renames {
    let mut renames = Renames::default();
    for (id, now) in &after.shapes {
        let Some(then) = before.shapes.get(id) else { continue };
        if !then.name.eq_ignore_ascii_case(&now.name) {
            renames.tables.push((then.name.clone(), now.name.clone()));
        }
        for column in &now.columns {
            let former = then.columns.iter().find(|c| c.id == column.id);
            if let Some(former) = former.filter(|c| !c.name.eq_ignore_ascii_case(&column.name)) {
                renames.columns.push(ColumnRename {
                    table: now.name.clone(),
                    from: former.name.clone(),
                    to: column.name.clone(),
                });
            }
        }
    }
    renames
}

/// People must know where a column that they renamed by way of a copy is another one for us.
fn warn_of_unlike_columns(before: &Known, after: &Known) {
    for (id, now) in &after.shapes {
        let Some(then) = before.shapes.get(id) else { continue };
        let names = |columns: Vec<&ShapeColumn>| {
            columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (gone, new) = (names(then.without(now)), names(now.without(then)));
        if !gone.is_empty() && !new.is_empty() {
            tracing::warn!(
                table = now.name,
                gone,
                new,
                "a migration dropped columns and added others; nothing shows that one is the other \
                under a new name. So in rows that only other nodes have, the new columns have no \
                value; what these rows had stays there in a table that `status` names. To rename a \
                column use ALTER TABLE .. RENAME COLUMN"
            );
        }
    }
}

#[cfg(test)]
#[path = "schema_changes_tests.rs"]
mod tests;
