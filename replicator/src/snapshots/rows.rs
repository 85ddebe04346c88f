//! The rows of a snapshot as batches, as its node would republish them.
//!
//! Arrives: a fetched image, which nobody else uses, and the gaps of this node. Leaves: batches of
//! bounded size, with every row and tombstone under its version. Owns: a snapshot counts only if
//! its node missed nothing of the streams in question and had read what is missing here; a change
//! that its node had not given a version gets the one that the node itself gave it later, because a
//! version is computed from the log alone. The image is changed on the way. A crash leaves a
//! scratch file.

use crate::capture::absorb::{AbsorbState, Acknowledged, absorb, published};
use crate::capture::compare::Compare;
use crate::capture::fold::FoldFrom;
use crate::capture::install as triggers;
use crate::db::connection::{DatabaseError, prepare_writer};
use crate::db::layout::Layout;
use crate::model::config::NodeConfig;
use crate::model::ids::{BatchNo, Hlc, NodeId};
use crate::publish::collect::{CollectError, CollectFrom, Collected, collect};
use crate::repair::gaps::{MissingBatches, OpenGap};
use crate::repair::walk::{StepBounds, Walk};
use crate::store::change_log::{self, log_end};
use crate::store::cursor::{self, Cursor};
use crate::store::gaps::misses_nothing;
use crate::store::meta::{self, Meta};
use crate::store::origins::{self, Origin};
use crate::store::{comparisons, install, schema_changes, sites};
use crate::wire::encode::Encoder;
use crate::wire::spill::Spill;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// Rows in one batch: some milliseconds of work for the writer, which holds the write lock for it.
const ROWS_MAX: u64 = 500;
/// Bytes of rows in one batch. A single row may have more.
const BYTES_MAX: u64 = 128 << 10;
/// Log entries that get their versions at a time.
const ABSORB_ENTRIES: i64 = 100_000;

/// Why the rows of a snapshot cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// It does not have what is missing here, or not surely.
    #[error("it cannot be used here: {0}")]
    Unfit(String),
    /// The image cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A batch cannot be built.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// There is no room for the encoder.
    #[error("cannot build a batch: {0}")]
    Io(#[from] std::io::Error),
}

impl From<rusqlite::Error> for RowsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

fn unfit<T>(reason: impl Into<String>) -> Result<T, RowsError> {
    Err(RowsError::Unfit(reason.into()))
}

/// One batch of rows.
pub struct RowBatch {
    /// Its bytes.
    pub body: Spill,
    /// Its rows.
    pub rows: u64,
}

/// Reads the rows of an image.
pub struct SnapshotRows {
    db: Connection,
    contents: Contents,
    layout: Layout,
    encoder: Encoder,
    walk: Walk,
    node: NodeId,
    absorb: AbsorbState,
    compare: Compare,
    entries_max: u64,
    now_ms: i64,
    batches: u64,
    finished: bool,
}

impl SnapshotRows {
    /// Opens an image that fills these gaps.
    ///
    /// # Errors
    /// [`RowsError::Unfit`] if it does not fill them.
    pub fn open(
        path: &Path,
        config: &NodeConfig,
        gaps: &[OpenGap],
        now_ms: i64,
    ) -> Result<Self, RowsError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::of(Connection::open_with_flags(path, flags)?, config, gaps, now_ms)
    }

    /// Reads the image behind a connection that nobody else uses.
    ///
    /// # Errors
    /// [`RowsError::Unfit`] if it does not fill these gaps.
    pub fn of(
        db: Connection,
        config: &NodeConfig,
        gaps: &[OpenGap],
        now_ms: i64,
    ) -> Result<Self, RowsError> {
        prepare_writer(&db)?;
        // The file is thrown away after any failure.
        db.pragma_update(None, "synchronous", "OFF")?;
        db.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
        let contents = check(&db, gaps)?;
        let Some(layout) = triggers::load(&db, &config.filter)? else {
            return unfit("it was captured during a migration");
        };
        let stored = Meta::read(&db)?;
        let mut rows = Self {
            contents,
            layout,
            encoder: Encoder::new(&config.limits, config.spill_dir.clone())?,
            walk: Walk::since(0),
            node: stored.node,
            absorb: AbsorbState {
                site: stored.site,
                own_sites: sites::own_sites(&db)?,
                absorbed: stored.absorbed,
                published: stored.published,
            },
            compare: Compare::read(&db)?,
            entries_max: config.limits.batch_entries_max,
            now_ms,
            batches: 0,
            finished: false,
            db,
        };
        rows.absorb_all()?;
        let end = rows.absorb.absorbed;
        published(&rows.db, &mut rows.absorb, end)?;
        // A node that lacks a change of the schema makes it before it gets the rows.
        schema_changes::send_again(&rows.db, now_ms)?;
        Ok(rows)
    }

    /// Returns what the image contains of the streams.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Returns the next batch; None after the last one.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>, RowsError> {
        loop {
            self.db.execute_batch("BEGIN")?;
            let found = self.next_inside()?;
            self.db.execute_batch("COMMIT")?;
            match found {
                Some(Collected { batch: Some((_, encoded)), rows, .. }) => {
                    self.batches += 1;
                    return Ok(Some(RowBatch { body: encoded.body, rows }));
                }
                Some(_) => {}
                None if self.finished => return Ok(None),
                None => {}
            }
        }
    }

    /// Collects what is logged; else logs the next rows.
    fn next_inside(&mut self) -> Result<Option<Collected>, RowsError> {
        if log_end(&self.db)? <= self.absorb.published {
            if !self.finished {
                let bounds = StepBounds { rows_max: ROWS_MAX, bytes_max: BYTES_MAX };
                self.finished = self.walk.step(&self.db, &self.layout, bounds)?.finished;
            }
            self.absorb_all()?;
        }
        let from = CollectFrom {
            node: self.node,
            fold: FoldFrom {
                site: self.absorb.site,
                own_sites: &self.absorb.own_sites,
                absorbed: self.absorb.absorbed,
                sent: self.absorb.published,
                upto: log_end(&self.db)?,
            },
            base: None,
            previous: BatchNo(self.batches),
            now_ms: self.now_ms,
            entries_max: self.entries_max,
            hlc_max: Hlc::FOREIGN_MAX,
        };
        let collected = collect(&self.db, &self.layout, &from, &mut self.encoder)?;
        if let Some(collected) = &collected {
            self.absorb_all()?;
            published(&self.db, &mut self.absorb, collected.upto)?;
        }
        Ok(collected)
    }

    fn absorb_all(&mut self) -> Result<(), DatabaseError> {
        let (db, layout, none) = (&self.db, &self.layout, Acknowledged::default());
        while !absorb(db, layout, &mut self.absorb, none, ABSORB_ENTRIES, &self.compare)?.1 {}
        Ok(())
    }
}

/// What an image contains of the streams.
#[derive(Clone, Debug)]
pub struct Contents {
    streams: Vec<StreamContent>,
    /// The last batch of every origin, that of the image's own node included.
    pub origins: Vec<Origin>,
    /// When its node made the oldest change that it had not published, as far as it knew; unix
    /// milliseconds.
    pub unpublished_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct StreamContent {
    shard: u32,
    upto: u64,
    created_ns: i64,
    /// Its node missed nothing of it.
    whole: bool,
}

impl Contents {
    /// Reads it.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn read(db: &Connection) -> Result<Self, DatabaseError> {
        let mut streams = Vec::new();
        for shard in cursor::shards(db)? {
            let whole = misses_nothing(db, shard)?;
            let cursor = Cursor::read(db, shard)?;
            streams.extend(cursor.head().map(|head| StreamContent {
                shard,
                upto: head.seq.0,
                created_ns: head.created_ns,
                whole,
            }));
        }
        let unpublished_ms = change_log::unpublished_since(db)?;
        Ok(Self { streams, origins: known_origins(db)?, unpublished_ms })
    }

    /// Returns whether its node missed nothing of a stream, as far as it had read it.
    pub(super) fn is_whole(&self, shard: u32) -> bool {
        self.streams.iter().find(|stream| stream.shard == shard).is_none_or(|stream| stream.whole)
    }

    /// Returns why it does not fill a gap; None if it does: its node could have answered the
    /// question about it, because it had read the stream so far and missed nothing.
    pub fn lacks(&self, gap: &OpenGap) -> Option<String> {
        let (shard, created_ns) = (gap.shard, gap.needs.created_ns);
        let same = |s: &&StreamContent| s.shard == shard && s.created_ns == created_ns;
        let stream = self.streams.iter().find(same);
        let upto = stream.map_or(0, |stream| stream.upto);
        if upto < gap.needs.position {
            return Some(format!("it has stream {shard} up to {upto} only"));
        }
        for missing in gap.needs.batches.iter().filter(|missing| upto < missing.before) {
            let known = self.origins.iter().find(|origin| origin.site == missing.site);
            let known = known.map_or(BatchNo(0), |origin| origin.batch);
            if known < missing.upto {
                let MissingBatches { site, upto, .. } = missing;
                return Some(format!("of site {site} it has batch {known}, not {upto}"));
            }
        }
        let is_whole = stream.is_some_and(|stream| stream.whole);
        (!is_whole).then(|| format!("its node missed something of stream {shard} itself"))
    }
}

/// Checks that the rows of this image can be read, and that they fill these gaps.
pub(super) fn check(db: &Connection, gaps: &[OpenGap]) -> Result<Contents, RowsError> {
    if !install::is_installed(db)? {
        return unfit("no node ran on that database");
    }
    let format = meta::get(db, meta::FORMAT)?.unwrap_or(0);
    if format != install::FORMAT {
        return unfit(format!("its tables have format {format}, not {}", install::FORMAT));
    }
    if meta::get(db, meta::JOINED)? != Some(true) {
        return unfit("its node had not joined");
    }
    if !comparisons::read(db)?.is_empty() {
        return unfit("its node was comparing tables after a migration");
    }
    let contents = Contents::read(db)?;
    match gaps.iter().find_map(|gap| contents.lacks(gap)) {
        Some(lacks) => unfit(lacks),
        None => Ok(contents),
    }
}

/// Returns the last batch of every origin that an image contains, that of its own node included.
fn known_origins(db: &Connection) -> Result<Vec<Origin>, DatabaseError> {
    let mut all = origins::all(db)?;
    let created_ms = all.iter().map(|origin| origin.created_ms).max().unwrap_or(0);
    all.extend(origins::present(db, created_ms)?);
    Ok(all)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
