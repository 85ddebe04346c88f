//! What a batch is made of, between the stages (docs/design.md section 3). Plain values, no
//! behaviour.

use crate::model::ids::{BatchNo, NodeId, Site, Version};

/// One SQLite value with its storage class. Text is bytes, because SQLite does not insist on UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float; never NaN, which SQLite stores as NULL.
    Real(f64),
    /// Text, usually UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A SHA-256.
pub type Digest = [u8; 32];

/// The header of a batch, before its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Who published it.
    pub node: NodeId,
    /// The incarnation of the origin's database.
    pub site: Site,
    /// Its number within the site.
    pub number: BatchNo,
    /// The number of the batch before it: a hole shows a lost message.
    pub previous: BatchNo,
    /// Hash over all replicated tables of the origin.
    pub schema_hash: Digest,
    /// When it was put together, in the origin's unix milliseconds.
    pub created_ms: i64,
    /// The sites that rows name besides `site`. Site index 0 is `site`, index i is `further_sites[i
    /// - 1]`.
    pub further_sites: Vec<Site>,
    /// Changes of the schema that its rows need, oldest first, each as its origin stored it. Empty
    /// in most batches.
    pub schema_changes: Vec<Vec<u8>>,
}

impl BatchHeader {
    /// The site behind an index used in a row.
    pub fn site_at(&self, index: u64) -> Option<Site> {
        match index {
            0 => Some(self.site),
            i => self.further_sites.get(usize::try_from(i - 1).ok()?).copied(),
        }
    }
}

/// The header of one table in a batch, before that table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHeader {
    /// The table's name, unquoted.
    pub name: String,
    /// Hash of the table's schema at the origin.
    pub hash: Digest,
    /// The columns whose values an upsert carries, in order. The key of a table without PRIMARY KEY
    /// comes first, named `rowid`.
    pub columns: Vec<String>,
    /// Which of `columns` are the key, in key order.
    pub key: Vec<usize>,
    /// How many rows follow.
    pub rows: u64,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The row is as its values say; `values` holds one value for each of [`TableHeader::columns`].
    Upsert,
    /// The row is gone; `values` holds the key only, in the order of [`TableHeader::key`].
    Delete,
}

/// One row of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The version of this content.
    pub version: Version,
    /// What its writer had before. Equal to `version` where a repair sends a row again whose
    /// predecessor nobody kept.
    pub previous: Version,
    /// Upsert or delete.
    pub op: Op,
    /// Values, see [`Op`].
    pub values: Vec<Value>,
}

/// What is known of a batch from the headers of one of its messages, before anything is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHeaders {
    /// The incarnation of the origin's database.
    pub site: Site,
    /// The batch that the part belongs to.
    pub batch: BatchNo,
    /// Which part, from 1.
    pub part: u32,
    /// How many parts the batch has.
    pub parts: u32,
    /// Length of all parts together, in bytes.
    pub total_bytes: u64,
    /// SHA-256 of all parts together.
    pub digest: Digest,
    /// The last entry of the origin's change log in the batch; None from an older program.
    pub log: Option<LogMark>,
}

/// Identifies an entry of the change log. A database that has this very entry has not gone back to
/// a time before it, because commits survive in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The number of the entry.
    pub id: i64,
    /// The hash of its content.
    pub hash: u64,
}
