//! Checks the broker as a start would meet it: connection, permissions, JetStream, streams, the
//! lease of the node id, the clock. Beside a running node it shows what that node reports.

use super::super::exit::{Exit, Failure};
use super::super::status;
use super::report::{Level, Report};
use crate::db::lockfile::{Sidecar, sidecar};
use crate::model::config::NodeConfig;
use crate::model::ids::NodeId;
use crate::node::{BrokerFinding, examine_broker};
use crate::settings::Settings;
use crate::settings::identity::{decide, machine_id};
use anyhow::{Context, Result};

/// Adds the findings.
pub(super) fn check(settings: &Settings, stored: Option<NodeId>, report: &mut Report) {
    if matches!(sidecar(&settings.db_path), Ok(Sidecar::Running(_))) {
        running(settings, report);
    }
    if settings.nats.urls.is_empty() {
        let text = "the embedded nats-server was not started for this check";
        report.add(Level::Note, "broker", text, "");
        return;
    }
    match look(settings, stored) {
        Ok(found) => found.into_iter().for_each(|finding| add(finding, report)),
        Err(error) => report.problem("broker", &Failure::of(&error)),
    }
}

/// What the node that runs on this database reports.
fn running(settings: &Settings, report: &mut Report) {
    match status::look(settings) {
        Ok((_, status)) => {
            for reason in status.degraded {
                report.add(Level::Warning, "running node", reason, "see `harmonylite status`");
            }
        }
        Err(error) => report.add(Level::Warning, "running node", format!("{error:#}"), ""),
    }
}

fn look(settings: &Settings, stored: Option<NodeId>) -> Result<Vec<BrokerFinding>> {
    let config = config(settings, stored)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the network runtime")?;
    Ok(runtime.block_on(examine_broker(settings, &config)))
}

/// The configuration with which the node would run.
fn config(settings: &Settings, stored: Option<NodeId>) -> Result<NodeConfig> {
    let identity = decide(settings.node_id, stored, machine_id().as_deref())?;
    Ok(settings.node_config(identity.node)?)
}

fn add(finding: BrokerFinding, report: &mut Report) {
    let hint = "change what the message names; waiting does not help";
    match finding {
        BrokerFinding::Refused(text) => {
            report.problem("broker", &Failure::new(Exit::Broker, text, hint));
        }
        BrokerFinding::NodeIdInUse(text) => {
            let hint = "node_id in the configuration, or -node-id on the command line";
            report.problem("node id", &Failure::new(Exit::NodeId, text, hint));
        }
        BrokerFinding::Broken(text) => {
            let hint = "a node would run and report this; docs/security.md lists what it needs";
            report.add(Level::Problem, "broker", text, hint);
        }
        BrokerFinding::Warning(text) => {
            let hint = "a node would start, capture changes, and wait";
            report.add(Level::Warning, "broker", text, hint);
        }
        BrokerFinding::Note(text) => report.add(Level::Note, "broker", text, ""),
    }
}
