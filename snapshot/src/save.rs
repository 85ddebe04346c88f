//! From an image to a snapshot in a store.
//!
//! Arrives: an [`Image`] and what it means. Leaves: chunks that the store did not have, then the
//! manifest. Owns: a snapshot exists only when all of it does; at most a few chunks are in memory.
//! A crash leaves chunks without a manifest: the next save finds and uses them, and
//! [`crate::retention`] removes what nobody uses.

use crate::chunk::{self, ChunkId};
use crate::error::SnapshotError;
use crate::image::{Image, Offered, Pieces};
use crate::in_background;
use crate::manifest::{FORMAT, Facts, Manifest, SnapshotId, content_digest};
use crate::name::Name;
use crate::progress::Progress;
use crate::retention::{self, MARKER_RENEWED_MS};
use crate::store::Retrying;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Chunks that are compressed and sent at the same time.
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

/// The chunks in the store, and those on their way to it.
type Present = Mutex<HashSet<ChunkId>>;

struct Saving<'a> {
    store: &'a Retrying,
    options: &'a SaveOptions,
    progress: &'a Arc<Progress>,
    marker: &'a Name,
    renewed_ms: AtomicI64,
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
        if !self.options.resend {
            self.present = Arc::new(Mutex::new(stored(self.store).await?));
        }
        let (page_size, page_count) = (image.page_size(), image.page_count());
        self.progress.expect(u64::from(page_size) * page_count);
        let (to_send, pieces) = mpsc::channel(WAITING);
        let clock = Arc::clone(&self.options.clock);
        let (runtime, until_ms) = (Handle::current(), clock() + HELD_MS_MAX);
        let to_send = Sender { to_send, runtime, until_ms, clock };
        let reader = tokio::spawn(in_background(move || read(&image, counts_itself, to_send)));
        let chunks = self.send_all(pieces).await?;
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
            digest: content_digest(&chunks),
            chunks,
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
    ) -> Result<Vec<ChunkId>, SnapshotError> {
        let mut chunks = Vec::new();
        let mut sending = FuturesOrdered::new();
        loop {
            let has_room = sending.len() < self.options.parallel.max(1);
            tokio::select! {
                Some(sent) = sending.next() => chunks.push(sent?),
                piece = pieces.recv(), if has_room => match piece {
                    Some(piece) => sending.push_back(self.send(piece)),
                    None => break,
                },
            }
        }
        while let Some(sent) = sending.next().await {
            chunks.push(sent?);
        }
        Ok(chunks)
    }

    async fn send(&self, piece: Vec<u8>) -> Result<ChunkId, SnapshotError> {
        let bytes = piece.len() as u64;
        let present = Arc::clone(&self.present);
        let (id, packed) = in_background(move || pack_if_new(&piece, &present)).await;
        let mut sent = 0;
        if let Some(packed) = packed {
            let packed = packed.map_err(|error| SnapshotError::Io {
                action: "compress",
                path: id.to_string().into(),
                error,
            })?;
            sent = packed.len() as u64;
            self.store.put(&id.object(), packed).await?;
            self.sent_chunks.fetch_add(1, Ordering::Relaxed);
            self.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        }
        self.progress.add(bytes, sent);
        self.renew().await?;
        Ok(id)
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

/// Names a piece, and compresses it if the store does not have it.
fn pack_if_new(piece: &[u8], present: &Present) -> (ChunkId, Option<std::io::Result<Bytes>>) {
    let id = ChunkId::of(piece);
    let is_new = present.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    (id, is_new.then(|| chunk::pack(piece)))
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
mod tests {
    use crate::restore::fetch;
    use crate::testing::{Fault, database, memory, take, try_take};
    use crate::{SnapshotError, catalog, chunk};

    /// A save that ends between two chunks leaves no snapshot, the old one restores, and the next
    /// save sends only what is missing.
    #[tokio::test]
    async fn an_interrupted_save_is_resumed_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 2);
        let (memory, store) = memory();
        let first = take(&store, &path, 1_000).await;
        db.execute_batch("UPDATE note SET body = randomblob(4000)").unwrap();
        *memory.chunk_puts.lock().unwrap() = Some(1);
        let error = try_take(&store, &path, 2_000).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Store { action: "write", .. }), "{error}");
        *memory.chunk_puts.lock().unwrap() = None;
        assert_eq!(catalog::ids(&store).await.unwrap(), [first.id]);
        assert_eq!(memory.names("saving/"), [], "the marker is gone");
        let old = catalog::find(&store, None).await.unwrap();
        fetch(&store, &old, dir.path(), &Default::default()).await.unwrap();
        let left = memory.names(chunk::FOLDER).len();
        let third = take(&store, &path, 3_000).await;
        let total = third.manifest.chunks.len() as u64;
        assert!(third.sent_chunks < total, "{} of {total}", third.sent_chunks);
        assert!(memory.names(chunk::FOLDER).len() as u64 == left as u64 + third.sent_chunks);
    }

    /// What did not change is not sent again, unless that is asked for.
    #[tokio::test]
    async fn a_second_save_sends_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = database(&path, 6);
        let (memory, store) = memory();
        let first = take(&store, &path, 1_000).await;
        assert!(first.sent_chunks >= 6);
        db.execute_batch("UPDATE note SET body = 'x' WHERE id = 1000").unwrap();
        let second = take(&store, &path, 2_000).await;
        assert!(second.sent_chunks <= 2, "{}", second.sent_chunks);
        assert_eq!(second.manifest.tables["note"], 6 * 256);
        // A chunk that is on its way is not sent twice, and a name counts only with a content.
        let chunk = second.manifest.chunks[3].object();
        memory.objects.lock().unwrap().insert(chunk, Default::default());
        assert_eq!(take(&store, &path, 3_000).await.sent_chunks, 1);
    }

    #[tokio::test]
    async fn no_manifest_is_written_if_a_chunk_failed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let _db = database(&path, 1);
        let (memory, store) = memory();
        let whole = take(&store, &path, 1_000).await;
        let chunk = whole.manifest.chunks[0].object();
        memory.objects.lock().unwrap().clear();
        memory.fail(&chunk, [Fault::Lasting]);
        try_take(&store, &path, 2_000).await.unwrap_err();
        assert_eq!(catalog::ids(&store).await.unwrap(), []);
    }
}
