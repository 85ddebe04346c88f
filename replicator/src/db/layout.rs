//! A replicated table as the stages use it: its number in the log and all SQL statements on it.
//!
//! Arrives: a [`TableSchema`]. Leaves: a [`TableLayout`]. Pure; the statements are cached by the
//! connections that run them.

use crate::db::packed_key::{PACK, UNPACK, packs};
use crate::db::row_digest::RowDigest;
use crate::db::schema::{KeyColumn, KeyKind, OWN_PREFIX, Skipped, TableSchema};
use crate::db::shape::{Shape, ShapeColumn};
use crate::db::sql::{canonical_key, quote};
use crate::model::batch::{Digest, Value};
use crate::model::planted_bugs::{Bug, planted};
use data_encoding::HEXLOWER;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The statements about one table. Key values are bound first (?1..), in key order.
#[derive(Debug)]
pub struct Statements {
    /// All columns of a row, in batch order.
    pub select_row: String,
    /// Packed key -> hlc, site number.
    pub version_get: String,
    /// Packed key, hlc, site number, digest.
    pub version_put: String,
    /// The greatest key with a version, for tables with an integer key.
    pub version_greatest: String,
    /// Key, hlc, site number, packed key; the digest is that of the row as it is stored, NULL if
    /// there is none.
    pub version_put_stored: String,
    /// For tables with an integer key: the first and the last key, hlc, site number. Like
    /// `version_put_stored` for each row that there is from the one to the other.
    pub version_put_range: Option<String>,
    /// Key.
    pub delete_row: String,
    /// Key, exactly as stored.
    pub select_key: String,
    /// For tables with an integer key: the key and all columns in batch order of the rows from a
    /// key on, in ascending order ([`crate::db::near_rows`]).
    pub select_from: Option<String>,
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
    /// The place in `digest` of each of `batch_columns`; None for the rowid.
    pub digested: Vec<Option<usize>>,
    /// The places of the key in `batch_columns`, in key order.
    pub batch_key: Vec<usize>,
    /// Which columns of the key the version table holds packed.
    pub packs: Vec<bool>,
    /// The statements.
    pub sql: Statements,
}

impl TableLayout {
    /// Builds the layout of a table that has no history.
    pub fn first(id: i64, schema: TableSchema) -> Self {
        let shape = Shape::first(&schema);
        let digest = RowDigest::new(&shape.columns, |_, _| None);
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
        let packs = schema.key.iter().map(packs).collect();
        let place = |column: &String| digest.names().position(|name| name == column);
        let digested = batch_columns.iter().map(place).collect();
        Self { id, schema, history, digest, batch_columns, digested, batch_key, packs, sql }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.schema.name
    }

    /// Returns the name of its version table.
    pub fn version_table(&self) -> String {
        version_table(&self.schema.name)
    }

    /// The key of the version `v` as the table has it, an expression a column.
    pub fn key_of_version(&self) -> Vec<String> {
        let key_of = |(column, name): (&KeyColumn, String)| {
            if packs(column) { format!("{UNPACK}(v.{name})") } else { format!("v.{name}") }
        };
        self.schema.key.iter().zip(version_keys(&self.schema)).map(key_of).collect()
    }

    /// These expressions of the key as the version table holds them.
    pub fn packed(&self, keys: &[String]) -> Vec<String> {
        let pack = |(key, packs): (&String, &bool)| {
            if *packs { format!("{PACK}({key})") } else { key.clone() }
        };
        keys.iter().zip(&self.packs).map(pack).collect()
    }

    /// The condition that finds the row `t` of the version `v`.
    pub fn row_of_version(&self) -> String {
        let same = |(name, key): (&KeyColumn, String)| {
            let binary = if packs(name) { " COLLATE BINARY" } else { "" };
            format!("{key}{binary} = t.{}", quote(&name.name))
        };
        let parts: Vec<String> =
            self.schema.key.iter().zip(self.key_of_version()).map(same).collect();
        parts.join(" AND ")
    }

    /// The condition that finds the version `v` of the row `t`.
    pub fn version_of_row(&self) -> String {
        let same = |(column, name): (&KeyColumn, String)| {
            let key = format!("t.{}", quote(&column.name));
            let key = if packs(column) { format!("{PACK}({key})") } else { key };
            format!("v.{name} = {key}")
        };
        let parts: Vec<String> =
            self.schema.key.iter().zip(version_keys(&self.schema)).map(same).collect();
        parts.join(" AND ")
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

/// The columns of the key in the version table.
pub fn version_keys(table: &TableSchema) -> Vec<String> {
    let name = |(i, column)| if packs(column) { format!("packed{i}") } else { format!("key{i}") };
    table.key.iter().enumerate().map(name).collect()
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
    let version_keys = version_keys(schema);
    let version_condition: Vec<String> =
        version_keys.iter().enumerate().map(|(i, key)| format!("{key} = ?{}", i + 1)).collect();
    let keys = version_keys.join(", ");
    let put_all = |rows: &str| {
        format!(
            "INSERT INTO {versions} ({keys}, hlc, site, digest) {rows} ON CONFLICT ({keys}) DO \
            UPDATE SET hlc = excluded.hlc, site = excluded.site, digest = excluded.digest"
        )
    };
    let put = |packed: &str, digest: &str| {
        put_all(&format!("VALUES ({packed}, ?{}, ?{}, {digest})", n + 1, n + 2))
    };
    let has_integer_key = schema.key_kind != KeyKind::Columns;
    let key = key_names.join(", ");
    let places: Vec<String> = (1..=n).map(|i| format!("?{i}")).collect();
    // The first parameters find the row, so they come as the row has them.
    let packed: Vec<String> = (n + 3..2 * n + 3).map(|i| format!("?{i}")).collect();
    let digest = digest.sql("t", u32::MAX);
    let stored = format!("(SELECT {digest} FROM {table} AS t WHERE {condition})");
    let range = || {
        put_all(&format!(
            "SELECT t.{key}, ?3, ?4, {digest} FROM {table} AS t WHERE t.{key} BETWEEN ?1 AND ?2"
        ))
    };
    Statements {
        select_row: format!("SELECT {} FROM {table} WHERE {condition}", columns.join(", ")),
        select_key: format!("SELECT {} FROM {table} WHERE {condition}", key_names.join(", ")),
        delete_row: format!("DELETE FROM {table} WHERE {condition}"),
        version_get: format!(
            "SELECT hlc, site FROM {versions} WHERE {}",
            version_condition.join(" AND ")
        ),
        version_greatest: format!("SELECT max(key0) FROM {versions}"),
        version_put: put(&places.join(", "), &format!("?{}", n + 3)),
        version_put_stored: put(&packed.join(", "), &stored),
        version_put_range: has_integer_key.then(range),
        select_from: has_integer_key.then(|| {
            let columns = columns.join(", ");
            format!("SELECT {key}, {columns} FROM {table} WHERE {key} >= ?1 ORDER BY {key}")
        }),
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
    /// Searched for each log entry.
    by_id: HashMap<i64, usize, RandomState>,
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
