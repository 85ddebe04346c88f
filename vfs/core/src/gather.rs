//! The VFS of the sidecar's writing connection: it writes the frames of a WAL in runs.
//!
//! Arrives: SQLite's writes to the WAL, 24 bytes and a page for each frame. Leaves: the same bytes
//! to the parent VFS, up to 64 KiB in one write. Owns: that nobody sees the difference. (A write
//! costs the kernel nearly as much for 24 bytes as for a page. Gathering them made the time for
//! which a peer holds the write lock a seventh shorter, docs/performance.md.)
//!
//! Why nobody sees it: other connections read a WAL up to the last frame that the wal-index names,
//! and SQLite names frames there after it wrote the commit frame, the last one of a transaction.
//!
//! - With the page of a commit frame everything gathered is written before the method returns, so
//!   with its error, and SQLite rolls back.
//! - If an earlier write fails, SQLite takes for written what is lost. So nothing of this
//!   transaction is written any more, and what is lost cannot be read: it can only roll back.
//! - What SQLite reads back of the gathered bytes, sizes, syncs and truncations wait until they are
//!   written.
//! - What is still gathered when the write lock is given up is of a transaction that was rolled
//!   back. It is dropped: a moment later another process may write there.
//! - Bytes that do not follow the last ones go to the parent at once.
//!
//! The database itself is never gathered: a checkpoint that stops halfway (a reader needs the
//! frames behind) names the pages that it has written without a call of the VFS in between.

use crate::abi::{File, IOERR, IoMethods, OK, OPEN_MAIN_DB, OPEN_WAL, SHM_UNLOCK, WAL_WRITE_LOCK};
use crate::vfs::{self, Host, Instance, Kind, methods_of};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// The name of the VFS.
pub const GATHERING_VFS_NAME: &CStr = c"harmonylite-gathering";

/// The most bytes that are gathered: a page of the largest size, or 15 frames of the usual one.
const GATHERED_MAX: usize = 64 << 10;

/// The header of a frame. Its second number is the size of the database in a commit frame, and 0 in
/// all others (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
const FRAME_HEADER: usize = 24;

static KIND: Kind = Kind {
    name: GATHERING_VFS_NAME,
    state_size: if size_of::<Main>() > size_of::<Wal>() {
        size_of::<Main>()
    } else {
        size_of::<Wal>()
    },
    shim,
};

/// Our part of a main database's file object.
#[repr(C)]
struct Main {
    /// First: the file's pointer to its methods is a pointer to us.
    methods: IoMethods,
    parent: *const IoMethods,
    /// Its open WAL, or null.
    wal: *mut File,
}

/// Our part of a WAL's file object.
#[repr(C)]
struct Wal {
    /// First, as above.
    methods: IoMethods,
    parent: *const IoMethods,
    /// Its database, or null once that is closed.
    main: *mut File,
    /// Bytes that are not written yet.
    gathered: Vec<u8>,
    /// Where they belong in the file.
    start: i64,
    /// Behind the last bytes that SQLite wrote.
    next: i64,
    /// These were the header of a commit frame.
    commits: bool,
    /// What could not be written of this transaction.
    lost: Option<Lost>,
}

/// Bytes of a WAL that SQLite takes for written.
#[derive(Clone, Copy)]
struct Lost {
    from: i64,
    to: i64,
    /// The parent's answer.
    code: c_int,
}

/// Registers the VFS. A second time it changes nothing.
///
/// # Errors
/// SQLite's code.
///
/// # Safety
/// As [`crate::register`].
pub unsafe fn register(host: Host) -> Result<(), c_int> {
    // SAFETY: the caller's promise.
    unsafe { vfs::register(&KIND, host, false) }
}

/// # Safety
/// As [`Kind::shim`].
unsafe fn shim(instance: &Instance, name: *const c_char, file: *mut File, flags: c_int) {
    // SAFETY: an open file.
    let Some((parent, methods)) = (unsafe { methods_of(file) }) else { return };
    if flags & OPEN_MAIN_DB != 0 {
        let methods = IoMethods {
            close: Some(close_main),
            shm_lock: methods.shm_lock.and(Some(shm_lock)),
            shm_barrier: methods.shm_barrier.and(Some(shm_barrier)),
            ..methods
        };
        // SAFETY: the caller's promise; a Main begins with its methods.
        unsafe { instance.place(file, Main { methods, parent, wal: ptr::null_mut() }) };
    } else if flags & OPEN_WAL != 0
        && !name.is_null()
        && let Some(database_file_object) = instance.host.database_file_object
    {
        // SAFETY: the name that SQLite opens a WAL with belongs to its database.
        let main = unsafe { database_file_object(name) };
        // SAFETY: null, or an open file.
        let Some(of_main) = (unsafe { main_of(main) }) else { return };
        of_main.wal = file;
        let methods = IoMethods {
            close: Some(close_wal),
            read: Some(read),
            write: Some(write),
            truncate: Some(truncate),
            sync: Some(sync),
            file_size: Some(file_size),
            ..methods
        };
        let gathered = Vec::new();
        let (start, next, commits, lost) = (0, 0, false, None);
        let wal = Wal { methods, parent, main, gathered, start, next, commits, lost };
        // SAFETY: the caller's promise; a Wal begins with its methods.
        unsafe { instance.place(file, wal) };
    }
}

type Close = unsafe extern "C" fn(*mut File) -> c_int;

/// Our part of a file object, if it has one with this method.
///
/// # Safety
/// `file` is null or open, and used by this thread alone. Only a `T` has this method, and it begins
/// with its methods.
unsafe fn state_of<'a, T>(file: *mut File, close: Close) -> Option<&'a mut T> {
    // SAFETY: null, or an open file.
    let methods = unsafe { file.as_ref() }?.methods;
    // SAFETY: null, or an open file's table.
    let theirs = unsafe { methods.as_ref() }?.close?;
    // SAFETY: the caller's promise.
    ptr::fn_addr_eq(theirs, close).then(|| unsafe { &mut *methods.cast_mut().cast::<T>() })
}

/// # Safety
/// `file` is null or open, and used by this thread alone.
unsafe fn main_of<'a>(file: *mut File) -> Option<&'a mut Main> {
    // SAFETY: the caller's promise; only a Main is closed by this.
    unsafe { state_of(file, close_main) }
}

/// # Safety
/// `file` is null or open, and used by this thread alone.
unsafe fn wal_of<'a>(file: *mut File) -> Option<&'a mut Wal> {
    // SAFETY: the caller's promise; only a Wal is closed by this.
    unsafe { state_of(file, close_wal) }
}

impl Wal {
    /// Writes what is gathered.
    ///
    /// # Safety
    /// `file` is this WAL's.
    unsafe fn flush(&mut self, file: *mut File) -> c_int {
        if let Some(lost) = self.lost {
            return lost.code;
        }
        if self.gathered.is_empty() {
            return OK;
        }
        let size = c_int::try_from(self.gathered.len()).unwrap_or(0); // at most GATHERED_MAX
        let bytes = self.gathered.as_ptr().cast();
        // SAFETY: the parent's own table and file; so many bytes are there.
        let code = unsafe {
            (*self.parent).write.map_or(IOERR, |write| write(file, bytes, size, self.start))
        };
        if code != OK {
            self.lost = Some(Lost { from: self.start, to: self.end(), code });
        }
        self.gathered.clear();
        code
    }

    /// Forgets what belongs to a transaction that was rolled back.
    fn drop_gathered(&mut self) {
        self.gathered.clear();
        self.lost = None;
    }

    /// Behind what is gathered.
    fn end(&self) -> i64 {
        self.start.saturating_add_unsigned(self.gathered.len() as u64)
    }

    /// Takes bytes that follow the last ones. False if there is no memory for them.
    fn gather(&mut self, bytes: &[u8], at: i64) -> bool {
        if self.gathered.capacity() < GATHERED_MAX
            && self.gathered.try_reserve_exact(GATHERED_MAX - self.gathered.len()).is_err()
        {
            return false;
        }
        if self.gathered.is_empty() {
            self.start = at;
        }
        self.gathered.extend_from_slice(bytes);
        true
    }

    /// Whether so many bytes from there on are gathered or lost, or some of them.
    fn has(&self, size: c_int, at: i64) -> bool {
        let (from, to) = self.lost.map_or((self.start, self.end()), |lost| (lost.from, lost.to));
        at < to && at.saturating_add(i64::from(size)) > from
    }
}

/// Whether these bytes are the header of a commit frame.
fn is_commit_header(bytes: &[u8]) -> bool {
    bytes.len() == FRAME_HEADER && bytes.get(4..8).is_some_and(|pages| pages != [0; 4])
}

unsafe extern "C" fn write(file: *mut File, data: *const c_void, size: c_int, at: i64) -> c_int {
    // SAFETY: the file whose method this is.
    let Some(wal) = (unsafe { wal_of(file) }) else { return IOERR };
    let len = usize::try_from(size).unwrap_or(0);
    // SAFETY: SQLite's own arguments.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
    let follows = at == wal.next && len <= GATHERED_MAX;
    if !follows || wal.gathered.len() + len > GATHERED_MAX || wal.lost.is_some() {
        // SAFETY: its own file.
        let code = unsafe { wal.flush(file) };
        if code != OK {
            return code;
        }
    }
    wal.next = at.saturating_add(i64::from(size));
    let ends = std::mem::replace(&mut wal.commits, is_commit_header(bytes));
    if !follows || !wal.gather(bytes, at) {
        // SAFETY: the parent's own table and file, SQLite's arguments.
        return unsafe { (*wal.parent).write.map_or(IOERR, |write| write(file, data, size, at)) };
    }
    // SAFETY: its own file.
    if ends { unsafe { wal.flush(file) } } else { OK }
}

unsafe extern "C" fn read(file: *mut File, data: *mut c_void, size: c_int, at: i64) -> c_int {
    // SAFETY: the file whose method this is.
    let Some(wal) = (unsafe { wal_of(file) }) else { return IOERR };
    if wal.has(size, at) {
        // SAFETY: its own file.
        let code = unsafe { wal.flush(file) };
        if code != OK {
            return code;
        }
    }
    // SAFETY: the parent's own table and file, SQLite's arguments.
    unsafe { (*wal.parent).read.map_or(IOERR, |read| read(file, data, size, at)) }
}

/// A method that the parent answers once everything is written.
macro_rules! after_flush {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        unsafe extern "C" fn $name(file: *mut File $(, $arg: $type)*) -> c_int {
            // SAFETY: the file whose method this is.
            let Some(wal) = (unsafe { wal_of(file) }) else { return IOERR };
            // SAFETY: its own file; the parent's own table and file, SQLite's arguments.
            unsafe {
                match wal.flush(file) {
                    OK => (*wal.parent).$name.map_or(IOERR, |method| method(file $(, $arg)*)),
                    code => code,
                }
            }
        }
    )*};
}

after_flush! {
    truncate(size: i64);
    sync(flags: c_int);
    file_size(out: *mut i64);
}

unsafe extern "C" fn close_wal(file: *mut File) -> c_int {
    // SAFETY: ours; and never used again as such: the state is moved out, the methods are the
    // parent's. What is still gathered is of no transaction that was committed.
    let wal = unsafe {
        let wal = ptr::read((*file).methods.cast::<Wal>());
        (*file).methods = wal.parent;
        wal
    };
    // SAFETY: null, or the database, which is still open.
    if let Some(main) = unsafe { main_of(wal.main) } {
        main.wal = ptr::null_mut();
    }
    // SAFETY: the parent's own table and file.
    unsafe { (*wal.parent).close.map_or(IOERR, |close| close(file)) }
}

unsafe extern "C" fn close_main(file: *mut File) -> c_int {
    // SAFETY: as in close_wal.
    let main = unsafe {
        let main = ptr::read((*file).methods.cast::<Main>());
        (*file).methods = main.parent;
        main
    };
    // SAFETY: null, or the WAL, which is still open.
    if let Some(wal) = unsafe { wal_of(main.wal) } {
        wal.main = ptr::null_mut();
    }
    // SAFETY: the parent's own table and file.
    unsafe { (*main.parent).close.map_or(IOERR, |close| close(file)) }
}

unsafe extern "C" fn shm_lock(file: *mut File, slot: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: the file whose method this is.
    let Some(main) = (unsafe { main_of(file) }) else { return IOERR };
    if slot == WAL_WRITE_LOCK && flags & SHM_UNLOCK != 0 {
        // While we still hold the lock. Nothing is left of a transaction that was committed.
        // SAFETY: null, or the open WAL.
        if let Some(wal) = unsafe { wal_of(main.wal) } {
            wal.drop_gathered();
        }
    }
    // SAFETY: the parent's own table and file, SQLite's arguments.
    unsafe { (*main.parent).shm_lock.map_or(IOERR, |lock| lock(file, slot, count, flags)) }
}

/// SQLite calls this before it names frames to others. All are written by then, unless a later
/// SQLite writes them in another order. A process that ends here has not committed.
unsafe extern "C" fn shm_barrier(file: *mut File) {
    // SAFETY: the file whose method this is.
    let Some(main) = (unsafe { main_of(file) }) else { return };
    // SAFETY: null, or the open WAL.
    if let Some(wal) = unsafe { wal_of(main.wal) } {
        // SAFETY: its own file.
        if !wal.gathered.is_empty() && unsafe { wal.flush(main.wal) } != OK {
            std::process::abort();
        }
    }
    // SAFETY: the parent's own table and file.
    unsafe {
        if let Some(barrier) = (*main.parent).shm_barrier {
            barrier(file);
        }
    }
}
