//! The writing actor: everything that changes the database happens here, one short transaction at a
//! time.
//!
//! Arrives: messages and answers of the broker, acknowledgements from outbound. Leaves: applied
//! rows, versions, cursors; [`Effect`]s for the other actor. Owns the order inside a transaction:
//! absorb, mark what is acknowledged, repair, apply, move the cursor. A crash before its commit
//! leaves everything as it was.

mod apply_batch;
mod durable;
mod events;
mod inbox;
mod join;
mod process;
mod requests;
mod schedule;
mod schema;
mod stats;
mod stream;
mod transaction;
mod verify;

pub use durable::Progress;
pub use events::Input;
pub use stats::Stats;
pub use stream::ShardStream;

use crate::actor::{Effect, Fatal, Step};
use crate::broker::{Broker, Request};
use crate::capture::{baseline, install};
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::model::action::Action;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::Site;
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::answers::Answers;
use crate::repair::gaps::Gaps;
use crate::repair::prune::{PRUNE_ROWS_MAX, Pruning, prune, prune_before_ms};
use crate::repair::question::{Outgoing, Question};
use crate::repair::superseded::Superseded;
use crate::store::cursor::Cursor;
use crate::store::meta::{self, Meta};
use crate::store::{change_log::log_end, install::create_tables, sites};
use durable::Durable;
use inbox::Inbox;
use join::Join;
use requests::Requests;
use rusqlite::{Connection, TransactionBehavior};
use schedule::Schedule;
use schema::FollowedSchema;
use std::sync::Arc;
use transaction::{AfterCommit, Transaction, check_content};
use verify::Verify;

/// The writing actor.
pub struct Inbound<B: Broker> {
    config: NodeConfig,
    db: Connection,
    schema: FollowedSchema,
    durable: Durable,
    requests: Requests<B>,
    verify: Verify,
    gaps: Gaps,
    answers: Answers,
    superseded: Superseded,
    pruning: Pruning,
    join: Join,
    inbox: Inbox,
    /// Why the last transaction found no room on the disk.
    full: Option<String>,
    /// For the other actor; the owner takes them after each call.
    pub effects: Vec<Effect>,
    /// Counters.
    pub stats: Stats,
}

impl<B: Broker> Inbound<B> {
    /// Prepares the database (our tables, the site, triggers) and begins to wait for the broker.
    /// `random` gives the bits of new sites.
    ///
    /// # Errors
    /// [`Fatal::Database`], [`DatabaseError::Busy`] inside it if another connection holds the write
    /// lock: try again.
    pub fn open(
        config: NodeConfig,
        mut db: Connection,
        broker: B,
        mut random: Box<dyn FnMut() -> u64 + Send>,
        now: Now,
    ) -> Result<Self, Fatal> {
        let layout = install_all(&config, &mut db, &mut random, now)?;
        let durable = Durable::read(&db, &config)?;
        Ok(Self {
            schema: FollowedSchema::new(layout),
            requests: Requests::new(broker),
            verify: Verify::new(&config, durable.site(), random),
            gaps: Gaps::read(&config, &db)?,
            answers: Answers::new(&config),
            superseded: Superseded::default(),
            pruning: Pruning::new(now),
            join: Join::new(config.replicate),
            inbox: Inbox::new(&durable, now),
            full: None,
            effects: Vec::new(),
            stats: Stats::default(),
            config,
            db,
            durable,
        })
    }

    /// Does one piece of work, at most one write transaction. Deadlines are looked at here too.
    ///
    /// # Errors
    /// What ends the node. Busy and full disks are not errors but [`Step::Busy`].
    pub fn step(&mut self, now: Now) -> Result<Step, Fatal> {
        self.tick(now);
        self.judge_connection()?;
        let result = self.work(now);
        self.full = match &result {
            Err(Fatal::Database(error @ (DatabaseError::Full | DatabaseError::NoIndex))) => {
                Some(error.to_string())
            }
            _ => None,
        };
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
        if self.has_work(now)? {
            self.transact(now)?;
        } else if self.may_prune(now)? {
            self.prune(now)?;
        } else {
            return Ok(Step::Idle);
        }
        Ok(Step::Worked)
    }

    /// Whether a transaction has anything to do. Reads the schema version and the end of the log,
    /// no more.
    fn has_work(&mut self, now: Now) -> Result<bool, Fatal> {
        self.inbox.note_waiting(now);
        if self.schedule().transaction_is_due(now) || self.schema.moved {
            return Ok(true);
        }
        if !self.inbox.wake {
            return Ok(false);
        }
        self.schema.look(&self.db)?;
        let unsent = self.verify.knows_incarnation()
            && !self.config.publish
            && log_end(&self.db)? > self.durable.absorb.published;
        // Not before: a database that is busy must be looked at again.
        self.inbox.wake = false;
        Ok(self.schema.moved || unsent)
    }

    fn schedule(&self) -> Schedule<'_> {
        let Self { durable, verify, gaps, answers, superseded, pruning, join, inbox, .. } = self;
        Schedule { durable, verify, gaps, answers, superseded, pruning, join, inbox }
    }

    /// One write transaction: all that waits, within the bounds. Its order is this function.
    fn transact(&mut self, now: Now) -> Result<(), Fatal> {
        self.follow_schema(now)?;
        if !self.verify.knows_incarnation() {
            return Ok(());
        }
        let layout = Arc::clone(&self.schema.layout);
        let copies = (&self.durable, &self.stats);
        let tx = Transaction::new(&self.db, &self.config, &layout, copies, now);
        let committed = tx.run(|tx| {
            if !tx.begin()? {
                return Ok(());
            }
            tx.follow_emptied_log()?;
            if let Some(behind_broker) = self.verify.verdict().map(|v| v.behind_broker) {
                if behind_broker {
                    tx.begin_incarnation(baseline::site_from(self.verify.random()))?;
                }
                tx.stamp_old_changes()?;
            }
            if !tx.absorb(!self.inbox.acks.is_empty())? {
                return Ok(());
            }
            tx.mark_acknowledged(&self.inbox)?;
            if let Some(verdict) = self.verify.verdict() {
                tx.carry_out(verdict)?;
            }
            tx.after.ended_gaps = self.gaps.write_ended(tx.db)?;
            if self.verify.is_up() && !tx.durable.republish.is_republishing() {
                tx.answer(&self.answers)?;
            }
            process::serve(tx, &mut self.inbox, &self.superseded)?;
            process::release(tx)?;
            let served = &tx.after.served.items;
            if self.verify.is_up() && self.join.is_complete(&tx.durable, &self.inbox, served, now) {
                tx.begin_end_of_join(self.join.found_data())?;
            }
            tx.step_republish(&self.answers)?;
            tx.write_marks()
        });
        let (durable, stats, after) = committed?;
        (self.durable, self.stats) = (durable, stats);
        self.stats.transactions += 1;
        self.after_commit(after, now);
        Ok(())
    }

    fn after_commit(&mut self, after: AfterCommit, now: Now) {
        self.durable.republish.committed();
        self.schema.moved |= after.schema_moved;
        for table in &after.null_key_tables {
            self.schema.warn_null_keys(table);
        }
        self.inbox.committed(&after.served);
        for node in after.superseded_asked {
            self.superseded.asked(node);
        }
        for (node, created_ms) in after.seen_origins {
            self.gaps.saw_origin(node, created_ms);
        }
        let signals = self.answers.committed(after.answers, self.durable.absorb.published);
        self.requests.send(signals.into_iter().map(Outgoing::Signal));
        self.gaps.committed(&self.db, after.ended_gaps, after.gaps_changed);
        if after.new_incarnation {
            self.verify.incarnation_begun();
        }
        if after.connection_passes {
            self.connection_passes(now);
        } else if after.look {
            self.effects.push(Effect::Look);
        }
    }

    /// Follows DDL, in a transaction of its own.
    fn follow_schema(&mut self, now: Now) -> Result<(), Fatal> {
        let was_moved = self.schema.moved;
        let result = self.schema.follow(&mut self.db, &self.config, self.durable.writes, now);
        if result? {
            self.verify.heartbeat_at_once();
            self.effects.push(Effect::Look);
            // Whoever waited for this schema tries again, from where it was held.
            for i in 0..self.durable.streams.len() {
                if !self.durable.streams[i].held.is_empty() && self.verify.is_up() {
                    self.consume(i);
                }
            }
        }
        if was_moved && let Err(error) = self.schema.prepare(&mut self.db) {
            self.schema.moved = true;
            return Err(error);
        }
        Ok(())
    }

    /// Starts the consumer of a stream behind its cursor.
    fn consume(&mut self, index: usize) {
        let generation = self.requests.next_generation();
        let stream = &mut self.inbox.streams[index];
        let shard = stream.shard;
        let start = stream.restart(&mut self.durable.streams[index], generation);
        let request = Request::Consume { shard, start, generation };
        self.requests.send([Outgoing::Ask(Question::Consume(shard, generation), request)]);
    }

    /// Whether old versions may go now; a pass that is held up is looked at again later.
    fn may_prune(&mut self, now: Now) -> Result<bool, Fatal> {
        if now.mono_ms < self.pruning.deadline() || !self.verify.is_up() {
            return Ok(false);
        }
        let published = self.durable.absorb.published;
        let quiet = self.schedule().is_quiet() && log_end(&self.db)? <= published;
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
        // A change that came since we looked needs its predecessor.
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

    /// Only for [`Bug::CursorFirst`].
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

    /// When [`Inbound::step`] has something to do even if nothing comes in, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        self.schedule().deadline()
    }

    /// Whether everything that came in is dealt with (for tests and shutdown).
    pub fn is_drained(&self) -> bool {
        self.inbox.is_drained() && self.durable.republish.is_idle()
    }

    /// Whether this database has joined: every row has a version.
    pub fn is_joined(&self) -> bool {
        self.durable.joined
    }

    /// The layout in force.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.schema.layout
    }

    /// The streams as they are consumed and applied, for status.
    pub fn streams(&self) -> impl Iterator<Item = (&ShardStream, &Progress)> {
        self.inbox.streams.iter().zip(&self.durable.streams)
    }

    /// The present incarnation of the database.
    pub fn site(&self) -> Site {
        self.durable.site()
    }

    /// Whether the broker is up, checked, and consumed from.
    pub fn is_linked(&self) -> bool {
        self.verify.is_up()
    }

    /// Checks of connections passed so far.
    pub fn checks_passed(&self) -> u64 {
        self.verify.passed()
    }

    /// Rows logged so far by the walk that is under way: of a database that joins, and to be
    /// republished.
    pub fn republished_rows(&self) -> (Option<u64>, Option<u64>) {
        self.durable.republish.rows()
    }

    /// Gaps that other nodes were asked to fill, for people.
    pub fn open_gaps(&self) -> Vec<String> {
        self.gaps.describe()
    }

    /// What the broker did not answer since the connection was last usable, for people.
    pub fn trouble(&self) -> Option<&str> {
        self.requests.trouble()
    }

    /// What found no room on a disk and is tried again, for people.
    pub fn full(&self) -> Option<String> {
        if self.full.is_some() {
            return self.full.clone();
        }
        let (stream, full) = self.inbox.streams.iter().find_map(|s| Some((s, s.full.as_ref()?)))?;
        let dir = self.config.spill_dir.display();
        Some(format!(
            "no room in {dir} for a large batch, at {} in stream {}: {}",
            full.seq, stream.shard, full.reason
        ))
    }

    /// The connection, for its owner between steps.
    pub fn database(&self) -> &Connection {
        &self.db
    }

    /// Gives the connection back.
    pub fn into_database(self) -> Connection {
        self.db
    }
}

/// Our tables, an identity that belongs to this node, triggers.
fn install_all(
    config: &NodeConfig,
    db: &mut Connection,
    random: &mut dyn FnMut() -> u64,
    now: Now,
) -> Result<Layout, Fatal> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    create_tables(&transaction, &config.path)?;
    let known = Meta::read(&transaction)?;
    if known.site.0 == 0 || known.node != config.node {
        // A copy under another node id is another incarnation: its original goes on elsewhere.
        sites::begin_site(&transaction, baseline::site_from(random()), now.unix_ms)?;
        meta::set(&transaction, meta::NODE, config.node)?;
        meta::forget_own_anchor(&transaction)?;
    }
    let (layout, installed) = install::install(&transaction, &config.filter, now.unix_ms)?;
    transaction.commit()?;
    schema::report_installed(&installed);
    Ok(layout)
}
