//! The bell file in memory, as both sides see it.
//!
//! Owns: nobody maps a file that is not a whole bell of this layout. Like SQLite's own -shm, a
//! mapped bell that somebody cuts short is a bus error at the next touch; nothing of ours ever
//! does: a new bell replaces the old one by rename.

use crate::layout::{
    AT_ASKING, AT_COMMITS, AT_ENTRIES, AT_HEARTBEAT, AT_PROGRESS, AT_PUBLISHED, AT_RING, AT_SITE,
    AT_SIZE, AT_VERSION, AT_WAITING, AT_WORD, ENTRY_SIZE, MAGIC, RING, SIZE, VERSION,
};
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// Which file it is, however it is called now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: i64,
}

impl Identity {
    fn of(stat: &libc::stat) -> Self {
        #[allow(clippy::unnecessary_cast)] // the types differ between systems
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64, size: stat.st_size as i64 }
    }

    /// Of what the name stands for now.
    pub(crate) fn named(path: &CStr) -> Option<Self> {
        // SAFETY: a zeroed stat is a valid one, and stat fills it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a terminated string and a valid place.
        (unsafe { libc::stat(path.as_ptr(), &raw mut stat) } == 0).then(|| Self::of(&stat))
    }
}

/// One entry of the ring.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) number: &'a AtomicU64,
    pub(crate) time: &'a AtomicU64,
    pub(crate) max_frame: &'a AtomicU32,
    pub(crate) pages: &'a AtomicU32,
}

/// A mapped bell.
pub(crate) struct Map {
    start: NonNull<u8>,
    identity: Identity,
}

// SAFETY: the memory is only used through atomics, and belongs to the process, not to a thread.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the bell of that name. None: there is none, or it is not one of ours, or we may not
    /// write it.
    pub(crate) fn open(path: &CStr) -> Option<Self> {
        // SAFETY: a terminated string.
        let file = unsafe {
            libc::open(
                path.as_ptr(),
                libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY,
            )
        };
        if file < 0 {
            return None;
        }
        let map = Self::of_file(file);
        // SAFETY: our own descriptor, closed once. (Not a database: SQLite holds no locks on it.)
        unsafe { libc::close(file) };
        map
    }

    fn of_file(file: libc::c_int) -> Option<Self> {
        // SAFETY: a zeroed stat is a valid one, and fstat fills it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: an open descriptor and a valid place.
        if unsafe { libc::fstat(file, &raw mut stat) } != 0
            || stat.st_mode & libc::S_IFMT != libc::S_IFREG
        {
            return None;
        }
        let identity = Identity::of(&stat);
        if identity.size != SIZE as i64 {
            return None;
        }
        let mut head = [0_u8; AT_RING + 4];
        // Read, not mapped yet: a read that fails is only an error.
        // SAFETY: the buffer is as long as said.
        if unsafe { libc::pread(file, head.as_mut_ptr().cast(), head.len(), 0) }
            != head.len() as isize
        {
            return None;
        }
        let number = |at: usize| {
            head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
        };
        if head.get(..MAGIC.len()) != Some(&MAGIC)
            || number(AT_VERSION) != Some(VERSION)
            || number(AT_SIZE) != Some(SIZE as u32)
            || number(AT_RING) != Some(RING as u32)
        {
            return None;
        }
        // SAFETY: a new mapping, nowhere in particular.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        Some(Self { start: NonNull::new(start.cast())?, identity })
    }

    /// Which file this is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    fn u32_at(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at + 4 <= SIZE && at.is_multiple_of(4));
        // SAFETY: inside the mapping (callers pass constants of the layout), aligned, and lives as
        // long as self.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    fn u64_at(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at + 8 <= SIZE && at.is_multiple_of(8));
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    fn i64_at(&self, at: usize) -> &AtomicI64 {
        debug_assert!(at + 8 <= SIZE && at.is_multiple_of(8));
        // SAFETY: as above.
        unsafe { AtomicI64::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    pub(crate) fn word(&self) -> &AtomicU32 {
        self.u32_at(AT_WORD)
    }

    pub(crate) fn waiting(&self) -> &AtomicU32 {
        self.u32_at(AT_WAITING)
    }

    pub(crate) fn commits(&self) -> &AtomicU64 {
        self.u64_at(AT_COMMITS)
    }

    pub(crate) fn progress(&self) -> &AtomicU32 {
        self.u32_at(AT_PROGRESS)
    }

    pub(crate) fn asking(&self) -> &AtomicU32 {
        self.u32_at(AT_ASKING)
    }

    pub(crate) fn site(&self) -> &AtomicI64 {
        self.i64_at(AT_SITE)
    }

    pub(crate) fn published(&self) -> &AtomicI64 {
        self.i64_at(AT_PUBLISHED)
    }

    pub(crate) fn heartbeat(&self) -> &AtomicU64 {
        self.u64_at(AT_HEARTBEAT)
    }

    /// The entry that commit `number` is written to.
    pub(crate) fn entry(&self, number: u64) -> Entry<'_> {
        let at = AT_ENTRIES + (number % RING) as usize * ENTRY_SIZE;
        Entry {
            number: self.u64_at(at),
            time: self.u64_at(at + 8),
            max_frame: self.u32_at(at + 16),
            pages: self.u32_at(at + 20),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own mapping; every reference into it borrows self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), SIZE) };
    }
}
