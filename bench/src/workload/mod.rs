//! The user's own tables and mix of transactions: `--schema FILE --workload FILE`.
//!
//! Arrives: SQL and a workload file (docs/benchmark.md has the format). Leaves: figures of the same
//! mix without a sidecar and with it. Owns: a file with an error is refused with its line before
//! anything starts; nodes that end unequal are a failure.

mod check;
mod drive;
mod format;
mod run;
mod values;

pub(crate) use format::Workload;
pub use format::WorkloadError;
pub(crate) use run::{Results, Variation, measure, trial};

use anyhow::{Context, Result};
use std::path::Path;

/// The example that `--sweep` uses without files.
pub(crate) const SHOP: [&str; 2] =
    [include_str!("../../examples/shop.sql"), include_str!("../../examples/shop.toml")];

/// Reads and checks both files.
pub(crate) fn load(schema: &Path, workload: &Path) -> Result<Workload> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (schema_text, text) = (read(schema)?, read(workload)?);
    let names = [schema, workload].map(|path| path.display().to_string());
    Ok(check::parse(&schema_text, &text, names)?)
}

/// Returns the example.
pub(crate) fn shop() -> Result<Workload> {
    let [schema, text] = SHOP;
    Ok(check::parse(schema, text, ["shop.sql", "shop.toml"].map(str::to_owned))?)
}
