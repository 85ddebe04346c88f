//! Processes deliveries: applies a batch, holds its origin, or quarantines it.
//!
//! Arrives: the items of the streams, inside the write transaction. Leaves: rows, a held origin or
//! a quarantine entry, and the moved cursor. Owns: a batch is applied whole or not at all, and a
//! batch that is not applied is kept. The transaction decides what a crash leaves.

use super::apply_batch::{Brought, Outcome, Sender, Source, apply_body};
use super::batch_body::BatchBody;
use super::clocks::Stamped;
use super::inbox::Inbox;
use super::stream::{ItemKind, StreamItem};
use super::transaction::Transaction;
use crate::actor::Fatal;
use crate::merge::apply::Applied;
use crate::model::batch::{BatchHeader, PartHeaders};
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::gaps::{MissingBatches, Need};
use crate::repair::superseded::Superseded;
use crate::store::cursor::{Anchor, NO_ROW_MS};
use crate::store::gaps::{self, Missing};
use crate::store::held::{self, Hold};
use crate::store::origins::{self, Origin};
use crate::store::quarantine::{self, Entry};
use crate::wire::unpack::Unpacker;

/// The transaction, and the components for applying batches.
pub(super) struct Processing<'t, 'a> {
    /// The transaction.
    pub(super) tx: &'t mut Transaction<'a>,
    /// The origins with superseded batches.
    pub(super) superseded: &'t Superseded,
    /// The memory for decompressing batches.
    pub(super) unpacker: &'t mut Unpacker,
}

/// The number of processed rows, and the lowest row time among them.
type Rows = (u64, i64);

/// One item and its stream.
#[derive(Clone, Copy)]
struct Place<'i> {
    /// The index of the stream.
    i: usize,
    shard: u32,
    item: &'i StreamItem,
}

/// Retries the batches that people asked for, and then processes deliveries, up to the bound on
/// rows.
///
/// # Errors
/// The error that ends the node, or a temporary lock.
pub(super) fn serve(
    tx: &mut Transaction<'_>,
    inbox: &mut Inbox,
    superseded: &Superseded,
) -> Result<(), Fatal> {
    let order = inbox.order();
    let Inbox { streams, retries, unpacker, .. } = inbox;
    let mut processing = Processing { tx, superseded, unpacker };
    processing.retry_quarantine(retries)?;
    processing.tx.after.served.items = vec![0; streams.len()];
    // After a verdict the consumers start again, and their earlier deliveries are dropped.
    if processing.tx.after.connection_passes {
        return Ok(());
    }
    let mut rows = 0;
    for i in order {
        for item in &streams[i].queue {
            if rows >= processing.tx.config.limits.apply_rows_max {
                processing.tx.after.served.full_at = Some(i);
                return Ok(());
            }
            rows += processing.process(Place { i, shard: streams[i].shard, item })?;
            processing.tx.after.served.items[i] += 1;
        }
    }
    Ok(())
}

impl Processing<'_, '_> {
    fn process(&mut self, place: Place<'_>) -> Result<u64, Fatal> {
        let shard = place.shard;
        let (rows, lowest_ms) = match &place.item.kind {
            ItemKind::Skip => (0, NO_ROW_MS),
            ItemKind::Gap { from, to } => {
                let reason = format!("stream {shard}: messages {from} to {} are missing", to.0 - 1);
                note_gap(self.tx, shard, NodeId(0), &reason, Need::Messages(StreamSeq(to.0 - 1)))?;
                (1, NO_ROW_MS)
            }
            ItemKind::Bad { reason, message } => {
                let headers = message.headers.as_ref();
                let (site, batch) = headers.map_or((Site(0), BatchNo(0)), |h| (h.site, h.batch));
                let digest = headers.ok().map(|h| h.digest);
                self.set_aside(
                    place,
                    Entry {
                        id: 0,
                        time_ms: self.tx.now.unix_ms,
                        shard,
                        seq: message.seq,
                        node: message.node,
                        site,
                        batch,
                        reason: reason.clone(),
                        body: message.payload.to_vec(),
                        digest,
                    },
                )?;
                (1, NO_ROW_MS)
            }
            ItemKind::Batch { headers, first, body, .. } => {
                self.batch(place, headers, *first, body)?
            }
        };
        self.advance(place, lowest_ms);
        Ok(rows)
    }

    fn batch(
        &mut self,
        place: Place<'_>,
        headers: &PartHeaders,
        first: StreamSeq,
        body: &BatchBody,
    ) -> Result<Rows, Fatal> {
        let (shard, node) = (place.shard, place.item.anchor.node);
        let progress = &self.tx.durable.streams[place.i];
        if progress.held.contains_key(&node) && !progress.resuming.contains_key(&node) {
            return Ok((0, NO_ROW_MS));
        }
        let sender = Sender { node, site: headers.site, batch: headers.batch };
        let broker_ms = place.item.anchor.time_ns / 1_000_000;
        let source = Source { sender: Some(sender), broker_ms };
        match apply_body(self.tx, self.unpacker, body, source)? {
            Outcome::Applied { header, applied, lowest_ms, brought } => {
                self.take_schema(brought);
                self.note_origin(place, &header)?;
                self.tx.stats.batches_applied += 1;
                self.tx.stats.bytes_applied += body.bytes.len();
                self.tx.stats.last_applied_unix_ms = self.tx.now.unix_ms;
                let created_ms = header.created_ms;
                self.tx.after.stamped.push(Stamped { node, created_ms, broker_ms });
                self.count(&applied);
                self.tx.after.look |= applied.compensated > 0;
                Ok((applied.taken + applied.skipped, lowest_ms))
            }
            Outcome::Held { header: Some(header), .. }
                if self.superseded.covers(node, &header, self.tx.layout.hash) =>
            {
                self.skip_superseded(place, &header)?;
                Ok((1, NO_ROW_MS))
            }
            Outcome::Held { reason, .. } => {
                self.hold(place, first, &reason)?;
                Ok((1, NO_ROW_MS))
            }
            Outcome::Quarantine(reason) => {
                self.set_aside(
                    place,
                    Entry {
                        id: 0,
                        time_ms: self.tx.now.unix_ms,
                        shard,
                        seq: first,
                        node,
                        site: headers.site,
                        batch: headers.batch,
                        reason,
                        body: body.bytes.to_vec()?,
                        digest: Some(headers.digest),
                    },
                )?;
                Ok((1, 0))
            }
        }
    }

    /// Takes what an applied batch did to the schema.
    pub(super) fn take_schema(&mut self, brought: Brought) {
        self.tx.after.unmade |= brought.unmade;
        if let Some(adopted) = brought.adopted {
            self.tx.adopt(*adopted);
        }
    }

    /// Adds the counts of an applied batch.
    pub(super) fn count(&mut self, applied: &Applied) {
        let stats = &mut self.tx.stats;
        stats.rows_taken += applied.taken;
        stats.rows_skipped += applied.skipped;
        stats.conflicts += applied.conflicts;
        stats.compensated += applied.compensated;
        stats.inserted_twice += applied.inserted_twice;
        self.tx.after.inserted_twice.extend_from_slice(&applied.inserted_twice_tables);
        stats.newest_remote_ms = stats.newest_remote_ms.max(applied.newest_ms);
    }

    /// Follows the chain of batch numbers of a site. A hole in it is a lost message. The chain
    /// starts with batch 1, also for a site that is new here: all its batches must arrive.
    fn note_origin(&mut self, place: Place<'_>, header: &BatchHeader) -> Result<(), Fatal> {
        let Anchor { node, seq, .. } = place.item.anchor;
        let known = origins::known_batch(self.tx.db, header.site)?.0;
        self.tx.after.seen_origins.push((node, header.created_ms));
        if header.previous.0 > known && header.number.0 > known {
            let reason =
                format!("node {node}: batches {} to {} are missing", known + 1, header.previous);
            let (site, upto) = (header.site, header.previous);
            let need = Need::Batches(MissingBatches { site, upto, before: seq.0 });
            note_gap(self.tx, place.shard, node, &reason, need)?;
        }
        if header.number.0 > known {
            let BatchHeader { site, number, created_ms, .. } = *header;
            let origin = Origin { site, node, batch: number, created_ms };
            origins::put(self.tx.db, &origin)?;
        }
        Ok(())
    }

    /// Skips a superseded batch, and asks the other nodes once to republish.
    fn skip_superseded(&mut self, place: Place<'_>, header: &BatchHeader) -> Result<(), Fatal> {
        let Anchor { node, seq, .. } = place.item.anchor;
        self.note_origin(place, header)?;
        if let Some(reason) = self.superseded.gap(node)
            && !self.tx.after.superseded_asked.contains(&node)
        {
            self.tx.after.superseded_asked.push(node);
            note_gap(self.tx, place.shard, node, &reason, Need::Messages(seq))?;
        }
        Ok(())
    }

    fn hold(&mut self, place: Place<'_>, seq: StreamSeq, reason: &str) -> Result<(), Fatal> {
        let (shard, node) = (place.shard, place.item.anchor.node);
        let progress = &mut self.tx.durable.streams[place.i];
        if progress.held.get(&node) != Some(&seq) {
            tracing::warn!(
                origin = node.0,
                shard,
                reason,
                "holding this origin until the schemas match"
            );
            self.tx.stats.held += 1;
        }
        progress.held.insert(node, seq);
        progress.resuming.remove(&node);
        self.tx.after.released.retain(|released| *released != (shard, node));
        held::put(self.tx.db, Hold { node, shard, seq, reason }, self.tx.now.unix_ms)?;
        Ok(())
    }

    /// Puts a message into quarantine. If the quarantine is full, its origin is held, so that the
    /// message is read again later. If very many origins are held (nobody has so many nodes), the
    /// message counts as missing, and the other nodes are asked for their rows.
    fn set_aside(&mut self, place: Place<'_>, entry: Entry) -> Result<(), Fatal> {
        let most = self.tx.config.limits.quarantine_max;
        if quarantine::count(self.tx.db)?.cast_unsigned() < most {
            return self.quarantine(&entry);
        }
        self.tx.after.quarantine_full = true;
        let reason = format!(
            "the quarantine is full ({most} batches): look at them with `harmonylite quarantine \
            list`, then retry or drop them; the next one: {}",
            entry.reason
        );
        let held = &self.tx.durable.streams[place.i].held;
        if held.len() as u64 >= most && !held.contains_key(&entry.node) {
            let need = Need::Messages(place.item.anchor.seq);
            return note_gap(self.tx, place.shard, entry.node, &reason, need);
        }
        self.hold(place, entry.seq, &reason)
    }

    fn quarantine(&mut self, entry: &Entry) -> Result<(), Fatal> {
        quarantine::add(self.tx.db, entry)?;
        tracing::error!(
            origin = entry.node.0,
            batch = entry.batch.0,
            shard = entry.shard,
            seq = entry.seq.0,
            reason = entry.reason,
            "a batch cannot be applied; it is in quarantine, see `harmonylite quarantine`"
        );
        self.tx.stats.quarantined += 1;
        Ok(())
    }

    /// Moves the cursor, and releases origins whose backlog is processed.
    fn advance(&mut self, place: Place<'_>, lowest_ms: i64) {
        let limits = &self.tx.config.limits;
        let (own_anchor, own_lowest_ms) =
            (self.tx.durable.own_anchor, self.tx.durable.own_lowest_ms);
        let progress = &mut self.tx.durable.streams[place.i];
        let (step, most) = (limits.cursor_trail_step, limits.cursor_trail_max);
        progress.cursor.advance(place.item.safe, lowest_ms, step, most);
        progress.cursor.lower(lowest_ms);
        let passed_own = place.shard == self.tx.config.own_shard()
            && own_anchor.is_some_and(|a| progress.cursor.seq() >= a.seq);
        if !progress.resuming.is_empty() && place.item.anchor.seq >= progress.cursor.seq() {
            for (node, _) in progress.resuming.drain() {
                // Release at once, so that later items in the same transaction are not held any
                // more.
                progress.held.remove(&node);
                self.tx.after.released.push((place.shard, node));
            }
        }
        if passed_own && own_lowest_ms != NO_ROW_MS {
            progress.cursor.lower(own_lowest_ms);
            self.tx.clear_own_lowest();
        }
    }
}

/// Notes a gap. It requests all rows, because the age of the rows in a lost message is unknown.
///
/// # Errors
/// SQLite's error.
pub(super) fn note_gap(
    tx: &mut Transaction<'_>,
    shard: u32,
    node: NodeId,
    reason: &str,
    need: Need,
) -> Result<(), Fatal> {
    if planted(Bug::NoGapRepair) {
        return Ok(());
    }
    tracing::warn!(shard, reason, "messages are missing; asking the other nodes to republish them");
    let missing = Missing { shard, node, since_ms: 0, reason };
    gaps::note(tx.db, missing, tx.now.unix_ms)?;
    tx.stats.gaps += 1;
    tx.after.gaps.push((shard, need));
    Ok(())
}

/// Stores the release of origins.
///
/// # Errors
/// SQLite's error.
pub(super) fn release(tx: &mut Transaction<'_>) -> Result<(), Fatal> {
    for (shard, node) in std::mem::take(&mut tx.after.released) {
        held::remove(tx.db, node, shard)?;
        tracing::info!(origin = node.0, shard, "the schemas match; no longer holding this origin");
    }
    Ok(())
}
