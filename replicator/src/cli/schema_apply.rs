//! `harmonylite schema apply`: gives this database the schema of another node.
//!
//! Arrives: the difference that `schema diff` finds. Leaves: one transaction on the database, which
//! the running node follows as after any migration. Owns: nothing runs that was not shown, and
//! nothing is lost unasked. A failure or a crash leaves the database as it was.

use super::exit::{Exit, Failure};
use super::schema_diff::{Wanted, describe};
use super::{database, show};
use crate::db::schema_change::SchemaChange;
use crate::db::schema_run;
use crate::settings::Settings;
use anyhow::Result;
use rusqlite::Connection;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

/// What the person has agreed to in advance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consent {
    /// Values may be lost.
    pub(crate) drop: bool,
    /// Do not ask.
    pub(crate) yes: bool,
}

/// Shows the changes, asks, and runs them.
pub(crate) fn run(
    settings: &Settings,
    node: u64,
    renamed: &[String],
    consent: Consent,
) -> Result<ExitCode> {
    let mut db = database::open(&settings.db_path)?;
    let wanted = Wanted::fetch(settings, node, renamed)?;
    let shown = difference(settings, &wanted, &db)?;
    show::print(&describe(&shown, node)?);
    if shown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    check(&shown, consent)?;
    let stdin = std::io::stdin();
    if !consent.yes && !agreed(stdin.is_terminal(), stdin.lock())? {
        show::print("nothing was changed\n");
        return Ok(Exit::General.into());
    }
    apply(settings, &wanted, &mut db, &shown)?;
    show::print(&format!(
        "done: {} changes in one transaction; the running node adopts them\n",
        shown.len()
    ));
    Ok(ExitCode::SUCCESS)
}

fn difference(settings: &Settings, wanted: &Wanted, db: &Connection) -> Result<Vec<SchemaChange>> {
    let ours = wanted.ours(settings, db)?;
    wanted.changes(&ours.objects, &wanted.theirs(&ours))
}

/// Refuses before anybody is asked.
fn check(changes: &[SchemaChange], consent: Consent) -> Result<(), Failure> {
    for change in changes {
        schema_run::check(change).map_err(|cause| {
            let what = format!("cannot {}: {cause}", change.words());
            Failure::new(Exit::General, what, "look at the database of the other node")
        })?;
    }
    match changes.iter().find(|change| change.loses_values() && !consent.drop) {
        Some(change) => Err(Failure::new(
            Exit::General,
            format!("this would {}; nothing was changed", change.words()),
            "if it was renamed, use --rename; if this node is ahead, run apply on the other node; \
            if the values may go, use --drop",
        )),
        None => Ok(()),
    }
}

/// Asks, if there is a terminal to ask on.
fn agreed(terminal: bool, mut input: impl BufRead) -> Result<bool> {
    if !terminal {
        return Err(Failure::new(
            Exit::Usage,
            "there is no terminal to ask on; nothing was changed",
            "--yes runs it without asking",
        )
        .into());
    }
    show::print("run this here? [y/N] ");
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Runs the changes. They are worked out again under the write lock, and must be what was shown.
fn apply(
    settings: &Settings,
    wanted: &Wanted,
    db: &mut Connection,
    shown: &[SchemaChange],
) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = within(settings, wanted, db, shown);
    match done {
        Ok(()) => Ok(db.execute_batch("COMMIT")?),
        Err(error) => {
            // Some errors have rolled back already.
            if !db.is_autocommit() {
                db.execute_batch("ROLLBACK")?;
            }
            Err(error)
        }
    }
}

fn within(
    settings: &Settings,
    wanted: &Wanted,
    db: &mut Connection,
    shown: &[SchemaChange],
) -> Result<()> {
    if difference(settings, wanted, db)? != shown {
        let what = "the schema of this database has changed meanwhile; nothing was changed";
        return Err(Failure::new(Exit::General, what, "run the command again").into());
    }
    schema_run::run(db, shown).map_err(|failure| {
        Failure::new(
            Exit::General,
            format!("{failure}; everything was rolled back"),
            "change the rows that do not fit, or run the migration of your application here",
        )
    })?;
    let left = wanted.ours(settings, db)?;
    let left = crate::db::schema_diff::changes(
        &left.objects,
        &wanted.theirs(&left),
        &crate::db::schema_diff::Renames::default(),
    );
    match left.first() {
        None => Ok(()),
        Some(change) => Err(Failure::new(
            Exit::General,
            format!("the changes were not enough, still to do: {}; rolled back", change.words()),
            "run the SQL of `harmonylite schema diff` by hand, and please report this",
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::control;
    use crate::db::lockfile::{Lock, Owner};
    use crate::db::objects::Objects;
    use crate::db::published_objects::Published;
    use crate::model::table_filter::TableFilter;

    const YES: Consent = Consent { drop: false, yes: true };

    /// Runs the command against a node that has the second schema.
    fn attempt(
        here: &str,
        there: &str,
        renamed: &[&str],
        consent: Consent,
    ) -> (Connection, Result<ExitCode>) {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults().settings;
        settings.db_path = dir.path().join("app.db");
        let db = Connection::open(&settings.db_path).unwrap();
        db.execute_batch(here).unwrap();
        let other = Connection::open_in_memory().unwrap();
        other.execute_batch(there).unwrap();
        let objects = Objects::read(&other, &TableFilter::default()).unwrap();
        let published = Published::new(2, 5, objects, Vec::new());
        let mut lock = Lock::acquire(&settings.db_path).unwrap();
        let socket = dir.path().join("s");
        lock.announce(&Owner { pid: 1, node_id: 1, socket: socket.clone() }).unwrap();
        let node = control::fake_node(&socket, 200, serde_json::to_string(&published).unwrap());
        let renamed: Vec<String> = renamed.iter().map(|r| (*r).to_owned()).collect();
        let result = run(&settings, 2, &renamed, consent);
        node.join().unwrap();
        (db, result)
    }

    fn text(db: &Connection, sql: &str) -> String {
        db.query_row(sql, [], |r| r.get(0)).unwrap()
    }

    const HERE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), \
        (2, 'a')";
    const V: &str = "SELECT group_concat(v) FROM t";

    #[test]
    fn a_schema_is_taken_over_whole_or_not_at_all() {
        let there = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w DEFAULT 'x'); CREATE TABLE n (x)";
        let (db, result) = attempt(HERE, there, &[], YES);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(
            text(&db, "SELECT group_concat(v || w) FROM t, (SELECT count(*) FROM n)"),
            "ax,ax"
        );

        let unique = format!("{there}; CREATE UNIQUE INDEX u ON t (v)");
        let (db, result) = attempt(HERE, &unique, &[], YES);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("create index u on t") && error.contains("rolled back"), "{error}");
        assert_eq!(text(&db, "SELECT group_concat(name) FROM sqlite_schema"), "t");
        assert_eq!(text(&db, V), "a,a");
    }

    #[test]
    fn values_are_lost_only_if_that_was_said() {
        let there = "CREATE TABLE t (id INTEGER PRIMARY KEY, w)";
        let (db, result) = attempt(HERE, there, &[], YES);
        assert!(result.unwrap_err().to_string().contains("drop column v of table t"));
        assert_eq!(text(&db, V), "a,a");
        let (db, result) = attempt(HERE, there, &["t.v=w"], YES);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(text(&db, "SELECT group_concat(w) FROM t"), "a,a");
        let (db, result) = attempt(HERE, there, &[], Consent { drop: true, yes: true });
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(text(&db, "SELECT count(w) || '' FROM t"), "0");
    }

    #[test]
    fn nothing_runs_unasked_or_unchecked() {
        for (answer, expected) in [("y\n", true), ("YES\n", true), ("\n", false), ("", false)] {
            assert_eq!(agreed(true, answer.as_bytes()).unwrap(), expected, "{answer:?}");
        }
        let error = agreed(false, "y\n".as_bytes()).unwrap_err();
        assert!(error.to_string().contains("no terminal"), "{error}");
        let trigger = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TRIGGER r AFTER INSERT \
            ON t BEGIN DELETE FROM __harmonylite__meta; END";
        let (db, result) = attempt(HERE, trigger, &[], YES);
        assert!(result.unwrap_err().to_string().contains("__harmonylite__meta"));
        assert_eq!(text(&db, "SELECT count(*) || '' FROM sqlite_schema"), "1");
    }
}
