//! Maps the columns of a batch's table to those of this database, also of a former schema.
//!
//! Arrives: a table header of a batch and the table's layout. Leaves: a [`TableMap`] and the
//! statement that writes its rows. Pure.

use crate::db::layout::TableLayout;
use crate::merge::stored_row::{Content, Part};
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
    is_former: bool,
    /// For each column of the digest its position in a batch row.
    digested: Vec<Option<usize>>,
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

impl TableMap {
    /// Maps the columns of a batch's table to those of this database. `renamed` are the names then
    /// and now of the columns of a former schema; None for the present one. None if the header
    /// lists other columns than the schema whose hash it has: such a header is wrong.
    pub fn new(
        table: &Arc<TableLayout>,
        header: &TableHeader,
        renamed: Option<&[(String, String)]>,
    ) -> Option<Self> {
        let now = |then: &str| -> Option<&String> {
            let now = match renamed.and_then(|r| r.iter().find(|(n, _)| same(n, then))) {
                Some((_, now)) => now,
                None if renamed.is_some_and(|r| !r.is_empty()) && !table.schema.is_rowid(then) => {
                    return None;
                }
                None => then,
            };
            table.batch_columns.iter().find(|c| same(c, now))
        };
        let here: Vec<Option<&String>> = header.columns.iter().map(|c| now(c)).collect();
        let used: Vec<usize> = (0..here.len()).filter(|i| here[*i].is_some()).collect();
        let columns: Vec<String> = here.iter().flatten().map(|c| (*c).clone()).collect();
        let key_fits =
            header.key.len() == table.schema.key.len()
                && header.key.iter().zip(&table.schema.key).all(|(i, k)| {
                    here.get(*i).is_some_and(|c| c.is_some_and(|c| same(c, &k.name)))
                });
        let known = match renamed {
            Some(renamed) => renamed.len() + usize::from(table.schema.has_rowid_key()),
            None => table.batch_columns.len(),
        };
        let complete = columns.len() == header.columns.len() && columns.len() == known;
        if !key_fits || !(complete || planted(Bug::AdmitByName)) {
            return None;
        }
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let position = |name: &str| columns.iter().position(|c| c == name).map(|at| used[at]);
        Some(Self {
            digested: table.digest.names().map(position).collect(),
            upsert: table.upsert(&names),
            table: Arc::clone(table),
            used,
            columns,
            key: header.key.clone(),
            is_former: renamed.is_some(),
        })
    }

    /// Whether the batch has a former schema of the table.
    pub fn is_former(&self) -> bool {
        self.is_former
    }

    /// The digest of a row of the batch, as it is stored here.
    pub(super) fn digest(&self, row: &Row) -> i64 {
        let values = self.digested.iter().map(|at| at.and_then(|at| row.values.get(at)));
        self.table.digest.of(values)
    }

    /// Reads the key of a row into the memory of another one.
    pub(super) fn read_key(&self, row: &Row, key: &mut Vec<Value>) {
        key.resize(self.key.len(), Value::Null);
        for (at, value) in key.iter_mut().enumerate() {
            let from = if row.op == Op::Delete { at } else { self.key[at] };
            value.assign((&row.values[from]).into());
        }
    }

    pub(super) fn values<'r>(&self, row: &'r Row) -> Vec<&'r Value> {
        self.used.iter().map(|i| &row.values[*i]).collect()
    }

    pub(super) fn content<'a>(&'a self, row: &'a Row) -> Option<Content<'a>> {
        let names = self.columns.iter().map(String::as_str);
        let values = self.used.iter().map(|i| Part::Whole(&row.values[*i]));
        (row.op == Op::Upsert).then(|| names.zip(values).collect())
    }
}
