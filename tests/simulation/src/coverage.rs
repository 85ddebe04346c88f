//! Counts faults and repairs. A suite fails if one of them never happened.

use std::collections::BTreeMap;

/// The marks with their counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    /// Counts a mark once.
    pub fn hit(&mut self, mark: &'static str) {
        self.add(mark, 1);
    }

    /// Counts a mark several times.
    pub fn add(&mut self, mark: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    /// Adds the counts of another world.
    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    /// Returns the count of a mark.
    pub fn count(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or(0)
    }

    /// Returns all marks with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(mark, count)| (*mark, *count))
    }
}

/// The marks that a run of some hundreds of worlds must have.
pub const EXPECTED: &[&str] = &[
    "crash",
    "power cut",
    "power cut lost commits",
    "connection cut",
    "one-way partition",
    "request lost",
    "request late",
    "late request arrived",
    "acknowledgement lost",
    "answer lost",
    "answer doubled",
    "signal lost",
    "consumer lost",
    "message redelivered",
    "broker rolled back",
    "message destroyed",
    "stream recreated",
    "messages expired",
    "message damaged",
    "quarantine retried",
    "rows refused",
    "stage: quarantined",
    "node that only publishes",
    "node that only applies",
    "first node keeps its rows",
    "clock jumped",
    "long quiet",
    "write lock held",
    "schema migrated",
    "snapshot saved",
    "gap filled from a snapshot",
    "disk lost",
    "stage: held",
    "stage: busy",
    "stage: snapshot met",
    "stage: snapshot waited for",
    "stage: acknowledgement found",
    "stage: loss repaired",
    "stage: rows republished",
    "stage: new site",
    "stage: gap",
    "stage: conflict journaled",
    "stage: compensated",
    "stage: batch split",
    "stage: batch resent",
    "stage: rows skipped",
    "stage: version pruned",
];
