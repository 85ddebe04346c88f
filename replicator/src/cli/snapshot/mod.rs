//! `harmonylite snapshot`: saves, lists, verifies, restores, reads and removes snapshots.
//!
//! Works without a running node, and beside one: a database is only read, through SQLite.

mod at;
mod first;
mod follow;
mod list;
mod prune;
mod query;
mod restore;
mod save;
mod verify;

pub(crate) use first::begin;
pub(crate) use restore::directory_of;

use super::args::{Global, SnapshotAction};
use super::control::ask;
use super::exit::{Exit, Failure};
use super::{dispatch, log, progress, show};
use crate::db::lockfile::{Sidecar, sidecar};
use crate::embedded::Access;
use crate::model::ids::NodeId;
use crate::nats::{History, Target};
use crate::settings::identity::{decide, machine_id};
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::replay::ReplayProgress;
use crate::snapshots::{BrokerAccess, Place, PlaceError};
use crate::store::install::stored_node;
use anyhow::{Context, Result};
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::progress::Progress;
use harmonylite_snapshot::store::Retrying;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Runs `harmonylite snapshot`.
pub(crate) fn run(global: &Global, action: SnapshotAction) -> Result<ExitCode> {
    let settings = dispatch::settings(global)?.settings;
    log::init_quiet(&settings.logging);
    match action {
        SnapshotAction::Save { json, resend } => save::run(global, &settings, resend, json)?,
        SnapshotAction::List { from, json } => {
            list::run(global, &settings, &chosen(&settings, from.as_deref())?, json)?
        }
        SnapshotAction::Verify { snapshot, from, json } => {
            let store = chosen(&settings, from.as_deref())?;
            verify::run(global, &settings, &store, snapshot.as_deref(), json)?
        }
        SnapshotAction::Restore(options) if options.follow => {
            follow::run(global, &settings, &options)?
        }
        SnapshotAction::Restore(options) => restore::run(global, &settings, &options)?,
        SnapshotAction::Query(options) => {
            let store = chosen(&settings, options.from.as_deref())?;
            query::run(global, &settings, &store, &options)?
        }
        SnapshotAction::Prune { keep, from, dry_run, json } => {
            let store = chosen(&settings, from.as_deref())?;
            prune::run(global, &settings, &store, keep, dry_run, json)?
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `-save-snapshot`.
pub(crate) fn save(global: &Global, settings: &Settings) -> Result<ExitCode> {
    log::init(&settings.logging);
    save::run(global, settings, false, false)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the store that `--from` names.
fn chosen(settings: &Settings, from: Option<&str>) -> Result<StoreSettings, Failure> {
    let mut stores = settings.snapshot.stores();
    let index = match from {
        None => Some(0),
        Some(from) => stores.iter().position(|store| store.name == from).or_else(|| {
            let number: usize = from.parse().ok()?;
            number.checked_sub(1).filter(|index| *index < stores.len())
        }),
    };
    index.map(|index| stores.swap_remove(index)).ok_or_else(|| {
        let names: Vec<_> = stores.iter().map(|store| store.name.as_str()).collect();
        Failure::new(
            Exit::Usage,
            format!("--from: there is no store {:?}", from.unwrap_or_default()),
            format!("name one of {}, or its number", names.join(", ")),
        )
    })
}

/// Opens a store, and works on it. A line shows how far `work` is if it takes long.
fn with_store<T>(
    global: &Global,
    settings: &Settings,
    store: &StoreSettings,
    what: &str,
    work: impl AsyncFnOnce(&Retrying, &Arc<Progress>) -> Result<T>,
) -> Result<T> {
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    let far = move || far(&seen);
    progress::measured(what, far, || {
        at_store(global, settings, store, async |store| work(store, &progress).await)
    })
}

fn far(seen: &Progress) -> progress::Far {
    let (done, total) = (seen.done_bytes(), seen.total_bytes());
    progress::Far { done, total, unit: progress::Unit::Bytes }
}

/// How far the state of a moment is: first the image, then what follows it.
#[derive(Clone, Default)]
struct AtProgress {
    image: Arc<Progress>,
    replay: Arc<ReplayProgress>,
}

/// Does the same with the streams of the cluster.
fn with_history<T>(
    global: &Global,
    settings: &Settings,
    store: &StoreSettings,
    what: &str,
    work: impl AsyncFnOnce(&Retrying, &Arc<History>, &AtProgress) -> Result<T>,
) -> Result<T> {
    let progress = AtProgress::default();
    let seen = progress.clone();
    let far = move || match seen.replay.total.load(Ordering::Relaxed) {
        0 => far(&seen.image),
        total => {
            let done = seen.replay.done.load(Ordering::Relaxed);
            progress::Far { done, total, unit: progress::Unit::Messages }
        }
    };
    progress::measured(what, far, || {
        at_history(global, settings, store, async |store, history| {
            work(store, history, &progress).await
        })
    })
}

/// Opens a store and the streams of the cluster, and works on them.
fn at_history<T>(
    global: &Global,
    settings: &Settings,
    store: &StoreSettings,
    work: impl AsyncFnOnce(&Retrying, &Arc<History>) -> Result<T>,
) -> Result<T> {
    let cluster = global.cluster()?;
    let beside = running_broker(settings)?;
    runtime()?.block_on(async {
        let access = match beside {
            Some(target) => BrokerAccess::to(target),
            None => {
                let opened = BrokerAccess::open(settings, node(settings)?, &cluster).await;
                opened.map_err(unusable)?
            }
        };
        let worked = async {
            let place = Place::at(settings, store, &access.target).await.map_err(unusable)?;
            let history = History::open(settings, &access.target).await;
            let history = Arc::new(history.map_err(PlaceError::Broker).map_err(unusable)?);
            work(&place.store, &history).await
        };
        let done = worked.await;
        access.close().await;
        done
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(harmonylite_snapshot::stand_back)
        .build()
        .context("cannot start the network runtime")
}

/// This node's id. A database that does not exist yet has no stored one.
fn node(settings: &Settings) -> Result<NodeId> {
    let stored = stored_node(&settings.db_path).ok().flatten();
    Ok(decide(settings.node_id, stored, machine_id().as_deref())?.node)
}

/// Opens a store, and works on it.
fn at_store<T>(
    global: &Global,
    settings: &Settings,
    store: &StoreSettings,
    work: impl AsyncFnOnce(&Retrying) -> Result<T>,
) -> Result<T> {
    let cluster = global.cluster()?;
    let beside = beside(settings, store)?;
    runtime()?.block_on(async {
        let place = match &beside {
            Some(target) => Place::at(settings, store, target).await,
            None => Place::open(settings, store, node(settings)?, &cluster).await,
        };
        let place = place.map_err(unusable)?;
        let done = work(&place.store).await;
        place.close().await;
        done
    })
}

/// Returns the access to the embedded server of the node that runs on this database, if the
/// snapshots are there.
fn beside(settings: &Settings, store: &StoreSettings) -> Result<Option<Target>> {
    if store.store == "nats" { running_broker(settings) } else { Ok(None) }
}

/// Returns the access to the embedded server of the node that runs on this database.
fn running_broker(settings: &Settings) -> Result<Option<Target>> {
    if !settings.nats.urls.is_empty() {
        return Ok(None);
    }
    let Sidecar::Running(owner) = sidecar(&settings.db_path)? else { return Ok(None) };
    let answer = ask(owner.as_ref(), "GET", "/broker")?;
    let access: Access = serde_json::from_str(&answer.body).map_err(|_| {
        let what = format!("the running node does not give its embedded server ({})", answer.body);
        Failure::new(Exit::Running, what, "restart it with this version of harmonylite")
    })?;
    Ok(Some(Target { urls: vec![access.url.clone()], access: Some(access) }))
}

fn unusable(error: PlaceError) -> Failure {
    let (exit, hint) = match &error {
        PlaceError::Setting { .. } => (Exit::Usage, "correct it, or set another store"),
        PlaceError::Broker(_) => {
            (Exit::Broker, "start NATS, or correct nats.urls and the credentials")
        }
        PlaceError::Embedded(_) => (
            Exit::Running,
            "stop the node for this command, or set nats.urls, or snapshot.store = \"dir\"",
        ),
        PlaceError::Server(_) => (Exit::Broker, "change what the message names, then try again"),
    };
    Failure::new(exit, error.to_string(), hint)
}

/// Reports an error of a snapshot.
fn failed(error: SnapshotError) -> Failure {
    let exit = match error {
        SnapshotError::Database { .. } => Exit::Database,
        SnapshotError::Unknown { .. } | SnapshotError::Exists { .. } => Exit::Usage,
        SnapshotError::Unsound { .. } => Exit::Protect,
        _ => Exit::General,
    };
    Failure::new(exit, error.to_string(), error.hint())
}

/// Prints one line of JSON, or the text for people.
fn report(json: bool, value: &serde_json::Value, text: &str) {
    if json { show::print(&format!("{value}\n")) } else { show::print(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_store_is_chosen_by_name_or_number() {
        let text = "[snapshot]\nstore = 'dir'\ndir.path = '/a'\n[[snapshot.also]]\n\
            name = 'far'\nstore = 'dir'\ndir.path = '/b'\n";
        let settings = Settings::from_toml(text, Path::new("x")).unwrap().settings;
        let path = |from| chosen(&settings, from).map(|store| store.dir.path);
        for (from, found) in
            [(None, "/a"), (Some("dir"), "/a"), (Some("far"), "/b"), (Some("2"), "/b")]
        {
            assert_eq!(path(from).unwrap(), Path::new(found));
        }
        for none in ["0", "3", "s3"] {
            let failure = path(Some(none)).unwrap_err();
            assert!(
                failure.what.contains(none) && failure.hint.contains("dir, far"),
                "{failure:?}"
            );
        }
    }
}
