use super::*;
use crate::catalog;
use crate::testing::{Memory, database, memory, take};
use std::path::Path;

struct Rig {
    _dir: tempfile::TempDir,
    memory: Arc<Memory>,
    store: Retrying,
    stop: watch::Sender<bool>,
}

impl Rig {
    async fn new(mib: usize, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, mib);
        db.execute_batch(more).unwrap();
        let (memory, store) = memory();
        take(&store, &path, 1_000).await;
        Self { _dir: dir, memory, store, stop: watch::Sender::new(false) }
    }

    async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(Result<RemoteDatabase, QueryError>) -> T + Send + 'static,
    ) -> T {
        let found = catalog::find(&self.store, None).await.unwrap();
        let (store, stop) = (self.store.clone(), self.stop.subscribe());
        let runtime = Handle::current();
        crate::blocking(move || work(RemoteDatabase::open(&store, found, runtime, stop))).await
    }
}

fn all(db: &RemoteDatabase, sql: &str) -> Result<Vec<String>, QueryError> {
    let mut found = Vec::new();
    db.query(sql, |_, values| {
        found.push(format!("{values:?}"));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_read_is_fetched() {
    // More than the kept chunks.
    let rig = Rig::new(48, "").await;
    rig.on(|db| {
        let db = db.unwrap();
        let mut seen = 0;
        db.query("SELECT id, body FROM note", |columns, values| {
            assert_eq!(columns, ["id", "body"]);
            assert_eq!(values[0], ValueRef::Integer(1));
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(seen, 1);
        assert!(db.fetched_chunks() <= 3, "{}", db.fetched_chunks());
        let sum = "SELECT count(*), sum(length(CAST(body AS BLOB))) FROM note";
        let expected = format!("[Integer({}), Integer({})]", 48 * 256, 48 * 256 * 4000);
        assert_eq!(all(&db, sum).unwrap(), [expected.as_str()]);
        assert!(db.fetched_chunks() >= 48);
        assert_eq!(all(&db, "PRAGMA integrity_check").unwrap(), ["[Text([111, 107])]"]);
        // A sort that does not fit SQLite's cache.
        let sorted = "SELECT count(*) FROM (SELECT body FROM note ORDER BY body LIMIT 20000)";
        assert_eq!(all(&db, sorted).unwrap(), [format!("[Integer({})]", 48 * 256)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_does_more_than_read_is_refused() {
    let more = "CREATE VIRTUAL TABLE box USING rtree(id, a, b); INSERT INTO box VALUES (1, 2, 3);
        CREATE VIRTUAL TABLE word USING fts5(t); INSERT INTO word VALUES ('some words')";
    let rig = Rig::new(1, more).await;
    rig.on(|db| {
        let db = db.unwrap();
        let other = tempfile::tempdir().unwrap();
        let file = other.path().join("x.db");
        let attach = format!("ATTACH '{}' AS x", file.display());
        let vacuum = format!("VACUUM INTO '{}'", file.display());
        for sql in [
            "DELETE FROM note",
            "INSERT INTO note (body) VALUES (1)",
            "UPDATE note SET body = 1",
            "CREATE TABLE x (a)",
            "CREATE TEMP TABLE x (a)",
            "DROP TABLE note",
            "BEGIN",
            "SAVEPOINT a",
            "VACUUM",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA user_version = 7",
            "PRAGMA writable_schema = 1",
            "WITH x AS (SELECT 1) INSERT INTO note (id) SELECT * FROM x",
            attach.as_str(),
            vacuum.as_str(),
        ] {
            let error = all(&db, sql).unwrap_err();
            assert!(matches!(error, QueryError::NotRead), "{sql}: {error:?}");
        }
        assert!(!Path::new(&file).exists());
        for sql in ["SELECT 1; SELECT 2", "SELECT 1; DELETE FROM note"] {
            let error = all(&db, sql).unwrap_err();
            assert!(matches!(error, QueryError::Several | QueryError::NotRead), "{error:?}");
        }
        assert!(matches!(all(&db, "SELECT nothing"), Err(QueryError::Sql(_))));
        // SQLite has no code of its own for a function that is refused.
        let error = all(&db, "SELECT load_extension('x')").unwrap_err();
        assert!(error.to_string().contains("not authorized"), "{error}");
        assert!(all(&db, "").is_err());
        assert_eq!(all(&db, "SELECT 1; -- a comment").unwrap(), ["[Integer(1)]"]);
        assert_eq!(all(&db, "SELECT id FROM box WHERE a >= 2").unwrap(), ["[Integer(1)]"]);
        let found = all(&db, "SELECT rowid FROM word WHERE word MATCH 'words'").unwrap();
        assert_eq!(found, ["[Integer(1)]"]);
        assert_eq!(all(&db, "PRAGMA user_version").unwrap(), ["[Integer(0)]"]);
        assert_eq!(all(&db, "SELECT count(*) FROM note").unwrap(), ["[Integer(256)]"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_chunk_is_named() {
    let rig = Rig::new(3, "").await;
    let found = catalog::find(&rig.store, None).await.unwrap();
    let object = found.manifest.chunks[1].object();
    let good = rig.memory.objects.lock().unwrap()[&object].clone();
    let mut bad = good.to_vec();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let sum = "SELECT sum(length(body)) FROM note";
    rig.memory.objects.lock().unwrap().insert(object.clone(), bad.into());
    let error = rig.on(|db| all(&db.unwrap(), sum).unwrap_err()).await;
    let wrong = matches!(error, QueryError::Snapshot(SnapshotError::CorruptChunk { .. }));
    assert!(wrong && error.to_string().contains(&found.manifest.chunks[1].to_string()), "{error}");
    rig.memory.objects.lock().unwrap().remove(&object);
    let error = rig.on(|db| all(&db.unwrap(), sum).unwrap_err()).await;
    let wrong = matches!(error, QueryError::Snapshot(SnapshotError::MissingChunk { .. }));
    assert!(wrong && error.hint().contains("--resend"), "{error}");
    rig.memory.objects.lock().unwrap().insert(object, good);
    assert!(rig.on(|db| all(&db.unwrap(), sum)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_statement_is_stopped() {
    let rig = Rig::new(0, "").await;
    let stop = rig.stop.clone();
    let error = rig
        .on(move |db| {
            let db = db.unwrap();
            let sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
                SELECT i FROM n";
            let mut seen = 0;
            let ended = db.query(sql, |_, _| {
                seen += 1;
                if seen == 1_000 {
                    stop.send_replace(true);
                }
                ControlFlow::Continue(())
            });
            ended.unwrap_err()
        })
        .await;
    assert!(matches!(error, QueryError::Stopped), "{error:?}");
}
