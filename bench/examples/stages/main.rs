//! Runs the stages of a row in one process, without broker and threads: collect and absorb at the
//! origin, decode and apply at the peer.
//!
//! `stages integer 100000` prints rows a second of each stage, and that as a fraction of its limit:
//! raw prepared upserts of the same rows in the same transactions, or zstd alone over the same
//! bytes. A third number is the rows of a transaction (1,000). `stages all` shows every shape, and
//! integer keys in transactions of 1 to 10,000 rows. `scripts/instructions.py` runs it under
//! callgrind.

mod shape;

use anyhow::{Context, Result};
use harmonylite::capture::absorb::{AbsorbState, Acknowledged, absorb, published};
use harmonylite::capture::compare::Compare;
use harmonylite::capture::fold::{FoldFrom, log_end};
use harmonylite::capture::fold_base::FoldBase;
use harmonylite::capture::install;
use harmonylite::db::connection::{open_reader, open_writer};
use harmonylite::db::layout::Layout;
use harmonylite::db::read_digests::ReadDigests;
use harmonylite::merge::admit::admit;
use harmonylite::merge::apply::Applier;
use harmonylite::merge::resolve::{Verdict, resolve};
use harmonylite::model::batch::{Op, Row};
use harmonylite::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use harmonylite::model::limits::Limits;
use harmonylite::model::table_filter::TableFilter;
use harmonylite::publish::collect::{CollectFrom, collect};
use harmonylite::store::conflicts::JournalBounds;
use harmonylite::store::{install::create_tables, sites};
use harmonylite::wire::decode::{BatchReader, outline};
use harmonylite::wire::encode::Encoder;
use harmonylite::wire::unpack::{Unpacker, unpacking};
use rusqlite::Connection;
use shape::{Shape, mix};
use std::collections::HashSet;
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows of one transaction, if nothing else is said.
const PER: u64 = 1_000;
/// Rows from one absorb to the next, as in a node where nothing else is to be done.
const ABSORB_ROWS: u64 = 10_000;
/// Rows that are in the table before others are updated.
const UPDATED: u64 = 1_000_000;
/// Versions that are compared.
const RESOLVED: u64 = 10_000_000;
const NOW_MS: i64 = 1_700_000_000_000;
/// Rows of a millisecond: how many versions absorb stores at once must not depend on the machine,
/// least of all under callgrind.
const ROWS_PER_MS: i64 = 250;

struct Node {
    app: Connection,
    writer: Connection,
    reader: Connection,
    layout: Layout,
    state: AbsorbState,
}

/// What each stage took, and the same rows without us.
#[derive(Default)]
struct Times {
    raw: Duration,
    app: Duration,
    collect: Duration,
    absorb: Duration,
    decode: Duration,
    apply: Duration,
    compress: Duration,
    uncompress: Duration,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u64>()).transpose();
    match arguments.first().map(String::as_str) {
        Some("all") => all(),
        Some(name) => {
            let rows = number(1)?.context("the number of rows is missing")?;
            run(name, rows, number(2)?.unwrap_or(PER))
        }
        None => anyhow::bail!("usage: stages all | SHAPE ROWS [ROWS OF A TRANSACTION]"),
    }
}

fn all() -> Result<()> {
    for (rows, per) in [(2_000, 1), (10_000, 10), (50_000, 100), (200_000, 10_000)] {
        run("integer", rows, per)?;
    }
    for (name, shape) in Shape::ALL {
        run(name, if shape == Shape::Blob { 10_000 } else { 200_000 }, PER)?;
    }
    let mut resolving = Duration::default();
    timed(&mut resolving, compare_versions)?;
    println!(
        "resolve alone: {:.1} million a second",
        RESOLVED as f64 / resolving.as_secs_f64() / 1e6
    );
    Ok(())
}

/// Compares versions that look random, about half of them newer.
fn compare_versions() -> Result<()> {
    let version = |seed| Version { hlc: Hlc((mix(seed) >> 1).cast_signed()), site: Site(1) };
    let won = (0..RESOLVED)
        .filter(|i| {
            let verdict = resolve(version(2 * i), version(2 * i + 1), Version::NONE, false);
            matches!(verdict, Verdict::Take { .. })
        })
        .count() as u64;
    anyhow::ensure!((RESOLVED / 3..RESOLVED).contains(&won), "{won} of {RESOLVED} were newer");
    Ok(())
}

fn run(name: &str, rows: u64, per: u64) -> Result<()> {
    let shape = Shape::named(name)?;
    anyhow::ensure!((1..=rows).contains(&per), "a transaction has 1 to {rows} rows, not {per}");
    let dir = tempfile::tempdir()?;
    let there = if shape == Shape::Update { UPDATED } else { 0 };
    let mut work = Work::new(dir.path(), shape, there)?;
    let (mut filling, mut times) = (Times::default(), Times::default());
    work.write(&mut filling, 0..there, ABSORB_ROWS)?;
    work.write(&mut times, there..there + rows, per)?;
    let found: i64 = work.peer.app.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?;
    let expected = if there == 0 { rows / per * per } else { there };
    anyhow::ensure!(found.cast_unsigned() == expected, "the peer has {found} rows");
    println!("\n{name}, {rows} rows in transactions of {per}");
    report(&times, rows / per * per);
    Ok(())
}

/// Two nodes, and the same database without us.
struct Work {
    shape: Shape,
    there: u64,
    raw: Connection,
    origin: Node,
    peer: Node,
    stages: Stages,
}

impl Work {
    fn new(dir: &Path, shape: Shape, there: u64) -> Result<Self> {
        let raw = database(&dir.join("raw.db"), shape)?;
        let mut origin = node(&dir.join("origin.db"), shape, Site(1))?;
        let peer = node(&dir.join("peer.db"), shape, Site(2))?;
        // As a node does where no application commits (replicator/src/node/checkpoint.rs).
        peer.writer.pragma_update(None, "wal_autocheckpoint", 8_000)?;
        let stages = Stages::new(dir, &mut origin)?;
        Ok(Self { shape, there, raw, origin, peer, stages })
    }

    /// Takes rows from one node to the other.
    fn write(&mut self, times: &mut Times, rows: Range<u64>, per: u64) -> Result<()> {
        let Self { shape, there, raw, origin, peer, stages } = self;
        let (mut unabsorbed, end) = (0, rows.end);
        for transaction in 0..(rows.end - rows.start) / per {
            let from = rows.start + transaction * per;
            let rows = from..from + per;
            timed(&mut times.raw, || Stages::raw(raw, *shape, rows.clone(), *there))?;
            timed(&mut times.app, || shape.write(&origin.app, rows.clone(), *there))?;
            stages.stamp(origin)?;
            let body = timed(&mut times.collect, || stages.collect(origin))?;
            unabsorbed += per;
            let is_last = from + 2 * per > end;
            if unabsorbed >= ABSORB_ROWS || is_last {
                timed(&mut times.absorb, || stages.absorb(origin))?;
                unabsorbed = 0;
            }
            timed(&mut times.decode, || stages.decode(&body))?;
            timed(&mut times.apply, || stages.apply(peer, &body))?;
            let plain = timed(&mut times.uncompress, || Ok(zstd::decode_all(&body[..])?))?;
            timed(&mut times.compress, || Ok(zstd::encode_all(&plain[..], 1)?))?;
        }
        Ok(())
    }
}

fn report(times: &Times, rows: u64) {
    for (stage, time, limit, of) in [
        ("raw upserts", times.raw, times.raw, "raw"),
        ("application, with triggers", times.app, times.raw, "raw"),
        ("collect and encode", times.collect, times.raw, "raw"),
        ("collect and encode", times.collect, times.compress, "zstd alone"),
        ("absorb", times.absorb, times.raw, "raw"),
        ("decode", times.decode, times.uncompress, "zstd alone"),
        ("apply", times.apply, times.raw, "raw"),
    ] {
        let seconds = time.as_secs_f64();
        println!(
            "  {stage:27} {:11.0} rows/s {:8.2} us a row {:6.2} of {of}",
            rows as f64 / seconds,
            seconds * 1e6 / rows as f64,
            limit.as_secs_f64() / seconds
        );
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
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";
    db.execute_batch(&format!("{pragmas}; {}", shape.schema()))?;
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

/// What the stages keep from batch to batch.
struct Stages {
    limits: Limits,
    encoder: Encoder,
    unpacker: Unpacker,
    /// The batch as decode has decompressed it, if it is not large.
    plain: Option<Vec<u8>>,
    base: FoldBase,
    /// Of the batches that are not absorbed yet.
    digests: Vec<ReadDigests>,
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
            unpacker: Unpacker::default(),
            plain: None,
            limits,
            base: FoldBase::new(sent),
            digests: Vec::new(),
            sent,
            batch: 0,
        })
    }

    /// What the rows cost without us: the measure of the other stages on any machine.
    #[inline(never)]
    fn raw(db: &Connection, shape: Shape, rows: Range<u64>, there: u64) -> Result<()> {
        shape.write(db, rows, there)
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
        self.base.take(collected.folded, collected.upto);
        self.digests.push(collected.digests);
        self.sent = collected.upto;
        self.batch += 1;
        let (_, encoded) = collected.batch.context("nothing to publish")?;
        Ok(encoded.body.to_vec()?)
    }

    /// Gives what was just written the times of an even rate.
    fn stamp(&self, origin: &Node) -> Result<()> {
        origin.app.execute(
            "UPDATE __harmonylite__change_log SET time = ?1 + id / ?2 WHERE id > ?3",
            [NOW_MS, ROWS_PER_MS, self.sent],
        )?;
        Ok(())
    }

    /// Absorbs and removes what is published, as the writing actor does.
    #[inline(never)]
    fn absorb(&mut self, origin: &mut Node) -> Result<()> {
        let db = &origin.writer;
        db.execute_batch("BEGIN IMMEDIATE")?;
        let (layout, state) = (&origin.layout, &mut origin.state);
        let digests: Vec<&ReadDigests> = self.digests.iter().filter(|d| !d.is_empty()).collect();
        let acknowledged = Acknowledged { upto: self.sent, digests: &digests };
        absorb(db, layout, state, acknowledged, i64::MAX, &Compare::default())?;
        published(db, &mut origin.state, self.sent)?;
        db.execute_batch("COMMIT")?;
        self.base = FoldBase::new(origin.state.absorbed);
        self.digests.clear();
        Ok(())
    }

    /// Unpacks a batch and reads all of it once, as the writing actor does before it applies it.
    #[inline(never)]
    fn decode(&mut self, body: &[u8]) -> Result<()> {
        if let Some(plain) = self.plain.take() {
            self.unpacker.put_back(plain);
        }
        self.plain = self.unpacker.unpack(body, self.limits.plain_bytes_max);
        let found = match &self.plain {
            Some(plain) => outline(&plain[..], &self.limits)?,
            None => outline(unpacking(body, &self.limits)?, &self.limits)?,
        };
        anyhow::ensure!(found.rows > 0, "the batch has no rows");
        Ok(())
    }

    #[inline(never)]
    fn apply(&mut self, peer: &Node, body: &[u8]) -> Result<()> {
        match &self.plain {
            Some(plain) => self.apply_plain(peer, &plain[..]),
            None => self.apply_plain(peer, unpacking(body, &self.limits)?),
        }
    }

    fn apply_plain(&self, peer: &Node, plain: impl BufRead) -> Result<()> {
        let db = &peer.writer;
        let mut reader = BatchReader::new(plain, &self.limits)?;
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
