//! Goal: a commit through the VFS rings when it is visible, in every journal mode; what does not
//! commit does not ring; and whatever happens to the bell file, the database works. Method: one
//! process, the application's connection through the VFS, the sidecar's end of the bell beside it.

#![allow(clippy::unwrap_used, missing_docs)] // a test may

use harmonylite_vfs::bell::{Bell, Commit, Woken};
use harmonylite_vfs::walindex::WalIndex;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

fn application(path: &Path) -> Connection {
    let db = harmonylite_vfs::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (a)").unwrap();
    db
}

fn fixture() -> (tempfile::TempDir, PathBuf, Bell, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)").unwrap();
    let bell = Bell::open_or_create(&path).unwrap();
    (directory, path, bell, db)
}

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
}

#[test]
fn a_commit_rings_with_its_frame_and_pages() {
    let (_directory, path, bell, plain) = fixture();
    let db = application(&path);
    let seen = bell.rings();
    assert_eq!(bell.wait(seen, NOW), Woken::Timeout);
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(bell.wait(seen, SOON), Woken::Rung);
    assert_eq!(bell.rings(), seen + 1);
    db.execute_batch(
        "BEGIN; INSERT INTO t VALUES (2); INSERT INTO t VALUES (randomblob(20000)); COMMIT",
    )
    .unwrap();
    let mut commits = Vec::new();
    bell.recent(seen, &mut commits);
    let header = WalIndex::of(&plain).unwrap().unwrap().header(&plain).unwrap();
    let [Commit { pages: 1, .. }, last] = *commits else { panic!("{commits:?}") };
    assert_eq!(last.max_frame, header.max_frame);
    assert!(last.pages >= 5, "{last:?}");
    assert!(last.time_ns > 1_700_000_000_000_000_000);
    assert_eq!(count(&plain), 3);
}

#[test]
fn what_does_not_commit_does_not_ring() {
    let (_directory, path, bell, plain) = fixture();
    let db = application(&path);
    let seen = bell.rings();
    db.execute_batch(
        "BEGIN IMMEDIATE; INSERT INTO t VALUES (1); ROLLBACK; SELECT * FROM t; \
        BEGIN; SELECT * FROM t; COMMIT",
    )
    .unwrap();
    plain.execute_batch("INSERT INTO t VALUES (7)").unwrap();
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
    }
    assert_eq!(bell.rings(), seen);
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(bell.rings(), seen + 1);
}

/// Zero of so many: the first look after the wake sees the commit.
#[test]
fn no_stale_read_after_a_bell() {
    let commits: i64 =
        std::env::var("HARMONYLITE_STALE_READS").map_or(3000, |n| n.parse().unwrap());
    let (_directory, path, bell, plain) = fixture();
    plain.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let writer = std::thread::spawn(move || {
        let db = application(&path);
        db.execute_batch("PRAGMA synchronous = OFF").unwrap();
        for i in 0..commits {
            db.execute("INSERT INTO t VALUES (?1)", [i]).unwrap();
            if i % 100 == 0 {
                let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            }
        }
    });
    let mut seen = 0;
    let (mut looks, mut stale) = (0, 0);
    let mut read = plain.prepare("SELECT max(rowid) FROM t").unwrap();
    loop {
        let woken = bell.wait(seen, SOON);
        let rings = bell.rings();
        let last: i64 = read.query_row([], |r| r.get::<_, Option<i64>>(0)).unwrap().unwrap_or(0);
        assert_eq!(woken, Woken::Rung, "{last} of {commits}");
        looks += 1;
        stale += i64::from(last < rings.cast_signed()); // each ring is one row more
        seen = rings;
        if last == commits {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(stale, 0, "of {looks} looks");
    println!("{looks} looks at {commits} commits, none stale");
}

#[test]
fn other_journal_modes_ring_when_the_commit_is_visible() {
    let (_directory, path, bell, plain) = fixture();
    drop(plain);
    let db = application(&path);
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        let got: String =
            db.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |r| r.get(0)).unwrap();
        assert_eq!(got, mode.to_lowercase());
        let seen = bell.rings();
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(bell.rings(), seen + 1, "{mode}");
        db.execute_batch("SELECT * FROM t").unwrap();
        assert_eq!(bell.rings(), seen + 1, "{mode}");
    }
}

#[test]
fn exclusive_locking_rings_when_it_ends() {
    for mode in ["DELETE", "WAL"] {
        let (_directory, path, bell, plain) = fixture();
        plain.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
        drop(plain);
        let db = harmonylite_vfs::open(&path).unwrap();
        db.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(())).unwrap();
        db.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        let seen = bell.rings();
        db.execute_batch("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(bell.rings(), seen, "nobody could read it yet");
        db.query_row("PRAGMA locking_mode = NORMAL", [], |_| Ok(())).unwrap();
        db.execute_batch("SELECT * FROM t").unwrap();
        assert!(bell.rings() > seen || mode == "WAL", "{mode}");
        drop(db);
        assert!(bell.rings() > seen, "{mode}");
        assert_eq!(count(&Connection::open(&path).unwrap()), 2);
    }
}

#[test]
fn a_bell_made_after_the_database_was_opened_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let bell = Bell::open_or_create(&path).unwrap();
    let mut tries = 0;
    while bell.rings() == 0 {
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        bell.wait(0, Duration::from_millis(50));
        tries += 1;
        assert!(tries < 200);
    }
    // And one that took its place.
    std::fs::remove_file(bell.path()).unwrap();
    assert!(!bell.is_in_place());
    let bell = Bell::open_or_create(&path).unwrap();
    assert!(bell.is_in_place());
    let mut tries = 0;
    while bell.rings() == 0 {
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        bell.wait(0, Duration::from_millis(50));
        tries += 1;
        assert!(tries < 200);
    }
}

#[test]
fn whatever_the_bell_file_is_the_database_works() {
    let whole = harmonylite_vfs_core::layout::fresh();
    let mut other_version = whole.clone();
    other_version[16] = 99;
    let mut noise = whole.clone();
    for (i, byte) in noise.iter_mut().enumerate().skip(28) {
        *byte = (i * 167 + 13) as u8;
    }
    let cases: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("cut short", &whole[..2000]),
        ("too long", &[whole.clone(), vec![0; 10]].concat()),
        ("of another version", &other_version),
        ("not a bell", &[7; 4096]),
        ("a bell full of noise", &noise),
    ];
    for (what, bytes) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        std::fs::write(harmonylite_vfs::bell::path_of(&path).unwrap(), bytes).unwrap();
        let db = application(&path);
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(count(&db), 1, "{what}");
        // The sidecar puts a good one in its place (noise behind a good head is good enough: it is
        // a hint).
        let bell = Bell::open_or_create(&path).unwrap();
        let mut commits = Vec::new();
        bell.recent(0, &mut commits);
        let seen = bell.rings();
        let db = application(&path);
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_ne!(bell.rings(), seen, "{what}");
        bell.recent(seen, &mut commits);
        assert_eq!(commits.len(), 1, "{what}");
    }
    // A directory, a dangling link, a named pipe.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let bell = harmonylite_vfs::bell::path_of(&path).unwrap();
    std::fs::create_dir(&bell).unwrap();
    application(&path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert!(Bell::open_or_create(&path).is_err());
    std::fs::remove_dir(&bell).unwrap();
    std::os::unix::fs::symlink("nowhere", &bell).unwrap();
    application(&path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    std::fs::remove_file(&bell).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&bell).status().unwrap().success());
    let db = application(&path);
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(count(&db), 3);
}

#[test]
fn paths_with_spaces_question_marks_and_links() {
    for name in ["with space.db", "what?.db", "per%cent#.db", "Größe-数据.db"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        let db = application(&path);
        drop(db);
        let link = directory.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let bell = Bell::open_or_create(&link).unwrap();
        let db = application(&link);
        let seen = bell.rings();
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(bell.rings(), seen + 1, "{name}");
        let escaped: String = path.to_str().unwrap().bytes().map(|b| format!("%{b:02x}")).collect();
        let uri = Connection::open(format!("file:{escaped}?vfs=harmonylite")).unwrap();
        uri.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(bell.rings(), seen + 2, "{name}");
    }
}

#[test]
fn other_ways_to_open() {
    let (directory, path, bell, plain) = fixture();
    plain.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let seen = bell.rings();
    let read_only =
        harmonylite_vfs::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert_eq!(count(&read_only), 1);
    let name = path.to_str().unwrap();
    // In the middle of a WAL, immutable sees the file alone, as without the VFS.
    for options in ["mode=ro", "immutable=1", "mode=rw"] {
        let with = Connection::open(format!("file:{name}?vfs=harmonylite&{options}")).unwrap();
        let without = Connection::open(format!("file:{name}?{options}")).unwrap();
        let rows = |db: &Connection| {
            db.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get::<_, i64>(0))
                .map_err(|e| e.to_string())
        };
        assert_eq!(rows(&with), rows(&without), "{options}");
    }
    assert_eq!(bell.rings(), seen);
    // Mapped pages.
    let mapped = application(&path);
    mapped.execute_batch("PRAGMA mmap_size = 1048576").unwrap();
    mapped.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    mapped.execute_batch("INSERT INTO t SELECT randomblob(9000)").unwrap();
    assert_eq!(count(&mapped), 2);
    assert_eq!(bell.rings(), seen + 1);
    // Attached: the attached database has a bell of its own.
    let other = directory.path().join("other.db");
    drop(application(&other));
    let bell_of_other = Bell::open_or_create(&other).unwrap();
    mapped.execute("ATTACH ?1 AS other", [other.to_str().unwrap()]).unwrap();
    mapped.execute_batch("INSERT INTO other.t VALUES (1)").unwrap();
    assert_eq!((bell.rings(), bell_of_other.rings()), (seen + 1, 1));
    mapped
        .execute_batch(
            "BEGIN; INSERT INTO main.t VALUES (1); INSERT INTO other.t VALUES (1); COMMIT",
        )
        .unwrap();
    assert_eq!((bell.rings(), bell_of_other.rings()), (seen + 2, 2));
    // No database file at all.
    for name in ["", ":memory:", "file::memory:?cache=shared&vfs=harmonylite"] {
        let db = harmonylite_vfs::open(name).unwrap();
        db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(count(&db), 1);
    }
    // No locks, no shared memory: as without the VFS.
    let nolock = directory.path().join("nolock.db");
    let db =
        Connection::open(format!("file:{}?vfs=harmonylite&nolock=1", nolock.to_str().unwrap()))
            .unwrap();
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).unwrap();
    assert_eq!(mode, "delete");
    let bell = Bell::open_or_create(&nolock).unwrap();
    drop(db);
    let db =
        Connection::open(format!("file:{}?vfs=harmonylite&nolock=1", nolock.to_str().unwrap()))
            .unwrap();
    db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1); VACUUM").unwrap();
    assert_eq!(
        bell.rings(),
        0,
        "SQLite unlocks nothing here, so nothing says when the commit is visible"
    );
    drop(db);
    assert_eq!(bell.rings(), 1);
}

#[test]
fn an_interrupt_ends_the_wait() {
    let (_directory, _path, bell, _plain) = fixture();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bell.wait(bell.rings(), Duration::from_secs(60)));
        bell.interrupt();
        assert_eq!(waiting.join().unwrap(), Woken::Interrupted);
    });
}

#[test]
fn the_header_tells_of_commits_without_the_vfs() {
    let (_directory, path, _bell, plain) = fixture();
    let reader = Connection::open(&path).unwrap();
    let index = WalIndex::of(&reader).unwrap().unwrap();
    let first = index.header(&reader).unwrap();
    plain.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let second = index.header(&reader).unwrap();
    assert!(second.committed_since(&first));
    assert_eq!(second.frames_since(&first), 1);
    plain.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    assert!(!index.header(&reader).unwrap().committed_since(&second));
    let memory = Connection::open_in_memory().unwrap();
    assert!(WalIndex::of(&memory).unwrap().is_none());
}

#[test]
fn many_connections_of_many_threads() {
    let (_directory, path, bell, plain) = fixture();
    let connections: Vec<Connection> = (0..200).map(|_| application(&path)).collect();
    let seen = bell.rings();
    std::thread::scope(|scope| {
        for some in connections
            .chunks(25)
            .map(|some| some.iter().map(|db| db.path().unwrap().to_owned()).collect::<Vec<_>>())
        {
            scope.spawn(move || {
                for path in some {
                    let db = harmonylite_vfs::open(path).unwrap();
                    db.busy_timeout(Duration::from_secs(60)).unwrap();
                    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
                }
            });
        }
    });
    for db in &connections {
        db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    }
    drop(connections);
    assert_eq!((bell.rings() - seen, count(&plain)), (400, 400));
}
