//! `harmonylite snapshot restore`.
//!
//! The restored file is a new incarnation of whichever node starts on it: it continues from the
//! positions of the snapshot, and its later writes leave. A file that is in the way is kept under a
//! dated name.

use super::{at, failed, report, with_history, with_store};
use crate::cli::args::{Global, RestoreOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::clock;
use crate::db::lockfile::{Lock, Sidecar, sidecar};
use crate::settings::Settings;
use crate::snapshots::begin_anew;
use crate::snapshots::replay::Replayed;
use anyhow::Result;
use harmonylite_snapshot::catalog::{Found, find};
use harmonylite_snapshot::restore::{Fetched, fetch};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What is done, or would be.
struct Plan {
    place: String,
    found: Found,
    to: PathBuf,
    aside: Option<PathBuf>,
    moment: Option<Moment>,
}

/// The moment whose state is wanted.
struct Moment {
    at_ms: i64,
    messages: u64,
    replayed: Option<Replayed>,
}

/// Where the file goes.
struct Wanted {
    to: PathBuf,
    aside: Option<PathBuf>,
    now_ms: i64,
}

/// Restores a snapshot to a file.
pub(super) fn run(global: &Global, settings: &Settings, options: &RestoreOptions) -> Result<()> {
    let to = options.to.clone().unwrap_or_else(|| settings.db_path.clone());
    let exists = to.symlink_metadata().is_ok();
    if exists && options.if_db_not_exists {
        let value = json!({ "restored": false, "to": to });
        report(options.json, &value, &format!("{} exists: nothing to restore\n", to.display()));
        return Ok(());
    }
    if exists && !options.force && !options.dry_run {
        let error = harmonylite_snapshot::SnapshotError::Exists { path: to };
        return Err(failed(error).into());
    }
    let at_ms = options.at.as_deref().map(at::parse).transpose()?;
    // Else the store, or the streams, take the lock for the embedded server.
    let locks = !options.dry_run && !starts_server(settings, options, &to)?;
    let lock = locks.then(|| Lock::acquire(&to)).transpose()?;
    let now_ms = clock::unix_ms();
    let moves_aside = if options.dry_run { exists } else { options.force };
    let aside = moves_aside.then(|| dated(&to, now_ms));
    let wanted = Wanted { to, aside, now_ms };
    let done = match at_ms {
        None => restore(global, settings, options, wanted),
        Some(at_ms) => restore_at(global, settings, options, wanted, at_ms),
    };
    if let Some(lock) = lock {
        lock.remove();
    }
    let plan = done?;
    let value = json!({
        "restored": !options.dry_run,
        "dry_run": options.dry_run,
        "snapshot": plan.found.id.as_str(),
        "place": plan.place,
        "created_ms": plan.found.manifest.created_ms,
        "bytes": plan.found.manifest.bytes(),
        "streams": plan.found.manifest.facts.streams,
        "to": plan.to,
        "kept_as": plan.aside,
        "at_ms": plan.moment.as_ref().map(|moment| moment.at_ms),
        "messages": plan.moment.as_ref().map(|moment| moment.messages),
        "batches": plan.moment.as_ref().and_then(|moment| Some(moment.replayed?.batches)),
        "rows": plan.moment.as_ref().and_then(|moment| Some(moment.replayed?.rows)),
    });
    report(options.json, &value, &text(&plan, options.dry_run));
    Ok(())
}

/// Whether the embedded server of this node is started for the command. It takes the lock.
fn starts_server(settings: &Settings, options: &RestoreOptions, to: &Path) -> Result<bool> {
    let from = super::chosen(settings, options.from.as_deref())?;
    let needs_broker = from.store == "nats" || options.at.is_some();
    let is_embedded = needs_broker && settings.nats.urls.is_empty();
    Ok(is_embedded && to == settings.db_path && matches!(sidecar(to)?, Sidecar::Stopped))
}

fn restore(
    global: &Global,
    settings: &Settings,
    options: &RestoreOptions,
    wanted: Wanted,
) -> Result<Plan> {
    let Wanted { to, aside, now_ms } = wanted;
    let what = format!("restoring {}", to.display());
    let from = super::chosen(settings, options.from.as_deref())?;
    with_store(global, settings, &from, &what, async |store, progress| {
        let found = find(store, options.snapshot.as_deref()).await.map_err(failed)?;
        let place = store.place();
        if options.dry_run {
            return Ok(Plan { place, found, to, aside, moment: None });
        }
        let fetched = fetch(store, &found, &directory_of(&to), progress).await.map_err(failed)?;
        let aside = self::place(fetched, &to, aside.as_deref(), now_ms).await?;
        Ok(Plan { place, found, to, aside, moment: None })
    })
}

fn restore_at(
    global: &Global,
    settings: &Settings,
    options: &RestoreOptions,
    wanted: Wanted,
    at_ms: i64,
) -> Result<Plan> {
    let Wanted { to, aside, now_ms } = wanted;
    let what = format!("restoring {} as of {}", to.display(), at::exact(at_ms));
    let from = super::chosen(settings, options.from.as_deref())?;
    with_history(global, settings, &from, &what, async |store, history, progress| {
        let wanted = options.snapshot.as_deref();
        let chosen = at::choose(store, history, settings, wanted, at_ms).await?;
        let place = store.place();
        let mut moment = Moment { at_ms, messages: chosen.messages(), replayed: None };
        let found = chosen.found.clone();
        if options.dry_run {
            return Ok(Plan { place, found, to, aside, moment: Some(moment) });
        }
        let fetched = fetch(store, &found, &directory_of(&to), &progress.image).await;
        let fetched = fetched.map_err(failed)?;
        let replayed = at::replay(&fetched, settings, history, &chosen, &progress.replay);
        moment.replayed = Some(replayed.await?);
        let aside = self::place(fetched, &to, aside.as_deref(), now_ms).await?;
        Ok(Plan { place, found, to, aside, moment: Some(moment) })
    })
}

/// Makes a fetched file a new incarnation, and moves it to `to`. Returns where the old file is now.
pub(super) async fn place(
    fetched: Fetched,
    to: &Path,
    aside: Option<&Path>,
    now_ms: i64,
) -> Result<Option<PathBuf>> {
    let file = fetched.path().to_owned();
    tokio::task::spawn_blocking(move || begin_anew(&file, now_ms)).await?.map_err(|error| {
        let hint = "install the newest harmonylite, or name another snapshot: `harmonylite \
            snapshot restore --snapshot ID`";
        Failure::new(Exit::Database, error.to_string(), hint)
    })?;
    Ok(fetched.put_in_place(to, aside).map_err(failed)?)
}

/// Returns the directory of a file.
pub(crate) fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

/// The name of an old file: when it was replaced.
pub(super) fn dated(to: &Path, now_ms: i64) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".replaced-{}", show::moment(now_ms).replace([':', '-'], "")));
    name.into()
}

fn text(plan: &Plan, dry_run: bool) -> String {
    let manifest = &plan.found.manifest;
    let verb = if dry_run { "would restore" } else { "restored" };
    let (id, place, to) = (&plan.found.id, &plan.place, plan.to.display());
    let bytes = show::bytes(manifest.bytes());
    let age = |now_ms| show::span(now_ms - manifest.created_ms);
    let mut text = match &plan.moment {
        None => {
            let age = age(clock::unix_ms());
            format!("{verb} snapshot {id} from {place} to {to}: {bytes}, {age} old\n")
        }
        Some(Moment { at_ms, messages, replayed }) => {
            let (at, age) = (at::exact(*at_ms), age(*at_ms));
            let applied = replayed.map_or(String::new(), |r| {
                format!("; applied batches: {}, rows: {}", r.batches, r.rows)
            });
            format!(
                "{verb} the state of {at} to {to}: snapshot {id} from {place} ({bytes}, {age} \
                before it); messages of the streams after it: {messages}{applied}\n"
            )
        }
    };
    match (&plan.aside, dry_run) {
        (Some(aside), true) => text.push_str(&format!(
            "with --force the file that is there would be kept as {}\n",
            aside.display()
        )),
        (Some(aside), false) => {
            text.push_str(&format!("the old file is kept as {}\n", aside.display()))
        }
        (None, _) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_file_gets_a_dated_name_beside_it() {
        let name = dated(Path::new("/data/app.db"), 1_700_000_000_123);
        assert_eq!(name, Path::new("/data/app.db.replaced-20231114T221320Z"));
        assert_eq!(directory_of(Path::new("app.db")), Path::new("."));
    }
}
