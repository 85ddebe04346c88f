//! Goal: through each VFS, SQLite answers and writes exactly what it does without. Method: the same
//! random workload on two databases, one of them through the VFS; every answer (errors included)
//! and, in the end, every byte of the file is compared. A failing seed is printed:
//! `HARMONYLITE_SEED=n cargo test -p harmonylite-vfs --test equal`.

#![allow(clippy::unwrap_used, missing_docs)] // a test may

mod random;

use random::Random;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

fn one_of<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[usize::try_from(random.below(of.len() as u64)).unwrap()]
}

fn statement(random: &mut Random) -> String {
    let key = random.below(400);
    let size = [0, 10, 300, 5000, 40_000][usize::try_from(random.below(5)).unwrap()];
    let byte = random.below(200);
    // No randomblob: both must write the same. printf repeats a character.
    let text = format!("printf('%.*c', {size}, char(65 + {byte} % 26))");
    let table = one_of(random, &["plain", "keyed", "other.plain"]);
    match random.below(30) {
        0..=5 => format!("INSERT OR REPLACE INTO {table} VALUES ({key}, {text}, {byte})"),
        6..=7 => format!("UPDATE {table} SET b = {text} WHERE a BETWEEN {key} AND {key} + 5"),
        8..=9 => format!("DELETE FROM {table} WHERE a BETWEEN {key} AND {key} + 20"),
        10..=12 => {
            format!("SELECT a, c, length(b) FROM {table} WHERE a >= {key} ORDER BY c, a LIMIT 20")
        }
        13 => format!("SELECT count(*), sum(c), sum(length(b)) FROM {table}"),
        14 => "BEGIN".to_owned(),
        15 => "BEGIN IMMEDIATE".to_owned(),
        16..=17 => "COMMIT".to_owned(),
        18 => "ROLLBACK".to_owned(),
        19 => one_of(random, &["SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"]).to_owned(),
        20 => format!(
            "PRAGMA journal_mode = {}",
            one_of(random, &["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "WAL"])
        ),
        21 => format!(
            "PRAGMA wal_checkpoint({})",
            one_of(random, &["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        ),
        22 => one_of(
            random,
            &["VACUUM", "REINDEX", "ANALYZE", "PRAGMA incremental_vacuum", "PRAGMA optimize"],
        )
        .to_owned(),
        23 => {
            format!("PRAGMA locking_mode = {}", one_of(random, &["EXCLUSIVE", "NORMAL", "NORMAL"]))
        }
        24 => format!("PRAGMA mmap_size = {}", one_of(random, &["0", "100000", "100000000"])),
        25 => format!("PRAGMA cache_size = {}", one_of(random, &["5", "100", "2000"])),
        26 => {
            format!("PRAGMA synchronous = {}", one_of(random, &["OFF", "NORMAL", "FULL", "EXTRA"]))
        }
        27 => one_of(
            random,
            &[
                "CREATE INDEX IF NOT EXISTS by_b ON plain (b)",
                "DROP INDEX IF EXISTS by_b",
                "ALTER TABLE plain ADD COLUMN d",
            ],
        )
        .to_owned(),
        28 => one_of(
            random,
            &[
                "PRAGMA integrity_check",
                "PRAGMA page_count",
                "PRAGMA freelist_count",
                "PRAGMA schema_version",
            ],
        )
        .to_owned(),
        _ => format!(
            "INSERT OR IGNORE INTO {table} SELECT value, hex(value), value % 7 FROM (WITH \
            RECURSIVE n(value) AS (SELECT {key} UNION ALL SELECT value + 1 FROM n WHERE value < \
            {key} + 200) SELECT value FROM n)"
        ),
    }
}

fn open(path: &Path, vfs: &str) -> Connection {
    let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap();
    let other = path.with_extension("other");
    // The attached file has no vfs= and so the connection's.
    db.execute("ATTACH ?1 AS other", [other.to_str().unwrap()]).unwrap();
    db
}

fn answer(db: &Connection, sql: &str) -> Result<Vec<Vec<Value>>, String> {
    let mut statement = db.prepare(sql).map_err(|e| e.to_string())?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(|e| e.to_string())? {
        all.push((0..columns).map(|i| row.get(i).unwrap()).collect());
    }
    Ok(all)
}

fn compare(seed: u64, vfs: &str) {
    // In memory if possible: the workload syncs thousands of times.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let paths = ["with.db", "without.db"].map(|name| directory.path().join(name));
    harmonylite_vfs::register().unwrap();
    harmonylite_vfs::register_gathering().unwrap();
    let _bell = harmonylite_vfs::bell::Bell::open_or_create(&paths[0]).unwrap();
    let mut random = Random(seed);
    let setup = format!(
        "PRAGMA page_size = {}; PRAGMA auto_vacuum = {}; PRAGMA journal_mode = WAL;
         CREATE TABLE plain (a INTEGER PRIMARY KEY, b, c); CREATE INDEX by_c ON plain (c);
         CREATE TABLE keyed (a PRIMARY KEY, b, c) WITHOUT ROWID;
         CREATE TABLE other.plain (a UNIQUE, b, c)",
        one_of(&mut random, &["512", "1024", "4096", "65536"]),
        one_of(&mut random, &["NONE", "FULL", "INCREMENTAL"])
    );
    let open_both = || vec![open(&paths[0], vfs), open(&paths[1], "unix")];
    let mut dbs = open_both();
    for db in &dbs {
        db.execute_batch(&setup).unwrap();
    }
    for step in 0..250 {
        if random.below(60) == 0 {
            drop(std::mem::take(&mut dbs)); // first: they may hold the file for themselves
            dbs = open_both();
        }
        let sql = statement(&mut random);
        assert_eq!(answer(&dbs[0], &sql), answer(&dbs[1], &sql), "seed {seed}, step {step}: {sql}");
    }
    drop(dbs);
    for suffix in ["db", "other"] {
        let [with, without] = paths.each_ref().map(|path| {
            let path = path.with_extension(suffix);
            let db = Connection::open(&path).unwrap();
            let _ = db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
            assert_eq!(
                answer(&db, "PRAGMA integrity_check").unwrap(),
                [[Value::Text("ok".into())]]
            );
            drop(db);
            std::fs::read(&path).unwrap()
        });
        assert!(with == without, "seed {seed}: the files differ ({suffix})");
    }
}

fn compare_all(vfs: &str) {
    if let Ok(seed) = std::env::var("HARMONYLITE_SEED") {
        return compare(seed.parse().unwrap(), vfs);
    }
    let seeds: u64 = std::env::var("HARMONYLITE_SEEDS").map_or(30, |n| n.parse().unwrap());
    for seed in 0..seeds {
        compare(seed, vfs);
    }
}

#[test]
fn the_same_answers_and_the_same_file() {
    compare_all(harmonylite_vfs::VFS_NAME);
}

#[test]
fn the_same_answers_and_the_same_file_where_frames_are_gathered() {
    compare_all(harmonylite_vfs::GATHERING_VFS_NAME);
}
