//! Compares the two ways to capture a live WAL database: `sqlite_dbpage` under a read transaction,
//! and the backup interface into a scratch file, read afterwards. Both end in the same sink, a
//! SHA-256. `cargo run --release -p harmonylite-snapshot --example capture -- [MIB]`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use harmonylite_snapshot::image::Image;
use rusqlite::Connection;
use rusqlite::backup::Backup;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::time::Instant;

fn main() {
    let mib: i64 = std::env::args().nth(1).map_or(500, |text| text.parse().unwrap());
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("app.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB)")
        .unwrap();
    let fill = "INSERT INTO t (a) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
        WHERE i < ?1) SELECT randomblob(500) || zeroblob(500) FROM n";
    db.execute(fill, [mib * 1_000]).unwrap();
    let only_sink = |read: bool| {
        let begin = Instant::now();
        let mut digest = Sha256::new();
        let (mut bytes, mut pieces) = (0, 0);
        let image = Image::capture(&path, dir.path()).unwrap();
        let each = |piece: Vec<u8>| {
            if read {
                digest.update(&piece);
            }
            (bytes, pieces) = (bytes + piece.len(), pieces + 1);
            true
        };
        image.pieces(each).unwrap();
        (begin.elapsed(), bytes)
    };
    let by_backup = |read: bool| {
        let begin = Instant::now();
        let copy = dir.path().join("copy.db");
        let mut to = Connection::open(&copy).unwrap();
        to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").unwrap();
        Backup::new(&db, &mut to).unwrap().step(-1).unwrap();
        let copied = begin.elapsed();
        let mut file = std::fs::File::open(&copy).unwrap();
        let (mut digest, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            let n = file.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            if read {
                digest.update(&piece[..n]);
            }
        }
        std::fs::remove_file(&copy).unwrap();
        (begin.elapsed(), copied)
    };
    for round in 1..=3 {
        let (pages, bytes) = only_sink(false);
        let (hashed, _) = only_sink(true);
        let (copied, copy) = by_backup(false);
        let (copied_hashed, _) = by_backup(true);
        println!(
            "{round}: {bytes} bytes; sqlite_dbpage {pages:.0?} ({hashed:.0?} with SHA-256); backup \
            {copied:.0?}, of it the copy {copy:.0?} ({copied_hashed:.0?} with SHA-256)"
        );
    }
}
