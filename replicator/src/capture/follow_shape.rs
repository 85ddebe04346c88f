//! Follows the shape of a table: what became of its columns, and whether its rows must be compared.
//!
//! Arrives: a table as it is now, and our triggers on it. Leaves: its shape in the history, and
//! what has to be compared. Owns: a column keeps its number where SQLite or the rows' digests show
//! that it is the same one. Runs inside the caller's write transaction.

use super::install::value_of;
use super::lineage::TableTriggers;
use super::rebuilt_columns;
use crate::db::connection::DatabaseError;
use crate::db::schema::TableSchema;
use crate::db::shape::{Lineage, Shape};
use crate::db::sql::{literal, quote};
use crate::model::batch::Value;
use crate::store::change_log;
use crate::store::comparisons::{Comparison, Kind};
use crate::store::schema_history::{self, KeptShape};
use rusqlite::Connection;

/// The present names of the former columns, if every change was logged under this number.
pub(super) fn present_names(found: Option<&TableTriggers>, id: i64) -> Option<&[String]> {
    let found = found.filter(|found| found.log_every_change())?;
    let (number, names) = found.witness.as_ref()?;
    (*number == id).then_some(names.as_slice())
}

/// A table whose rows are identified by other columns than before.
pub(super) struct ChangedKey {
    pub(super) former: Shape,
    pub(super) present: Shape,
}

/// Stores the shape that a table has now. Returns what has to be compared, if its version table is
/// one that stays, and whether its rows are identified by other columns than before.
///
/// # Errors
/// SQLite's error.
pub(super) fn follow_shape(
    db: &Connection,
    table: &TableSchema,
    table_id: i64,
    found: Option<&TableTriggers>,
    now_ms: i64,
) -> Result<(Option<Comparison>, Option<ChangedKey>), DatabaseError> {
    let logged = found.is_some_and(TableTriggers::log_every_change);
    let former = schema_history::newest(db, table_id)?;
    let (shape, lineage) = match &former {
        Some(former) => next_shape(db, table, &former.shape, present_names(found, table_id))?,
        None => (Shape::first(table), Lineage { new_from: 1, lost_column: true }),
    };
    let other_key = former
        .as_ref()
        .filter(|former| former.shape.has_other_key(&shape))
        .map(|former| ChangedKey { former: former.shape.clone(), present: shape.clone() });
    let logged_upto = change_log::log_end(db)?;
    if former.as_ref().is_none_or(|kept| kept.hash != table.hash || kept.shape != shape) {
        let kept = KeptShape { hash: table.hash, shape, logged_upto };
        schema_history::put(db, table_id, &kept, now_ms)?;
    }
    let kind = match (logged, lineage.lost_column) {
        // The log names rows by the former key.
        (true, false) if other_key.is_some() => Kind::Compare,
        (true, false) => return Ok((None, None)),
        (true, true) => Kind::Refresh,
        (false, false) => Kind::Compare,
        (false, true) => Kind::CompareLoosely,
    };
    let new_from = lineage.new_from;
    let comparison = Comparison { table_id, time_ms: now_ms, kind, new_from, logged_upto };
    Ok((Some(comparison), other_key))
}

/// The shape after the one that is known. `names` are the present names of its columns, where
/// SQLite has kept track of them.
fn next_shape(
    db: &Connection,
    table: &TableSchema,
    former: &Shape,
    names: Option<&[String]>,
) -> Result<(Shape, Lineage), DatabaseError> {
    let (mut shape, lineage) = former.next(table, names);
    settle_absent(db, &mut shape, lineage.new_from)?;
    if names.is_some() {
        return Ok((shape, lineage));
    }
    let renamed = rebuilt_columns::renamed(db, table, (former, &shape), |text| value_of(db, text))?;
    if renamed.is_empty() {
        return Ok((shape, lineage));
    }
    let (mut shape, lineage) = former.after_rebuild(table, &renamed);
    settle_absent(db, &mut shape, lineage.new_from)?;
    Ok((shape, lineage))
}

/// Puts the value that rows really have in the place of the text of a DEFAULT: the column's
/// affinity decides what it becomes.
fn settle_absent(db: &Connection, shape: &mut Shape, new_from: u32) -> Result<(), DatabaseError> {
    for column in shape.columns.iter_mut().filter(|c| c.id >= new_from) {
        let Some(text) = &column.absent else { continue };
        db.execute_batch(&format!(
            "CREATE TEMP TABLE __harmonylite__default (x {} DEFAULT ({text})); INSERT INTO \
            temp.__harmonylite__default DEFAULT VALUES",
            if column.declared.is_empty() { String::new() } else { quote(&column.declared) }
        ))?;
        let value: Value = db.query_row("SELECT x FROM temp.__harmonylite__default", [], |r| {
            Ok(r.get_ref(0)?.into())
        })?;
        db.execute_batch("DROP TABLE temp.__harmonylite__default")?;
        column.absent = (value != Value::Null).then(|| literal(&value));
    }
    Ok(())
}
