//! The findings of doctor, as text and as JSON.

use super::super::exit::{Exit, Failure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// `run` would fail.
    Problem,
    /// Replication works, with consequences that may be unexpected.
    Warning,
    /// Information.
    Note,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    topic: &'static str,
    text: String,
    hint: String,
}

#[derive(Debug, Serialize)]
struct NotReplicated {
    table: String,
    reason: String,
}

/// All findings.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    replicated: Vec<String>,
    not_replicated: Vec<NotReplicated>,
    findings: Vec<Finding>,
    #[serde(skip)]
    exit: Option<Exit>,
}

impl Report {
    /// Adds a finding; the hint may be empty.
    pub(super) fn add(
        &mut self,
        level: Level,
        topic: &'static str,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.findings.push(Finding { level, topic, text: text.into(), hint: hint.into() });
    }

    /// Adds a failure of `run`. The first one decides the exit status.
    pub(super) fn problem(&mut self, topic: &'static str, failure: &Failure) {
        self.exit = self.exit.or(Some(failure.exit));
        self.add(Level::Problem, topic, failure.what.clone(), failure.hint.clone());
    }

    pub(super) fn has_problem(&self, topic: &str) -> bool {
        self.findings.iter().any(|f| f.level == Level::Problem && f.topic == topic)
    }

    /// Adds a table that will be replicated.
    pub(super) fn replicated(&mut self, table: &str) {
        self.replicated.push(table.to_owned());
    }

    /// Adds a table that will not be replicated.
    pub(super) fn not_replicated(&mut self, table: &str, reason: &str) {
        self.not_replicated
            .push(NotReplicated { table: table.to_owned(), reason: reason.to_owned() });
    }

    /// The exit status with which `run` would fail; None if it would start.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "will be replicated: {}",
            if self.replicated.is_empty() {
                "nothing".to_owned()
            } else {
                self.replicated.join(", ")
            }
        );
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for table in &self.not_replicated {
            by_reason.entry(&table.reason).or_default().push(&table.table);
        }
        for (reason, tables) in by_reason {
            let _ = writeln!(out, "not replicated: {}: {reason}", tables.join(", "));
        }
        for (level, title) in
            [(Level::Problem, "PROBLEM"), (Level::Warning, "WARNING"), (Level::Note, "note")]
        {
            for finding in self.findings.iter().filter(|f| f.level == level) {
                let _ = writeln!(out, "{title} ({}): {}", finding.topic, finding.text);
                if !finding.hint.is_empty() {
                    let _ = writeln!(out, "    {}", finding.hint);
                }
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let _ = writeln!(
            out,
            "problems: {}, warnings: {}, notes: {}; nothing was changed",
            count(Level::Problem),
            count(Level::Warning),
            count(Level::Note)
        );
        out
    }
}
