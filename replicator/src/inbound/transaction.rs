//! One write transaction of the sidecar: its working copy and its changes.
//!
//! Arrives: copies of the state in memory. Leaves: a commit, whose copies replace the originals, or
//! nothing. Owns: nothing is written into a database whose content was replaced. A crash leaves all
//! or none.

use super::after_commit::AfterCommit;
use super::durable::{Durable, check_content};
use super::inbox::Inbox;
use super::schema::Adopted;
use super::stats::Stats;
use crate::actor::{Ack, Fatal};
use crate::capture::absorb::{Acknowledged, absorb, published};
use crate::capture::baseline;
use crate::capture::id_ranges;
use crate::capture::install;
use crate::db::connection::{self, DatabaseError};
use crate::db::layout::Layout;
use crate::db::read_digests::ReadDigests;
use crate::model::config::{NodeConfig, Now, OnJoin};
use crate::model::ids::{BatchNo, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::answers::Answers;
use crate::repair::republish::{Pace, RepublishStep};
use crate::repair::verdict::{Confirmed, Published};
use crate::store::change_log::{self, log_end};
use crate::store::cursor::{Anchor, NO_ROW_MS};
use crate::store::gaps;
use crate::store::{meta, schema_changes, sites};
use rusqlite::Connection;
use std::sync::Arc;

/// Log entries absorbed in one transaction of bookkeeping beside a busy application: a transaction
/// of the application that begins during ours must not get to its first write before we end.
pub(super) const ABSORB_ENTRIES_FEW: i64 = 500;

/// The result of a committed transaction.
pub(super) struct Committed {
    /// The state of the database.
    pub(super) durable: Durable,
    /// The counters.
    pub(super) stats: Stats,
    /// The work that remains.
    pub(super) after: AfterCommit,
}

/// A running transaction.
pub(super) struct Transaction<'a> {
    /// The connection, inside `BEGIN IMMEDIATE`.
    pub(super) db: &'a Connection,
    /// The node's configuration.
    pub(super) config: &'a NodeConfig,
    /// The present layout. A batch that carries changes of the schema brings a new one.
    pub(super) layout: Arc<Layout>,
    /// The time.
    pub(super) now: Now,
    /// The working copy.
    pub(super) durable: Durable,
    /// The working copy of the counters.
    pub(super) stats: Stats,
    /// The work for after the commit.
    pub(super) after: AfterCommit,
    /// Whether each batch is applied inside a savepoint.
    pub(super) savepoints: bool,
    own_lowest_changed: bool,
}

impl<'a> Transaction<'a> {
    /// Creates a transaction that works on copies.
    pub(super) fn new(
        db: &'a Connection,
        config: &'a NodeConfig,
        layout: &Arc<Layout>,
        (durable, stats): (&Durable, &Stats),
        now: Now,
    ) -> Self {
        Self {
            db,
            config,
            layout: Arc::clone(layout),
            now,
            durable: durable.clone(),
            stats: *stats,
            after: AfterCommit::default(),
            savepoints: false,
            own_lowest_changed: false,
        }
    }

    /// Runs `work` between BEGIN and COMMIT, or rolls back. None if `may_commit` refuses, which is
    /// asked last. It uses plain statements, because rusqlite's guard would borrow the connection
    /// from `work`.
    ///
    /// # Errors
    /// The errors of `work`, of BEGIN and of COMMIT.
    pub(super) fn run(
        mut self,
        work: impl FnOnce(&mut Self) -> Result<(), Fatal>,
        may_commit: impl FnOnce(&Self) -> bool,
    ) -> Result<Option<Committed>, Fatal> {
        connection::run(self.db, "BEGIN IMMEDIATE")?;
        let result = work(&mut self).and_then(|()| {
            if !self.after.schema_moved {
                self.durable.log_end = change_log::end_mark(self.db)?;
            }
            if !may_commit(&self) {
                return Ok(false);
            }
            Ok(connection::run(self.db, "COMMIT").map(|()| true)?)
        });
        if !matches!(result, Ok(true)) {
            roll_back(self.db);
        }
        let Self { durable, stats, after, .. } = self;
        Ok(result?.then_some(Committed { durable, stats, after }))
    }

    /// Counts this transaction. False if the schema changed: nothing may be written with the old
    /// layout.
    ///
    /// # Errors
    /// [`Fatal::Restored`]; SQLite's error.
    pub(super) fn begin(&mut self) -> Result<bool, Fatal> {
        check_content(self.db, self.durable.writes)?;
        self.durable.writes += 1;
        meta::set(self.db, meta::WRITES, self.durable.writes)?;
        self.after.schema_moved = install::schema_version(self.db)? != self.layout.schema_version;
        Ok(!self.after.schema_moved)
    }

    /// Counts this transaction as one that only gave versions to a piece of the log, and stored
    /// acknowledgements. Such versions are those that outbound has computed, so what it has folded
    /// still holds.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn count_piece(&mut self) -> Result<(), Fatal> {
        self.durable.pieces += 1;
        Ok(meta::set(self.db, meta::PIECES, self.durable.pieces)?)
    }

    /// Starts a new incarnation, before anything is absorbed. Other nodes may know later versions
    /// of the present incarnation. Changes since the database went back in time must not get
    /// versions of it, because the same version could then have two contents.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_incarnation(&mut self, site: Site) -> Result<(), Fatal> {
        tracing::warn!(
            site = site.0,
            previous = self.durable.absorb.site.0,
            "the broker has later batches of this database than the database itself: it went back \
            in time, and starts a new incarnation"
        );
        sites::begin_site(self.db, site, self.now.unix_ms)?;
        self.durable.absorb.own_sites.insert(site);
        self.durable.absorb.site = site;
        self.durable.batch = BatchNo(0);
        self.durable.own_anchor = None;
        meta::forget_own_anchor(self.db)?;
        self.stats.new_sites += 1;
        self.after.new_incarnation = true;
        Ok(())
    }

    /// Gives the present time to changes that waited longer than versions are kept. Other nodes may
    /// have pruned the tombstones that such changes would have to be compared with. Entries up to
    /// `published` are published, so they keep their time.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn stamp_old_changes(&mut self, published: i64) -> Result<(), Fatal> {
        let oldest = self.now.unix_ms - self.config.version_retention_ms;
        let after = self.durable.absorb.absorbed.max(published);
        let stamped = change_log::restamp(self.db, after, 1..oldest, self.now.unix_ms)?;
        if stamped > 0 {
            tracing::warn!(
                changes = stamped,
                "changes older than version_retention were never published; giving them the \
                present time"
            );
        }
        Ok(())
    }

    /// Gives versions to the application's changes ("absorb first"). False if the log has more
    /// entries, which the next transaction absorbs first. Either way the acknowledgements of what
    /// is absorbed are stored next.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn absorb(&mut self, acks: &[Ack], entries_max: i64) -> Result<bool, Fatal> {
        let absorbs_first = !planted(Bug::NoAbsorbFirst) || !acks.is_empty();
        let entries_max = if absorbs_first { entries_max } else { 0 };
        let upto_max = self.durable.absorb.absorbed.saturating_add(entries_max);
        let acknowledged = Acknowledged {
            upto: covered(acks, upto_max).last().map_or(0, |ack| ack.upto),
            digests: &self.read_digests(acks)?,
        };
        let (folded, complete) = absorb(
            self.db,
            &self.layout,
            &mut self.durable.absorb,
            acknowledged,
            entries_max,
            &self.durable.compare,
        )?;
        for (table, count) in folded.null_keys {
            self.stats.null_key_changes += count;
            self.after.null_key_tables.push(table);
        }
        Ok(complete || !absorbs_first)
    }

    /// Returns the digests that hold for the entries of this log.
    fn read_digests<'d>(&self, acks: &'d [Ack]) -> Result<Vec<&'d ReadDigests>, Fatal> {
        let known = || acks.iter().filter(|ack| !ack.digests.is_empty());
        let Some(mark) = known().next_back().and_then(|ack| ack.mark) else {
            return Ok(Vec::new());
        };
        // The log may have been emptied and numbered anew, or a backup may have been restored.
        let is_same_log = change_log::mark(self.db, mark.id)? == Some(mark);
        Ok(if is_same_log { known().map(|ack| &ack.digests).collect() } else { Vec::new() })
    }

    /// One step of the comparison of tables whose triggers were away. False: nothing else is done
    /// in this transaction, because what it found has to be absorbed first.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn compare(&mut self) -> Result<bool, Fatal> {
        if self.durable.compare.is_idle() {
            return Ok(true);
        }
        let (joined, rows_max) = (self.durable.joined, self.config.limits.republish_rows_max);
        let found = self.durable.compare.step(self.db, &self.layout, joined, rows_max)?;
        self.after.look |= found > 0;
        Ok(false)
    }

    /// Stores the waiting acknowledgements: all if the log is absorbed to its end, else those of
    /// what is absorbed.
    ///
    /// # Errors
    /// [`Fatal::Restored`] if the log lacks what they acknowledge; SQLite's error.
    pub(super) fn mark_acknowledged(&mut self, inbox: &Inbox, all: bool) -> Result<(), Fatal> {
        let absorbed = self.durable.absorb.absorbed;
        let acks = if all { &inbox.acks[..] } else { covered(&inbox.acks, absorbed) };
        let Some(last) = acks.last() else { return Ok(()) };
        self.after.served.acks = acks.len();
        if self.is_of_this_log(last)? {
            // One from before the log was emptied is behind the marks.
            let upto = last.upto.max(self.durable.absorb.published);
            published(self.db, &mut self.durable.absorb, upto)?;
        } else {
            // The log still has what was marked as published, and lacks what was published since.
            // Nothing was written here meanwhile, so only this tells of a backup that was restored.
            return Err(Fatal::Restored);
        }
        let Some(sent) = acks.iter().rev().find(|a| a.seq.is_some()) else { return Ok(()) };
        let shard = self.config.own_shard();
        let created_ns =
            inbox.streams.iter().find(|s| s.shard == shard).map_or(0, |s| s.created_ns);
        let lowest_ms = acks.iter().map(|a| a.lowest_ms).min().unwrap_or(NO_ROW_MS);
        self.mark_sent(sent, created_ns, lowest_ms)
    }

    /// Returns whether the log still has what an acknowledgement is about. It waits for seconds or
    /// longer.
    fn is_of_this_log(&self, ack: &Ack) -> Result<bool, Fatal> {
        if ack.upto > self.durable.absorb.absorbed {
            return Ok(false);
        }
        let Some(mark) = ack.mark.filter(|_| ack.upto > self.durable.absorb.published) else {
            return Ok(true);
        };
        Ok(change_log::mark(self.db, mark.id)? == Some(mark))
    }

    /// Stores what a former process has published without storing the acknowledgement.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn confirm(&mut self, sent: &Confirmed, created_ns: i64) -> Result<(), Fatal> {
        let (batch, before) = (sent.batch, self.durable.absorb.published);
        tracing::info!(
            batch = batch.0,
            "found batches of this database in the stream that were published just before it ended"
        );
        self.stats.confirmed += 1;
        let Some(Published { upto, seq }) = sent.published else {
            self.durable.batch = batch;
            return meta::set(self.db, meta::BATCH, batch).map_err(Fatal::from);
        };
        let lowest_ms = change_log::lowest_ms(self.db, before, upto)?.unwrap_or(NO_ROW_MS);
        published(self.db, &mut self.durable.absorb, upto.max(before))?;
        let digests = ReadDigests::default();
        let ack = Ack { batch, upto, mark: None, seq: Some(seq), lowest_ms, digests };
        self.mark_sent(&ack, created_ns, lowest_ms)
    }

    fn mark_sent(&mut self, sent: &Ack, created_ns: i64, lowest_ms: i64) -> Result<(), Fatal> {
        self.durable.batch = sent.batch;
        meta::set(self.db, meta::BATCH, sent.batch)?;
        let anchor = Anchor {
            seq: sent.seq.unwrap_or(StreamSeq(0)),
            created_ns,
            time_ns: 0,
            node: self.config.node,
            site: self.durable.site(),
            batch: sent.batch,
        };
        meta::write_own_anchor(self.db, &anchor)?;
        self.durable.own_anchor = Some(anchor);
        if lowest_ms < self.durable.own_lowest_ms {
            self.durable.own_lowest_ms = lowest_ms;
            meta::set(self.db, meta::OWN_LOWEST, lowest_ms)?;
        }
        Ok(())
    }

    /// Returns whether everything in this stream up to its cursor is applied.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn is_whole(&self, shard: u32) -> Result<bool, DatabaseError> {
        Ok(self.config.replicate && gaps::misses_nothing(self.db, shard)?)
    }

    /// Starts to republish rows for other nodes, once for all due questions.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn answer(&mut self, answers: &Answers) -> Result<(), Fatal> {
        let reached = |shard, position| self.durable.has_reached(shard, position);
        let Some(answerable) = answers.answerable(self.now, reached) else { return Ok(()) };
        let since_ms = answerable.since_ms;
        let askers = &answerable.askers;
        tracing::info!(?askers, since_ms, "other nodes miss messages; republishing rows");
        let mut done = std::mem::take(&mut self.after.answers);
        answers.begin(answerable, reached, |shard| self.is_whole(shard), &mut done)?;
        self.after.answers = done;
        self.begin_republish(since_ms)
    }

    /// Starts to republish rows from this time on. Changes of the schema come first: they may have
    /// been lost with the rows.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_republish(&mut self, since_ms: i64) -> Result<(), Fatal> {
        schema_changes::send_again(self.db, self.now.unix_ms)?;
        Ok(self.durable.republish.begin(self.db, since_ms)?)
    }

    /// Starts the end of joining: every row gets a version. The streams are consumed up to their
    /// ends at the start of the node. `found_data` tells whether other nodes had published
    /// something.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_end_of_join(&mut self, found_data: bool) -> Result<(), Fatal> {
        if self.config.on_join == OnJoin::Replace && found_data {
            let rows = baseline::replace(self.db, &self.layout)?;
            self.durable.joined = true;
            self.after.look = true;
            tracing::info!(
                rows,
                "joined; rows that the cluster does not have were removed (on_join = replace)"
            );
        } else {
            if self.config.on_join == OnJoin::Replace {
                tracing::info!(
                    "the streams had no message of another node, so the rows of this database stay \
                    and are published (on_join = replace)"
                );
            }
            self.durable.republish.begin_join();
        }
        Ok(())
    }

    /// Does one step of the running walk.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn step_republish(&mut self, answers: &Answers) -> Result<(), Fatal> {
        let published = self.durable.absorb.published;
        let pace = Pace::new(self.config);
        let walks = &mut self.durable.republish;
        let rows = match walks.step(self.db, &self.layout, pace, (published, self.now))? {
            None => return Ok(()),
            Some(RepublishStep::Logged { rows, republished }) => {
                self.stats.rows_republished += if republished { rows } else { 0 };
                rows
            }
            Some(RepublishStep::Republished { rows }) => {
                self.stats.rows_republished += rows;
                let end = log_end(self.db)?;
                let mut done = std::mem::take(&mut self.after.answers);
                answers.logged(end, |shard| self.is_whole(shard), &mut done)?;
                self.after.answers = done;
                rows
            }
            Some(RepublishStep::Joined { rows }) => {
                meta::set(self.db, meta::JOINED, true)?;
                meta::remove(self.db, meta::JOINS_FIRST)?;
                self.durable.joined = true;
                rows
            }
        };
        self.after.look |= rows > 0;
        Ok(())
    }

    /// Takes a schema as changed for another node. What follows in this transaction meets it.
    pub(super) fn adopt(&mut self, adopted: Adopted) {
        self.layout = Arc::clone(&adopted.layout);
        self.after.adopted.push(adopted);
    }

    /// Moves the sequences of AUTOINCREMENT tables into blocks of this node.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn keep_id_ranges(&mut self) -> Result<(), Fatal> {
        let Some(ranges) = &self.config.id_ranges else { return Ok(()) };
        self.after.without_ids = id_ranges::keep(self.db, &self.layout, ranges)?;
        Ok(())
    }

    /// Clears the lowest row time of own batches, because the cursor has passed them.
    pub(super) fn clear_own_lowest(&mut self) {
        self.durable.own_lowest_ms = NO_ROW_MS;
        self.own_lowest_changed = true;
    }

    /// Stores the marks and the cursors. If this node does not publish, marks the absorbed entries
    /// as published.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn write_marks(&mut self) -> Result<(), Fatal> {
        if !self.config.publish {
            let end = self.durable.absorb.absorbed;
            published(self.db, &mut self.durable.absorb, end)?;
        }
        if self.own_lowest_changed {
            meta::set(self.db, meta::OWN_LOWEST, self.durable.own_lowest_ms)?;
        }
        for stream in &mut self.durable.streams {
            stream.cursor.write(self.db, stream.shard)?;
        }
        self.begin_log()
    }
}

fn roll_back(db: &Connection) {
    // After some errors (a full disk) SQLite has already rolled back.
    if !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "cannot roll back");
    }
}

/// The acknowledgements of entries up to this one.
fn covered(acks: &[Ack], upto: i64) -> &[Ack] {
    &acks[..acks.partition_point(|ack| ack.upto <= upto)]
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
