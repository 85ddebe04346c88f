//! `harmonylite schema`: this database's schema, and that of other nodes.

use super::args::SchemaAction;
use super::exit::{Exit, Failure};
use super::{schema_apply, schema_cluster, schema_diff, schema_status};
use crate::settings::Settings;
use anyhow::Result;
use std::process::ExitCode;

/// Runs `harmonylite schema`.
pub(crate) fn run(
    settings: &Settings,
    cluster: bool,
    action: Option<SchemaAction>,
) -> Result<ExitCode> {
    match action {
        Some(_) if cluster => Err(Failure::new(
            Exit::Usage,
            "--cluster does not go together with a subcommand of `schema`",
            "`harmonylite schema --cluster` shows all nodes, `harmonylite schema diff NODE` one",
        )
        .into()),
        Some(SchemaAction::Diff { node, rename }) => schema_diff::run(settings, node, &rename),
        Some(SchemaAction::Apply { from, rename, drop, yes }) => {
            schema_apply::run(settings, from, &rename, schema_apply::Consent { drop, yes })
        }
        None if cluster => schema_cluster::run(settings),
        None => schema_status::run(settings),
    }
}
