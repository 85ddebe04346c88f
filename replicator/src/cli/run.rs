//! `harmonylite run`: replicates a database until a signal stops it.

use super::args::Global;
use super::{log, snapshot};
use crate::Node;
use crate::settings::{ClusterSettings, Loaded};
use anyhow::{Context, Result};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long after it has joined a node still does for the first time what it does at rest.
const AFTER_JOINING: Duration = Duration::from_secs(3);

/// Runs the node of this database.
pub(crate) fn run(options: &Global, loaded: Loaded, cluster: ClusterSettings) -> Result<ExitCode> {
    log::init(&loaded.settings.logging);
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    snapshot::begin(options, &loaded.settings)?;
    // Here, not in the node: a program that embeds a node may have the database open, and closing
    // the file a second time would drop its locks.
    let path = &loaded.settings.db_path;
    crate::db::preflight::check(path)?.check_encoding(path)?;
    // The node's own threads do the work; these only move bytes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the network runtime")?;
    runtime.block_on(replicate(loaded, cluster))?;
    Ok(ExitCode::SUCCESS)
}

async fn replicate(loaded: Loaded, cluster: ClusterSettings) -> Result<()> {
    let mut terminate =
        signal(SignalKind::terminate()).context("cannot install the SIGTERM handler")?;
    let mut interrupt =
        signal(SignalKind::interrupt()).context("cannot install the SIGINT handler")?;
    let mut hangup = signal(closed_terminal()).context("cannot install the SIGHUP handler")?;
    let database = loaded.settings.db_path.display().to_string();
    let started = Node::builder().settings(loaded.settings).cluster(cluster).start();
    let mut node = tokio::select! {
        node = started => node?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        _ = hangup.recv() => return Ok(()),
    };
    tracing::info!(database, "running");
    tokio::spawn(give_back_code(node.joined()));
    let ended = tokio::select! {
        ended = node.ended() => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    let stopped = node.stop().await;
    ended?;
    stopped?;
    tracing::info!(database, "stopped");
    Ok(())
}

/// When a node has joined, gives the pages of the program that only that needed back to the kernel.
async fn give_back_code(joined: impl Future<Output = bool>) {
    if joined.await {
        tokio::time::sleep(AFTER_JOINING).await;
        harmonylite_vfs_core::text_pages::release();
    }
}

/// SIGHUP; SIGTERM instead where `nohup` had SIGHUP ignored, because a handler would undo that.
pub(super) fn closed_terminal() -> SignalKind {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0);
    if ignored { SignalKind::terminate() } else { SignalKind::hangup() }
}
