use super::*;
use crate::inbound::rebuild_wait::REBUILD_MS_MAX;
use crate::model::table_filter::TableFilter;
use crate::store::entry_code::KIND;

/// A migration tool that rebuilds a table drops it between two statements of ours. That ended a
/// node: "no such table: main.item".
#[test]
fn a_table_that_goes_while_the_connection_is_prepared_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let application = Connection::open(&path).unwrap();
    application
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE item (id TEXT PRIMARY KEY, u UNIQUE)",
        )
        .unwrap();
    let mut db = Connection::open(&path).unwrap();
    create_tables(&db, &path).unwrap();
    let (layout, _) = install::install(&db, &TableFilter::default(), 0).unwrap();
    let mut schema = FollowedSchema::new(layout, UnmadeRetry::read(&db).unwrap());
    application.execute_batch("DROP TABLE item").unwrap();
    schema.moved = false;
    schema.prepare(&mut db).unwrap();
    assert!(schema.moved, "the schema is followed once more");

    // Without a change of the schema it is an error.
    let version = install::schema_version(&db).unwrap();
    let layout = Arc::get_mut(&mut schema.layout).unwrap();
    layout.schema_version = version;
    assert!(schema.prepare(&mut db).unwrap_err().to_string().contains("no such table"));
}

/// A database in which a migration tool can rebuild `item`, and a connection that follows it.
struct Rebuilt {
    application: Connection,
    db: Connection,
    config: NodeConfig,
    schema: FollowedSchema,
    _dir: tempfile::TempDir,
}

fn rebuilt() -> Rebuilt {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let application = Connection::open(&path).unwrap();
    application
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE item (id TEXT PRIMARY KEY)")
        .unwrap();
    let db = Connection::open(&path).unwrap();
    create_tables(&db, &path).unwrap();
    let config = NodeConfig { path, ..NodeConfig::for_tests(1) };
    let (layout, _) = install::install(&db, &config.filter, 0).unwrap();
    let mut schema = FollowedSchema::new(layout, UnmadeRetry::read(&db).unwrap());
    schema.moved = false;
    Rebuilt { application, db, config, schema, _dir: dir }
}

impl Rebuilt {
    fn run(&self, sql: &str) {
        self.application.execute_batch(sql).unwrap();
    }

    /// Looks at the schema at this time until it needs no further look. Returns the names of the
    /// replicated tables, None if a rebuild is waited for.
    fn tables_at(&mut self, mono_ms: u64) -> Option<Vec<String>> {
        let now = Now { unix_ms: 0, mono_ms };
        self.schema.look(&self.db).unwrap();
        while self.schema.moved {
            let done = self.schema.follow(&mut self.db, &self.config, 0, now).unwrap();
            if !done && self.schema.rebuild.is_waiting() {
                assert!(self.schema.is_installing(), "nothing is applied meanwhile");
                return None;
            }
            self.schema.prepare(&mut self.db).unwrap();
        }
        assert!(!self.schema.is_installing());
        Some(self.schema.layout.tables.iter().map(|t| t.name().to_owned()).collect())
    }
}

const COPY: &str = "CREATE TABLE _alembic_tmp_item (id TEXT PRIMARY KEY, v)";
const REBUILT: &str = "DROP TABLE item; ALTER TABLE _alembic_tmp_item RENAME TO item";

#[test]
fn a_rebuild_that_commits_in_between_is_waited_for() {
    let mut rebuilt = rebuilt();
    rebuilt.run(COPY);
    assert_eq!(rebuilt.tables_at(5_000), None);
    rebuilt.run("DROP TABLE item");
    assert_eq!(rebuilt.tables_at(5_000 + REBUILD_MS_MAX - 1), None, "item is not gone");
    rebuilt.run("ALTER TABLE _alembic_tmp_item RENAME TO item");
    assert_eq!(rebuilt.tables_at(5_000 + REBUILD_MS_MAX - 1), Some(vec!["item".to_owned()]));
    // The next one has all of its time.
    rebuilt.run(COPY);
    assert_eq!(rebuilt.tables_at(50_000), None);
    assert_eq!(rebuilt.tables_at(50_000 + REBUILD_MS_MAX - 1), None);
    rebuilt.run(REBUILT);
    assert_eq!(rebuilt.tables_at(50_000 + REBUILD_MS_MAX), Some(vec!["item".to_owned()]));
}

/// A migration that failed leaves its copy behind. It must not hold up replication for ever.
#[test]
fn a_copy_that_stays_is_given_up_and_not_waited_for_again() {
    let mut rebuilt = rebuilt();
    let item = Some(vec!["item".to_owned()]);
    rebuilt.run(COPY);
    assert_eq!(rebuilt.tables_at(1_000), None);
    assert_eq!(rebuilt.tables_at(1_000 + REBUILD_MS_MAX), item, "the copy is never replicated");
    rebuilt.run("CREATE TABLE other (id TEXT PRIMARY KEY)");
    let both = Some(vec!["item".to_owned(), "other".to_owned()]);
    assert_eq!(rebuilt.tables_at(1_001 + REBUILD_MS_MAX), both, "at once");
    // Another copy is waited for, beside the one that stays.
    rebuilt.run("CREATE TABLE _alembic_tmp_other (id TEXT PRIMARY KEY, v)");
    assert_eq!(rebuilt.tables_at(90_000), None);
    rebuilt.run("DROP TABLE other; ALTER TABLE _alembic_tmp_other RENAME TO other");
    assert_eq!(rebuilt.tables_at(90_001), both);
    // The migration runs again and ends.
    rebuilt.run("DROP TABLE _alembic_tmp_item");
    assert_eq!(rebuilt.tables_at(95_000), both);
    rebuilt.run(COPY);
    assert_eq!(rebuilt.tables_at(100_000), None, "it is a new one");
    rebuilt.run(REBUILT);
    assert_eq!(rebuilt.tables_at(100_001), both);
}

/// Laravel keeps the rows in a TEMP table and commits after every statement. Followed in between,
/// all rows counted as deleted, on every node.
#[test]
fn a_table_that_is_dropped_and_filled_again_is_never_seen_without_its_rows() {
    let mut rebuilt = rebuilt();
    rebuilt.config.limits.dropped_table_wait_ms = 2_000;
    rebuilt.run("INSERT INTO item VALUES ('a'), ('b')");
    let item = Some(vec!["item".to_owned()]);
    assert_eq!(rebuilt.tables_at(1_000), item);
    let found = |rebuilt: &Rebuilt| -> i64 {
        let sql = format!("SELECT count(*) FROM __harmonylite__change_log WHERE {KIND} = 3");
        rebuilt.db.query_row(&sql, [], |r| r.get(0)).unwrap()
    };
    rebuilt.run("CREATE TEMP TABLE __temp__item AS SELECT id FROM item");
    assert_eq!(rebuilt.tables_at(1_000), item);
    rebuilt.run("DROP TABLE item");
    assert_eq!(rebuilt.tables_at(1_000), None, "not gone yet");
    rebuilt.run("CREATE TABLE item (id TEXT PRIMARY KEY, v)");
    assert_eq!(rebuilt.tables_at(2_999), None, "not empty yet");
    rebuilt.run("INSERT INTO item (id) SELECT id FROM __temp__item; DROP TABLE __temp__item");
    assert_eq!(rebuilt.tables_at(2_999), item);
    assert_eq!(found(&rebuilt), 0, "no row is new or gone");

    // What is dropped is gone after a while, and what is emptied is empty.
    rebuilt.run("DROP TABLE item");
    assert_eq!(rebuilt.tables_at(10_000), None);
    assert_eq!(rebuilt.tables_at(11_999), None);
    assert_eq!(rebuilt.tables_at(12_000), Some(Vec::new()));
    rebuilt.run("CREATE TABLE item (id TEXT PRIMARY KEY, v)");
    assert_eq!(rebuilt.tables_at(20_000), item);
    // A renamed table is not dropped.
    rebuilt.run("ALTER TABLE item RENAME TO article");
    assert_eq!(rebuilt.tables_at(20_001), Some(vec!["article".to_owned()]));
    rebuilt.run("DROP TABLE article; CREATE TABLE article (id TEXT PRIMARY KEY, v)");
    assert_eq!(rebuilt.tables_at(30_000), None);
    assert_eq!(rebuilt.tables_at(32_000), Some(vec!["article".to_owned()]));
}

/// Laravel writes every type in another way when it rebuilds a table. The key's versions were
/// dropped then, as if other columns were the key.
#[test]
fn a_key_whose_type_is_spelled_in_another_way_keeps_its_versions() {
    let mut rebuilt = rebuilt();
    rebuilt.run(
        "INSERT INTO item VALUES ('a'); INSERT INTO __harmonylite__item_version VALUES \
        ('a', 5, 7, 1), ('gone', 6, 7, NULL)",
    );
    rebuilt.run(
        "BEGIN; CREATE TABLE copy (id VARCHAR(255) NOT NULL COLLATE BINARY, PRIMARY KEY (id)); \
        INSERT INTO copy SELECT id FROM item; DROP TABLE item; ALTER TABLE copy RENAME TO item; \
        COMMIT",
    );
    assert_eq!(rebuilt.tables_at(1_000), Some(vec!["item".to_owned()]));
    let sql = "SELECT group_concat(packed0 || hlc) FROM __harmonylite__item_version";
    let versions: String = rebuilt.db.query_row(sql, [], |r| r.get(0)).unwrap();
    assert_eq!(versions, "a5,gone6");
}
