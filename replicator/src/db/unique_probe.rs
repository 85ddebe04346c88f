//! The texts that find the row which clashes with another one on a unique index.
//!
//! Arrives: an index, and the columns of its table. Leaves: a [`Probe`] for the triggers that log
//! displaced rows. Reads only.

use crate::db::index_sql;
use crate::db::sql::quote;
use rusqlite::Connection;

/// How a row that clashes on a unique index is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Each term as SQL over the table's columns, with its collation.
    pub terms: Vec<(String, String)>,
    /// The WHERE of a partial index.
    pub filter: Option<String>,
    /// The columns that terms and WHERE read.
    pub columns: Vec<String>,
    /// A generated column is among them, which can change with any update.
    pub generated: bool,
    /// The terms are columns and there is no WHERE.
    pub plain: bool,
}

impl Probe {
    /// The probe of an index over columns. `table` lists the table's columns and whether each is
    /// generated.
    pub fn of_columns<'a>(
        names: Vec<String>,
        collations: Vec<String>,
        table: impl Iterator<Item = (&'a str, bool)>,
    ) -> Self {
        let terms = names.iter().map(|name| quote(name)).zip(collations).collect();
        let (columns, generated) = read_by(&names, table);
        Self { terms, filter: None, columns, generated, plain: true }
    }

    /// The probe of an index over expressions or with a WHERE; None if its text cannot be read, or
    /// cannot be compiled over a row that is not in the table yet (one that names the rowid).
    pub fn of_text<'a>(
        db: &Connection,
        name: &str,
        sql: &str,
        collations: Vec<String>,
        table: impl Iterator<Item = (&'a str, bool)>,
    ) -> Option<Self> {
        let text = index_sql::parse(sql).filter(|text| text.terms.len() == collations.len())?;
        let (columns, generated) = read_by(&text.words, table);
        let terms = text.terms.into_iter().zip(collations).collect();
        let probe = Self { terms, filter: text.filter, columns, generated, plain: false };
        let row: Vec<String> =
            probe.columns.iter().map(|c| format!("NULL AS {}", quote(c))).collect();
        let all = probe.terms.iter().map(|(term, _)| term).chain(&probe.filter);
        let compiles = all.into_iter().all(|term| db.prepare(&over_row(term, name, &row)).is_ok());
        compiles.then_some(probe)
    }
}

/// A SELECT of an expression over one row that is given as `value AS column, ..`. The row has the
/// table's name, because the WHERE of an index can use it.
pub fn over_row(expression: &str, table: &str, row: &[String]) -> String {
    // A comment at the end of the expression must not hide what follows.
    format!("SELECT {expression}\n FROM (SELECT {}) AS {}", row.join(", "), quote(table))
}

/// The columns of the table that are among these words, and whether one is generated.
fn read_by<'a>(
    words: &[String],
    table: impl Iterator<Item = (&'a str, bool)>,
) -> (Vec<String>, bool) {
    let is_read = |(name, _): &(&str, bool)| words.iter().any(|w| w.eq_ignore_ascii_case(name));
    let read: Vec<(&str, bool)> = table.filter(is_read).collect();
    (read.iter().map(|(n, _)| (*n).to_owned()).collect(), read.iter().any(|(_, g)| *g))
}
