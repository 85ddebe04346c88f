//! `harmonylite snapshot restore --follow`: a copy for reading that stays up to date.

use super::{at, at_history, chosen, failed, report, restore, with_store};
use crate::cli::args::{Global, RestoreOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::run::closed_terminal;
use crate::clock;
use crate::db::lockfile::Lock;
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::fit::check;
use crate::snapshots::follow::{NOBODY, follow, is_copy};
use crate::snapshots::replay::ReplayError;
use anyhow::{Context, Result};
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::find;
use harmonylite_snapshot::restore::fetch;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

/// Restores the newest snapshot if there is no copy yet, and follows the streams until a signal
/// comes.
pub(super) fn run(global: &Global, settings: &Settings, options: &RestoreOptions) -> Result<()> {
    let to = options.to.clone().unwrap_or_else(|| settings.db_path.clone());
    if to == settings.db_path {
        return Err(Failure::new(
            Exit::Usage,
            format!("--follow: {} is the database of the node", to.display()),
            "name another file: --to FILE",
        )
        .into());
    }
    let from = chosen(settings, options.from.as_deref())?;
    let lock = Lock::acquire(&to)?;
    let done = restore_and_follow(CopyOf { global, settings, options, from: &from, to: &to });
    lock.remove();
    done
}

/// A copy, and what the command line says of it.
#[derive(Clone, Copy)]
struct CopyOf<'a> {
    global: &'a Global,
    settings: &'a Settings,
    options: &'a RestoreOptions,
    from: &'a StoreSettings,
    to: &'a Path,
}

fn restore_and_follow(copy: CopyOf<'_>) -> Result<()> {
    let CopyOf { global, settings, options, from, to } = copy;
    let exists = to.symlink_metadata().is_ok();
    let goes_on = exists && !options.force && is_copy(to).unwrap_or(false);
    if exists && !options.force && !goes_on {
        return Err(failed(SnapshotError::Exists { path: to.to_owned() }).into());
    }
    if !goes_on {
        first(copy)?;
    }
    at_history(global, settings, from, async |_, history| {
        let (stop, listeners) = until_signal()?;
        let (history, runtime) = (Arc::clone(history), tokio::runtime::Handle::current());
        let (path, json) = (to.to_owned(), options.json);
        let of_copy = Settings { db_path: to.to_owned(), ..settings.clone() };
        let followed = spawn_blocking(move || {
            let config = of_copy.node_config(NOBODY)?;
            let current = || show_current(&path, json);
            follow(&path, config, &history, runtime, (&stop, current))
        });
        let followed = followed.await.context("the copy is not followed any more")?;
        listeners.iter().for_each(JoinHandle::abort);
        Ok(followed.map_err(|error| ended(&error, to))?)
    })
}

/// Restores the newest snapshot as a new copy.
fn first(CopyOf { global, settings, options, from, to }: CopyOf<'_>) -> Result<()> {
    let what = format!("restoring {}", to.display());
    with_store(global, settings, from, &what, async |store, progress| {
        let now_ms = clock::unix_ms();
        let found = find(store, options.snapshot.as_deref()).await.map_err(failed)?;
        let dir = restore::directory_of(to);
        let fetched = fetch(store, &found, &dir, progress).await.map_err(failed)?;
        let (path, shards) = (fetched.path().to_owned(), settings.replication_log.shards);
        let checked = spawn_blocking(move || check(&path, shards, None)).await?;
        checked.map_err(|error| {
            let hint = "name an older one: --snapshot ID (`harmonylite snapshot list`)";
            Failure::new(Exit::General, format!("snapshot {}: {error}", found.id), hint)
        })?;
        let aside: Option<PathBuf> = options.force.then(|| restore::dated(to, now_ms));
        restore::place(fetched, to, aside.as_deref(), now_ms).await?;
        Ok(())
    })
}

/// Listens to the signals that end the command. Returns the flag that they set.
fn until_signal() -> Result<(Arc<AtomicBool>, Vec<JoinHandle<()>>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut listeners = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), closed_terminal()] {
        let mut signals = signal(kind).context("cannot install a signal handler")?;
        let stop = Arc::clone(&stop);
        listeners.push(tokio::spawn(async move {
            if signals.recv().await.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
        }));
    }
    Ok((stop, listeners))
}

fn show_current(to: &Path, json: bool) {
    let now_ms = clock::unix_ms();
    let value = json!({ "to": to, "current_ms": now_ms });
    let (to, at) = (to.display(), at::exact(now_ms));
    let text = format!("{to} has everything up to {at}, and follows the cluster; Ctrl-C ends it\n");
    report(json, &value, &text);
}

fn ended(error: &ReplayError, to: &Path) -> Failure {
    let what = format!("{} is not followed any more: {error}", to.display());
    let newer = |when| {
        let to = to.display();
        format!(
            "the copy has the state before it. Replace it by a snapshot {when}: the same command \
            with --force (the old copy of {to} is kept under a dated name)"
        )
    };
    match error {
        ReplayError::Stopped(stopped) if stopped.is_schema => {
            Failure::new(Exit::Protect, what, newer("that was taken after the migration"))
        }
        ReplayError::Stopped(_) | ReplayError::Missing(_) => {
            Failure::new(Exit::Protect, what, newer("that was taken later"))
        }
        ReplayError::Broker(_) => Failure::new(Exit::Broker, what, "see the state of the broker"),
        _ => Failure::new(Exit::Database, what, "check the file and its file system"),
    }
}
