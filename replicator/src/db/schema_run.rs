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
mod tests {
    use super::*;
    use crate::db::objects::Objects;
    use crate::db::schema_diff::{ColumnRename, Renames, changes};
    use crate::model::table_filter::TableFilter;

    const HERE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a');
        CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1);
        CREATE TABLE __harmonylite__x (a); CREATE TRIGGER __harmonylite__t AFTER UPDATE ON t BEGIN
        INSERT INTO __harmonylite__x VALUES (new.id); END; CREATE INDEX i ON t (v); BEGIN;";

    fn database(sql: &str) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        db
    }

    fn text(db: &Connection, sql: &str) -> String {
        db.query_row(sql, [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn every_kind_of_change_runs_under_the_authorizer_and_keeps_the_rows_of_others() {
        for there in [
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT NOT NULL UNIQUE);
             CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); CREATE UNIQUE INDEX i ON t (v);",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w INT NOT NULL DEFAULT 3 CHECK (w > 1));
             CREATE TABLE c (p REFERENCES t ON DELETE CASCADE); CREATE TABLE n (x UNIQUE);
             CREATE INDEX i ON t (lower(v)) WHERE w > 0; CREATE VIEW s AS SELECT v FROM t;
             CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM n; SELECT 1; END;
             CREATE TRIGGER o INSTEAD OF DELETE ON s BEGIN SELECT 2; END;",
            "CREATE TABLE t (id INTEGER PRIMARY KEY);
             CREATE TABLE c (p REFERENCES t ON DELETE CASCADE)",
            "CREATE TABLE c (p REFERENCES t ON DELETE CASCADE)",
        ] {
            let filter = TableFilter::default();
            let mut db = database(HERE);
            let (from, to) =
                (Objects::read(&db, &filter), Objects::read(&database(there), &filter));
            let (from, to) = (from.unwrap(), to.unwrap());
            run(&mut db, &changes(&from, &to, &Renames::default())).unwrap();
            assert!(Objects::read(&db, &filter).unwrap().is_like(&to), "{there}");
            assert_eq!(text(&db, "SELECT count(*) || '' FROM c"), "1", "{there}");
            let keys = db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY).unwrap();
            assert!(keys, "foreign keys are as before");
            db.execute_batch("COMMIT").unwrap();
            // And back, which drops what was created.
            db.execute_batch("BEGIN").unwrap();
            run(&mut db, &changes(&to, &from, &Renames::default())).unwrap();
            assert!(Objects::read(&db, &filter).unwrap().is_like(&from), "back from {there}");
        }
        let rename =
            |from: &str, to: &str| SchemaChange::RenameTable { from: from.into(), to: to.into() };
        let column =
            SchemaChange::RenameColumn { table: "u".into(), from: "v".into(), to: "w".into() };
        let mut db = database(HERE);
        run(&mut db, &[rename("t", "u"), column]).unwrap();
        assert_eq!(text(&db, "SELECT w FROM u"), "a");
    }

    #[test]
    fn what_does_more_than_it_says_is_refused() {
        let table = |sql: &str| SchemaChange::CreateTable { name: "n".into(), sql: sql.into() };
        let index = |sql: &str| SchemaChange::CreateIndex {
            name: "n".into(),
            table: "t".into(),
            sql: sql.into(),
        };
        let view = |sql: &str| SchemaChange::CreateView { name: "n".into(), sql: sql.into() };
        let trigger = |sql: &str| SchemaChange::CreateTrigger {
            name: "n".into(),
            table: "t".into(),
            sql: sql.into(),
        };
        let column = |definition: &str| SchemaChange::AddColumn {
            table: "t".into(),
            column: "n".into(),
            definition: definition.into(),
        };
        let drop = |name: &str| SchemaChange::DropTable { name: name.into() };
        for change in [
            table("CREATE TABLE n AS SELECT 1"),
            table("CREATE TABLE n (a); DROP TABLE t"),
            table("CREATE TABLE m (a)"),
            table("CREATE TEMP TABLE n (a)"),
            table("CREATE TABLE n (a REFERENCES __harmonylite__x)"),
            table("DROP TABLE t"),
            table("ATTACH 'x' AS n"),
            table("CREATE VIRTUAL TABLE n USING fts5(a)"),
            index("CREATE INDEX n ON c (p)"),
            index("CREATE INDEX n ON t (v); DELETE FROM t"),
            index("CREATE INDEX m ON t (v)"),
            index("CREATE INDEX main.n ON t (v)"),
            index("CREATE INDEX n ON t (load_extension('x'))"),
            index("PRAGMA journal_mode = DELETE"),
            view("CREATE TEMP VIEW n AS SELECT 1"),
            view("CREATE VIEW n AS SELECT * FROM \"__Harmonylite__x\""),
            view("CREATE VIEW n AS SELECT 1; PRAGMA user_version = 7"),
            view("CREATE VIEW n AS SELECT 1 /* "),
            trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN DELETE FROM __harmonylite__x; END"),
            trigger("CREATE TRIGGER n AFTER INSERT ON c BEGIN SELECT 1; END"),
            trigger("CREATE TEMP TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END"),
            trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END; DELETE FROM t"),
            trigger("CREATE TRIGGER n AFTER INSERT ON t BEGIN SELECT 1; END; PRAGMA x = 1; END"),
            column("n; DROP TABLE c"),
            column("n, m"),
            column("m"),
            column("n); CREATE TABLE x (a"),
            column("n, CHECK (1)"),
            drop("__harmonylite__x"),
            drop("SQLITE_schema"),
            drop(""),
            drop("missing"),
            SchemaChange::RenameTable { from: "t".into(), to: "sqlite_x".into() },
            SchemaChange::Rebuild {
                table: "t".into(),
                sql: "CREATE TABLE c (a)".into(),
                columns: vec![("v".into(), "a".into())],
                lost: vec![],
                filled: vec![],
            },
            SchemaChange::Rebuild {
                table: "t".into(),
                sql: "CREATE TABLE t (id, n NOT NULL)".into(),
                columns: vec![("id".into(), "id".into())],
                lost: vec!["v".into()],
                filled: vec![("n".into(), "(SELECT 1)".into())],
            },
            SchemaChange::DropTrigger { name: "__harmonylite__t".into() },
        ] {
            let mut db = database(HERE);
            let before = text(&db, "SELECT group_concat(sql) FROM sqlite_schema");
            let Err(failure) = run(&mut db, std::slice::from_ref(&change)) else {
                panic!("it ran: {change:?}");
            };
            assert!(!failure.change.is_empty(), "{failure}");
            db.execute_batch("ROLLBACK").unwrap();
            assert_eq!(text(&db, "SELECT group_concat(sql) FROM sqlite_schema"), before);
            assert_eq!(text(&db, "SELECT group_concat(v) FROM t"), "a", "{change:?}");
            assert_eq!(text(&db, "SELECT user_version || '' FROM pragma_user_version"), "0");
            db.execute_batch("CREATE TABLE free (a)").unwrap();
        }
    }

    #[test]
    fn a_rebuild_keeps_our_triggers_where_rows_stay_what_they_were() {
        const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w TEXT UNIQUE);
            INSERT INTO t VALUES (1, 'a', 'b'); CREATE TRIGGER __harmonylite__t_on_insert AFTER
            INSERT ON t BEGIN SELECT new.id; END; CREATE TRIGGER __harmonylite__t_on_rename AFTER
            UPDATE OF \"id\", \"v\", \"w\" ON t WHEN 0 BEGIN SELECT 1; END;";
        const UNIQUE: &str = "CREATE TRIGGER __harmonylite__t_on_unique AFTER INSERT ON t BEGIN
            SELECT new.w; END;";
        for (more, there, kept) in [
            ("", "(id INTEGER PRIMARY KEY, v NOT NULL, w TEXT UNIQUE)", 2),
            ("", "(id INTEGER PRIMARY KEY, n NOT NULL, w TEXT UNIQUE, x UNIQUE)", 2),
            ("", "(id INTEGER PRIMARY KEY, v NOT NULL)", 2),
            (UNIQUE, "(id INTEGER PRIMARY KEY, v NOT NULL, w TEXT UNIQUE)", 3),
            (UNIQUE, "(id INTEGER PRIMARY KEY, v NOT NULL)", 0),
            ("", "(id INTEGER PRIMARY KEY, v TEXT, w TEXT UNIQUE)", 0),
            ("", "(id INTEGER PRIMARY KEY, v ANY, w TEXT UNIQUE) STRICT", 0),
            ("", "(id INTEGER, v, w TEXT UNIQUE, PRIMARY KEY (id, v))", 0),
            ("", "(id INTEGER, v, w TEXT UNIQUE)", 0),
        ] {
            let filter = TableFilter::default();
            let mut db = database(&format!("{T}{more}"));
            let read = |db: &Connection| Objects::read(db, &filter).unwrap();
            let to = read(&database(&format!("CREATE TABLE t {there}")));
            let rename = ColumnRename { table: "t".into(), from: "v".into(), to: "n".into() };
            let renames = Renames { columns: vec![rename], ..Renames::default() };
            let changes = changes(&read(&db), &to, &renames);
            assert!(matches!(changes.last(), Some(SchemaChange::Rebuild { .. })), "{there}");
            db.execute_batch("BEGIN").unwrap();
            run(&mut db, &changes).unwrap();
            assert!(read(&db).is_like(&to), "{there}");
            let triggers = "SELECT count(*) || '' FROM sqlite_schema WHERE type = 'trigger'";
            assert_eq!(text(&db, triggers), kept.to_string(), "{more} {there}");
            db.execute_batch("INSERT INTO t (id) VALUES (2) ON CONFLICT DO NOTHING; COMMIT")
                .unwrap_or_else(|error| assert!(error.to_string().contains("NOT NULL"), "{error}"));
        }
    }

    #[test]
    fn it_runs_only_within_a_transaction_on_one_database() {
        let add = [SchemaChange::CreateView {
            name: "n".into(),
            sql: "CREATE VIEW n AS SELECT 1".into(),
        }];
        let mut db = database("");
        let failure = run(&mut db, &add).unwrap_err();
        assert!(failure.to_string().contains("no transaction"), "{failure}");
        db.execute_batch("ATTACH ':memory:' AS other; BEGIN").unwrap();
        let failure = run(&mut db, &add).unwrap_err();
        assert!(failure.to_string().contains("attached"), "{failure}");
        assert!(run(&mut db, &[]).is_ok());
    }

    #[test]
    fn a_failure_names_the_statement_and_the_error() {
        let mut db = database("CREATE TABLE t (v); INSERT INTO t VALUES (1), (1); BEGIN");
        let sql = "CREATE UNIQUE INDEX u ON t (v)";
        let index =
            SchemaChange::CreateIndex { name: "u".into(), table: "t".into(), sql: sql.into() };
        let failure = run(&mut db, &[index]).unwrap_err();
        assert!(matches!(failure.cause, Cause::Sqlite(_)));
        let text = failure.to_string();
        assert!(text.contains("create index u on t") && text.contains(sql), "{text}");
        assert!(text.contains("UNIQUE constraint failed"), "{text}");
    }
}
