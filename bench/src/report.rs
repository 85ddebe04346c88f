//! The report: measured values, their floors, and the last baseline.

use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};
use std::path::Path;

const BASELINE: &str = include_str!("../baseline.json");

/// The required value of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Floor {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: String,
    floor: Floor,
    passed: bool,
}

/// All measurements of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    version: String,
    cores: usize,
    debug_build: bool,
    measured: Vec<Figure>,
}

impl Report {
    /// Adds a measurement, and prints that it is done.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &str, floor: Floor) {
        // A value that is not a number does not pass.
        let passed = match floor {
            Floor::None => true,
            Floor::AtLeast(least) => value >= least,
            Floor::AtMost(most) => value <= most,
        };
        eprintln!("{name}: {} {unit}", digits(value));
        self.measured.push(Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            floor,
            passed,
        });
    }

    pub(crate) fn passed(&self) -> bool {
        self.measured.iter().all(|m| m.passed)
    }

    /// Returns a table for people, next to the stored baseline.
    pub(crate) fn table(&self) -> String {
        let baseline: Self = serde_json::from_str(BASELINE).unwrap_or_default();
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["", "measured", "", "floor", "", "baseline"]);
        for m in &self.measured {
            let before = baseline
                .measured
                .iter()
                .find(|b| b.name == m.name)
                .map_or("-".to_owned(), |b| digits(b.value));
            let (floor, verdict) = match m.floor {
                Floor::None => (String::new(), ""),
                Floor::AtLeast(least) => {
                    (format!(">= {}", digits(least)), if m.passed { "ok" } else { "MISSED" })
                }
                Floor::AtMost(most) => {
                    (format!("<= {}", digits(most)), if m.passed { "ok" } else { "MISSED" })
                }
            };
            table.add_row([&m.name, &digits(m.value), &m.unit, &floor, verdict, &before]);
        }
        for numbers in table.column_iter_mut().skip(1).step_by(2) {
            numbers.set_cell_alignment(CellAlignment::Right);
        }
        format!("\n{}\n", table.trim_fmt())
    }

    /// Writes the results as JSON, for programs.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        self.version = env!("CARGO_PKG_VERSION").to_owned();
        self.cores = std::thread::available_parallelism().map_or(0, usize::from);
        self.debug_build = cfg!(debug_assertions);
        let text = serde_json::to_string_pretty(&self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Formats a number with three significant digits.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_floor_fails_the_run_and_shows() {
        let mut report = Report::default();
        report.add("fast", 10.0, "rows/s", Floor::AtLeast(5.0));
        assert!(report.passed());
        report.add("slow", 10.0, "ms", Floor::AtMost(5.0));
        assert!(!report.passed() && report.table().contains("MISSED"));
        let mut nothing = Report::default();
        nothing.add("broken", f64::NAN, "ms", Floor::AtMost(5.0));
        assert!(!nothing.passed());
    }

    #[test]
    fn the_baseline_can_be_read() {
        assert!(serde_json::from_str::<Report>(BASELINE).is_ok());
    }
}
