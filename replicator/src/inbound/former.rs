//! Passes over batches of a schema that this node never had, once their origin has this node's
//! schema.
//!
//! A node that joins after migrations finds batches in the stream that were written before them.
//! Their origin is held, as for any schema that differs; but it will never write in that schema
//! again, so waiting is in vain. Its registry entry tells: if it shows our schema, everything up to
//! the batch that it names was written before. Such batches are passed over, and the nodes are
//! asked to publish again what they have: rows and versions are theirs by now in the new schema.
//! Mapping old columns to new ones instead would lose the content of a renamed one. Memory only,
//! and a gap that is noted in the transaction that passes over.

use super::link::{Link, Question};
use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::{Broker, KvEntry, Request};
use crate::model::batch::{BatchHeader, Digest};
use crate::model::config::Now;
use crate::model::ids::{BatchNo, NodeId, Site};

/// How often the registry is asked about held origins.
const ASK_MS: u64 = 2_000;

/// What a held origin's registry entry said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Former {
    /// The schema of origin and node.
    hash: Digest,
    /// The origin's life.
    site: Site,
    /// The last batch that it had published.
    batch: BatchNo,
    /// When the entry was written, in the origin's unix milliseconds.
    updated_ms: i64,
    /// The other nodes were asked to publish again.
    pub(super) asked: bool,
}

/// A hash as the registry has it.
pub(super) fn hex(hash: &Digest) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

impl<B: Broker> Inbound<B> {
    fn holds_any(&self) -> bool {
        self.streams.iter().any(|s| !s.held.is_empty())
    }

    /// Asks for the registry entries of held origins, now and then.
    pub(super) fn ask_about_held(&mut self, now: Now) {
        if !self.holds_any() || now.mono_ms < self.former_due_ms {
            return;
        }
        self.former_due_ms = now.mono_ms + ASK_MS;
        let mut nodes: Vec<NodeId> =
            self.streams.iter().flat_map(|s| s.held.keys().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.ask(Question::HeldOrigin(node), Request::KvGet { key: format!("node-{node}") });
        }
    }

    /// When [`Inbound::ask_about_held`] has something to ask.
    pub(super) fn former_deadline(&self) -> u64 {
        if self.holds_any() && matches!(self.link, Link::Up) {
            self.former_due_ms
        } else {
            u64::MAX
        }
    }

    /// A held origin's entry: if it has our schema by now, its backlog is looked at again.
    pub(super) fn held_origin(&mut self, node: NodeId, entry: Option<&KvEntry>) {
        let Some(former) = entry.and_then(|e| read_entry(e, self.layout.hash)) else { return };
        let known = self.former.get(&node).is_some_and(|k| {
            Former { asked: false, updated_ms: 0, ..k.clone() }
                == Former { updated_ms: 0, ..former.clone() }
        });
        if known {
            return;
        }
        self.former.insert(node, former);
        for i in 0..self.streams.len() {
            if self.streams[i].held.contains_key(&node) {
                self.consume(i);
            }
        }
    }

    /// Whether a batch that cannot be admitted is from before its origin came to our schema.
    pub(super) fn passes_over(&self, node: NodeId, header: &BatchHeader) -> bool {
        self.former.get(&node).is_some_and(|f| {
            let former_life = header.site != f.site && header.created_ms <= f.updated_ms;
            f.hash == self.layout.hash
                && (former_life || (header.site == f.site && header.number <= f.batch))
        })
    }

    /// Passes over it, and once asks the other nodes to publish again.
    pub(super) fn pass_over(
        &mut self,
        shard: u32,
        node: NodeId,
        header: &BatchHeader,
        now: Now,
        done: &mut Done,
    ) -> Result<(), Fatal> {
        self.note_origin(shard, node, header, now, done)?;
        if let Some(former) = self.former.get(&node)
            && !former.asked
            && !done.passed_over.contains(&node)
        {
            let reason = format!(
                "node {node}: batches up to {} are in a schema that this node never had",
                former.batch
            );
            done.passed_over.push(node);
            self.open_gap(shard, node, &reason, now, done)?;
        }
        Ok(())
    }

    /// After the commit that asked the others.
    pub(super) fn former_asked(&mut self, node: NodeId) {
        if let Some(former) = self.former.get_mut(&node) {
            former.asked = true;
        }
    }
}

/// None: another schema, or no entry that we can read.
fn read_entry(entry: &KvEntry, ours: Digest) -> Option<Former> {
    let value: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
    if value["schema_hash"].as_str()? != hex(&ours) {
        return None;
    }
    Some(Former {
        hash: ours,
        site: Site(value["site"].as_i64()?),
        batch: BatchNo(value["batch"].as_u64()?),
        updated_ms: value["updated_at"].as_i64()?.checked_mul(1_000)?,
        asked: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_entry_with_our_schema_counts() {
        let entry = |hash: &Digest| {
            KvEntry {
            revision: 1,
            value: serde_json::json!({"schema_hash": hex(hash), "site": 7, "batch": 9, "updated_at": 5}).to_string().into(),
        }
        };
        let former = read_entry(&entry(&[1; 32]), [1; 32]).unwrap();
        assert_eq!((former.site, former.batch, former.updated_ms), (Site(7), BatchNo(9), 5_000));
        assert_eq!(read_entry(&entry(&[1; 32]), [2; 32]), None);
        assert_eq!(read_entry(&KvEntry { revision: 1, value: "{}".into() }, [1; 32]), None);
    }
}
