//! `harmonylite doctor`: checks a database and a configuration without changing anything.
//!
//! Arrives: the arguments of `run`. Leaves: a report, and the exit status of `run`. Owns: nothing
//! changes; not even a -shm is created (a test compares digests).

mod broker;
mod connection;
mod ids;
mod machine;
mod objects;
mod open;
mod patterns;
mod ports;
mod report;
mod secrets;
mod tables;
mod triggers;

use super::args::Global;
use super::dispatch;
use super::exit::Failure;
use super::progress;
use super::show;
use crate::db::index_probe::{HINT, blind_indexes};
use crate::db::preflight::{self, FileFacts};
use crate::db::schema::inspect;
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, Loaded, Settings};
use anyhow::Result;
use report::{Level, Report};
use std::process::ExitCode;

/// Prints the report.
pub(crate) fn run(global: &Global, json: bool, offline: bool) -> Result<ExitCode> {
    let name = "checking database, configuration and broker";
    let report = progress::during(name, || examine(global, offline));
    show::print(&if json { report.json() + "\n" } else { report.text() });
    Ok(report.exit().map_or(ExitCode::SUCCESS, Into::into))
}

fn examine(global: &Global, offline: bool) -> Report {
    let mut report = Report::default();
    let loaded = dispatch::settings(global).unwrap_or_else(|error| {
        report.problem("configuration", &Failure::of(&error));
        let mut loaded = Settings::defaults();
        if let Some(db) = &global.db {
            loaded.settings.db_path.clone_from(db);
        }
        loaded
    });
    for note in &loaded.notes {
        report.add(Level::Note, "configuration", note.clone(), "");
    }
    let cluster = global.cluster().unwrap_or_else(|failure| {
        report.problem("configuration", &failure);
        ClusterSettings::default()
    });
    secrets::check(global.config.as_deref(), &loaded, &mut report);
    broker::check(&loaded.settings, &cluster, &mut report);
    ports::check(&loaded.settings, &cluster, &mut report);
    if report.has_problem("configuration") && global.db.is_none() {
        // The database is unknown then.
        return report;
    }
    let stored = match preflight::check(&loaded.settings.db_path) {
        Ok(facts) => database(&loaded, facts, &mut report),
        Err(error) => {
            report.problem("database", &Failure::of(&error.into()));
            None
        }
    };
    if !offline && !report.has_problem("configuration") && !report.has_problem("database") {
        connection::check(&loaded.settings, stored, &mut report);
    }
    report
}

/// Returns the node id that the database has stored.
fn database(loaded: &Loaded, facts: FileFacts, report: &mut Report) -> Option<NodeId> {
    let path = &loaded.settings.db_path;
    machine::check(path, facts, report);
    let looked = (|| -> Result<Option<NodeId>> {
        let mut db = open::read_only(path, facts, report)?;
        let schema = inspect(&db, &loaded.settings.table_filter()?)?;
        tables::check(&db, &schema, report)?;
        let tables = schema.tables.iter().map(|table| table.name.as_str());
        for blind in blind_indexes(&db, tables, || true)? {
            report.add(Level::Problem, "table", blind.to_string(), HINT);
        }
        patterns::check(&schema, &loaded.settings.tables, report);
        ids::check(&schema, loaded.settings.ids.ranges, report);
        let stored = objects::check(&db, &loaded.settings, report)?;
        triggers::check(&mut db, &schema, report)?;
        Ok(stored)
    })();
    looked.unwrap_or_else(|error| {
        report.problem("database", &Failure::of(&error.context(path.display().to_string())));
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::*;
    use crate::store::{install, meta};
    use rusqlite::Connection;
    use sha2::{Digest, Sha256};
    use std::path::Path;

    fn look(db: &Path) -> Report {
        examine(&Global { db: Some(db.to_owned()), ..Global::default() }, true)
    }

    fn digests(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| {
                (
                    e.file_name().to_string_lossy().into_owned(),
                    Sha256::digest(std::fs::read(e.path()).unwrap()).to_vec(),
                )
            })
            .collect();
        all.sort();
        all
    }

    const SCHEMA: &str = "CREATE TABLE good (id TEXT PRIMARY KEY NOT NULL, a); CREATE TABLE nokey \
        (a);
        CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, a REFERENCES good(id) ON \
        DELETE CASCADE);
        CREATE TABLE nullkey (k TEXT PRIMARY KEY, u UNIQUE); INSERT INTO nullkey VALUES (NULL, 1);
        CREATE TABLE gen (a, k AS (a || 'x') STORED, PRIMARY KEY (a)); CREATE VIRTUAL TABLE \
        search USING fts5(a);
        CREATE TRIGGER counts AFTER INSERT ON good BEGIN UPDATE counted SET a = a; END;
        CREATE TRIGGER indexes AFTER INSERT ON good BEGIN INSERT INTO search VALUES (NEW.a); END;
        CREATE TRIGGER custom AFTER INSERT ON gen BEGIN SELECT app_function(NEW.a); END;
        CREATE TABLE __harmonylite__good_change_log (id INTEGER PRIMARY KEY, val_a, type, \
        created_at, state);";

    /// Whatever state the database is in, looking at it changes no byte and leaves no file.
    #[test]
    fn looking_changes_nothing() {
        for journal in ["DELETE", "WAL"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app ?#%.db");
            let db = Connection::open(&path).unwrap();
            db.execute_batch(&format!("PRAGMA journal_mode = {journal};{SCHEMA}")).unwrap();
            let before = digests(dir.path());
            let open = look(&path);
            assert_eq!(digests(dir.path()).len(), before.len(), "{journal}");
            // While the application is connected the -shm is its locks and may change.
            let stable = |all: Vec<(String, Vec<u8>)>| {
                all.into_iter().filter(|(n, _)| !n.ends_with("-shm")).collect::<Vec<_>>()
            };
            assert_eq!(stable(digests(dir.path())), stable(before), "{journal}");
            let copy = tempfile::tempdir().unwrap();
            for (name, _) in digests(dir.path()).iter().filter(|(n, _)| !n.ends_with("-shm")) {
                std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
            }
            drop(db);
            for place in [dir.path(), copy.path()] {
                let before = digests(place);
                let report = look(&place.join("app ?#%.db"));
                assert_eq!(digests(place), before, "{journal}");
                assert!(report.exit().is_none(), "{}", report.text());
            }
            assert!(open.exit().is_none(), "{}", open.text());
        }
    }

    #[test]
    fn what_is_dangerous_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        Connection::open(&path).unwrap().execute_batch(SCHEMA).unwrap();
        let text = look(&path).text();
        for part in [
            "PROBLEM (table): nokey cannot be replicated: its rows have no identity",
            "nullkey: 1 row",
            "counted",
            "AUTOINCREMENT",
            "CASCADE",
            "UNIQUE",
            "trigger counts",
            "trigger indexes",
            "app_function",
            "HarmonyLite (Go)",
            "search: a virtual table",
            "journal",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn patterns_that_match_no_table_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, config) = (dir.path().join("app.db"), dir.path().join("c.toml"));
        Connection::open(&path).unwrap().execute_batch(SCHEMA).unwrap();
        let lines =
            "[tables]\ninclude = [\"go*\", \"nots\"]\nexclude = [\"Counted\", \"search\"]\n";
        std::fs::write(&config, lines).unwrap();
        let global = Global { db: Some(path), config: Some(config), ..Global::default() };
        let text = examine(&global, true).text();
        let named = |part: &str| text.contains(&format!("{part} matches no table"));
        assert!(
            named("tables.include: \"nots\"") && named("tables.exclude: \"Counted\""),
            "{text}"
        );
        assert_eq!(text.matches("matches no table").count(), 2, "{text}");
    }

    #[test]
    fn problems_give_the_status_that_run_would_give() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&dir.path().join("no.db")).exit(), Some(Exit::Database));
        let config = dir.path().join("c.toml");
        std::fs::write(&config, "nonsense = 1").unwrap();
        let report = examine(&Global { config: Some(config), ..Global::default() }, true);
        assert_eq!(report.exit(), Some(Exit::Usage));
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (a TEXT PRIMARY KEY)").unwrap();
        let lock = crate::db::lockfile::Lock::acquire(&path).unwrap();
        assert_eq!(look(&path).exit(), None, "a node that runs is no problem");
        assert!(look(&path).text().contains("note (sidecar)"), "{}", look(&path).text());
        lock.remove();
        assert_eq!(look(&path).exit(), None);
        install::create_tables(&db, &path).unwrap();
        meta::set(&db, meta::FORMAT, 99).unwrap();
        assert_eq!(look(&path).exit(), Some(Exit::Database));
        serde_json::from_str::<serde_json::Value>(&look(&path).json()).unwrap();
    }
}
