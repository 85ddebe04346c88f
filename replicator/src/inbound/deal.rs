//! Deals with one item of a stream: admits and applies a batch, holds its origin, or sets it aside.
//!
//! Arrives: an item, inside the write transaction. Leaves: rows, or a held origin, or a quarantine
//! entry; and the moved cursor. Owns: a batch is applied whole or not at all, and what is not
//! applied is kept.

use super::stream::{Item, What};
use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::Broker;
use crate::db::connection::{self, DatabaseError};
use crate::merge::admit::admit;
use crate::merge::apply::{Applied, Applier, ApplyError};
use crate::model::action::Action;
use crate::model::batch::{BatchHeader, PartHeaders, Row};
use crate::model::config::Now;
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::store::cursor::NO_ROW_MS;
use crate::store::quarantine::{self, Entry};
use crate::wire::decode::{BatchReader, DecodeError, outline, unpacking};
use crate::wire::spill::Spill;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, VecDeque};
use std::io::Read;

enum Outcome {
    Applied {
        header: BatchHeader,
        applied: Applied,
        lowest_ms: i64,
    },
    /// `header`: because of its schema; None: this program cannot read it.
    Held {
        reason: String,
        header: Option<Box<BatchHeader>>,
    },
    Quarantine(String),
}

/// Whose batch it is, which life of its database, and which number.
type Sender = (NodeId, Site, BatchNo);

/// Why a batch ended early inside its savepoint.
enum Ended {
    Fatal(Fatal),
    Outcome(Box<Outcome>),
}

impl<E: Into<Fatal>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(Box::new(outcome))
    }
}

impl<B: Broker> Inbound<B> {
    /// Applies what waits, up to the bound on rows. Streams are served in turn: a transaction
    /// begins with the stream behind the one at which the last was full.
    pub(super) fn apply_waiting(
        &mut self,
        queues: &[VecDeque<Item>],
        now: Now,
        done: &mut Done,
    ) -> Result<(), Fatal> {
        done.taken = vec![0; queues.len()];
        let mut rows = 0;
        // After a repair the consumers start anew: what they delivered before is dropped then.
        if done.link_up {
            return Ok(());
        }
        let first = self.first_served;
        for i in (0..queues.len()).map(|i| (first + i) % queues.len()) {
            for item in &queues[i] {
                if rows >= self.config.limits.apply_rows_max {
                    done.served_to = Some(i);
                    return Ok(());
                }
                rows += self.deal_with(i, item, now, done)?;
                done.taken[i] += 1;
            }
        }
        Ok(())
    }

    fn deal_with(
        &mut self,
        i: usize,
        item: &Item,
        now: Now,
        done: &mut Done,
    ) -> Result<u64, Fatal> {
        let shard = self.streams[i].shard;
        let (mut rows, mut lowest_ms) = (1, NO_ROW_MS);
        match &item.what {
            What::Skip => rows = 0,
            What::Gap { from, to } => {
                let reason = format!("stream {shard}: messages {from} to {} are missing", to.0 - 1);
                self.open_gap(shard, NodeId(0), &reason, now, done)?;
            }
            What::Bad { reason, message } => {
                let (site, batch) =
                    message.headers.as_ref().map_or((Site(0), BatchNo(0)), |h| (h.site, h.batch));
                let (seq, node, body) = (message.seq, message.node, message.payload.to_vec());
                self.quarantine(Entry {
                    id: 0,
                    time_ms: now.unix_ms,
                    shard,
                    seq,
                    node,
                    site,
                    batch,
                    reason: reason.clone(),
                    body,
                })?;
            }
            What::Batch { headers, first, body, .. } => {
                (rows, lowest_ms) = self.batch(i, item, headers, *first, body, now, done)?;
            }
        }
        self.advance(i, item, lowest_ms);
        Ok(rows)
    }

    #[allow(clippy::too_many_arguments)]
    fn batch(
        &mut self,
        i: usize,
        item: &Item,
        headers: &PartHeaders,
        first: StreamSeq,
        body: &Spill,
        now: Now,
        done: &mut Done,
    ) -> Result<(u64, i64), Fatal> {
        let (shard, node) = (self.streams[i].shard, item.anchor.node);
        if self.streams[i].held.contains_key(&node) && !self.streams[i].resuming.contains_key(&node)
        {
            return Ok((0, NO_ROW_MS));
        }
        let sender = Some((node, headers.site, headers.batch));
        match self.apply_body(body, sender, now)? {
            Outcome::Applied { header, applied, lowest_ms } => {
                self.note_origin(shard, node, &header, now, done)?;
                self.stats.batches_applied += 1;
                self.stats.bytes_applied += body.len();
                self.stats.last_applied_unix_ms = now.unix_ms;
                self.count(&applied, node, now);
                if applied.compensated > 0 {
                    done.look = true;
                }
                Ok((applied.taken + applied.skipped, lowest_ms))
            }
            Outcome::Held { header: Some(header), .. } if self.passes_over(node, &header) => {
                self.pass_over(shard, node, &header, now, done)?;
                Ok((1, NO_ROW_MS))
            }
            Outcome::Held { reason, .. } => {
                self.hold(i, node, first, &reason, now)?;
                Ok((1, NO_ROW_MS))
            }
            Outcome::Quarantine(reason) => {
                let (time_ms, site, batch, body) =
                    (now.unix_ms, headers.site, headers.batch, body.to_vec()?);
                self.quarantine(Entry {
                    id: 0,
                    time_ms,
                    shard,
                    seq: first,
                    node,
                    site,
                    batch,
                    reason,
                    body,
                })?;
                Ok((1, 0))
            }
        }
    }

    /// Decodes, admits and applies one batch inside a savepoint. `sender`: what its message said,
    /// if it is known.
    fn apply_body(
        &mut self,
        body: &Spill,
        sender: Option<Sender>,
        now: Now,
    ) -> Result<Outcome, Fatal> {
        connection::run(&self.db, "SAVEPOINT __harmonylite__batch")?;
        let result = self.apply_inside(body, sender, now);
        match result {
            Ok(outcome) => {
                connection::run(&self.db, "RELEASE __harmonylite__batch")?;
                Ok(outcome)
            }
            Err(Ended::Outcome(outcome)) => {
                self.db.execute_batch(
                    "ROLLBACK TO __harmonylite__batch; RELEASE __harmonylite__batch",
                )?;
                Ok(*outcome)
            }
            Err(Ended::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Most batches are small and are decompressed once; the others twice, a piece at a time.
    fn apply_inside(
        &mut self,
        body: &Spill,
        sender: Option<Sender>,
        now: Now,
    ) -> Result<Outcome, Ended> {
        if let Spill::Memory(packed) = body
            && let Some(plain) =
                self.unpacker.unpack(packed, &self.config.limits).map_err(undecodable)?
        {
            let result = self.apply_plain(|| Ok(&plain[..]), sender, now);
            self.unpacker.put_back(plain);
            return result;
        }
        let limits = self.config.limits.clone();
        self.apply_plain(|| unpacking(body.reader()?, &limits).map_err(undecodable), sender, now)
    }

    /// `open` gives the decompressed batch from its start.
    fn apply_plain<R: Read>(
        &mut self,
        open: impl Fn() -> Result<R, Ended>,
        sender: Option<Sender>,
        now: Now,
    ) -> Result<Outcome, Ended> {
        let limits = &self.config.limits;
        let found = outline(open()?, limits).map_err(undecodable)?;
        let said = (found.header.node, found.header.site, found.header.number);
        if let Some(sender) = sender.filter(|sender| *sender != said) {
            let (of, by) = (describe(said), describe(sender));
            return Err(
                Outcome::Quarantine(format!("it says that it is {of}, and came as {by}")).into()
            );
        }
        let maps = match admit(&self.layout, &found.tables) {
            Ok(maps) => maps,
            Err(reason) => {
                return Err(Outcome::Held { reason, header: Some(Box::new(found.header)) }.into());
            }
        };
        let mut reader = BatchReader::new(open()?, limits).map_err(undecodable)?;
        let mut applier = Applier::new(
            &self.db,
            self.absorb.site,
            &self.absorb.own_sites,
            self.joined,
            now.unix_ms,
            limits.conflicts_max,
        );
        let mut row = Row {
            version: crate::model::ids::Version::NONE,
            previous: crate::model::ids::Version::NONE,
            op: crate::model::batch::Op::Delete,
            values: Vec::new(),
        };
        let mut lowest_ms = NO_ROW_MS;
        for map in &maps {
            reader.next_table().map_err(undecodable)?;
            while reader.next_row(&mut row).map_err(undecodable)? {
                lowest_ms = lowest_ms.min(row.version.hlc.ms());
                if let Some(map) = map {
                    applier.row(map, &row).map_err(inapplicable)?;
                }
            }
        }
        let applied = applier.finish().map_err(inapplicable)?;
        Ok(Outcome::Applied { header: found.header, applied, lowest_ms })
    }

    fn count(&mut self, applied: &Applied, node: NodeId, now: Now) {
        self.stats.rows_taken += applied.taken;
        self.stats.rows_skipped += applied.skipped;
        self.stats.conflicts += applied.conflicts;
        self.stats.compensated += applied.compensated;
        self.stats.newest_remote_ms = self.stats.newest_remote_ms.max(applied.newest_ms);
        let ahead_ms = applied.newest_ms - now.unix_ms;
        if ahead_ms > self.config.max_clock_drift_ms {
            self.stats.drift_warnings += 1;
            tracing::warn!(
                origin = node.0,
                ahead_ms,
                "the clock of another node is ahead of ours by more than max_clock_drift; its \
                writes win until ours catches up"
            );
        }
    }

    /// Follows the chain of batch numbers of a site: a hole in it is a lost message. It begins with
    /// the first batch: a site that is new here has been here with all its batches.
    pub(super) fn note_origin(
        &mut self,
        shard: u32,
        node: NodeId,
        header: &BatchHeader,
        now: Now,
        done: &mut Done,
    ) -> Result<(), Fatal> {
        let known: Option<i64> = self
            .db
            .prepare_cached("SELECT batch FROM main.__harmonylite__origin WHERE site = ?1")?
            .query_row([header.site.0], |r| r.get(0))
            .optional()?;
        let known = known.map_or(0, i64::cast_unsigned);
        self.gaps.heard_of(node, header.created_ms);
        if header.previous.0 > known && header.number.0 > known {
            let reason =
                format!("node {node}: batches {} to {} are missing", known + 1, header.previous);
            self.open_gap(shard, node, &reason, now, done)?;
        }
        if header.number.0 > known {
            self.db
                .prepare_cached(
                    "INSERT INTO main.__harmonylite__origin (site, node, batch, created) VALUES \
                    (?1, ?2, ?3, ?4)
                     ON CONFLICT (site) DO UPDATE SET node = excluded.node, batch = \
                     excluded.batch, created = excluded.created",
                )?
                .execute(params![
                    header.site.0,
                    node.0.cast_signed(),
                    header.number.0.cast_signed(),
                    header.created_ms
                ])?;
        }
        Ok(())
    }

    fn hold(
        &mut self,
        i: usize,
        node: NodeId,
        seq: StreamSeq,
        reason: &str,
        now: Now,
    ) -> Result<(), Fatal> {
        let stream = &mut self.streams[i];
        let shard = stream.shard;
        if stream.held.get(&node) != Some(&seq) {
            tracing::warn!(
                origin = node.0,
                shard,
                reason,
                "holding this origin until the schema fits"
            );
            self.stats.held += 1;
        }
        stream.held.insert(node, seq);
        stream.resuming.remove(&node);
        self.released.retain(|released| *released != (shard, node));
        self.db
            .prepare_cached(
                "INSERT INTO main.__harmonylite__held (node, shard, seq, since, reason) VALUES \
                (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (node, shard) DO UPDATE SET seq = excluded.seq, reason = \
                 excluded.reason",
            )?
            .execute(params![
                node.0.cast_signed(),
                shard,
                seq.0.cast_signed(),
                now.unix_ms,
                reason
            ])?;
        Ok(())
    }

    fn quarantine(&mut self, entry: Entry) -> Result<(), Fatal> {
        let count = quarantine::add(&self.db, &entry)?;
        tracing::error!(
            origin = entry.node.0,
            batch = entry.batch.0,
            shard = entry.shard,
            seq = entry.seq.0,
            reason = entry.reason,
            "a batch cannot be applied and is set aside; see `harmonylite quarantine`"
        );
        self.stats.quarantined += 1;
        if count.cast_unsigned() > self.config.limits.quarantine_max {
            return Err(Fatal::QuarantineFull { count });
        }
        Ok(())
    }

    /// Moves the cursor, and ends the holding of origins whose backlog is through.
    fn advance(&mut self, i: usize, item: &Item, lowest_ms: i64) {
        let limits = &self.config.limits;
        let stream = &mut self.streams[i];
        stream.cursor.advance(
            item.safe,
            lowest_ms,
            limits.cursor_trail_step,
            limits.cursor_trail_max,
        );
        stream.cursor.lower(lowest_ms);
        let own = stream.shard == self.config.own_shard()
            && self.own_anchor.is_some_and(|a| stream.cursor.seq() >= a.seq);
        if own && self.own_lowest_ms != NO_ROW_MS {
            stream.cursor.lower(self.own_lowest_ms);
            self.own_lowest_ms = NO_ROW_MS;
            self.own_lowest_changed = true;
        }
        if !stream.resuming.is_empty() && item.anchor.seq >= stream.cursor.seq() {
            for (node, _) in stream.resuming.drain() {
                // At once: what waits behind this item in the same transaction is not held any
                // more.
                stream.held.remove(&node);
                self.released.push((stream.shard, node));
            }
        }
    }

    /// Writes down which origins are not held any more.
    pub(super) fn release(&mut self) -> Result<(), Fatal> {
        for (shard, node) in std::mem::take(&mut self.released) {
            self.db.execute(
                "DELETE FROM main.__harmonylite__held WHERE node = ?1 AND shard = ?2",
                params![node.0.cast_signed(), shard],
            )?;
            tracing::info!(origin = node.0, shard, "the schema fits again; this origin goes on");
        }
        Ok(())
    }

    /// Tries again what people asked for.
    pub(super) fn retry_quarantine(&mut self, now: Now, done: &mut Done) -> Result<(), Fatal> {
        done.retries = self.retries.len();
        for id in self.retries.clone() {
            let Some(entry) = quarantine::load(&self.db, id)? else { continue };
            let body = Spill::from_bytes(entry.body);
            match self.apply_body(&body, None, now)? {
                Outcome::Applied { applied, .. } => {
                    tracing::info!(id, rows = applied.taken, "a batch from quarantine is applied");
                    self.count(&applied, entry.node, now);
                    done.look |= applied.compensated > 0;
                    quarantine::remove(&self.db, id)?;
                }
                Outcome::Held { reason, .. } | Outcome::Quarantine(reason) => {
                    tracing::warn!(id, reason, "a batch from quarantine can still not be applied");
                    quarantine::set_reason(&self.db, id, &reason)?;
                }
            }
        }
        Ok(())
    }
}

fn describe((node, site, batch): Sender) -> String {
    format!("batch {batch} of node {node}, life {site}")
}

fn undecodable(error: DecodeError) -> Ended {
    match error.action() {
        Action::HoldOrigin => Outcome::Held { reason: error.to_string(), header: None }.into(),
        _ => Outcome::Quarantine(error.to_string()).into(),
    }
}

fn inapplicable(error: ApplyError) -> Ended {
    match error {
        ApplyError::Refused { .. } => Outcome::Quarantine(error.to_string()).into(),
        ApplyError::Database(error) => Ended::Fatal(error.into()),
    }
}

/// The origins that wait, and from where.
pub(super) fn read_held(
    db: &Connection,
    shard: u32,
) -> Result<HashMap<NodeId, StreamSeq>, DatabaseError> {
    let mut read = db.prepare("SELECT node, seq FROM main.__harmonylite__held WHERE shard = ?1")?;
    let rows = read.query_map([shard], |r| {
        Ok((
            NodeId(r.get::<_, i64>(0)?.cast_unsigned()),
            StreamSeq(r.get::<_, i64>(1)?.cast_unsigned()),
        ))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
