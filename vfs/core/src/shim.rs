//! The VFS: everything is the parent's, but a commit that becomes visible rings the bell.
//!
//! Arrives: SQLite's calls. Leaves: the same calls to the parent VFS, with the same answers. Owns:
//! the shim never changes what SQLite reads, writes, locks or is told.
//!
//! How a file is shimmed: the parent opens it in the memory that SQLite provides, as always. For a
//! main database we then put a table of methods in place of the parent's: a copy of it (with its
//! version and its missing methods) in which six entries are ours. Those call the parent's with the
//! very same file object. So reads, writes, syncs, locks, the wal-index and memory-mapped pages go
//! straight to the parent, at no cost; every other file is the parent's altogether. (Rejected: a
//! second file object with the parent's inside, and twenty forwarding functions between.)
//!
//! A commit is visible when the writer gives up the exclusive WAL write lock: docs/design.md
//! section 7. In rollback-journal mode, and in exclusive locking mode, COMMIT_PHASETWO says that
//! there was one, and the next unlock of the file that it is visible.

use crate::abi::{
    ERROR, FCNTL_COMMIT_PHASETWO, FCNTL_VFSNAME, File, IOERR, IoMethods, LOCK_SHARED, NOMEM, OK,
    OPEN_MAIN_DB, SHM_EXCLUSIVE, SHM_LOCK, SHM_UNLOCK, Vfs,
};
use crate::guard;
use crate::ringer::Ringer;
use crate::walindex::{self, Header};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// As applications ask for it: `file:app.db?vfs=harmonylite`.
pub const VFS_NAME: &CStr = c"harmonylite";

/// The slot of the WAL write lock (`WAL_WRITE_LOCK`).
const WRITE_LOCK: c_int = 0;

/// What is called of the SQLite library that the VFS is registered in.
#[derive(Clone, Copy)]
pub struct Host {
    /// `sqlite3_vfs_find`
    pub vfs_find: unsafe extern "C" fn(*const c_char) -> *mut Vfs,
    /// `sqlite3_vfs_register`
    pub vfs_register: unsafe extern "C" fn(*mut Vfs, c_int) -> c_int,
    /// `sqlite3_malloc`
    pub malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    /// `sqlite3_free`
    pub free: unsafe extern "C" fn(*mut c_void),
}

/// One registered VFS. Lives as long as the process: SQLite keeps pointers to it.
#[repr(C)]
struct Instance {
    /// First: SQLite's pointer to it is a pointer to us.
    vfs: Vfs,
    parent: *mut Vfs,
    /// Where our part of a file object begins, behind the parent's.
    offset: usize,
    host: Host,
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

/// Registers the VFS, also as the default if so wished. A second time it changes nothing but that.
///
/// # Errors
/// SQLite's code.
///
/// # Safety
/// The functions are those of one SQLite library, which stays loaded, as does this code.
pub unsafe fn register(host: Host, as_default: bool) -> Result<(), c_int> {
    // SAFETY: the caller's promise: these are SQLite's functions, and the name is terminated.
    let present = unsafe { (host.vfs_find)(VFS_NAME.as_ptr()) };
    let vfs = if present.is_null() { make(host)? } else { present };
    // SAFETY: the default VFS, and whatever it points to, lives as long as it is registered.
    let is_default = unsafe { (host.vfs_find)(ptr::null()) } == vfs;
    // SAFETY: a complete VFS that is never freed. (SQLite takes it out of its list first if it is
    // there already.)
    match unsafe { (host.vfs_register)(vfs, c_int::from(as_default || is_default)) } {
        OK => Ok(()),
        code => Err(code),
    }
}

fn make(host: Host) -> Result<*mut Vfs, c_int> {
    // SAFETY: as in register.
    let parent = unsafe { (host.vfs_find)(ptr::null()) };
    if parent.is_null() {
        return Err(ERROR);
    }
    // SAFETY: a registered VFS.
    let theirs = unsafe { &*parent };
    let name = theirs.name;
    // SAFETY: a VFS's name is a terminated string.
    if !name.is_null() && unsafe { CStr::from_ptr(name) } == VFS_NAME {
        return Ok(parent); // another thread was faster, and made it the default
    }
    let size = usize::try_from(theirs.os_file_size).map_err(|_| ERROR)?;
    let offset = size.next_multiple_of(align_of::<State>());
    let os_file_size = c_int::try_from(offset + size_of::<State>()).map_err(|_| ERROR)?;
    let v2 = theirs.version >= 2;
    let v3 = theirs.version >= 3;
    let vfs = Vfs {
        version: theirs.version.min(3),
        os_file_size,
        pathname_max: theirs.pathname_max,
        next: ptr::null_mut(),
        name: VFS_NAME.as_ptr(),
        app_data: ptr::null_mut(),
        open: Some(open),
        // A method that the parent lacks is lacking here: SQLite asks for it by null.
        delete: theirs.delete.and(Some(delete)),
        access: theirs.access.and(Some(access)),
        full_pathname: theirs.full_pathname.and(Some(full_pathname)),
        dl_open: theirs.dl_open.and(Some(dl_open)),
        dl_error: theirs.dl_error.and(Some(dl_error)),
        dl_sym: theirs.dl_sym.and(Some(dl_sym)),
        dl_close: theirs.dl_close.and(Some(dl_close)),
        randomness: theirs.randomness.and(Some(randomness)),
        sleep: theirs.sleep.and(Some(sleep)),
        current_time: theirs.current_time.and(Some(current_time)),
        get_last_error: theirs.get_last_error.and(Some(get_last_error)),
        current_time_int64: if v2 {
            theirs.current_time_int64.and(Some(current_time_int64))
        } else {
            None
        },
        set_system_call: if v3 { theirs.set_system_call.and(Some(set_system_call)) } else { None },
        get_system_call: if v3 { theirs.get_system_call.and(Some(get_system_call)) } else { None },
        next_system_call: if v3 {
            theirs.next_system_call.and(Some(next_system_call))
        } else {
            None
        },
    };
    Ok(Box::into_raw(Box::new(Instance { vfs, parent, offset, host })).cast())
}

/// # Safety
/// `vfs` is one that [`make`] made.
unsafe fn instance<'a>(vfs: *mut Vfs) -> &'a Instance {
    // SAFETY: it is an Instance, never freed and, but for SQLite's own `next` pointer, never
    // written.
    unsafe { &*vfs.cast::<Instance>() }
}

unsafe extern "C" fn open(
    vfs: *mut Vfs,
    name: *const c_char,
    file: *mut File,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls the method of a VFS with that VFS.
    let instance = unsafe { instance(vfs) };
    // SAFETY: the parent lives as long as SQLite; the file memory is at least as large as the
    // parent wants.
    let code = match unsafe { (*instance.parent).open } {
        // SAFETY: SQLite's own arguments.
        Some(open) => unsafe { open(instance.parent, name, file, flags, out) },
        None => ERROR,
    };
    if code == OK && flags & OPEN_MAIN_DB != 0 && !name.is_null() {
        // If it panics, the file is simply the parent's.
        // SAFETY: the parent has opened the file; the memory behind its part is ours; name is
        // terminated.
        guard((), || unsafe { shim(instance, CStr::from_ptr(name), file) });
    }
    code
}

/// Puts our methods in place of the parent's.
///
/// # Safety
/// `file` was opened by the parent, in memory of our `os_file_size`.
unsafe fn shim(instance: &Instance, name: &CStr, file: *mut File) {
    // SAFETY: an open file.
    let parent = unsafe { (*file).methods };
    if parent.is_null() {
        return;
    }
    let version = {
        // SAFETY: an open file's table; every version begins with its number.
        unsafe { (*parent).version }
    };
    // SAFETY: version 1 ends before shm_map, version 2 before fetch: no more is read than there is.
    let methods = unsafe { copy_methods(parent, version) };
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
        ringer: Ringer::new(name),
    };
    // SAFETY: our part of the file object, aligned to 8 since SQLite aligns file objects to 8;
    // nobody else uses it.
    unsafe {
        let place = file.cast::<u8>().add(instance.offset).cast::<State>();
        if !place.is_aligned() {
            return;
        }
        place.write(state);
        (*file).methods = &raw const (*place).methods;
    }
}

/// # Safety
/// `from` is a table of that version.
unsafe fn copy_methods(from: *const IoMethods, version: c_int) -> IoMethods {
    let end = match version {
        ..=1 => std::mem::offset_of!(IoMethods, shm_map),
        2 => std::mem::offset_of!(IoMethods, fetch),
        3.. => size_of::<IoMethods>(),
    };
    // SAFETY: all zero is a valid table: no methods.
    let mut methods: IoMethods = unsafe { std::mem::zeroed() };
    // SAFETY: a table of that version is so long; both are tables of pointers.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut methods).cast::<u8>(), end) };
    // A later version may have methods that we cannot copy: it is one of version 3 then.
    methods.version = version.min(3);
    methods
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
    if slot != WRITE_LOCK || flags & SHM_EXCLUSIVE == 0 {
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

/// A method of the VFS that is only passed on.
macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty = $otherwise:expr;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut Vfs $(, $arg: $type)*) -> $answer {
            // SAFETY: SQLite calls the method of a VFS with that VFS; the parent lives as long;
            // SQLite's own arguments.
            unsafe {
                let parent = instance(vfs).parent;
                (*parent).$name.map_or($otherwise, |method| method(parent $(, $arg)*))
            }
        }
    )*};
}

forward! {
    delete(name: *const c_char, sync: c_int) -> c_int = IOERR;
    access(name: *const c_char, flags: c_int, out: *mut c_int) -> c_int = IOERR;
    full_pathname(name: *const c_char, size: c_int, out: *mut c_char) -> c_int = IOERR;
    dl_open(name: *const c_char) -> *mut c_void = ptr::null_mut();
    dl_error(size: c_int, out: *mut c_char) -> () = ();
    dl_sym(library: *mut c_void, symbol: *const c_char) -> crate::abi::AnyFn = None;
    dl_close(library: *mut c_void) -> () = ();
    randomness(size: c_int, out: *mut c_char) -> c_int = 0;
    sleep(microseconds: c_int) -> c_int = 0;
    current_time(out: *mut f64) -> c_int = ERROR;
    get_last_error(size: c_int, out: *mut c_char) -> c_int = 0;
    current_time_int64(out: *mut i64) -> c_int = ERROR;
    set_system_call(name: *const c_char, call: crate::abi::AnyFn) -> c_int = ERROR;
    get_system_call(name: *const c_char) -> crate::abi::AnyFn = None;
    next_system_call(name: *const c_char) -> *const c_char = ptr::null();
}
