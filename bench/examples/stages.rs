//! Runs the stages of a row in one process, without broker and threads: collect and absorb at the
//! origin, decode and apply at the peer.
//!
//! `stages integer 100000` prints microseconds a row of each stage, beside a raw prepared upsert of
//! the same rows in the same transactions. `scripts/instructions.py` runs it under callgrind.

use anyhow::{Context, Result};
use harmonylite::capture::absorb::{AbsorbState, absorb, published};
use harmonylite::capture::compare::Compare;
use harmonylite::capture::fold::{FoldBase, FoldFrom, log_end};
use harmonylite::capture::install;
use harmonylite::db::connection::{open_reader, open_writer};
use harmonylite::db::layout::Layout;
use harmonylite::merge::admit::admit;
use harmonylite::merge::apply::Applier;
use harmonylite::model::batch::{Op, Row};
use harmonylite::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use harmonylite::model::limits::Limits;
use harmonylite::model::table_filter::TableFilter;
use harmonylite::publish::collect::{CollectFrom, collect};
use harmonylite::store::conflicts::JournalBounds;
use harmonylite::store::{install::create_tables, sites};
use harmonylite::wire::decode::{BatchReader, outline};
use harmonylite::wire::encode::Encoder;
use harmonylite::wire::unpack::unpacking;
use rusqlite::{Connection, params};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows of one transaction.
const PER: u64 = 1_000;
/// Transactions from one absorb to the next.
const ABSORB_EVERY: u64 = 10;
const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Appended integer keys.
    Integer,
    /// Random text keys and a secondary index.
    Uuid,
}

struct Node {
    app: Connection,
    writer: Connection,
    reader: Connection,
    layout: Layout,
    state: AbsorbState,
}

#[derive(Default)]
struct Times {
    raw: Duration,
    app: Duration,
    collect: Duration,
    absorb: Duration,
    decode: Duration,
    apply: Duration,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let shape = match arguments.next().as_deref() {
        Some("integer") => Shape::Integer,
        Some("uuid") => Shape::Uuid,
        _ => anyhow::bail!("usage: stages integer|uuid ROWS"),
    };
    let rows: u64 = arguments.next().context("the number of rows")?.parse()?;
    let dir = tempfile::tempdir()?;
    let mut times = Times::default();
    let raw = database(&dir.path().join("raw.db"), shape)?;
    let mut origin = node(&dir.path().join("origin.db"), shape, Site(1))?;
    let peer = node(&dir.path().join("peer.db"), shape, Site(2))?;
    // As a node does where no application commits (replicator/src/node/checkpoint.rs).
    peer.writer.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    let mut stages = Stages::new(dir.path(), &mut origin)?;
    for transaction in 0..rows / PER {
        let from = transaction * PER;
        timed(&mut times.raw, || Stages::raw(&raw, shape, from))?;
        timed(&mut times.app, || write(&origin.app, shape, from))?;
        let body = timed(&mut times.collect, || stages.collect(&origin))?;
        if (transaction + 1).is_multiple_of(ABSORB_EVERY) {
            timed(&mut times.absorb, || stages.absorb(&mut origin))?;
        }
        timed(&mut times.decode, || stages.decode(&body))?;
        timed(&mut times.apply, || stages.apply(&peer, &body))?;
    }
    let found: i64 = peer.app.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?;
    anyhow::ensure!(found.cast_unsigned() == rows / PER * PER, "the peer has {found} rows");
    report(&times, rows);
    Ok(())
}

fn report(times: &Times, rows: u64) {
    let raw = times.raw.as_secs_f64();
    for (name, time) in [
        ("raw upsert", times.raw),
        ("application", times.app),
        ("collect", times.collect),
        ("absorb", times.absorb),
        ("decode", times.decode),
        ("apply", times.apply),
    ] {
        let seconds = time.as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let us = seconds * 1e6 / rows as f64;
        println!("{name:12} {us:6.2} us a row, {:5.2} of raw", seconds / raw);
    }
}

#[allow(clippy::disallowed_methods)] // a benchmark measures the real time
fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work();
    *sum += start.elapsed();
    done
}

fn database(path: &Path, shape: Shape) -> Result<Connection> {
    let db = Connection::open(path)?;
    let table = match shape {
        Shape::Integer => "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL, d)",
        Shape::Uuid => {
            "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT, b INTEGER, c REAL, d); CREATE INDEX t_b \
            ON t (b)"
        }
    };
    db.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {table}"))?;
    Ok(db)
}

fn node(path: &Path, shape: Shape, site: Site) -> Result<Node> {
    let app = database(path, shape)?;
    let writer = open_writer(path)?;
    create_tables(&writer, path)?;
    sites::begin_site(&writer, site, NOW_MS)?;
    let (layout, _) = install::install(&writer, &TableFilter::default(), NOW_MS)?;
    let state = AbsorbState { site, own_sites: HashSet::from([site]), absorbed: 0, published: 0 };
    Ok(Node { app, writer, reader: open_reader(path)?, layout, state })
}

/// Writes one transaction.
#[inline(never)]
fn write(db: &Connection, shape: Shape, from: u64) -> Result<()> {
    let fill = "x".repeat(100);
    db.execute_batch("BEGIN IMMEDIATE")?;
    let mut upsert = db.prepare_cached(
        "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET a = excluded.a, \
        b = excluded.b, c = excluded.c, d = excluded.d",
    )?;
    for i in from..from + PER {
        let (name, n) = (format!("name {i}"), i.cast_signed());
        match shape {
            Shape::Integer => upsert.execute(params![n, name, n * 7, 0.5, fill])?,
            Shape::Uuid => upsert.execute(params![uuid(i), name, n * 7, 0.5, fill])?,
        };
    }
    drop(upsert);
    db.execute_batch("COMMIT")?;
    Ok(())
}

/// A key that looks random and is the same in each run (splitmix64).
fn uuid(i: u64) -> String {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (a, b) = (mix(2 * i + 1), mix(2 * i + 2));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) as u16,
        a & 0xfff,
        (b >> 48) as u16,
        b & 0xffff_ffff_ffff
    )
}

/// What the stages keep from batch to batch.
struct Stages {
    limits: Limits,
    encoder: Encoder,
    base: FoldBase,
    sent: i64,
    batch: u64,
}

impl Stages {
    fn new(dir: &Path, origin: &mut Node) -> Result<Self> {
        let limits = Limits::default();
        let sent = log_end(&origin.writer)?;
        (origin.state.absorbed, origin.state.published) = (sent, sent);
        Ok(Self {
            encoder: Encoder::new(&limits, dir.to_owned())?,
            limits,
            base: FoldBase::new(sent),
            sent,
            batch: 0,
        })
    }

    /// What the rows cost without us: the measure of the other stages on any machine.
    #[inline(never)]
    fn raw(db: &Connection, shape: Shape, from: u64) -> Result<()> {
        write(db, shape, from)
    }

    /// Collects what the last transaction wrote, as the reading actor does.
    #[inline(never)]
    fn collect(&mut self, origin: &Node) -> Result<Vec<u8>> {
        let (db, state) = (&origin.reader, &origin.state);
        db.execute_batch("BEGIN")?;
        let fold = FoldFrom {
            site: state.site,
            own_sites: &state.own_sites,
            absorbed: state.absorbed,
            sent: self.sent,
            upto: log_end(db)?,
        };
        self.base.advance(db, &origin.layout, &fold)?;
        let from = CollectFrom {
            node: NodeId(1),
            fold,
            base: Some(&self.base),
            previous: BatchNo(self.batch),
            now_ms: NOW_MS,
            entries_max: self.limits.batch_entries_max,
            hlc_max: Hlc(i64::MAX),
        };
        let collected = collect(db, &origin.layout, &from, &mut self.encoder)?;
        let collected = collected.context("nothing was collected")?;
        db.execute_batch("COMMIT")?;
        self.sent = collected.upto;
        self.batch += 1;
        let (_, encoded) = collected.batch.context("nothing to publish")?;
        Ok(encoded.body.to_vec()?)
    }

    /// Absorbs and removes what is published, as the writing actor does.
    #[inline(never)]
    fn absorb(&mut self, origin: &mut Node) -> Result<()> {
        let db = &origin.writer;
        db.execute_batch("BEGIN IMMEDIATE")?;
        origin.state.published = self.sent;
        absorb(db, &origin.layout, &mut origin.state, i64::MAX, &Compare::default())?;
        published(db, &mut origin.state, self.sent)?;
        db.execute_batch("COMMIT")?;
        self.base = FoldBase::new(origin.state.absorbed);
        Ok(())
    }

    /// Unpacks a batch and reads all of it once, as the writing actor does before it applies it.
    #[inline(never)]
    fn decode(&mut self, body: &[u8]) -> Result<()> {
        let found = outline(unpacking(body, &self.limits)?, &self.limits)?;
        anyhow::ensure!(found.rows == PER, "the batch has {} rows", found.rows);
        Ok(())
    }

    #[inline(never)]
    fn apply(&mut self, peer: &Node, body: &[u8]) -> Result<()> {
        let db = &peer.writer;
        let mut reader = BatchReader::new(unpacking(body, &self.limits)?, &self.limits)?;
        let bounds = JournalBounds {
            entries_max: self.limits.conflicts_max,
            bytes_max: self.limits.conflict_bytes_max,
        };
        db.execute_batch("BEGIN IMMEDIATE")?;
        let own = &peer.state.own_sites;
        let mut applier = Applier::new(db, peer.state.site, own, true, NOW_MS, bounds);
        let mut row = Row {
            version: Version::NONE,
            previous: Version::NONE,
            op: Op::Delete,
            values: Vec::new(),
        };
        while let Some(table) = reader.next_table()? {
            let maps = admit(&peer.layout, &[table]).map_err(anyhow::Error::msg)?;
            let map = maps[0].as_ref().context("an excluded table")?;
            while reader.next_row(&mut row)? {
                applier.row(map, &mut row)?;
            }
        }
        applier.finish()?;
        db.execute_batch("COMMIT")?;
        Ok(())
    }
}
