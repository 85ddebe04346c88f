//! From an image to a snapshot in a store.
//!
//! Arrives: an [`Image`] and what it means. Leaves: chunks that the store did not have, then the
//! manifest. Owns: a snapshot exists only when all of it does; at most some pieces are in memory.
//! A crash leaves chunks without a manifest: the next save finds and uses them, and
//! [`crate::retention`] removes what nobody uses.

use crate::block::{Block, block_bytes};
use crate::chunk::{self, ChunkId};
use crate::cut::{Cut, Gathered, Layout, Packed, Present, cut, pack_if_new};
use crate::error::SnapshotError;
use crate::image::{Image, Offered, Pieces};
use crate::in_background;
use crate::manifest::{FORMAT, Facts, Manifest, SnapshotId, content_digest};
use crate::name::Name;
use crate::progress::Progress;
use crate::retention::{self, MARKER_RENEWED_MS};
use crate::reuse::Known;
use crate::store::Retrying;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

/// Returns the time, unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Pieces that wait between the reader and the store.
const WAITING: usize = 4;
/// A slow store may keep the WAL from being reset for this long. Then the rest of the image is
/// copied to a scratch file, as fast as the disk is.
const HELD_MS_MAX: i64 = 30_000;

/// How to save.
#[derive(Clone)]
pub struct SaveOptions {
    /// The clock.
    pub clock: Clock,
    /// Pieces that are hashed, compressed and sent at the same time.
    pub parallel: usize,
    /// Send also the chunks that the store has: one of them may be damaged.
    pub resend: bool,
}

impl SaveOptions {
    /// Options with this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, parallel: 4, resend: false }
    }

    #[cfg(test)]
    pub(crate) fn at(now_ms: i64) -> Self {
        Self::new(Arc::new(move || now_ms))
    }
}

/// A snapshot that was saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its name.
    pub id: SnapshotId,
    /// Its content.
    pub manifest: Manifest,
    /// The chunks that were sent; the store had the others.
    pub sent_chunks: u64,
    /// The bytes sent, compressed.
    pub sent_bytes: u64,
}

/// Saves an image. Removes nothing; see [`retention::prune`].
///
/// # Errors
/// The error of the database or the store. The store then has no new snapshot.
pub async fn save(
    image: Image,
    facts: Facts,
    store: &Retrying,
    options: &SaveOptions,
    progress: &Arc<Progress>,
) -> Result<Saved, SnapshotError> {
    let created_ms = (options.clock)();
    let marker = retention::marker(facts.node, created_ms);
    store.put(&marker, renewal(created_ms)).await?;
    let mut saving = Saving {
        store,
        options,
        progress,
        marker: &marker,
        renewed_ms: AtomicI64::new(created_ms),
        known: Arc::default(),
        present: Arc::default(),
        sent_chunks: AtomicU64::new(0),
        sent_bytes: AtomicU64::new(0),
    };
    let saved = saving.run(image, facts, created_ms).await;
    if let Err(error) = store.delete(&marker).await {
        tracing::warn!(%error, "a snapshot's marker stays; it is void after an hour");
    }
    saved
}

fn renewal(now_ms: i64) -> Bytes {
    Bytes::from(now_ms.to_string())
}

struct Saving<'a> {
    store: &'a Retrying,
    options: &'a SaveOptions,
    progress: &'a Arc<Progress>,
    marker: &'a Name,
    renewed_ms: AtomicI64,
    known: Arc<Known>,
    present: Arc<Present>,
    sent_chunks: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Saving<'_> {
    async fn run(
        &mut self,
        image: Image,
        facts: Facts,
        created_ms: i64,
    ) -> Result<Saved, SnapshotError> {
        let counting = image
            .take_second()
            .map(|second| tokio::spawn(in_background(move || second.row_counts())));
        let counts_itself = counting.is_none();
        let (page_size, page_count) = (image.page_size(), image.page_count());
        let bytes = u64::from(page_size) * page_count;
        let block_bytes = block_bytes(bytes);
        if !self.options.resend {
            let present = stored(self.store).await?;
            let known = Known::read(self.store, facts.node, block_bytes, &present).await?;
            self.known = Arc::new(known);
            self.present = Arc::new(Mutex::new(present));
        }
        self.progress.expect(bytes);
        let (to_send, pieces) = mpsc::channel(WAITING);
        let clock = Arc::clone(&self.options.clock);
        let (runtime, until_ms) = (Handle::current(), clock() + HELD_MS_MAX);
        let to_send = Sender { to_send, runtime, until_ms, clock };
        let reader = tokio::spawn(in_background(move || read(&image, counts_itself, to_send)));
        let (chunks, blocks) = self.send_all(pieces, block_bytes).await?;
        let mut tables = crate::joined(reader).await?;
        if let Some(counting) = counting {
            tables = crate::joined(counting).await?;
        }
        let manifest = Manifest {
            format: FORMAT,
            created_ms,
            page_size,
            page_count,
            facts,
            tables,
            digest: content_digest(blocks.iter().map(|block| &block.digest)),
            chunks,
            block_bytes,
            blocks,
        };
        self.check_all_present(&manifest).await?;
        let refused = |reason| SnapshotError::Manifest {
            place: self.store.place(),
            snapshot: "that was to be saved".to_owned(),
            reason,
        };
        let bytes = manifest.encode().map_err(refused)?;
        let id = SnapshotId::of(created_ms, &bytes);
        self.store.put(&id.object(), bytes.into()).await?;
        let (sent_chunks, sent_bytes) =
            (self.sent_chunks.load(Ordering::Relaxed), self.sent_bytes.load(Ordering::Relaxed));
        Ok(Saved { id, manifest, sent_chunks, sent_bytes })
    }

    async fn send_all(
        &self,
        mut pieces: mpsc::Receiver<Vec<u8>>,
        block_bytes: usize,
    ) -> Result<(Vec<ChunkId>, Vec<Block>), SnapshotError> {
        let mut layout = Layout::new(block_bytes);
        let (mut cutting, mut sending) = (FuturesOrdered::new(), FuturesUnordered::new());
        let mut is_read = false;
        loop {
            let has_room = cutting.len() + sending.len() < self.options.parallel.max(1);
            tokio::select! {
                Some(cut) = cutting.next() => {
                    let full = layout.take(cut?);
                    sending.extend(full.into_iter().map(|gathered| self.send(gathered)));
                }
                Some(sent) = sending.next() => {
                    let (gathered, chunk) = sent?;
                    layout.settle(&gathered, chunk);
                }
                piece = pieces.recv(), if has_room && !is_read => match piece {
                    Some(piece) => cutting.push_back(self.send_piece(piece, block_bytes)),
                    None => is_read = true,
                },
                else => match layout.rest() {
                    Some(gathered) => sending.push(self.send(gathered)),
                    None => return Ok(layout.end()),
                },
            }
        }
    }

    async fn send_piece(&self, piece: Vec<u8>, block_bytes: usize) -> Result<Cut, SnapshotError> {
        let bytes = piece.len() as u64;
        let (known, present) = (Arc::clone(&self.known), Arc::clone(&self.present));
        let cut = in_background(move || cut(&piece, block_bytes, &known, &present)).await;
        let mut cut = cut.map_err(no_memory)?;
        let sent = match cut.packed.take() {
            Some(packed) => self.put(packed).await?,
            None => 0,
        };
        self.progress.add(bytes, sent);
        self.renew().await?;
        Ok(cut)
    }

    async fn send(&self, gathered: Gathered) -> Result<(Gathered, ChunkId), SnapshotError> {
        let present = Arc::clone(&self.present);
        let pack = move || pack_if_new(&gathered.content, &present).map(|done| (gathered, done));
        let (gathered, packed) = in_background(pack).await.map_err(no_memory)?;
        let id = packed.id;
        self.progress.add(0, self.put(packed).await?);
        Ok((gathered, id))
    }

    /// Returns the sent bytes.
    async fn put(&self, packed: Packed) -> Result<u64, SnapshotError> {
        let Some(stored) = packed.stored else { return Ok(0) };
        let sent = stored.len() as u64;
        self.store.put(&packed.id.object(), stored).await?;
        self.sent_chunks.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        Ok(sent)
    }

    /// Shows that this save still runs.
    async fn renew(&self) -> Result<(), SnapshotError> {
        let (now_ms, renewed_ms) =
            ((self.options.clock)(), self.renewed_ms.load(Ordering::Relaxed));
        if now_ms - renewed_ms < MARKER_RENEWED_MS {
            return Ok(());
        }
        self.renewed_ms.store(now_ms, Ordering::Relaxed);
        self.store.put(self.marker, renewal(now_ms)).await
    }

    /// Checks that nobody has deleted what this save did not send because it was there.
    async fn check_all_present(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let present = stored(self.store).await?;
        let needed: HashSet<&ChunkId> = manifest.chunks.iter().collect();
        match needed.into_iter().filter(|chunk| !present.contains(chunk)).count() {
            0 => Ok(()),
            missing => Err(SnapshotError::Vanished { place: self.store.place(), missing }),
        }
    }
}

fn no_memory(error: std::io::Error) -> SnapshotError {
    SnapshotError::Io { action: "compress", path: "a part of the image".into(), error }
}

async fn stored(store: &Retrying) -> Result<HashSet<ChunkId>, SnapshotError> {
    let entries = store.list(chunk::FOLDER).await?;
    // An empty object is what a full disk left of a write by another program.
    let whole = entries.iter().filter(|entry| entry.bytes != Some(0));
    Ok(whole.filter_map(|entry| ChunkId::of_object(&entry.name)).collect())
}

/// Reads the whole image, and counts its rows if nobody else does. Ends early if nobody takes the
/// pieces any more.
fn read(
    image: &Image,
    counts: bool,
    to_send: Sender,
) -> Result<BTreeMap<String, u64>, SnapshotError> {
    let tables = if counts { image.row_counts()? } else { BTreeMap::new() };
    image.pieces(to_send)?;
    Ok(tables)
}

/// Hands pieces to the store, and does not wait for it without end while the WAL is held.
struct Sender {
    to_send: mpsc::Sender<Vec<u8>>,
    runtime: Handle,
    clock: Clock,
    until_ms: i64,
}

impl Pieces for Sender {
    fn offer(&mut self, piece: Vec<u8>) -> Offered {
        let piece = match self.to_send.try_send(piece) {
            Ok(()) => return Offered::Taken,
            Err(TrySendError::Closed(_)) => return Offered::Ended,
            Err(TrySendError::Full(piece)) => piece,
        };
        let left_ms = u64::try_from(self.until_ms - (self.clock)()).unwrap_or(0);
        let room = async { timeout(Duration::from_millis(left_ms), self.to_send.reserve()).await };
        match self.runtime.block_on(room) {
            Ok(Ok(room)) => {
                room.send(piece);
                Offered::Taken
            }
            Ok(Err(_)) => Offered::Ended,
            Err(_) => Offered::Later(piece),
        }
    }

    fn put(&mut self, piece: Vec<u8>) -> bool {
        self.to_send.blocking_send(piece).is_ok()
    }
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
