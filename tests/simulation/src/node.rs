//! One machine: a database that survives its process, a process that can end at any moment, a
//! connection.

use crate::application::{self, SCHEMA};
use crate::clock::NodeClock;
use crate::coverage::Marks;
use crate::network::{Actor, Connection as Link, Handle};
use crate::plan::{Direction, Plan};
use crate::rng::Rng;
use harmonylite::broker::BrokerEvent;
use harmonylite::capture::install::install;
use harmonylite::db::connection::prepare_writer;
use harmonylite::inbound::{self, Inbound};
use harmonylite::model::config::{NodeConfig, SchemaMode};
use harmonylite::model::ids::NodeId;
use harmonylite::model::table_filter::TableFilter;
use harmonylite::publish::outbound::{self, Outbound, Output};
use harmonylite::store::install::create_tables;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long versions are kept.
pub const RETENTION_MS: i64 = 86_400_000;

/// A running sidecar.
pub struct Process {
    /// The writing actor.
    pub inbound: Inbound<Handle>,
    /// The reading actor.
    pub outbound: Outbound<Handle>,
    /// The waiting inputs of inbound.
    pub inbound_in: VecDeque<inbound::Input>,
    /// The waiting inputs of outbound.
    pub outbound_in: VecDeque<outbound::Input>,
}

/// A machine.
pub struct Node {
    /// Its index in the world.
    pub index: usize,
    /// Its id.
    pub id: NodeId,
    /// Its clock.
    pub clock: NodeClock,
    /// The application's connection; it keeps the database in memory.
    pub app: Connection,
    /// The database at its last sync.
    synced: Connection,
    name: String,
    /// The sidecar.
    pub process: Option<Process>,
    /// The connection to the broker.
    pub link: Link,
    /// Whether the network lets it connect.
    pub reachable: bool,
    /// The number of processes so far.
    pub starts: u64,
    config: NodeConfig,
    /// How many looks at the application's snapshots of a hundred find an open one.
    snapshots_percent: Arc<AtomicU64>,
    seed: u64,
}

/// Names of databases in memory are global to the process.
static NAMES: AtomicU64 = AtomicU64::new(0);

fn fresh_name() -> String {
    format!("file:/simulated-{}?vfs=memdb", NAMES.fetch_add(1, Ordering::Relaxed))
}

fn open(name: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(name, flags)?;
    db.busy_timeout(Duration::ZERO)?;
    db.set_prepared_statement_cache_capacity(512);
    db.execute_batch(
        "PRAGMA page_size = 1024; PRAGMA temp_store = MEMORY; PRAGMA synchronous = \
        OFF; PRAGMA foreign_keys = OFF;",
    )?;
    Ok(db)
}

/// Copies a whole database.
pub(crate) fn copy(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    Backup::new(from, to)?.step(-1).map(|_| ())
}

/// Fills a database with the schema and the triggers of a first start. Copying pages is much
/// cheaper than creating them, and most worlds do not test the first start.
fn copy_template(to: &mut Connection) -> rusqlite::Result<()> {
    thread_local!(static TEMPLATE: OnceCell<Connection> = const { OnceCell::new() });
    TEMPLATE.with(|cell| {
        if cell.get().is_none() {
            let db = Connection::open_in_memory()?;
            db.execute_batch("PRAGMA page_size = 1024")?;
            db.execute_batch(SCHEMA)?;
            let installed = create_tables(&db, Path::new("template"))
                .and_then(|()| install(&db, &TableFilter::default(), 0));
            installed.map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            let _ = cell.set(db);
        }
        cell.get().map_or(Ok(()), |db| copy(db, to))
    })
}

impl Node {
    /// Creates a machine with an empty schema and no process.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn new(plan: &Plan, index: usize) -> rusqlite::Result<Self> {
        let id = NodeId(index as u64 + 1);
        let (skew_ms, drift_ppm) = plan.clocks[index];
        let clock = NodeClock::new(skew_ms, drift_ppm);
        let name = fresh_name();
        let mut app = open(&name)?;
        if plan.populated {
            app.execute_batch(SCHEMA)?;
        } else {
            copy_template(&mut app)?;
        }
        if plan.schema_mode != SchemaMode::Off {
            app.execute_batch(application::BOOKKEEPING)?;
        }
        application::use_clock(&app, clock.shown())?;
        let mut synced = Connection::open_in_memory()?;
        synced.execute_batch("PRAGMA page_size = 1024")?;
        copy(&app, &mut synced)?;
        let config = NodeConfig {
            node: id,
            path: ":memory:".into(),
            shards: plan.shards,
            stream_bytes_max: plan.stream_bytes,
            filter: TableFilter::default(),
            schema_mode: plan.schema_mode,
            publish: plan.directions[index] != Direction::Applies,
            replicate: plan.directions[index] != Direction::Publishes,
            on_join: plan.on_join,
            version_retention_ms: RETENTION_MS,
            max_clock_drift_ms: 60_000,
            spill_dir: std::env::temp_dir(),
            lease_ttl_ms: 10_000,
            instance: String::new(),
            place: format!("machine {index}"),
            politeness_ms: plan.politeness_ms,
            id_ranges: None,
            gaps_from_snapshots: plan.snapshots,
            limits: plan.limits.clone(),
        };
        Ok(Self {
            index,
            id,
            clock,
            app,
            synced,
            name,
            process: None,
            link: Link::new(id, plan.max_payload),
            reachable: true,
            starts: 0,
            config,
            snapshots_percent: Arc::new(AtomicU64::new(plan.snapshots_percent)),
            seed: plan.seed,
        })
    }

    /// Returns its configuration.
    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Returns its place for the lease.
    pub fn place(&self) -> &str {
        &self.config.place
    }

    /// Opens another connection to the database, without the application's functions.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        open(&self.name)
    }

    /// Starts a process, if there is none.
    ///
    /// # Errors
    /// The error that ends the node.
    pub fn start(&mut self, true_ms: i64) -> Result<bool, String> {
        if self.process.is_some() {
            return Ok(false);
        }
        self.starts += 1;
        let config = NodeConfig {
            instance: format!("{}-{}", self.index, self.starts),
            ..self.config.clone()
        };
        let seed = self.seed
            ^ (self.index as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d)
            ^ self.starts.wrapping_mul(0xdead_beef);
        let mut rng = Rng::new(seed);
        let writer = self.connect().map_err(|e| e.to_string())?;
        prepare_writer(&writer).map_err(|e| e.to_string())?;
        let handle = |actor| self.link.handle(actor);
        let now = self.clock.now(true_ms);
        let mut inbound = Inbound::open(
            config.clone(),
            writer,
            handle(Actor::Inbound),
            Box::new(move || rng.bits()),
            now,
        )
        .map_err(|e| format!("node {} cannot start: {e}", self.id))?;
        let (mut looks, percent) = (Rng::new(seed ^ 0x5eed), Arc::clone(&self.snapshots_percent));
        inbound.look_at_snapshots(move || looks.chance(percent.load(Ordering::Relaxed)));
        let outbound = Outbound::new(
            config,
            self.connect().map_err(|e| e.to_string())?,
            handle(Actor::Outbound),
        )
        .map_err(|e| e.to_string())?;
        self.process = Some(Process {
            inbound,
            outbound,
            inbound_in: VecDeque::new(),
            outbound_in: VecDeque::new(),
        });
        if self.reachable {
            self.connected();
        }
        Ok(true)
    }

    /// Connects to the broker.
    pub fn connected(&mut self) {
        if self.link.up || self.process.is_none() {
            return;
        }
        (self.link.up, self.link.sends, self.link.hears) = (true, true, true);
        self.tell(Actor::Inbound, BrokerEvent::Connected);
        self.tell(Actor::Outbound, BrokerEvent::Connected);
    }

    /// Queues an event for an actor.
    pub fn tell(&mut self, actor: Actor, event: BrokerEvent) {
        let Some(process) = &mut self.process else { return };
        match actor {
            Actor::Inbound => process.inbound_in.push_back(inbound::Input::Broker(event)),
            Actor::Outbound => process.outbound_in.push_back(outbound::Input::Broker(event)),
        }
    }

    /// Wakes the actors, as the bell or the slow poll does.
    pub fn wake(&mut self) {
        if let Some(process) = &mut self.process {
            process.outbound_in.push_back(outbound::Input::Wake);
            process.inbound_in.push_back(inbound::Input::Wake);
        }
    }

    /// Lets the application close its snapshots.
    pub fn close_snapshots(&mut self) {
        self.snapshots_percent.store(0, Ordering::Relaxed);
    }

    /// Ends the process at once.
    pub fn end_process(&mut self, marks: &mut Marks) -> bool {
        let Some(process) = self.process.take() else { return false };
        process.count(marks);
        true
    }

    /// Syncs all changes to the disk.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn sync(&mut self) -> rusqlite::Result<()> {
        copy(&self.app, &mut self.synced)
    }

    /// Ends the machine and restores the database to its last sync. The process must have ended.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn power_cut(&mut self) -> rusqlite::Result<()> {
        assert!(self.process.is_none(), "a process cannot outlive its machine");
        let name = fresh_name();
        let mut app = open(&name)?;
        copy(&self.synced, &mut app)?;
        application::use_clock(&app, self.clock.shown())?;
        (self.app, self.name) = (app, name);
        Ok(())
    }

    /// Puts a new disk with this database into the machine. The process must have ended.
    ///
    /// # Errors
    /// SQLite's error.
    pub(crate) fn replace_disk(&mut self, restored: &Connection) -> rusqlite::Result<()> {
        copy(restored, &mut self.synced)?;
        self.power_cut()
    }
}

impl Process {
    /// Exchanges the messages between the actors.
    pub fn exchange(&mut self) {
        for effect in self.inbound.effects.drain(..) {
            self.outbound_in.push_back(outbound::Input::Effect(effect));
        }
        for output in self.outbound.outputs.drain(..) {
            self.inbound_in.push_back(match output {
                Output::Acknowledged(ack) => inbound::Input::Acknowledged(ack),
                Output::Wake => inbound::Input::Wake,
                Output::Held(check) => inbound::Input::OutboundHeld(check),
            });
        }
    }

    /// Adds the counters of the stages.
    pub fn count(&self, marks: &mut Marks) {
        let (i, o) = (&self.inbound.stats, &self.outbound.stats);
        marks.add("stage: batches applied", i.batches_applied);
        marks.add("stage: rows taken", i.rows_taken);
        marks.add("stage: rows skipped", i.rows_skipped);
        marks.add("stage: conflict journaled", i.conflicts);
        marks.add("stage: compensated", i.compensated);
        marks.add("stage: quarantined", i.quarantined);
        marks.add("stage: held", i.held);
        marks.add("stage: busy", i.busy);
        marks.add("stage: snapshot met", i.snapshots_met);
        marks.add("stage: snapshot waited for", i.snapshots_waited);
        marks.add("stage: acknowledgement found", i.confirmed);
        marks.add("stage: gap", i.gaps);
        marks.add("stage: loss repaired", i.losses);
        marks.add("stage: rows republished", i.rows_republished);
        marks.add("stage: new site", i.new_sites);
        marks.add("stage: version pruned", i.pruned);
        marks.add("stage: drift reported", i.drift_warnings);
        marks.add("stage: batches published", o.batches_published);
        marks.add("stage: batch resent", o.resent);
        marks.add("stage: batch split", o.split);
    }
}
