//! Gets the rows of batches from quarantine that cannot be applied here.
//!
//! Arrives: retried batches that failed once more, the registry entries of their origins, and the
//! end of gaps. Leaves: what each origin's schema means for the retry, and the entries whose rows
//! came another way. Owns: an origin is asked only if its tables are those of this node, because
//! otherwise its rows would not fit either. An entry is dropped only when the gap that asked for
//! its rows has ended: they are in the stream then. Memory only: after a crash the gap is still
//! answered, and the entry waits for another retry.

use super::peer_tables::differing_tables;
use super::question::{Outgoing, Question};
use crate::broker::KvEntry;
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::config::Now;
use crate::model::ids::NodeId;
use crate::store::gaps::{self, GapKey};
use crate::store::quarantine;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};

/// The interval of reading the registry entry of an origin that did not come.
const ASK_MS: u64 = 2_000;

/// What is known of the origin of a retried batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginSchema {
    /// Its registry entry was not read yet.
    NotRead,
    /// It does not matter: the rows were asked for by an earlier retry, and have not come yet.
    /// Another question would only be later.
    Asked,
    /// Its tables are those of this node.
    Ours,
    /// These tables differ; empty if they are too many to be listed.
    Differs(Vec<String>),
    /// It has no registry entry that this program can read.
    Missing,
}

/// A retry of a batch in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The number of the batch in quarantine.
    pub id: i64,
    /// What is known of its origin.
    pub origin: OriginSchema,
}

/// A step about a retried batch that failed. It counts after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refetching {
    /// The registry entry of the origin is to be read.
    Read(NodeId),
    /// The other nodes are asked for the rows.
    Asked(GapKey),
}

/// The retried batches that failed.
#[derive(Debug, Default)]
pub struct Refetch {
    /// Batches whose origin's entry is to be read.
    unread: BTreeMap<i64, NodeId>,
    /// Batches whose rows are asked for, and the gaps.
    asked: BTreeMap<i64, i64>,
    due_ms: u64,
}

impl Refetch {
    /// Takes over a commit with these steps.
    pub fn committed(&mut self, steps: impl IntoIterator<Item = (i64, Refetching)>) {
        for (id, step) in steps {
            match step {
                Refetching::Read(node) => {
                    self.unread.insert(id, node);
                    self.due_ms = 0;
                }
                Refetching::Asked((gap, _)) => {
                    self.asked.insert(id, gap);
                }
            }
        }
    }

    /// Returns the retry of a batch that a person wants.
    pub fn retry(&self, id: i64) -> Retry {
        let is_asked = self.asked.contains_key(&id);
        Retry { id, origin: if is_asked { OriginSchema::Asked } else { OriginSchema::NotRead } }
    }

    /// Returns when [`Refetch::ask`] has questions, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        if self.unread.is_empty() { u64::MAX } else { self.due_ms }
    }

    /// Returns the requests for the registry entries of origins, every two seconds.
    pub fn ask(&mut self, now: Now) -> Vec<Outgoing> {
        if now.mono_ms < self.deadline() {
            return Vec::new();
        }
        self.due_ms = now.mono_ms + ASK_MS;
        let nodes: BTreeSet<NodeId> = self.unread.values().copied().collect();
        let ask = |node| Outgoing::read(Question::QuarantineOrigin(node), format!("node-{node}"));
        nodes.into_iter().map(ask).collect()
    }

    /// Takes the entry of an origin. Returns the batches to retry with what it shows.
    pub fn read(&mut self, node: NodeId, entry: Option<&KvEntry>, layout: &Layout) -> Vec<Retry> {
        let origin = origin_schema(entry, layout);
        let read = self.unread.extract_if(.., |_, origin| *origin == node);
        read.map(|(id, _)| Retry { id, origin: origin.clone() }).collect()
    }

    /// Removes the batches whose gap has ended, inside the caller's transaction. Call
    /// [`Refetch::ended`] after its commit.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn remove_ended(&self, db: &Connection) -> Result<(), DatabaseError> {
        if self.asked.is_empty() {
            return Ok(());
        }
        let open = gaps::list(db)?;
        for id in self.asked.iter().filter(|(_, gap)| !is_open(&open, **gap)).map(|(id, _)| *id) {
            if quarantine::remove(db, id)? {
                tracing::info!(
                    id,
                    "the rows of a batch in quarantine were republished; it is dropped"
                );
            }
        }
        Ok(())
    }

    /// Forgets the batches whose gap has ended, after the commit. If the gaps cannot be read, the
    /// end of the next gap tries it again.
    pub fn ended(&mut self, db: &Connection) {
        if !self.asked.is_empty()
            && let Ok(open) = gaps::list(db)
        {
            self.asked.retain(|_, gap| is_open(&open, *gap));
        }
    }
}

fn is_open(open: &[gaps::Gap], id: i64) -> bool {
    open.iter().any(|gap| gap.id == id)
}

fn origin_schema(entry: Option<&KvEntry>, layout: &Layout) -> OriginSchema {
    let value = entry.and_then(|e| serde_json::from_slice::<serde_json::Value>(&e.value).ok());
    let Some(value) = value.filter(|value| value["schema_hash"].is_string()) else {
        return OriginSchema::Missing;
    };
    match differing_tables(&value, layout) {
        None => OriginSchema::Ours,
        Some(tables) => OriginSchema::Differs(tables),
    }
}

#[cfg(test)]
#[path = "refetch_tests.rs"]
mod tests;
