//! The report at the end of the demo.

use super::super::show;
use super::compare::Comparison;
use super::nodes::Node;
use super::stage::Stage;
use anyhow::Result;
use rusqlite::Connection;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

/// The most differences to print.
const DIFFERENCES: usize = 20;

/// Returns the differences, if any, and the figures.
pub(super) fn report(
    stage: &Stage,
    found: &Comparison,
    databases: &[Connection],
) -> Result<String> {
    let mut out = String::new();
    for difference in found.differences.iter().take(DIFFERENCES) {
        let _ = writeln!(out, "DIFFERENT: {difference}");
    }
    if found.differences.len() > DIFFERENCES {
        let _ = writeln!(out, "and {} more", found.differences.len() - DIFFERENCES);
    }
    let tallies = stage.traffic.iter().flat_map(|t| &t.tallies);
    let (transactions, rows) = tallies.fold((0, 0), |sum, t| {
        (sum.0 + t.transactions.load(Relaxed), sum.1 + t.rows.load(Relaxed))
    });
    let conflicts = databases
        .iter()
        .map(|db| Ok(crate::store::conflicts::count(db)?))
        .collect::<Result<Vec<_>>>()?;
    let bytes = stage
        .nodes
        .iter()
        .map(|n| n.relay.bytes())
        .fold((0, 0), |sum, b| (sum.0 + b.0, sum.1 + b.1));
    let _ = writeln!(
        out,
        "\n{transactions} transactions wrote {rows} rows; {} rows are in each shop",
        found.rows
    );
    let _ = writeln!(
        out,
        "conflicts in the journals of nodes 1 to {}: {}",
        conflicts.len(),
        conflicts.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    );
    let _ = writeln!(
        out,
        "through the broker: {} to it, {} from it",
        show::bytes(bytes.0),
        show::bytes(bytes.1)
    );
    let _ = write!(out, "{} of {} nodes equal", found.equal, databases.len());
    Ok(out)
}

/// Returns commands to try with the nodes that keep running.
pub(super) fn what_to_type(nodes: &[Node]) -> Result<String> {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return Ok(String::new()) };
    let program = std::env::current_exe()?;
    Ok(format!(
        "\nThe nodes are still running. In another terminal, for example:\n\
         \n  sqlite3 {} \"INSERT INTO customers VALUES (1001, 'me@example.org', 'Me', 0)\"\n  \
         sqlite3 {} \"SELECT * FROM customers WHERE id = 1001\"\n\
         \nand the status of node {}, and its losing writes:\n\n  {program} status \
         --config {config}\n  {program} conflicts list --config {config}\n\
         \nCtrl-C stops them and removes their files.",
        first.db.display(),
        last.db.display(),
        last.id,
        program = program.display(),
        config = last.config.display(),
    ))
}
