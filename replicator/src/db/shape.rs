//! The shape of a table: its columns under numbers that survive a rename, and what a former shape
//! means today.
//!
//! Arrives: a [`TableSchema`], and what is known of the shape before. Leaves: a [`Shape`], which is
//! stored with the hash of its schema. Owns: a column has one number for as long as it is the same
//! column. Pure.

use crate::db::schema::{Column, TableSchema};
use crate::db::sql::{affinity, is_constant};
use serde::{Deserialize, Serialize};

/// A column of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeColumn {
    /// Its number within the table, from 1. A rename keeps it.
    pub id: u32,
    /// Its name then.
    pub name: String,
    /// Its declared type.
    pub declared: String,
    /// The SQL literal of the value that rows have that were there before the column; absent for
    /// NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
}

/// The shape of a table at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The table's name then.
    pub name: String,
    /// Its stored columns, in the order of the table.
    pub columns: Vec<ShapeColumn>,
    /// The names of its key columns, in key order.
    pub key: Vec<String>,
    /// Their collations.
    #[serde(default)]
    pub key_collations: Vec<String>,
    /// Its unique indexes besides the key, each as one text with the numbers of its columns.
    pub unique: Vec<String>,
    /// The number of the next new column.
    pub next_id: u32,
}

/// How a shape differs from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Columns with this number or a higher one are new.
    pub new_from: u32,
    /// A column of the former shape is gone, or has another affinity.
    pub lost_column: bool,
}

impl Shape {
    /// The shape of a table without a history.
    pub fn first(table: &TableSchema) -> Self {
        Self::build(table, 1, |_| None)
    }

    /// The shape of the table now. `renamed` are the present names of this shape's columns, in
    /// their order, where SQLite itself has kept track of them; without it a column is the same if
    /// name and affinity are.
    pub fn next(&self, table: &TableSchema, renamed: Option<&[String]>) -> (Self, Lineage) {
        match renamed.filter(|names| names.len() == self.columns.len()) {
            Some(names) => self
                .successor(table, |c| Some(&self.columns[named(names, &self.columns, &c.name)?])),
            None => self.after_rebuild(table, &[]),
        }
    }

    /// The shape of a table that was created anew: a column is the same if name and affinity are,
    /// or if it is in `renamed`, by its number and its present name.
    pub fn after_rebuild(&self, table: &TableSchema, renamed: &[(u32, String)]) -> (Self, Lineage) {
        self.successor(table, |column| {
            let known = renamed.iter().find(|(_, name)| name.eq_ignore_ascii_case(&column.name));
            self.columns.iter().find(|c| match known {
                Some((id, _)) => c.id == *id,
                None => {
                    c.name.eq_ignore_ascii_case(&column.name)
                        && affinity(&c.declared) == affinity(&column.declared)
                }
            })
        })
    }

    fn successor<'s>(
        &self,
        table: &TableSchema,
        same: impl Fn(&Column) -> Option<&'s ShapeColumn>,
    ) -> (Self, Lineage) {
        let next = Self::build(table, self.next_id, same);
        let lost_column = self.columns.iter().any(|c| next.columns.iter().all(|n| n.id != c.id));
        (next, Lineage { new_from: self.next_id, lost_column })
    }

    fn build<'s>(
        table: &TableSchema,
        mut next_id: u32,
        same: impl Fn(&Column) -> Option<&'s ShapeColumn>,
    ) -> Self {
        let first = next_id == 1;
        let columns: Vec<ShapeColumn> = table
            .columns
            .iter()
            .map(|c| {
                let (id, absent) = match same(c) {
                    Some(known) => (known.id, known.absent.clone()),
                    None => {
                        next_id += 1;
                        let constant = c.default.clone().filter(|d| !first && is_constant(d));
                        (next_id - 1, constant)
                    }
                };
                ShapeColumn { id, name: c.name.clone(), declared: c.declared.clone(), absent }
            })
            .collect();
        // A generated column has no number.
        let numbered = |name: &str| {
            columns
                .iter()
                .find(|c| c.name.eq_ignore_ascii_case(name))
                .map_or_else(|| name.to_ascii_lowercase(), |c| format!("#{}", c.id))
        };
        Self {
            name: table.name.clone(),
            key: table.key.iter().map(|k| k.name.clone()).collect(),
            key_collations: table.key.iter().map(|k| k.collation.name().to_owned()).collect(),
            unique: table.unique.iter().map(|index| index.text(numbered)).collect(),
            columns,
            next_id,
        }
    }

    /// Whether another table has the same columns and the same key.
    pub fn is_like(&self, other: &Shape) -> bool {
        let columns = |shape: &Shape| -> Vec<(String, String)> {
            let lower =
                |c: &ShapeColumn| (c.name.to_ascii_lowercase(), c.declared.to_ascii_uppercase());
            shape.columns.iter().map(lower).collect()
        };
        self.key == other.key && columns(self) == columns(other)
    }

    /// Whether rows of the other shape of this table are identified by other columns. A rename
    /// changes nothing.
    pub fn has_other_key(&self, other: &Shape) -> bool {
        let numbers = |shape: &Shape| -> Vec<Option<u32>> {
            let named = |name: &String| {
                shape.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)).map(|c| c.id)
            };
            shape.key.iter().map(named).collect()
        };
        numbers(self) != numbers(other)
    }

    /// The columns that another shape of this table has neither by number nor by name.
    pub fn without(&self, other: &Shape) -> Vec<&ShapeColumn> {
        let is_there = |column: &ShapeColumn| {
            let same =
                |c: &ShapeColumn| c.id == column.id || c.name.eq_ignore_ascii_case(&column.name);
            other.columns.iter().any(same)
        };
        self.columns.iter().filter(|c| !is_there(c)).collect()
    }

    /// The present name of a column of this shape, by its name then; None if it is gone.
    fn name_now<'n>(&self, then: &str, now: &'n Shape) -> Option<&'n ShapeColumn> {
        let id = self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(then))?.id;
        now.columns.iter().find(|c| c.id == id)
    }

    /// How rows of this former shape are written into the table as it is now: for each column its
    /// name then and now.
    ///
    /// # Errors
    /// Why a row could lose something, for people: the origin has to wait.
    pub fn translation(
        &self,
        now: &Shape,
        table: &TableSchema,
    ) -> Result<Vec<(String, String)>, String> {
        let mut names = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let Some(present) = now.columns.iter().find(|c| c.id == column.id) else {
                return Err(format!("column {} is not here any more", column.name));
            };
            if affinity(&present.declared) != affinity(&column.declared) {
                return Err(format!("the type of column {} is another here", column.name));
            }
            names.push((column.name.clone(), present.name.clone()));
        }
        let key_now = self.key.iter().map(|k| {
            self.name_now(k, now).map_or_else(|| k.clone(), |present| present.name.clone())
        });
        if !key_now.eq(now.key.iter().cloned()) || self.key_collations != now.key_collations {
            return Err("the primary key is another here".to_owned());
        }
        for column in &table.columns {
            let known = names.iter().any(|(_, now)| now.eq_ignore_ascii_case(&column.name));
            let default = column.default.as_deref();
            let has_value = match default {
                Some(text) => is_constant(text),
                None => !column.not_null,
            };
            if !known && !has_value {
                return Err(format!(
                    "column {} is new here, and NOT NULL without a constant default",
                    column.name
                ));
            }
        }
        if now.unique.iter().any(|index| !self.unique.contains(index)) {
            return Err("a unique index is new here".to_owned());
        }
        Ok(names)
    }
}

/// The column that has this name now. A dropped column keeps its place and name in the list, and
/// another may have got that name since: then the renamed one is meant.
fn named(names: &[String], columns: &[ShapeColumn], name: &str) -> Option<usize> {
    let matches = |i: &usize| names[*i].eq_ignore_ascii_case(name);
    let renamed = |i: &usize| !columns[*i].name.eq_ignore_ascii_case(name);
    let found = || (0..names.len()).filter(matches);
    found().find(renamed).or_else(|| found().next())
}
