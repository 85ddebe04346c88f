//! `harmonylite schema diff`: what turns this database's schema into that of another node.
//!
//! Arrives: this database, and the other node's objects through the running node. Leaves: the
//! changes, in words and as SQL. Owns: what comes from another node is checked before it is shown,
//! and cannot control the terminal. Reads only.

use super::exit::{Exit, Failure};
use super::table::paragraph;
use super::{control, database, progress, show};
use crate::clock;
use crate::db::lockfile::{Owner, Sidecar, sidecar};
use crate::db::objects::{Kind, Objects};
use crate::db::published_objects::Published;
use crate::db::schema_change::SchemaChange;
use crate::db::schema_diff::{ColumnRename, Renames, changes};
use crate::db::schema_run;
use crate::settings::Settings;
use anyhow::{Context, Result};
use rusqlite::Connection;
use std::process::ExitCode;

/// Prints the differences.
pub(crate) fn run(settings: &Settings, node: u64, renamed: &[String]) -> Result<ExitCode> {
    let db = database::open(&settings.db_path)?;
    let wanted = Wanted::fetch(settings, node, renamed)?;
    let ours = wanted.ours(settings, &db)?;
    let theirs = wanted.theirs(&ours);
    let mut out = wanted.heading();
    let here = wanted.changes(&ours.objects, &theirs)?;
    out += &describe(&here, node)?;
    let lacks: Vec<SchemaChange> = changes(&theirs, &ours.objects, &Renames::default())
        .into_iter()
        .filter(SchemaChange::is_additive)
        .collect();
    if !lacks.is_empty() {
        out += &format!("node {node} lacks:\n");
        out += &list(lacks.iter().map(SchemaChange::words));
    }
    out += &virtual_tables(&ours.objects, &theirs, node);
    if !here.is_empty() {
        out += &paragraph(
            &format!("`harmonylite schema apply --from {node}` runs this in one transaction"),
            0,
        );
    }
    show::print(&out);
    Ok(ExitCode::SUCCESS)
}

/// This database's side of a comparison.
pub(super) struct Ours {
    /// What the other node does not keep to itself.
    pub(super) objects: Objects,
    /// The tables that this node keeps to itself.
    local: Vec<String>,
}

/// The schema that another node has published, and what was renamed.
#[derive(Debug)]
pub(super) struct Wanted {
    node: u64,
    published: Published,
    objects: Objects,
    renames: Renames,
}

impl Wanted {
    /// Asks the running node for the schema of another one.
    pub(super) fn fetch(settings: &Settings, node: u64, renamed: &[String]) -> Result<Self> {
        let renames = parse_renames(renamed)?;
        let Sidecar::Running(owner) = sidecar(&settings.db_path)? else {
            let what = format!(
                "no node runs on {}, so the other nodes' schemas are unknown",
                settings.db_path.display()
            );
            return Err(Failure::new(Exit::General, what, "start it with `harmonylite run`").into());
        };
        if owner.as_ref().is_some_and(|owner| owner.node_id == node) {
            return Err(Failure::new(
                Exit::Usage,
                format!("node {node} is this node"),
                "name another one: `harmonylite schema --cluster` lists all",
            )
            .into());
        }
        let published = ask(owner.as_ref(), node)?;
        let Some(objects) = published.objects.clone() else {
            return Err(Failure::new(
                Exit::General,
                format!("the schema of node {node} is too large for the registry"),
                "compare `.schema` of both databases by hand",
            )
            .into());
        };
        Ok(Self { node, published, objects, renames })
    }

    fn heading(&self) -> String {
        let age = show::ago(self.published.written_ms, clock::unix_ms());
        format!("this database compared with node {} (its schema was published {age})\n", self.node)
    }

    /// Reads this database's side.
    pub(super) fn ours(&self, settings: &Settings, db: &Connection) -> Result<Ours> {
        let name = || settings.db_path.display().to_string();
        let objects = Objects::read(db, &settings.table_filter()?).with_context(name)?;
        let local = objects.local_tables(db).with_context(name)?;
        Ok(Ours { objects: objects.without(&self.published.local), local })
    }

    /// The other side, without what this node keeps to itself.
    pub(super) fn theirs(&self, ours: &Ours) -> Objects {
        self.objects.clone().without(&ours.local)
    }

    /// What turns the one into the other. Each rename must be one of the changes.
    pub(super) fn changes(&self, ours: &Objects, theirs: &Objects) -> Result<Vec<SchemaChange>> {
        let found = changes(ours, theirs, &self.renames);
        let tables = self
            .renames
            .tables
            .iter()
            .map(|(from, to)| SchemaChange::RenameTable { from: from.clone(), to: to.clone() });
        let columns = self.renames.columns.iter().map(|c| SchemaChange::RenameColumn {
            table: c.table.clone(),
            from: c.from.clone(),
            to: c.to.clone(),
        });
        match tables.chain(columns).find(|rename| !is_among(rename, &found)) {
            None => Ok(found),
            Some(rename) => Err(Failure::new(
                Exit::Usage,
                format!("it is not possible to {}", rename.words()),
                "the old name must be here and not there, the new one there and not here; a \
                column's table is given under its new name",
            )
            .into()),
        }
    }
}

fn is_among(rename: &SchemaChange, found: &[SchemaChange]) -> bool {
    let wanted = rename.words().to_ascii_lowercase();
    found.iter().any(|change| change.words().to_ascii_lowercase() == wanted)
}

fn ask(owner: Option<&Owner>, node: u64) -> Result<Published> {
    let ask = || control::ask(owner, "GET", &format!("/schema/{node}"));
    let answer = progress::during("asking the node", ask)?;
    let failed = |what: String, hint: &str| Err(Failure::new(Exit::General, what, hint).into());
    match answer.status {
        200 => {
            let published: Published = serde_json::from_str(&answer.body).context(
                "the node's answer cannot be read: is it another version of harmonylite?",
            )?;
            match published.check() {
                Ok(()) => Ok(published),
                Err(reason) => failed(
                    format!("the schema of node {node} is refused: {reason}"),
                    "look at the database of that node",
                ),
            }
        }
        404 => failed(
            format!("node {node} has not published its schema"),
            "`harmonylite schema --cluster` lists the nodes; an older version does not publish it",
        ),
        502 => failed(answer.body, "look at the version and the database of that node"),
        _ => failed(
            format!("the node cannot read the registry: {}", answer.body),
            "`harmonylite status` shows the state of its connection",
        ),
    }
}

/// `OLD=NEW` is a table, `TABLE.OLD=NEW` a column.
fn parse_renames(texts: &[String]) -> Result<Renames, Failure> {
    let mut renames = Renames::default();
    for text in texts {
        let parts = text.split_once('=').filter(|(from, to)| !from.is_empty() && !to.is_empty());
        let Some((from, to)) = parts else {
            return Err(Failure::new(
                Exit::Usage,
                format!("--rename {text} has no old and new name"),
                "for a table --rename OLD=NEW, for a column --rename TABLE.OLD=NEW",
            ));
        };
        match from.split_once('.') {
            None => renames.tables.push((from.to_owned(), to.to_owned())),
            Some((table, from)) => renames.columns.push(ColumnRename {
                table: table.to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
            }),
        }
    }
    Ok(renames)
}

/// The changes in words and as SQL.
pub(super) fn describe(changes: &[SchemaChange], node: u64) -> Result<String> {
    if changes.is_empty() {
        return Ok(format!("nothing to change here: this database has all that node {node} has\n"));
    }
    let mut out = format!("to become as node {node}, here:\n");
    out += &list(changes.iter().map(SchemaChange::words));
    out += "as SQL:\n";
    let sql = schema_run::as_sql(changes).map_err(|cause| {
        let what = format!("the schema of node {node} cannot be made here: {cause}");
        Failure::new(Exit::General, what, "look at the database of that node")
    })?;
    out += &list(sql);
    if changes.iter().any(SchemaChange::loses_values) {
        out += &paragraph(
            "this loses values. What was renamed looks like dropped and new: --rename OLD=NEW \
            names a table, --rename TABLE.OLD=NEW a column. The values of a dropped column are \
            lost on this node only if it is really gone there.",
            0,
        );
    }
    Ok(out)
}

fn virtual_tables(ours: &Objects, theirs: &Objects, node: u64) -> String {
    let only = |here: &Objects, there: &Objects, place: &str| {
        let all = here.others.iter().filter(|o| o.kind == Kind::Virtual);
        let missing = all.filter(|o| there.other(Kind::Virtual, &o.name).is_none());
        let line = |name: &String| {
            let text = format!("virtual table {name} is only {place}: create it by hand");
            paragraph(&printable(&text), 0)
        };
        missing.map(|o| line(&o.name)).collect::<String>()
    };
    only(theirs, ours, &format!("at node {node}")) + &only(ours, theirs, "here")
}

/// One item a line, indented; further lines of an item too.
fn list(items: impl IntoIterator<Item = String>) -> String {
    let indented = |item: String| format!("  {}\n", printable(&item).replace('\n', "\n  "));
    items.into_iter().map(indented).collect()
}

/// Text of another node without the characters that control a terminal or change the direction of
/// writing: what is shown is what runs.
fn printable(text: &str) -> String {
    const TURNS: [std::ops::RangeInclusive<char>; 3] =
        ['\u{200b}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    let turns = |c: char| TURNS.iter().any(|range| range.contains(&c));
    let hides = |c: char| c.is_control() && c != '\n' && c != '\t' || turns(c);
    text.chars().map(|c| if hides(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::lockfile::Lock;
    use crate::model::table_filter::TableFilter;

    fn objects(sql: &str) -> Objects {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        Objects::read(&db, &TableFilter::default()).unwrap()
    }

    fn wanted(renamed: &[&str]) -> Result<Wanted, Failure> {
        let objects = objects("CREATE TABLE t (id INTEGER PRIMARY KEY, w); CREATE TABLE n (x)");
        let renamed: Vec<String> = renamed.iter().map(|r| (*r).to_owned()).collect();
        let published = Published::new(2, 5, objects.clone(), Vec::new());
        Ok(Wanted { node: 2, published, objects, renames: parse_renames(&renamed)? })
    }

    #[test]
    fn renames_are_read_and_each_must_be_possible() {
        let ours = objects("CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE o (x)");
        let words = |renamed: &[&str]| -> Result<String> {
            let wanted = wanted(renamed)?;
            let found = wanted.changes(&ours, &wanted.objects)?;
            Ok(found.iter().map(SchemaChange::words).collect::<Vec<_>>().join("; "))
        };
        assert_eq!(
            words(&["t.v=w", "o=n"]).unwrap(),
            "rename table o to n; rename column v of table t to w"
        );
        assert!(words(&[]).unwrap().contains("drop table o"));
        for bad in ["", "x", "=n", "o=", "x=n", "t.x=w", "t.v=id", "q.v=w"] {
            assert!(words(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_what_runs() {
        let add = SchemaChange::CreateView {
            name: "v".to_owned(),
            sql: "CREATE VIEW v AS SELECT '\u{1b}[2K\u{202e}'\n-- \r".to_owned(),
        };
        let text = describe(&[add], 2).unwrap();
        assert!(text.contains("  create view v\n"), "{text}");
        assert!(
            !text.contains(['\u{1b}', '\r', '\u{202e}']) && text.contains('\u{fffd}'),
            "{text}"
        );
        assert!(describe(&[], 2).unwrap().contains("nothing to change"));
        let gone = SchemaChange::DropTable { name: "t".to_owned() };
        assert!(describe(&[gone], 2).unwrap().contains("loses values"));
        let fts = objects("CREATE VIRTUAL TABLE f USING fts5(a)");
        assert!(
            virtual_tables(&objects(""), &fts, 2).contains("virtual table f is only at node 2")
        );
    }

    #[test]
    fn the_node_is_asked_and_its_answers_reported() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults().settings;
        settings.db_path = dir.path().join("app.db");
        std::fs::write(&settings.db_path, "").unwrap();
        let fetch = |node| Wanted::fetch(&settings, node, &[]);
        assert!(fetch(2).unwrap_err().to_string().contains("no node runs"));
        let mut lock = Lock::acquire(&settings.db_path).unwrap();
        let good = wanted(&[]).unwrap().published;
        let large = Published { objects: None, ..good.clone() };
        let json = |published: &Published| serde_json::to_string(published).unwrap();
        let reserved = json(&good).replace("\"n\"", "\"sqlite_n\"").replace(" n ", " sqlite_n ");
        for (i, (status, body, expected)) in [
            (200, json(&good), ""),
            (200, json(&large), "too large"),
            (200, reserved, "reserved name"),
            (404, String::new(), "has not published"),
            (502, "is invalid".to_owned(), "is invalid"),
            (503, "not connected".to_owned(), "cannot read the registry: not connected"),
        ]
        .into_iter()
        .enumerate()
        {
            let socket = dir.path().join(i.to_string());
            lock.announce(&Owner { pid: 1, node_id: 1, socket: socket.clone() }).unwrap();
            let node = control::fake_node(&socket, status, body);
            let got = fetch(2);
            assert_eq!(node.join().unwrap(), "GET /schema/2 HTTP/1.1");
            match got {
                Ok(found) => assert_eq!((expected, found.objects), ("", objects_of(&good))),
                Err(error) => {
                    assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}")
                }
            }
        }
        assert!(fetch(1).unwrap_err().to_string().contains("is this node"));
    }

    fn objects_of(published: &Published) -> Objects {
        published.objects.clone().unwrap()
    }
}
