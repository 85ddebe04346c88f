//! Checks for numbers that two nodes give to two rows, and for tables whose rows mean one machine.
//!
//! Arrives: the schema, and the setting `ids.ranges`. Leaves: findings. Pure.

use super::report::{Level, Report};
use crate::db::schema::{KeyKind, Schema, TableSchema};

/// Beginnings of the names of tables that hold work to be done once, locks or counters. Two nodes
/// that both see a job both do it; a lock that arrives later has protected nothing.
const ONCE_ONLY: &[(&str, &str)] = &[
    ("solid_queue_", "Solid Queue (Rails)"),
    ("solid_cable_", "Solid Cable (Rails)"),
    ("solid_cache_", "Solid Cache (Rails)"),
    ("good_job", "GoodJob (Rails)"),
    ("delayed_jobs", "Delayed Job (Rails)"),
    ("django_q_", "Django Q"),
    ("django_celery_beat_", "Celery beat"),
    ("django_tasks_", "Django tasks"),
    ("celery_", "Celery"),
    ("kombu_", "Celery"),
    ("background_task", "Django background tasks"),
    ("huey", "Huey"),
    ("apscheduler_", "APScheduler"),
    ("oban_", "Oban"),
    ("job_batches", "Laravel's queue"),
    ("failed_jobs", "Laravel's queue"),
    ("cache_locks", "Laravel's cache"),
    ("agendajobs", "Agenda"),
    ("litequeue", "a queue"),
];
/// Whole names that are too common to be beginnings.
const ONCE_ONLY_NAMES: &[&str] =
    &["jobs", "job_queue", "queue", "tasks_queue", "locks", "mutex", "leases", "schedules"];

/// Adds the findings.
pub(super) fn check(schema: &Schema, ranges: bool, report: &mut Report) {
    counters(schema, ranges, report);
    once_only(schema, report);
}

/// Two nodes that count independently give the same number to two rows.
fn counters(schema: &Schema, ranges: bool, report: &mut Report) {
    let is_counted =
        |t: &&TableSchema| t.key_kind == KeyKind::Integer && !(ranges && t.autoincrement);
    let names: Vec<String> = schema
        .tables
        .iter()
        .filter(is_counted)
        .map(|t| match t.autoincrement {
            true => format!("{} (AUTOINCREMENT)", t.name),
            false => t.name.clone(),
        })
        .collect();
    if names.is_empty() {
        return;
    }
    let text = format!(
        "INTEGER PRIMARY KEY in {}: if the application lets SQLite choose the number, two nodes \
        that insert at once choose the same one, and the later row replaces the earlier (which \
        goes to the conflict journal)",
        names.join(", ")
    );
    let hint = if ranges {
        "ids.ranges works for AUTOINCREMENT only: declare it, or use random keys (docs/ids.md)"
    } else {
        "set ids.ranges = true on all nodes for AUTOINCREMENT tables, or use random keys \
        (docs/ids.md)"
    };
    report.add(Level::Warning, "table", text, hint);
}

fn once_only(schema: &Schema, report: &mut Report) {
    let names: Vec<String> = schema.tables.iter().filter_map(|t| named(&t.name)).collect();
    if names.is_empty() {
        return;
    }
    let text = format!(
        "tables of queues, schedules, locks or caches: {}: two nodes that see the same job both do \
        it, and a lock on one node locks nobody on another",
        names.join(", ")
    );
    let hint = "keep them local: name them in tables.exclude on all nodes (docs/ids.md)";
    report.add(Level::Warning, "table", text, hint);
}

fn named(table: &str) -> Option<String> {
    let lower = table.to_ascii_lowercase();
    let tool = ONCE_ONLY.iter().find(|(begin, _)| lower.starts_with(begin));
    match tool {
        Some((_, tool)) => Some(format!("{table} ({tool})")),
        None => ONCE_ONLY_NAMES.contains(&lower.as_str()).then(|| table.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::inspect;
    use rusqlite::Connection;

    fn findings(sql: &str, ranges: bool) -> String {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        let mut report = Report::default();
        check(&inspect(&db, &Default::default()).unwrap(), ranges, &mut report);
        report.json()
    }

    #[test]
    fn tables_that_count_are_named_unless_ranges_keep_them_apart() {
        let sql = "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT);
            CREATE TABLE b (id INTEGER PRIMARY KEY, [autoincrement] TEXT DEFAULT 'AUTOINCREMENT');
            CREATE TABLE c (id TEXT PRIMARY KEY);";
        let text = findings(sql, false);
        assert!(text.contains("in a (AUTOINCREMENT), b:") && text.contains("ids.ranges = true"));
        let text = findings(sql, true);
        assert!(text.contains("in b:") && !text.contains("in a"), "{text}");
        assert!(
            !findings("CREATE TABLE c (id TEXT PRIMARY KEY)", false).contains("PRIMARY KEY in")
        );
    }

    #[test]
    fn queues_and_locks_are_named() {
        let text = findings(
            "CREATE TABLE Solid_Queue_jobs (id TEXT PRIMARY KEY); CREATE TABLE jobs (id TEXT \
             PRIMARY KEY); CREATE TABLE jobs_done (id TEXT PRIMARY KEY);",
            false,
        );
        assert!(text.contains("jobs, Solid_Queue_jobs (Solid Queue (Rails)):"), "{text}");
    }
}
