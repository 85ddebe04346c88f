//! `-schema-status`: the replicated tables of this database with their hashes.

use super::table::{paragraph, table};
use super::{database, progress, show};
use crate::db::schema::{Schema, inspect};
use crate::settings::Settings;
use crate::store::tables;
use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use rusqlite::Connection;
use std::process::ExitCode;

/// Prints the table.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let read = || {
        let db = database::open(&settings.db_path)?;
        let schema = inspect(&db, &settings.table_filter()?)
            .with_context(|| settings.db_path.display().to_string())?;
        text(&db, &schema)
    };
    let name = format!("reading {}", settings.db_path.display());
    show::print(&progress::during(&name, read)?);
    Ok(ExitCode::SUCCESS)
}

fn text(db: &Connection, schema: &Schema) -> Result<String> {
    let installed = crate::store::install::is_installed(db)?;
    let mut rows = Vec::new();
    for each in &schema.tables {
        let known = if installed { tables::hash(db, &each.name)? } else { None };
        let state = match known {
            Some(hash) if hash == each.hash => "replicated",
            Some(_) => "changed; the running node adopts it",
            None => "not replicated yet",
        };
        rows.push(vec![each.name.clone(), HEXLOWER.encode(&each.hash[..8]), state.to_owned()]);
    }
    let mut out = format!(
        "schema {}\n\n{}",
        HEXLOWER.encode(&schema.hash()),
        table(&["table", "hash", "state"], 3, rows)
    );
    for skipped in &schema.skipped {
        out += &paragraph(&format!("not replicated: {}: {}", skipped.name, skipped.reason), 0);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_shown_with_hash_and_state() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE f USING fts5(a);
             CREATE TABLE Alembic_Version (version_num);",
        )
        .unwrap();
        let show = || text(&db, &inspect(&db, &Default::default()).unwrap()).unwrap();
        assert!(
            show().contains("not replicated yet") && show().contains("not replicated: f: "),
            "{}",
            show()
        );
        assert!(
            show().contains("not replicated: Alembic_Version: bookkeeping of Alembic: run "),
            "{}",
            show()
        );
        crate::store::install::create_tables(&db, std::path::Path::new("x")).unwrap();
        crate::capture::install::install(&db, &Default::default(), 1).unwrap();
        assert!(show().contains("  replicated\n"), "{}", show());
        db.execute_batch("ALTER TABLE t ADD COLUMN a").unwrap();
        assert!(show().contains("changed"), "{}", show());
    }
}
