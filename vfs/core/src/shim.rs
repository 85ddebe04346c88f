//! The VFS: everything is the parent's, but a commit that becomes visible rings the bell.
//!
//! Arrives: SQLite's calls. Leaves: the same calls to the parent VFS, with the same answers. Owns:
//! the shim never changes what SQLite reads, writes, locks or is told.
//!
//! A commit is visible when the writer gives up the exclusive WAL write lock: docs/design.md
//! section 7. In rollback-journal mode, and in exclusive locking mode, COMMIT_PHASETWO says that
//! there was one, and the next unlock of the file that it is visible.

use crate::abi::{
    FCNTL_COMMIT_PHASETWO, FCNTL_VFSNAME, File, IOERR, IoMethods, LOCK_SHARED, NOMEM, OK,
    OPEN_MAIN_DB, SHM_EXCLUSIVE, SHM_LOCK, SHM_UNLOCK, WAL_WRITE_LOCK,
};
use crate::guard;
use crate::ringer::Ringer;
use crate::vfs::{self, Host, Instance, Kind, methods_of};
use crate::walindex::{self, Header};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// As applications ask for it: `file:app.db?vfs=harmonylite`.
pub const VFS_NAME: &CStr = c"harmonylite";

static KIND: Kind = Kind { name: VFS_NAME, state_size: size_of::<State>(), shim };

/// Registers the VFS, also as the default if so wished. A second time it changes nothing but that.
///
/// # Errors
/// SQLite's code.
///
/// # Safety
/// The functions are those of one SQLite library, which stays loaded, as does this code.
pub unsafe fn register(host: Host, as_default: bool) -> Result<(), c_int> {
    // SAFETY: the caller's promise.
    unsafe { vfs::register(&KIND, host, as_default) }
}

/// Our part of a main database's file object.
#[repr(C)]
struct State {
    /// First: the file's pointer to its methods is a pointer to us.
    methods: IoMethods,
    parent: *const IoMethods,
    host: Host,
    /// The first region of the wal-index, while it is mapped.
    index: *const u32,
    /// What it said when we took the write lock.
    before: Option<Header>,
    /// This transaction was rung at the write lock.
    rung: bool,
    /// Committed, but still locked.
    pending: bool,
    ringer: Ringer,
}

/// Puts our methods in place of the parent's in a main database.
///
/// # Safety
/// As [`Kind::shim`].
unsafe fn shim(instance: &Instance, name: *const c_char, file: *mut File, flags: c_int) {
    if flags & OPEN_MAIN_DB == 0 || name.is_null() {
        return;
    }
    // SAFETY: an open file.
    let Some((parent, methods)) = (unsafe { methods_of(file) }) else { return };
    // SAFETY: SQLite's own argument, a terminated string.
    let ringer = Ringer::new(unsafe { CStr::from_ptr(name) });
    let methods = IoMethods {
        close: Some(close),
        unlock: methods.unlock.and(Some(unlock)),
        file_control: methods.file_control.and(Some(file_control)),
        shm_map: methods.shm_map.and(Some(shm_map)),
        shm_lock: methods.shm_lock.and(Some(shm_lock)),
        shm_unmap: methods.shm_unmap.and(Some(shm_unmap)),
        ..methods
    };
    let state = State {
        methods,
        parent,
        host: instance.host,
        index: ptr::null(),
        before: None,
        rung: false,
        pending: false,
        ringer,
    };
    // SAFETY: the caller's promise; a State begins with its methods.
    unsafe { instance.place(file, state) };
}

/// # Safety
/// `file` is one whose methods are ours.
unsafe fn state<'a>(file: *mut File) -> &'a mut State {
    // SAFETY: its methods are the first field of our State. SQLite uses a file from one thread at a
    // time.
    unsafe { &mut *(*file).methods.cast_mut().cast::<State>() }
}

unsafe extern "C" fn close(file: *mut File) -> c_int {
    // SAFETY: ours; and never used again as such: the state is moved out, the methods are the
    // parent's.
    let mut state = unsafe {
        let state = ptr::read((*file).methods.cast::<State>());
        (*file).methods = state.parent;
        state
    };
    // SAFETY: the parent's own table and file.
    let code = unsafe { (*state.parent).close.map_or(IOERR, |close| close(file)) };
    guard((), move || {
        if state.pending {
            state.ringer.ring(0, 0);
        }
    });
    code
}

unsafe extern "C" fn unlock(file: *mut File, level: c_int) -> c_int {
    // SAFETY: ours.
    let state = unsafe { state(file) };
    // SAFETY: the parent's own table and file.
    let code = unsafe { (*state.parent).unlock.map_or(IOERR, |unlock| unlock(file, level)) };
    if state.pending && level <= LOCK_SHARED {
        state.pending = false;
        guard((), || state.ringer.ring(0, 0));
    }
    code
}

unsafe extern "C" fn shm_map(
    file: *mut File,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: ours.
    let state = unsafe { state(file) };
    // SAFETY: the parent's own table and file, SQLite's arguments.
    let code = unsafe {
        (*state.parent).shm_map.map_or(IOERR, |map| map(file, region, size, extend, out))
    };
    if code == OK && region == 0 && !out.is_null() {
        // SAFETY: filled by the parent: null, or the region, which stays until shm_unmap.
        state.index = unsafe { *out }.cast_const().cast();
    }
    code
}

unsafe extern "C" fn shm_unmap(file: *mut File, delete: c_int) -> c_int {
    // SAFETY: ours.
    let state = unsafe { state(file) };
    state.index = ptr::null();
    state.before = None;
    // SAFETY: the parent's own table and file.
    unsafe { (*state.parent).shm_unmap.map_or(IOERR, |unmap| unmap(file, delete)) }
}

unsafe extern "C" fn shm_lock(file: *mut File, slot: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: ours.
    let state = unsafe { state(file) };
    // SAFETY: the parent's own table and file.
    let pass = |parent: *const IoMethods| unsafe {
        (*parent).shm_lock.map_or(IOERR, |lock| lock(file, slot, count, flags))
    };
    if slot != WAL_WRITE_LOCK || flags & SHM_EXCLUSIVE == 0 {
        return pass(state.parent);
    }
    if flags & SHM_LOCK != 0 {
        let code = pass(state.parent);
        if code == OK {
            state.before = state.header();
        }
        return code;
    }
    // Read while we still hold the lock: afterwards it may be the next writer's.
    let after = state.header();
    let code = pass(state.parent);
    if code == OK && flags & SHM_UNLOCK != 0 {
        // No header before: a wal-index just made. There is news in it only if a WAL was recovered.
        let before = state.before.take().unwrap_or_default();
        if let Some(after) = after.filter(|after| after.committed_since(&before)) {
            state.rung = true;
            guard((), || state.ringer.ring(after.max_frame, after.frames_since(&before)));
        }
    }
    code
}

impl State {
    /// What the wal-index says. Under the write lock only.
    fn header(&self) -> Option<Header> {
        // SAFETY: the region is mapped until shm_unmap, which forgets it; the caller holds the
        // write lock.
        (!self.index.is_null()).then(|| unsafe { walindex::read_locked(self.index) })
    }
}

unsafe extern "C" fn file_control(file: *mut File, op: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: ours.
    let state = unsafe { state(file) };
    if op == FCNTL_COMMIT_PHASETWO {
        // Comes after the write lock was given up, if there is one to give up.
        state.pending |= !state.rung;
        state.rung = false;
    }
    let host = state.host;
    // SAFETY: the parent's own table and file, SQLite's arguments. It may put its own methods in
    // place of ours.
    let code =
        unsafe { (*state.parent).file_control.map_or(IOERR, |control| control(file, op, arg)) };
    if op == FCNTL_VFSNAME && code == OK && !arg.is_null() {
        // SAFETY: the argument of this control is a pointer to a string of sqlite3_malloc's.
        guard(code, || unsafe { name_the_stack(&host, arg.cast()) })
    } else {
        code
    }
}

/// `unix` becomes `harmonylite/unix`, the custom of shims.
///
/// # Safety
/// `name` points to null or to a string from the host's malloc.
unsafe fn name_the_stack(host: &Host, name: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    let theirs = unsafe { *name };
    let mut text = VFS_NAME.to_bytes().to_vec();
    if !theirs.is_null() {
        text.push(b'/');
        // SAFETY: a terminated string.
        text.extend_from_slice(unsafe { CStr::from_ptr(theirs) }.to_bytes());
    }
    text.push(0);
    let Ok(size) = c_int::try_from(text.len()) else { return OK };
    // SAFETY: sqlite3_malloc; the copy is as long as what was asked for; theirs is freed once, and
    // replaced.
    unsafe {
        let ours = (host.malloc)(size).cast::<u8>();
        if ours.is_null() {
            return NOMEM;
        }
        ptr::copy_nonoverlapping(text.as_ptr(), ours, text.len());
        (host.free)(theirs.cast());
        *name = ours.cast();
    }
    OK
}
