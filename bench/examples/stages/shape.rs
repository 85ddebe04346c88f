//! The tables and rows that the stages are measured with.

use anyhow::{Result, bail};
use rusqlite::{CachedStatement, Connection, params};

/// A value that makes a row of the usual table some 160 bytes long.
const FILL: &str = "a few words about it, as there often are, and then a few more, because a row \
    of an application has more";
/// Columns of the wide table beside its key.
const WIDE_COLUMNS: usize = 60;
/// Bytes of a picture. They do not compress.
const PICTURE_BYTES: usize = 32 << 10;

/// A table, and the order in which its rows are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Appended integer keys.
    Integer,
    /// Updates of random rows of a table with integer keys, which is filled first.
    Update,
    /// Random UUIDs as text, and a secondary index.
    Uuid,
    /// The same with UUIDs that begin with the time (version 7).
    Uuid7,
    /// A key of two columns, WITHOUT ROWID.
    Composite,
    /// Integer keys and 60 further columns.
    Wide,
    /// Integer keys and a blob of 32 KiB.
    Blob,
    /// Integer keys and a unique index.
    Unique,
}

impl Shape {
    pub(super) const ALL: [(&str, Self); 8] = [
        ("integer", Self::Integer),
        ("update", Self::Update),
        ("uuid", Self::Uuid),
        ("uuid7", Self::Uuid7),
        ("composite", Self::Composite),
        ("wide", Self::Wide),
        ("blob", Self::Blob),
        ("unique", Self::Unique),
    ];

    pub(super) fn named(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, shape)) => Ok(*shape),
            None => {
                bail!("no shape {name}; there are {}", Self::ALL.map(|(name, _)| name).join(", "))
            }
        }
    }

    /// Returns the SQL that makes the table `t`.
    pub(super) fn schema(self) -> String {
        let text = "id TEXT PRIMARY KEY, a TEXT, b INTEGER, c REAL, d); CREATE INDEX t_b ON t (b)";
        let columns = match self {
            Self::Integer | Self::Update => {
                "id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL, d)".to_owned()
            }
            Self::Uuid | Self::Uuid7 => text.to_owned(),
            Self::Composite => "shop INTEGER, id TEXT, a TEXT, b INTEGER, c REAL, d, PRIMARY KEY \
                (shop, id)) WITHOUT ROWID"
                .to_owned(),
            Self::Wide => format!("id INTEGER PRIMARY KEY, {})", wide(|n| format!("c{n}"))),
            Self::Blob => "id INTEGER PRIMARY KEY, a TEXT, picture BLOB)".to_owned(),
            Self::Unique => {
                "id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INTEGER, c REAL, d)".to_owned()
            }
        };
        format!("CREATE TABLE t ({columns}")
    }

    fn upsert(self) -> String {
        let update = "DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c, d = excluded.d";
        match self {
            Self::Composite => {
                format!("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT {update}")
            }
            Self::Wide => format!(
                "INSERT INTO t VALUES (?1, {}) ON CONFLICT (id) DO UPDATE SET {}",
                wide(|_| "?2".to_owned()),
                wide(|n| format!("c{n} = excluded.c{n}"))
            ),
            Self::Blob => "INSERT INTO t VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET a = \
                excluded.a, picture = excluded.picture"
                .to_owned(),
            _ => format!("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) {update}"),
        }
    }

    /// Writes the rows of one transaction. `there` rows are in the table already.
    pub(super) fn write(
        self,
        db: &Connection,
        rows: std::ops::Range<u64>,
        there: u64,
    ) -> Result<()> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        let mut upsert = db.prepare_cached(&self.upsert())?;
        for row in rows {
            // What is there is updated in an order that looks random.
            let key = if row < there || there == 0 { row } else { mix(row) % there };
            self.one(&mut upsert, key, row)?;
        }
        drop(upsert);
        db.execute_batch("COMMIT")?;
        Ok(())
    }

    fn one(self, upsert: &mut CachedStatement<'_>, key: u64, row: u64) -> Result<()> {
        let (name, n) = (format!("name {row}"), row.cast_signed());
        let key = key.cast_signed();
        match self {
            Self::Integer | Self::Update | Self::Unique => {
                upsert.execute(params![key, name, n * 7, 0.5, FILL])?
            }
            Self::Uuid => upsert.execute(params![uuid(row), name, n * 7, 0.5, FILL])?,
            Self::Uuid7 => upsert.execute(params![uuid7(row), name, n * 7, 0.5, FILL])?,
            Self::Composite => upsert.execute(params![key % 10, name, name, n * 7, 0.5, FILL])?,
            Self::Wide => upsert.execute(params![key, n])?,
            Self::Blob => upsert.execute(params![key, name, picture(row)])?,
        };
        Ok(())
    }
}

fn wide(column: impl Fn(usize) -> String) -> String {
    (1..=WIDE_COLUMNS).map(column).collect::<Vec<_>>().join(", ")
}

/// A number that looks random and is the same in each run (splitmix64).
pub(super) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uuid(i: u64) -> String {
    let a = mix(2 * i + 1);
    format!("{:08x}-{:04x}-4{:03x}-{}", a >> 32, (a >> 16) as u16, a & 0xfff, half(i))
}

/// A UUID that begins with the time; 20 rows to a millisecond.
fn uuid7(i: u64) -> String {
    let ms = super::NOW_MS.cast_unsigned() + i / 20;
    format!("{:08x}-{:04x}-7{:03x}-{}", ms >> 16, ms & 0xffff, mix(2 * i + 1) & 0xfff, half(i))
}

fn half(i: u64) -> String {
    let b = mix(2 * i + 2);
    format!("{:04x}-{:012x}", (b >> 48) as u16, b & 0xffff_ffff_ffff)
}

fn picture(row: u64) -> Vec<u8> {
    (0..PICTURE_BYTES as u64 / 8).flat_map(|at| mix((row << 20) + at).to_le_bytes()).collect()
}
