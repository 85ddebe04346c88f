//! Checks what earlier replication left in the database: our tables, and those of HarmonyLite (Go).

use super::super::exit::Failure;
use super::report::{Level, Report};
use crate::model::ids::NodeId;
use crate::settings::Settings;
use crate::settings::identity::{IdentitySource, decide, machine_id};
use crate::store::install;
use crate::store::meta::{self, Meta};
use anyhow::Result;
use rusqlite::Connection;

/// Adds the findings. Returns the node id that the database has stored.
pub(super) fn check(
    db: &Connection,
    settings: &Settings,
    report: &mut Report,
) -> Result<Option<NodeId>> {
    let foreign: i64 = db.query_row(
        "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND substr(name, 1, 15) = \
        '__harmonylite__'
         AND (name LIKE '%\\_change\\_log' ESCAPE '\\' OR name LIKE '%\\_change\\_log\\_global' \
         ESCAPE '\\') AND name <> '__harmonylite__change_log'",
        [],
        |r| r.get(0),
    )?;
    if foreign > 0 {
        let text = format!(
            "HarmonyLite (Go) left {foreign} change logs with their triggers; `run` removes them \
            when it starts"
        );
        report.add(
            Level::Warning,
            "upgrade",
            text,
            "first let it publish all pending changes, then stop it on every node: the two are \
            incompatible",
        );
    }
    let mut stored = None;
    if install::is_installed(db)? {
        let format = meta::get(db, meta::FORMAT)?.unwrap_or(install::FORMAT);
        if let Err(error) = install::check_format(&settings.db_path, format) {
            report.problem("database", &Failure::of(&error.into()));
        }
        stored = Some(Meta::read(db)?.node).filter(|n| n.0 != 0);
    }
    identity(settings, stored, report);
    Ok(stored)
}

fn identity(settings: &Settings, stored: Option<NodeId>, report: &mut Report) {
    let machine = machine_id();
    let Ok(identity) = decide(settings.node_id, stored, machine.as_deref()) else { return };
    let node = identity.node;
    match identity.source {
        IdentitySource::Configured => {
            if let Some(stored) = stored.filter(|s| *s != node) {
                let text = format!(
                    "the database belongs to node {stored}; with this configuration it becomes \
                    node {node}"
                );
                report.add(
                    Level::Warning,
                    "node id",
                    text,
                    "each node keeps its own id; change node_id back unless this is intended",
                );
            }
        }
        IdentitySource::Stored => {
            report.add(Level::Note, "node id", format!("{node}, stored in the database"), "")
        }
        IdentitySource::Machine => {
            let text = format!("{node}, derived from this machine's id");
            report.add(
                Level::Note,
                "node id",
                text,
                "a second node on this machine, or on a clone of it, needs its own: -node-id, or \
                node_id",
            );
        }
        IdentitySource::Random => {
            let text =
                "this machine has no id, so the node gets a random id, which its database keeps";
            report.add(Level::Warning, "node id", text, "set node_id to choose it yourself");
        }
    }
}
