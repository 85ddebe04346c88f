use super::*;
use crate::catalog;
use crate::restore::fetch;
use crate::retention::prune;
use crate::stores::Directory;
use crate::testing::{Fault, Memory, database, memory, quick, take, try_take};
use crate::verify::verify;
use rusqlite::Connection;
use std::path::Path;

/// A save that ends between two chunks leaves no snapshot, the old one restores, and the next
/// save sends only what is missing.
#[tokio::test]
async fn an_interrupted_save_is_resumed_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = database(&path, 2);
    let (memory, store) = memory();
    let first = take(&store, &path, 1_000).await;
    db.execute_batch("UPDATE note SET body = randomblob(4000)").unwrap();
    *memory.chunk_puts.lock().unwrap() = Some(1);
    let error = try_take(&store, &path, 2_000).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Store { action: "write", .. }), "{error}");
    *memory.chunk_puts.lock().unwrap() = None;
    assert_eq!(catalog::ids(&store).await.unwrap(), [first.id]);
    assert_eq!(memory.names("saving/"), [], "the marker is gone");
    let old = catalog::find(&store, None).await.unwrap();
    fetch(&store, &old, dir.path(), &Default::default()).await.unwrap();
    let left = memory.names(chunk::FOLDER).len();
    let third = take(&store, &path, 3_000).await;
    let total = third.manifest.chunks.len() as u64;
    assert!(third.sent_chunks < total, "{} of {total}", third.sent_chunks);
    assert!(memory.names(chunk::FOLDER).len() as u64 == left as u64 + third.sent_chunks);
}

/// What did not change is not sent again, unless that is asked for.
#[tokio::test]
async fn a_second_save_sends_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = database(&path, 6);
    let (memory, store) = memory();
    let first = take(&store, &path, 1_000).await;
    assert!(first.sent_chunks >= 6);
    db.execute_batch("UPDATE note SET body = 'x' WHERE id = 1000").unwrap();
    let second = take(&store, &path, 2_000).await;
    assert!(second.sent_chunks <= 2, "{}", second.sent_chunks);
    assert_eq!(second.manifest.tables["note"], 6 * 256);
    // A chunk that is on its way is not sent twice, and a name counts only with a content.
    let chunk = second.manifest.chunks[3].object();
    memory.objects.lock().unwrap().insert(chunk, Default::default());
    assert_eq!(take(&store, &path, 3_000).await.sent_chunks, 1);
}

#[tokio::test]
async fn no_manifest_is_written_if_a_chunk_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let _db = database(&path, 1);
    let (memory, store) = memory();
    let whole = take(&store, &path, 1_000).await;
    let chunk = whole.manifest.chunks[0].object();
    memory.objects.lock().unwrap().clear();
    memory.fail(&chunk, [Fault::Lasting]);
    try_take(&store, &path, 2_000).await.unwrap_err();
    assert_eq!(catalog::ids(&store).await.unwrap(), []);
}

async fn prove(store: &Retrying, dir: &Path) {
    let found = catalog::find(store, None).await.unwrap();
    verify(store, &found, dir, &Default::default()).await.unwrap();
}

fn stored_bytes(memory: &Memory) -> usize {
    let objects = memory.objects.lock().unwrap();
    objects.iter().filter(|(name, _)| name.as_str().starts_with("chunk/")).map(|o| o.1.len()).sum()
}

/// Rows updated all over a table change one block each, not a chunk each.
#[tokio::test]
async fn spread_changes_are_sent_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = database(&path, 24);
    let (memory, store) = memory();
    let first = take(&store, &path, 1_000).await;
    db.execute_batch("UPDATE note SET body = randomblob(4000) WHERE id % 256 = 3").unwrap();
    let second = take(&store, &path, 2_000).await;
    // 24 blocks, and the header.
    assert!(second.sent_chunks <= 2, "{}", second.sent_chunks);
    assert!(second.sent_bytes * 8 < first.sent_bytes, "{} bytes", second.sent_bytes);
    prove(&store, dir.path()).await;
    let before = memory.names("chunk/").len();
    assert_eq!(take(&store, &path, 3_000).await.sent_chunks, 0, "nothing has changed");
    assert_eq!(memory.names("chunk/").len(), before);
}

/// A chunk of gathered blocks gets no new content under its old name, as others do: the snapshot
/// that sends everything again does without it, and so do those after it.
#[tokio::test]
async fn a_damaged_chunk_is_done_without_after_all_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = database(&path, 24);
    let (memory, store) = memory();
    let first = take(&store, &path, 1_000).await;
    db.execute_batch("UPDATE note SET body = randomblob(4000) WHERE id % 256 = 3").unwrap();
    let second = take(&store, &path, 2_000).await;
    let is_new = |chunk: &&ChunkId| !first.manifest.chunks.contains(chunk);
    let gathered = second.manifest.chunks.iter().find(is_new).unwrap().object();
    memory.objects.lock().unwrap().insert(gathered, Bytes::from_static(b"damaged"));
    let found = catalog::find(&store, None).await.unwrap();
    verify(&store, &found, dir.path(), &Default::default()).await.unwrap_err();
    let image = Image::capture(&path, dir.path()).unwrap();
    let options = SaveOptions { resend: true, ..SaveOptions::at(3_000) };
    save(image, Facts::default(), &store, &options, &Default::default()).await.unwrap();
    prove(&store, dir.path()).await;
    assert_eq!(take(&store, &path, 4_000).await.sent_chunks, 0);
    prove(&store, dir.path()).await;
}

/// The pages of two nodes are not the same, although their rows are.
#[tokio::test]
async fn leaders_that_take_turns_find_what_they_have_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, store) = memory();
    let paths = [1, 2].map(|node| dir.path().join(format!("{node}.db")));
    let dbs = [database(&paths[0], 4), database(&paths[1], 5)];
    let take = async |node: u64, now_ms: i64| {
        let image = Image::capture(&paths[node as usize - 1], dir.path()).unwrap();
        let facts = Facts { node, ..Facts::default() };
        save(image, facts, &store, &SaveOptions::at(now_ms), &Default::default()).await.unwrap()
    };
    take(1, 1_000).await;
    take(2, 2_000).await;
    dbs[0].execute_batch("UPDATE note SET body = randomblob(4000) WHERE id % 256 = 3").unwrap();
    let again = take(1, 3_000).await;
    assert_eq!(again.sent_chunks, 1, "four blocks and the header, beside another node's snapshot");
    prove(&store, dir.path()).await;
    // What the newest snapshot of this node has is enough.
    dbs[0].execute_batch("UPDATE note SET body = randomblob(4000) WHERE id = 3").unwrap();
    let calls = memory.calls();
    take(1, 4_000).await;
    let reads = memory.calls() - calls;
    assert!(reads <= 5, "{reads}: marker, manifest, chunk, manifest, marker");
}

/// However often a database changes: each snapshot is sound, the newest two are seldom more than
/// twice the image, and never three times.
#[tokio::test]
async fn what_is_mostly_dead_moves_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = database(&path, 8);
    let (memory, store) = memory();
    take(&store, &path, 1_000).await;
    let (whole, mut sum) = (stored_bytes(&memory), 0);
    for round in 2..42 {
        // Other rows in each round, and more and fewer of them.
        db.execute(
            "UPDATE note SET body = randomblob(2000) || zeroblob(2000) WHERE id * ?1 % 61 < ?1 % 4",
            [round],
        )
        .unwrap();
        if round % 10 == 0 {
            db.execute_batch("INSERT INTO note (body) VALUES (zeroblob(9000))").unwrap();
        }
        let saved = take(&store, &path, round * 1_000).await;
        prune(&store, 2, false, round * 1_000).await.unwrap();
        prove(&store, dir.path()).await;
        let stored = stored_bytes(&memory);
        assert!(stored < whole * 3, "round {round}: {stored}");
        sum += stored;
        let chunks = saved.manifest.chunks.len() as u64;
        assert!(chunks <= saved.manifest.bytes() * 2 / chunk::CHUNK_BYTES as u64 + 2, "{chunks}");
    }
    assert!(sum < 40 * whole * 2, "{sum}");
    db.execute_batch("DELETE FROM note WHERE id > 100; VACUUM").unwrap();
    take(&store, &path, 50_000).await;
    prune(&store, 1, false, 50_000).await.unwrap();
    prove(&store, dir.path()).await;
    assert!(stored_bytes(&memory) < whole / 3, "{} of {whole}", stored_bytes(&memory));
}

/// Snapshots that earlier versions have written, of each format.
#[tokio::test]
async fn snapshots_of_every_format_are_restored_and_built_upon() {
    for format in ["format1", "format2"] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format);
        let store = Retrying::new(Arc::new(Directory::new(fixture)), quick());
        let ids = catalog::ids(&store).await.unwrap();
        assert_eq!(ids.len(), 2, "{format}");
        let mut bodies = Vec::new();
        for id in &ids {
            let found = catalog::find(&store, Some(id.as_str())).await.unwrap();
            verify(&store, &found, dir.path(), &Default::default()).await.unwrap();
            let path = dir.path().join(id.as_str());
            let fetched = fetch(&store, &found, dir.path(), &Default::default()).await.unwrap();
            fetched.put_in_place(&path, None).unwrap();
            let db = Connection::open(&path).unwrap();
            let sql = "SELECT body FROM note WHERE id = 700";
            bodies.push(db.query_row(sql, [], |r| r.get::<_, String>(0)).unwrap());
        }
        assert!(bodies[0] == "changed" && bodies[1].starts_with("note 700 xxx"), "{format}");
        // A save of the same image into a copy of that store has nothing to send.
        let (copy, copied) = memory();
        for name in store.list("").await.unwrap().into_iter().map(|entry| entry.name) {
            let body = store.get(&name, 1 << 20).await.unwrap().unwrap();
            copy.objects.lock().unwrap().insert(name, body);
        }
        let again = take(&copied, &dir.path().join(ids[0].as_str()), 5_000_000_000_000).await;
        assert_eq!(again.sent_chunks, 0, "{format}");
        prove(&copied, dir.path()).await;
    }
}
