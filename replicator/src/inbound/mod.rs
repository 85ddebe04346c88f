//! The writing actor: everything that changes the database happens here, one short transaction at a
//! time.
//!
//! Arrives: messages and answers of the broker, acknowledgements from outbound. Leaves: applied
//! rows, versions, cursors; [`Effect`]s for the other actor. Owns the order inside a transaction:
//! follow DDL, absorb, mark what is acknowledged, repair, apply, move the cursor. A crash before
//! its commit leaves everything as it was.

mod answer;
mod deal;
mod due;
mod former;
mod gap;
mod link;
mod prune;
mod relog;
mod stream;
mod transact;

use crate::broker::{Broker, BrokerEvent, Request, Ticket};
use crate::capture::absorb::AbsorbState;
use crate::capture::install;
use crate::db::connection::{self, DatabaseError, Meta};
use crate::db::layout::Layout;
use crate::model::action::Action;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::evidence::Signal;
use crate::repair::lease::Lease;
use crate::repair::prune::Pass;
use crate::store::cursor::{Anchor, Cursor, NO_ROW_MS};
use crate::wire::decode::Unpacker;
use rusqlite::{Connection, TransactionBehavior};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
pub use stream::{Item, ShardStream, What};

/// Acknowledgements wait so long for more, or for another reason to write: each transaction takes
/// the write lock from the application, and until they are written down a crash costs no more than
/// sending the same batches again.
const ACKS_WAIT_MS: u64 = 5;
/// So many do not wait.
const ACKS_MAX: usize = 64;

/// What outbound learned from an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The batch; the same number as before if nothing had to be sent.
    pub batch: BatchNo,
    /// Log entries up to here are dealt with.
    pub upto: i64,
    /// Where its last part is in the stream. None if nothing had to be sent.
    pub seq: Option<StreamSeq>,
    /// The lowest row time in it, unix milliseconds.
    pub lowest_ms: i64,
}

/// What comes in.
#[derive(Debug)]
pub enum Input {
    /// From the broker.
    Broker(BrokerEvent),
    /// From outbound.
    Acknowledged(Ack),
    /// Look at the database: its schema may have changed, or its log grown.
    Wake,
    /// Outbound holds still for this check; its acknowledgements came before this.
    OutboundHeld(u64),
    /// Try a batch in quarantine again.
    RetryQuarantine(i64),
}

/// What goes to the other actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publishing may begin (again): this is who we are, and what is acknowledged.
    Go {
        /// The check that found it so. A go-ahead of an older one counts for nothing.
        check: u64,
        /// The present life.
        site: Site,
        /// The last acknowledged batch.
        batch: BatchNo,
        /// Log entries up to here are published.
        published: i64,
    },
    /// The broker is about to be checked: publish nothing until the go-ahead, and say so.
    Hold {
        /// Which check.
        check: u64,
        /// On which connection, counted from 1 as both actors see them come.
        connection: u64,
    },
    /// There is something in the log, or the schema is installed anew.
    Look,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before the next input or [`Inbound::deadline`].
    Idle,
    /// Something was done; step again.
    Worked,
    /// Another connection holds the write lock, or the disk is full: step again a little later.
    Busy,
}

/// Why the node has to end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A temporary file for a batch that is too large for memory.
    #[error("cannot use the directory for large batches: {0}")]
    Spill(#[from] std::io::Error),
    /// One row alone is larger than a batch may be.
    #[error("{0}")]
    RowTooLarge(String),
    /// Two processes with one node id.
    #[error(
        "node id {node} is in use by another process ({place}): give this node its own node_id, \
        and if its disk was cloned, remove our tables from the copy (harmonylite cleanup)"
    )]
    SecondNode {
        /// The node id.
        node: NodeId,
        /// Where the other runs.
        place: String,
    },
    /// `on_join = "refuse"`.
    #[error(
        "this database has {rows} rows or more that never joined, and the cluster has data: set \
        on_join to merge or replace"
    )]
    JoinRefused {
        /// At least so many.
        rows: i64,
    },
    /// What was written into the database is not in it any more.
    #[error(
        "the content of the database was replaced while this node ran (a backup was restored into \
        it?): nothing was written to what is there now"
    )]
    Restored,
    /// Too much in quarantine.
    #[error(
        "{count} batches are in quarantine, which is the limit: look at them with `harmonylite \
        quarantine list`, then retry or drop them"
    )]
    QuarantineFull {
        /// How many.
        count: i64,
    },
}

impl Fatal {
    /// What an error of this database means: without our tables it is another content.
    pub(crate) fn of(db: &Connection, error: DatabaseError) -> Self {
        if matches!(connection::is_installed(db), Ok(false)) {
            Self::Restored
        } else {
            Self::Database(error)
        }
    }
}

impl From<rusqlite::Error> for Fatal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Counters since the start, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub transactions: u64,
    pub batches_applied: u64,
    pub rows_taken: u64,
    pub rows_skipped: u64,
    pub bytes_applied: u64,
    pub conflicts: u64,
    pub compensated: u64,
    pub quarantined: u64,
    pub held: u64,
    pub busy: u64,
    pub gaps: u64,
    pub losses: u64,
    pub rows_republished: u64,
    pub new_sites: u64,
    pub transactions_go: u64,
    pub null_key_changes: u64,
    pub pruned: u64,
    pub drift_warnings: u64,
    pub newest_remote_ms: i64,
    pub last_applied_unix_ms: i64,
}

/// The writing actor.
pub struct Inbound<B: Broker> {
    config: NodeConfig,
    db: Connection,
    broker: B,
    layout: Arc<Layout>,
    mirrored: i64,
    absorb: AbsorbState,
    batch: BatchNo,
    own_anchor: Option<Anchor>,
    own_lowest_ms: i64,
    joined: bool,
    join_targets: HashMap<u32, StreamSeq>,
    streams: Vec<ShardStream>,
    link: link::Link,
    /// Connections seen so far, checks begun so far, and the last one that outbound holds still
    /// for.
    connection: u64,
    check: u64,
    outbound_held: u64,
    lease: Lease,
    lease_due_ms: u64,
    heartbeat_due_ms: u64,
    gaps: gap::Gaps,
    answers: answer::Answers,
    relogs: relog::Relogs,
    acks: Vec<Ack>,
    acks_due_ms: u64,
    wake: bool,
    /// Since when what only moves the cursor waits, on the monotone clock.
    skips_since: Option<u64>,
    /// The schema differs from the layout, or was not looked at yet.
    schema_moved: bool,
    /// When the last message came, or the link came up.
    delivered_ms: u64,
    pruning: Option<Pass>,
    prune_due_ms: u64,
    next_ticket: Ticket,
    asked: HashMap<Ticket, link::Question>,
    retries: Vec<i64>,
    /// The stream that the next transaction begins with.
    first_served: usize,
    unpacker: Unpacker,
    released: Vec<(u32, NodeId)>,
    own_lowest_changed: bool,
    trouble: Option<String>,
    /// Why the last transaction found no room on the disk.
    full: Option<String>,
    /// How many transactions the database has seen, as the last one stored it.
    writes: i64,
    former: HashMap<NodeId, former::Former>,
    former_due_ms: u64,
    random: Box<dyn FnMut() -> u64 + Send>,
    warned_null_keys: HashSet<String>,
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
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        connection::create_tables(&transaction, &config.path)?;
        let known = Meta::read(&transaction)?;
        if known.site.0 == 0 || known.node != config.node {
            // A copy under another node id is another life: its original goes on elsewhere.
            connection::begin_site(
                &transaction,
                crate::capture::baseline::site_from(random()),
                now.unix_ms,
            )?;
            connection::set(&transaction, "node", config.node.0.cast_signed())?;
            transaction
                .execute("DELETE FROM main.__harmonylite__meta WHERE key GLOB 'own_*'", [])?;
        }
        let (layout, installed) = install::install(&transaction, &config.filter, now.unix_ms)?;
        transaction.commit()?;
        transact::report_installed(&installed);
        let meta = Meta::read(&db)?;
        let writes = connection::get(&db, "writes")?.unwrap_or(0);
        let absorb = AbsorbState {
            site: meta.site,
            own_sites: connection::own_sites(&db)?,
            absorbed: meta.absorbed,
            published: meta.published,
        };
        let lease = Lease::new(meta.site, &config.instance, &config.place, config.lease_ttl_ms);
        let streams = (1..=config.shards)
            .map(|shard| {
                Ok(ShardStream::new(shard, Cursor::read(&db, shard)?, deal::read_held(&db, shard)?))
            })
            .collect::<Result<Vec<_>, DatabaseError>>()?;
        Ok(Self {
            own_anchor: transact::read_own_anchor(&db)?,
            own_lowest_ms: connection::get(&db, "own_lowest")?.unwrap_or(NO_ROW_MS),
            gaps: gap::Gaps::new(&db)?,
            relogs: relog::Relogs::new(&db)?,
            config,
            db,
            broker,
            layout: Arc::new(layout),
            mirrored: -1,
            absorb,
            batch: meta.batch,
            joined: meta.joined,
            join_targets: HashMap::new(),
            streams,
            link: link::Link::Down,
            connection: 0,
            check: 0,
            outbound_held: 0,
            lease,
            lease_due_ms: 0,
            heartbeat_due_ms: 0,
            answers: answer::Answers::default(),
            acks: Vec::new(),
            acks_due_ms: 0,
            wake: true,
            skips_since: None,
            schema_moved: true,
            delivered_ms: now.mono_ms,
            pruning: None,
            prune_due_ms: now.mono_ms + prune::interval_ms(),
            next_ticket: 1,
            asked: HashMap::new(),
            retries: Vec::new(),
            first_served: 0,
            unpacker: Unpacker::default(),
            released: Vec::new(),
            own_lowest_changed: false,
            trouble: None,
            full: None,
            writes,
            former: HashMap::new(),
            former_due_ms: 0,
            random,
            warned_null_keys: HashSet::new(),
            effects: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Takes an input in. Never touches the database.
    ///
    /// # Errors
    /// [`Fatal::SecondNode`].
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), Fatal> {
        match input {
            Input::Wake => self.wake = true,
            Input::Acknowledged(ack) => {
                if self.acks.is_empty() {
                    self.acks_due_ms = now.mono_ms + ACKS_WAIT_MS;
                }
                self.acks.push(ack);
            }
            Input::OutboundHeld(check) => self.outbound_held = check,
            Input::RetryQuarantine(id) => self.retries.push(id),
            Input::Broker(event) => return self.handle_broker(event, now),
        }
        Ok(())
    }

    fn handle_broker(&mut self, event: BrokerEvent, now: Now) -> Result<(), Fatal> {
        match event {
            BrokerEvent::Connected => {
                self.connection += 1;
                self.asked.clear();
                self.begin_check();
            }
            BrokerEvent::Disconnected(_) => {
                self.link = link::Link::Down;
                self.asked.clear();
            }
            BrokerEvent::Reply(ticket, result) => {
                if let Some(question) = self.asked.remove(&ticket) {
                    self.answered(question, result, now)?;
                }
            }
            BrokerEvent::Delivered { generation, message, permit } => {
                let (shard, seq, site) = (message.shard, message.seq, self.absorb.site);
                let (limits, dir) = (&self.config.limits, &self.config.spill_dir);
                let Some(stream) = self.streams.iter_mut().find(|s| s.shard == shard) else {
                    return Ok(());
                };
                if stream.generation != generation {
                    stream.turn_down(permit);
                } else {
                    self.delivered_ms = now.mono_ms;
                    if let Err(error) = stream.deliver(message, permit, site, limits, dir) {
                        if stream.full.is_none() {
                            tracing::warn!(shard, seq = seq.0, %error, dir = %dir.display(), "no \
                                room for a large batch; trying again");
                        }
                        stream.wait_for_room(seq, error.to_string(), now.mono_ms);
                    }
                }
            }
            BrokerEvent::ConsumerLost { shard, generation, reason } => {
                let checked = matches!(
                    self.link,
                    link::Link::Up | link::Link::Checking(_) | link::Link::Again(_)
                );
                if checked
                    && self.streams.iter().any(|s| s.shard == shard && s.generation == generation)
                {
                    tracing::debug!(
                        shard,
                        reason,
                        "the consumer ended; checking the stream and consuming again"
                    );
                    self.begin_check();
                }
            }
            BrokerEvent::Signal(bytes) => {
                if let Some(signal) = Signal::decode(&bytes) {
                    self.signalled(signal, now);
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, question: link::Question, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket, question);
        self.broker.request(ticket, request);
    }

    /// Does one piece of work, at most one write transaction. `mono_ms` deadlines are looked at
    /// here too.
    ///
    /// # Errors
    /// What ends the node. Busy and full disks are not errors but [`Step::Busy`].
    pub fn step(&mut self, now: Now) -> Result<Step, Fatal> {
        self.tick(now);
        self.judge_link()?;
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

    /// Whether everything that came in is dealt with (for tests and shutdown).
    pub fn is_drained(&self) -> bool {
        self.acks.is_empty()
            && self.relogs.is_empty()
            && self.streams.iter().all(ShardStream::is_drained)
    }

    /// Whether this database has joined: every row has a version.
    pub fn is_joined(&self) -> bool {
        self.joined
    }

    /// The connection, for status queries between steps.
    pub fn database(&self) -> &Connection {
        &self.db
    }

    /// The layout in force.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The streams as they are consumed, for status.
    pub fn streams(&self) -> &[ShardStream] {
        &self.streams
    }

    /// The present life of the database.
    pub fn site(&self) -> Site {
        self.absorb.site
    }

    /// Whether the broker is up, checked, and consumed from.
    pub fn is_linked(&self) -> bool {
        matches!(self.link, link::Link::Up)
    }

    /// What the broker did not answer since the connection was last usable, for people.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What found no room on a disk and is tried again, for people.
    pub fn full(&self) -> Option<String> {
        if self.full.is_some() {
            return self.full.clone();
        }
        let (stream, full) = self.streams.iter().find_map(|s| Some((s, s.full.as_ref()?)))?;
        let dir = self.config.spill_dir.display();
        Some(format!(
            "no room in {dir} for a large batch, at {} in stream {}: {}",
            full.seq, stream.shard, full.reason
        ))
    }

    /// Gives the connection back.
    pub fn into_database(self) -> Connection {
        self.db
    }
}
