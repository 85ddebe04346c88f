//! Decides whether a change of the schema is made already, can be made, or contradicts what is
//! there.
//!
//! Arrives: the objects of this database, and a change that another node made. Leaves: a
//! [`ChangeState`]. Owns: two nodes that made the same change agree, and two that made different
//! ones never overwrite each other. Pure.

use crate::db::objects::{Kind, Object, Objects, Table};
use crate::db::schema_change::SchemaChange;
use crate::db::table_text::TableText;

/// What a change means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeState {
    /// The schema is as after the change, or what it changed is gone by now.
    Made,
    /// It is still to be made.
    Open,
    /// Something else is in its place, for people.
    Contradicts(String),
}

/// Returns what a change means for these objects, as one of several in order: what a later one
/// undoes, or moved to where it is by now, is made.
pub fn state_among(objects: &Objects, changes: &[SchemaChange], at: usize) -> ChangeState {
    let (Some(change), Some(later)) = (changes.get(at), changes.get(at + 1..)) else {
        return ChangeState::Made;
    };
    let settled = match change {
        SchemaChange::CreateTable { name, .. } => match fate(name, later) {
            Fate::Dropped => objects.table(name).is_none(),
            Fate::Named(last) => {
                !last.eq_ignore_ascii_case(name)
                    && objects.table(name).is_none()
                    && objects.table(last).is_some()
            }
        },
        // The table that is there can be the one that was made after it.
        SchemaChange::DropTable { name } => later.iter().any(|change| match change {
            SchemaChange::CreateTable { name: new, sql } if new.eq_ignore_ascii_case(name) => {
                create_table(objects, new, sql) == ChangeState::Made
            }
            _ => false,
        }),
        change => is_undone(change, later),
    };
    if settled { ChangeState::Made } else { state(objects, change) }
}

/// What becomes of a table.
enum Fate<'c> {
    Dropped,
    /// Its last name.
    Named(&'c str),
}

fn fate<'c>(mut name: &'c str, later: &'c [SchemaChange]) -> Fate<'c> {
    for change in later {
        match change {
            SchemaChange::DropTable { name: gone } if gone.eq_ignore_ascii_case(name) => {
                return Fate::Dropped;
            }
            SchemaChange::RenameTable { from, to } if from.eq_ignore_ascii_case(name) => name = to,
            _ => {}
        }
    }
    Fate::Named(name)
}

/// Whether a later change takes away again what this one adds to a table, or the object that it
/// creates.
pub fn is_undone(change: &SchemaChange, later: &[SchemaChange]) -> bool {
    let (mut table, mut column) = match change {
        SchemaChange::AddColumn { table, column, .. } => (table, Some(column)),
        SchemaChange::CreateIndex { table, .. } | SchemaChange::CreateTrigger { table, .. } => {
            (table, None)
        }
        SchemaChange::CreateView { name, .. } => (name, None),
        _ => return false,
    };
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    for next in later {
        match (next, change) {
            (SchemaChange::RenameTable { from, to }, _) if same(from, table) => table = to,
            (SchemaChange::DropTable { name }, _) if same(name, table) => return true,
            (SchemaChange::Rebuild { table: of, columns, .. }, _) if same(of, table) => {
                let Some(added) = column else { return true };
                match columns.iter().find(|(old, _)| same(old, added)) {
                    Some((_, new)) => column = Some(new),
                    None => return true,
                }
            }
            (SchemaChange::DropColumn { table: of, column: gone }, _)
                if same(of, table) && column.is_some_and(|added| same(added, gone)) =>
            {
                return true;
            }
            (SchemaChange::RenameColumn { table: of, from, to }, _)
                if same(of, table) && column.is_some_and(|added| same(added, from)) =>
            {
                column = Some(to);
            }
            (SchemaChange::DropIndex { name }, SchemaChange::CreateIndex { name: new, .. })
            | (SchemaChange::DropView { name }, SchemaChange::CreateView { name: new, .. })
            | (SchemaChange::DropTrigger { name }, SchemaChange::CreateTrigger { name: new, .. })
                if same(name, new) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Returns what a change means for these objects.
pub fn state(objects: &Objects, change: &SchemaChange) -> ChangeState {
    match change {
        SchemaChange::CreateTable { name, sql } => create_table(objects, name, sql),
        SchemaChange::DropTable { name } => made_if(objects.table(name).is_none()),
        SchemaChange::RenameTable { from, to } => {
            renamed("table", from, to, |name| objects.table(name).is_some())
        }
        SchemaChange::AddColumn { table, column, definition } => {
            with_table(objects, table, |t| add_column(t, column, definition))
        }
        SchemaChange::DropColumn { table, column } => {
            with_table(objects, table, |t| made_if(t.text.column(column).is_none()))
        }
        SchemaChange::RenameColumn { table, from, to } => with_table(objects, table, |t| {
            renamed("column", from, to, |name| t.text.column(name).is_some())
        }),
        SchemaChange::Rebuild { table, sql, columns, lost, .. } => {
            with_table(objects, table, |t| rebuild(t, table, sql, columns, lost))
        }
        SchemaChange::CreateIndex { name, sql, .. } => create(objects, Kind::Index, name, sql),
        SchemaChange::CreateView { name, sql } => create(objects, Kind::View, name, sql),
        SchemaChange::CreateTrigger { name, sql, .. } => create(objects, Kind::Trigger, name, sql),
        SchemaChange::DropIndex { name } => made_if(objects.other(Kind::Index, name).is_none()),
        SchemaChange::DropView { name } => made_if(objects.other(Kind::View, name).is_none()),
        SchemaChange::DropTrigger { name } => made_if(objects.other(Kind::Trigger, name).is_none()),
    }
}

fn made_if(made: bool) -> ChangeState {
    if made { ChangeState::Made } else { ChangeState::Open }
}

fn with_table(
    objects: &Objects,
    name: &str,
    state: impl FnOnce(&Table) -> ChangeState,
) -> ChangeState {
    // Changes are sent again when rows were lost: a later one may have renamed or dropped it.
    objects.table(name).map_or(ChangeState::Made, state)
}

fn renamed(what: &str, from: &str, to: &str, exists: impl Fn(&str) -> bool) -> ChangeState {
    match (exists(from), exists(to)) {
        (false, _) => ChangeState::Made,
        (true, false) => ChangeState::Open,
        // Only the case of its letters differs.
        (true, true) if from.eq_ignore_ascii_case(to) => ChangeState::Open,
        (true, true) => ChangeState::Contradicts(format!("{what} {to} exists here as well")),
    }
}

fn create_table(objects: &Objects, name: &str, sql: &str) -> ChangeState {
    let object =
        Object { kind: Kind::Table, name: name.into(), table: name.into(), sql: sql.into() };
    match (Table::try_from(object), objects.table(name)) {
        (Err(error), _) => ChangeState::Contradicts(error),
        (Ok(_), None) => ChangeState::Open,
        (Ok(wanted), Some(present)) if present.is_like(&wanted) => ChangeState::Made,
        (Ok(_), Some(_)) => {
            ChangeState::Contradicts(format!("table {name} exists here with another definition"))
        }
    }
}

fn add_column(table: &Table, column: &str, definition: &str) -> ChangeState {
    let Some(present) = table.text.column(column) else { return ChangeState::Open };
    let wanted = TableText::parse(&format!("CREATE TABLE x ({definition})"));
    let same = wanted.is_ok_and(|text| text.columns.iter().any(|c| c.normal == present.normal));
    if same {
        return ChangeState::Made;
    }
    let name = &table.name;
    ChangeState::Contradicts(format!("column {column} of {name} exists here, but is another one"))
}

fn rebuild(
    table: &Table,
    name: &str,
    sql: &str,
    copied: &[(String, String)],
    lost: &[String],
) -> ChangeState {
    match create_table(&Objects { tables: vec![table.clone()], others: Vec::new() }, name, sql) {
        ChangeState::Made => return ChangeState::Made,
        ChangeState::Open => return ChangeState::Contradicts(format!("it is no table {name}")),
        ChangeState::Contradicts(_) => {}
    }
    // A column that its origin did not have must not vanish with it.
    let known = || copied.iter().map(|(column, _)| column).chain(lost);
    let is_new = |column: &str| !known().any(|c| c.eq_ignore_ascii_case(column));
    let stored = table.text.columns.iter().filter(|c| c.generated.is_none());
    if let Some(column) = stored.map(|c| &c.name).find(|column| is_new(column)) {
        return ChangeState::Contradicts(format!("{name} has a column {column} here"));
    }
    let rowid = |column: &str| {
        ["rowid", "_rowid_", "oid"].iter().any(|alias| column.eq_ignore_ascii_case(alias))
    };
    let lacks = |column: &str| !rowid(column) && table.text.column(column).is_none();
    match copied.iter().find(|(column, _)| lacks(column)) {
        Some((column, _)) => {
            ChangeState::Contradicts(format!("{name} has no column {column} here"))
        }
        None => ChangeState::Open,
    }
}

/// Indexes, views and triggers. Another one of the same name stays: it decides nothing about rows,
/// except a unique index, whose difference the schema's hash shows.
fn create(objects: &Objects, kind: Kind, name: &str, sql: &str) -> ChangeState {
    let Some(present) = objects.other(kind, name) else { return ChangeState::Open };
    let wanted = Object { sql: sql.into(), ..present.clone() };
    if !present.is_like(&wanted) {
        tracing::warn!(
            name,
            "another node created this {} with another text; ours stays",
            kind.word()
        );
    }
    ChangeState::Made
}

#[cfg(test)]
#[path = "schema_state_tests.rs"]
mod tests;
