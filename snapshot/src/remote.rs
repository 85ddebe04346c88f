//! The bytes of a snapshot, fetched from its store when they are read.
//!
//! Arrives: ranges of the image. Leaves: its bytes. Owns: every block is checked against its digest
//! when its chunk is fetched, and memory is bounded. Nothing is on disk, so a crash leaves nothing.

use crate::catalog::Found;
use crate::error::SnapshotError;
use crate::restore::read_chunk;
use crate::store::Retrying;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Chunks that stay in memory: 32 MiB.
const KEPT: usize = 32;
/// Where a database header names its journal mode, and the mode of a database without a WAL: an
/// image has no WAL, and a reader would have to create one.
const MODES: std::ops::Range<u64> = 18..20;
const NO_WAL: u8 = 1;

/// An image in a store. Read it on a thread that may block, not on one of the runtime.
pub(crate) struct RemoteImage {
    store: Retrying,
    snapshot: Found,
    blocks: Vec<Vec<u32>>,
    runtime: Handle,
    stop: watch::Receiver<bool>,
    /// The most recently used first.
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
    fetched: AtomicUsize,
    failure: Mutex<Option<SnapshotError>>,
}

impl fmt::Debug for RemoteImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image of {} in {}", self.snapshot.id, self.store.place())
    }
}

impl RemoteImage {
    /// Reads nothing yet. When `stop` becomes true, reads fail.
    pub(crate) fn new(
        store: Retrying,
        snapshot: Found,
        runtime: Handle,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (kept, fetched, failure) = Default::default();
        let blocks = snapshot.manifest.by_chunk();
        Self { store, snapshot, blocks, runtime, stop, kept, fetched, failure }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.snapshot.manifest.bytes()
    }

    /// Returns how many chunks were fetched, one that was dropped and fetched again twice.
    pub(crate) fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Returns why the last read failed, once.
    pub(crate) fn failure(&self) -> Option<SnapshotError> {
        self.failure.lock().take()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Fills `out` from this offset. What is after the end of the image is zero, and an error.
    pub(crate) fn read(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset.saturating_add(done as u64);
            if at >= self.bytes() {
                out[done..].fill(0);
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let manifest = &self.snapshot.manifest;
            let index = (at / manifest.block_bytes as u64) as usize;
            let (block, image) = (manifest.blocks[index], manifest.range(index));
            let chunk = self.chunk(block.chunk as usize)?;
            let within =
                usize::from(block.slot) * manifest.block_bytes + (at - image.start) as usize;
            let count = ((image.end - at) as usize).min(out.len() - done);
            out[done..done + count].copy_from_slice(&chunk[within..within + count]);
            done += count;
        }
        for at in MODES {
            let byte = at.checked_sub(offset).and_then(|index| out.get_mut(index as usize));
            if let Some(byte) = byte {
                *byte = NO_WAL;
            }
        }
        Ok(())
    }

    fn chunk(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock();
        if let Some(found) = kept.iter().position(|(of, _)| *of == index) {
            if let Some(entry) = kept.remove(found) {
                kept.push_front(entry);
            }
            return Ok(Arc::clone(&kept[0].1));
        }
        let chunk = Arc::new(self.fetch(index)?);
        kept.truncate(KEPT - 1);
        kept.push_front((index, Arc::clone(&chunk)));
        Ok(chunk)
    }

    async fn checked(&self, index: usize) -> std::result::Result<(Vec<u8>, u64), SnapshotError> {
        let (store, snapshot, blocks) = (&self.store, &self.snapshot, &self.blocks[index]);
        read_chunk(store, snapshot, index, blocks, |content, _| content).await
    }

    fn fetch(&self, index: usize) -> Result<Vec<u8>> {
        let mut stop = self.stop.clone();
        let fetched = self.runtime.block_on(async {
            tokio::select! {
                biased;
                Ok(_) = stop.wait_for(|stop| *stop) => None,
                fetched = self.checked(index) => Some(fetched),
            }
        });
        match fetched {
            Some(Ok((content, _))) => {
                self.fetched.fetch_add(1, Ordering::Relaxed);
                Ok(content)
            }
            Some(Err(error)) => {
                let text = error.to_string();
                *self.failure.lock() = Some(error);
                Err(Error::other(text))
            }
            None => Err(ErrorKind::Interrupted.into()),
        }
    }
}
