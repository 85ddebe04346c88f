//! Decides by the schema hashes of its tables whether this database can apply a batch.
//!
//! Arrives: the table headers of a decoded batch and the layout. Leaves: a map for each table, or
//! the reason why the origin has to wait. Owns: rows are never written into a table with another
//! meaning. Pure.

use crate::db::layout::{Layout, TableLayout};
use crate::merge::table_map::TableMap;
use crate::model::batch::TableHeader;
use crate::model::planted_bugs::{Bug, planted};
use std::sync::Arc;

/// Maps the tables of a batch. A table that the configuration excludes here gets None.
///
/// # Errors
/// The reason why the origin must wait, with table and columns: its schema is neither our present
/// nor our previous one.
pub fn admit(
    layout: &Layout,
    tables: &[TableHeader],
) -> Result<Vec<Option<Arc<TableMap>>>, String> {
    tables.iter().map(|header| admit_table(layout, header)).collect()
}

fn admit_table(layout: &Layout, header: &TableHeader) -> Result<Option<Arc<TableMap>>, String> {
    let here = layout.by_name(&header.name);
    if let Some(table) = here.filter(|table| table.schema.hash == header.hash) {
        return admitted(table, header, None);
    }
    let former = layout
        .by_former_hash(header.hash)
        .filter(|(_, shape)| shape.name.eq_ignore_ascii_case(&header.name));
    if let Some((table, shape)) = former {
        // It only announces a change, which this node made and went beyond.
        if header.rows == 0 {
            return Ok(None);
        }
        return match shape.translation(&table.history.shape, &table.schema) {
            _ if planted(Bug::AdmitByName) => admitted(table, header, Some(&[])),
            Ok(renamed) => admitted(table, header, Some(&renamed)),
            Err(why) => Err(format!(
                "table {}: the batch has a former schema of this table, and a row could lose \
                something here: {why}; it goes on once its origin has run the migration that ran \
                here",
                header.name
            )),
        };
    }
    match here {
        Some(table) => Err(difference(&table.batch_columns, header)),
        None if layout.is_excluded(&header.name) => Ok(None),
        None => Err(format!(
            "table {} does not exist here, or cannot be replicated here: run the same migration \
            on this node",
            header.name
        )),
    }
}

fn admitted(
    table: &Arc<TableLayout>,
    header: &TableHeader,
    renamed: Option<&[(String, String)]>,
) -> Result<Option<Arc<TableMap>>, String> {
    TableMap::new(table, header, renamed)
        .map(|map| Some(Arc::new(map)))
        .ok_or_else(|| difference(&table.batch_columns, header))
}

fn difference(ours: &[String], header: &TableHeader) -> String {
    let has = |list: &[String], name: &String| list.iter().any(|c| c.eq_ignore_ascii_case(name));
    let only_there: Vec<&str> =
        header.columns.iter().filter(|c| !has(ours, c)).map(String::as_str).collect();
    let only_here: Vec<&str> =
        ours.iter().filter(|c| !has(&header.columns, c)).map(String::as_str).collect();
    let mut text = format!("table {} has another schema here", header.name);
    if !only_there.is_empty() {
        text.push_str(&format!("; columns only at the origin: {}", only_there.join(", ")));
    }
    if !only_here.is_empty() {
        text.push_str(&format!("; columns only here: {}", only_here.join(", ")));
    }
    if only_there.is_empty() && only_here.is_empty() {
        text.push_str(
            "; the columns have the same names, but types, keys, NOT NULL or unique indexes differ",
        );
    }
    text.push_str(": run the same migration on both nodes");
    text
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
