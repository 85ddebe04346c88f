//! The digests of rows that collect has read, so that absorb need not read these rows again.
//!
//! Arrives: the digest of a row, with the last log entry of the row. Leaves: the digest that stands
//! beside the version of that entry. Owns: a digest counts only for its entry, and only at its
//! schema. A row that changed since has another last entry, and absorb reads it. Memory only: after
//! a crash absorb reads all rows.

use crate::db::row_digest::UNKNOWN;

/// Entries that are further from the last absorbed one have no digests. An entry takes 8 bytes.
pub const ENTRIES_MAX: i64 = 100_000;

/// The digests of the rows of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadDigests {
    schema_version: i64,
    /// The entry before the first one.
    after: i64,
    /// The digest at each entry from the first one; [`UNKNOWN`] for none. Ends with the last one
    /// that is known.
    digests: Vec<i64>,
}

impl ReadDigests {
    /// Creates it without digests, for the entries after this one, and for rows that are read at
    /// this `PRAGMA schema_version`.
    pub fn new(schema_version: i64, after: i64) -> Self {
        Self { schema_version, after, digests: Vec::new() }
    }

    /// Notes the digest of the row that has this last entry.
    pub fn note(&mut self, entry: i64, digest: i64) {
        let Some(at) = self.place(entry).filter(|at| (*at as i64) < ENTRIES_MAX) else { return };
        self.digests.resize(self.digests.len().max(at + 1), UNKNOWN);
        self.digests[at] = digest;
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Returns the digest of the row that has this last entry, if one of several batches has it.
    /// The batches are in the order of their entries.
    pub fn find(batches: &[&Self], schema_version: i64, entry: i64) -> Option<i64> {
        let at = batches.partition_point(|batch| batch.after < entry).checked_sub(1)?;
        let batch = Some(batches[at]).filter(|batch| batch.schema_version == schema_version)?;
        batch.digests.get(batch.place(entry)?).copied().filter(|digest| *digest != UNKNOWN)
    }

    fn place(&self, entry: i64) -> Option<usize> {
        usize::try_from(entry.checked_sub(self.after)?.checked_sub(1)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_digest_of_its_batch_and_schema() {
        let mut first = ReadDigests::new(7, 10);
        let mut second = ReadDigests::new(8, 20);
        assert!(first.is_empty());
        for (entry, digest) in [(11, 1), (14, 4), (12, UNKNOWN)] {
            first.note(entry, digest);
        }
        for (entry, digest) in [(20, 9), (20 + ENTRIES_MAX, 5), (21 + ENTRIES_MAX, 6)] {
            second.note(entry, digest);
        }
        assert!(!first.is_empty());
        let batches = [&first, &second];
        for (schema_version, entry, expected) in [
            (7, 10, None),
            (7, 11, Some(1)),
            (8, 11, None),
            (7, 12, None),
            (7, 13, None),
            (7, 14, Some(4)),
            (7, 15, None),
            (8, 20, None),
            (8, 20 + ENTRIES_MAX, Some(5)),
            (8, 21 + ENTRIES_MAX, None),
            (8, i64::MAX, None),
            (7, i64::MIN, None),
        ] {
            let found = ReadDigests::find(&batches, schema_version, entry);
            assert_eq!(found, expected, "{schema_version} {entry}");
        }
        assert_eq!(ReadDigests::find(&[], 7, 11), None);
    }
}
