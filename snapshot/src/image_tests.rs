use super::*;
use crate::testing::database;

fn whole(image: &Image) -> Vec<u8> {
    let mut all = Vec::new();
    let each = |piece: Vec<u8>| {
        all.extend(piece);
        true
    };
    image.pieces(each).unwrap();
    assert_eq!(all.len() as u64, image.page_count() * u64::from(image.page_size()));
    all
}

/// Writes an image to a file, and returns what SQLite finds in it.
fn check(image: &[u8], sql: &str) -> i64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("check.db");
    std::fs::write(&path, image).unwrap();
    let db = Connection::open(&path).unwrap();
    let sound: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(sound, "ok");
    db.query_row(sql, [], |r| r.get(0)).unwrap()
}

#[test]
fn the_flag_is_set_in_this_workspace() {
    assert!(reads_pages(&Connection::open_in_memory().unwrap()).unwrap());
}

/// The image is of the moment of the capture, and applications write meanwhile.
#[test]
fn a_wal_database_is_captured_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let app = database(&path, 3);
    app.busy_timeout(Duration::ZERO).unwrap();
    let image = Image::capture(&path, dir.path()).unwrap();
    assert!(image.copy.is_none(), "no copy is made");
    app.execute_batch("DELETE FROM note WHERE id % 2; PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    assert_eq!(image.row_counts().unwrap()["note"], 768);
    let mut pieces = 0;
    let each = |piece: Vec<u8>| {
        pieces += 1;
        app.execute("INSERT INTO note (body) VALUES (zeroblob(5000))", []).unwrap();
        assert!(piece.len() <= CHUNK_BYTES);
        true
    };
    image.pieces(each).unwrap();
    assert!(pieces >= 3, "{pieces}");
    assert_eq!(check(&whole(&image), "SELECT count(*) FROM note"), 768);
    drop(image);
    let now = Image::capture(&path, dir.path()).unwrap();
    assert_eq!(check(&whole(&now), "SELECT count(*) FROM note"), 384 + pieces);
}

/// A receiver that is slow: the rest comes from a scratch file, and the WAL can be reset.
#[test]
fn a_slow_receiver_does_not_hold_the_wal() {
    struct Slow<'a>(&'a mut Vec<u8>, usize, &'a Connection, &'a mut i64);
    impl Pieces for Slow<'_> {
        fn offer(&mut self, piece: Vec<u8>) -> Offered {
            if self.1 == 0 {
                return Offered::Later(piece);
            }
            self.1 -= 1;
            self.0.extend(piece);
            Offered::Taken
        }
        fn put(&mut self, piece: Vec<u8>) -> bool {
            let sql = "PRAGMA wal_checkpoint(RESTART)";
            *self.3 += self.2.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
            self.2.execute("INSERT INTO note (body) VALUES (zeroblob(5000))", []).unwrap();
            self.0.extend(piece);
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let app = database(&path, 3);
    app.busy_timeout(Duration::ZERO).unwrap();
    for taken in [0, 1, 2] {
        let image = Image::capture(&path, dir.path()).unwrap();
        let (pages, rows) = (image.page_count(), image.row_counts().unwrap()["note"]);
        app.execute("INSERT INTO note (body) VALUES ('later')", []).unwrap();
        let (mut all, mut busy) = (Vec::new(), 0);
        image.pieces(Slow(&mut all, taken, &app, &mut busy)).unwrap();
        assert_eq!(all.len() as u64, pages * u64::from(image.page_size()));
        assert_eq!(check(&all, "SELECT count(*) FROM note"), rows.cast_signed());
        assert_eq!(busy, 0, "the WAL was held");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "no scratch file stays");
}

/// The pages that count are only in the WAL.
#[test]
fn a_database_whose_content_is_in_the_wal_is_captured_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let app = Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    app.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (7)").unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() <= 4096);
    let image = Image::capture(&path, dir.path()).unwrap();
    assert_eq!(check(&whole(&image), "SELECT a FROM t"), 7);
}

/// A WAL that its writer left behind when it was killed.
#[test]
fn a_wal_without_its_writer_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copied) = (dir.path().join("app.db"), dir.path().join("copied.db"));
    let _app = database(&path, 1);
    for suffix in ["", "-wal"] {
        let name = |base: &Path| PathBuf::from(format!("{}{suffix}", base.display()));
        std::fs::copy(name(&path), name(&copied)).unwrap();
    }
    let image = Image::capture(&copied, dir.path()).unwrap();
    assert_eq!(check(&whole(&image), "SELECT count(*) FROM note"), 256);
}

#[test]
fn a_rollback_database_is_copied_and_its_writers_go_on() {
    for size in [512, 4096, 65536] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(&format!(
            "PRAGMA page_size = {size}; CREATE TABLE t (a); INSERT INTO t VALUES \
            (randomblob(3000000))"
        ))
        .unwrap();
        let image = Image::capture(&path, dir.path()).unwrap();
        assert!(image.copy.is_some() && image.page_size() == size);
        app.busy_timeout(Duration::ZERO).unwrap();
        app.execute_batch("DELETE FROM t").unwrap();
        assert_eq!(check(&whole(&image), "SELECT length(a) FROM t"), 3_000_000);
        drop(image);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the copy is gone");
    }
}

/// As in a build without `sqlite_dbpage`.
#[test]
fn a_copy_of_a_wal_database_is_equal_to_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let _app = database(&path, 2);
    let copied = Image::copied(&path, &open(&path).unwrap(), dir.path()).unwrap();
    assert_eq!(check(&whole(&copied), "SELECT count(*) FROM note"), 512);
    assert_eq!(copied.row_counts().unwrap()["note"], 512);
}

#[test]
fn empty_and_tiny_databases_have_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    std::fs::write(&path, "").unwrap();
    let empty = whole(&Image::capture(&path, dir.path()).unwrap());
    assert_eq!(check(&empty, "SELECT count(*) FROM sqlite_schema"), 0);
    let app = Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let wal = whole(&Image::capture(&path, dir.path()).unwrap());
    assert_eq!(check(&wal, "SELECT count(*) FROM sqlite_schema"), 0);
    app.execute_batch("CREATE TABLE \"odd \"\" name\" (a)").unwrap();
    let image = Image::capture(&path, dir.path()).unwrap();
    assert_eq!(image.row_counts().unwrap()["odd \" name"], 0);
    assert_eq!(check(&whole(&image), "SELECT count(*) FROM sqlite_schema"), 1);
}

#[test]
fn what_is_no_database_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let refused = || Image::capture(&path, dir.path()).unwrap_err();
    assert!(refused().to_string().contains("app.db"), "{}", refused());
    std::fs::write(&path, [b'x'; 4096]).unwrap();
    assert!(matches!(refused(), SnapshotError::Database { .. }));
}

/// Rows are counted by a connection that sees the image, whenever an application commits.
#[test]
fn the_second_connection_sees_the_same_moment() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let app = database(&path, 1);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            app.execute_batch("PRAGMA synchronous = OFF").unwrap();
            // It ends also if the test fails.
            for _ in 0..500_000 {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                app.execute("INSERT INTO note (body) VALUES ('x')", []).unwrap();
            }
        });
        let (mut seen, mut tries) = (0, 0);
        while seen < 20 && tries < 20_000 {
            let image = Image::capture(&path, dir.path()).unwrap();
            tries += 1;
            if let Some(second) = image.take_second() {
                assert_eq!(second.row_counts().unwrap(), image.row_counts().unwrap());
                seen += 1;
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(seen >= 20, "{seen} of {tries}");
    });
}
