//! A node asks for a snapshot that has what it misses.
//!
//! Arrives: open gaps; the registry entry `snapshot-wanted`; the newest snapshot. Leaves: the entry
//! to write; whether the leader saves because of it. Owns: however often and by however many it is
//! asked, two snapshots are some minutes apart, and one that has what is missing ends the question.
//! The last asking node has the entry; others ask again while they miss something. Pure.

use super::due::{APART_MS, Newest};
use crate::broker::KvEntry;
use crate::repair::gaps::OpenGap;
use harmonylite_snapshot::manifest::{SnapshotId, StreamPosition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key in the registry bucket.
pub(crate) const WANTED_KEY: &str = "snapshot-wanted";
/// The entry lives for this long, and an older one does not count: the asking node has ended, or
/// misses nothing any more.
pub(crate) const WANTED_MS: u64 = 600_000;
/// An entry with more bytes is not ours.
const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Snapshots that are named as unfit.
const UNFIT_MAX: usize = 10;

/// What a node misses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    /// The asking node.
    pub(crate) node: u64,
    /// When it asked, unix milliseconds.
    asked_ms: i64,
    /// How far a snapshot's node must have read the streams.
    pub(crate) streams: Vec<StreamPosition>,
    /// Snapshots that did not fill the gaps although they are read so far.
    unfit: Vec<String>,
}

impl Wanted {
    /// What fills these gaps.
    pub(crate) fn of(node: u64, gaps: &[OpenGap], unfit: &[SnapshotId], now_ms: i64) -> Self {
        let mut streams = BTreeMap::<u32, StreamPosition>::new();
        for OpenGap { shard, needs, .. } in gaps {
            let (shard, created_ns) = (*shard, needs.created_ns);
            let batches = needs.batches.iter().map(|missing| missing.before).max();
            let seq = needs.position.max(batches.unwrap_or(0));
            let wanted = StreamPosition { shard, seq, created_ns };
            let entry = streams.entry(shard).or_insert(wanted);
            if (created_ns, seq) > (entry.created_ns, entry.seq) {
                *entry = wanted;
            }
        }
        let unfit = unfit.iter().rev().take(UNFIT_MAX).map(ToString::to_string).collect();
        Self { node, asked_ms: now_ms, streams: streams.into_values().collect(), unfit }
    }

    /// Reads an entry. One that cannot be read is from another version.
    pub(crate) fn read(entry: Option<&KvEntry>) -> Option<Self> {
        let value = &entry?.value;
        (value.len() <= ENTRY_BYTES_MAX).then(|| serde_json::from_slice(value).ok()).flatten()
    }

    /// Returns the entry to write.
    pub(crate) fn value(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns whether the leader saves because of it.
    pub(crate) fn is_due(&self, newest: Option<&Newest>, now_ms: i64) -> bool {
        let age_ms = now_ms.saturating_sub(self.asked_ms).max(0);
        if self.streams.is_empty() || age_ms.cast_unsigned() > WANTED_MS {
            return false;
        }
        let Some(newest) = newest else { return true };
        let is_recent = now_ms.saturating_sub(newest.created_ms).max(0) < APART_MS;
        !is_recent && (self.unfit.contains(&newest.id) || !self.is_in(&newest.streams))
    }

    fn is_in(&self, streams: &[StreamPosition]) -> bool {
        let is_in = |wanted: &StreamPosition| {
            let mut same = streams.iter().filter(|s| s.shard == wanted.shard);
            same.any(|s| s.created_ns == wanted.created_ns && s.seq >= wanted.seq)
        };
        self.streams.iter().all(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{BatchNo, Site};
    use crate::repair::gaps::{MissingBatches, Needs};

    fn gap(shard: u32, position: u64, batches_before: &[u64]) -> OpenGap {
        let missing =
            |before: &u64| MissingBatches { site: Site(1), upto: BatchNo(1), before: *before };
        let batches = batches_before.iter().map(missing).collect();
        OpenGap { key: (1, 1), shard, needs: Needs { position, created_ns: 7, batches } }
    }

    fn newest(seqs: &[u64], created_ms: i64) -> Newest {
        let at = |(shard, seq): (u32, &u64)| StreamPosition { shard, seq: *seq, created_ns: 7 };
        Newest { id: "a".to_owned(), created_ms, streams: (1..).zip(seqs).map(at).collect() }
    }

    #[test]
    fn the_furthest_position_of_each_stream_is_wanted() {
        let gaps = [gap(1, 5, &[]), gap(2, 0, &[9, 3]), gap(1, 8, &[2])];
        let wanted = Wanted::of(3, &gaps, &[], 1_000);
        let at = |shard, seq| StreamPosition { shard, seq, created_ns: 7 };
        assert_eq!(wanted.streams, [at(1, 8), at(2, 9)]);
        let entry = KvEntry { revision: 1, value: wanted.value().into() };
        assert_eq!(Wanted::read(Some(&entry)), Some(wanted));
        let odd = KvEntry { revision: 1, value: b"[1".to_vec().into() };
        assert_eq!((Wanted::read(Some(&odd)), Wanted::read(None)), (None, None));
        let long = KvEntry { revision: 1, value: vec![b' '; ENTRY_BYTES_MAX + 1].into() };
        assert_eq!(Wanted::read(Some(&long)), None);
    }

    #[test]
    fn a_snapshot_is_saved_if_none_has_it_and_the_last_one_is_some_minutes_old() {
        let wanted = Wanted::of(3, &[gap(1, 8, &[]), gap(2, 4, &[])], &[], 1_000_000);
        let due = |newest: Option<Newest>, now_ms| wanted.is_due(newest.as_ref(), now_ms);
        assert!(due(None, 1_000_000));
        assert!(due(Some(newest(&[8, 3], 0)), 1_000_000));
        assert!(!due(Some(newest(&[8, 4], 0)), 1_000_000), "that one has it");
        assert!(due(Some(newest(&[8], 0)), 1_000_000));
        assert!(!due(Some(newest(&[1, 1], 1_000_000 - APART_MS + 1)), 1_000_000), "too soon");
        assert!(!due(None, 1_000_001 + WANTED_MS as i64), "an old question");
        let odd = Wanted { unfit: vec!["a".to_owned()], ..wanted.clone() };
        assert!(odd.is_due(Some(&newest(&[8, 4], 0)), 1_000_000), "it did not fill the gap");
        assert!(!Wanted::default().is_due(None, 0));
    }
}
