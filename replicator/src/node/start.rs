//! Starts a node. A refused start leaves everything unchanged, because of the order: lock, ports,
//! server, first contact with the broker, and only then the database.

use super::bell::SharedBell;
use super::blind_indexes::watch_indexes;
use super::checkpoint::Checkpoints;
use super::file_guard::{FileGuard, refuse_other_wal};
use super::reader::{Reader, ReaderSnapshot, ToReader};
use super::reader_inbox::{ReaderSender, reader_inbox};
use super::registry::{RegistrySeen, watch_registry};
use super::report::StatusSources;
use super::schema_entry::publish_schema;
use super::servers::{Servers, watch_servers};
use super::snapshots::Snapshots;
use super::timing::{RecentDurations, RecentRate};
use super::wake::{RecentWakes, Waker};
use super::watch::WalWatch;
use super::writer::{Busy, ToWriter, Writer, WriterSnapshot};
use super::{Inboxes, Node, NodeError, ThreadEnd, http};
use crate::actor::Fatal;
use crate::broker::{Reply, Request};
use crate::clock;
use crate::db::connection::{self, DatabaseError};
use crate::db::lockfile::{Lock, Owner};
use crate::db::snapshots::Snapshots as OpenSnapshots;
use crate::embedded::{Access, Embedded};
use crate::inbound::{Inbound, Input as WriterInput};
use crate::model::config::NodeConfig;
use crate::model::ids::{NodeId, Site};
use crate::nats::{Hub, LinkState, NatsBroker, Sink, Target};
use crate::publish::outbound::{Input as ReaderInput, Outbound};
use crate::repair::lease::{Lease, LeaseStep};
use crate::settings::identity::{IdentitySource, decide, machine_id};
use crate::settings::{ClusterSettings, NodeConfigError, Settings};
use crate::store::install::stored_node;
use crate::store::meta::Meta;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// How long the start waits for the first answer of the broker.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// How long the start waits for the write lock. A running node waits without limit.
const LOCKED_MS_MAX: u64 = 30_000;
const LOCKED_AGAIN: Duration = Duration::from_millis(20);
const POLL_MS: u64 = 1_000;
/// The longest path of a Unix socket (sun_path is 108 bytes on Linux, 104 elsewhere).
const SOCKET_PATH_BYTES_MAX: usize = 100;

pub(super) async fn start(
    mut settings: Settings,
    cluster: ClusterSettings,
) -> Result<Node, NodeError> {
    // A program that embeds a node may have set any values.
    settings.read_password().map_err(NodeConfigError::Settings)?;
    settings.check(Path::new("settings")).map_err(NodeConfigError::Settings)?;
    let path = settings.db_path.clone();
    let path = path.canonicalize().map_err(|error| NodeError::File { path, error })?;
    // A link: all files are beside the database itself.
    settings.db_path.clone_from(&path);
    let config = settings.node_config(identity(&settings, &path)?)?;
    let mut lock = Some(Lock::acquire(&path)?);
    let started = start_locked(settings, cluster, config, path, &mut lock).await;
    if let Some(refused) = lock {
        refused.remove();
    }
    started
}

/// Starts the node under the lock. Takes the lock out of `held` only if the node starts.
async fn start_locked(
    settings: Settings,
    cluster: ClusterSettings,
    config: NodeConfig,
    path: PathBuf,
    held: &mut Option<Lock>,
) -> Result<Node, NodeError> {
    let socket = socket_path(&path);
    if let Some(lock) = held {
        lock.announce(&Owner {
            pid: std::process::id(),
            node_id: config.node.0,
            socket: socket.clone(),
        })?;
    }
    refuse_other_wal(&path).await?;
    let ports = http::bind(&settings).await?;
    let embedded = if settings.nats.urls.is_empty() {
        Some(Embedded::start(&settings, config.node, &cluster).await?)
    } else {
        None
    };
    let (to_writer, writer_inbox) = channel();
    let (bell, known) = (SharedBell::new(&path), RecentWakes::default());
    let (to_reader, rung_inbox) = reader_inbox(&bell, known.clone());
    let sinks = sinks(&to_writer, &to_reader);
    let target = target(&settings, embedded.as_ref());
    let hub = Hub::start(
        settings.clone(),
        config.node,
        config.limits.inbox_bytes_max,
        target.clone(),
        &sinks.0,
        &sinks.1,
    );
    first_contact(&hub).await?;
    refuse_second_node(&hub, &config).await?;

    let brokers = (hub.handle(&sinks.0), hub.handle(&sinks.1));
    let filter = config.filter.clone();
    let opened = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || open(config, brokers)).await
    };
    let opened = opened
        .map_err(|_| NodeError::Panicked("start"))?
        .map_err(|fatal| NodeError::fatal(&path, fatal))?;
    let (writer_seen, reader_seen) = (watch::Sender::default(), watch::Sender::default());
    let (registry_seen, snapshots_seen) = (watch::Sender::default(), watch::Sender::default());
    let kept_config = config.clone();
    let servers_seen = watch::Sender::default();
    let blind_seen = watch::Sender::default();
    let servers = Servers::new(&settings, &cluster, config.node.0);
    let sources = Arc::new(StatusSources {
        node: config.node,
        database: path.clone(),
        started_ms: clock::unix_ms(),
        embedded: embedded.is_some(),
        writer: writer_seen.subscribe(),
        reader: reader_seen.subscribe(),
        link: hub.link(),
        registry: registry_seen.subscribe(),
        snapshots: snapshots_seen.subscribe(),
        servers: servers_seen.subscribe(),
        blind_indexes: blind_seen.subscribe(),
        server: embedded.as_ref().map(Embedded::health),
        db: parking_lot::Mutex::new(Some(opened.status)),
        settings,
    });
    let mut tasks = http::start(ports, &sources);
    let (ended_sender, ended) = tokio::sync::mpsc::unbounded_channel();
    tasks.push(tokio::spawn(end_when_split(Arc::clone(&sources), ended_sender.clone())));
    tasks.push(tokio::spawn(publish_schema(hub.asker(), Arc::clone(&sources), filter)));
    tasks.push(tokio::spawn(watch_registry(hub.asker(), Arc::clone(&sources), registry_seen)));
    let (to, asker) = (to_writer.clone(), hub.asker());
    tasks.push(http::start_control(&socket, &sources, to, asker, target.clone())?);
    tasks.push(tokio::spawn(watch_indexes(Arc::clone(&sources), blind_seen)));
    tasks.push(tokio::spawn(watch_servers(servers, Arc::clone(&sources), servers_seen)));

    let waker = Waker::new(to_reader.clone());
    let poll = Duration::from_millis(if sources.settings.polling_interval > 0 {
        sources.settings.polling_interval
    } else {
        POLL_MS
    });
    let guard = Arc::new(
        FileGuard::new(&path).map_err(|error| NodeError::File { path: path.clone(), error })?,
    );
    let (watch, to_watch) =
        WalWatch::new(&path, opened.watch, Arc::clone(&guard), waker.clone(), known.clone(), poll);
    bell.make();
    bell.published(opened.inbound.site(), opened.published);
    let inboxes =
        Inboxes { writer: to_writer, reader: to_reader, watch: to_watch, bell: bell.clone() };
    let writer = writer(opened.inbound, opened.checkpoints, &inboxes, known, writer_seen);
    let reader = reader(opened.outbound, &inboxes, waker.clone(), reader_seen);
    let threads = vec![
        spawn("writer", &ended_sender, move || writer.run(writer_inbox))?,
        spawn("reader", &ended_sender, move || reader.run(rung_inbox))?,
        spawn("watch", &ended_sender, move || {
            watch.run().map_or_else(ThreadEnd::Replaced, |()| ThreadEnd::Stopped)
        })?,
    ];
    let snapshots = sources.settings.snapshot.enabled.then(|| {
        let ends = (inboxes.writer.clone(), Arc::clone(&guard));
        Snapshots::start(&sources, hub.asker(), target, ends, kept_config, snapshots_seen)
    });
    Ok(Node {
        sources,
        inboxes,
        threads,
        ended,
        tasks,
        hub: Some(hub),
        snapshots,
        embedded,
        lock: held.take(),
        socket,
        guard,
    })
}

/// This node's id: configured, stored in the database, or derived from the machine.
fn identity(settings: &Settings, path: &Path) -> Result<NodeId, NodeError> {
    let stored =
        stored_node(path).map_err(|error| NodeError::Database { path: path.to_owned(), error })?;
    let identity = decide(settings.node_id, stored, machine_id().as_deref())
        .map_err(NodeConfigError::Random)?;
    if identity.source == IdentitySource::Random {
        tracing::warn!(
            node = identity.node.0,
            "this machine has no id: using a random node id, which the database keeps"
        );
    }
    if let Some(before) = stored.filter(|before| before.0 != 0 && *before != identity.node) {
        tracing::warn!(
            before = before.0,
            node = identity.node.0,
            "the node id of this database has changed: it continues as a new incarnation of \
            the new id. If the former node does not run elsewhere, `harmonylite nodes forget` \
            removes it; an embedded nats-server of the former id keeps its files, unused, below \
            nats/ beside the database"
        );
    }
    Ok(identity.node)
}

fn sinks(writer: &Sender<ToWriter>, reader: &ReaderSender) -> (Sink, Sink) {
    let (writer, reader) = (parking_lot::Mutex::new(writer.clone()), reader.clone());
    // If a thread has ended, the node is stopping too, and the events are dropped.
    let to_writer: Sink = Arc::new(move |event| {
        drop(writer.lock().send(ToWriter::Input(WriterInput::Broker(event))))
    });
    let to_reader: Sink =
        Arc::new(move |event| reader.send(ToReader::Input(ReaderInput::Broker(event))));
    (to_writer, to_reader)
}

/// Where to connect to. It changes if an embedded server restarts on another port.
fn target(settings: &Settings, embedded: Option<&Embedded>) -> watch::Receiver<Target> {
    let Some(embedded) = embedded else {
        // Leaked: without a sender the receiver would report a changed target.
        let (sender, receiver) =
            watch::channel(Target { urls: settings.nats.urls.clone(), access: None });
        std::mem::forget(sender);
        return receiver;
    };
    let to_target =
        |access: Access| Target { urls: vec![access.url.clone()], access: Some(access) };
    let mut access = embedded.access();
    let (sender, receiver) = watch::channel(to_target(access.borrow_and_update().clone()));
    tokio::spawn(async move {
        while access.changed().await.is_ok() && !sender.is_closed() {
            sender.send_replace(to_target(access.borrow_and_update().clone()));
        }
    });
    receiver
}

/// Gives a reachable broker the time to report a lasting error. Does not wait for an unreachable
/// one.
async fn first_contact(hub: &Hub) -> Result<(), NodeError> {
    let mut link = hub.link();
    let settled = tokio::time::timeout(
        FIRST_CONTACT,
        link.wait_for(|state: &LinkState| state.connected || state.failed_attempts > 0),
    )
    .await;
    match settled {
        Ok(Ok(state)) if state.lasting => Err(NodeError::Broker(state.last_error.clone())),
        _ => Ok(()),
    }
}

/// Ends a node whose settings or streams are not those of the other nodes.
async fn end_when_split(sources: Arc<StatusSources>, ended: UnboundedSender<ThreadEnd>) {
    let (mut link, mut registry) = (sources.link.clone(), sources.registry.clone());
    let reason = tokio::select! {
        Ok(link) = link.wait_for(|link| link.split) => link.last_error.clone(),
        Ok(seen) = registry.wait_for(|seen: &RegistrySeen| seen.split.is_some()) => {
            seen.split.clone().unwrap_or_default()
        }
        else => return,
    };
    // The receiver is gone: the node was dropped.
    let _ = ended.send(ThreadEnd::Split(reason));
}

/// Refuses a node id that another process holds, before anything is written to the database. If the
/// broker does not answer now, the running node asks again.
async fn refuse_second_node(hub: &Hub, config: &NodeConfig) -> Result<(), NodeError> {
    let mut lease = Lease::new(Site(0), &config.instance, &config.place, config.lease_ttl_ms);
    while let Ok(Reply::Kv(entry)) =
        hub.asker().ask(Request::KvGet { key: Lease::key(config.node) }).await
    {
        match lease.decide(entry.as_ref(), clock::mono_ms()) {
            LeaseStep::Put { .. } => break,
            LeaseStep::RetryLater => {
                tokio::time::sleep(Duration::from_millis((config.lease_ttl_ms / 4).max(1))).await
            }
            LeaseStep::Refuse(holder) => {
                return Err(NodeError::Fatal(Fatal::SecondNode {
                    node: config.node,
                    place: holder.place,
                }));
            }
        }
    }
    Ok(())
}

struct OpenedDatabase {
    inbound: Inbound<NatsBroker>,
    checkpoints: Checkpoints,
    outbound: Outbound<NatsBroker>,
    published: i64,
    watch: rusqlite::Connection,
    status: rusqlite::Connection,
}

/// Opens the connections to the database and prepares it.
fn open(config: NodeConfig, brokers: (NatsBroker, NatsBroker)) -> Result<OpenedDatabase, Fatal> {
    let waits_from = clock::mono_ms();
    let mut broker = Some(brokers.0);
    let inbound = loop {
        let is_over = clock::mono_ms() - waits_from > LOCKED_MS_MAX;
        match open_writer(&config) {
            Ok(db) => {
                let Some(broker) = broker.take() else { return Err(DatabaseError::Busy.into()) };
                break Inbound::open(config.clone(), db, broker, Box::new(random), clock::now())?;
            }
            Err(DatabaseError::Busy) if !is_over => {
                tracing::debug!("waiting for the database's write lock");
                std::thread::park_timeout(LOCKED_AGAIN);
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut inbound = inbound;
    match OpenSnapshots::of(&config.path) {
        Ok(snapshots) => inbound.look_at_snapshots(move || snapshots.any_open()),
        Err(error) => {
            tracing::warn!(%error, "cannot look at the database's wal-index; remote rows \
            do not wait for open transactions of the application")
        }
    }
    let reader = || connection::open_reader(&config.path);
    let outbound = Outbound::new(config.clone(), reader()?, brokers.1)?;
    let status = reader()?;
    let published = Meta::read(&status)?.published;
    let checkpoints = Checkpoints::take_over(inbound.database_mut())?;
    Ok(OpenedDatabase { inbound, checkpoints, outbound, published, watch: reader()?, status })
}

/// Opens the writing connection while the write lock is free.
fn open_writer(config: &NodeConfig) -> Result<rusqlite::Connection, DatabaseError> {
    let db = connection::open_writer(&config.path)?;
    db.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
    Ok(db)
}

fn random() -> u64 {
    // A site must never be guessed, so the node cannot run without random numbers.
    getrandom::u64().unwrap_or_else(|error| panic!("no random numbers: {error}"))
}

fn writer(
    inbound: Inbound<NatsBroker>,
    checkpoints: Checkpoints,
    to: &Inboxes,
    known: RecentWakes,
    seen: watch::Sender<WriterSnapshot>,
) -> Writer {
    // From now on the thread waits for a held lock between steps, not inside SQLite.
    if let Err(error) = inbound.database().busy_timeout(Duration::ZERO) {
        tracing::debug!(%error, "cannot set the busy timeout");
    }
    Writer {
        inbound,
        reader: to.reader.clone(),
        known,
        seen,
        applied: RecentDurations::default(),
        writes: RecentRate::default(),
        delivered_ns: None,
        abandoned: false,
        busy: Busy::default(),
        checkpoints,
        shown_ms: 0,
    }
}

fn reader(
    outbound: Outbound<NatsBroker>,
    to: &Inboxes,
    waker: Waker,
    seen: watch::Sender<ReaderSnapshot>,
) -> Reader {
    Reader {
        outbound,
        writer: to.writer.clone(),
        bell: to.bell.clone(),
        waker,
        seen,
        show: ReaderSnapshot::default(),
        commit_to_wake: RecentDurations::default(),
        wake_to_published: RecentDurations::default(),
        woken: None,
        abandoned: false,
        told: (Site(0), 0),
        shown_ms: 0,
    }
}

fn spawn(
    name: &'static str,
    ended: &UnboundedSender<ThreadEnd>,
    work: impl FnOnce() -> ThreadEnd + Send + 'static,
) -> Result<JoinHandle<()>, NodeError> {
    let ended = ended.clone();
    let thread = std::thread::Builder::new().name(format!("harmonylite-{name}")).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or(ThreadEnd::Panicked(name));
        // The receiver is gone: the node was dropped.
        let _ = ended.send(result);
    });
    thread.map_err(|error| NodeError::Fatal(Fatal::Spill(error)))
}

/// The path of the control socket: next to the database, or in the temporary directory if that path
/// is too long for a socket.
fn socket_path(database: &Path) -> PathBuf {
    let mut beside = database.as_os_str().to_owned();
    beside.push("-harmonylite.sock");
    if beside.len() <= SOCKET_PATH_BYTES_MAX {
        return beside.into();
    }
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(database.as_os_str().as_encoded_bytes());
    let name = data_encoding::HEXLOWER.encode(&digest[..16]);
    std::env::temp_dir().join(format!("harmonylite-{name}.sock"))
}
