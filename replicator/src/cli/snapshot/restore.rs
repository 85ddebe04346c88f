//! `harmonylite snapshot restore`.
//!
//! The restored file is a new incarnation of whichever node starts on it: it continues from the
//! positions of the snapshot, and its later writes leave. A file that is in the way is kept under a
//! dated name.

use super::{failed, report, with_store};
use crate::cli::args::{Global, RestoreOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::clock;
use crate::db::lockfile::Lock;
use crate::settings::Settings;
use crate::snapshots::begin_anew;
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
    let lock = (!options.dry_run).then(|| Lock::acquire(&to)).transpose()?;
    let done = restore(global, settings, options, to, exists);
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
    });
    report(options.json, &value, &text(&plan, options.dry_run));
    Ok(())
}

fn restore(
    global: &Global,
    settings: &Settings,
    options: &RestoreOptions,
    to: PathBuf,
    exists: bool,
) -> Result<Plan> {
    let now_ms = clock::unix_ms();
    let aside = options.force.then(|| dated(&to, now_ms));
    let what = format!("restoring {}", to.display());
    let from = super::chosen(settings, options.from.as_deref())?;
    with_store(global, settings, &from, &what, async |store, progress| {
        let found = find(store, options.snapshot.as_deref()).await.map_err(failed)?;
        let place = store.place();
        if options.dry_run {
            let aside = exists.then(|| dated(&to, now_ms));
            return Ok(Plan { place, found, to, aside });
        }
        let fetched = fetch(store, &found, &directory_of(&to), progress).await.map_err(failed)?;
        let aside = self::place(fetched, &to, aside.as_deref(), now_ms).await?;
        Ok(Plan { place, found, to, aside })
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
pub(super) fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

/// The name of an old file: when it was replaced.
fn dated(to: &Path, now_ms: i64) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".replaced-{}", show::moment(now_ms).replace([':', '-'], "")));
    name.into()
}

fn text(plan: &Plan, dry_run: bool) -> String {
    let manifest = &plan.found.manifest;
    let verb = if dry_run { "would restore" } else { "restored" };
    let mut text = format!(
        "{verb} snapshot {} from {} to {}: {}, {} old\n",
        plan.found.id,
        plan.place,
        plan.to.display(),
        show::bytes(manifest.bytes()),
        show::span(clock::unix_ms() - manifest.created_ms),
    );
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
