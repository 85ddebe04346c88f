//! Makes changes of a schema, some of whose texts come from another node.
//!
//! Arrives: changes, on a connection within a transaction. Leaves: a changed schema, or the
//! statement that failed; the caller then rolls back. Owns: nothing runs that does more than it is
//! said to do. A text must be one definition of the expected object, and while it runs SQLite's
//! authorizer refuses everything that touches another object. A crash leaves nothing, because the
//! transaction does.

use crate::db::objects::{is_reserved, starts_with_words};
use crate::db::rebuild_capture::Capture;
use crate::db::schema::OWN_PREFIX;
use crate::db::schema_change::{SchemaChange, rebuild_name};
use crate::db::sql::is_constant;
use crate::db::sql_tokens::{Class, tokens};
use crate::db::table_text::TableText;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {change}: {cause} (the statement: {statement})")]
pub struct Failure {
    /// The change in words.
    pub change: String,
    /// Its statement, empty if it was refused before.
    pub statement: String,
    /// What is wrong.
    pub cause: Cause,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It is not what it is said to be, or names what it must not. Trying again does not help.
    #[error("refused, {0}")]
    Refused(String),
    /// SQLite's error: a lock, a full disk, or rows that do not fit.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Cause {
    /// What is wrong in SQLite's words, without the statement.
    pub fn words(&self) -> String {
        match self {
            Self::Sqlite(rusqlite::Error::SqlInputError { msg, .. }) => msg.clone(),
            cause => cause.to_string(),
        }
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Cause> {
    Err(Cause::Refused(why.into()))
}

/// Makes the changes in order. The connection must be within a transaction, which the caller rolls
/// back on an error.
///
/// # Errors
/// [`Failure`] names the first change that was not made.
pub fn run(db: &mut Connection, changes: &[SchemaChange]) -> Result<(), Failure> {
    let Some(first) = changes.first() else { return Ok(()) };
    let prepared = prepare(db).map_err(|cause| failure(first, String::new(), cause))?;
    let result = changes.iter().try_for_each(|change| make(db, change));
    let restored = db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, prepared);
    result.and(restored.map(drop).map_err(|e| failure(first, String::new(), e.into())))
}

/// Switches foreign keys off: a dropped table must not delete rows of others. Returns what they
/// were.
fn prepare(db: &Connection) -> Result<bool, Cause> {
    if db.is_autocommit() {
        return refused("there is no transaction that could be rolled back");
    }
    let attached: i64 = db.query_row(
        "SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp')",
        [],
        |row| row.get(0),
    )?;
    if attached > 0 {
        return refused("another database is attached to the connection");
    }
    let before = db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    Ok(before)
}

fn failure(change: &SchemaChange, statement: String, cause: Cause) -> Failure {
    Failure { change: change.words(), statement, cause }
}

fn make(db: &mut Connection, change: &SchemaChange) -> Result<(), Failure> {
    check(change).map_err(|cause| failure(change, String::new(), cause))?;
    let statements = change
        .statements()
        .map_err(|error| failure(change, String::new(), Cause::Refused(error.to_string())))?;
    let capture = match change {
        SchemaChange::Rebuild { table, .. } => Some(Capture::read(db, table)),
        _ => None,
    };
    let capture = capture.transpose().map_err(|e| failure(change, String::new(), e.into()))?;
    for statement in statements {
        let allowed = Allowed::new(change);
        db.authorizer(Some(move |context: AuthContext<'_>| allowed.decide(&context)))
            .map_err(|error| failure(change, String::new(), error.into()))?;
        let ran = run_one(db, &statement);
        let lifted = db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>);
        ran.and(lifted.map_err(Cause::from))
            .map_err(|cause| failure(change, statement.clone(), cause))?;
    }
    let restored = capture.map_or(Ok(()), |capture| capture.put_back(db));
    restored.map_err(|error| failure(change, String::new(), error.into()))
}

/// Makes a change that [`run`] has made on another connection with the same schema. For a
/// connection that is in use within its transaction, where no authorizer can be set.
///
/// # Errors
/// [`Failure`]; the caller rolls back.
pub(super) fn run_again(db: &Connection, change: &SchemaChange) -> Result<(), Failure> {
    let statements = change
        .statements()
        .map_err(|error| failure(change, String::new(), Cause::Refused(error.to_string())))?;
    statements.into_iter().try_for_each(|statement| {
        run_one(db, &statement).map_err(|cause| failure(change, statement, cause))
    })
}

/// Runs a text that must be one statement. What follows it is compiled too, and refused.
fn run_one(db: &Connection, sql: &str) -> Result<(), Cause> {
    match db.prepare(sql) {
        Ok(mut statement) => Ok(statement.raw_execute().map(drop)?),
        Err(rusqlite::Error::MultipleStatement) => refused("more than one statement"),
        Err(error) => Err(error.into()),
    }
}

/// Checks names and texts.
///
/// # Errors
/// Why the change must not be made.
pub fn check(change: &SchemaChange) -> Result<(), Cause> {
    let Allowed { names, .. } = Allowed::new(change);
    let ours = rebuild_name();
    if let Some(name) = names.iter().find(|name| is_reserved(name) && **name != ours) {
        return refused(format!("{name} is a reserved name"));
    }
    if names.iter().any(|name| name.is_empty() || name.contains('\0')) {
        return refused("a name is empty, or contains NUL");
    }
    if let SchemaChange::Rebuild { filled, .. } = change
        && let Some((column, _)) = filled.iter().find(|(_, text)| !is_constant(text))
    {
        return refused(format!("the value of {column} is no constant"));
    }
    match change {
        SchemaChange::CreateTable { name, sql }
        | SchemaChange::Rebuild { table: name, sql, .. } => match TableText::parse(sql) {
            Ok(text) if text.name == *name => check_words(sql),
            Ok(text) => refused(format!("its text creates {}", text.name)),
            Err(error) => refused(error.to_string()),
        },
        SchemaChange::AddColumn { column, definition, .. } => {
            let alone = TableText::parse(&format!("CREATE TABLE t ({definition}\n)"));
            match alone.as_ref().map(|text| (&text.columns[..], text.constraints.is_empty())) {
                Ok(([only], true)) if only.name == *column => check_words(definition),
                _ => refused("its text is not the definition of this column"),
            }
        }
        SchemaChange::CreateIndex { name, sql, .. } => check_create(sql, "index", name),
        SchemaChange::CreateView { name, sql } => check_create(sql, "view", name),
        SchemaChange::CreateTrigger { name, sql, .. } => check_create(sql, "trigger", name),
        SchemaChange::DropTable { .. }
        | SchemaChange::RenameTable { .. }
        | SchemaChange::DropColumn { .. }
        | SchemaChange::RenameColumn { .. }
        | SchemaChange::DropIndex { .. }
        | SchemaChange::DropView { .. }
        | SchemaChange::DropTrigger { .. } => Ok(()),
    }
}

/// Checks that a text is CREATE, the kind and the name, and one statement as far as words tell.
fn check_create(sql: &str, kind: &str, name: &str) -> Result<(), Cause> {
    let unique = starts_with_words(sql, ["create", "unique", kind]) && kind == "index";
    let at = match () {
        () if unique => 3,
        () if starts_with_words(sql, ["create", kind]) => 2,
        () => return refused(format!("its text is not a CREATE {}", kind.to_ascii_uppercase())),
    };
    let Ok(all) = tokens(sql) else { return refused("its text cannot be read") };
    if all.get(at).and_then(|token| token.name()).as_deref() != Some(name) {
        return refused("its text creates an object of another name");
    }
    if kind != "trigger" && all.iter().any(|token| token.is_char(';')) {
        return refused("more than one statement");
    }
    check_words(sql)
}

/// Checks that no text names our own objects: a trigger could write to them later.
fn check_words(sql: &str) -> Result<(), Cause> {
    let Ok(all) = tokens(sql) else { return refused("its text cannot be read") };
    let names = all.iter().filter(|t| matches!(t.class, Class::Word | Class::Quoted));
    let ours = |name: &String| name.to_ascii_lowercase().starts_with(OWN_PREFIX);
    match names.filter_map(|token| token.name()).find(ours) {
        Some(name) => refused(format!("it names {name}, a table of harmonylite")),
        None => Ok(()),
    }
}

/// What a statement may touch.
struct Allowed {
    /// The objects of the change. Their indexes and triggers come and go with them.
    names: Vec<String>,
    /// Rows may be copied and dropped.
    rows: bool,
}

/// Tables of SQLite that change with a schema.
const SQLITE_TABLES: [&str; 9] = [
    "sqlite_master",
    "sqlite_schema",
    "sqlite_temp_master",
    "sqlite_temp_schema",
    "sqlite_sequence",
    "sqlite_stat1",
    "sqlite_stat2",
    "sqlite_stat3",
    "sqlite_stat4",
];
/// Functions that reach outside of the database. They are switched off anyway.
const FUNCTIONS_REFUSED: [&str; 4] = ["load_extension", "fts3_tokenizer", "writefile", "readfile"];

impl Allowed {
    fn new(change: &SchemaChange) -> Self {
        let (names, rows) = match change {
            SchemaChange::CreateTable { name, .. }
            | SchemaChange::CreateView { name, .. }
            | SchemaChange::DropIndex { name }
            | SchemaChange::DropTrigger { name } => (vec![name], false),
            SchemaChange::DropTable { name } | SchemaChange::DropView { name } => {
                (vec![name], true)
            }
            SchemaChange::RenameTable { from, to } => (vec![from, to], false),
            SchemaChange::AddColumn { table, .. }
            | SchemaChange::DropColumn { table, .. }
            | SchemaChange::RenameColumn { table, .. } => (vec![table], true),
            SchemaChange::Rebuild { table, .. } => (vec![table], true),
            SchemaChange::CreateIndex { name, table, .. }
            | SchemaChange::CreateTrigger { name, table, .. } => (vec![name, table], false),
        };
        let mut names: Vec<String> = names.into_iter().cloned().collect();
        if matches!(change, SchemaChange::Rebuild { .. }) {
            names.push(rebuild_name());
        }
        Self { names, rows }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn decide(&self, context: &AuthContext<'_>) -> Authorization {
        let database = match context.action {
            // The context has the column here.
            AuthAction::AlterTable { database_name, .. } => Some(database_name),
            _ => context.database_name,
        };
        let here = database.is_none_or(|name| name == "main" || name == "temp");
        let fits = match context.action {
            AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => true,
            AuthAction::Function { function_name } => {
                !FUNCTIONS_REFUSED.iter().any(|f| f.eq_ignore_ascii_case(function_name))
            }
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => {
                let own = SQLITE_TABLES.iter().any(|t| t.eq_ignore_ascii_case(table_name));
                own || self.rows && self.has(table_name)
            }
            AuthAction::CreateTable { table_name }
            | AuthAction::CreateView { view_name: table_name }
            | AuthAction::DropTable { table_name }
            | AuthAction::DropView { view_name: table_name }
            | AuthAction::AlterTable { table_name, .. } => {
                self.has(table_name) || table_name.eq_ignore_ascii_case("sqlite_sequence")
            }
            AuthAction::CreateIndex { table_name, .. }
            | AuthAction::CreateTrigger { table_name, .. } => self.has(table_name),
            AuthAction::DropIndex { index_name: name, table_name }
            | AuthAction::DropTrigger { trigger_name: name, table_name } => {
                self.has(name) || self.has(table_name)
            }
            AuthAction::DropTempTrigger { table_name, .. } => self.has(table_name),
            AuthAction::Reindex { .. } => true,
            // How ALTER TABLE checks the rows against a new constraint.
            AuthAction::Pragma { pragma_name, .. } => pragma_name == "quick_check",
            _ => false,
        };
        if fits && here { Authorization::Allow } else { Authorization::Deny }
    }
}

/// The statements of changes as text for people, each with its semicolon.
///
/// # Errors
/// A text that cannot be read.
pub fn as_sql(changes: &[SchemaChange]) -> Result<Vec<String>, Cause> {
    let mut out = Vec::new();
    for change in changes {
        let statements = change.statements().map_err(|e| Cause::Refused(e.to_string()))?;
        out.extend(statements.into_iter().map(|sql| format!("{sql};")));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "schema_run_tests.rs"]
mod tests;
