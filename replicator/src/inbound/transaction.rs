//! One write transaction of the sidecar: its working copy and the changes that belong to it.
//!
//! Arrives: copies of what is in memory. Leaves: a commit, whose copies take the place of the
//! originals, or nothing. Owns: nothing is written into a database whose content is not the one
//! that we left. A crash leaves all or none.

use super::durable::Durable;
use super::inbox::{Inbox, Served};
use super::stats::Stats;
use crate::actor::{Ack, Fatal};
use crate::capture::absorb::{absorb, published};
use crate::capture::baseline;
use crate::capture::install;
use crate::db::connection::{self, DatabaseError};
use crate::db::layout::Layout;
use crate::model::config::{NodeConfig, Now, OnJoin};
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::answers::{Answers, AnswersDone};
use crate::repair::republish::RepublishStep;
use crate::repair::verdict::{Rewind, Verdict};
use crate::store::change_log::{self, log_end};
use crate::store::cursor::{Anchor, NO_ROW_MS};
use crate::store::gaps::{self, Missing};
use crate::store::{meta, sites};
use rusqlite::Connection;

/// Log entries absorbed in one transaction: some 20 ms of work.
const ABSORB_ENTRIES_MAX: i64 = 10_000;

/// What a transaction leaves to be done once it is committed.
#[derive(Debug, Default)]
pub(super) struct AfterCommit {
    /// How much of the inbox it dealt with.
    pub(super) served: Served,
    /// The schema has moved: nothing was done.
    pub(super) schema_moved: bool,
    /// Outbound has something to collect.
    pub(super) look: bool,
    /// The verdict on the connection is carried out.
    pub(super) connection_passes: bool,
    /// A new incarnation has begun.
    pub(super) new_incarnation: bool,
    /// Gaps were noted.
    pub(super) gaps_changed: bool,
    /// The ends of so many gaps are written.
    pub(super) ended_gaps: usize,
    /// Answers that were begun or logged.
    pub(super) answers: AnswersDone,
    /// Origins whose superseded batches the others are asked about.
    pub(super) superseded_asked: Vec<NodeId>,
    /// Origins of applied batches, and when the batches were made.
    pub(super) seen_origins: Vec<(NodeId, i64)>,
    /// Tables with changed rows that have NULL in the key.
    pub(super) null_key_tables: Vec<String>,
    /// Origins that are not held any more, by stream. Written down at the end.
    pub(super) released: Vec<(u32, NodeId)>,
}

/// A transaction under way.
pub(super) struct Transaction<'a> {
    /// The connection, inside `BEGIN IMMEDIATE`.
    pub(super) db: &'a Connection,
    /// The settings.
    pub(super) config: &'a NodeConfig,
    /// The layout in force.
    pub(super) layout: &'a Layout,
    /// The time.
    pub(super) now: Now,
    /// The working copy.
    pub(super) durable: Durable,
    /// The working copy of the counters.
    pub(super) stats: Stats,
    /// What is left for after the commit.
    pub(super) after: AfterCommit,
    own_lowest_changed: bool,
}

impl<'a> Transaction<'a> {
    /// Works on copies.
    pub(super) fn new(
        db: &'a Connection,
        config: &'a NodeConfig,
        layout: &'a Layout,
        (durable, stats): (&Durable, &Stats),
        now: Now,
    ) -> Self {
        Self {
            db,
            config,
            layout,
            now,
            durable: durable.clone(),
            stats: *stats,
            after: AfterCommit::default(),
            own_lowest_changed: false,
        }
    }

    /// Runs `work` between BEGIN and COMMIT, or rolls back. Statements and not rusqlite's guard:
    /// that one would borrow the connection from `work`.
    ///
    /// # Errors
    /// Those of `work`, of BEGIN and of COMMIT.
    pub(super) fn run(
        mut self,
        work: impl FnOnce(&mut Self) -> Result<(), Fatal>,
    ) -> Result<(Durable, Stats, AfterCommit), Fatal> {
        connection::run(self.db, "BEGIN IMMEDIATE")?;
        let result =
            work(&mut self).and_then(|()| connection::run(self.db, "COMMIT").map_err(Fatal::from));
        if let Err(error) = result {
            roll_back(self.db);
            return Err(error);
        }
        Ok((self.durable, self.stats, self.after))
    }

    /// Counts this transaction. False: somebody changed the schema, and by the old layout nothing
    /// may be written.
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

    /// If somebody emptied the log, its ids begin again, and so do the marks.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn follow_emptied_log(&mut self) -> Result<(), Fatal> {
        if log_end(self.db)? >= self.durable.absorb.published {
            return Ok(());
        }
        tracing::warn!("the change log was emptied by someone; capture goes on from here");
        (self.durable.absorb.absorbed, self.durable.absorb.published) = (0, 0);
        meta::set(self.db, meta::ABSORBED, 0)?;
        meta::set(self.db, meta::PUBLISHED, 0)?;
        self.durable.republish.log_emptied();
        self.after.look = true;
        Ok(())
    }

    /// Before anything is absorbed: what was written since the database went back in time must not
    /// get versions of the incarnation of which others know more, where the same version may stand
    /// for another content.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_incarnation(&mut self, site: Site) -> Result<(), Fatal> {
        tracing::warn!(
            site = site.0,
            former = self.durable.absorb.site.0,
            "the broker knows more of this database than the database itself: it went back in \
            time, and begins a new incarnation"
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

    /// Changes that waited longer than versions are kept would lose against tombstones that nobody
    /// has any more: they get the present time.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn stamp_old_changes(&mut self) -> Result<(), Fatal> {
        let oldest = self.now.unix_ms - self.config.version_retention_ms;
        let after = self.durable.absorb.absorbed;
        let stamped = change_log::restamp(self.db, after, oldest, self.now.unix_ms)?;
        if stamped > 0 {
            tracing::warn!(
                changes = stamped,
                "changes older than version_retention were never published; they get the present \
                time"
            );
        }
        Ok(())
    }

    /// Absorb first: gives versions to what the application wrote. False: the rest of the log
    /// comes first, in the next transaction.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn absorb(&mut self, acks_wait: bool) -> Result<bool, Fatal> {
        let absorbs_first = !planted(Bug::NoAbsorbFirst) || acks_wait;
        let entries_max = if absorbs_first { ABSORB_ENTRIES_MAX } else { 0 };
        let (folded, complete) =
            absorb(self.db, self.layout, &mut self.durable.absorb, entries_max)?;
        for (table, count) in folded.null_keys {
            self.stats.null_key_changes += count;
            self.after.null_key_tables.push(table);
        }
        Ok(complete || !absorbs_first)
    }

    /// Writes down the acknowledgements that wait.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn mark_acknowledged(&mut self, inbox: &Inbox) -> Result<(), Fatal> {
        let acks = &inbox.acks;
        let Some(last) = acks.last() else { return Ok(()) };
        self.after.served.acks = acks.len();
        published(self.db, &mut self.durable.absorb, last.upto)?;
        let Some(sent) = acks.iter().rev().find(|a| a.seq.is_some()) else { return Ok(()) };
        let shard = self.config.own_shard();
        let created_ns =
            inbox.streams.iter().find(|s| s.shard == shard).map_or(0, |s| s.created_ns);
        self.mark_sent(sent, created_ns)?;
        let lowest_ms = acks.iter().map(|a| a.lowest_ms).min().unwrap_or(NO_ROW_MS);
        if lowest_ms < self.durable.own_lowest_ms {
            self.durable.own_lowest_ms = lowest_ms;
            meta::set(self.db, meta::OWN_LOWEST, lowest_ms)?;
        }
        Ok(())
    }

    fn mark_sent(&mut self, sent: &Ack, created_ns: i64) -> Result<(), Fatal> {
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
        Ok(())
    }

    /// Carries out the verdict on the connection.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn carry_out(&mut self, verdict: &Verdict) -> Result<(), Fatal> {
        self.rewind(verdict);
        self.note_expired(verdict)?;
        if verdict.own_lost {
            self.durable.own_anchor = None;
            meta::forget_own_anchor(self.db)?;
            self.stats.losses += 1;
            tracing::warn!("the broker lost a batch that it had acknowledged to this node");
        }
        if let Some(since_ms) = verdict.republish_since_ms.filter(|_| self.config.publish) {
            self.durable.republish.begin(self.db, since_ms)?;
            self.durable.own_lowest_ms = NO_ROW_MS;
            meta::set(self.db, meta::OWN_LOWEST, NO_ROW_MS)?;
            tracing::warn!(since_ms, "republishing what the broker may have lost");
        }
        self.after.connection_passes = true;
        Ok(())
    }

    fn rewind(&mut self, verdict: &Verdict) {
        for judged in &verdict.shards {
            let to = match judged.rewind {
                Rewind::Keep => continue,
                Rewind::ToStart => None,
                Rewind::To(index) => Some(index),
            };
            let Some(stream) = self.durable.stream_mut(judged.shard) else { continue };
            stream.cursor.back_to(to, judged.state.created_ns);
            self.stats.losses += 1;
            tracing::warn!(
                shard = judged.shard,
                cursor = stream.cursor.seq().0,
                "the broker lost messages that this node had applied; going back to the last one \
                that is still there"
            );
        }
    }

    /// Messages that are gone and were never read here: in a quiet stream nothing else would ever
    /// show the hole. A backlog that is held can expire too; its origin is held again by the next
    /// batch that does not fit.
    fn note_expired(&mut self, verdict: &Verdict) -> Result<(), Fatal> {
        let mut expired = Vec::new();
        let limits = &self.config.limits;
        for judged in &verdict.shards {
            let (shard, state) = (judged.shard, judged.state);
            let Some(stream) = self.durable.stream_mut(shard) else { continue };
            let next = stream.cursor.seq().next();
            if state.first > next {
                let before =
                    Anchor { seq: StreamSeq(state.first.0 - 1), ..Anchor::start(state.created_ns) };
                stream.cursor.advance(before, 0, limits.cursor_trail_step, limits.cursor_trail_max);
                let reason = format!(
                    "stream {shard}: messages {next} to {} are gone (expired, or lost by the \
                    broker) and were never read here",
                    before.seq
                );
                expired.push((shard, NodeId(0), reason));
            }
            for (node, from) in stream.held.iter().filter(|(_, from)| **from < state.first) {
                let reason = format!(
                    "stream {shard}: batches of node {node}, held from message {from} on, have \
                    expired"
                );
                expired.push((shard, *node, reason));
                self.after.released.push((shard, *node));
            }
        }
        if self.config.replicate {
            for (shard, node, reason) in expired {
                self.note_gap(shard, node, &reason)?;
            }
        }
        Ok(())
    }

    /// Notes a gap. Others are asked for everything: nobody knows how old the rows were that a
    /// lost message carried.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn note_gap(&mut self, shard: u32, node: NodeId, reason: &str) -> Result<(), Fatal> {
        if planted(Bug::NoGapRepair) {
            return Ok(());
        }
        tracing::warn!(
            shard,
            reason,
            "messages are missing; asking the other nodes to republish them"
        );
        let missing = Missing { shard, node, since_ms: 0, reason };
        gaps::note(self.db, missing, self.now.unix_ms)?;
        self.stats.gaps += 1;
        self.after.gaps_changed = true;
        Ok(())
    }

    /// Whether everything that this stream had for this node, up to its cursor, is applied.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn is_whole(&self, shard: u32) -> Result<bool, DatabaseError> {
        Ok(self.config.replicate && gaps::misses_nothing(self.db, shard)?)
    }

    /// Republishes what others miss, once for all whose questions are due.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn answer(&mut self, answers: &Answers) -> Result<(), Fatal> {
        let reached = |shard, position| self.durable.has_reached(shard, position);
        let Some(answerable) = answers.answerable(self.now, reached) else { return Ok(()) };
        let since_ms = answerable.since_ms;
        let askers = &answerable.askers;
        tracing::info!(?askers, since_ms, "other nodes miss something; republishing");
        let mut done = std::mem::take(&mut self.after.answers);
        answers.begin(answerable, reached, |shard| self.is_whole(shard), &mut done)?;
        self.after.answers = done;
        self.durable.republish.begin(self.db, since_ms)?;
        Ok(())
    }

    /// Joining ends when the streams are consumed to where they ended when the node came, and
    /// every row has a version. `found_data`: the cluster had data.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_end_of_join(&mut self, found_data: bool) -> Result<(), Fatal> {
        if self.config.on_join == OnJoin::Replace && found_data {
            let rows = baseline::replace(self.db, self.layout)?;
            self.durable.joined = true;
            self.after.look = true;
            tracing::info!(
                rows,
                "joined; rows that the cluster does not have were removed (on_join = replace)"
            );
        } else {
            self.durable.republish.begin_join();
        }
        Ok(())
    }

    /// One step of the walk that is under way.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn step_republish(&mut self, answers: &Answers) -> Result<(), Fatal> {
        let published = self.durable.absorb.published;
        let rows_max = self.config.limits.republish_rows_max;
        let walks = &mut self.durable.republish;
        let rows = match walks.step(self.db, self.layout, rows_max, published)? {
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
                self.durable.joined = true;
                rows
            }
        };
        self.after.look |= rows > 0;
        Ok(())
    }

    /// The own batches that the cursor has passed count no longer for the own anchor.
    pub(super) fn clear_own_lowest(&mut self) {
        self.durable.own_lowest_ms = NO_ROW_MS;
        self.own_lowest_changed = true;
    }

    /// Writes down which origins are not held any more, what is never sent, and the cursors.
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
        Ok(())
    }
}

fn roll_back(db: &Connection) {
    // Some errors (a full disk) have rolled back already.
    if !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "cannot roll back");
    }
}

/// Whether the database is the one that our last transaction left, by the number of transactions
/// it counts. A backup that is restored into the live file (SQLite's backup interface, the shell's
/// `.restore`) takes back what this process believes to be stored, and rows with it that no log
/// lists.
///
/// # Errors
/// [`Fatal::Restored`]; SQLite's error.
pub(super) fn check_content(db: &Connection, writes: i64) -> Result<(), Fatal> {
    match meta::get(db, meta::WRITES) {
        Ok(stored) if stored.unwrap_or(0) == writes => Ok(()),
        Ok(_) => Err(Fatal::Restored),
        Err(error) => Err(Fatal::of(db, error)),
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
