//! Names the patterns of `tables.include` and `tables.exclude` that match no table.

use super::report::{Level, Report};
use crate::db::schema::Schema;
use crate::settings::TablesSettings;
use globset::Glob;

/// Adds a warning for each. Patterns that are none were refused with the configuration.
pub(super) fn check(schema: &Schema, settings: &TablesSettings, report: &mut Report) {
    for (key, patterns) in
        [("tables.include", &settings.include), ("tables.exclude", &settings.exclude)]
    {
        for pattern in patterns {
            let Ok(glob) = Glob::new(pattern) else { continue };
            let matcher = glob.compile_matcher();
            let tables = schema.tables.iter().map(|t| &t.name);
            if !tables.chain(schema.skipped.iter().map(|s| &s.name)).any(|n| matcher.is_match(n)) {
                report.add(
                    Level::Warning,
                    "configuration",
                    format!("{key}: {pattern:?} matches no table of this database"),
                    "correct the pattern (case counts), or create the table",
                );
            }
        }
    }
}
