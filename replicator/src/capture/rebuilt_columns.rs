//! Recognises the columns that a rebuild renamed.
//!
//! Arrives: a table that was created anew and filled, its former shape, and the digests beside its
//! versions. Leaves: the former columns that have another name now. Owns: a column counts as
//! renamed only where the digests prove it: in most rows the new column has the value that the lost
//! one had, and this cannot be one constant that both happen to have. Reads a bounded number of
//! rows, writes nothing.

use crate::db::connection::DatabaseError;
use crate::db::layout::{TableLayout, version_keys, version_table};
use crate::db::row_digest::{RowDigest, value_digest, value_digest_sql};
use crate::db::schema::{KeyKind, TableSchema};
use crate::db::shape::{Shape, ShapeColumn};
use crate::db::sql::{affinity, quote};
use crate::model::batch::Value;
use rusqlite::Connection;

/// Rows that are looked at from each end of the table: a column that was added late is filled only
/// in the newest rows.
const ROWS: u64 = 2_000;
/// Bytes of these rows after which no more are looked at: the write lock is held meanwhile.
const BYTES_MAX: i64 = 16 << 20;
/// Columns that are gone, and columns that are new, beyond which nothing is tried.
const COLUMNS_MAX: usize = 4;

/// The former columns of a rebuilt table that have another name now, by number. `present` is the
/// shape that it has if there are none, with the values of its defaults. `value_of` gives the value
/// of an SQL literal.
///
/// # Errors
/// SQLite's error.
pub(super) fn renamed(
    db: &Connection,
    table: &TableSchema,
    (former, present): (&Shape, &Shape),
    value_of: impl Fn(&str) -> Option<Value>,
) -> Result<Vec<(u32, String)>, DatabaseError> {
    let (lost, new) = (former.without(present), present.without(former));
    if lost.is_empty() || new.is_empty() {
        return Ok(Vec::new());
    }
    let most = lost.len().max(new.len());
    let mut found = Vec::new();
    if most <= COLUMNS_MAX && has_versions(db, table)? {
        let kept: Vec<ShapeColumn> =
            present.columns.iter().filter(|c| c.id < former.next_id).cloned().collect();
        let digest = |columns: &[ShapeColumn]| {
            RowDigest::new(columns, |text, _| value_of(text)).sql("t", u32::MAX)
        };
        // What the digest of a lost column would be if it had the value of a new one.
        let heir = |(lost, new): (&ShapeColumn, &ShapeColumn)| {
            digest(&[ShapeColumn { name: new.name.clone(), ..lost.clone() }])
        };
        let pairs = lost.iter().flat_map(|l| new.iter().map(|n| heir((l, n)))).collect();
        let default =
            |c: &&ShapeColumn| c.absent.as_deref().and_then(&value_of).as_ref().map(value_digest);
        let defaults = new.iter().map(default).collect();
        let rows = read(db, table, present, (digest(&kept), pairs), &new)?;
        let place =
            |shape: &Shape, c: &ShapeColumn| shape.columns.iter().position(|x| x.id == c.id);
        let evidence = Evidence {
            lost: lost.iter().map(|c| (place(former, c), *c)).collect(),
            new: new.iter().map(|c| (place(present, c), *c)).collect(),
            defaults,
            rows: &rows,
        };
        found = evidence.best();
    }
    for (id, name) in &found {
        let from = lost.iter().find(|c| c.id == *id).map_or("", |c| &c.name);
        tracing::info!(table = table.name, from, to = name, "a rebuild renamed this column");
    }
    Ok(found)
}

/// Whether the version table is that of a key of this form. Rows that are identified by their rowid
/// may have another one since the copy.
fn has_versions(db: &Connection, table: &TableSchema) -> Result<bool, DatabaseError> {
    let versions = version_table(&table.name);
    let mut read =
        db.prepare("SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1, 'main') WHERE name = ?2)")?;
    for key in &version_keys(table) {
        if !read.query_row([&versions, key], |r| r.get::<_, bool>(0))? {
            return Ok(false);
        }
    }
    Ok(table.key_kind != KeyKind::Rowid)
}

/// What a row tells. Only digests: a value may be large.
struct Row {
    /// The digest beside its version less that of the columns which are still there.
    rest: i64,
    /// For each lost column, for each new one: the digest of the lost one with its value.
    pairs: Vec<i64>,
    /// The digest of the value of each new column; 0 for NULL.
    values: Vec<i64>,
}

fn read(
    db: &Connection,
    table: &TableSchema,
    present: &Shape,
    (kept, pairs): (String, Vec<String>),
    new: &[&ShapeColumn],
) -> Result<Vec<Row>, DatabaseError> {
    // The number of the table is not needed for the conditions.
    let layout = TableLayout::first(0, table.clone());
    let values: Vec<String> =
        new.iter().map(|c| value_digest_sql(&format!("t.{}", quote(&c.name)))).collect();
    let size = |c: &ShapeColumn| format!("coalesce(octet_length(t.{}), 0)", quote(&c.name));
    let sizes: Vec<String> = present.columns.iter().map(size).collect();
    let order = |direction: &str| {
        let keys = table.key.iter().map(|k| format!("{} {direction}", quote(&k.name)));
        keys.collect::<Vec<_>>().join(", ")
    };
    let from = format!("SELECT * FROM main.{} ORDER BY", quote(&table.name));
    let mut found = Vec::new();
    for direction in ["ASC", "DESC"] {
        let mut read = db.prepare(&format!(
            "SELECT {}, v.digest, {kept}, {}, {} FROM ({from} {} LIMIT {ROWS}) AS t JOIN main.{} \
            AS v ON {} WHERE v.digest IS NOT NULL",
            sizes.join(" + "),
            pairs.join(", "),
            values.join(", "),
            order(direction),
            quote(&layout.version_table()),
            layout.version_of_row()
        ))?;
        let (mut rows, mut bytes) = (read.query([])?, 0_i64);
        while bytes < BYTES_MAX
            && let Some(row) = rows.next()?
        {
            bytes = bytes.saturating_add(row.get(0)?);
            let digests = |places: std::ops::Range<usize>| -> rusqlite::Result<Vec<i64>> {
                places.map(|i| row.get(i)).collect()
            };
            let end = 3 + pairs.len();
            found.push(Row {
                rest: row.get::<_, i64>(1)?.wrapping_sub(row.get(2)?),
                pairs: digests(3..end)?,
                values: digests(end..end + new.len())?,
            });
        }
    }
    Ok(found)
}

/// Which new column is which lost one, by their places; a lost column that is really gone has none.
type Pairs = Vec<(usize, usize)>;

struct Evidence<'e> {
    /// With their places in the table.
    lost: Vec<(Option<usize>, &'e ShapeColumn)>,
    new: Vec<(Option<usize>, &'e ShapeColumn)>,
    /// The digest of what the new columns have in rows that were there before them.
    defaults: Vec<Option<i64>>,
    rows: &'e [Row],
}

impl Evidence<'_> {
    fn best(&self) -> Vec<(u32, String)> {
        let told = self.rows.iter().filter(|row| row.rest != 0 || self.has_news(row)).count();
        let mut all = Vec::new();
        self.pairings(0, &mut Vec::new(), &mut all);
        let proved = all.iter().map(|pairs| (self.proofs(pairs), pairs));
        let best = proved.max_by_key(|(proofs, _)| *proofs);
        let Some((_, pairs)) = best.filter(|(proofs, _)| proofs * 2 > told) else {
            return Vec::new();
        };
        let named =
            |&(lost, new): &(usize, usize)| (self.lost[lost].1.id, self.new[new].1.name.clone());
        pairs.iter().map(named).collect()
    }

    /// All ways to pair the lost columns from this one on with new ones of the same affinity.
    fn pairings(&self, at: usize, pairs: &mut Pairs, all: &mut Vec<Pairs>) {
        if at == self.lost.len() {
            all.push(pairs.clone());
            return;
        }
        self.pairings(at + 1, pairs, all);
        for (new, (_, column)) in self.new.iter().enumerate() {
            let fits = affinity(&column.declared) == affinity(&self.lost[at].1.declared);
            if fits && !pairs.iter().any(|(_, taken)| *taken == new) {
                pairs.push((at, new));
                self.pairings(at + 1, pairs, all);
                pairs.pop();
            }
        }
    }

    /// The rows whose digest is explained by these pairs. None count if one of the pairs may be an
    /// accident.
    fn proofs(&self, pairs: &Pairs) -> usize {
        let mut told: Vec<Vec<i64>> = vec![Vec::new(); pairs.len()];
        let mut proofs = 0;
        for row in self.rows {
            let one = |&(lost, new): &(usize, usize)| row.pairs[lost * self.new.len() + new];
            let sum = pairs.iter().map(one).fold(0_i64, i64::wrapping_add);
            let has_news = pairs.iter().any(|(_, new)| self.is_news(row, *new));
            if sum != row.rest || !has_news {
                continue;
            }
            proofs += 1;
            for (told, (_, new)) in told.iter_mut().zip(pairs) {
                let value = row.values[*new];
                if told.len() < 2 && self.is_news(row, *new) && !told.contains(&value) {
                    told.push(value);
                }
            }
        }
        let is_sure = |(pair, told): (&(usize, usize), &Vec<i64>)| {
            told.len() > 1 || (told.len() == 1 && self.is_in_its_place(*pair))
        };
        if pairs.iter().zip(&told).all(is_sure) { proofs } else { 0 }
    }

    /// Whether the new column stands where the lost one did. A column that was added stands at the
    /// end, and may have been given one value in all rows that all lost ones had as well.
    fn is_in_its_place(&self, (lost, new): (usize, usize)) -> bool {
        self.lost[lost].0 == self.new[new].0
    }

    fn has_news(&self, row: &Row) -> bool {
        (0..row.values.len()).any(|new| self.is_news(row, new))
    }

    /// Whether the row has a value in the new column that the column alone does not explain.
    fn is_news(&self, row: &Row, new: usize) -> bool {
        row.values[new] != 0 && Some(row.values[new]) != self.defaults[new]
    }
}

#[cfg(test)]
#[path = "rebuilt_columns_tests.rs"]
mod tests;
