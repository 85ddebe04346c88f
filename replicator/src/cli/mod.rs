//! The command line: one file a subcommand.

pub(crate) mod args;
mod cleanup;
mod completions;
mod conflicts;
pub(crate) mod control;
mod database;
mod demo;
mod dispatch;
mod doctor;
pub(crate) mod exit;
pub(crate) mod log;
mod quarantine;
mod restore;
mod run;
mod schema_cluster;
mod schema_status;
mod show;
mod status;
mod version;

pub(crate) use dispatch::dispatch;
