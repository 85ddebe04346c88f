//! The report: measured values, their floors, histograms, and what failed.

use crate::machine::Machine;
use crate::progress::Progress;
use crate::sample::{Bucket, Samples};
use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};
use std::path::Path;

const BASELINE: &str = include_str!("../baseline.json");

/// The required value of a measurement, on the project's own machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Floor {
    #[default]
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    #[serde(default)]
    pub(crate) floor: Floor,
    #[serde(default)]
    pub(crate) passed: bool,
}

/// How often which time was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Histogram {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) buckets: Vec<Bucket>,
}

/// One of the settings that a sweep tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) setting: String,
    pub(crate) measure: String,
    /// Of the median of each round's ratio to the defaults in the same round.
    pub(crate) ratio: f64,
    /// How far the defaults differed from themselves, as the same ratio.
    pub(crate) noise: f64,
    /// In how many rounds the setting was better.
    pub(crate) better: usize,
    pub(crate) rounds: usize,
    pub(crate) verdict: String,
}

impl Trial {
    pub(crate) const BETTER: &str = "better";
    pub(crate) const WORSE: &str = "worse";
}

/// All measurements of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) cores: usize,
    pub(crate) debug_build: bool,
    #[serde(default)]
    pub(crate) machine: Machine,
    /// The settings of the nodes beyond the defaults, as in their configuration file.
    #[serde(default)]
    pub(crate) settings: String,
    #[serde(default)]
    pub(crate) quick: bool,
    pub(crate) measured: Vec<Figure>,
    #[serde(default)]
    pub(crate) histograms: Vec<Histogram>,
    #[serde(default)]
    pub(crate) trials: Vec<Trial>,
    /// What a sweep recommends.
    #[serde(default)]
    pub(crate) advice: Vec<String>,
    /// What must never be, such as nodes that end unequal.
    #[serde(default)]
    pub(crate) failures: Vec<String>,
    #[serde(skip)]
    floors: bool,
    #[serde(skip)]
    group: String,
    #[serde(skip)]
    pub(crate) progress: Progress,
}

impl Report {
    /// Begins a report.
    pub(crate) fn new(machine: Machine, floors: bool, quick: bool, steps: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: machine.cores,
            debug_build: cfg!(debug_assertions),
            machine,
            quick,
            floors,
            progress: Progress::new(steps),
            ..Self::default()
        }
    }

    /// Begins a group of measurements.
    pub(crate) fn group(&mut self, name: &str) {
        name.clone_into(&mut self.group);
        self.progress.step(name);
    }

    /// Adds a measurement, and prints that it is done. Floors hold on the project's own machine
    /// only, so they are compared only if the options ask for it.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &str, floor: Floor) {
        let floor = if self.floors { floor } else { Floor::None };
        // A value that is not a number does not pass.
        let passed = match floor {
            Floor::None => true,
            Floor::AtLeast(least) => value >= least,
            Floor::AtMost(most) => value <= most,
        };
        self.progress.line(&format!("{name}: {} {unit}", digits(value)));
        self.measured.push(Figure {
            group: self.group.clone(),
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            floor,
            passed,
        });
    }

    /// Adds median, p99 and p99.9 of some times, and how they are spread.
    pub(crate) fn add_times(&mut self, name: &str, times: &Samples, floors: [Floor; 2]) {
        let [median, p99] = floors;
        self.add(&format!("{name}, median"), times.quantile(500), "ms", median);
        self.add(&format!("{name}, p99"), times.quantile(990), "ms", p99);
        self.add(&format!("{name}, p99.9"), times.quantile(999), "ms", Floor::None);
        self.histograms.push(Histogram {
            group: self.group.clone(),
            name: name.trim().to_owned(),
            buckets: times.histogram(),
        });
    }

    /// Adds what must never be.
    pub(crate) fn fail(&mut self, what: String) {
        self.progress.line(&format!("FAILED: {what}"));
        self.failures.push(format!("{}: {what}", self.group));
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty() && self.measured.iter().all(|m| m.passed)
    }

    /// Returns a table for people; with floors, next to the stored baseline.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        let baseline: Self = serde_json::from_str(BASELINE).unwrap_or_default();
        if self.floors {
            table.set_header(["", "measured", "", "floor", "", "baseline"]);
        }
        let mut group = "";
        for m in &self.measured {
            if m.group != group {
                group = &m.group;
                table.add_row([&format!("{group}:"), "", ""]);
            }
            let mut row = vec![format!("  {}", m.name), digits(m.value), m.unit.clone()];
            if self.floors {
                row.extend(m.verdict());
                let is_same = |b: &&Figure| (&b.group, &b.name) == (&m.group, &m.name);
                let before = baseline.measured.iter().find(is_same);
                row.push(before.map_or("-".to_owned(), |b| digits(b.value)));
            }
            table.add_row(row);
        }
        for numbers in table.column_iter_mut().skip(1).step_by(2) {
            numbers.set_cell_alignment(CellAlignment::Right);
        }
        let failures = self.failures.iter().map(|what| format!("FAILED: {what}\n"));
        let measured = if self.measured.is_empty() { String::new() } else { table.trim_fmt() };
        format!("\n{measured}\n{}{}", self.trials_text(), failures.collect::<String>())
    }

    fn trials_text(&self) -> String {
        if self.trials.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["setting", "measure", "to the defaults", "noise", "better in", ""]);
        for t in &self.trials {
            let better = format!("{} of {}", t.better, t.rounds);
            let (ratio, noise) = (digits(t.ratio), digits(t.noise));
            table.add_row([&t.setting, &t.measure, &ratio, &noise, &better, &t.verdict]);
        }
        let advice = self.advice.iter().map(|line| format!("{line}\n")).collect::<String>();
        format!("{}\n\n{advice}", table.trim_fmt())
    }

    /// Writes the results as JSON, for programs.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Figure {
    /// The floor, and whether the value passes.
    pub(crate) fn verdict(&self) -> [String; 2] {
        let passed = if self.passed { "ok" } else { "MISSED" };
        match self.floor {
            Floor::None => [String::new(), String::new()],
            Floor::AtLeast(least) => [format!(">= {}", digits(least)), passed.to_owned()],
            Floor::AtMost(most) => [format!("<= {}", digits(most)), passed.to_owned()],
        }
    }
}

/// Formats a number with three significant digits.
pub(crate) fn digits(value: f64) -> String {
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
        let mut report = Report::new(Machine::default(), true, true, 1);
        report.add("fast", 10.0, "rows/s", Floor::AtLeast(5.0));
        assert!(report.passed());
        report.add("slow", 10.0, "ms", Floor::AtMost(5.0));
        assert!(!report.passed() && report.table().contains("MISSED"));
        let mut nothing = Report::new(Machine::default(), true, true, 1);
        nothing.add("broken", f64::NAN, "ms", Floor::AtMost(5.0));
        assert!(!nothing.passed());
        let mut elsewhere = Report::new(Machine::default(), false, true, 1);
        elsewhere.add("slow", 10.0, "ms", Floor::AtMost(5.0));
        assert!(elsewhere.passed() && !elsewhere.table().contains("MISSED"));
    }

    #[test]
    fn nodes_that_differ_fail_every_run() {
        let mut report = Report::new(Machine::default(), false, true, 1);
        report.group("mix");
        report.fail("nodes 1 and 2 differ".to_owned());
        assert!(!report.passed() && report.table().contains("FAILED: mix: nodes 1 and 2 differ"));
    }

    #[test]
    fn the_baseline_can_be_read() {
        assert!(serde_json::from_str::<Report>(BASELINE).is_ok());
    }
}
