//! What a workload file holds.

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// A workload file, and the schema that belongs to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    /// Nodes around one broker.
    #[serde(default = "two")]
    pub(crate) nodes: usize,
    /// How long the writers write.
    #[serde(default = "ten")]
    pub(crate) seconds: u64,
    /// All nodes must be equal this many seconds after the last write.
    #[serde(default = "patience")]
    pub(crate) arrives_within: u64,
    /// Keys of the nodes' configuration files.
    #[serde(default)]
    pub(crate) settings: toml::Table,
    /// Rows that every node has before it starts.
    #[serde(default)]
    pub(crate) setup: Vec<Transaction>,
    pub(crate) transaction: Vec<Transaction>,
    pub(crate) writer: Vec<Writer>,
    /// The SQL that makes the tables.
    #[serde(skip)]
    pub(crate) schema: String,
}

/// One kind of transaction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transaction {
    #[serde(default)]
    pub(crate) name: String,
    /// How often it is chosen, compared with the others.
    #[serde(default = "one")]
    pub(crate) weight: u64,
    /// Its statements run this often in one transaction, each time with new values.
    #[serde(default = "one")]
    pub(crate) repeat: u64,
    /// Begin with a read lock, as most frameworks do, not with a write lock.
    #[serde(default)]
    pub(crate) deferred: bool,
    pub(crate) statements: Vec<Spanned<String>>,
    /// Of the parameters, by name.
    #[serde(default)]
    pub(crate) values: BTreeMap<Spanned<String>, Spanned<Value>>,
}

/// Connections that write at one node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Writer {
    /// From 1.
    pub(crate) node: Spanned<usize>,
    #[serde(default = "one")]
    pub(crate) connections: u64,
    /// Transactions a second of each connection; without it as fast as it can.
    pub(crate) rate: Option<Spanned<f64>>,
    /// Names; without it all kinds.
    #[serde(default)]
    pub(crate) transactions: Vec<Spanned<String>>,
    /// Through the VFS, which wakes the sidecar at each commit.
    #[serde(default)]
    pub(crate) vfs: bool,
}

/// Where a parameter's value comes from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Value {
    /// A text that no other row has.
    Uuid,
    /// 1, 2, 3 ... in `setup`, then higher ones; no two connections give the same.
    Number,
    /// Milliseconds since 1970.
    Now,
    /// From the first to the second, each as often.
    Integer([i64; 2]),
    /// The same, the small ones more often: half of all in the first eighth.
    Skewed([i64; 2]),
    /// From the first to the second.
    Real([f64; 2]),
    /// So many characters, from the first number to the second.
    Text([u32; 2]),
    /// So many bytes.
    Blob([u32; 2]),
    /// One of these.
    Choice(Vec<toml::Value>),
}

/// What is wrong with a workload file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {reason}", .line.map_or(String::new(), |line| format!(", line {line}")))]
pub struct WorkloadError {
    pub(crate) file: String,
    pub(crate) line: Option<usize>,
    pub(crate) reason: String,
}

fn one() -> u64 {
    1
}

fn two() -> usize {
    2
}

fn ten() -> u64 {
    10
}

fn patience() -> u64 {
    120
}
