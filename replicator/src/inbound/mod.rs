//! The writing actor: makes all changes to the database, in short transactions.
//!
//! Arrives: messages and answers of the broker, acknowledgements from outbound. Leaves: applied
//! rows, versions, cursors, and [`Effect`]s for outbound. Owns the order inside a transaction:
//! absorb, mark acknowledged entries, repair, apply, move the cursor. A crash before the commit
//! changes nothing.

mod adopt_schema;
mod after_commit;
mod apply_batch;
mod batch_body;
mod bookkeeping;
mod carry_out;
mod clocks;
mod durable;
mod emptied_log;
mod events;
mod from_snapshot;
mod inbox;
mod join;
mod make_schema;
mod merge_snapshot;
mod notices;
mod polite;
mod process;
mod quarantine_retry;
mod rebuild_wait;
mod repairs;
mod requests;
mod schedule;
mod schema;
mod stats;
mod steps;
mod stream;
mod transaction;
mod unmade;
mod unmade_retry;
mod verify;
mod work;

pub use durable::Progress;
pub use events::Input;
pub use from_snapshot::{FromSnapshot, MergeProgress};
pub use stats::Stats;
pub use stream::ShardStream;

use crate::actor::{Effect, Fatal};
use crate::broker::{Broker, Request};
use crate::capture::baseline;
use crate::capture::user_triggers::SilentTrigger;
use crate::db::connection::read_schema;
use crate::db::layout::Layout;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::Site;
use crate::repair::gaps::{Need, OpenGap};
use crate::repair::prune::Pruning;
use crate::repair::question::{Outgoing, Question};
use crate::store::meta::{self, Meta};
use crate::store::{install::create_tables, kept_tables, schema_changes, sites};
use clocks::Clocks;
use durable::Durable;
use inbox::Inbox;
use join::Join;
use notices::Notices;
use polite::Polite;
use repairs::Repairs;
use requests::Requests;
use rusqlite::{Connection, TransactionBehavior};
use schedule::Schedule;
use schema::FollowedSchema;
use std::sync::Arc;
use stream::Oversized;
use unmade_retry::UnmadeRetry;
use verify::Verify;

/// The writing actor.
pub struct Inbound<B: Broker> {
    config: NodeConfig,
    db: Connection,
    schema: FollowedSchema,
    durable: Durable,
    requests: Requests<B>,
    verify: Verify,
    repairs: Repairs,
    pruning: Pruning,
    join: Join,
    inbox: Inbox,
    polite: Polite,
    /// Until then each batch is applied inside a savepoint.
    savepoints_until_ms: u64,
    notices: Notices,
    clocks: Clocks,
    /// Messages for outbound. The owner takes them after each call.
    pub effects: Vec<Effect>,
    /// Counters.
    pub stats: Stats,
}

impl<B: Broker> Inbound<B> {
    /// Prepares the database (our tables, the site, triggers) and waits for the broker. `random`
    /// returns the bits of new sites.
    ///
    /// # Errors
    /// [`Fatal::Database`], with `DatabaseError::Busy` if another connection holds the write lock;
    /// the caller then retries.
    pub fn open(
        config: NodeConfig,
        mut db: Connection,
        broker: B,
        mut random: Box<dyn FnMut() -> u64 + Send>,
        now: Now,
    ) -> Result<Self, Fatal> {
        let layout = install_all(&config, &mut db, &mut random, now)?;
        let durable = Durable::read(&db, &config)?;
        let mut inbound = Self {
            schema: FollowedSchema::new(layout, UnmadeRetry::read(&db)?),
            requests: Requests::new(broker),
            verify: Verify::new(&config, durable.site(), random),
            repairs: Repairs::read(&config, &db)?,
            pruning: Pruning::new(now),
            join: Join::new(config.replicate),
            inbox: Inbox::new(&durable, now),
            polite: Polite::new(&config),
            savepoints_until_ms: 0,
            notices: Notices::default(),
            clocks: Clocks::new(&config),
            effects: Vec::new(),
            stats: Stats::default(),
            config,
            db,
            durable,
        };
        let at = |shard| (shard, Need::Messages(inbound.durable.position(shard)));
        let open: Vec<_> = inbound.repairs.gaps.open_shards().into_iter().map(at).collect();
        inbound.note_needs(&open, now);
        Ok(inbound)
    }

    /// Returns the components with deadlines.
    fn schedule(&self) -> Schedule<'_> {
        let Self { durable, verify, repairs, pruning, schema, join, inbox, .. } = self;
        Schedule { durable, verify, repairs, pruning, unmade: &schema.unmade, join, inbox }
    }

    /// Takes a function that returns whether another connection has an open snapshot. Without it
    /// none is seen.
    pub fn look_at_snapshots(&mut self, open: impl FnMut() -> bool + Send + 'static) {
        self.polite.look_with(Box::new(open));
    }

    /// Starts the consumer of a stream after its cursor.
    fn consume(&mut self, index: usize) {
        let generation = self.requests.next_generation();
        let stream = &mut self.inbox.streams[index];
        let shard = stream.shard;
        let start = stream.restart(&mut self.durable.streams[index], generation);
        let request = Request::Consume { shard, start, generation };
        self.requests.send([Outgoing::Ask(Question::Consume(shard, generation), request)]);
    }

    /// Returns when [`Inbound::step`] has work although no input arrives, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        self.schedule().deadline()
    }

    /// Returns whether all inputs are processed, for tests and shutdown.
    pub fn is_drained(&self) -> bool {
        self.inbox.is_drained()
            && self.durable.republish.is_idle()
            && self.durable.compare.is_idle()
    }

    /// Returns whether this database has joined: every row has a version.
    pub fn is_joined(&self) -> bool {
        self.durable.joined
    }

    /// Returns the present layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.schema.layout
    }

    /// Returns the application's triggers that do not fire for rows of other nodes, and why.
    pub fn silent_triggers(&self) -> &[SilentTrigger] {
        &self.schema.silent_triggers
    }

    /// Returns the streams and their progress, for status.
    pub fn streams(&self) -> impl Iterator<Item = (&ShardStream, &Progress)> {
        self.inbox.streams.iter().zip(&self.durable.streams)
    }

    /// Returns the present incarnation of the database.
    pub fn site(&self) -> Site {
        self.durable.site()
    }

    /// Returns whether the connection to the broker is up and checked.
    pub fn is_connected(&self) -> bool {
        self.verify.is_up()
    }

    /// Returns the number of passed checks of connections.
    pub fn checks_passed(&self) -> u64 {
        self.verify.passed()
    }

    /// Returns the rows logged so far by the running walks: for joining, and to republish.
    pub fn republished_rows(&self) -> (Option<u64>, Option<u64>) {
        self.durable.republish.rows()
    }

    /// Returns the open gaps, for people.
    pub fn open_gaps(&self) -> Vec<String> {
        self.repairs.gaps.describe()
    }

    /// Returns the open gaps, for the search of a snapshot that fills them.
    pub fn gaps(&self) -> Vec<OpenGap> {
        self.repairs.gaps.open()
    }

    /// Returns how far the merge of a snapshot is.
    pub fn merge_progress(&self) -> &MergeProgress {
        &self.inbox.snapshot.progress
    }

    /// Returns the nodes with wrong clocks, for people.
    pub fn wrong_clocks(&self) -> Vec<String> {
        self.clocks.describe()
    }

    /// Returns the batches whose rows are missing because no stream can hold them, for people.
    pub fn oversized(&self) -> Vec<String> {
        let (config, gaps) = (&self.config, &self.repairs.gaps);
        let streams = self.inbox.streams.iter().filter(|s| gaps.is_open(s.shard));
        let describe = |o: &Oversized| {
            format!(
                "a batch is larger than the stream holds: batch {} of node {} has {} bytes, and a \
                stream holds {}; its rows are asked for, and come in smaller batches; raise \
                replication_log.max_bytes and max_entries on all nodes",
                o.batch, o.node, o.bytes, config.stream_bytes_max
            )
        };
        streams.filter_map(|s| s.oversized.as_ref()).map(describe).collect()
    }

    /// Returns the last failed request since the connection was usable, for people.
    pub fn trouble(&self) -> Option<&str> {
        self.requests.trouble()
    }

    /// Returns when the lease of the node id ends or ended that this process held, on the monotone
    /// clock; None: it was never held.
    pub fn lease_ends_ms(&self) -> Option<u64> {
        self.verify.lease_ends_ms()
    }

    /// Describes a write that found no room on a disk and is retried, for people.
    pub fn no_room(&self) -> Option<String> {
        if let Some(reason) = self.notices.no_disk_room() {
            return Some(reason.to_owned());
        }
        let (stream, no_room) =
            self.inbox.streams.iter().find_map(|s| Some((s, s.no_room.as_ref()?)))?;
        let dir = self.config.spill_dir.display();
        Some(format!(
            "no room in {dir} for a large batch, at {} in stream {}: {}",
            no_room.seq, stream.shard, no_room.reason
        ))
    }

    /// Returns the connection, for its owner between steps.
    pub fn database(&self) -> &Connection {
        &self.db
    }

    /// Returns the connection, for its owner between steps, to register hooks.
    pub fn database_mut(&mut self) -> &mut Connection {
        &mut self.db
    }

    /// Ends the actor and returns its connection.
    pub fn into_database(self) -> Connection {
        self.db
    }
}

/// Installs our tables, a site for this node, and the triggers.
fn install_all(
    config: &NodeConfig,
    db: &mut Connection,
    random: &mut dyn FnMut() -> u64,
    now: Now,
) -> Result<Layout, Fatal> {
    read_schema(db)?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    create_tables(&transaction, &config.path)?;
    sites::take_over_restored(&transaction, config.node)?;
    let known = Meta::read(&transaction)?;
    if known.site.0 == 0 || known.node != config.node {
        // A copy under another node id is another incarnation, because the original continues
        // elsewhere.
        sites::begin_site(&transaction, baseline::site_from(random()), now.unix_ms)?;
        meta::set(&transaction, meta::NODE, config.node)?;
        meta::forget_own_anchor(&transaction)?;
    }
    let before_ms = now.unix_ms - config.version_retention_ms;
    kept_tables::remove_before(&transaction, before_ms)?;
    schema_changes::forget(&transaction, before_ms, config.limits.schema_changes_max)?;
    transaction.commit()?;
    schema::install_in_steps(db, config, now)
}
