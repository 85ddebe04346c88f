//! Every value arrives byte for byte, with its storage class (faults 27 and 29).
//!
//! Goal: an application reads at the peer exactly the stored value: extremes, NULL against empty,
//! text that is not UTF-8 or contains NUL, keys of every kind, odd names, generated columns. No
//! change comes back as an echo. Method: write the same list of values as content and as keys to
//! tables of every kind, compare all tables by storage class and bits, and compare the counters of
//! published changes. The story: HarmonyLite (Go) rewrote values of columns declared DATETIME and
//! BOOLEAN, and left identifiers unquoted.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{Cluster, Node, contents, eventually, number};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, params};

const SCHEMA: &str = r#"
    CREATE TABLE plain (id INTEGER PRIMARY KEY, v);
    CREATE TABLE typed (id INTEGER PRIMARY KEY, d DATETIME, b BOOLEAN, r REAL, t TEXT,
        n NUMERIC, i INT, y BLOB);
    CREATE TABLE composite (a, b, v, PRIMARY KEY (a, b));
    CREATE TABLE clustered (a, b TEXT COLLATE NOCASE, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE any_strict (k ANY PRIMARY KEY, v ANY) STRICT;
    CREATE TABLE computed (id INTEGER PRIMARY KEY, a, shown TEXT AS (quote(a)) VIRTUAL,
        length INTEGER AS (length(a)) STORED);
    CREATE TABLE no_key (a, b);
    CREATE TABLE "odd ""name' [of] a; table --" ("select" PRIMARY KEY, "a b", "ünï 😀", "x""y", "'",
        "key0", "hlc");
    CREATE TABLE "order" ("group" INTEGER PRIMARY KEY, "from", "values");
    CREATE TABLE "表" ("名" TEXT PRIMARY KEY, v);
    CREATE TABLE "" ("" INTEGER PRIMARY KEY, v);
"#;

/// A value to bind, also for text that is not UTF-8.
enum BoundValue {
    Value(Value),
    Text(&'static [u8]),
}

impl ToSql for BoundValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Value(value) => value.into(),
            Self::Text(bytes) => ValueRef::Text(bytes),
        }))
    }
}

fn values() -> Vec<BoundValue> {
    let integers = [0, 1, -1, 127, 128, 1 << 47, i64::MAX, i64::MIN, i64::MIN + 1, (1 << 53) + 1];
    let reals = [
        0.5,
        -0.0,
        1.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        -f64::from_bits(0x000f_ffff_ffff_ffff),
        0.1 + 0.2,
        9_007_199_254_740_993.0,
    ];
    let texts: [&[u8]; 14] = [
        b"",
        b"text",
        b"1",
        b"1.0",
        b"it's \"quoted\"",
        b"\0",
        b"before\0after",
        "ünï 😀 \u{10ffff}".as_bytes(),
        b"\xff",
        b"caf\xe9",
        b"\xed\xa0\x80",
        b"\xf0\x9f",
        b"2024-02-30T25:61:00+99:99",
        b"true",
    ];
    let blobs = [vec![], vec![0], b"text".to_vec(), (0..=255).collect(), vec![0xff; 5_000]];
    let mut all = vec![BoundValue::Value(Value::Null)];
    all.extend(integers.map(|i| BoundValue::Value(Value::Integer(i))));
    all.extend(reals.map(|r| BoundValue::Value(Value::Real(r))));
    all.extend(texts.map(BoundValue::Text));
    all.extend(blobs.map(|b| BoundValue::Value(Value::Blob(b))));
    all
}

/// Writes each value to each table, as content, and as a key where it can be one.
fn write(db: &Connection, shift: usize) {
    let values = values();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    for (i, key) in values.iter().enumerate() {
        let v = &values[(i + shift) % values.len()];
        let id = i64::try_from(i).unwrap();
        let put = |sql: &str, parameters: &[&dyn ToSql]| {
            db.execute(sql, parameters).unwrap_or_else(|e| panic!("{sql}, value {i}: {e}"))
        };
        put("INSERT OR REPLACE INTO plain VALUES (?1, ?2)", params![id, v]);
        put("INSERT OR REPLACE INTO typed VALUES (?1, ?2, ?2, ?2, ?2, ?2, ?2, ?2)", params![id, v]);
        put("INSERT OR REPLACE INTO computed (id, a) VALUES (?1, ?2)", params![id, v]);
        put(r#"INSERT OR REPLACE INTO "order" VALUES (?1, ?2, ?2)"#, params![id, v]);
        put(r#"INSERT OR REPLACE INTO "" VALUES (?1, ?2)"#, params![id, v]);
        put(r#"INSERT OR REPLACE INTO "表" VALUES (?1, ?2)"#, params![format!("名 {id}"), v]);
        put("INSERT INTO no_key VALUES (?1, ?2)", params![key, v]);
        // A row with NULL in the key has no identity.
        if i > 0 {
            put(
                "INSERT OR REPLACE INTO composite VALUES (?1, ?2, ?3)",
                params![key, v_or_zero(v), v],
            );
            put(
                "INSERT OR REPLACE INTO clustered VALUES (?1, ?2, ?3)",
                params![key, "Mixed Case", v],
            );
            put("INSERT OR REPLACE INTO any_strict VALUES (?1, ?2)", params![key, v]);
            let odd = r#"INSERT OR REPLACE INTO "odd ""name' [of] a; table --" 
                VALUES (?1, ?2, ?2, ?2, ?2, ?2, ?2)"#;
            put(odd, params![key, v]);
        }
    }
    db.execute_batch("COMMIT").unwrap();
}

fn v_or_zero(v: &BoundValue) -> &dyn ToSql {
    if matches!(v, BoundValue::Value(Value::Null)) { &0 } else { v }
}

fn published(node: &Node) -> (u64, u64) {
    (node.counter("batches_published"), node.counter("rows_published"))
}

#[test]
fn every_value_arrives_byte_for_byte_and_nothing_comes_back() {
    let mut cluster = Cluster::with(2, SCHEMA, "[tables]\nwithout_key = \"rowid\"");
    cluster.run();
    let db = cluster.nodes[0].app();
    let own = published(&cluster.nodes[1]);
    for shift in [1, 5] {
        write(&db, shift);
        cluster.converge();
    }
    // Updates change the class of a value, or only its bytes. Keys move, also to an equal key with
    // other bytes.
    db.execute_batch(
        r#"UPDATE plain SET v = -0.0 WHERE id = 1; UPDATE plain SET v = 1.0 WHERE id = 2;
           UPDATE plain SET v = '1' WHERE id = 3;
           UPDATE plain SET v = x'31' WHERE id = 4; UPDATE plain SET v = '' WHERE id = 5;
           UPDATE plain SET v = x'' WHERE id = 6;
           UPDATE plain SET id = 1000 WHERE id = 7;
           UPDATE plain SET id = -9223372036854775808 WHERE id = 8;
           UPDATE clustered SET b = 'mixed CASE'; UPDATE composite SET a = 1 WHERE a = 127;
           DELETE FROM any_strict WHERE k = '1';
           DELETE FROM "odd ""name' [of] a; table --" WHERE "select" = -1;
           DELETE FROM no_key WHERE rowid % 3 = 0;"#,
    )
    .unwrap();
    cluster.converge();

    let peer = cluster.nodes[1].app();
    let held = contents(&peer);
    assert_eq!(held.len(), 11, "{held:?}");
    assert!(
        held.iter()
            .all(|(table, rows)| rows.len() > 20 || panic!("{table} has {} rows", rows.len()))
    );
    for (what, sql) in [
        (
            "a key equal under its collation keeps its bytes",
            "SELECT count(*) FROM clustered WHERE b = 'mixed CASE' COLLATE BINARY",
        ),
        (
            "text with NUL is whole",
            "SELECT count(*) FROM plain WHERE hex(v) = '6265666F7265006166746572' AND typeof(v) = \
            'text'",
        ),
        (
            "text that is not UTF-8 is whole",
            "SELECT count(*) FROM plain WHERE hex(v) = '636166E9' AND typeof(v) = 'text'",
        ),
        (
            "a DATETIME is not rewritten",
            "SELECT count(*) FROM typed WHERE d = '2024-02-30T25:61:00+99:99' AND typeof(d) = \
            'text'",
        ),
        (
            "a BOOLEAN is not rewritten",
            "SELECT count(*) FROM typed WHERE b = 'true' AND typeof(b) = 'text'",
        ),
        (
            "a stored generated column is computed",
            "SELECT count(*) FROM computed WHERE length = 5000",
        ),
        ("subnormals are kept", "SELECT count(*) FROM plain WHERE v > 0 AND v < 1e-320"),
    ] {
        assert!(number(&peer, sql) > 0, "{what}");
    }

    // There is no echo: node 2 does not publish received changes, and node 1 publishes nothing
    // either.
    assert_eq!(published(&cluster.nodes[1]), own, "node 2 published what it had received");
    let before = published(&cluster.nodes[0]);
    peer.execute_batch("INSERT INTO plain VALUES (5000, 'marker')").unwrap();
    eventually("the marker arrives", || {
        number(&db, "SELECT count(*) FROM plain WHERE id = 5000") == 1
    });
    cluster.converge();
    assert_eq!(published(&cluster.nodes[0]), before, "node 1 published what it had received");
    assert_eq!(published(&cluster.nodes[1]), (own.0 + 1, own.1 + 1));
    assert!(
        cluster.nodes.iter().all(|n| n.status().unwrap()["conflicts"] == 0),
        "nothing was concurrent"
    );
}
