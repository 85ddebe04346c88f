//! Maps the columns of a batch's table to those of this database, by name.
//!
//! Arrives: a table header of a batch and the table's layout. Leaves: a [`TableMap`] and the
//! statement that writes its rows. Pure.

use crate::db::layout::TableLayout;
use crate::model::batch::{Op, Row, TableHeader, Value};
use crate::model::planted_bugs::{Bug, planted};
use std::sync::Arc;

/// The map from a batch's table to the table in this database.
#[derive(Debug)]
pub struct TableMap {
    pub(super) table: Arc<TableLayout>,
    /// The positions in a batch row of the columns that exist here.
    pub(super) used: Vec<usize>,
    /// The names of these columns here.
    pub(super) columns: Vec<String>,
    key: Vec<usize>,
    pub(super) upsert: String,
}

impl TableMap {
    /// Maps the columns of a batch's table to those of this database by name. None if a key column
    /// is missing here. Also None if the header has the hash of our present schema but other
    /// columns: such a header is wrong.
    pub fn new(table: &Arc<TableLayout>, header: &TableHeader) -> Option<Self> {
        let (mut used, mut columns) = (Vec::new(), Vec::new());
        for (i, name) in header.columns.iter().enumerate() {
            if let Some(here) = table.batch_columns.iter().find(|c| c.eq_ignore_ascii_case(name)) {
                used.push(i);
                columns.push(here.clone());
            }
        }
        let fits = header.key.len() == table.schema.key.len()
            && header.key.iter().zip(&table.schema.key).all(|(i, k)| {
                header.columns.get(*i).is_some_and(|c| c.eq_ignore_ascii_case(&k.name))
            });
        let same = used.len() == header.columns.len() && used.len() == table.batch_columns.len();
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let upsert = table.upsert(&names);
        (fits && (same || header.hash != table.schema.hash)).then(|| Self {
            table: Arc::clone(table),
            used,
            columns,
            key: header.key.clone(),
            upsert,
        })
    }

    /// Returns whether the writer lacked some of our columns. These columns then get their
    /// defaults, as they will at the writer when it migrates. If an older value stayed here, the
    /// nodes would differ permanently.
    pub(super) fn is_partial(&self) -> bool {
        self.columns.len() < self.table.batch_columns.len() && !planted(Bug::MissingColumnsStay)
    }

    pub(super) fn key_of(&self, row: &Row) -> Vec<Value> {
        match row.op {
            Op::Delete => row.values.clone(),
            Op::Upsert => self.key.iter().map(|i| row.values[*i].clone()).collect(),
        }
    }

    pub(super) fn values<'r>(&self, row: &'r Row) -> Vec<&'r Value> {
        self.used.iter().map(|i| &row.values[*i]).collect()
    }

    pub(super) fn content<'a>(&'a self, row: &Row) -> Option<Vec<(&'a str, Value)>> {
        (row.op == Op::Upsert).then(|| {
            self.columns
                .iter()
                .map(String::as_str)
                .zip(self.values(row).into_iter().cloned())
                .collect()
        })
    }
}
