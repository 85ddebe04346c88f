//! What our VFSs have in common: each is the parent's, but for some methods of some files.
//!
//! How a file is shimmed: the parent opens it in the memory that SQLite provides, as always. Then
//! we put a table of methods in place of the parent's: a copy of it (with its version and its
//! missing methods) in which a few entries are ours. Those call the parent's with the very same
//! file object. So whatever is not ours goes straight to the parent, at no cost; every other file
//! is the parent's altogether. (Rejected: a second file object with the parent's inside, and twenty
//! forwarding functions between.)

use crate::abi::{ERROR, File, IOERR, IoMethods, OK, Vfs};
use crate::guard;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

type Open = unsafe extern "C" fn(*mut Vfs, *const c_char, *mut File, c_int, *mut c_int) -> c_int;

/// How SQLite aligns file objects, and we our part behind the parent's.
const FILE_ALIGN: usize = 8;

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
    /// `sqlite3_database_file_object` (SQLite 3.32), for [`crate::gather`] alone.
    pub database_file_object: Option<unsafe extern "C" fn(*const c_char) -> *mut File>,
}

/// One of our VFSs: the parent's, but for some methods of some files.
pub(crate) struct Kind {
    pub(crate) name: &'static CStr,
    /// The size of our part of a file object, and a multiple of its alignment.
    pub(crate) state_size: usize,
    /// Puts our methods in place of the parent's in a file that the parent has opened, in memory of
    /// our `os_file_size`: instance, name (or null), file, flags.
    pub(crate) shim: unsafe fn(&Instance, *const c_char, *mut File, c_int),
}

/// One registered VFS. Lives as long as the process: SQLite keeps pointers to it.
#[repr(C)]
pub(crate) struct Instance {
    /// First: SQLite's pointer to it is a pointer to us.
    vfs: Vfs,
    parent: *mut Vfs,
    kind: &'static Kind,
    /// Where our part of a file object begins, behind the parent's.
    offset: usize,
    pub(crate) host: Host,
}

/// Registers a VFS, also as the default if so wished. A second time it changes nothing but that.
///
/// # Errors
/// SQLite's code.
///
/// # Safety
/// The functions are those of one SQLite library, which stays loaded, as does this code.
pub(crate) unsafe fn register(
    kind: &'static Kind,
    host: Host,
    as_default: bool,
) -> Result<(), c_int> {
    // SAFETY: the caller's promise: these are SQLite's functions, and the name is terminated.
    let present = unsafe { (host.vfs_find)(kind.name.as_ptr()) };
    let vfs = if present.is_null() { make(kind, host)? } else { present };
    // SAFETY: the default VFS, and whatever it points to, lives as long as it is registered.
    let is_default = unsafe { (host.vfs_find)(ptr::null()) } == vfs;
    // SAFETY: a complete VFS that is never freed. (SQLite takes it out of its list first if it is
    // there already.)
    match unsafe { (host.vfs_register)(vfs, c_int::from(as_default || is_default)) } {
        OK => Ok(()),
        code => Err(code),
    }
}

fn make(kind: &'static Kind, host: Host) -> Result<*mut Vfs, c_int> {
    // SAFETY: as in register.
    let parent = unsafe { (host.vfs_find)(ptr::null()) };
    if parent.is_null() {
        return Err(ERROR);
    }
    // SAFETY: a registered VFS.
    let theirs = unsafe { &*parent };
    if theirs.open.is_some_and(|theirs| ptr::fn_addr_eq(theirs, open as Open)) {
        // SAFETY: only ours have this method.
        let default = unsafe { instance(parent) };
        // Another thread was faster, and made it the default. Two of ours are never stacked: each
        // takes the methods of a file for its own.
        return if ptr::eq(default.kind, kind) {
            Ok(parent)
        } else {
            make_over(kind, host, default.parent)
        };
    }
    make_over(kind, host, parent)
}

fn make_over(kind: &'static Kind, host: Host, parent: *mut Vfs) -> Result<*mut Vfs, c_int> {
    // SAFETY: a registered VFS.
    let theirs = unsafe { &*parent };
    let size = usize::try_from(theirs.os_file_size).map_err(|_| ERROR)?;
    let offset = size.next_multiple_of(FILE_ALIGN);
    let os_file_size = c_int::try_from(offset + kind.state_size).map_err(|_| ERROR)?;
    let v2 = theirs.version >= 2;
    let v3 = theirs.version >= 3;
    let vfs = Vfs {
        version: theirs.version.min(3),
        os_file_size,
        pathname_max: theirs.pathname_max,
        next: ptr::null_mut(),
        name: kind.name.as_ptr(),
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
    Ok(Box::into_raw(Box::new(Instance { vfs, parent, kind, offset, host })).cast())
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
    if code == OK {
        // If it panics, the file is simply the parent's.
        // SAFETY: the parent has opened the file; the memory behind its part is ours; name is null
        // or terminated.
        guard((), || unsafe { (instance.kind.shim)(instance, name, file, flags) });
    }
    code
}

impl Instance {
    /// Puts our part behind the parent's, and our methods in place of its own.
    ///
    /// # Safety
    /// `file` was opened by the parent, in memory of our `os_file_size`; a `T` begins with its
    /// methods and is at most as large as the kind says.
    pub(crate) unsafe fn place<T>(&self, file: *mut File, state: T) {
        // SAFETY: our part of the file object, aligned to 8 since SQLite aligns file objects to 8;
        // nobody else uses it.
        unsafe {
            let place = file.cast::<u8>().add(self.offset).cast::<T>();
            if place.is_aligned() {
                place.write(state);
                (*file).methods = place.cast_const().cast();
            }
        }
    }
}

/// Copies the parent's methods; None if the file has none.
///
/// # Safety
/// `file` is open.
pub(crate) unsafe fn methods_of(file: *mut File) -> Option<(*const IoMethods, IoMethods)> {
    // SAFETY: an open file.
    let parent = unsafe { (*file).methods };
    if parent.is_null() {
        return None;
    }
    // SAFETY: an open file's table; every version begins with its number.
    let version = unsafe { (*parent).version };
    // SAFETY: version 1 ends before shm_map, version 2 before fetch: no more is read than there is.
    Some((parent, unsafe { copy_methods(parent, version) }))
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
