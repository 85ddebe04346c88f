//! A replicated table as the stages use it: its number in the log and all SQL statements on it.
//!
//! Arrives: a [`TableSchema`]. Leaves: a [`TableLayout`]. Pure; the statements are cached by the
//! connections that run them.

use crate::db::row_digest::RowDigest;
use crate::db::schema::{KeyKind, OWN_PREFIX, Skipped, TableSchema};
use crate::db::shape::{Shape, ShapeColumn};
use crate::db::sql::{canonical_key, key_columns, quote};
use crate::model::batch::{Digest, Value};
use crate::model::planted_bugs::{Bug, planted};
use data_encoding::HEXLOWER;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The statements about one table. Key values are bound first (?1..), in key order.
#[derive(Debug)]
pub struct Statements {
    /// All columns of a row, in batch order.
    pub select_row: String,
    /// Key -> hlc, site.
    pub version_get: String,
    /// Key, hlc, site, digest.
    pub version_put: String,
    /// The greatest key with a version, for tables with an integer key.
    pub version_greatest: String,
    /// Key, hlc, site; the digest is that of the row as it is stored, NULL if there is none.
    pub version_put_stored: String,
    /// Key.
    pub delete_row: String,
    /// Key, exactly as stored.
    pub select_key: String,
}

/// A registry entry lists no more tables.
const LISTED_MAX: usize = 500;

/// The shapes of a table.
#[derive(Debug)]
pub struct History {
    /// The present one.
    pub shape: Shape,
    /// Log entries up to here were written before the sidecar had followed the change to it.
    pub changed_at: i64,
    /// Former ones, by the hash of their schema.
    pub former: Vec<(Digest, Shape)>,
}

/// A replicated table.
#[derive(Debug)]
pub struct TableLayout {
    /// `__harmonylite__table.id`.
    pub id: i64,
    /// The table's schema.
    pub schema: TableSchema,
    /// Its shapes.
    pub history: History,
    /// Its columns as digests see them.
    pub digest: RowDigest,
    /// The replicated columns. In a table without PRIMARY KEY the rowid comes first.
    pub batch_columns: Vec<String>,
    /// The places of the key in `batch_columns`, in key order.
    pub batch_key: Vec<usize>,
    /// The statements.
    pub sql: Statements,
}

impl TableLayout {
    /// Builds the layout of a table that has no history.
    pub fn first(id: i64, schema: TableSchema) -> Self {
        let shape = Shape::first(&schema);
        let digest = RowDigest::new(&shape, |_, _| None);
        let history = History { shape, changed_at: 0, former: Vec::new() };
        Self::new(id, schema, history, digest)
    }

    /// Builds the layout from the schema.
    pub fn new(id: i64, schema: TableSchema, history: History, digest: RowDigest) -> Self {
        let mut batch_columns: Vec<String> =
            schema.columns.iter().map(|c| c.name.clone()).collect();
        if schema.key_kind == KeyKind::Rowid {
            batch_columns.insert(0, schema.key[0].name.clone());
        }
        let batch_key = schema
            .key
            .iter()
            .map(|k| batch_columns.iter().position(|c| *c == k.name).unwrap_or(0))
            .collect();
        let sql = statements(&schema, &batch_columns, &digest);
        Self { id, schema, history, digest, batch_columns, batch_key, sql }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.schema.name
    }

    /// Returns the name of its version table.
    pub fn version_table(&self) -> String {
        version_table(&self.schema.name)
    }

    /// `(column COLLATE c = ?n AND ...)`, in the collation of the key's index.
    pub fn key_condition(&self) -> String {
        key_condition(&self.schema, |i| format!("?{}", i + 1))
    }

    /// Returns the upsert for these columns (a peer with a former schema sends fewer). The values
    /// are bound in the same order. Any other column gets the value that rows have which were there
    /// before it: its DEFAULT may be another by now, and differ from node to node.
    pub fn upsert(&self, columns: &[&str]) -> String {
        let given = |c: &&ShapeColumn| {
            !columns.iter().any(|n| n.eq_ignore_ascii_case(&c.name))
                && !planted(Bug::MissingColumnsStay)
        };
        let others: Vec<&ShapeColumn> = self.history.shape.columns.iter().filter(given).collect();
        let mut names: Vec<String> = columns.iter().map(|c| quote(c)).collect();
        let mut places: Vec<String> = (1..=columns.len()).map(|i| format!("?{i}")).collect();
        names.extend(others.iter().map(|c| quote(&c.name)));
        places.extend(others.iter().map(|c| c.absent.clone().unwrap_or("NULL".to_owned())));
        let target = match self.schema.key_kind {
            KeyKind::Rowid | KeyKind::Integer => quote(&self.schema.key[0].name),
            KeyKind::Columns => {
                let key: Vec<String> = self
                    .schema
                    .key
                    .iter()
                    .map(|k| format!("{} COLLATE {}", quote(&k.name), k.collation.name()))
                    .collect();
                key.join(", ")
            }
        };
        // Write the key columns too: values that are equal under a collation may differ in bytes. A
        // rowid cannot differ.
        let written: Vec<String> = names
            .iter()
            .filter(|n| self.schema.key_kind == KeyKind::Columns || **n != target)
            .map(|n| format!("{n} = excluded.{n}"))
            .collect();
        let action = if written.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", written.join(", "))
        };
        // OR ABORT: a clash must be an error even if the schema declares ON CONFLICT REPLACE or
        // IGNORE.
        format!(
            "INSERT OR ABORT INTO main.{} ({}) VALUES ({}) ON CONFLICT ({target}) DO {action}",
            quote(&self.schema.name),
            names.join(", "),
            places.join(", ")
        )
    }

    /// Returns bytes that are equal exactly for keys of the same row of the same table.
    pub fn canonical(&self, key: &[Value]) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 12 * key.len());
        self.canonical_into(key, &mut out);
        out
    }

    /// Appends the bytes of [`TableLayout::canonical`].
    pub fn canonical_into(&self, key: &[Value], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        for (value, column) in key.iter().zip(&self.schema.key) {
            canonical_key(value, column.collation, out);
        }
    }
}

/// The version table of a table.
pub fn version_table(table: &str) -> String {
    format!("{OWN_PREFIX}{table}_version")
}

fn key_condition(schema: &TableSchema, place: impl Fn(usize) -> String) -> String {
    let parts: Vec<String> = schema
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| format!("{} COLLATE {} = {}", quote(&k.name), k.collation.name(), place(i)))
        .collect();
    parts.join(" AND ")
}

fn statements(schema: &TableSchema, batch_columns: &[String], digest: &RowDigest) -> Statements {
    let table = format!("main.{}", quote(&schema.name));
    let versions = format!("main.{}", quote(&version_table(&schema.name)));
    let columns: Vec<String> = batch_columns.iter().map(|c| quote(c)).collect();
    let key_names: Vec<String> = schema.key.iter().map(|k| quote(&k.name)).collect();
    let condition = key_condition(schema, |i| format!("?{}", i + 1));
    let n = schema.key.len();
    let version_keys = key_columns(n);
    let version_condition: Vec<String> = (0..n).map(|i| format!("key{i} = ?{}", i + 1)).collect();
    let places: Vec<String> = (1..=n + 2).map(|i| format!("?{i}")).collect();
    let keys = version_keys.join(", ");
    let put = |digest: String| {
        format!(
            "INSERT INTO {versions} ({keys}, hlc, site, digest) VALUES ({}, {digest}) ON CONFLICT \
            ({keys}) DO UPDATE SET hlc = excluded.hlc, site = excluded.site, digest = \
            excluded.digest",
            places.join(", ")
        )
    };
    let stored =
        format!("(SELECT {} FROM {table} AS t WHERE {condition})", digest.sql("t", u32::MAX));
    Statements {
        select_row: format!("SELECT {} FROM {table} WHERE {condition}", columns.join(", ")),
        select_key: format!("SELECT {} FROM {table} WHERE {condition}", key_names.join(", ")),
        delete_row: format!("DELETE FROM {table} WHERE {condition}"),
        version_get: format!(
            "SELECT hlc, site FROM {versions} WHERE {}",
            version_condition.join(" AND ")
        ),
        version_greatest: format!("SELECT max(key0) FROM {versions}"),
        version_put: put(format!("?{}", n + 3)),
        version_put_stored: put(stored),
    }
}

/// All replicated tables of a database at one schema version.
#[derive(Debug, Default)]
pub struct Layout {
    /// `PRAGMA schema_version` that this was read at.
    pub schema_version: i64,
    /// The tables.
    pub tables: Vec<Arc<TableLayout>>,
    /// Hash over all tables.
    pub hash: Digest,
    /// Hash over all tables before the last change.
    pub previous_hash: Option<Digest>,
    by_id: HashMap<i64, usize>,
    by_name: HashMap<String, usize>,
    by_former_hash: HashMap<Digest, (usize, usize)>,
    /// The most key columns a table has.
    pub key_columns_max: usize,
    /// Tables that are not replicated.
    pub skipped: Vec<Skipped>,
}

impl Layout {
    /// Puts the tables of one schema version together.
    pub fn new(
        schema_version: i64,
        tables: Vec<TableLayout>,
        hash: Digest,
        previous_hash: Option<Digest>,
        skipped: Vec<Skipped>,
    ) -> Self {
        let tables: Vec<Arc<TableLayout>> = tables.into_iter().map(Arc::new).collect();
        Self {
            schema_version,
            by_id: tables.iter().enumerate().map(|(i, t)| (t.id, i)).collect(),
            by_name: tables
                .iter()
                .enumerate()
                .map(|(i, t)| (t.name().to_ascii_lowercase(), i))
                .collect(),
            by_former_hash: tables
                .iter()
                .enumerate()
                .flat_map(|(i, t)| {
                    t.history.former.iter().enumerate().map(move |(k, (hash, _))| (*hash, (i, k)))
                })
                .collect(),
            key_columns_max: tables.iter().map(|t| t.schema.key.len()).max().unwrap_or(1),
            tables,
            hash,
            previous_hash,
            skipped,
        }
    }

    /// Returns the first bytes of the hash of each replicated table, in hexadecimal; None if there
    /// are too many for a registry entry.
    pub fn short_hashes(&self) -> Option<BTreeMap<&str, String>> {
        let short = |t: &'_ Arc<TableLayout>| HEXLOWER.encode(&t.schema.hash[..8]);
        (self.tables.len() <= LISTED_MAX)
            .then(|| self.tables.iter().map(|t| (t.name(), short(t))).collect())
    }

    /// Returns the tables that are not replicated; None if there are too many for a registry entry.
    pub fn local_tables(&self) -> Option<Vec<&str>> {
        (self.skipped.len() <= LISTED_MAX)
            .then(|| self.skipped.iter().map(|s| s.name.as_str()).collect())
    }

    /// Returns whether the configuration excludes an existing table, whose incoming rows are
    /// skipped.
    pub fn is_excluded(&self, table: &str) -> bool {
        self.skipped.iter().any(|s| s.by_choice && s.name.eq_ignore_ascii_case(table))
    }

    /// Returns the table that once had a schema with this hash, and its shape then.
    pub fn by_former_hash(&self, hash: Digest) -> Option<(&Arc<TableLayout>, &Shape)> {
        let (table, shape) = self.by_former_hash.get(&hash)?;
        Some((&self.tables[*table], &self.tables[*table].history.former[*shape].1))
    }

    /// Returns the table with this number in the log; None if it was dropped.
    pub fn by_id(&self, id: i64) -> Option<&Arc<TableLayout>> {
        self.by_id.get(&id).map(|i| &self.tables[*i])
    }

    /// Returns the table of this name, compared as SQLite does.
    pub fn by_name(&self, name: &str) -> Option<&Arc<TableLayout>> {
        self.by_name.get(&name.to_ascii_lowercase()).map(|i| &self.tables[*i])
    }
}
