//! The findings of doctor, as text and as JSON.

use super::super::exit::{Exit, Failure};
use super::super::table::paragraph;
use console::Style;
use serde::Serialize;
use std::collections::BTreeMap;

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
        let tables = match self.replicated.as_slice() {
            [] => "nothing".to_owned(),
            tables => tables.join(", "),
        };
        let mut out = paragraph(&format!("will be replicated: {tables}"), 0);
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for table in &self.not_replicated {
            by_reason.entry(&table.reason).or_default().push(&table.table);
        }
        for (reason, tables) in by_reason {
            out += &paragraph(&format!("not replicated: {}: {reason}", tables.join(", ")), 0);
        }
        for (level, title, color) in [
            (Level::Problem, "PROBLEM", Style::new().red().bold()),
            (Level::Warning, "WARNING", Style::new().yellow().bold()),
            (Level::Note, "note", Style::new().bold()),
        ] {
            let styled = color.apply_to(title).to_string();
            for finding in self.findings.iter().filter(|f| f.level == level) {
                let line = format!("{title} ({}): {}", finding.topic, finding.text);
                out += &paragraph(&line, 0).replacen(title, &styled, 1);
                if !finding.hint.is_empty() {
                    out += &paragraph(&finding.hint, 4);
                }
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        let notes = count(Level::Note);
        let all = format!("problems: {problems}, warnings: {warnings}, notes: {notes}");
        out += &paragraph(&format!("{all}; nothing was changed"), 0);
        out
    }
}
