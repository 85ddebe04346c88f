//! One write transaction of the sidecar.
//!
//! Arrives: all that waits. Leaves: a commit, or nothing. Owns the order: follow DDL, absorb, mark
//! what is acknowledged, repair, apply, move the cursor. Short, so that the application is not
//! starved: a bounded number of rows, though never half a batch.

use super::link::{Link, Repair};
use super::relog::Relogged;
use super::stream::Item;
use super::{Effect, Fatal, Inbound};
use crate::broker::Broker;
use crate::capture::absorb::{absorb, published};
use crate::capture::baseline;
use crate::capture::fold::log_end;
use crate::capture::install::{self, Installed};
use crate::capture::user_triggers;
use crate::db::connection;
use crate::merge::unique_clash;
use crate::model::config::Now;
use crate::model::ids::{BatchNo, NodeId, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::store::cursor::{Anchor, Cursor, NO_ROW_MS};
use crate::store::meta::{forget_own_anchor, write_own_anchor};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::VecDeque;
use std::sync::Arc;

/// Log entries absorbed in one transaction: some 20 ms of work.
const ABSORB_ENTRIES_MAX: i64 = 10_000;

impl<B: Broker> Inbound<B> {
    /// Only for [`Bug::CursorFirst`].
    pub(super) fn stores_cursor_first(&mut self) -> Result<bool, Fatal> {
        let mut stored = false;
        for stream in self.streams.iter().filter(|_| matches!(self.link, Link::Up)) {
            let Some(last) = stream.queue.back() else { continue };
            if Cursor::read(&self.db, stream.shard)?.seq() < last.safe.seq {
                let mut ahead = stream.cursor.clone();
                ahead.advance(last.safe, 0, 1, self.config.limits.cursor_trail_max);
                ahead.write(&self.db, stream.shard)?;
                stored = true;
            }
        }
        Ok(stored)
    }

    /// Does all that waits, within the bounds.
    pub(super) fn transact(&mut self, now: Now) -> Result<(), Fatal> {
        if std::mem::take(&mut self.schema_moved)
            && let Err(error) = self.follow_schema(now)
        {
            self.schema_moved = true;
            return Err(error);
        }
        if !self.knows_its_life() {
            return Ok(());
        }
        let saved_absorb = self.absorb.clone();
        let saved_cursors: Vec<Cursor> = self.streams.iter().map(|s| s.cursor.clone()).collect();
        let saved_held: Vec<_> =
            self.streams.iter().map(|s| (s.held.clone(), s.resuming.clone())).collect();
        let saved = (self.batch, self.own_anchor, self.own_lowest_ms, self.joined, self.stats);
        let queues: Vec<VecDeque<Item>> =
            self.streams.iter_mut().map(|s| std::mem::take(&mut s.queue)).collect();
        let result = self.transaction(&queues, now);
        for ((i, stream), mut queue) in self.streams.iter_mut().enumerate().zip(queues) {
            // What failed is still there, to be dealt with again.
            queue.drain(..result.as_ref().ok().and_then(|d| d.taken.get(i)).copied().unwrap_or(0));
            stream.queue = queue;
        }
        match result {
            Ok(done) => {
                self.stats.transactions += 1;
                self.writes += 1;
                self.after_commit(done, now);
                Ok(())
            }
            Err(error) => {
                self.absorb = saved_absorb;
                (self.batch, self.own_anchor, self.own_lowest_ms, self.joined, self.stats) = saved;
                self.released.clear();
                for ((stream, cursor), (held, resuming)) in
                    self.streams.iter_mut().zip(saved_cursors).zip(saved_held)
                {
                    (stream.cursor, stream.held, stream.resuming) = (cursor, held, resuming);
                }
                Err(error)
            }
        }
    }

    /// Installs the triggers anew if somebody changed the schema, in a transaction of its own.
    fn follow_schema(&mut self, now: Now) -> Result<(), Fatal> {
        if install::schema_version(&self.db)? != self.layout.schema_version {
            let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            check_content(&transaction, self.writes)?;
            let (layout, installed) =
                install::install(&transaction, &self.config.filter, now.unix_ms)?;
            transaction.commit()?;
            report_installed(&installed);
            self.layout = Arc::new(layout);
            self.heartbeat_due_ms = 0;
            self.effects.push(Effect::Look);
            // Whoever waited for this schema tries again, from where it was held.
            for i in 0..self.streams.len() {
                if !self.streams[i].held.is_empty() && matches!(self.link, Link::Up) {
                    self.consume(i);
                }
            }
        }
        if self.mirrored != self.layout.schema_version {
            let layout = Arc::clone(&self.layout);
            let (_, failed) =
                user_triggers::mirror(&mut self.db, &|table| layout.by_name(table).is_some())?;
            for trigger in failed {
                tracing::warn!(
                    trigger,
                    "this trigger calls what only the application knows; it does not fire for \
                    rows that other nodes wrote"
                );
            }
            unique_clash::prepare(&self.db, &self.layout)?;
            self.mirrored = self.layout.schema_version;
        }
        Ok(())
    }

    fn transaction(&mut self, queues: &[VecDeque<Item>], now: Now) -> Result<Done, Fatal> {
        // The connection is borrowed by the transaction for the whole function, while the fields
        // beside it change: begin and end are therefore statements. Dropping out by `?` leads to
        // the ROLLBACK below.
        connection::run(&self.db, "BEGIN IMMEDIATE")?;
        let result = self.inside(queues, now);
        match result {
            Ok(done) => match connection::run(&self.db, "COMMIT") {
                Ok(()) => Ok(done),
                Err(error) => {
                    self.roll_back();
                    Err(error.into())
                }
            },
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    fn roll_back(&self) {
        // Some errors (a full disk) have rolled back already.
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "cannot roll back");
        }
    }

    fn inside(&mut self, queues: &[VecDeque<Item>], now: Now) -> Result<Done, Fatal> {
        let mut done = Done::default();
        check_content(&self.db, self.writes)?;
        connection::set(&self.db, "writes", self.writes + 1)?;
        // By the old layout nothing may be written.
        if install::schema_version(&self.db)? != self.layout.schema_version {
            self.schema_moved = true;
            return Ok(done);
        }
        if self.is_log_reset()? {
            done.look = true;
        }
        if matches!(self.link, Link::Judged(_)) {
            self.begin_life(now, &mut done)?;
            self.stamp_anew(now)?;
        }
        let absorbs_first = !planted(Bug::NoAbsorbFirst) || !self.acks.is_empty();
        let entries_max = if absorbs_first { ABSORB_ENTRIES_MAX } else { 0 };
        let (folded, complete) = absorb(&self.db, &self.layout, &mut self.absorb, entries_max)?;
        for (table, count) in folded.null_keys {
            self.stats.null_key_changes += count;
            if self.warned_null_keys.insert(table.clone()) {
                tracing::warn!(
                    table,
                    "rows with NULL in the primary key have no identity and are not replicated"
                );
            }
        }
        if !complete && absorbs_first {
            return Ok(done);
        }
        self.mark_acknowledged(&mut done)?;
        self.repair(now, &mut done)?;
        self.answer(now, &mut done)?;
        self.retry_quarantine(now, &mut done)?;
        self.apply_waiting(queues, now, &mut done)?;
        self.release()?;
        if !done.link_up && self.join_is_complete(now) {
            self.begin_end_of_join(&mut done)?;
        }
        self.relog(&mut done)?;
        if !self.config.publish {
            let end = self.absorb.absorbed;
            published(&self.db, &mut self.absorb, end)?;
        }
        if std::mem::take(&mut self.own_lowest_changed) {
            connection::set(&self.db, "own_lowest", self.own_lowest_ms)?;
        }
        for stream in &mut self.streams {
            stream.cursor.write(&self.db, stream.shard)?;
        }
        Ok(done)
    }

    /// Somebody emptied the log: ids begin anew, so do the marks.
    fn is_log_reset(&mut self) -> Result<bool, Fatal> {
        if log_end(&self.db)? >= self.absorb.published {
            return Ok(false);
        }
        tracing::warn!("the change log was emptied by someone; capture goes on from here");
        (self.absorb.absorbed, self.absorb.published) = (0, 0);
        connection::set(&self.db, "absorbed", 0)?;
        connection::set(&self.db, "published", 0)?;
        self.relog_reset();
        Ok(true)
    }

    fn mark_acknowledged(&mut self, done: &mut Done) -> Result<(), Fatal> {
        let Some(last) = self.acks.last().cloned() else { return Ok(()) };
        done.acks = self.acks.len();
        published(&self.db, &mut self.absorb, last.upto)?;
        let Some(sent) = self.acks.iter().rev().find(|a| a.seq.is_some()).cloned() else {
            return Ok(());
        };
        self.batch = sent.batch;
        connection::set(&self.db, "batch", sent.batch.0.cast_signed())?;
        let shard = self.config.own_shard();
        let created_ns = self.streams.iter().find(|s| s.shard == shard).map_or(0, |s| s.created_ns);
        let anchor = Anchor {
            seq: sent.seq.unwrap_or(StreamSeq(0)),
            created_ns,
            time_ns: 0,
            node: self.config.node,
            site: self.absorb.site,
            batch: sent.batch,
        };
        write_own_anchor(&self.db, &anchor)?;
        self.own_anchor = Some(anchor);
        let lowest = self.acks.iter().map(|a| a.lowest_ms).min().unwrap_or(NO_ROW_MS);
        if lowest < self.own_lowest_ms {
            self.own_lowest_ms = lowest;
            connection::set(&self.db, "own_lowest", lowest)?;
        }
        Ok(())
    }

    /// Before anything is absorbed: what was written since the database went back in time must not
    /// get versions of the life that the others know more of, where the same version may stand for
    /// another content.
    fn begin_life(&mut self, now: Now, done: &mut Done) -> Result<(), Fatal> {
        if !matches!(&self.link, Link::Judged(repair) if repair.new_site) {
            return Ok(());
        }
        let site = baseline::site_from((self.random)());
        tracing::warn!(
            site = site.0,
            former = self.absorb.site.0,
            "the broker knows more of this database than the database itself: it went back in \
            time, and begins a new life"
        );
        connection::begin_site(&self.db, site, now.unix_ms)?;
        self.absorb.own_sites.insert(site);
        self.absorb.site = site;
        self.batch = BatchNo(0);
        self.own_anchor = None;
        forget_own_anchor(&self.db)?;
        self.stats.new_sites += 1;
        done.new_site = true;
        Ok(())
    }

    fn repair(&mut self, now: Now, done: &mut Done) -> Result<(), Fatal> {
        let Link::Judged(repair) = &self.link else { return Ok(()) };
        let Repair { since_ms, own_lost, shards, .. } = &**repair;
        let (since_ms, own_lost, shards) = (*since_ms, *own_lost, shards.clone());
        let mut expired = Vec::new();
        for (shard, state, back) in shards {
            let Some(stream) = self.streams.iter_mut().find(|s| s.shard == shard) else { continue };
            stream.created_ns = state.created_ns;
            if let Some(index) = back {
                stream.cursor.back_to(index, state.created_ns);
                self.stats.losses += 1;
                tracing::warn!(
                    shard,
                    cursor = stream.cursor.seq().0,
                    "the broker lost messages that this node had applied; going back to the last \
                    one that is still there"
                );
            }
            // Seen here already, because in a quiet stream no message would ever show the hole.
            let next = stream.cursor.seq().next();
            if state.first > next {
                let limits = &self.config.limits;
                let before =
                    Anchor { seq: StreamSeq(state.first.0 - 1), ..Anchor::start(state.created_ns) };
                stream.cursor.advance(before, 0, limits.cursor_trail_step, limits.cursor_trail_max);
                expired.push((
                    shard,
                    NodeId(0),
                    format!(
                        "stream {shard}: messages {next} to {} are gone (expired, or lost by the \
                        broker) and were never read here",
                        before.seq
                    ),
                ));
            }
            // What waits for a schema can expire too; the origin is held again by the next batch
            // that does not fit.
            for (node, from) in stream.held.iter().filter(|(_, from)| **from < state.first) {
                expired.push((
                    shard,
                    *node,
                    format!(
                        "stream {shard}: batches of node {node}, held \
                    from message {from} on, have expired"
                    ),
                ));
                self.released.push((shard, *node));
            }
        }
        if self.config.replicate {
            for (shard, node, reason) in expired {
                self.open_gap(shard, node, &reason, now, done)?;
            }
        }
        if own_lost {
            self.own_anchor = None;
            forget_own_anchor(&self.db)?;
            self.stats.losses += 1;
            tracing::warn!("the broker lost a batch that it had acknowledged to this node");
        }
        if let Some(since_ms) = since_ms.filter(|_| self.config.publish) {
            self.publish_again(since_ms, done)?;
            self.own_lowest_ms = NO_ROW_MS;
            connection::set(&self.db, "own_lowest", NO_ROW_MS)?;
            tracing::warn!(since_ms, "publishing again what the broker may have lost");
        }
        done.link_up = true;
        Ok(())
    }

    /// Changes that waited longer than versions are kept would lose against tombstones that nobody
    /// has any more.
    fn stamp_anew(&self, now: Now) -> Result<(), Fatal> {
        let oldest = now.unix_ms - self.config.version_retention_ms;
        let stamped = self.db.execute(
            "UPDATE main.__harmonylite__change_log SET time = ?1 WHERE id > ?2 AND kind <> ?3 AND \
            time < ?4",
            (now.unix_ms, self.absorb.absorbed, install::KIND_PUBLISH, oldest),
        )?;
        if stamped > 0 {
            tracing::warn!(
                changes = stamped,
                "changes older than version_retention were never published; they get the present \
                time"
            );
        }
        Ok(())
    }

    fn after_commit(&mut self, done: Done, now: Now) {
        self.acks.drain(..done.acks);
        self.retries.drain(..done.retries);
        self.gaps.ended.drain(..done.ended_gaps);
        if let Some(full_at) = done.served_to {
            self.first_served = (full_at + 1) % self.streams.len();
        }
        for node in done.passed_over {
            self.former_asked(node);
        }
        self.answers_committed(done.begun_answers, done.logged_answers);
        self.relog_committed(done.again, done.relogged);
        self.send_answers();
        if done.gaps_changed {
            self.reread_gaps();
        }
        self.skips_since = None;
        if let Link::Judged(repair) = &mut self.link
            && done.new_site
        {
            repair.new_site = false;
        }
        if done.link_up {
            self.link_up(now);
        } else if done.look {
            self.effects.push(Effect::Look);
        }
    }
}

/// What a transaction leaves to be done once it is committed.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) acks: usize,
    /// How many items of each stream's queue are dealt with.
    pub(super) taken: Vec<usize>,
    /// The stream at which the bound on rows was reached.
    pub(super) served_to: Option<usize>,
    /// How many batches of quarantine were tried again, and how many ends of gaps are written down.
    pub(super) retries: usize,
    pub(super) ended_gaps: usize,
    /// Origins whose superseded batches the others were asked about.
    pub(super) passed_over: Vec<NodeId>,
    pub(super) look: bool,
    pub(super) link_up: bool,
    /// A new life has begun.
    pub(super) new_site: bool,
    pub(super) gaps_changed: bool,
    /// Rows from then on are to be logged for publication, from the first on.
    pub(super) again: Option<i64>,
    pub(super) relogged: Option<Relogged>,
    /// The answers whose rows are logged from now on, and whether this node misses nothing.
    pub(super) begun_answers: Vec<(usize, bool)>,
    /// The answers that are logged: the last log entry, and whether this node missed nothing.
    pub(super) logged_answers: Vec<(usize, (i64, bool))>,
}

pub(super) use crate::store::meta::read_own_anchor;

/// Tells the log what an installation did. Whether the database is the one that our last
/// transaction left. A backup that is restored into the live file (SQLite's backup interface, the
/// shell's `.restore`) takes back what this process believes to be stored, and rows with it that no
/// log tells of.
pub(super) fn check_content(db: &Connection, writes: i64) -> Result<(), Fatal> {
    match connection::get::<i64>(db, "writes") {
        Ok(stored) if stored.unwrap_or(0) == writes => Ok(()),
        Ok(_) => Err(Fatal::Restored),
        Err(error) => Err(Fatal::of(db, error)),
    }
}

/// Tells the log what an installation did.
pub(super) fn report_installed(installed: &Installed) {
    for table in &installed.added {
        tracing::info!(table, "replicating");
    }
    for table in &installed.changed {
        tracing::info!(table, "the schema changed; triggers installed anew");
    }
    for table in &installed.removed {
        tracing::info!(table, "not replicated any more");
    }
    for (table, reason) in &installed.unable {
        tracing::warn!(
            table,
            reason,
            "this table cannot be replicated: its changes stay on this node"
        );
    }
    if installed.found_rows > 0 {
        tracing::warn!(
            rows = installed.found_rows,
            "rows written while a table was made over were found without a version and are \
            published"
        );
    }
    if !installed.foreign_removed.is_empty() {
        tracing::info!(tables = ?installed.foreign_removed, "removed what HarmonyLite (Go) left \
            in the database");
    }
}
