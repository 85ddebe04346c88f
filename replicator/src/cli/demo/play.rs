//! The script of the demo: who writes, what breaks, and what must hold at the end.

use super::compare::compare;
use super::ending::{report, what_to_type};
use super::interrupt::{Interrupt, Interrupted};
use super::nodes::Node;
use super::relay::Relay;
use super::schema::{self, PRODUCTS};
use super::stage::{Stage, is_drained};
use super::traffic::Traffic;
use crate::clock;
use crate::embedded::Embedded;
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, Settings};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Time limit for starting, joining and draining.
const PATIENCE_MS: u64 = 30_000;
/// If set, the demo damages one row at the end, to test that the comparison finds it.
const DAMAGE: &str = "HARMONYLITE_DEMO_DAMAGE";

/// Plays the demo. Returns false if the nodes differ at the end.
pub(super) fn play(keep: bool, seconds: u64) -> Result<bool> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interrupt = Interrupt::listen(&runtime)?;
    let dir = tempfile::Builder::new()
        .prefix("harmonylite-demo-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let embedded = runtime.block_on(broker(dir.path()))?;
    let played = perform(dir.path(), &runtime, &embedded, &interrupt, keep, seconds);
    runtime.block_on(embedded.stop());
    // Tasks that wait for an answer of a stopped node are abandoned.
    runtime.shutdown_timeout(Duration::from_millis(100));
    let removed = dir.close().context("the temporary files cannot be removed");
    let equal = played?;
    removed.map(|()| equal)
}

async fn broker(dir: &Path) -> Result<Embedded> {
    let settings = Settings { db_path: dir.join("broker"), ..Settings::default() };
    Ok(Embedded::start(&settings, NodeId(0), &ClusterSettings::default()).await?)
}

fn perform(
    dir: &Path,
    runtime: &Runtime,
    embedded: &Embedded,
    interrupt: &Interrupt,
    keep: bool,
    seconds: u64,
) -> Result<bool> {
    let access = embedded.access().borrow().clone();
    let address = access.url.rsplit("//").next().unwrap_or_default().to_owned();
    let node =
        |id| Node::create(dir, id, runtime.block_on(Relay::start(address.clone()))?, &access);
    let nodes = (1..=3).map(node).collect::<Result<Vec<_>>>()?;
    let length_ms = seconds * 1_000;
    let mut stage = Stage::new(nodes, interrupt.clone(), length_ms)?;
    stage.screen.say(&format!(
        "Three nodes around one nats-server {}, in {}",
        embedded.version(),
        dir.display()
    ));
    join(&mut stage)?;
    let writing_ms =
        length_ms.saturating_sub(clock::mono_ms() - stage.began_ms).max(4_000) * 9 / 10;
    let fourth = || {
        let relay = runtime.block_on(Relay::start(address.clone()))?;
        Node::create_empty(dir, 4, relay, &access)
    };
    scenes(&mut stage, writing_ms, fourth)?;
    settle(&mut stage)?;
    if std::env::var_os(DAMAGE).is_some() {
        damage(&stage)?;
    }
    let databases = stage.nodes.iter().map(|n| schema::open(&n.db)).collect::<Result<Vec<_>>>()?;
    let found = compare(&databases)?;
    let report = report(&stage, &found, &databases)?;
    stage.screen.end();
    stage.screen.say(&report);
    if keep {
        stage.screen.say(&what_to_type(&stage.nodes)?);
        while interrupt.pause(Duration::from_secs(1)).is_ok() {
            stage.nodes.iter_mut().try_for_each(Node::check)?;
        }
    }
    stage.nodes.iter_mut().for_each(Node::stop);
    Ok(found.differences.is_empty())
}

/// Starts three nodes, one with a full shop, and waits until all three have it.
fn join(stage: &mut Stage) -> Result<()> {
    stage.nodes.iter_mut().try_for_each(Node::start)?;
    let wanted = PRODUCTS.unsigned_abs() * 4;
    stage.until("three nodes start; only node 1 has the shop", PATIENCE_MS, |s| {
        s.statuses().is_some_and(|all| is_drained(&all))
            && s.observers.iter().all(|o| o.look().rows >= wanted)
    })?;
    (0..3).for_each(|i| stage.state(i, "replicating"));
    stage.done("three nodes joined, and all have the shop");
    Ok(())
}

fn scenes(stage: &mut Stage, writing_ms: u64, fourth: impl FnOnce() -> Result<Node>) -> Result<()> {
    stage.traffic = Some(Traffic::start(stage.nodes.iter().map(|n| n.db.clone()).collect())?);
    stage.play("all three write", writing_ms * 25 / 100)?;
    stage.done("all three wrote at once");

    let contend = |stage: &Stage, same| {
        if let Some(traffic) = &stage.traffic {
            traffic.same_rows(same);
        }
    };
    wire(stage, 2, Relay::cut, "CUT OFF");
    contend(stage, true);
    stage.play("node 3 is cut off, and all three write the same rows", writing_ms * 25 / 100)?;
    contend(stage, false);
    stage.done("node 3 was cut off while all wrote the same rows");
    wire(stage, 2, Relay::mend, "replicating");
    stage.play("node 3 is back", writing_ms * 10 / 100)?;
    stage.done("node 3 came back, and conflicts were resolved");
    add_fourth(stage, fourth()?)?;
    stage.play("node 4 joined while the others write", writing_ms * 10 / 100)?;

    if let Some(node) = stage.nodes.get_mut(1) {
        node.kill();
    }
    stage.state(1, "KILLED");
    stage.play(
        "node 2 was killed (SIGKILL); its application keeps writing",
        writing_ms * 12 / 100,
    )?;
    if let Some(node) = stage.nodes.get_mut(1) {
        node.start()?;
    }
    stage.state(1, "restarted");
    stage.play("node 2 was restarted", writing_ms * 18 / 100)?;
    stage.state(1, "replicating");
    stage.done("node 2 was killed and restarted");
    Ok(())
}

/// Starts a node that has no database file: it begins with the newest snapshot.
fn add_fourth(stage: &mut Stage, mut node: Node) -> Result<()> {
    let is_saved = |s: &Stage| {
        s.statuses().is_some_and(|all| all.iter().any(|status| status.snapshots.saved_ms > 0))
    };
    stage.until("one of the nodes saves a snapshot", PATIENCE_MS, is_saved)?;
    node.start()?;
    let db = node.db.clone();
    stage.until("node 4 starts without a file", PATIENCE_MS, |_| {
        // The restored file appears whole.
        db.exists()
    })?;
    stage.add(node)?;
    stage.until("node 4 has a snapshot and reads the stream", PATIENCE_MS, |s| {
        let last = s.observers.last().map(|observer| observer.look());
        last.and_then(|look| look.status).is_some_and(|status| status.broker.linked)
    })?;
    let last = stage.nodes.len() - 1;
    stage.state(last, "replicating");
    stage.done("node 4 started without a file, from a snapshot");
    Ok(())
}

fn wire(stage: &mut Stage, i: usize, what: impl Fn(&Relay), state: &'static str) {
    if let Some(node) = stage.nodes.get(i) {
        what(&node.relay);
    }
    stage.state(i, state);
}

/// Stops the writers and waits until all changes have arrived.
fn settle(stage: &mut Stage) -> Result<()> {
    if let Some(traffic) = &mut stage.traffic {
        traffic.stop()?;
    }
    // Two observations in a row must agree: after one, a message may still be unknown to its
    // receiver.
    let mut seen = (stage.looks() + 1, Vec::new());
    stage.until("the writers stopped; the remaining changes arrive", PATIENCE_MS, |s| {
        let (looks, statuses) = (s.looks(), s.statuses().unwrap_or_default());
        if looks <= seen.0 {
            return false;
        }
        let cursors: Vec<_> =
            statuses.iter().flat_map(|s| s.streams.iter().map(|t| t.cursor)).collect();
        let still = cursors == seen.1 && statuses.len() == s.nodes.len() && is_drained(&statuses);
        seen = (looks, cursors);
        still
    })?;
    stage.done("all changes have arrived");
    Ok(())
}

fn damage(stage: &Stage) -> Result<()> {
    let Some(node) = stage.nodes.get(1) else { return Ok(()) };
    let db = schema::open(&node.db)?;
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    db.execute("UPDATE products SET price = price + 1, name = 'damaged' WHERE id = 1", [])?;
    Ok(())
}

/// Whether the error is an interruption by a signal.
pub(super) fn is_interrupt(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>()
}
