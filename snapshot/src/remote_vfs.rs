//! How SQLite reads an image in a store: a read-only virtual file system of the crate `sqlite-vfs`.
//!
//! Arrives: an image. Leaves: a name that SQLite opens with [`VFS`], for as long as [`Mounted`]
//! lives. Owns: a database has no file here and cannot be written. What SQLite sorts on disk goes
//! to nameless files in the directory for temporary files, which go with the process.
//!
//! The crate's WAL index must not be used: it loses commits of several processes. It is disabled,
//! and the image is shown as a database without a WAL.

use crate::remote::RemoteImage;
use parking_lot::Mutex;
use sqlite_vfs::{DatabaseHandle, LockKind, OpenKind, OpenOptions, Vfs, WalDisabled};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The name of the virtual file system.
pub(crate) const VFS: &str = "harmonylite-snapshot";

static IMAGES: LazyLock<Mutex<HashMap<String, Arc<RemoteImage>>>> = LazyLock::new(Mutex::default);
static REGISTERED: LazyLock<std::result::Result<(), String>> =
    LazyLock::new(|| sqlite_vfs::register(VFS, Images, false).map_err(|error| error.to_string()));
static NEXT: AtomicU64 = AtomicU64::new(1);

/// An image that SQLite can open.
#[derive(Debug)]
pub(crate) struct Mounted(String);

impl Mounted {
    /// Gives an image a name.
    ///
    /// # Errors
    /// SQLite accepts no further virtual file system.
    pub(crate) fn new(image: Arc<RemoteImage>) -> std::result::Result<Self, String> {
        REGISTERED.clone()?;
        let name = format!("snapshot-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        IMAGES.lock().insert(name.clone(), image);
        Ok(Self(name))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        IMAGES.lock().remove(&self.0);
    }
}

struct Images;

impl Vfs for Images {
    type Handle = OpenFile;

    fn open(&self, name: &str, options: OpenOptions) -> Result<OpenFile> {
        let content = match options.kind {
            OpenKind::MainDb => {
                let image = IMAGES.lock().get(name).cloned();
                Content::Image(image.ok_or(ErrorKind::NotFound)?)
            }
            OpenKind::TempDb
            | OpenKind::TempJournal
            | OpenKind::TransientDb
            | OpenKind::SubJournal => Content::Temporary(tempfile::tempfile()?),
            OpenKind::MainJournal | OpenKind::SuperJournal | OpenKind::Wal => {
                return Err(ErrorKind::Unsupported.into());
            }
        };
        Ok(OpenFile { content, lock: LockKind::None })
    }

    /// A temporary file has no name any more.
    fn delete(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn exists(&self, name: &str) -> Result<bool> {
        Ok(IMAGES.lock().contains_key(name))
    }

    fn temporary_name(&self) -> String {
        "temporary".to_owned()
    }

    fn random(&self, buffer: &mut [i8]) {
        // Without random numbers of the system SQLite uses its own.
        let mut bytes = vec![0; buffer.len()];
        let _ = getrandom::fill(&mut bytes);
        buffer.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte.cast_signed());
    }

    fn sleep(&self, duration: Duration) -> Duration {
        std::thread::park_timeout(duration);
        duration
    }

    fn access(&self, _name: &str, write: bool) -> Result<bool> {
        Ok(!write)
    }
}

enum Content {
    Image(Arc<RemoteImage>),
    Temporary(File),
}

struct OpenFile {
    content: Content,
    lock: LockKind,
}

impl OpenFile {
    fn temporary(&self) -> Result<&File> {
        match &self.content {
            Content::Temporary(file) => Ok(file),
            Content::Image(_) => Err(Error::new(
                ErrorKind::PermissionDenied,
                "a snapshot in a store cannot be written",
            )),
        }
    }
}

impl DatabaseHandle for OpenFile {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64> {
        match &self.content {
            Content::Image(image) => Ok(image.bytes()),
            Content::Temporary(file) => Ok(file.metadata()?.len()),
        }
    }

    fn read_exact_at(&mut self, out: &mut [u8], offset: u64) -> Result<()> {
        match &self.content {
            Content::Image(image) => image.read(out, offset),
            Content::Temporary(file) => {
                // What a short read does not fill must be zero.
                out.fill(0);
                file.read_exact_at(out, offset)
            }
        }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.temporary()?.write_all_at(bytes, offset)
    }

    /// Nothing here outlives the process.
    fn sync(&mut self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> Result<()> {
        self.temporary()?.set_len(size)
    }

    /// One connection has the file, and nobody writes it.
    fn lock(&mut self, lock: LockKind) -> Result<bool> {
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn current_lock(&self) -> Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled> {
        Ok(WalDisabled)
    }
}
