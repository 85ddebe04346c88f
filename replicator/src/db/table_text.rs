//! Reads the text of a CREATE TABLE: its columns as written, its constraints and its options.
//!
//! Arrives: the text in `sqlite_schema`, or one from the network. Leaves: a [`TableText`]. Owns: a
//! text that is not one plain CREATE TABLE with a list of columns is refused. Pure.

use crate::db::sql::{is_constant, quote};
use crate::db::sql_tokens::{Class, Token, Unreadable, ident, normal, tokens};

/// Most columns that a table of SQLite can have.
const COLUMNS_MAX: usize = 32_767;

/// Why a text is not one that can be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A quote does not end.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Not a CREATE TABLE with a list of columns.
    #[error("not the plain text of a CREATE TABLE: {0}")]
    NotATable(&'static str),
}

/// How a column is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// When it is read.
    Virtual,
    /// When its row is written.
    Stored,
}

/// A column as CREATE TABLE has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnText {
    /// Its name.
    pub name: String,
    /// Its declared type, as written.
    pub declared: String,
    /// NOT NULL.
    pub not_null: bool,
    /// The text of its DEFAULT.
    pub default: Option<String>,
    /// Whether and how it is generated.
    pub generated: Option<Generated>,
    /// PRIMARY KEY stands in its definition.
    pub primary: bool,
    /// UNIQUE stands in its definition.
    pub unique: bool,
    /// REFERENCES stands in its definition.
    pub references: bool,
    /// From its name to the end of its last constraint, as written.
    pub definition: String,
    /// The definition in normal form; the name comes first.
    pub normal: Vec<String>,
}

impl ColumnText {
    /// Whether `ALTER TABLE ADD COLUMN` takes it for a table with rows.
    pub fn can_be_added(&self) -> bool {
        let default = self.default.as_deref().map(without_parentheses);
        let is_null = default.is_none_or(|text| text.eq_ignore_ascii_case("null"));
        let has_value = self.generated.is_some() || !is_null;
        !self.primary
            && !self.unique
            && self.generated != Some(Generated::Stored)
            && default.is_none_or(is_constant)
            && (!self.not_null || has_value)
            && (!self.references || is_null)
    }
}

fn without_parentheses(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(inside) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        text = inside.trim();
    }
    text
}

/// A table as CREATE TABLE has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableText {
    /// Its name.
    pub name: String,
    /// Its columns in their order.
    pub columns: Vec<ColumnText>,
    /// Its constraints besides those of columns, each in normal form.
    pub constraints: Vec<Vec<String>>,
    /// WITHOUT ROWID.
    pub without_rowid: bool,
    /// STRICT.
    pub strict: bool,
    /// What follows the name.
    pub rest: String,
}

impl TableText {
    /// Reads the text.
    ///
    /// # Errors
    /// Why the text is not one plain CREATE TABLE.
    pub fn parse(sql: &str) -> Result<Self, TextError> {
        let all = tokens(sql)?;
        let no = TextError::NotATable;
        let mut at = 2;
        if !matches!(&all[..], [a, b, ..] if a.is("create") && b.is("table")) {
            return Err(no("it does not begin with CREATE TABLE"));
        }
        if matches!(&all[at..], [a, b, c, ..] if a.is("if") && b.is("not") && c.is("exists")) {
            at += 3;
        }
        let name_token = all.get(at).ok_or(no("it ends early"))?;
        let name = name_token.name().ok_or(no("it has no name"))?;
        let open = at + 1;
        if !all.get(open).is_some_and(|t| t.is_char('(')) {
            return Err(no("no list of columns follows its name"));
        }
        let (items, after) = split(&all, open).ok_or(no("a parenthesis does not end"))?;
        let mut table = Self {
            name,
            columns: Vec::new(),
            constraints: Vec::new(),
            without_rowid: false,
            strict: false,
            rest: sql[name_token.end()..all[all.len() - 1].end()].to_owned(),
        };
        for item in items {
            let first = item.first().ok_or(no("a column is empty"))?;
            if ["constraint", "primary", "unique", "check", "foreign"].iter().any(|w| first.is(w)) {
                table.constraints.push(normal(item));
            } else if table.constraints.is_empty() && table.columns.len() < COLUMNS_MAX {
                table.columns.push(column(sql, item).ok_or(no("a column cannot be read"))?);
            } else {
                return Err(no("a column follows a constraint, or there are too many"));
            }
        }
        table.read_options(&all[after..])?;
        Ok(table)
    }

    fn read_options(&mut self, options: &[Token<'_>]) -> Result<(), TextError> {
        for option in options.split(|t| t.is_char(',')) {
            match option {
                [] if options.is_empty() => {}
                [a, b] if a.is("without") && b.is("rowid") => self.without_rowid = true,
                [a] if a.is("strict") => self.strict = true,
                _ => return Err(TextError::NotATable("something unknown follows its columns")),
            }
        }
        Ok(())
    }

    /// The text that creates the table under another name.
    pub fn sql_as(&self, name: &str) -> String {
        format!("CREATE TABLE {}{}", quote(name), self.rest)
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&ColumnText> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Whether its rows have a rowid that is not a column as well.
    pub fn has_free_rowid(&self) -> bool {
        let integer = |c: &ColumnText| c.declared.eq_ignore_ascii_case("integer");
        let in_constraint = |c: &ColumnText| {
            self.constraints.iter().any(|tokens| {
                let key = tokens.windows(4).find(|w| w[..3] == ["primary", "key", "("]);
                key.is_some_and(|w| w[3] == ident(&c.name))
            })
        };
        let alias = |c: &ColumnText| integer(c) && (c.primary || in_constraint(c));
        !self.without_rowid && !self.columns.iter().any(alias)
    }
}

/// The items between the parenthesis at `open` and its end, and the place after it.
fn split<'t, 's>(all: &'t [Token<'s>], open: usize) -> Option<(Vec<&'t [Token<'s>]>, usize)> {
    let (mut depth, mut from, mut items) = (0_usize, open + 1, Vec::new());
    for (i, token) in all.iter().enumerate().skip(open) {
        if token.is_char('(') {
            depth += 1;
        } else if token.is_char(')') {
            depth -= 1;
        }
        if depth == 0 || depth == 1 && token.is_char(',') {
            items.push(&all[from..i]);
            from = i + 1;
        }
        if depth == 0 {
            return Some((items, i + 1));
        }
    }
    None
}

const CONSTRAINT_WORDS: [&str; 13] = [
    "constraint",
    "not",
    "null",
    "primary",
    "unique",
    "check",
    "default",
    "collate",
    "references",
    "generated",
    "as",
    "on",
    "deferrable",
];

fn column(sql: &str, item: &[Token<'_>]) -> Option<ColumnText> {
    let name = item[0].name()?;
    let last = item[item.len() - 1];
    let constraints = item
        .iter()
        .skip(1)
        .position(|t| CONSTRAINT_WORDS.iter().any(|word| t.is(word)))
        .map_or(item.len(), |i| i + 1);
    let declared = match &item[1..constraints] {
        [] => "",
        [only] if only.class == Class::Quoted => &only.text[1..only.text.len() - 1],
        [first, .., last] => &sql[first.start..last.end()],
        [only] => only.text,
    };
    let mut column = ColumnText {
        name,
        declared: declared.to_owned(),
        not_null: false,
        default: None,
        generated: None,
        primary: false,
        unique: false,
        references: false,
        definition: sql[item[0].start..last.end()].to_owned(),
        normal: normal(item),
    };
    // A name is compared as a name, however it is quoted.
    column.normal[0] = ident(&column.name);
    read_constraints(&mut column, sql, &item[constraints..])?;
    Some(column)
}

fn read_constraints(column: &mut ColumnText, sql: &str, tokens: &[Token<'_>]) -> Option<()> {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1);
        let next_is = |word| next.is_some_and(|t| t.is(word));
        at += match () {
            () if token.is("constraint") || token.is("collate") => 2,
            () if token.is("references") => {
                column.references = true;
                2
            }
            () if token.is("not") && next_is("null") => {
                column.not_null = true;
                2
            }
            () if token.is("primary") => {
                column.primary = true;
                2
            }
            () if token.is("default") => {
                let length = match next {
                    Some(t) if t.is_char('(') => close(&tokens[at + 1..])?,
                    Some(t) if t.is_char('-') || t.is_char('+') => 2,
                    _ => 1,
                };
                let last = tokens.get(at + length)?;
                column.default = Some(sql[next?.start..last.end()].to_owned());
                1 + length
            }
            // SET DEFAULT, SET NULL and NO ACTION belong to a foreign key.
            () if token.is("set") => 2,
            () if token.is("unique") => {
                column.unique = true;
                1
            }
            () if token.is("as") => {
                column.generated = Some(Generated::Virtual);
                1
            }
            () if token.is("stored") && column.generated.is_some() => {
                column.generated = Some(Generated::Stored);
                1
            }
            () if token.is_char('(') => close(&tokens[at..])?,
            () => 1,
        };
    }
    Some(())
}

/// The number of tokens up to the end of the parenthesis that the first one opens.
fn close(tokens: &[Token<'_>]) -> Option<usize> {
    split(tokens, 0).map(|(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// SQLite itself is the judge of names, types, NOT NULL, defaults and generated columns.
    #[test]
    fn columns_are_read_as_sqlite_reads_them() {
        for body in [
            "a",
            "id INTEGER PRIMARY KEY AUTOINCREMENT, [b c] VARCHAR(10, 2) NOT NULL DEFAULT 'x,(''y'",
            "`a``b` \"my type\", \"c\"\"d\" DOUBLE PRECISION DEFAULT -1.5 CHECK (\"c\"\"d\" < 3)",
            "'q' text default (1 + (2)), -- a, comment (\n b /* , */ int null collate nocase",
            "a int constraint n not null on conflict ignore constraint u unique, b default abc",
            "a references p(x) on delete set default on update set null deferrable initially \
             deferred not null, b",
            "a, b generated always as (a || 'not null') stored, c as (a) not null, d int as (1) \
             virtual",
            "a int, b int, primary key (a, b), unique (b) on conflict fail check (a in (1, 2)), \
             constraint f foreign key (a) references t(b)",
            "a default current_timestamp, b default +5 unique, c default x'00', d default true",
            "key text, action, \"primary\" int, rowid real",
        ] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(&format!("CREATE TABLE IF NOT EXISTS t ({body})")).unwrap();
            let sql: String =
                db.query_row("SELECT sql FROM sqlite_schema", [], |r| r.get(0)).unwrap();
            let table = TableText::parse(&sql).unwrap();
            let mut list = db
                .prepare(
                    "SELECT name, type, \"notnull\", dflt_value, hidden, pk FROM \
                    pragma_table_xinfo('t')",
                )
                .unwrap();
            let mut rows = list.query([]).unwrap();
            for column in &table.columns {
                let row = rows.next().unwrap().unwrap_or_else(|| panic!("{body}"));
                assert_eq!(column.name, row.get::<_, String>(0).unwrap(), "{body}");
                let declared: String = row.get(1).unwrap();
                assert!(column.declared.eq_ignore_ascii_case(&declared), "{body}: {column:?}");
                assert_eq!(column.not_null, row.get::<_, bool>(2).unwrap(), "{body}: {column:?}");
                let default: Option<String> = row.get(3).unwrap();
                let text = column.default.as_deref();
                assert!(
                    default.as_deref() == text
                        || default.as_deref() == text.map(without_parentheses)
                        || text.and_then(|t| t.strip_prefix('(')?.strip_suffix(')'))
                            == default.as_deref(),
                    "{body}: {column:?} {default:?}"
                );
                let hidden = match column.generated {
                    None => 0,
                    Some(Generated::Virtual) => 2,
                    Some(Generated::Stored) => 3,
                };
                assert_eq!(row.get::<_, i64>(4).unwrap(), hidden, "{body}: {column:?}");
            }
            assert!(rows.next().unwrap().is_none(), "{body}");
            let again = Connection::open_in_memory().unwrap();
            again.execute_batch(&table.sql_as("t")).unwrap();
        }
    }

    #[test]
    fn a_column_can_be_added_if_sqlite_adds_it_to_a_table_with_rows() {
        for definition in [
            "b",
            "b int not null",
            "b int not null default 1",
            "b int not null default null",
            "b int default (1)",
            "b int default (abs(1))",
            "b default current_timestamp",
            "b unique",
            "b primary key",
            "b references p",
            "b int default 1 references p",
            "b as (a + 1)",
            "b as (a + 1) stored",
            "b as (a + 1) not null",
            "b text not null default '' collate nocase check (length(b) < 9)",
            "b default abc",
        ] {
            let table = TableText::parse(&format!("CREATE TABLE t (a, {definition})")).unwrap();
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(
                "PRAGMA foreign_keys = 1; CREATE TABLE p (id INTEGER PRIMARY KEY);
                 CREATE TABLE t (a); INSERT INTO t VALUES (1);",
            )
            .unwrap();
            let taken = db.execute_batch(&format!("ALTER TABLE t ADD COLUMN {definition}")).is_ok();
            let ours = table.columns[1].can_be_added();
            // Refusing one that SQLite takes costs a rebuild. The other way round is an error.
            let careful = ["b int default (abs(1))", "b default abc"].contains(&definition);
            assert!(ours == taken || careful && !ours, "{definition}: SQLite {taken}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for sql in [
            "",
            "CREATE TABLE",
            "CREATE TABLE t",
            "CREATE TABLE t AS SELECT 1",
            "CREATE TEMP TABLE t (a)",
            "CREATE TABLE main.t (a)",
            "CREATE TABLE t (a) AS SELECT 1",
            "CREATE TABLE t (a); DROP TABLE u",
            "CREATE TABLE t (a)) ",
            "CREATE TABLE t ((a)",
            "CREATE TABLE t (a,)",
            "CREATE TABLE t (a, check (a), b)",
            "CREATE TABLE t (a default)",
            "CREATE TABLE t (a 'x)",
            "CREATE VIRTUAL TABLE t USING x(a)",
        ] {
            assert!(TableText::parse(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn an_integer_key_is_the_rowid() {
        for (body, expected) in [
            ("(a)", true),
            ("(rowid)", true),
            ("(id INTEGER PRIMARY KEY)", false),
            ("(id integer, a, PRIMARY KEY (id))", false),
            ("(id INT PRIMARY KEY)", true),
            ("(id INT PRIMARY KEY) WITHOUT ROWID, STRICT", false),
        ] {
            let table = TableText::parse(&format!("CREATE TABLE t {body}")).unwrap();
            assert_eq!(table.has_free_rowid(), expected, "{body}");
        }
    }
}
