//! Reads the application's schema objects: tables, indexes, views and triggers, with their text.
//!
//! Arrives: a connection and the table filter, or the bytes of another node. Leaves: [`Objects`],
//! which are compared by `schema_diff`. Owns: our own objects and tables that this node keeps to
//! itself are never among them, and what comes from the network is bounded and can be read. Reads
//! only; a crash here loses nothing.

use crate::db::schema::OWN_PREFIX;
use crate::db::sql_tokens::{Token, ident, normal_text, tokens};
use crate::db::table_list::table_list;
use crate::db::table_text::TableText;
use crate::model::table_filter::{Selection, TableFilter};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most objects that are taken from another node.
const OBJECTS_MAX: usize = 20_000;
/// Greatest size of their names and texts together.
pub const TEXT_BYTES_MAX: usize = 8 << 20;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A table.
    Table,
    /// A virtual table. It is listed, and never changed.
    Virtual,
    /// An index that has a text of its own.
    Index,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

impl Kind {
    /// The word that follows CREATE and DROP.
    pub fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Virtual => "virtual table",
            Self::Index => "index",
            Self::View => "view",
            Self::Trigger => "trigger",
        }
    }
}

/// An object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The table or view that it belongs to; its own name if it is one.
    pub table: String,
    /// Its text in `sqlite_schema`.
    pub sql: String,
}

impl Object {
    /// Whether it names this table or column (in normal form), without regard to what it means by
    /// the name.
    pub fn mentions(&self, normal_name: &str) -> bool {
        let names = |token: &Token<'_>| token.name().is_some_and(|n| ident(&n) == normal_name);
        tokens(&self.sql).map_or(true, |all| all.iter().any(names))
    }

    /// Whether a change of the schema can create or drop it: a virtual table is never changed.
    pub fn is_changeable(&self) -> bool {
        self.kind != Kind::Virtual
    }

    /// Whether it is the same object, however the two are spelled.
    pub fn is_like(&self, other: &Object) -> bool {
        self.kind == other.kind
            && self.name.eq_ignore_ascii_case(&other.name)
            && normal_text(&self.sql) == normal_text(&other.sql)
    }
}

/// A table of the application, with its parsed text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Object", into = "Object")]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its text in `sqlite_schema`.
    pub sql: String,
    /// What the text says.
    pub text: TableText,
}

impl Table {
    /// Whether it is the same table, however the two are spelled. The order of its columns does not
    /// count, as in the hash of a schema.
    pub fn is_like(&self, other: &Table) -> bool {
        let columns = |table: &Table| -> BTreeSet<Vec<String>> {
            table.text.columns.iter().map(|c| c.normal.clone()).collect()
        };
        let options = |table: &Table| (table.text.without_rowid, table.text.strict);
        self.name.eq_ignore_ascii_case(&other.name)
            && options(self) == options(other)
            && self.text.constraints == other.text.constraints
            && columns(self) == columns(other)
    }
}

impl TryFrom<Object> for Table {
    type Error = String;

    fn try_from(object: Object) -> Result<Self, String> {
        let failed = |why: String| format!("table {}: {why}", object.name);
        let text = TableText::parse(&object.sql).map_err(|error| failed(error.to_string()))?;
        if object.kind != Kind::Table || text.name != object.name {
            return Err(failed("its text creates something else".to_owned()));
        }
        Ok(Self { name: object.name, sql: object.sql, text })
    }
}

impl From<Table> for Object {
    fn from(table: Table) -> Self {
        Self { kind: Kind::Table, table: table.name.clone(), name: table.name, sql: table.sql }
    }
}

/// The application's schema objects, in the order in which they were created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// The tables.
    pub tables: Vec<Table>,
    /// Virtual tables, indexes, views and triggers.
    pub others: Vec<Object>,
}

impl Objects {
    /// Reads those of `main`. A table whose text this program cannot read is left out.
    ///
    /// # Errors
    /// SQLite's error, for instance a damaged schema.
    pub fn read(db: &Connection, filter: &TableFilter) -> rusqlite::Result<Self> {
        let shadows = table_list(db, ("name", "AND type = 'shadow'"), |row| {
            row.get(0).map(|name: String| name.to_ascii_lowercase())
        })?;
        let shadows = BTreeSet::from_iter(shadows);
        let (mut found, mut bearers) = (Self::default(), BTreeSet::new());
        let mut list = db.prepare(
            "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL \
            ORDER BY type = 'table' DESC, rowid",
        )?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let kind: String = row.get(0)?;
            let (name, table, sql): (String, String, String) =
                (row.get(1)?, row.get(2)?, row.get(3)?);
            let is_shadow = shadows.contains(&table.to_ascii_lowercase());
            if is_shadow || is_reserved(&name) || is_reserved(&table) {
                continue;
            }
            let kind = match kind.as_str() {
                "table" if starts_with_words(&sql, ["create", "virtual"]) => Kind::Virtual,
                "table" => Kind::Table,
                "index" => Kind::Index,
                "view" => Kind::View,
                _ => Kind::Trigger,
            };
            found.take(db, filter, &mut bearers, Object { kind, name, table, sql })?;
        }
        Ok(found)
    }

    /// Adds an object, if it belongs here. `bearers`: the tables and views that are here, which can
    /// have indexes and triggers.
    fn take(
        &mut self,
        db: &Connection,
        filter: &TableFilter,
        bearers: &mut BTreeSet<String>,
        object: Object,
    ) -> rusqlite::Result<()> {
        match object.kind {
            Kind::Table => {
                let names = column_names(db, &object.name)?;
                let selection =
                    filter.select(&object.name, || Ok::<_, rusqlite::Error>(names.clone()))?;
                let table = Table::try_from(object)
                    .ok()
                    .filter(|table| table.text.columns.iter().map(|c| &c.name).eq(names.iter()));
                let chosen = table.filter(|_| selection == Selection::Selected);
                bearers.extend(chosen.iter().map(|table| table.name.to_ascii_lowercase()));
                self.tables.extend(chosen);
            }
            Kind::Virtual => self.others.push(object),
            Kind::View => {
                bearers.insert(object.name.to_ascii_lowercase());
                self.others.push(object);
            }
            Kind::Index | Kind::Trigger => {
                if bearers.contains(&object.table.to_ascii_lowercase()) {
                    self.others.push(object);
                }
            }
        }
        Ok(())
    }

    /// The tables of `main` that are not among them: those that the filter leaves out, and those
    /// whose text this program cannot read.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn local_tables(&self, db: &Connection) -> rusqlite::Result<Vec<String>> {
        let mut names: Vec<String> =
            table_list(db, ("name", "AND type = 'table' ORDER BY name"), |row| row.get(0))?;
        let here: BTreeSet<_> = self.tables.iter().map(|t| t.name.to_ascii_lowercase()).collect();
        names.retain(|name| !is_reserved(name) && !here.contains(&name.to_ascii_lowercase()));
        Ok(names)
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|t| t.name.eq_ignore_ascii_case(name))
    }

    /// The other object of this kind and name.
    pub fn other(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.others.iter().find(|o| o.kind == kind && o.name.eq_ignore_ascii_case(name))
    }

    /// Whether the two have the same objects, however they are spelled and in whatever order.
    pub fn is_like(&self, other: &Objects) -> bool {
        let tables = self.tables.iter().all(|t| other.table(&t.name).is_some_and(|o| t.is_like(o)));
        let others = self
            .others
            .iter()
            .all(|o| other.other(o.kind, &o.name).is_some_and(|there| o.is_like(there)));
        tables
            && others
            && self.tables.len() == other.tables.len()
            && self.others.len() == other.others.len()
    }

    /// Checks what another node has sent.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        let tables = self.tables.iter().map(|t| (Kind::Table, &t.name, &t.sql));
        let all = tables.chain(self.others.iter().map(|o| (o.kind, &o.name, &o.sql)));
        let (mut count, mut bytes, mut seen) = (0_usize, 0_usize, BTreeSet::new());
        for (kind, name, sql) in all {
            count += 1;
            bytes += name.len() + sql.len();
            if count > OBJECTS_MAX || bytes > TEXT_BYTES_MAX {
                return Err("more objects than this program accepts".to_owned());
            }
            if is_reserved(name) {
                return Err(format!("{} {name} has a reserved name", kind.word()));
            }
            if !seen.insert((kind == Kind::Trigger, name.to_ascii_lowercase())) {
                return Err(format!("{} {name} comes twice", kind.word()));
            }
        }
        match self.others.iter().find(|o| o.kind == Kind::Table || is_reserved(&o.table)) {
            Some(object) => Err(format!("{} is not where it belongs", object.name)),
            None => Ok(()),
        }
    }
}

/// Whether `main` has this index, view or trigger, whatever it belongs to.
///
/// # Errors
/// SQLite's error.
pub fn exists(db: &Connection, kind: Kind, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = ?1 AND name = ?2 \
        COLLATE NOCASE)";
    db.prepare_cached(sql)?.query_row((kind.word(), name), |row| row.get(0))
}

/// Whether the name is kept for SQLite or for us. SQLite compares it without regard to case.
pub fn is_reserved(name: &str) -> bool {
    [OWN_PREFIX, "sqlite_"].iter().any(|prefix| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

/// Whether the text begins with these words.
pub fn starts_with_words<const N: usize>(sql: &str, words: [&str; N]) -> bool {
    tokens(sql).is_ok_and(|all| {
        all.len() >= N && words.iter().zip(&all).all(|(word, token)| token.is(word))
    })
}

fn column_names(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut list = db.prepare_cached(
        "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden <> 1 ORDER BY cid",
    )?;
    let names = list.query_map([table], |row| row.get(0))?;
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSet};
    use std::collections::BTreeMap;

    fn database(sql: &str) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        db
    }

    fn names(objects: &Objects) -> Vec<&str> {
        let tables = objects.tables.iter().map(|t| t.name.as_str());
        tables.chain(objects.others.iter().map(|o| o.name.as_str())).collect()
    }

    #[test]
    fn only_objects_of_the_application_that_are_shared_are_read() {
        let db = database(
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE);
             CREATE INDEX i ON t (v); CREATE VIEW w AS SELECT * FROM t;
             CREATE TRIGGER r INSTEAD OF INSERT ON w BEGIN SELECT 1; END;
             CREATE TRIGGER __harmonylite__t_insert AFTER INSERT ON t BEGIN SELECT 1; END;
             CREATE TABLE __harmonylite__x (a); CREATE INDEX y ON __harmonylite__x (a);
             CREATE VIEW __harmonylite__v AS SELECT 1;
             CREATE TABLE django_migrations (id); CREATE INDEX d ON django_migrations (id);
             CREATE TABLE cache (id); CREATE INDEX c ON cache (id);
             CREATE TRIGGER q AFTER INSERT ON cache BEGIN SELECT 1; END;
             CREATE VIRTUAL TABLE f USING fts5(a); ANALYZE;",
        );
        let exclude = GlobSet::builder().add(Glob::new("cache").unwrap()).build().unwrap();
        let filter = TableFilter { exclude, ..TableFilter::default() };
        let objects = Objects::read(&db, &filter).unwrap();
        assert_eq!(names(&objects), ["t", "f", "i", "w", "r"]);
        assert_eq!(objects.others[0].kind, Kind::Virtual);
        assert_eq!(objects.table("T").unwrap().text.columns.len(), 2);
        assert_eq!(objects.check(), Ok(()));
        assert_eq!(objects.local_tables(&db).unwrap(), ["cache", "django_migrations"]);
        let json = serde_json::to_string(&objects).unwrap();
        assert_eq!(serde_json::from_str::<Objects>(&json).unwrap(), objects);
    }

    #[test]
    fn spelling_and_order_of_columns_do_not_count() {
        let read = |sql: &str| Objects::read(&database(sql), &TableFilter::default()).unwrap();
        let a = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)";
        for (b, equal) in [
            ("create table IF NOT EXISTS \"T\" ([v]  text, Id integer primary key)", true),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY); ALTER TABLE t ADD COLUMN v TEXT", true),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL)", false),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) STRICT", false),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, UNIQUE (v))", false),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t (v)", false),
        ] {
            assert_eq!(read(a).is_like(&read(b)), equal, "{b}");
            assert_eq!(read(b).is_like(&read(a)), equal, "{b}");
        }
    }

    #[test]
    fn what_another_node_sends_is_checked() {
        let object = |kind: &str, name: &str, sql: &str| {
            let fields = [("kind", kind), ("name", name), ("table", name), ("sql", sql)];
            fields
                .map(|(field, text)| (field, text.to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>()
        };
        let taken = |tables: Vec<BTreeMap<_, _>>, others: Vec<BTreeMap<_, _>>| {
            let objects = serde_json::from_value::<Objects>(
                serde_json::json!({ "tables": tables, "others": others }),
            );
            objects.map_err(|e| e.to_string()).and_then(|o| o.check())
        };
        let t = || object("table", "t", "CREATE TABLE t (a)");
        assert_eq!(taken(vec![t()], vec![object("view", "v", "x")]), Ok(()));
        for (tables, others) in [
            (vec![object("table", "t", "CREATE TABLE u (a)")], vec![]),
            (vec![object("view", "t", "CREATE TABLE t (a)")], vec![]),
            (vec![object("table", "t", "DROP TABLE t")], vec![]),
            (vec![t(), object("table", "T", "CREATE TABLE T (a)")], vec![]),
            (vec![t()], vec![object("index", "T", "")]),
            (vec![t()], vec![object("table", "u", "CREATE TABLE u (a)")]),
            (vec![object("table", "SQLite_x", "CREATE TABLE SQLite_x (a)")], vec![]),
            (vec![], vec![object("trigger", "__HARMONYLITE__x", "")]),
            (vec![], vec![object("view", "v", &"x".repeat(TEXT_BYTES_MAX))]),
        ] {
            assert!(taken(tables.clone(), others.clone()).is_err(), "{tables:?} {others:?}");
        }
    }
}
