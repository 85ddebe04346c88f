//! Finds the steps that turn one schema into another.
//!
//! Arrives: the objects of two databases, and the renames that are known. Leaves: the changes in
//! the order in which they must run. Owns: no row is lost that the other schema has a place for; a
//! table is rebuilt only where ALTER TABLE cannot do it. Pure.

use crate::db::objects::{Kind, Object, Objects, Table};
use crate::db::schema_change::SchemaChange;
use crate::db::sql_tokens::{ident, normal, tokens};
use crate::db::table_text::ColumnText;
use std::collections::{BTreeMap, BTreeSet};

/// What is known to be the same under another name. Without it, what vanished is dropped and what
/// is new is added.
#[derive(Clone, Debug, Default)]
pub struct Renames {
    /// Tables: name before, name after.
    pub tables: Vec<(String, String)>,
    /// Columns.
    pub columns: Vec<ColumnRename>,
}

/// A column under another name.
#[derive(Clone, Debug)]
pub struct ColumnRename {
    /// The table, under its name after.
    pub table: String,
    /// The column's name before.
    pub from: String,
    /// Its name after.
    pub to: String,
}

/// The changes that turn `from` into `to`, in order. Virtual tables are left alone.
pub fn changes(from: &Objects, to: &Objects, renames: &Renames) -> Vec<SchemaChange> {
    let names = Names::new(from, to, renames);
    let mut found = Found::default();
    for table in &from.tables {
        match to.table(names.table(&table.name)) {
            Some(target) => found.compare(table, target, from, &names),
            None => {
                found.touched.insert(ident(&table.name));
                found.gone.insert(ident(&table.name));
                found.dropped.push(SchemaChange::DropTable { name: table.name.clone() });
            }
        }
    }
    let was = |name: &str| from.tables.iter().any(|t| same(names.table(&t.name), name));
    let new = to
        .tables
        .iter()
        .filter(|t| !was(&t.name))
        .map(|t| SchemaChange::CreateTable { name: t.name.clone(), sql: t.sql.clone() });
    found.altered.extend(new);
    for (before, after) in &names.tables {
        found.touched.extend([before.clone(), after.clone()]);
    }
    let (drops, creates) = dependents(from, to, &names, &found);
    let mut all = drops;
    all.extend(found.dropped);
    all.extend(names.renamed);
    all.extend(found.altered);
    all.extend(creates);
    all
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The renames that can be carried out.
struct Names<'r> {
    /// Tables: the normal form of the name before and of the name after.
    tables: BTreeMap<String, String>,
    /// The names after, as written.
    written: BTreeMap<String, &'r str>,
    /// Columns by the table's name before: normal forms before and after.
    columns: BTreeMap<String, BTreeMap<String, String>>,
    /// The columns as written.
    column_list: Vec<(String, &'r ColumnRename)>,
    /// The renames of tables, in an order in which each new name is free.
    renamed: Vec<SchemaChange>,
}

impl<'r> Names<'r> {
    fn new(from: &Objects, to: &Objects, renames: &'r Renames) -> Self {
        let mut names = Self {
            tables: BTreeMap::new(),
            written: BTreeMap::new(),
            columns: BTreeMap::new(),
            column_list: Vec::new(),
            renamed: Vec::new(),
        };
        let mut waiting: Vec<&(String, String)> = renames
            .tables
            .iter()
            .filter(|(a, b)| !same(a, b) && from.table(a).is_some() && to.table(b).is_some())
            .collect();
        // A name is free if no table has it, or if its table is renamed before or dropped.
        while let Some(at) = waiting.iter().position(|(_, b)| {
            let taken = from.table(b).is_some() && !names.tables.contains_key(&ident(b));
            let leaves = waiting.iter().any(|(a, _)| same(a, b));
            !taken || !leaves
        }) {
            let (a, b) = waiting.remove(at);
            let is_taken = names.tables.values().any(|known| *known == ident(b));
            if is_taken || names.tables.contains_key(&ident(a)) {
                continue;
            }
            names.tables.insert(ident(a), ident(b));
            names.written.insert(ident(a), b);
            names.renamed.push(SchemaChange::RenameTable { from: a.clone(), to: b.clone() });
        }
        names.take_columns(from, to, renames);
        names
    }

    fn take_columns(&mut self, from: &Objects, to: &Objects, renames: &'r Renames) {
        for table in &from.tables {
            let Some(target) = to.table(self.table(&table.name)) else { continue };
            for rename in renames.columns.iter().filter(|r| same(&r.table, &target.name)) {
                let known = self.columns.entry(ident(&table.name)).or_default();
                let is_new = table.text.column(&rename.to).is_none();
                let fits = table.text.column(&rename.from).is_some()
                    && target.text.column(&rename.to).is_some()
                    && target.text.column(&rename.from).is_none();
                let taken = known.values().any(|name| *name == ident(&rename.to));
                if fits && is_new && !taken {
                    known.insert(ident(&rename.from), ident(&rename.to));
                    self.column_list.push((ident(&table.name), rename));
                }
            }
        }
    }

    /// The name after of a table; a table whose name another one takes has none.
    fn table<'n>(&'n self, before: &'n str) -> &'n str {
        match self.written.get(&ident(before)) {
            Some(after) => after,
            None if self.tables.values().any(|after| *after == ident(before)) => "",
            None => before,
        }
    }

    /// The renamed columns of a table, by its name before.
    fn renamed_columns(&self, before: &str) -> impl Iterator<Item = &'r ColumnRename> {
        let table = ident(before);
        self.column_list.iter().filter(move |(t, _)| *t == table).map(|(_, rename)| *rename)
    }

    /// A definition in normal form, as SQLite rewrites it for the renames. Within parentheses every
    /// word that is a renamed column counts as that column: taking one too many only makes two
    /// texts differ.
    fn rewritten(&self, table: &str, definition: &[String]) -> Vec<String> {
        let empty = BTreeMap::new();
        let own = self.columns.get(&ident(table)).unwrap_or(&empty);
        let (mut depth, mut parent) = (0_usize, None::<&BTreeMap<String, String>>);
        let mut out: Vec<String> = Vec::with_capacity(definition.len());
        for (i, word) in definition.iter().enumerate() {
            let after_references = i > 0 && definition[i - 1] == "references";
            let after = match word.as_str() {
                _ if after_references => {
                    parent = Some(self.columns.get(word).unwrap_or(&empty));
                    self.tables.get(word)
                }
                "(" => {
                    depth += 1;
                    None
                }
                ")" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        parent = None;
                    }
                    None
                }
                _ if depth > 0 => parent.unwrap_or(own).get(word),
                _ => None,
            };
            // The list of a parent's columns follows its name at once.
            if depth == 0 && !after_references && word != ")" {
                parent = None;
            }
            out.push(after.unwrap_or(word).clone());
        }
        out
    }

    fn rewritten_column(&self, table: &str, column: &ColumnText) -> Vec<String> {
        let mut out = self.rewritten(table, &column.normal);
        let renamed = self.columns.get(&ident(table)).and_then(|c| c.get(&ident(&column.name)));
        if let (Some(after), Some(name)) = (renamed, out.first_mut()) {
            name.clone_from(after);
        }
        out
    }

    /// The text of an index as SQLite rewrites it.
    fn rewritten_index(&self, index: &Object) -> Option<Vec<String>> {
        let mut words = normal(&tokens(&index.sql).ok()?);
        let on = words.iter().position(|word| word == "on")?;
        let head = words.drain(..=on).collect::<Vec<_>>();
        let table = words.first()?.clone();
        let columns = self.columns.get(&table);
        let mut out = head;
        out.push(self.tables.get(&table).unwrap_or(&table).clone());
        out.extend(words.drain(1..).map(|word| {
            let after = columns.and_then(|c| c.get(&word));
            after.cloned().unwrap_or(word)
        }));
        Some(out)
    }
}

/// What a comparison of the tables has found.
#[derive(Default)]
struct Found {
    /// Dropped tables.
    dropped: Vec<SchemaChange>,
    /// Changed columns, rebuilt and new tables.
    altered: Vec<SchemaChange>,
    /// Tables whose views and triggers have to make room, in normal form.
    touched: BTreeSet<String>,
    /// Tables whose indexes and triggers vanish with them: dropped and rebuilt ones, by the name
    /// before.
    gone: BTreeSet<String>,
}

impl Found {
    fn compare(&mut self, table: &Table, target: &Table, objects: &Objects, names: &Names<'_>) {
        let plan = Plan::new(table, target, objects, names);
        let name = &target.name;
        let before = self.altered.len();
        // Also before a rebuild: SQLite then follows the name in the other tables.
        let renames = names.renamed_columns(&table.name).map(|r| SchemaChange::RenameColumn {
            table: name.clone(),
            from: r.from.clone(),
            to: r.to.clone(),
        });
        self.altered.extend(renames);
        if plan.rebuild {
            self.touched.extend([ident(&table.name), ident(name)]);
            self.gone.insert(ident(&table.name));
            self.altered.push(rebuild(table, target, names));
            return;
        }
        self.altered.extend(
            plan.dropped
                .iter()
                .map(|c| SchemaChange::DropColumn { table: name.clone(), column: c.name.clone() }),
        );
        if self.altered.len() > before {
            self.touched.extend([ident(&table.name), ident(name)]);
        }
        self.altered.extend(plan.added.iter().map(|c| SchemaChange::AddColumn {
            table: name.clone(),
            column: c.name.clone(),
            definition: c.definition.clone(),
        }));
    }
}

/// How a table gets the columns of another.
struct Plan<'t> {
    dropped: Vec<&'t ColumnText>,
    added: Vec<&'t ColumnText>,
    rebuild: bool,
}

impl<'t> Plan<'t> {
    fn new(table: &'t Table, target: &'t Table, objects: &Objects, names: &Names<'_>) -> Self {
        let (now, then) = (&target.text, &table.text);
        let name_after = |c: &ColumnText| names.rewritten_column(&table.name, c)[0].clone();
        let after: Vec<String> = then.columns.iter().map(name_after).collect();
        let added: Vec<&ColumnText> =
            now.columns.iter().filter(|c| !after.contains(&c.normal[0])).collect();
        let dropped: Vec<&ColumnText> = then
            .columns
            .iter()
            .zip(&after)
            .filter(|(_, name)| now.columns.iter().all(|c| c.normal[0] != **name))
            .map(|(c, _)| c)
            .collect();
        let constraints: Vec<Vec<String>> =
            then.constraints.iter().map(|c| names.rewritten(&table.name, c)).collect();
        let changed = then.columns.iter().zip(&after).any(|(c, name)| {
            let present = now.columns.iter().find(|present| present.normal[0] == *name);
            present.is_some_and(|p| p.normal != names.rewritten_column(&table.name, c))
        });
        let stuck = |column: &&ColumnText| !can_be_dropped(column, table, objects);
        let rebuild = (now.without_rowid, now.strict) != (then.without_rowid, then.strict)
            || constraints != now.constraints
            || changed
            || dropped.len() == then.columns.len()
            || dropped.iter().any(stuck)
            || added.iter().any(|c| !c.can_be_added());
        Self { dropped, added, rebuild }
    }
}

/// Whether `ALTER TABLE DROP COLUMN` takes it once the indexes are gone that name it. Our own
/// triggers name the columns of unique indexes, so these are dropped by a rebuild.
fn can_be_dropped(column: &ColumnText, table: &Table, objects: &Objects) -> bool {
    let name = ident(&column.name);
    let in_unique = objects.others.iter().any(|o| {
        o.kind == Kind::Index
            && same(&o.table, &table.name)
            && crate::db::objects::starts_with_words(&o.sql, ["create", "unique"])
            && o.mentions(&name)
    });
    let others = table.text.columns.iter().filter(|c| c.name != column.name);
    let in_others = others.flat_map(|c| c.normal.iter().skip(1)).any(|word| *word == name);
    let in_constraints = table.text.constraints.iter().flatten().any(|word| *word == name);
    let is_named = in_unique || in_others || in_constraints;
    !(column.primary || column.unique || column.references || is_named)
}

/// Copies every column that both have, under its name after, and the rowid where it has a name of
/// its own.
fn rebuild(table: &Table, target: &Table, names: &Names<'_>) -> SchemaChange {
    let mut columns: Vec<String> = Vec::new();
    if table.text.has_free_rowid() && target.text.has_free_rowid() {
        let is_column = |n: &str| table.text.column(n).or(target.text.column(n)).is_some();
        let alias = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !is_column(alias));
        columns.extend(alias.map(str::to_owned));
    }
    let mut lost = Vec::new();
    for column in &table.text.columns {
        let after = names.rewritten_column(&table.name, column);
        let present = target.text.columns.iter().find(|c| c.normal[0] == after[0]);
        match present {
            Some(present) if present.generated.is_none() => columns.push(present.name.clone()),
            _ if column.generated.is_none() => lost.push(column.name.clone()),
            _ => {}
        }
    }
    SchemaChange::Rebuild {
        table: target.name.clone(),
        sql: target.sql.clone(),
        columns: columns.into_iter().map(|name| (name.clone(), name)).collect(),
        lost,
        filled: Vec::new(),
    }
}

/// The indexes, views and triggers to drop first and to create last.
fn dependents(
    from: &Objects,
    to: &Objects,
    names: &Names<'_>,
    found: &Found,
) -> (Vec<SchemaChange>, Vec<SchemaChange>) {
    let moving = moving(from, to, found);
    let stays = |object: &Object| match object.kind {
        Kind::Index => {
            let target = to.other(Kind::Index, &object.name);
            !found.gone.contains(&ident(&object.table))
                && target.is_some_and(|t| {
                    let there = tokens(&t.sql).ok().map(|all| normal(&all));
                    there == names.rewritten_index(object)
                })
        }
        kind => !moving.contains(&(kind, ident(&object.name))),
    };
    let mut drops = Vec::new();
    for kind in [Kind::Trigger, Kind::View, Kind::Index] {
        let with_table = |o: &Object| kind == Kind::Index && found.gone.contains(&ident(&o.table));
        let leaving = from.others.iter().filter(|o| o.kind == kind && !stays(o) && !with_table(o));
        drops.extend(leaving.map(|o| dropped(kind, o.name.clone())));
    }
    let mut creates = Vec::new();
    for kind in [Kind::Index, Kind::View, Kind::Trigger] {
        for object in to.others.iter().filter(|o| o.kind == kind) {
            if !from.other(kind, &object.name).is_some_and(&stays) {
                creates.push(created(object));
            }
        }
    }
    (drops, creates)
}

/// The views and triggers that are not kept as they are: those that differ, and those that name
/// what is altered, dropped or moving itself. ALTER TABLE fails while one of them names something
/// that is not there.
fn moving(from: &Objects, to: &Objects, found: &Found) -> BTreeSet<(Kind, String)> {
    let mut moving = BTreeSet::new();
    let mut touched = found.touched.clone();
    loop {
        let before = moving.len();
        for object in from.others.iter().filter(|o| matches!(o.kind, Kind::View | Kind::Trigger)) {
            let kept = to.other(object.kind, &object.name).is_some_and(|t| t.is_like(object));
            let names_touched = || {
                let table = ident(&object.table);
                touched.contains(&table) && object.kind == Kind::Trigger
                    || touched.iter().any(|name| object.mentions(name))
            };
            let key = (object.kind, ident(&object.name));
            let moves = !moving.contains(&key) && (!kept || names_touched());
            if moves && object.kind == Kind::View {
                touched.insert(key.1.clone());
            }
            if moves {
                moving.insert(key);
            }
        }
        if moving.len() == before {
            return moving;
        }
    }
}

fn dropped(kind: Kind, name: String) -> SchemaChange {
    match kind {
        Kind::Index => SchemaChange::DropIndex { name },
        Kind::View => SchemaChange::DropView { name },
        Kind::Trigger => SchemaChange::DropTrigger { name },
        Kind::Table | Kind::Virtual => SchemaChange::DropTable { name },
    }
}

fn created(object: &Object) -> SchemaChange {
    let (name, table, sql) = (object.name.clone(), object.table.clone(), object.sql.clone());
    match object.kind {
        Kind::Index => SchemaChange::CreateIndex { name, table, sql },
        Kind::View => SchemaChange::CreateView { name, sql },
        Kind::Trigger => SchemaChange::CreateTrigger { name, table, sql },
        Kind::Table | Kind::Virtual => SchemaChange::CreateTable { name, sql },
    }
}

#[cfg(test)]
#[path = "schema_diff_tests.rs"]
mod tests;
