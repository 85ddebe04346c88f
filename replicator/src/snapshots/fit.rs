//! Whether a fetched image is of use for what follows it in the streams.
//!
//! Arrives: a file, a moment. Leaves: its node, or why it is of no use. Owns: what the image itself
//! misses, or has too early, is found before anything is applied to it. No state.

use super::replay::ReplayError;
use super::rows::{self, RowsError};
use crate::db::connection::{self, DatabaseError};
use crate::model::ids::NodeId;
use crate::store::cursor::{self, Cursor};
use crate::store::meta;
use rusqlite::Connection;
use std::path::Path;

/// Checks that a fetched image has everything that its positions say, and for a moment (unix
/// milliseconds) nothing that came later. Returns its node.
///
/// # Errors
/// [`ReplayError::Snapshot`] if it is of no use for what follows it.
pub(crate) fn check(path: &Path, shards: u32, at_ms: Option<i64>) -> Result<NodeId, ReplayError> {
    let db = connection::open_reader(path)?;
    let contents = rows::check(&db, &[])?;
    if let Some(shard) = (1..=shards).find(|shard| !contents.is_whole(*shard)) {
        let text = format!("its node missed something of stream {shard} itself");
        return Err(RowsError::Unfit(text).into());
    }
    if let Some(text) = later(&db, at_ms.unwrap_or(i64::MAX))? {
        return Err(RowsError::Unfit(text).into());
    }
    Ok(meta::get(&db, meta::NODE)?.unwrap_or(NodeId(0)))
}

/// Finds a message in an image that the broker stored after a moment. The streams do not show it if
/// they do not hold the message any more, nor does the image's own time if the clocks differ.
fn later(db: &Connection, at_ms: i64) -> Result<Option<String>, DatabaseError> {
    for shard in cursor::shards(db)? {
        let cursor = Cursor::read(db, shard)?;
        if cursor.head().is_some_and(|head| head.time_ns / 1_000_000 > at_ms) {
            let seq = cursor.seq();
            return Ok(Some(format!(
                "it has message {seq} of stream {shard}, which came after the moment: the clock of \
                its node was behind the broker's"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::StreamSeq;
    use crate::store::cursor::Anchor;
    use crate::store::test_database;

    #[test]
    fn an_image_with_a_later_message_is_of_no_use_for_a_moment() {
        let db = test_database();
        assert_eq!(later(&db, 0).unwrap(), None, "nothing was read");
        for (shard, time_ms) in [(1, 4_000), (2, 5_000)] {
            let mut cursor = Cursor::default();
            let anchor = Anchor {
                seq: StreamSeq(9),
                time_ns: time_ms * 1_000_000 + 999,
                ..Anchor::start(7)
            };
            cursor.advance(anchor, 0, 1, 16);
            cursor.write(&db, shard).unwrap();
        }
        assert_eq!(later(&db, 5_000).unwrap(), None, "the whole millisecond belongs to it");
        let text = later(&db, 4_999).unwrap().unwrap();
        assert!(text.contains("message 9 of stream 2"), "{text}");
    }
}
