//! Reads the arguments and runs the command.

use super::args::{Cli, Command, Global};
use super::exit::{Exit, Failure};
use super::{
    bench, cleanup, completions, conflicts, demo, doctor, nodes, quarantine, reset_versions, run,
    schema, schema_cluster, schema_status, snapshot, status, version,
};
use crate::settings::{Loaded, Settings};
use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// Reads the arguments and runs the command that they name.
pub(crate) fn dispatch(arguments: Vec<OsString>) -> Result<ExitCode> {
    let Cli { global, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if global.version {
        return version::run(false);
    }
    match command {
        Some(Command::Version { licenses }) => version::run(licenses),
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Doctor { json, offline }) => doctor::run(&global, json, offline),
        Some(Command::Bench(options)) => bench::run(&options),
        Some(Command::Demo { keep, seconds }) => demo::run(keep, seconds),
        Some(Command::Status { json, watch, check }) => {
            let show = status::Show { json, watch, check };
            status::run(&local_settings(&global)?.settings, show)
        }
        Some(Command::Nodes { json, action }) => {
            nodes::run(&local_settings(&global)?.settings, json, action)
        }
        Some(Command::Conflicts { action }) => {
            conflicts::run(&local_settings(&global)?.settings, action)
        }
        Some(Command::Quarantine { action }) => {
            quarantine::run(&local_settings(&global)?.settings, action)
        }
        Some(Command::ResetVersions) => reset_versions::run(&local_settings(&global)?.settings),
        Some(Command::Schema { cluster, action }) => {
            schema::run(&local_settings(&global)?.settings, cluster, action)
        }
        Some(Command::Snapshot { action }) => snapshot::run(&global, action),
        Some(Command::Cleanup { force }) => cleanup::run(&local_settings(&global)?.settings, force),
        Some(Command::Run) | None => flags(&global),
    }
}

/// Prints help as it is. An error is reported in two lines like every other one.
fn usage(error: &clap::Error) -> Result<ExitCode> {
    if !error.use_stderr() {
        // A reader that ends early (`| head`) is no error.
        let _ = error.print();
        return Ok(ExitCode::SUCCESS);
    }
    let text = error.to_string();
    let (what, _) = text
        .split_once("\n\nUsage:")
        .or_else(|| text.split_once("\n\nFor more"))
        .unwrap_or((&text, ""));
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let what = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        "a subcommand is missing"
    } else {
        what
    };
    Err(Failure::new(
        Exit::Usage,
        what,
        "`harmonylite help` lists commands and flags, `harmonylite help COMMAND` explains one",
    )
    .into())
}

/// Runs the actions that HarmonyLite (Go) selects by flags; `run` without such a flag.
fn flags(global: &Global) -> Result<ExitCode> {
    let loaded = settings(global)?;
    if global.cleanup {
        return cleanup::run(&loaded.settings, false);
    }
    if global.schema_status {
        return schema_status::run(&loaded.settings);
    }
    if global.schema_status_cluster {
        return schema_cluster::run(&loaded.settings);
    }
    if global.save_snapshot {
        return snapshot::save(global, &loaded.settings);
    }
    not_yet(global)?;
    run::run(global, loaded, global.cluster()?)
}

/// Refuses what HarmonyLite (Go) has and this version lacks.
fn not_yet(global: &Global) -> Result<(), Failure> {
    match &global.pprof {
        Some(_) => Err(Failure::new(
            Exit::NotYet,
            "this version of harmonylite does not support -pprof yet",
            "`harmonylite status` shows counters and times",
        )),
        None => Ok(()),
    }
}

/// Reads the settings from the file, if one is named, and applies the command line's overrides.
pub(crate) fn settings(global: &Global) -> Result<Loaded> {
    Ok(overridden(global, global.config.as_deref().map(Settings::load).transpose()?))
}

/// Does the same for commands that log in nowhere.
fn local_settings(global: &Global) -> Result<Loaded> {
    let loaded = global.config.as_deref().map(Settings::load_without_secrets).transpose()?;
    Ok(overridden(global, loaded))
}

fn overridden(global: &Global, loaded: Option<Loaded>) -> Loaded {
    let mut loaded = loaded.unwrap_or_else(Settings::defaults);
    if let Some(db) = &global.db {
        loaded.settings.db_path.clone_from(db);
    }
    if let Some(node) = global.node_id {
        loaded.settings.node_id = node;
    }
    loaded.settings.db_path = behind_links(&loaded.settings.db_path);
    loaded
}

/// Returns the database's own path, so that all files of a node stand beside it. A link to nothing
/// leads to where a snapshot would be restored. Another path stays as it was written.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = path.read_link() else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("second", at("first")).unwrap();
        symlink(at("app.db"), at("second")).unwrap();
        symlink("circle", at("circle")).unwrap();
        assert_eq!(behind_links(&at("first")), at("app.db"), "also to nothing");
        assert_eq!(behind_links(&at("app.db")), at("app.db"));
        assert_eq!(behind_links(Path::new("relative.db")), Path::new("relative.db"));
        assert_eq!(behind_links(&at("circle")), at("circle"));
    }
}
