//! Skips batches in a schema that this node never had, as soon as their origin has this node's
//! schema.
//!
//! A node that joins after migrations finds older batches in the stream. Their origin is held, as
//! for any other schema, but it will never write in that schema again, so waiting is useless. The
//! origin's registry entry proves that: if it has our schema hash, then all batches up to the one
//! in the entry are superseded. So they are if our schema is the one before the present schema of
//! the origin, which may travel in a batch behind the held ones. This node skips them and asks the
//! other nodes to republish their rows, which are in the new schema by now. Mapping old columns to
//! new ones instead would lose the content of a renamed column. Memory only, apart from the gap
//! that is noted in the transaction that skips the batches.

use super::question::{Outgoing, Question};
use crate::broker::KvEntry;
use crate::model::batch::{BatchHeader, Digest};
use crate::model::config::Now;
use crate::model::ids::{BatchNo, NodeId, Site};
use data_encoding::HEXLOWER;
use std::collections::HashMap;

/// The interval of reading the registry entries of held origins.
const ASK_MS: u64 = 2_000;

/// A held backlog is consumed again for an entry that says nothing new but is this much later.
const LATER_MS: i64 = 60_000;

/// The content of a held origin's registry entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CaughtUp {
    /// The common schema of origin and node.
    hash: Digest,
    /// The origin's present schema: the same, or the one after it.
    present: Digest,
    /// The origin's incarnation.
    site: Site,
    /// Its former incarnations.
    former_sites: Vec<Site>,
    /// The origin's last published batch.
    batch: BatchNo,
    /// When the origin wrote the entry, by its own clock, unix milliseconds.
    updated_ms: i64,
    /// Whether the other nodes were asked to republish.
    asked: bool,
}

/// The held origins that now have this node's schema.
#[derive(Debug, Default)]
pub struct Superseded {
    origins: HashMap<NodeId, CaughtUp>,
    due_ms: u64,
}

impl Superseded {
    /// Returns when [`Superseded::ask`] has questions, if any origin is held.
    pub fn deadline(&self) -> u64 {
        self.due_ms
    }

    /// Returns the requests for the registry entries of `held` origins, every two seconds.
    pub fn ask(&mut self, mut held: Vec<NodeId>, now: Now) -> Vec<Outgoing> {
        if held.is_empty() || now.mono_ms < self.due_ms {
            return Vec::new();
        }
        self.due_ms = now.mono_ms + ASK_MS;
        held.sort_unstable();
        held.dedup();
        let ask = |node| Outgoing::read(Question::HeldOrigin(node), format!("node-{node}"));
        held.into_iter().map(ask).collect()
    }

    /// Takes the entry of a held origin. True if it newly has our schema or a later batch, so its
    /// backlog is to be consumed again.
    pub fn read(&mut self, node: NodeId, entry: Option<&KvEntry>, ours: Digest) -> bool {
        let Some(caught) = entry.and_then(|e| read_entry(e, ours)) else { return false };
        let known = self.origins.get(&node).is_some_and(|known| {
            // Still held, although its schema is ours: perhaps by a batch of an incarnation that it
            // does not know, from before its clock was set back.
            let is_later =
                caught.present == ours && caught.updated_ms - known.updated_ms >= LATER_MS;
            CaughtUp { asked: false, updated_ms: 0, ..known.clone() }
                == CaughtUp { updated_ms: 0, ..caught.clone() }
                && !is_later
        });
        if known {
            return false;
        }
        self.origins.insert(node, caught);
        true
    }

    /// Returns whether a batch that does not fit was written before its origin had our schema.
    pub fn covers(&self, node: NodeId, header: &BatchHeader, ours: Digest) -> bool {
        self.origins.get(&node).is_some_and(|caught| {
            // An older program lists no former incarnations. A clock that was set back must not
            // make the batches of one look new.
            let earlier_site = caught.former_sites.contains(&header.site)
                || header.site != caught.site && header.created_ms <= caught.updated_ms;
            let before = header.site == caught.site && header.number <= caught.batch;
            // What is in a later schema than ours waits for that schema.
            let is_later = caught.present != ours && header.schema_hash == caught.present;
            caught.hash == ours && !is_later && (earlier_site || before)
        })
    }

    /// Returns the reason of the gap to note for an origin with skipped batches; None if the other
    /// nodes were already asked.
    pub fn gap(&self, node: NodeId) -> Option<String> {
        let caught = self.origins.get(&node).filter(|caught| !caught.asked)?;
        Some(format!(
            "node {node}: batches up to {} are in a schema that this node never had",
            caught.batch
        ))
    }

    /// Takes over the commit that noted the gap.
    pub fn asked(&mut self, node: NodeId) {
        if let Some(caught) = self.origins.get_mut(&node) {
            caught.asked = true;
        }
    }
}

/// None if the schema is another, or the entry is unreadable.
fn read_entry(entry: &KvEntry, ours: Digest) -> Option<CaughtUp> {
    let value: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
    let hash = |key: &str| -> Option<Digest> {
        HEXLOWER.decode(value[key].as_str()?.as_bytes()).ok()?.try_into().ok()
    };
    let present = hash("schema_hash")?;
    if present != ours && hash("previous_hash") != Some(ours) {
        return None;
    }
    Some(CaughtUp {
        hash: ours,
        present,
        site: Site(value["site"].as_i64()?),
        former_sites: value["former_sites"]
            .as_array()
            .map(|sites| sites.iter().filter_map(|s| s.as_i64().map(Site)).collect())
            .unwrap_or_default(),
        batch: BatchNo(value["batch"].as_u64()?),
        updated_ms: value["updated_at"].as_i64()?.checked_mul(1_000)?,
        asked: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hash: &Digest, batch: u64) -> KvEntry {
        entry_at(5, hash, batch)
    }

    fn entry_at(updated_at: i64, hash: &Digest, batch: u64) -> KvEntry {
        let value = serde_json::json!({
            "schema_hash": HEXLOWER.encode(hash), "site": 7, "batch": batch,
            "updated_at": updated_at
        });
        KvEntry { revision: 1, value: value.to_string().into() }
    }

    fn header(site: i64, number: u64, created_ms: i64) -> BatchHeader {
        BatchHeader {
            node: NodeId(2),
            site: Site(site),
            number: BatchNo(number),
            previous: BatchNo(number - 1),
            schema_hash: [9; 32],
            created_ms,
            further_sites: Vec::new(),
            schema_changes: Vec::new(),
        }
    }

    #[test]
    fn only_an_entry_with_our_schema_counts() {
        let caught = read_entry(&entry(&[1; 32], 9), [1; 32]).unwrap();
        assert_eq!((caught.site, caught.batch, caught.updated_ms), (Site(7), BatchNo(9), 5_000));
        assert_eq!(read_entry(&entry(&[1; 32], 9), [2; 32]), None);
        assert_eq!(read_entry(&KvEntry { revision: 1, value: "{}".into() }, [1; 32]), None);
    }

    #[test]
    fn the_backlog_is_looked_at_again_only_for_news() {
        let mut superseded = Superseded::default();
        assert!(superseded.read(NodeId(2), Some(&entry(&[1; 32], 9)), [1; 32]));
        assert!(!superseded.read(NodeId(2), Some(&entry(&[1; 32], 9)), [1; 32]));
        assert!(superseded.read(NodeId(2), Some(&entry(&[1; 32], 10)), [1; 32]));
    }

    /// The clock of the origin was set back after it lost its disk, so a batch from before seems to
    /// be later than its entry, and it publishes nothing more (seed 132823).
    #[test]
    fn a_batch_that_seems_to_be_new_is_covered_in_time() {
        let mut superseded = Superseded::default();
        let early = header(6, 1, 60_000);
        for (updated_at, news) in [(5, true), (60, false), (64, false), (65, true), (66, false)] {
            let entry = entry_at(updated_at, &[1; 32], 9);
            assert_eq!(superseded.read(NodeId(2), Some(&entry), [1; 32]), news, "{updated_at}");
            let covered = superseded.covers(NodeId(2), &early, [1; 32]);
            assert_eq!(covered, updated_at >= 65, "{updated_at}");
        }
    }

    #[test]
    fn batches_from_before_the_entry_are_covered() {
        let mut superseded = Superseded::default();
        superseded.read(NodeId(2), Some(&entry(&[1; 32], 9)), [1; 32]);
        for (header, covered) in [
            (header(7, 9, 1), true),
            (header(7, 10, 1), false),
            (header(6, 100, 5_000), true),
            (header(6, 100, 5_001), false),
        ] {
            assert_eq!(superseded.covers(NodeId(2), &header, [1; 32]), covered, "{header:?}");
        }
        assert!(!superseded.covers(NodeId(2), &header(7, 9, 1), [2; 32]), "our schema moved on");
        assert!(!superseded.covers(NodeId(3), &header(7, 9, 1), [1; 32]), "another origin");
    }

    /// The origin has moved on, and the change of its schema travels behind the held batches.
    #[test]
    fn an_origin_that_had_our_schema_before_its_present_one_is_past_former_ones() {
        let value = serde_json::json!({
            "schema_hash": HEXLOWER.encode(&[2; 32]), "previous_hash": HEXLOWER.encode(&[1; 32]),
            "site": 7, "batch": 12, "updated_at": 5
        });
        let entry = KvEntry { revision: 1, value: value.to_string().into() };
        let mut superseded = Superseded::default();
        assert!(superseded.read(NodeId(2), Some(&entry), [1; 32]));
        assert!(superseded.covers(NodeId(2), &header(7, 9, 1), [1; 32]), "a former schema");
        let later = BatchHeader { schema_hash: [2; 32], ..header(7, 12, 1) };
        assert!(!superseded.covers(NodeId(2), &later, [1; 32]), "its present schema");
        assert_eq!(read_entry(&entry, [3; 32]), None);
    }

    #[test]
    fn the_others_are_asked_once() {
        let mut superseded = Superseded::default();
        superseded.read(NodeId(2), Some(&entry(&[1; 32], 9)), [1; 32]);
        assert!(superseded.gap(NodeId(2)).is_some());
        superseded.asked(NodeId(2));
        assert_eq!(superseded.gap(NodeId(2)), None);
    }
}
