//! The steps of the writing actor, each with at most one write transaction.
//!
//! Arrives: the inbox, and the time. Leaves: a commit, and its consequences for the components and
//! outbound. Owns when a transaction begins, and whether it commits. A crash before the commit
//! changes nothing.

use super::Inbound;
use super::after_commit::AfterCommit;
use super::bookkeeping::Urgency;
use super::durable::check_content;
use super::emptied_log::is_emptied;
use super::transaction::{ABSORB_ENTRIES_FEW, Committed, Transaction};
use super::work::Work;
use crate::actor::{Effect, Fatal, Step};
use crate::broker::Broker;
use crate::capture::compare::Compare;
use crate::capture::install;
use crate::model::action::Action;
use crate::model::config::Now;
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::gaps::Need;
use crate::repair::prune::{PRUNE_ROWS_MAX, prune, prune_before_ms};
use crate::repair::question::Outgoing;
use crate::store::change_log::log_end;
use crate::store::cursor::Cursor;
use rusqlite::TransactionBehavior;
use std::sync::Arc;

/// For so long after a batch that could not be applied each batch gets a savepoint: others of its
/// kind may follow, and repeating a transaction costs more.
const SAVEPOINTS_MS: u64 = 10_000;

/// After this time a message that found no room in quarantine is consumed again.
const QUARANTINE_RETRY_MS: u64 = 60_000;

impl<B: Broker> Inbound<B> {
    /// Does one piece of work, with at most one write transaction. It also checks the deadlines.
    ///
    /// # Errors
    /// The error that ends the node. A busy database or a full disk gives [`Step::Busy`] instead.
    pub fn step(&mut self, now: Now) -> Result<Step, Fatal> {
        self.tick(now);
        let has_mark = match self.has_last_own_mark() {
            Err(error) if error.action() == Action::Retry => {
                self.stats.busy += 1;
                return Ok(Step::Busy);
            }
            result => result?,
        };
        self.judge_connection(has_mark)?;
        let result = self.work(now);
        self.notices.worked(&result);
        match result {
            Err(Fatal::Database(error)) if error.action() == Action::Retry => {
                self.stats.busy += 1;
                Ok(Step::Busy)
            }
            result => result,
        }
    }

    fn work(&mut self, now: Now) -> Result<Step, Fatal> {
        if planted(Bug::CursorFirst) && self.stores_cursor_first()? {
            return Ok(Step::Worked);
        }
        match self.urgency(now)? {
            Urgency::Now if self.gathers_until(now).is_some() || self.polite.waits(now) => {
                return Ok(Step::Polite);
            }
            Urgency::Now => {
                let committed = self.transact(Urgency::Now, now)?;
                return Ok(if committed { Step::Worked } else { Step::Polite });
            }
            Urgency::IfUnseen if !self.polite.sees_one() => {
                if self.transact(Urgency::IfUnseen, now)? {
                    return Ok(Step::Worked);
                }
                self.inbox.bookkeeping.met(now);
            }
            Urgency::IfUnseen => self.inbox.bookkeeping.seen(now),
            Urgency::None => {}
        }
        if self.may_prune(now)? {
            self.prune(now)?;
            return Ok(Step::Worked);
        }
        Ok(Step::Idle)
    }

    /// Returns until when the waiting rows gather, so that the application meets fewer transactions
    /// of ours. Only few rows do, on a node that has nothing else to do.
    pub fn gathers_until(&self, now: Now) -> Option<u64> {
        let gathers = self.durable.joined && self.verify.is_up();
        let until = self.polite.gathers_until(now).filter(|_| gathers);
        until.filter(|_| self.inbox.has_few())
    }

    /// Returns whether a transaction has work. Reads only the schema version, the end of the log,
    /// and whether somebody has committed.
    fn urgency(&mut self, now: Now) -> Result<Urgency, Fatal> {
        self.inbox.note_waiting(now);
        if self.schedule().transaction_is_due(now) || self.schema.moved {
            return Ok(Urgency::Now);
        }
        if self.inbox.wake {
            self.schema.look(&self.db)?;
            if self.schema.moved {
                // Somebody may have dropped the log itself: it is looked at after the schema.
                return Ok(Urgency::Now);
            }
            let log_replaced = self.look_at_log(now)?;
            // The wake is cleared only now, because a busy database must be looked at again. A log
            // that was replaced is looked at until a transaction has noted it.
            self.inbox.wake = log_replaced;
            if log_replaced {
                return Ok(Urgency::Now);
            }
        }
        self.inbox.bookkeeping.look(&self.db, now)?;
        Ok(self.schedule().bookkeeping(self.config.limits.bookkeeping_entries_max, now))
    }

    /// Returns whether the log is another one. Also notes the changes that are never sent.
    fn look_at_log(&mut self, now: Now) -> Result<bool, Fatal> {
        if !self.verify.knows_incarnation() {
            return Ok(false);
        }
        let end = log_end(&self.db)?;
        self.inbox.note_unsent(self.unsent(end), now);
        let acknowledged = self.inbox.acks.last().map_or(0, |ack| ack.upto);
        Ok(end < acknowledged || is_emptied(&self.db, &self.durable)?)
    }

    /// Returns how many log entries up to `end` wait to be absorbed and are never sent.
    fn unsent(&self, end: i64) -> u64 {
        let waits = end.saturating_sub(self.durable.absorb.published);
        if self.config.publish { 0 } else { u64::try_from(waits).unwrap_or(0) }
    }

    /// Does all waiting work in one write transaction. False if it was rolled back, because another
    /// connection has opened a snapshot meanwhile.
    fn transact(&mut self, urgency: Urgency, now: Now) -> Result<bool, Fatal> {
        match self.try_transaction(urgency, now) {
            Err(Fatal::Undo) => {
                self.savepoints_until_ms = now.mono_ms + SAVEPOINTS_MS;
                self.try_transaction(urgency, now)
            }
            result => result,
        }
    }

    fn try_transaction(&mut self, urgency: Urgency, now: Now) -> Result<bool, Fatal> {
        self.follow_schema(now)?;
        if !self.verify.knows_incarnation() || self.schema.is_installing() {
            return Ok(true);
        }
        self.inbox.look_into_batches(&self.config.limits);
        let layout = Arc::clone(&self.schema.layout);
        let copies = (&self.durable, &self.stats);
        let mut tx = Transaction::new(&self.db, &self.config, &layout, copies, now);
        tx.savepoints = now.mono_ms < self.savepoints_until_ms;
        let (rows_before, up) = (self.stats.rows_seen(), self.verify.is_up());
        let Self { verify, inbox, repairs, join, polite, schema, .. } = self;
        let absorb_max = self.config.limits.absorb_entries_max;
        let absorb_max = match urgency {
            Urgency::IfUnseen => absorb_max.min(ABSORB_ENTRIES_FEW),
            Urgency::Now | Urgency::None => absorb_max,
        };
        let retry_unmade = now.mono_ms >= schema.unmade.deadline();
        let mut work = Work { verify, inbox, repairs, join, retry_unmade, absorb_max };
        let may_commit = |tx: &Transaction<'_>| {
            let repeated = up.then(|| tx.stats.rows_seen() - rows_before);
            if polite.is_on() && tx.config.path.to_str() != Some(":memory:") {
                if !polite.may_commit(urgency, repeated, now) {
                    return false;
                }
                // With its pages in the WAL the commit itself is a matter of microseconds, in which
                // hardly a snapshot is opened. If this fails, so does the commit.
                let _ = tx.db.cache_flush();
            }
            polite.may_commit(urgency, repeated, now)
        };
        let Some(committed) = tx.run(|tx| work.run(tx, now), may_commit)? else {
            self.stats.snapshots_waited += 1;
            return Ok(false);
        };
        self.committed(committed, now)?;
        Ok(true)
    }

    fn committed(&mut self, committed: Committed, now: Now) -> Result<(), Fatal> {
        let Committed { durable, stats, mut after } = committed;
        (self.durable, self.stats) = (durable, stats);
        self.stats.transactions += 1;
        self.stats.snapshots_met += u64::from(self.polite.committed(now));
        let adopted = std::mem::take(&mut after.adopted);
        self.after_commit(after, now);
        for each in &adopted {
            self.schema.adopted(each);
        }
        if !adopted.is_empty() {
            self.schema_changed()?;
        }
        Ok(())
    }

    fn after_commit(&mut self, mut after: AfterCommit, now: Now) {
        self.durable.republish.committed();
        self.schema.moved |= after.schema_moved;
        self.notices.committed(&after, now);
        after.served.unsent = self.unsent(self.durable.log_end.map_or(0, |mark| mark.id));
        self.inbox.committed(&after.served, now);
        self.inbox.snapshot.committed(after.merged.take());
        if let Some(any_left) = after.unmade_tried {
            self.schema.unmade.tried(any_left, now);
        }
        if after.unmade {
            self.schema.unmade.noted(now);
        }
        for batch in after.stamped.drain(..) {
            self.stats.drift_warnings += u64::from(self.clocks.saw_batch(batch, now));
        }
        if after.quarantine_full {
            self.inbox.quarantine_retry_ms = Some(now.mono_ms + QUARANTINE_RETRY_MS);
        }
        let published = self.durable.absorb.published;
        let signals = self.repairs.committed(&mut after, &self.db, published, now);
        self.requests.send(signals.into_iter().map(Outgoing::Signal));
        self.note_needs(&after.gaps, now);
        if after.ended_gaps > 0 {
            for stream in &mut self.inbox.streams {
                stream.oversized.take_if(|_| !self.repairs.gaps.is_open(stream.shard));
            }
        }
        if after.new_incarnation {
            self.verify.incarnation_begun();
        }
        if after.connection_passes {
            self.connection_passes(now);
        } else if after.log_replaced {
            self.effects.push(Effect::LogReplaced { published });
        } else if after.look {
            self.effects.push(Effect::Look);
        }
    }

    /// Notes what is missing, for the search of a snapshot that has it.
    pub(super) fn note_needs(&mut self, found: &[(u32, Need)], now: Now) {
        let durable = &self.durable;
        self.repairs.gaps.found(found, now, |shard| {
            let head = durable.stream(shard).and_then(|stream| stream.cursor.head());
            head.map_or(0, |head| head.created_ns)
        });
    }

    /// Follows DDL, in a separate transaction.
    fn follow_schema(&mut self, now: Now) -> Result<(), Fatal> {
        let was_moved = self.schema.moved;
        let result = self.schema.follow(&mut self.db, &self.config, self.durable.writes, now);
        if result? {
            self.schema_changed()?;
        }
        if self.schema.moved {
            return Ok(());
        }
        if was_moved && let Err(error) = self.schema.prepare(&mut self.db) {
            self.schema.moved = true;
            return Err(error);
        }
        Ok(())
    }

    fn schema_changed(&mut self) -> Result<(), Fatal> {
        self.durable.compare = Compare::read(&self.db)?;
        self.verify.heartbeat_at_once();
        self.schema.unmade.schema_changed();
        self.effects.push(Effect::Look);
        // Held origins may fit this schema.
        self.consume_all_held();
        Ok(())
    }

    /// Consumes the backlogs of held origins again.
    pub(super) fn consume_all_held(&mut self) {
        for i in 0..self.durable.streams.len() {
            if !self.durable.streams[i].held.is_empty() && self.verify.is_up() {
                self.consume(i);
            }
        }
    }

    /// Returns whether old versions may be dropped now. Otherwise postpones the pass.
    fn may_prune(&mut self, now: Now) -> Result<bool, Fatal> {
        if now.mono_ms < self.pruning.deadline() || !self.verify.is_up() {
            return Ok(false);
        }
        let published = self.durable.absorb.published;
        let quiet = self.schedule().is_quiet()
            && log_end(&self.db)? <= published
            && !self.polite.sees_one();
        if !quiet || self.prune_before_ms(now).is_none() {
            self.pruning.postpone(now);
            return Ok(false);
        }
        Ok(true)
    }

    fn prune_before_ms(&self, now: Now) -> Option<i64> {
        let heads = self.durable.streams.iter().filter_map(|s| s.cursor.head());
        let newest_ns = heads.map(|head| head.time_ns).max();
        prune_before_ms(newest_ns, now, self.config.version_retention_ms)
    }

    fn prune(&mut self, now: Now) -> Result<(), Fatal> {
        let Some(before_ms) = self.prune_before_ms(now) else { return Ok(()) };
        let pass = self.pruning.take();
        let layout = &self.schema.layout;
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        check_content(&transaction, self.durable.writes)?;
        // A change since the last look needs its previous version.
        if log_end(&transaction)? > self.durable.absorb.published
            || install::schema_version(&transaction)? != layout.schema_version
        {
            return Ok(());
        }
        let (dropped, next) = prune(&transaction, layout, &pass, before_ms, PRUNE_ROWS_MAX)?;
        transaction.commit()?;
        self.stats.pruned += dropped;
        self.pruning.committed(next, now);
        Ok(())
    }

    /// Stores cursors before their rows are applied. Only for [`Bug::CursorFirst`].
    fn stores_cursor_first(&mut self) -> Result<bool, Fatal> {
        let mut stored = false;
        let streams = self.inbox.streams.iter().zip(&self.durable.streams);
        for (stream, progress) in streams.filter(|_| self.verify.is_up()) {
            let Some(last) = stream.queue.back() else { continue };
            if Cursor::read(&self.db, stream.shard)?.seq() < last.safe.seq {
                let mut ahead = progress.cursor.clone();
                ahead.advance(last.safe, 0, 1, self.config.limits.cursor_trail_max);
                ahead.write(&self.db, stream.shard)?;
                stored = true;
            }
        }
        Ok(stored)
    }
}
