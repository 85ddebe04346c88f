//! The position up to which each stream is applied, with evidence that the stream is still the
//! same.
//!
//! Arrives: the position after each applied message. Leaves: one head for each shard, and a sparse
//! trail of older positions at growing distances. Owns: every kept position has the lowest row time
//! since the position before it. So after a loss the node knows from which time on to republish,
//! also for rows that were sent long after they were written. The cursor is written in the
//! transaction that applies the rows, so they always agree after a crash.

use crate::broker::Message;
use crate::db::connection::DatabaseError;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use rusqlite::{Connection, params};

/// The facts that identify a message later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its position.
    pub seq: StreamSeq,
    /// When its stream was created, unix nanoseconds.
    pub created_ns: i64,
    /// When the broker stored it, unix nanoseconds.
    pub time_ns: i64,
    /// The node that published it.
    pub node: NodeId,
    /// The incarnation of that node's database.
    pub site: Site,
    /// The number of its batch.
    pub batch: BatchNo,
}

impl Anchor {
    /// Returns the anchor before the first message of a stream.
    pub fn start(created_ns: i64) -> Self {
        Self {
            seq: StreamSeq(0),
            created_ns,
            time_ns: 0,
            node: NodeId(0),
            site: Site(0),
            batch: BatchNo(0),
        }
    }

    /// Returns the anchor of a message.
    pub fn of(message: &Message, created_ns: i64) -> Self {
        let (site, batch) =
            message.headers.as_ref().map_or((Site(0), BatchNo(0)), |h| (h.site, h.batch));
        Self {
            seq: message.seq,
            created_ns,
            time_ns: message.time_ns,
            node: message.node,
            site,
            batch,
        }
    }

    /// Returns whether the message at this position is the one of the anchor.
    pub fn matches(&self, found: Option<&Message>) -> bool {
        let same = |m: &Message| {
            let found = Self::of(m, self.created_ns);
            // An anchor from an acknowledgement has no time.
            Self { time_ns: if self.time_ns == 0 { 0 } else { found.time_ns }, ..found } == *self
        };
        self.seq.0 == 0 || found.is_some_and(same)
    }
}

/// A kept position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPosition {
    /// The message at the position.
    pub anchor: Anchor,
    /// The lowest row time (unix milliseconds) in the messages after the previous kept position, up
    /// to this one.
    pub lowest_ms: i64,
}

/// The cursor of one shard.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Oldest first; the last one is the head.
    pub kept: Vec<KeptPosition>,
    /// From this index on `kept` differs from the stored cursor.
    changed: usize,
    /// Positions that are stored, and no longer kept.
    removed: Vec<StreamSeq>,
}

/// Returns the streams with a cursor, in order.
///
/// # Errors
/// SQLite's error.
pub fn shards(db: &Connection) -> Result<Vec<u32>, DatabaseError> {
    let mut read =
        db.prepare("SELECT DISTINCT shard FROM main.__harmonylite__cursor ORDER BY shard")?;
    let rows = read.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The lowest row time if there is no row.
pub const NO_ROW_MS: i64 = i64::MAX;

impl Cursor {
    /// Returns the position up to which the stream is applied.
    pub fn head(&self) -> Option<&Anchor> {
        self.kept.last().map(|k| &k.anchor)
    }

    /// Returns the position of the head; 0 before the first message.
    pub fn seq(&self) -> StreamSeq {
        self.head().map_or(StreamSeq(0), |a| a.seq)
    }

    /// Reads the cursor of a shard.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection, shard: u32) -> Result<Self, DatabaseError> {
        let mut read = db.prepare_cached(
            "SELECT seq, created, time, node, site, batch, lowest FROM main.__harmonylite__cursor \
            WHERE shard = ?1 ORDER BY seq",
        )?;
        let kept = read.query_map([shard], |r| {
            Ok(KeptPosition {
                anchor: Anchor {
                    seq: r.get(0)?,
                    created_ns: r.get(1)?,
                    time_ns: r.get(2)?,
                    node: r.get(3)?,
                    site: r.get(4)?,
                    batch: r.get(5)?,
                },
                lowest_ms: r.get(6)?,
            })
        })?;
        let kept = kept.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Self { changed: kept.len(), kept, removed: Vec::new() })
    }

    /// Moves the head. The old head stays in the trail if it is at least `step` messages after the
    /// kept position before it; otherwise the new head replaces it.
    pub fn advance(&mut self, to: Anchor, lowest_ms: i64, step: u64, most: usize) {
        if to.seq <= self.seq() {
            return;
        }
        let keep_head = match self.kept.as_slice() {
            [] => true,
            [.., before, head] => head.anchor.seq.0 - before.anchor.seq.0 >= step,
            [_] => true,
        };
        if keep_head {
            self.kept.push(KeptPosition { anchor: to, lowest_ms });
        } else if let Some(head) = self.kept.last_mut() {
            self.removed.push(head.anchor.seq);
            *head = KeptPosition { anchor: to, lowest_ms: head.lowest_ms.min(lowest_ms) };
        }
        self.changed = self.changed.min(self.kept.len() - 1);
        self.thin(most);
    }

    /// Lowers the row time of the head, for rows of messages before it (an own batch, published
    /// before it is consumed).
    pub fn lower(&mut self, lowest_ms: i64) {
        if let Some(head) = self.kept.last_mut().filter(|h| h.lowest_ms > lowest_ms) {
            head.lowest_ms = lowest_ms;
            self.changed = self.changed.min(self.kept.len() - 1);
        }
    }

    /// Thins the trail to `most` positions. Each time removes the position whose neighbours are
    /// closest together in proportion to its age.
    fn thin(&mut self, most: usize) {
        while self.kept.len() > most.max(2) {
            let head = self.seq().0;
            let nearest = (1..self.kept.len() - 1).min_by_key(|i| {
                let span = self.kept[i + 1].anchor.seq.0 - self.kept[i - 1].anchor.seq.0;
                let age = head - self.kept[*i].anchor.seq.0 + 1;
                span.saturating_mul(1 << 20) / age
            });
            let Some(i) = nearest else { return };
            let removed = self.kept.remove(i);
            self.removed.push(removed.anchor.seq);
            self.changed = self.changed.min(i);
            self.kept[i].lowest_ms = self.kept[i].lowest_ms.min(removed.lowest_ms);
        }
    }

    /// Goes back to a kept position (None: the start), and returns the lowest row time after it.
    pub fn back_to(&mut self, index: Option<usize>, created_ns: i64) -> i64 {
        let from = index.map_or(0, |i| i + 1);
        let lowest = self.kept[from..].iter().map(|k| k.lowest_ms).min().unwrap_or(NO_ROW_MS);
        self.removed.extend(self.kept.drain(from..).map(|k| k.anchor.seq));
        self.changed = self.changed.min(from);
        if self.kept.is_empty() {
            self.kept
                .push(KeptPosition { anchor: Anchor::start(created_ns), lowest_ms: NO_ROW_MS });
        }
        lowest
    }

    /// Stores the cursor of a shard.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn write(&mut self, db: &Connection, shard: u32) -> Result<(), DatabaseError> {
        let mut remove = db.prepare_cached(
            "DELETE FROM main.__harmonylite__cursor WHERE shard = ?1 AND seq = ?2",
        )?;
        for seq in self.removed.drain(..) {
            remove.execute(params![shard, seq])?;
        }
        let mut put = db.prepare_cached(
            "INSERT INTO main.__harmonylite__cursor (shard, seq, created, time, node, site, \
            batch, lowest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (shard, seq) DO UPDATE SET created = excluded.created, time = \
             excluded.time, node = excluded.node, site = excluded.site,
             batch = excluded.batch, lowest = excluded.lowest",
        )?;
        for KeptPosition { anchor: a, lowest_ms } in &self.kept[self.changed.min(self.kept.len())..]
        {
            put.execute(params![
                shard,
                a.seq,
                a.created_ns,
                a.time_ns,
                a.node,
                a.site,
                a.batch,
                lowest_ms
            ])?;
        }
        self.changed = self.kept.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Anchor {
        Anchor { seq: StreamSeq(seq), time_ns: seq.cast_signed() * 10, ..Anchor::start(1) }
    }

    #[test]
    fn the_trail_is_bounded_and_reaches_far_back() {
        let mut cursor = Cursor::default();
        for seq in 1..100_000 {
            cursor.advance(at(seq), seq.cast_signed(), 4, 16);
        }
        let seqs: Vec<u64> = cursor.kept.iter().map(|k| k.anchor.seq.0).collect();
        assert!(seqs.len() <= 16 && seqs[0] <= 10 && seqs[15] == 99_999, "{seqs:?}");
        assert!(seqs[14] > 99_900 && seqs[3] < 95_000, "distances grow with age: {seqs:?}");
    }

    /// Whatever was thinned away, going back finds the lowest row after the position.
    #[test]
    fn the_lowest_row_after_a_position_survives_thinning() {
        let mut cursor = Cursor::default();
        for seq in 1..2_000_u64 {
            let lowest = if seq == 1_500 { 7 } else { 1_000_000 };
            cursor.advance(at(seq), lowest, 2, 8);
        }
        for index in 0..cursor.kept.len() - 1 {
            let before = cursor.kept[index].anchor.seq.0 < 1_500;
            assert_eq!(cursor.clone().back_to(Some(index), 1) == 7, before);
        }
        assert_eq!(cursor.back_to(None, 1), 7);
        assert_eq!(cursor.seq(), StreamSeq(0));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let db = crate::store::test_database();
        assert_eq!(shards(&db).unwrap(), [0; 0]);
        let mut cursor = Cursor::default();
        for seq in 1..300 {
            cursor.advance(at(seq), seq.cast_signed(), 3, 8);
            if seq % 7 == 0 {
                cursor.write(&db, 2).unwrap();
                assert_eq!(Cursor::read(&db, 2).unwrap().kept, cursor.kept);
            }
        }
        cursor.back_to(Some(3), 1);
        cursor.write(&db, 2).unwrap();
        assert_eq!(Cursor::read(&db, 2).unwrap().kept, cursor.kept);
        assert_eq!(shards(&db).unwrap(), [2]);
    }
}
