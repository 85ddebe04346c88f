//! Merges the rows of a snapshot, which fills gaps, batch by batch.
//!
//! Arrives: the first waiting batch, inside the write transaction. Leaves: its rows, applied like
//! those of a batch from a stream; after the last batch, what the snapshot has of each origin. The
//! transaction decides what a crash leaves.

use super::apply_batch::{Outcome, Source, apply_body};
use super::from_snapshot::Merged;
use super::inbox::Inbox;
use super::process::Processing;
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::repair::superseded::Superseded;
use crate::store::origins::{self, Origin};

/// Merges the first waiting batch; after the last one, stores what the origins have.
///
/// # Errors
/// The error that ends the node, or a temporary lock.
pub(super) fn merge_snapshot(
    tx: &mut Transaction<'_>,
    inbox: &mut Inbox,
    superseded: &Superseded,
) -> Result<(), Fatal> {
    let Inbox { unpacker, snapshot, .. } = inbox;
    let Some(body) = snapshot.next() else {
        if !snapshot.origins().is_empty() {
            note_origins(tx, snapshot.origins())?;
            // Its node may have lost its disk since. Then nobody else has what it had not
            // published, and this node would differ from the others without a word.
            if let Some(since_ms) = snapshot.unpublished_ms() {
                tx.begin_republish(since_ms)?;
            }
            tx.after.merged = Some(Merged::Origins);
        }
        return Ok(());
    };
    // When the messages of its rows were stored is not known.
    let source = Source { sender: None, broker_ms: tx.now.unix_ms };
    let mut processing = Processing { tx, superseded, unpacker };
    let merged = match apply_body(processing.tx, processing.unpacker, body, source)? {
        Outcome::Applied { applied, brought, lowest_ms, .. } => {
            processing.take_schema(brought);
            processing.count(&applied);
            processing.tx.after.look |= applied.compensated > 0;
            // If the broker loses messages beyond the cursor, these rows may be in them.
            for stream in &mut processing.tx.durable.streams {
                stream.cursor.lower(lowest_ms);
            }
            Merged::Batch
        }
        Outcome::Held { reason, .. } | Outcome::Quarantine(reason) => Merged::Refused(reason),
    };
    processing.tx.after.merged = Some(merged);
    Ok(())
}

/// Notes the batches that a snapshot contains, so that a later one of their origin shows no gap.
fn note_origins(tx: &Transaction<'_>, known: &[Origin]) -> Result<(), Fatal> {
    for origin in known.iter().filter(|o| o.site != tx.durable.site()) {
        if origins::known_batch(tx.db, origin.site)? < origin.batch {
            origins::put(tx.db, origin)?;
        }
    }
    Ok(())
}
