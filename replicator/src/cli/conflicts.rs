//! `harmonylite conflicts`: lists and restores writes that lost against a concurrent write.

use super::args::ConflictsAction;
use super::exit::{Exit, Failure};
use super::table::{Facts, table};
use super::{database, progress, restore, restore_as_new, show};
use crate::settings::Settings;
use crate::store::conflicts::{self, Conflict, INSERTED_TWICE};
use anyhow::Result;
use rusqlite::Connection;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Runs `harmonylite conflicts`.
pub(crate) fn run(settings: &Settings, action: ConflictsAction) -> Result<ExitCode> {
    let name = format!("working on {}", settings.db_path.display());
    show::print(&progress::during(&name, || perform(settings, action))?);
    Ok(ExitCode::SUCCESS)
}

fn perform(settings: &Settings, action: ConflictsAction) -> Result<String> {
    let mut db = database::open_installed(&settings.db_path)?;
    Ok(match action {
        ConflictsAction::List { json, most } => list(&conflicts::list(&db, most.into())?, json)?,
        ConflictsAction::Show { id } => detail(&find(&db, id)?),
        ConflictsAction::Restore { id, new_id } => {
            let (conflict, filter) = (find(&db, id)?, settings.table_filter()?);
            match new_id {
                true => restore_as_new::restore(&mut db, &filter, &conflict)?,
                false => restore::restore(&mut db, &filter, &conflict)?,
            }
        }
        ConflictsAction::Clear => format!("removed {} conflicts\n", conflicts::clear(&db)?),
    })
}

fn find(db: &Connection, id: i64) -> Result<Conflict> {
    let found = conflicts::list(db, i64::MAX)?.into_iter().find(|c| c.id == id);
    found.ok_or_else(|| {
        Failure::new(
            Exit::General,
            format!("no conflict {id}"),
            "`harmonylite conflicts list` shows the ids",
        )
        .into()
    })
}

fn list(conflicts: &[Conflict], json: bool) -> Result<String> {
    if json {
        return Ok(serde_json::to_string(conflicts)? + "\n");
    }
    if conflicts.is_empty() {
        return Ok("no conflicts\n".to_owned());
    }
    let rows = conflicts.iter().map(|c| {
        let lost = c.content.as_deref().unwrap_or("a delete");
        vec![
            c.id.to_string(),
            show::moment(c.time_ms),
            c.table.clone(),
            c.key.clone(),
            c.reason.clone(),
            shorten(lost),
        ]
    });
    let header = ["id", "time", "table", "key", "reason", "losing write"];
    Ok(table(&header, header.len(), rows.collect()))
}

fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        text.to_owned()
    } else {
        text.chars().take(MOST - 3).collect::<String>() + "..."
    }
}

fn detail(c: &Conflict) -> String {
    let mut facts = Facts::new();
    let rows = [
        ("conflict", c.id.to_string()),
        ("time", show::moment(c.time_ms)),
        ("table", c.table.clone()),
        ("key", c.key.clone()),
        ("reason", c.reason.clone()),
        ("winner", format!("version {}", c.winner)),
        ("loser", format!("version {}", c.loser)),
    ];
    for (label, text) in rows {
        facts.line(label, &text);
    }
    let columns = restore::columns(c.content.as_deref());
    if columns.is_none() {
        facts.line("content", "none: the losing write was a delete");
    }
    let mut out = facts.text();
    for (name, literal) in columns.into_iter().flatten() {
        let _ = writeln!(out, "  {name} = {literal}");
    }
    let _ = writeln!(out, "to restore it: harmonylite conflicts restore {}", c.id);
    if c.reason == INSERTED_TWICE {
        let _ = writeln!(
            out,
            "as a row of its own, under a free id: harmonylite conflicts restore {} --new-id",
            c.id
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &std::path::Path) -> Settings {
        Settings { db_path: dir.join("app.db"), ..Settings::default() }
    }

    #[test]
    fn conflicts_are_listed_shown_and_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let db = Connection::open(&settings.db_path).unwrap();
        crate::store::install::create_tables(&db, &settings.db_path).unwrap();
        assert_eq!(list(&[], false).unwrap(), "no conflicts\n");
        db.execute_batch(
            r#"INSERT INTO __harmonylite__conflict (time, table_name, key, reason,
               winner_hlc, winner_site, loser_hlc, loser_site, loser)
               VALUES (1700000000000, 't', '{"id":"1"}', 'concurrent writes', 2, 2, 1, 1,
                       '{"id":"1","a":"''x''"}'),
                      (1700000000000, 't', '{"id":"2"}', 'concurrent writes', 2, 2, 1, 1, NULL)"#,
        )
        .unwrap();
        let all = conflicts::list(&db, 10).unwrap();
        let text = list(&all, false).unwrap();
        assert!(text.contains("2023-11-14T22:13:20Z") && text.contains("a delete"), "{text}");
        let listed: serde_json::Value = serde_json::from_str(&list(&all, true).unwrap()).unwrap();
        assert_eq!(listed[1]["content"], all[1].content.clone().unwrap());
        assert!(detail(&find(&db, 1).unwrap()).contains("  a = 'x'\n"));
        assert!(detail(&find(&db, 2).unwrap()).contains("was a delete"));
        assert!(find(&db, 3).unwrap_err().to_string().contains("no conflict 3"));
        run(&settings, ConflictsAction::Clear).unwrap();
        assert_eq!(conflicts::count(&db).unwrap(), 0);
    }
}
