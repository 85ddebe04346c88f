//! `harmonylite cleanup`: removes everything of ours, and of HarmonyLite (Go), from a database.

use super::exit::{Exit, Failure};
use super::{database, progress, show};
use crate::capture::install;
use crate::db::lockfile::Lock;
use crate::settings::Settings;
use crate::store::{change_log, install as own_tables, meta};
use anyhow::{Context, Result};
use rusqlite::{Connection, TransactionBehavior};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Removes triggers, views and tables in one transaction. Refuses while a sidecar runs, and without
/// `force` if changes were not published.
pub(crate) fn run(settings: &Settings, force: bool) -> Result<ExitCode> {
    let name = format!("cleaning up {}", settings.db_path.display());
    let removed = progress::during(&name, || remove(settings, force))?;
    let mut out = String::new();
    for name in &removed {
        let _ = writeln!(out, "removed {name}");
    }
    let _ = match removed.len() {
        0 => writeln!(out, "no objects of harmonylite in {}", settings.db_path.display()),
        n => writeln!(
            out,
            "removed {n} objects from {}; the application's tables are unchanged",
            settings.db_path.display()
        ),
    };
    show::print(&out);
    Ok(ExitCode::SUCCESS)
}

fn remove(settings: &Settings, force: bool) -> Result<Vec<String>> {
    crate::db::preflight::check(&settings.db_path)?;
    let lock = Lock::acquire(&settings.db_path)?;
    let mut db = database::open(&settings.db_path)?;
    let name = || settings.db_path.display().to_string();
    let transaction =
        db.transaction_with_behavior(TransactionBehavior::Immediate).with_context(name)?;
    if !force {
        check_published(&transaction).with_context(name)?;
    }
    let removed = install::uninstall(&transaction).with_context(name)?;
    transaction.commit().with_context(name)?;
    drop(db);
    lock.remove();
    Ok(removed)
}

/// Refuses if the log has changes that may have reached no other node.
fn check_published(db: &Connection) -> Result<()> {
    if !own_tables::is_installed(db)? || !own_tables::missing_tables(db)?.is_empty() {
        return Ok(());
    }
    let marked = meta::get(db, meta::PUBLISHED)?.unwrap_or(0);
    let pending = change_log::pending(db, marked)?.entries;
    if pending == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::General,
        format!(
            "{pending} changes may not have been published; removed here, no other node gets them"
        ),
        "run the node until `harmonylite status` shows none pending, and stop it; or `harmonylite \
        cleanup --force`",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_the_go_ones_go_and_the_application_stays() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { db_path: dir.path().join("app.db"), ..Settings::default() };
        let missing = remove(&settings, false).unwrap_err();
        assert_eq!(Failure::of(&missing).exit, Exit::Database);
        let db = Connection::open(&settings.db_path).unwrap();
        db.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 2); CREATE \
            TABLE u (a PRIMARY KEY);
             CREATE TABLE __harmonylite__u_change_log (id INTEGER PRIMARY KEY, val_a, type, \
             created_at, state);
             CREATE TABLE __harmonylite___change_log_global (id INTEGER PRIMARY KEY);
             CREATE TRIGGER __harmonylite__u_change_log_on_insert AFTER INSERT ON u BEGIN INSERT \
             INTO __harmonylite__u_change_log (val_a) VALUES (NEW.a); END;",
        )
        .unwrap();
        let before: i64 = db
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_\\_harm%' ESCAPE '\\'",
                [],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(before, 3);
        let lock = Lock::acquire(&settings.db_path).unwrap();
        let error = remove(&settings, false).unwrap_err();
        assert_eq!(Failure::of(&error).exit, Exit::Running);
        drop(lock);
        assert_eq!(remove(&settings, false).unwrap().len(), 3);
        crate::store::install::create_tables(&db, &settings.db_path).unwrap();
        install::install(&db, &Default::default(), 1).unwrap();
        db.execute("UPDATE t SET a = 2", []).unwrap();
        let refused = Failure::of(&remove(&settings, false).unwrap_err());
        assert!(refused.what.contains("1 changes") && refused.hint.contains("--force"));
        assert!(remove(&settings, true).unwrap().len() > 10);
        let left: Vec<String> = db
            .prepare("SELECT name FROM sqlite_schema WHERE type <> 'index'")
            .unwrap()
            .query_map([], |r| r.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(
            left.iter().all(|name| ["t", "u", "sqlite_sequence"].contains(&name.as_str())),
            "{left:?}"
        );
        assert_eq!(db.query_row("SELECT a FROM t", [], |r| r.get::<_, i64>(0)).unwrap(), 2);
        assert_eq!(remove(&settings, false).unwrap().len(), 0);
        assert!(!crate::db::lockfile::lock_path(&settings.db_path).exists());
    }
}
